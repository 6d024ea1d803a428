"""The four data sets: digits (shipped), MNIST, notMNIST and CIFAR-10."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .dataset import Dataset, Split
from .download import Remote, download, extract, make_folder
from .errors import DataError, DataNotFoundError
from .formats import read_cifar_batch, read_class_folders, read_idx
from .lookup import find

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
    without training or test images.
    """
    from importlib.resources import files as package_files

    kind = _floating(dtype)
    with package_files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, not {test_fraction}")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        count = round(test_fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"test_fraction {test_fraction} leaves no training or no test images of class {label}, which has {len(members)}"
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

    Reads the four official idx files, plain or gzipped, from ``<root>/mnist/`` or ``<root>``;
    the root is data_dir, else $FASTBP_DATA, else the user cache, into which missing files
    are downloaded (12 MB; never if data_dir is given).

    Raises TypeError if dtype is not floating; DataNotFoundError if the files are not there and
    could not be downloaded; DataError if one is damaged.
    """
    kind = _floating(dtype)

    def match(root: Path) -> list[Path]:
        return _all_of("mnist", _idx_names(*TRAIN, *TEST), [root / "mnist", root])

    paths = find("mnist", data_dir, match, _fetch_files(MNIST_FILES), _names(MNIST_FILES))
    return Dataset(
        "mnist",
        _split(*_idx_pair(*paths[:2]), kind, 255),
        _split(*_idx_pair(*paths[2:]), kind, 255),
        DIGITS,
    )


def notmnist(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """notMNIST: letters A to J in many fonts (label 0 is A), x of shape (N, 1, 28, 28).

    Reads from ``<root>/notmnist/`` the first of these that is there:

    - idx files ``train-*`` and ``t10k-*``, named and packed as MNIST's: training and test set;
    - the idx pair ``t10k-*`` alone: the published sample of 10,000 images, of which the first
      8,000 become the training set and the last 2,000 the test set (four fifths and one
      fifth, if there is another number). The sample has duplicates: 57 images occur more than
      once, and 33 of them on both sides of that cut. Drop them first where that matters;
    - folders of image files ``A`` to ``J``, there or inside ``notMNIST_small`` or
      ``notMNIST_large``: four fifths, chosen at random with a fixed seed, are the training
      set. Unreadable images, of which the original archives hold a few, are left out with
      one warning that tells their number.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which the missing sample
    is downloaded (3 MB; never if data_dir is given).

    Raises TypeError if dtype is not floating; DataNotFoundError if the files are not there and
    could not be downloaded; DataError if one is damaged or only one training file is there.
    """
    kind = _floating(dtype)
    found = find(
        "notmnist",
        data_dir,
        _match_notmnist,
        _fetch_files(NOTMNIST_FILES),
        _names(NOTMNIST_FILES),
    )
    if isinstance(found, list) and len(found) == 4:
        pieces = [_idx_pair(*found[:2]), _idx_pair(*found[2:])]
    elif isinstance(found, list):
        images, labels = _idx_pair(*found)
        cut = _four_fifths(len(images), found[0])
        pieces = [(images[:cut], labels[:cut]), (images[cut:], labels[cut:])]
    else:
        images, labels = read_class_folders(found, LETTERS, skip_unreadable=True)
        if images.shape[1:] != (1, 28, 28):
            raise DataError(f"{found}: expected greyscale images of 28x28, found (channels, height, width) = {images.shape[1:]}")
        cut = _four_fifths(len(images), found)
        order = np.random.default_rng(0).permutation(len(images))
        pieces = [(images[part], labels[part]) for part in (order[:cut], order[cut:])]
    train, test = (_split(images, labels, kind, 255) for images, labels in pieces)
    return Dataset("notmnist", train, test, LETTERS)


def cifar10(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test colour images, x of shape (N, 3, 32, 32).

    Reads ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, plain, ``.xz``
    or ``.gz``, from ``<root>/cifar10/``, ``<root>/cifar-10-batches-bin/`` or ``<root>``; the
    class names come from ``batches.meta.txt`` there, if present. The root is data_dir, else
    $FASTBP_DATA, else the user cache, into which the missing set is downloaded (170 MB;
    never if data_dir is given). In float32 the set takes 740 MB.

    Raises TypeError if dtype is not floating; DataNotFoundError if the files are not there and
    could not be downloaded; DataError if one is damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    kind = _floating(dtype)
    choices = [[name + suffix for suffix in ("", ".xz", ".gz")] for name in CIFAR_BATCHES]

    def match(root: Path) -> list[Path]:
        folders = [root / "cifar10", root / "cifar-10-batches-bin", root]
        return _all_of("cifar10", choices, folders)

    paths = find("cifar10", data_dir, match, _fetch_cifar, (*CIFAR_BATCHES, CIFAR_META))
    classes = _cifar_classes(paths[0].parent / CIFAR_META)
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        batches = list(pool.map(read_cifar_batch, paths))
    train = Split(
        np.empty((sum(len(labels) for _, labels in batches[:-1]), 3, 32, 32), kind),
        np.concatenate([labels for _, labels in batches[:-1]]).astype(np.int64),
    )
    start = 0
    for images, _ in batches[:-1]:
        np.divide(images, 255, out=train.x[start : start + len(images)], dtype=kind)
        start += len(images)
    return Dataset("cifar10", train, _split(*batches[-1], kind, 255), classes)


def _floating(dtype: DTypeLike) -> np.dtype:
    kind = np.dtype(dtype)
    if kind.kind != "f":
        raise TypeError(f"dtype must be floating, not {kind}")
    return kind


def _split(images: NDArray[np.uint8], labels: NDArray[np.uint8], dtype: np.dtype, top: int) -> Split:
    """Images of shape (N, C, H, W) and labels as a Split, x = images / top in one pass."""
    return Split(np.divide(images, top, dtype=dtype), labels.astype(np.int64))


def _four_fifths(count: int, where: Path) -> int:
    if count < 2:
        raise DataError(f"{where}: expected at least 2 images to split, found {count}")
    return count * 4 // 5


def _idx_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 (N, 1, 28, 28), and labels, uint8 (N,), checked against each other."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{images_path}: expected images of shape (N, 28, 28), found {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: expected labels of shape {images.shape[:1]} to go with {images_path.name}, found {labels.shape}"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels 0..9, found {labels.max()}")
    return images[:, None], labels


def _idx_names(*stems: str) -> list[list[str]]:
    """The names each idx file may have; some unpackers turn the last hyphen but one to a dot."""
    return [[name + suffix for name in (stem, stem.replace("-idx", ".idx")) for suffix in ("", ".gz")] for stem in stems]


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def _all_of(name: str, choices: Sequence[Sequence[str]], folders: Sequence[Path]) -> list[Path]:
    """One path for each list of names, all in the first folder that has them all.

    Raises DataNotFoundError, with the names missing where fewest are.
    """
    fewest: list[str] | None = None
    for folder in folders:
        paths = [_first_of(folder, names) for names in choices]
        present = [path for path in paths if path is not None]
        if len(present) == len(choices):
            return present
        missing = [c[0] for c, path in zip(choices, paths, strict=True) if path is None]
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    raise DataNotFoundError(
        f"{name}: expected {', '.join(fewest or [])} (plain or compressed) in {' or '.join(map(str, folders))}; not there"
    )


def _match_notmnist(root: Path) -> list[Path] | Path:
    """Four or two idx files, or a folder of class folders."""
    folder = root / "notmnist"
    train = [path for names in _idx_names(*TRAIN) if (path := _first_of(folder, names))]
    test = [path for names in _idx_names(*TEST) if (path := _first_of(folder, names))]
    if len(test) == 2 and len(train) != 1:
        return train + test
    if len(train) == 1:
        raise DataError(f"{folder}: expected both {TRAIN[0]} and {TRAIN[1]}, found only {train[0].name}")
    for place in (folder, folder / "notMNIST_small", folder / "notMNIST_large"):
        if all(os.path.isdir(place / letter) for letter in LETTERS):
            return place
    raise DataNotFoundError(
        f"notmnist: expected {TEST[0]} and {TEST[1]} (plain or gzipped), or folders A to J of images, in {folder}; not there"
    )


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


def _cifar_classes(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return CIFAR_CLASSES
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected class names as text, found {error}") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != len(CIFAR_CLASSES):
        raise DataError(f"{path}: expected {len(CIFAR_CLASSES)} class names, found {len(names)}")
    return names
