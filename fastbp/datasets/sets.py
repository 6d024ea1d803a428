"""The four data sets: digits (shipped), MNIST, notMNIST and CIFAR-10."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import arguments
from . import packed
from .dataset import Dataset, Split
from .download import Remote, download, extract, make_folder
from .errors import DataError, DataNotFoundError
from .formats import cifar_batch, cifar_names, class_files, idx_array, is_image, is_junk, read_images
from .lookup import find
from .packed import Source

DIGITS = tuple("0123456789")
LETTERS = tuple("ABCDEFGHIJ")
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
CIFAR_META = "batches.meta.txt"
CIFAR_PICKLES = tuple(name.removesuffix(".bin") for name in CIFAR_BATCHES)
CIFAR_PICKLED_META = "batches.meta"
CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
CIFAR_ARCHIVES = ("cifar-10-python", "cifar-10-binary", "cifar-10-batches-py", "cifar-10-batches-bin")
NOTMNIST_FOLDERS = ("notMNIST_small", "notMNIST_large")


def _remote(name: str, sha256: str, *bases: str) -> Remote:
    return Remote(name, tuple(base + name for base in bases), "sha256", sha256)


MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_FILES = (
    _remote(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        *MNIST_MIRRORS,
    ),
    _remote(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        *MNIST_MIRRORS,
    ),
    _remote(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        *MNIST_MIRRORS,
    ),
    _remote(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        *MNIST_MIRRORS,
    ),
)
NOTMNIST_BASE = "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master/"
NOTMNIST_FILES = (
    _remote(
        "t10k-images-idx3-ubyte.gz",
        "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
        NOTMNIST_BASE,
    ),
    _remote(
        "t10k-labels-idx1-ubyte.gz",
        "1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b",
        NOTMNIST_BASE,
    ),
)
CIFAR_ARCHIVE = Remote(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "md5",
    "c32a1d4ab5d03f1284b67883e8d87530",
)


def digits(dtype: DTypeLike = np.float32, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """The 1,797 real 8x8 handwritten digits that come with the package.

    They are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
    C. Kaynak, 1998, CC BY 4.0; see digits.LICENSE.txt). Pixels 0..16 become x = pixel / 16,
    shape (N, 1, 8, 8).

    test_fraction: the share of every class held out, chosen at random from ``seed``. Both
    parts keep the original order, in which the classes are well mixed.

    Raises TypeError if dtype is not floating; ValueError if test_fraction leaves a class
    without training or test images, or seed is negative.
    """
    from importlib.resources import files as package_files

    kind = _floating("digits", dtype)
    test_fraction = arguments.number("digits: test_fraction", test_fraction, above=0, below=1)
    seed = arguments.whole("digits: seed", seed, 0)
    with (
        package_files(__package__).joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        images, labels = archive["images"], archive["labels"]
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        count = round(test_fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"test_fraction {test_fraction} leaves no training or no test images of class "
                f"{label}, which has {len(members)}"
            )
        held_out[rng.permutation(members)[:count]] = True
    images = images[:, None]
    return Dataset(
        "digits",
        _split(images[~held_out], labels[~held_out], kind, 16),
        _split(images[held_out], labels[held_out], kind, 16),
        DIGITS,
    )


def mnist(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of digits, x of shape (N, 1, 28, 28).

    Reads the four official idx files, plain or gzipped (``train-images-idx3-ubyte``, also with a dot:
    ``train-images.idx3-ubyte``), from the first of these folders that has all four:
    ``<root>/mnist/``, ``<root>``, ``<root>/MNIST/``, and a folder ``raw`` in one of them, as
    torchvision makes it (``<root>/MNIST/raw/``), or ``<root>/mnist/MNIST/raw/``.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which missing files
    are downloaded (12 MB; never if data_dir is given).

    Raises TypeError if dtype is not floating, or data_dir neither a str nor an os.PathLike;
    DataNotFoundError if the files are not there and could not be downloaded; DataError if one is
    damaged.
    """
    kind = _floating("mnist", dtype)

    def match(root: Path) -> list[Source]:
        homes = [root / "mnist", root, root / "MNIST"]
        folders = [*homes, *(home / "raw" for home in homes), root / "mnist" / "MNIST" / "raw"]
        return _all_of("mnist", [_idx_names(*TRAIN, *TEST)], map(_in_folder, folders), folders)[0]

    paths = find("mnist", data_dir, match, _fetch_files(MNIST_FILES), _names(MNIST_FILES))
    return Dataset(
        "mnist",
        _split(*_idx_pair(*paths[:2]), kind, 255),
        _split(*_idx_pair(*paths[2:]), kind, 255),
        DIGITS,
    )


def notmnist(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """notMNIST: letters A to J in many fonts (label 0 is A), x of shape (N, 1, 28, 28).

    Reads the first of these that is there:

    - idx files ``train-*`` and ``t10k-*`` in ``<root>/notmnist/``, named and packed as MNIST's:
      training and test set;
    - the idx pair ``t10k-*`` alone, there: the published sample of 10,000 images, of which the first
      8,000 become the training set and the last 2,000 the test set (four fifths and one
      fifth, if there is another number). The sample has duplicates: 57 images occur more than
      once, and 33 of them on both sides of that cut. Drop them first where that matters;
    - folders of image files ``A`` to ``J``: in ``<root>/notmnist/`` or in ``<root>``, in each of them
      also inside ``notMNIST_small`` or ``notMNIST_large``. Four fifths, chosen at random with a fixed
      seed, are the training set. Unreadable images, of which the original archives hold a few, are
      left out with one warning that tells their number;
    - the same in the archive ``notMNIST_small.tar.gz`` or ``notMNIST_large.tar.gz`` (or ``.tgz``,
      ``.tar``) in one of these two folders; it is read as it is.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which the missing sample
    is downloaded (3 MB; never if data_dir is given).

    Raises TypeError if dtype is not floating, or data_dir neither a str nor an os.PathLike;
    DataNotFoundError if the files are not there and could not be downloaded; DataError if one is
    damaged, only one training file is there, or one of the folders has no images.
    """
    kind = _floating("notmnist", dtype)
    found, where = find(
        "notmnist",
        data_dir,
        _match_notmnist,
        _fetch_files(NOTMNIST_FILES),
        _names(NOTMNIST_FILES),
    )
    if where is None and len(found) == 4:
        pieces = [_idx_pair(*found[:2]), _idx_pair(*found[2:])]
    elif where is None:
        images, labels = _idx_pair(*found)
        cut = _four_fifths(len(images), found[0])
        pieces = [(images[:cut], labels[:cut]), (images[cut:], labels[cut:])]
    else:
        images, labels = read_images(found, where, skip_unreadable=True)
        if images.shape[1:] != (1, 28, 28):
            raise DataError(
                f"{where}: expected greyscale images of 28x28, found (channels, height, width) = {images.shape[1:]}"
            )
        cut = _four_fifths(len(images), where)
        order = np.random.default_rng(0).permutation(len(images))
        pieces = [(images[part], labels[part]) for part in (order[:cut], order[cut:])]
    train, test = (_split(images, labels, kind, 255) for images, labels in pieces)
    return Dataset("notmnist", train, test, LETTERS)


def cifar10(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test colour images, x of shape (N, 3, 32, 32).

    Reads, plain, ``.xz`` or ``.gz``, the first of these that is there:

    - the binary version, ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, in
      ``<root>/cifar10/``, ``<root>`` or a folder ``cifar-10-batches-bin`` in one of them;
    - the Python version, ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, in the same folders
      or a folder ``cifar-10-batches-py`` in one of them. These are pickles, but nothing in them is
      ever run: see read_cifar_batch;
    - either version inside the archive ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz`` (or
      ``.tgz``, ``.tar``) in ``<root>/cifar10/`` or ``<root>``; it is read as it is.

    All give the same arrays. The class names come from ``batches.meta.txt`` or ``batches.meta``
    beside the batches, if present.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which the missing set is
    downloaded (170 MB; never if data_dir is given). In float32 the set takes 740 MB.

    Raises TypeError if dtype is not floating, or data_dir neither a str nor an os.PathLike;
    DataNotFoundError if the files are not there and could not be downloaded; DataError if one is
    damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    kind = _floating("cifar10", dtype)
    paths, meta = find("cifar10", data_dir, _match_cifar, _fetch_cifar, (*CIFAR_BATCHES, CIFAR_META))
    classes = CIFAR_CLASSES if meta is None else cifar_names(meta, len(CIFAR_CLASSES))
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        batches = list(pool.map(cifar_batch, paths))
    train = Split(
        np.empty((sum(len(labels) for _, labels in batches[:-1]), 3, 32, 32), kind),
        np.concatenate([labels for _, labels in batches[:-1]]).astype(np.int64),
    )
    start = 0
    for images, _ in batches[:-1]:
        np.divide(images, 255, out=train.x[start : start + len(images)], dtype=kind)
        start += len(images)
    return Dataset("cifar10", train, _split(*batches[-1], kind, 255), classes)


def _floating(who: str, dtype: DTypeLike) -> np.dtype:
    known = isinstance(dtype, (type, np.dtype, str))  # None is NumPy's float64
    old = isinstance(dtype, str) and dtype.lstrip("<>=|").startswith("a")  # a code for bytes, of which NumPy warns
    try:
        kind = np.dtype(dtype) if known and not old else None
    except Exception:
        kind = None
    if kind is None or kind.kind != "f":
        raise TypeError(f"{who}: dtype must be floating, not {arguments.shown(dtype)}")
    return kind.newbyteorder("=")


def _split(images: NDArray[np.uint8], labels: NDArray[np.uint8], dtype: np.dtype, top: int) -> Split:
    """Images of shape (N, C, H, W) and labels as a Split, x = images / top in one pass."""
    return Split(np.divide(images, top, dtype=dtype), labels.astype(np.int64))


def _four_fifths(count: int, where: Source) -> int:
    if count < 2:
        raise DataError(f"{where}: expected at least 2 images to split, found {count}")
    return count * 4 // 5


def _idx_pair(images_path: Source, labels_path: Source) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 (N, 1, 28, 28), and labels, uint8 (N,), checked against each other."""
    images, labels = idx_array(images_path), idx_array(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{images_path}: expected images of shape (N, 28, 28), found {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: expected labels of shape {images.shape[:1]} to go with "
            f"{images_path.name}, found {labels.shape}"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels 0..9, found {labels.max()}")
    return images[:, None], labels


def _idx_names(*stems: str) -> list[list[str]]:
    """The names each idx file may have; some unpackers turn the last hyphen but one to a dot."""
    return [
        [name + suffix for name in (stem, stem.replace("-idx", ".idx")) for suffix in ("", ".gz")] for stem in stems
    ]


Look: TypeAlias = Callable[[str], Source | None]  # for a file of some name, in one folder or archive


def _in_folder(folder: Path) -> Look:
    return lambda name: folder / name if os.path.isfile(folder / name) else None


def _in_archives(paths: Iterable[Path], names: Iterable[str]) -> Iterator[Look]:
    wanted = set(names)
    for path in paths:
        yield packed.members(path, lambda member: member.name if member.name in wanted else None).get


def _first_of(look: Look, names: Sequence[str]) -> Source | None:
    return next((source for name in names if (source := look(name)) is not None), None)


def _all_of(
    name: str, versions: Sequence[Sequence[Sequence[str]]], looks: Iterable[Look], folders: Sequence[Path]
) -> tuple[list[Source], Look]:
    """One file for each list of names in a version of the set, all from the first place that has them all, and that place.

    Raises DataNotFoundError, with the names missing where fewest are, else with all. `folders` are all that were looked in.
    """
    fewest = None
    for look in looks:
        for choices in versions:
            found = [_first_of(look, names) for names in choices]
            missing = [names[0] for names, source in zip(choices, found, strict=True) if source is None]
            if not missing:
                return found, look
            if len(missing) < len(choices) and (fewest is None or len(missing) < len(fewest)):
                fewest = missing
    wanted = [fewest] if fewest else [[names[0] for names in choices] for choices in versions]
    raise _not_there(name, f"{', or '.join(map(', '.join, wanted))} (plain or compressed)", folders)


def _not_there(name: str, wanted: str, folders: Sequence[Path]) -> DataNotFoundError:
    archives = packed.lying_about(folders)
    hint = f". If they are in {' or '.join(archives)}, unpack that first" if archives else ""
    return DataNotFoundError(f"{name}: expected {wanted} in {' or '.join(map(str, folders))}; not there{hint}")


def _match_cifar(root: Path) -> tuple[list[Source], Source | None]:
    """The batches in order, and the file with the names of the classes, if there is one."""
    homes = [root / "cifar10", root]
    folders = [*homes, *(home / name for home in homes for name in CIFAR_FOLDERS)]
    versions = [
        [[name + suffix for suffix in ("", ".xz", ".gz")] for name in names] for names in (CIFAR_BATCHES, CIFAR_PICKLES)
    ]
    meta = (CIFAR_META, CIFAR_PICKLED_META)

    def looks() -> Iterator[Look]:
        yield from map(_in_folder, folders)
        yield from _in_archives(packed.present(homes, CIFAR_ARCHIVES), (*CIFAR_BATCHES, *CIFAR_PICKLES, *meta))

    paths, look = _all_of("cifar10", versions, looks(), folders)
    return paths, _first_of(look, meta)


def _match_notmnist(root: Path) -> tuple[list[Source], None] | tuple[list[tuple[int, Source]], Path]:
    """Four or two idx files; or image files with their labels, and the folder or archive that they are in."""
    home = root / "notmnist"
    train, test = (
        [path for names in _idx_names(*stems) if (path := _first_of(_in_folder(home), names))]
        for stems in (TRAIN, TEST)
    )
    if len(test) == 2 and len(train) != 1:
        return train + test, None
    if len(train) == 1:
        raise DataError(f"{home}: expected both {TRAIN[0]} and {TRAIN[1]}, found only {train[0].name}")
    homes = [home, root]
    folders = [folder for home in homes for folder in (home, *(home / name for name in NOTMNIST_FOLDERS))]
    incomplete = ""
    for folder in folders:
        missing = [letter for letter in LETTERS if not os.path.isdir(folder / letter)]
        if not missing:
            return class_files(folder, LETTERS), folder
        if len(missing) < len(LETTERS):
            incomplete = incomplete or f" ({folder} has no {', '.join(missing)})"
    for archive in packed.present(homes, NOTMNIST_FOLDERS):
        inside = packed.members(archive, _letter_and_name)
        missing = sorted(set(LETTERS) - {letter for letter, _ in inside})
        if not missing:
            return [(LETTERS.index(key[0]), inside[key]) for key in sorted(inside)], archive
        incomplete = incomplete or f" ({archive} has no {', '.join(missing)})"
    wanted = f"{TEST[0]} and {TEST[1]} (plain or gzipped) in {home}, or folders A to J of images{incomplete}"
    raise _not_there("notmnist", wanted, folders)


def _letter_and_name(path: PurePosixPath) -> tuple[str, str] | None:
    """Of an image in a folder A to J of an archive."""
    letter = path.parent.name
    usable = letter in LETTERS and is_image(path.name) and not any(map(is_junk, path.parts))
    return (letter, path.name) if usable else None


def _names(remotes: Sequence[Remote]) -> list[str]:
    return [remote.name for remote in remotes]


def _fetch_files(remotes: Sequence[Remote]) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        for remote in remotes:
            download(remote, folder)

    return fetch


def _fetch_cifar(folder: Path) -> None:
    make_folder(folder)
    archive = download(CIFAR_ARCHIVE, folder)
    wanted = {f"cifar-10-batches-bin/{name}": name for name in (*CIFAR_BATCHES, CIFAR_META)}
    extract(archive, wanted, folder)
    missing = [name for name in CIFAR_BATCHES if not os.path.isfile(folder / name)]
    if missing:
        raise DataError(f"{archive}: expected {', '.join(missing)} inside; not there")
    archive.unlink(missing_ok=True)
