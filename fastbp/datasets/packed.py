"""Files inside archives, which are read as they are: nothing is unpacked to the disk."""

import io
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from .errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
MOST_BYTES = 1 << 26  # of one file inside
SUFFIXES = (".tar.gz", ".tgz", ".tar")  # some browsers leave .tar
OTHERS = (".zip", ".7z", ".rar", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Member:
    """A file out of an archive, in memory; it opens, prints and has a name as a path does."""

    archive: Path
    path: PurePosixPath
    content: bytes

    @property
    def name(self) -> str:
        return self.path.name

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"


Source: TypeAlias = Path | Member


def present(folders: Sequence[Path], stems: Sequence[str]) -> Iterator[Path]:
    """The archives of these names that stand in these folders."""
    paths = (folder / (stem + suffix) for stem in stems for folder in folders for suffix in SUFFIXES)
    return (path for path in paths if os.path.isfile(path))


def lying_about(folders: Sequence[Path]) -> list[str]:
    """All files in these folders that look like archives."""
    found: dict[str, None] = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except (OSError, ValueError):  # not there, or a name that no folder has
            continue
        found |= {str(folder / name): None for name in names if name.lower().endswith(SUFFIXES + OTHERS)}
    return list(found)


def members(archive: Path, key: Callable[[PurePosixPath], Hashable]) -> dict[Hashable, Member]:
    """The regular files of a tar archive for whose path `key` gives something other than None, under what it gives.

    DataError for an archive that is damaged, or such a file that is larger than any of a data set.
    """
    import tarfile
    import zlib

    found: dict[Hashable, Member] = {}
    try:
        with open(archive, "rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        with tarfile.open(archive, "r:gz" if packed else "r:") as tar:
            for info in tar:
                path = PurePosixPath(info.name)
                place = key(path) if info.isreg() else None
                if place is None:
                    continue
                if info.size > MOST_BYTES:
                    raise DataError(f"{archive}/{path}: expected at most {MOST_BYTES} bytes, found {info.size}")
                with tar.extractfile(info) as file:
                    found[place] = Member(archive, path, file.read())
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{archive}: expected a whole archive, found it damaged or cut off ({error})") from error
    return found
