"""The folder on the disk where compiled kernels are kept: where it is, who may write to it, and who compiles what.

It is `$FASTBP_CACHE_DIR` or the platform's cache folder, and in it a sub-folder named by a hash of every kernel source file and the
versions of Numba, llvmlite, NumPy and Python. Numba's own cache looks only at the file that holds the function, so an edit to a
kernel that is called from another file would leave stale machine code in use; here any edit leads to another folder. Kernels in
another room of the package may use what stands in their own room too, so a digest of that room is part of their files' names.

What is in there is run, so nobody else may have written it: the two folders and the files belong to the user, no other can write to
them, and none can put others in their place by a folder or link on the way. Group-writable is writable by others, but for a group
of the user's own (as with umask 002). A folder that can't be trusted is not used, and a warning says why. Each file begins with a
digest of its content and its name; a file that is damaged, or another's, counts as not there.
"""

import errno
import functools
import hashlib
import os
import shutil
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba
import numpy as np

from ..files import written_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

KERNEL_FOLDER = Path(__file__).parent
FOLDER_PREFIX = "fastbp-kernels-"
FOLDERS_KEPT = 8
# -- one folder an edit or upgrade; older ones are removed when a new one is made
DIGEST = hashlib.sha256().digest_size  # bytes
LINKS = 40  # on the way to a folder, at most: as many as Linux follows
PATIENCE = 100.0  # seconds after which another process is not waited for any more: it may have been stopped
LOOKS = (0.01, 0.05)  # seconds between two looks at what another process does, at first and later


@functools.cache
def _source_hash(folder: Path) -> str | None:
    """A digest of all sources below a folder; None where they can't be read, as in a zip file: then nobody could tell a kernel from
    its older version. Taken when the code that will be compiled is read, not when it is compiled: a file may change in between."""
    sources = sorted(folder.rglob("*.py"))
    if not sources:
        return None
    digest = hashlib.sha256()
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    for version in (*versions, str(__debug__)):  # asserts are code
        digest.update(version.encode() + b"\0")
    for path in sources:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


SOURCE_HASH = _source_hash(KERNEL_FOLDER)
FOLDER = f"{FOLDER_PREFIX}{SOURCE_HASH}"


class Room(NamedTuple):
    """Where a kernel stands: its module's name in the cache, and a digest of what it may use beside `kernels/`, "" for nothing."""

    module: str
    source_hash: str


def room_of(source: Path) -> Room | None:
    """The room of a kernel in this source file; None for a file of which the cache knows too little to keep its kernels."""
    if source.is_relative_to(KERNEL_FOLDER):
        return Room(".".join(source.relative_to(KERNEL_FOLDER).with_suffix("").parts), "")
    package = KERNEL_FOLDER.parent
    if not source.is_relative_to(package) or source.parent == package:
        return None
    inside = source.relative_to(package)
    source_hash = _source_hash(package / inside.parts[0])
    return source_hash and Room(".".join(inside.with_suffix("").parts), source_hash)


# -- the folder ----------------------------------------------------------------------------------------------------------


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this version's compiled kernels, made if need be; None where there can be none."""
    dangers, folder = [], None
    try:
        for root in _roots() if SOURCE_HASH else ():
            try:
                folder = _own_folder(root / FOLDER)
                break
            except _Unsafe as error:
                dangers.append(f"{root}: {error}")
    except OSError:  # it can't be made: the user may want that
        pass
    if dangers:
        instead = f"they are kept in {folder.parent}" if folder else "they are not kept, but compiled in each process"
        warnings.warn(
            f"compiled kernels are not kept in {'; nor in '.join(dangers)}. Now {instead}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return folder


def _roots() -> Iterator[Path]:
    """Where the folder may be: first where the user wants it, then where the platform does."""
    wanted = os.environ.get("FASTBP_CACHE_DIR", "")
    if wanted.strip():
        path = os.path.expanduser(wanted)
        if path.startswith("~"):  # nobody of that name
            return
        yield Path(path).absolute()
    import platformdirs

    try:
        path = os.path.join(platformdirs.user_cache_dir("fastbp", appauthor=False), "kernels")
    except RuntimeError:  # no home directory, and a user whom the system does not know
        return
    if os.path.isabs(path):  # else no home directory: '~' was left as it is
        yield Path(path)


class _Unsafe(Exception):
    """Others could write to a folder, or put another in its place."""


def _own_folder(path: Path) -> Path:
    """`path` itself, with all that is missing on the way to it made for the user alone; _Unsafe if others could meddle with it."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's
        new = not path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
    else:
        new = _walk(path)
    if new:
        _remove_old(path)
    return path


def _walk(path: Path) -> bool:
    """Go to `path` from the root, looking at each folder and link on the way; was it made?

    Each must belong to the user or the system, and others must not be able to write to it, unless they can only add to it (as in
    /tmp). The last two folders, which hold nothing but kernels, must be the user's and closed to others."""
    place, todo, links, new = Path(path.anchor), list(path.parts[1:]), 0, False
    while todo:
        own = len(todo) <= 2
        _look(place, os.lstat(place), own=False)
        place = place.parent if todo[0] == ".." else place / todo[0]
        del todo[0]
        try:
            about = os.lstat(place)
        except FileNotFoundError:
            try:
                os.mkdir(place, 0o700)
                new = not todo
            except FileExistsError:  # another process was faster
                pass
            about = os.lstat(place)
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if links > LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if about.st_uid not in _system_and_user():
                raise _Unsafe(f"{place} is a link of {_user(about.st_uid)}")
            target = Path(os.readlink(place))
            todo[:0] = target.parts[1:] if target.is_absolute() else target.parts
            place = Path(target.anchor) if target.is_absolute() else place.parent
        elif own:
            _look(place, about, own=True)
    return new


def _look(folder: Path, about: os.stat_result, own: bool) -> None:
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if about.st_uid not in ({os.geteuid()} if own else _system_and_user()):
        raise _Unsafe(f"{folder} belongs to {_user(about.st_uid)}")
    if _writable_by_others(about) and (own or not about.st_mode & stat.S_ISVTX):
        raise _Unsafe(f"others can write to {folder} (mode {stat.S_IMODE(about.st_mode):o})")


def _writable_by_others(about: os.stat_result) -> bool:
    return bool(about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and not _private(about.st_gid)))


@functools.cache
def _private(group: int) -> bool:
    """Is this the user's own group, with nobody else in it?"""
    import grp
    import pwd

    try:
        user, about = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    if user.pw_gid != group or set(about.gr_mem) - {user.pw_name}:
        return False
    return about.gr_name == user.pw_name or all(other.pw_gid != group or other == user for other in pwd.getpwall())


@functools.cache
def _system_and_user() -> set[int]:
    """Whose folders can be on the way. In a user namespace that does not know root, as in a container on a cluster, root's folders
    seem to belong to the kernel's number for everybody unknown."""
    users = {0, os.geteuid()}
    try:
        mapped = Path("/proc/self/uid_map").read_text().split()
        if mapped != ["0", "0", str(2**32 - 1)]:
            users.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    except (OSError, ValueError):
        pass
    return users


def _user(number: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user {number}"


def _remove_old(new: Path) -> None:
    """Keep the newest folders beside `new`. A process that is using a removed one compiles again."""
    times = {}
    for folder in new.parent.glob(f"{FOLDER_PREFIX}*"):
        try:
            times[folder] = folder.stat().st_mtime
        except OSError:  # another process has just removed it
            pass
    for folder in sorted(times, key=times.get, reverse=True)[FOLDERS_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


# -- files ---------------------------------------------------------------------------------------------------------------


def _digest(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(b"\0".join([path.parent.name.encode(), path.name.encode(), content])).digest()


def read(path: Path) -> bytes | None:
    """What `write` has written to this path; None where there is nothing, or something else, or another user's file."""
    flags = [
        getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "BINARY")
    ]  # a FIFO would wait for a writer
    try:
        with open(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:
            about = os.fstat(file.fileno())
            mine = not hasattr(os, "geteuid") or (about.st_uid == os.geteuid() and not _writable_by_others(about))
            if not stat.S_ISREG(about.st_mode) or not mine:
                return None
            digest, content = file.read(DIGEST), file.read()
    except OSError:
        return None
    return content if digest == _digest(path, content) else None


def write(path: Path, content: bytes) -> None:
    """Keep `content`: another process sees all of it or nothing, even if the machine stops. OSError if it can't be kept."""
    path.unlink(missing_ok=True)  # what could not be read: its owner, mode or kind would stay
    with written_atomically(path) as file:
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)
        file.write(_digest(path, content) + content)


# -- claims --------------------------------------------------------------------------------------------------------------


class Claims:
    """Who compiles what, among the processes that use a folder, so that each kernel is compiled once.

    A claim is a lock on one byte of a file, which ends with the process that took it. Where files can't be locked, a claim is a
    file that counts for some time. A claim is held only while its kernel is compiled, and meanwhile no others are waited for than
    those of the kernels that it calls: so processes never wait for each other in a circle. Where the folder can't be written
    there are no claims, since nobody would see what was compiled.
    """

    def __init__(self, folder: Path):
        self.folder, self.held, self.locks = folder, set(), True
        self.guard = threading.RLock()  # to the system, all threads of a process are one
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self.file = os.open(folder / "claims", flags, 0o600)
        except OSError:
            self.file = None

    @property
    def possible(self) -> bool:
        """Can kernels be kept in this folder?"""
        return self.file is not None

    def taken(self, name: str) -> bool:
        """Has another process claimed it?"""
        with self.guard:
            if not self.possible or name in self.held:
                return False
            if not self._take(name):
                return True
            self._end(name)
            return False

    def take(self, name: str) -> bool:
        """Claim it, if no other process has."""
        with self.guard:
            if self.possible and name not in self.held:
                if not self._take(name):
                    return False
                self.held.add(name)
            return True

    def wait(self, name: str) -> None:
        """Claim it; as soon as another process has done with it, where one has claimed it."""
        pause, end = LOOKS[0], time.monotonic() + PATIENCE
        while not self.take(name) and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, LOOKS[1])

    def release(self, name: str) -> None:
        """End the claim, if this process has it."""
        with self.guard:
            if name in self.held:
                self.held.discard(name)
                self._end(name)

    def give_up(self) -> None:
        """Nothing can be kept here: the disk is full."""
        with self.guard:
            for name in list(self.held):
                self.release(name)
            self.file = None

    def _take(self, name: str) -> bool:
        if self.locks:
            try:
                return _lock(self.file, self._place(name))
            except OSError:
                self.locks = False
        path = self._path(name)
        try:
            if abs(time.time() - path.stat().st_mtime) > PATIENCE:  # the process is dead or stopped
                path.unlink()
        except OSError:
            pass
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        except OSError:
            pass
        return True

    def _end(self, name: str) -> None:
        try:
            if self.locks:
                _unlock(self.file, self._place(name))
            else:
                self._path(name).unlink()
        except OSError:
            pass

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _place(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


if fcntl:

    def _lock(file: int, place: int) -> bool:
        """Lock that byte, if no other process has; OSError where files can't be locked."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(file: int, place: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)

else:
    import msvcrt

    def _lock(file: int, place: int) -> bool:
        os.lseek(file, place, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(file: int, place: int) -> None:
        os.lseek(file, place, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)


@functools.cache
def claims(folder: Path) -> Claims:
    """This process's claims in a folder."""
    return Claims(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=claims.cache_clear)  # the parent's locks are not the child's
