"""Files of which a reader never sees half, and folders that nobody else has."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def new_folder(stem: str) -> Path:
    """The first of stem, stem-2, stem-3, … that is not there yet, made: two programs at once get two."""
    number = 1
    while True:
        folder = Path(stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block has ended well, and leaves nothing behind otherwise.

    Until then an older file of that name stays as it was, whatever happens: an exception, a full disk, Ctrl-C.
    """
    path = Path(os.path.realpath(path))  # through a symbolic link, which stays
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)  # the name that the user knows
        raise
