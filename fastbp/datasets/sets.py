"""The four data sets: digits (shipped), MNIST, notMNIST and CIFAR-10."""

import os

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import number, shown, whole
from .dataset import Dataset, Split
from .errors import DataError
from .formats import cifar_batch, cifar_names, idx_array, read_images
from .lookup import find
from .packed import Source
from .places import CIFAR_BATCHES, CIFAR_META, LETTERS, cifar_files, mnist_files, notmnist_files
from .published import MNIST, NOTMNIST, fetch_cifar, fetch_files

DIGITS = tuple("0123456789")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(dtype: DTypeLike = np.float32, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """The 1,797 real 8×8 handwritten digits that come with the package: x (N, 1, 8, 8) = pixel / 16, pixels 0 to 16.

    They are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, CC BY 4.0;
    see digits.LICENSE.txt). `test_fraction` is the share of every class that is held out, chosen at random from `seed`.
    Both parts keep the original order, in which the classes are well mixed.

    TypeError for a dtype that is not floating; ValueError for a test_fraction that leaves a class without training or
    test images, and for a negative seed.
    """
    from importlib.resources import files as package_files

    dtype = _floating("digits", dtype)
    test_fraction = number("digits: test_fraction", test_fraction, above=0, below=1)
    seed = whole("digits: seed", seed, 0)
    with (
        package_files(__package__).joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        images, labels = archive["images"][:, None], archive["labels"]
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        count = round(test_fraction * len(members))
        if not 0 < count < len(members):
            left = f"leaves no training or no test images of class {label}, which has {len(members)}"
            raise ValueError(f"digits: test_fraction {test_fraction} {left}")
        held_out[rng.permutation(members)[:count]] = True
    train = _split(images[~held_out], labels[~held_out], dtype, 16)
    test = _split(images[held_out], labels[held_out], dtype, 16)
    return Dataset("digits", train, test, DIGITS)


def mnist(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of digits, x (N, 1, 28, 28) from 0 to 1.

    Reads the four official idx files, plain or gzipped (`train-images-idx3-ubyte`, also with a dot:
    `train-images.idx3-ubyte`), from the first of these folders that has all four: `<root>/mnist/`, `<root>`,
    `<root>/MNIST/`, and a folder `raw` in one of them, as torchvision makes it (`<root>/MNIST/raw/`), or
    `<root>/mnist/MNIST/raw/`.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which missing files are downloaded (12 MB; never
    if data_dir is given).

    TypeError for a dtype that is not floating, and for a data_dir that is no str and no os.PathLike; DataNotFoundError
    where the files are not there and could not be downloaded; DataError where one is damaged.
    """
    dtype = _floating("mnist", dtype)
    names = [remote.name for remote in MNIST]
    train_x, train_y, *test = find("mnist", data_dir, mnist_files, fetch_files(MNIST), names)
    parts = [_split(*_idx_pair(*pair), dtype, 255) for pair in ((train_x, train_y), test)]
    return Dataset("mnist", *parts, DIGITS)


def notmnist(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """notMNIST: letters A to J in many fonts (label 0 is A), x (N, 1, 28, 28) from 0 to 1.

    Reads the first of these that is there:

    - idx files `train-*` and `t10k-*` in `<root>/notmnist/`, named and packed as MNIST's: training and test set;
    - the idx pair `t10k-*` alone, there: the published sample of 10,000 images, of which the first 8,000 become the
      training set and the last 2,000 the test set (four fifths and one fifth, if there is another number). The sample
      has duplicates: 57 images occur more than once, and 33 of them on both sides of that cut. Drop them first where
      that matters;
    - folders of image files `A` to `J`: in `<root>/notmnist/` or in `<root>`, in each of them also inside
      `notMNIST_small` or `notMNIST_large`. Four fifths, chosen at random with a fixed seed, are the training set.
      Unreadable images, of which the original archives hold a few, are left out with one warning that tells their
      number;
    - the same in the archive `notMNIST_small.tar.gz` or `notMNIST_large.tar.gz` (or `.tgz`, `.tar`) in one of these two
      folders; it is read as it is.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which the missing sample is downloaded (3 MB;
    never if data_dir is given).

    TypeError for a dtype that is not floating, and for a data_dir that is no str and no os.PathLike; DataNotFoundError
    where the files are not there and could not be downloaded; DataError where one is damaged, only one training file is
    there, or one of the folders has no images.
    """
    dtype = _floating("notmnist", dtype)
    names = [remote.name for remote in NOTMNIST]
    found, where = find("notmnist", data_dir, notmnist_files, fetch_files(NOTMNIST), names)
    if where is None and len(found) == 4:
        pieces = [_idx_pair(*found[:2]), _idx_pair(*found[2:])]
    elif where is None:
        images, labels = _idx_pair(*found)
        cut = _four_fifths(len(images), found[0])
        pieces = [(images[:cut], labels[:cut]), (images[cut:], labels[cut:])]
    else:
        images, labels = read_images(found, where, skip_unreadable=True)
        if images.shape[1:] != (1, 28, 28):
            shape = f"(channels, height, width) = {images.shape[1:]}"
            raise DataError(f"{where}: expected greyscale images of 28x28, found {shape}")
        cut = _four_fifths(len(images), where)
        order = np.random.default_rng(0).permutation(len(images))
        pieces = [(images[part], labels[part]) for part in (order[:cut], order[cut:])]
    return Dataset("notmnist", *(_split(images, labels, dtype, 255) for images, labels in pieces), LETTERS)


def cifar10(data_dir: str | os.PathLike[str] | None = None, dtype: DTypeLike = np.float32) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test colour images, x (N, 3, 32, 32) from 0 to 1.

    Reads, plain, `.xz` or `.gz`, the first of these that is there:

    - the binary version, `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, in `<root>/cifar10/`, `<root>`
      or a folder `cifar-10-batches-bin` in one of them;
    - the Python version, `data_batch_1` to `data_batch_5` and `test_batch`, in the same folders or a folder
      `cifar-10-batches-py` in one of them. These are pickles, but nothing in them is ever run: see read_cifar_batch;
    - either version inside the archive `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz` (or `.tgz`, `.tar`) in
      `<root>/cifar10/` or `<root>`; it is read as it is.

    All give the same arrays. The class names come from `batches.meta.txt` or `batches.meta` beside the batches, if
    there is one.

    The root is data_dir, else $FASTBP_DATA, else the user cache, into which the missing set is downloaded (170 MB;
    never if data_dir is given). In float32 the set takes 740 MB.

    TypeError for a dtype that is not floating, and for a data_dir that is no str and no os.PathLike; DataNotFoundError
    where the files are not there and could not be downloaded; DataError where one is damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    dtype = _floating("cifar10", dtype)
    paths, meta = find("cifar10", data_dir, cifar_files, fetch_cifar, (*CIFAR_BATCHES, CIFAR_META))
    classes = CIFAR_CLASSES if meta is None else cifar_names(meta, len(CIFAR_CLASSES))
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        *batches, test = pool.map(cifar_batch, paths)
    labels = np.concatenate([labels for _, labels in batches]).astype(np.int64)
    train = Split(np.empty((len(labels), 3, 32, 32), dtype), labels)
    start = 0
    for images, _ in batches:
        np.divide(images, 255, out=train.x[start : start + len(images)], dtype=dtype)
        start += len(images)
    return Dataset("cifar10", train, _split(*test, dtype, 255), classes)


def _floating(who: str, dtype: DTypeLike) -> np.dtype:
    known = isinstance(dtype, (type, np.dtype, str))  # None is NumPy's float64
    old = isinstance(dtype, str) and dtype.lstrip("<>=|").startswith("a")  # a code for bytes, of which NumPy warns
    try:
        found = np.dtype(dtype) if known and not old else None
    except Exception:
        found = None
    if found is None or found.kind != "f":
        raise TypeError(f"{who}: dtype must be floating, got {shown(dtype)}")
    return found.newbyteorder("=")


def _split(images: np.ndarray, labels: np.ndarray, dtype: np.dtype, top: int) -> Split:
    """uint8 images (N, C, H, W) and labels (N,) as a Split, x = images / top in one pass."""
    return Split(np.divide(images, top, dtype=dtype), labels.astype(np.int64))


def _four_fifths(count: int, where: Source) -> int:
    if count < 2:
        raise DataError(f"{where}: expected at least 2 images to split, found {count}")
    return count * 4 // 5


def _idx_pair(images_path: Source, labels_path: Source) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 1, 28, 28), and labels, uint8 (N,), checked against each other."""
    images, labels = idx_array(images_path), idx_array(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{images_path}: expected images of shape (N, 28, 28), found {images.shape}")
    if labels.shape != images.shape[:1]:
        wanted = f"expected labels of shape {images.shape[:1]} to go with {images_path.name}"
        raise DataError(f"{labels_path}: {wanted}, found {labels.shape}")
    if labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels 0..9, found {labels.max()}")
    return images[:, None], labels
