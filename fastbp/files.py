"""Files: all that fastbp reads and writes under a name of the user's is opened here.

A name is a str or an os.PathLike, and nothing else: `open` takes an int for a file that is open already, and closes it.
What is written is seen whole or not at all, and what stands under its name already keeps its kind, its mode and its
owner.
"""

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from . import arguments

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

OPEN_FILES = re.compile(r"/proc/(\d+)(/task/\d+)?/fd|/dev/fd")  # folders whose names are numbers of open files
LONGEST = 200  # bytes of a name to which more is added: file systems take 255 in all


def new_folder(stem: str) -> Path:
    """The first of stem, stem-2, stem-3, … that is not there yet, made: two programs at once get two."""
    stem, number = arguments.path("new_folder: stem", stem), 1
    while True:
        folder = Path(stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """The file of that name, open as long as the block lasts, to be read from any place. TypeError for no name."""
    with open(arguments.path("path", path), "rb") as file:
        yield file if file.seekable() else io.BytesIO(file.read())  # a FIFO is read through first


def written_into(path: str | os.PathLike) -> bool:
    """Does this name stand for something that is written into, since it can't be replaced as a file can?

    That is a FIFO, a character device such as /dev/null, or an open file such as /dev/stdout.
    """
    name = arguments.path("path", path)
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or _open_file(name) is not None


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block has ended well, and leaves nothing behind otherwise.

    Until then an older file of that name stays as it was, whatever happens: an exception, a full disk, Ctrl-C. The new
    one has the older one's mode, and its owner as far as the system allows it; without an older one the umask decides.
    A FIFO, a character device and an open file such as /dev/stdout stay what they are: the content goes into them when
    it is whole.

    A process that was killed leaves its part of a file, of which nobody holds the lock any more; the next writer of the
    file removes it. TypeError for anything but a name; OSError that names the path for a folder, a socket, a block
    device and a file that may not be written to, and for whatever the system has against it.
    """
    name = arguments.path("path", path)
    try:
        old = os.stat(name)
    except FileNotFoundError:
        old = None
    if written_into(name):
        content = io.BytesIO()
        yield content
        _write_into(name, content.getbuffer())
    elif old is None or stat.S_ISREG(old.st_mode):
        if old is not None and not os.access(name, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        with _replaced(Path(os.path.realpath(name)), old) as file:  # through a symbolic link, which stays
            yield file
    else:
        raise _not_written(name, old.st_mode)


def write_arrays(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays to an open file as .npz.

    Ctrl-C is a KeyboardInterrupt, also where zipfile makes another error of it.
    """
    try:
        np.savez(file, **arrays)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__context__
        raise


def _not_written(name: str, mode: int) -> OSError:
    """Why nothing is written to what is at this name."""
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    kinds = {stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}
    kinds |= {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device"}
    return OSError(errno.EINVAL, f"can't be written, it is {kinds.get(stat.S_IFMT(mode), 'no regular file')}", name)


@contextlib.contextmanager
def _replaced(path: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """A new file that takes the place of the `old` one at `path`."""
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode) & 0o777
    temporary = None
    try:
        _remove_dead(path)
        file = None
        while file is None:  # the name is known before there is a file: whatever comes in between, it is removed
            temporary = str(path.with_name(f".{_short(path.name)}.{os.getpid()}.{secrets.token_hex(8)}.part"))
            file = _part(temporary, path, mode)
        with file:
            yield file
            file.flush()
            if old is not None:
                _keep_mode(file, mode, old)
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows moves no open file; elsewhere it stays locked until it has its name
            os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise


def _part(name: str, path: Path, mode: int) -> BinaryIO | None:
    """The new file `name` for the content of `path`, locked as long as it is open, which says that its writer lives.

    None where another writer took it for a dead one's in the moment before it was locked.
    """
    try:
        file = open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    except OSError as error:
        error.filename = str(path)
        raise
    with contextlib.suppress(OSError):  # a file system without locks
        if not _lock(file) or not os.path.exists(name):
            file.close()
            return None
    return file


def _keep_mode(file: BinaryIO, mode: int, old: os.stat_result) -> None:
    if hasattr(os, "fchown"):
        new = os.fstat(file.fileno())
        for uid, gid in ((old.st_uid, -1), (-1, old.st_gid)):  # each alone: the group can be set without the owner
            if (uid, gid) not in ((new.st_uid, -1), (-1, new.st_gid)):
                with contextlib.suppress(OSError):
                    os.fchown(file.fileno(), uid, gid)
    os.chmod(file.name, mode)


def _remove_dead(path: Path) -> None:
    """Remove the parts of this file that dead processes have left: those that nobody holds locked."""
    part = re.compile(rf"\.{re.escape(_short(path.name))}\.\d+\.[0-9a-f]+\.part")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if part.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError), open(entry.path, "r+b") as file:  # without locks nothing is known
                    if _lock(file):
                        os.unlink(entry.path)


def _short(name: str) -> str:
    return name if len(os.fsencode(name)) <= LONGEST else name[: LONGEST // 4]


# -- what is written into ----------------------------------------------------------------------------------------------


def _open_file(name: str) -> int | None:
    """The number of the open file that a name like /dev/stdout stands for; None for other names.

    It is −1 if another process has the file open.
    """
    for _ in range(40):  # as many links as the system follows
        folder = os.path.realpath(os.path.dirname(name) or os.curdir)
        if (found := OPEN_FILES.fullmatch(folder)) and (number := os.path.basename(name)).isdecimal():
            return int(number) if found[1] in (None, str(os.getpid())) else -1
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def _write_into(name: str, content: memoryview) -> None:
    number = _open_file(name)
    try:
        # an open file of ours is not opened again: then writing would not begin where the text printed before ends
        ours = number is not None and number >= 0
        with open(os.dup(number), "wb") if ours else open(name, "ab") as file:
            file.write(content)
    except OSError as error:
        error.filename = name
        raise


# -- locks -------------------------------------------------------------------------------------------------------------


def claimed(path: str | os.PathLike) -> BinaryIO | None:
    """The file of that name, made if need be, open to read and write; None where another process holds it.

    It is this process's alone until it is closed or the process ends, however it ends. On a file system without locks
    it is everybody's.
    """
    name = arguments.path("path", path)
    while True:
        file = open(name, "r+b", buffering=0, opener=_or_made)  # noqa: SIM115 -- it stays open
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            file.close()
            raise _not_written(name, mode)
        try:
            free = _lock(file)
        except OSError:
            free = True
        if free and _is_at(file, name):
            return file
        file.close()
        if not free:
            return None


def _or_made(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT, 0o666)


def _lock(file: BinaryIO) -> bool:
    """Lock the open file; False where another holds its lock. OSError where there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(file: BinaryIO, name: str | os.PathLike) -> bool:
    """Is the open file still the one of that name?"""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except FileNotFoundError:
        return False
