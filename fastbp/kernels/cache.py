"""The folder on the disk where compiled kernels are kept: where it is, and who may write to it.

It is `$FASTBP_CACHE_DIR` or the platform's cache folder, and in it a sub-folder named by a hash of every kernel source
file and the versions of Numba, llvmlite, NumPy and Python. Numba's own cache looks only at the file that holds the
function, so an edit to a kernel that is called from another file would leave stale machine code in use; here any edit
leads to another folder. Kernels in another room of the package may use what stands in their own room too, so a digest
of that room is part of their files' names.

What is in there is run, so nobody else may have written it: the two folders and the files belong to the user, no other
can write to them, and none can put others in their place by a folder or link on the way. Group-writable is writable by
others, but for a group of the user's own (as with umask 002). A folder that can't be trusted is not used, and a warning
says why. Each file begins with a digest of its content and its name; a file that is damaged, or another's, counts as
not there.
"""

import errno
import functools
import hashlib
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba
import numpy as np

from ..files import written_atomically

KERNEL_FOLDER = Path(__file__).parent
FOLDER_PREFIX = "fastbp-kernels-"
FOLDERS_KEPT = 8  # of one for each edit or upgrade; older ones are removed when a new one is made
DIGEST = hashlib.sha256().digest_size  # bytes
LINKS = 40  # on the way to a folder, at most: as many as Linux follows


@functools.cache
def _source_hash(folder: Path) -> str | None:
    """A digest of all sources below a folder, as they are when it is first asked for.

    That must be at import, when the code that will be compiled is read: a file may change before it is compiled. None
    where sources can't be read, as in a zip file: then nobody could tell a kernel from its older version."""
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
    """Where a kernel stands: its module's name in the cache, and a digest of what it may use beside `kernels/`."""

    module: str
    source_hash: str


def room_of(source: Path) -> Room | None:
    """The room of a kernel in this source file; None where the cache knows too little to keep the file's kernels."""
    if source.is_relative_to(KERNEL_FOLDER):
        return Room(".".join(source.relative_to(KERNEL_FOLDER).with_suffix("").parts), "")
    package = KERNEL_FOLDER.parent
    if not source.is_relative_to(package) or source.parent == package:
        return None
    inside = source.relative_to(package)
    source_hash = _source_hash(package / inside.parts[0])
    return source_hash and Room(".".join(inside.with_suffix("").parts), source_hash)


# -- the folder --------------------------------------------------------------------------------------------------------


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
    """`path` itself, with what is missing on the way to it made for the user alone; _Unsafe if others could meddle."""
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

    Each must belong to the user or the system, and others must not be able to write to it, unless they can only add to
    it (as in /tmp). The last two folders, which hold nothing but kernels, must be the user's and closed to others."""
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
    """Whose folders can be on the way. In a user namespace that does not know root, as in a container on a cluster,
    root's folders seem to belong to the kernel's number for everybody unknown."""
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


# -- files -------------------------------------------------------------------------------------------------------------


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
    """Keep `content`: others see all of it or nothing, even if the machine stops. OSError if it can't be kept."""
    path.unlink(missing_ok=True)  # what could not be read: its owner, mode or kind would stay
    with written_atomically(path) as file:
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)
        file.write(_digest(path, content) + content)
