"""Readers for the file formats of the classic image sets: idx, CIFAR binary, image folders.

Compression is recognised by the first bytes of a file, never by its name. All sizes a header
declares are compared with the bytes really there before anything of that size is made.
"""

import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

StrPath: TypeAlias = str | os.PathLike[str]

GZIP_MAGIC = b"\x1f\x8b"
XZ_MAGIC = b"\xfd7zXZ\x00"
XZ_MEMORY_LIMIT = 1 << 29
IDX_UINT8 = 0x08
IDX_MAX_RANK = 32  # the smallest limit among supported NumPy versions
CIFAR_RECORD = 1 + 3 * 32 * 32
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})


def read_idx(path: StrPath) -> NDArray[np.uint8]:
    """Read a uint8 idx file (the MNIST format), plain or gzipped.

    Layout: bytes 0, 0, 8 (type code of uint8), rank; then ``rank`` big-endian uint32
    dimensions; then the values in C order.

    Returns a writable uint8 array of the declared shape.

    Raises DataError if the magic bytes, the type code or the size is wrong, or if the
    compressed stream is damaged; OSError if the file cannot be opened.
    """
    data = _content(path)
    if len(data) < 4:
        raise DataError(f"{path}: expected a 4-byte idx header, found {len(data)} bytes")
    if data[0] or data[1]:
        raise DataError(f"{path}: expected an idx file starting with bytes 00 00, found {data[:2].hex(' ')}")
    if data[2] != IDX_UINT8:
        raise DataError(f"{path}: expected idx type code 0x{IDX_UINT8:02x} (uint8), found 0x{data[2]:02x}")
    rank = data[3]
    if rank > IDX_MAX_RANK:
        raise DataError(f"{path}: expected an idx rank of at most {IDX_MAX_RANK}, found {rank}")
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{path}: expected an idx header of {start} bytes for rank {rank}, found {len(data)} bytes")
    shape = struct.unpack_from(f">{rank}I", data, 4)
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path}: expected {expected} bytes for an idx file of shape {shape}, found {len(data)} bytes")
    if not math.prod(shape):
        try:
            return np.empty(shape, np.uint8)
        except ValueError as error:
            raise DataError(f"{path}: expected a usable idx shape, found {shape}") from error
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_cifar_batch(path: StrPath) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one file of the CIFAR-10 binary version, plain, xz or gzipped.

    Layout: records of 3,073 bytes, one label then 1,024 red, green and blue bytes each.

    Returns images, uint8 of shape (N, 3, 32, 32), and labels, uint8 of shape (N,).

    Raises DataError if the size is not a whole number of records (at least one), if a label
    exceeds 9, or if the compressed stream is damaged; OSError if the file cannot be opened.
    """
    data = _content(path)
    if not data or len(data) % CIFAR_RECORD:
        raise DataError(f"{path}: expected a whole number of {CIFAR_RECORD}-byte CIFAR records, found {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise DataError(f"{path}: expected labels 0..9, found {labels.max()}")
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), labels


def read_image_folder(path: StrPath, skip_unreadable: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Read a folder with one sub-folder of image files (PNG, JPEG, ...) for each class.

    Sub-folders and files are taken in sorted order; hidden ones, and files without an image
    suffix, are ignored. If every image is greyscale there is one channel, otherwise all are
    RGB; transparency is dropped.

    Returns images, uint8 of shape (N, C, H, W), labels, int64 of shape (N,), and the names of
    the classes.

    Raises DataError if there is no class, a class without image files, an unreadable image
    (with ``skip_unreadable`` these are left out, with one warning giving their number), an
    image of another size than the first, or a greyscale one of more than 8 bits; OSError
    if the folder cannot be listed.
    """
    folder = Path(path)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not classes:
        raise DataError(f"{folder}: expected one sub-folder for each class, found none")
    images, labels = read_class_folders(folder, classes, skip_unreadable)
    return images, labels, tuple(classes)


def read_class_folders(folder: Path, classes: Sequence[str], skip_unreadable: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the named sub-folders of images, as read_image_folder; label k is ``classes[k]``."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    skipped: list[Path] = []
    for label, name in enumerate(classes):
        files = sorted(
            entry for entry in (folder / name).iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != "."
        )
        if not files:
            raise DataError(f"{folder / name}: expected image files, found none")
        for file in files:
            try:
                image = _read_image(file)
            except _Unreadable as error:
                if not skip_unreadable:
                    raise DataError(f"{file}: expected a readable image, found {error}") from error.__cause__
                skipped.append(file)
                continue
            if images and image.shape[1:] != images[0].shape[1:]:
                raise DataError(f"{file}: expected an image of {_size(images[0])} like the first one, found {_size(image)}")
            images.append(image)
            labels.append(label)
    if not images:
        raise DataError(f"{folder}: expected readable images, found none")
    if skipped:
        warnings.warn(
            f"{folder}: skipped {len(skipped)} unreadable image file(s), the first is {skipped[0]}",
            stacklevel=3,
        )
    channels = max(image.shape[0] for image in images)
    stack = np.empty((len(images), channels, *images[0].shape[1:]), np.uint8)
    for row, image in zip(stack, images, strict=True):
        row[...] = image  # a lone grey channel is repeated where others have colour
    return stack, np.array(labels, np.int64)


class _Unreadable(Exception):
    pass


def _read_image(path: Path) -> NDArray[np.uint8]:
    """One image as uint8 (C, H, W), C = 1 for greyscale and 3 otherwise."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise DataError(f"{path}: expected an 8-bit image, found mode {image.mode}")
            grey = image.mode in ("1", "L", "LA", "La")
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[2]} (height x width)"


def _content(path: StrPath) -> bytearray:
    """All bytes of a file, decompressed if they are gzip or xz."""
    kind = ""
    data = bytearray()
    with open(path, "rb") as file:
        magic = file.read(len(XZ_MAGIC))
        file.seek(0)
        if magic.startswith(GZIP_MAGIC):
            kind = "gzip"
        elif magic == XZ_MAGIC:
            kind = "xz"
        else:
            data += file.read()
            return data
        try:
            for block in _decompress(file, kind):
                data += block
        except _errors(kind) as error:
            raise DataError(
                f"{path}: expected one whole {kind} file, found it damaged, truncated or followed by other bytes ({error})"
            ) from error
    return data


def _errors(kind: str) -> tuple[type[Exception], ...]:
    if kind == "gzip":
        return (zlib.error, EOFError)
    import lzma

    return (lzma.LZMAError, EOFError)


def _decompress(file: BinaryIO, kind: str) -> Iterator[bytes]:
    """Yield the content of a file of one or more streams; zero padding between is allowed.

    Unlike the standard library's readers this rejects bytes after the last xz stream.
    """
    decoder = None
    while block := file.read(1 << 16):
        while block:
            if decoder is None:
                block = block.lstrip(b"\0")
                if not block:
                    break
                decoder = _decoder(kind)
            yield decoder.decompress(block)
            block = b""
            if decoder.eof:
                block, decoder = decoder.unused_data, None
    if decoder is not None:
        raise EOFError("the stream ends early")


def _decoder(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT)
