"""Fetching published files: verified by checksum, atomic under their final name."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..files import written_atomically
from .errors import DataError

TIMEOUT = 20.0  # seconds, for each network operation
BLOCK = 1 << 16


@dataclass(frozen=True)
class Remote:
    """A published file: its name, the addresses that serve it, and its checksum."""

    name: str
    urls: tuple[str, ...]
    algorithm: str
    digest: str


def open_url(url: str) -> IO[bytes]:
    """Open an address for reading, with bounded waiting."""
    from urllib.request import urlopen

    return urlopen(url, timeout=TIMEOUT)


def download(remote: Remote, folder: Path) -> Path:
    """Fetch a file into a folder, made if need be; its path.

    A file already there is kept if its checksum is right, and replaced otherwise. Mirrors are tried in turn. Progress
    goes to standard error if that is a terminal.

    DataError for a folder that can't be written, and where no address gives the right bytes.
    """
    target = folder / remote.name
    if os.path.isfile(target) and _digest(target, remote.algorithm) == remote.digest:
        return target
    make_folder(folder)
    failures = []
    for url in remote.urls:
        try:
            with replacing(target) as file:
                _fetch(url, remote, file)
            return target
        except (DataError, OSError) as error:
            failures.append(str(error))
    raise DataError("; ".join(dict.fromkeys(failures)))


def extract(archive: Path, members: dict[str, str], folder: Path) -> None:
    """Copy the regular files whose names in a tar.gz archive are keys of `members` into a folder, under the values.

    The archive's own paths, links, modes and owners are never applied; members not listed are ignored, and so are
    listed ones that are not there.

    DataError for an archive that is damaged, and for a folder that can't be written.
    """
    import tarfile
    import zlib

    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() else None
                if source is not None and member.name in members:
                    with source, replacing(folder / members[member.name]) as file:
                        _copy(source, [file.write])
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error})") from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; DataError where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder} ({error})") from error


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """`written_atomically`, with a DataError where the folder can't be written."""
    try:
        with written_atomically(target) as file:
            yield file
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot write {target} ({error.strerror})") from error


def _fetch(url: str, remote: Remote, file: BinaryIO) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError

    digest = hashlib.new(remote.algorithm, usedforsecurity=False)
    try:
        with open_url(url) as source, _progress(remote.name, source) as tell:
            _copy(source, [file.write, digest.update, tell])
        file.flush()
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise DataError(f"{url}: {error or type(error).__name__}") from error
    if digest.hexdigest() != remote.digest:
        raise DataError(f"{url}: expected {remote.algorithm} {remote.digest}, found {digest.hexdigest()}")


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _copy(source: IO[bytes], sinks: Sequence[Callable[[bytes], Any]]) -> None:
    while block := source.read(BLOCK):
        for sink in sinks:
            sink(block)


@contextmanager
def _progress(name: str, source: Any) -> Iterator[Callable[[bytes], None]]:
    """A function to be told of every block: it moves a bar on a terminal, and does nothing elsewhere.

    Whatever standard error is and does, it costs the bar at most, never the download.
    """
    from ..terminal import Terminal, watched

    bar: Any = None
    if watched():
        with suppress(Exception):
            from tqdm import tqdm

            length = source.headers.get("Content-Length") if hasattr(source, "headers") else None
            total = int(length) if length and length.isdigit() else None
            bar = tqdm(desc=name, total=total, unit="B", unit_scale=True, file=Terminal())

    def tell(block: bytes) -> None:
        if bar is not None:
            with suppress(Exception):
                bar.update(len(block))

    try:
        yield tell
    finally:
        if bar is not None:
            with suppress(Exception):
                bar.close()
