"""The two containers that every data set comes in."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arguments import array, instance, shown, text

KINDS = "biufcmMSUV"  # of arrays that are cut up and handed on; objects have no bytes of their own


class Split(NamedTuple):
    """Labelled images, which unpack as `x, y = split`.

    x (N, C, H, W) floating, from 0 to 1 until they are normalized · y (N,) int64 labels
    """

    x: np.ndarray
    y: np.ndarray

    def __repr__(self) -> str:
        shapes = (f"{part.shape} {part.dtype}" if isinstance(part, np.ndarray) else shown(part) for part in self)
        return "Split(x={}, y={})".format(*shapes)


def checked_pair(who: str, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a Split or a pair (x, y), as arrays of one length.

    TypeError for what is no pair, or a part that is no plain array; ValueError for lengths that differ.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{who} must be a Split or a pair (x, y), got {shown(data)}")
    x, y = (array(f"{who}: {name}", part, KINDS) for name, part in zip("xy", data, strict=True))
    if not x.ndim or not y.ndim or len(x) != len(y):
        raise ValueError(f"{who}: x and y must have equal first dimensions, got shapes {x.shape} and {y.shape}")
    return x, y


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named training and test set; `classes[label]` is the name of a label.

    Two are equal if they are the same object, as arrays have no single truth value.

    TypeError for a name or a class that is no str, and for a train or test that is no Split and no pair of arrays;
    ValueError for x and y of different lengths.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        text("Dataset: name", self.name)
        for part in ("train", "test"):
            object.__setattr__(self, part, Split(*checked_pair(f"Dataset: {part}", getattr(self, part))))
        instance("Dataset: classes", self.classes, (tuple, list))
        classes = tuple(text("Dataset: a class of classes", name) for name in self.classes)
        object.__setattr__(self, "classes", classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one image."""
        return tuple(self.train.x.shape[1:])

    def __repr__(self) -> str:
        sizes = f"train={len(self.train.y)}, test={len(self.test.y)}"
        kinds = f"input_shape={self.input_shape}, classes={len(self.classes)}, dtype={self.train.x.dtype}"
        return f"Dataset({self.name!r}, {sizes}, {kinds})"
