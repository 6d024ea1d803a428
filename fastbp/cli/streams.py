"""Standard output and error as a command needs them: they can be written to, and a failure is one line."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from ..terminal import tell


class Failure(Exception):
    """What went wrong, in one line for the user; `code` is the exit status."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def working_streams() -> Iterator[None]:
    """A block with a standard output and error that can be written to.

    One that is None, closed or no stream is replaced by one that leads nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (stream if _works(stream) else nowhere for stream in before)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # names that the terminal's encoding can't show
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _works(stream) -> bool:
    """Can it be written to, as far as it says?"""
    try:
        if not hasattr(stream, "write") or getattr(stream, "closed", False):
            return False
        os.fstat(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # no file below it
        return True
    except Exception:
        return False
    return True


def flush() -> None:
    """What has been printed is on its way; where that fails, Python shall not try again as it ends."""
    try:
        if hasattr(sys.stdout, "flush"):
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(Exception):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def fail(message: str, code: int) -> int:
    """Say what went wrong; gives the exit status."""
    tell(f"fastbp: {message}")
    return code
