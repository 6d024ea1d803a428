"""Who compiles what: claims of processes that keep compiled kernels in one folder (see cache.py)."""

import functools
import hashlib
import os
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 100.0  # seconds after which another process is not waited for any more: it may have been stopped
LOOKS = (0.01, 0.05)  # seconds between two looks at what another process does, at first and later


class Claims:
    """Who compiles what, among the processes that use a folder, so that each kernel is compiled once.

    A claim is a lock on one byte of a file, which ends with the process that took it. Where files can't be locked, a
    claim is a file that counts for some time. A claim is held only while its kernel is compiled, and meanwhile no
    others are waited for than those of the kernels that it calls: so processes never wait for each other in a circle.
    Where the folder can't be written there are no claims, since nobody would see what was compiled.
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
