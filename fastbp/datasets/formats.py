"""Readers for the file formats of the classic image sets: idx, CIFAR binary and Python, image folders.

Compression is recognised by the first bytes of a file, never by its name. All sizes that a header declares are compared
with the bytes that are there before anything of that size is made.
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

from .. import arguments
from . import pickles
from .errors import DataError
from .image_files import UnreadableImageError, open_image
from .packed import GZIP_MAGIC, Source

StrPath: TypeAlias = str | os.PathLike[str]

XZ_MAGIC = b"\xfd7zXZ\x00"
XZ_MEMORY_LIMIT = 1 << 29
IDX_UINT8 = 0x08
IDX_MAX_RANK = 32  # the smallest limit among supported NumPy versions
CIFAR_RECORD = 1 + 3 * 32 * 32
PICKLE_MAGIC = 0x80  # of protocol 2 on; no label of the binary version
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})
JUNK = frozenset(  # what systems and unpackers leave in folders, in lower case, beside hidden files
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)


def read_idx(path: StrPath) -> np.ndarray:
    """The uint8 array, writable, in an idx file (the MNIST format), plain or gzipped.

    Layout: bytes 0, 0, 8 (type code of uint8), rank; then as many big-endian uint32 sizes; then the values in C order.

    DataError for wrong first bytes, type code or size, and for a compressed stream that is damaged; OSError for a file
    that can't be opened.
    """
    return idx_array(Path(arguments.path("read_idx: path", path)))


def idx_array(path: Source) -> np.ndarray:
    """As read_idx, of a file or a member of an archive."""
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


def read_cifar_batch(path: StrPath) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 3, 32, 32), and labels, uint8 (N,), in one file of CIFAR-10, plain, xz or gzipped.

    Layout of the binary version: records of 3,073 bytes, one label, then 1,024 red, green and blue bytes each. The
    Python version, told by its first byte, is a pickle of a dictionary with the entries "data", uint8 (N, 3072), and
    "labels". Nothing in it is ever run: names of functions and classes other than those of plain arrays are an error.

    DataError for a size that is no whole number of records (at least one), a label above 9, a pickle that holds
    anything else, and a compressed stream that is damaged; OSError for a file that can't be opened.
    """
    return cifar_batch(Path(arguments.path("read_cifar_batch: path", path)))


def cifar_batch(path: Source) -> tuple[np.ndarray, np.ndarray]:
    """As read_cifar_batch, of a file or a member of an archive."""
    data = _content(path, pickles.MOST_BYTES)
    if data and data[0] == PICKLE_MAGIC:
        return _pickled_batch(pickles.read_pickle(data, path), path)
    if not data or len(data) % CIFAR_RECORD:
        wanted = f"expected a whole number of {CIFAR_RECORD}-byte CIFAR records"
        raise DataError(f"{path}: {wanted}, found {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise DataError(f"{path}: expected labels 0..9, found {labels.max()}")
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), labels


def _pickled_batch(value: Any, path: Source) -> tuple[np.ndarray, np.ndarray]:
    entries = _entries(value, ("data", "labels"), path)
    images = pickles.array(entries["data"], f"{path}: data")
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != CIFAR_RECORD - 1:
        wanted = f"expected data of dtype uint8 and shape (N, {CIFAR_RECORD - 1})"
        raise DataError(f"{path}: {wanted}, found {images.dtype} and {images.shape}")
    found = entries["labels"]
    labels = found if type(found) is list else pickles.array(found, f"{path}: labels").tolist()
    if len(labels) != len(images):
        raise DataError(f"{path}: expected {len(images)} labels, one for each image, found {len(labels)}")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise DataError(f"{path}: expected labels 0..9, found others")
    return np.array(images, order="C").reshape(-1, 3, 32, 32), np.array(labels, np.uint8)


def cifar_names(path: Source, count: int) -> tuple[str, ...]:
    """The names of `count` classes: a line each in batches.meta.txt, a list in the Python version's batches.meta."""
    data = _content(path, pickles.MOST_BYTES)
    if data and data[0] == PICKLE_MAGIC:
        found = _entries(pickles.read_pickle(data, path), ("label_names",), path)["label_names"]
        names = [pickles.text(name) for name in found] if type(found) is list else [None]
        if None in names:
            raise DataError(f"{path}: expected class names as texts, found others")
    else:
        try:
            lines = data.decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: expected class names as text, found {error}") from error
        names = [line.strip() for line in lines if line.strip()]
    if len(names) != count:
        raise DataError(f"{path}: expected {count} class names, found {len(names)}")
    return tuple(names)


def _entries(value: Any, wanted: Sequence[str], path: Source) -> dict[str, Any]:
    """A pickled dictionary with texts as keys, whichever Python wrote it."""
    entries = {pickles.text(key): item for key, item in value.items()} if type(value) is dict else {}
    if not all(key in entries for key in wanted):
        raise DataError(f"{path}: expected a dictionary with {' and '.join(map(repr, wanted))}, found something else")
    return entries


def read_image_folder(path: StrPath, skip_unreadable: bool = False) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images, uint8 (N, C, H, W), labels, int64 (N,), and the names of the classes: a sub-folder of image files each.

    Sub-folders and files (PNG, JPEG, …) are taken in sorted order. Ignored are hidden ones, empty sub-folders, files
    without an image suffix, and what systems and unpackers leave behind (`__MACOSX`, Thumbs.db).

    Images stand upright: the EXIF orientation is applied. Transparency is laid over white paper, or over black if all
    that is drawn is light. Of several frames the first counts. If every image is greyscale there is one channel,
    otherwise all are RGB.

    DataError for a folder without classes, a class without image files, an unreadable image (with `skip_unreadable`
    these are left out, with one warning that gives their number), an image of another size than the first, and a
    greyscale one of more than 8 bits; OSError for a folder that can't be listed.
    """
    folder = Path(arguments.path("read_image_folder: path", path))
    skip = arguments.flag("read_image_folder: skip_unreadable", skip_unreadable)
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_junk(entry.name))
    if not there:
        raise DataError(f"{folder}: expected one sub-folder for each class, found none")
    classes = [name for name in there if not all(is_junk(file.name) for file in (folder / name).iterdir())]
    files = class_files(folder, classes or there)
    images, labels = read_images(files, folder, skip)
    return images, labels, tuple(classes)


def is_junk(name: str) -> bool:
    """Is this the name of a hidden file or folder, or of one that a system left?"""
    return name.startswith(".") or name.lower() in JUNK


def is_image(name: str) -> bool:
    """Is this the name of an image file?"""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_junk(name)


def class_files(folder: Path, classes: Sequence[str]) -> list[tuple[int, Source]]:
    """The image files in these sub-folders, in order, each with its label; label k is `classes[k]`."""
    found: list[tuple[int, Source]] = []
    for label, name in enumerate(classes):
        files = sorted(entry for entry in (folder / name).iterdir() if is_image(entry.name))
        if not files:
            raise DataError(f"{folder / name}: expected image files, found none")
        found += [(label, file) for file in files]
    return found


def read_images(
    files: Sequence[tuple[int, Source]], where: Path, skip_unreadable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Read labelled image files, as read_image_folder; to be called by what the user calls, which a warning names."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    skipped: list[Source] = []
    for label, file in files:
        try:
            image = _pixels(file)
        except (UnreadableImageError, OSError) as error:
            if not skip_unreadable:
                if isinstance(error, UnreadableImageError):
                    raise
                raise DataError(f"{file}: expected a readable image, found {error}") from error
            skipped.append(file)
            continue
        if images and image.shape[1:] != images[0].shape[1:]:
            raise DataError(f"{file}: expected an image of {_size(images[0])} like the first one, found {_size(image)}")
        images.append(image)
        labels.append(label)
    if not images:
        raise DataError(f"{where}: expected readable images, found none")
    if skipped:
        first = f"the first is {skipped[0]}"
        warnings.warn(f"{where}: skipped {len(skipped)} unreadable image file(s), {first}", stacklevel=3)
    channels = max(image.shape[0] for image in images)
    stack = np.empty((len(images), channels, *images[0].shape[1:]), np.uint8)
    for row, image in zip(stack, images, strict=True):
        row[...] = image  # a lone grey channel is repeated where others have colour
    return stack, np.array(labels, np.int64)


def _pixels(file: Source) -> np.ndarray:
    """One image as uint8 (C, H, W), C = 1 for greyscale and 3 otherwise."""
    with file.open("rb") as stream:
        image = open_image(stream, file)
    if image.mode not in ("L", "RGB"):
        raise DataError(f"{file}: expected an 8-bit image, found mode {image.mode}")
    pixels = np.asarray(image)
    return pixels[None] if image.mode == "L" else pixels.transpose(2, 0, 1)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[2]} (height x width)"


def _content(path: Source, most_pickled: int | None = None) -> bytearray:
    """All bytes of a file, decompressed if they are gzip or xz.

    Of a pickle more than `most_pickled` bytes are an error, before the rest is read.
    """
    data = bytearray()
    with path.open("rb") as file:
        for block in _blocks(file, path):
            data += block
            if most_pickled is not None and len(data) > most_pickled and data[0] == PICKLE_MAGIC:
                raise DataError(f"{path}: expected a pickle of at most {most_pickled} bytes, found more")
    return data


def _blocks(file: BinaryIO, path: Source) -> Iterator[bytes]:
    magic = file.read(len(XZ_MAGIC))
    file.seek(0)
    if magic.startswith(GZIP_MAGIC):
        kind = "gzip"
    elif magic == XZ_MAGIC:
        kind = "xz"
    else:
        while block := file.read(1 << 24):
            yield block
        return
    try:
        yield from _decompress(file, kind)
    except _errors(kind) as error:
        found = f"found it damaged, truncated or followed by other bytes ({error})"
        raise DataError(f"{path}: expected one whole {kind} file, {found}") from error


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
