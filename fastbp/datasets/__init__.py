"""Real image-classification data: four sets, their file formats, cutting them up, and augmentation."""

from .augment import AlternatingFlip, RandomCrop, RandomFlip
from .dataset import Dataset, Split
from .errors import DataError, DataNotFoundError
from .formats import read_cifar_batch, read_idx, read_image_folder
from .scaling import normalize
from .sets import cifar10, digits, mnist, notmnist
from .splits import batches, distinct, split

__all__ = [
    "AlternatingFlip", "DataError", "DataNotFoundError", "Dataset", "RandomCrop", "RandomFlip", "Split", "batches",
    "cifar10", "digits", "distinct", "mnist", "normalize", "notmnist", "read_cifar_batch", "read_idx",
    "read_image_folder", "split",
]  # fmt: skip
