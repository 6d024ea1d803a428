"""The two containers every data set comes in."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import arguments

KINDS = "biufcmMSUV"  # of arrays that are cut up and handed on; objects have no bytes of their own


class Split(NamedTuple):
    """Labelled images; unpacks as ``x, y = split``.

    x: floating, shape (N, C, H, W), values in [0, 1] until normalized.
    y: int64 class labels, shape (N,).
    """

    x: NDArray[np.floating]
    y: NDArray[np.int64]

    def __repr__(self) -> str:
        x, y = (
            f"{part.shape} {part.dtype}" if isinstance(part, np.ndarray) else arguments.shown(part) for part in self
        )
        return f"Split(x={x}, y={y})"


def checked_pair(who: str, data: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """x and y of a Split or a pair (x, y), as arrays of one length.

    Raises TypeError if it is no pair or one of them no plain array; ValueError if the lengths differ.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{who} must be a Split or a pair (x, y), got {arguments.shown(data)}")
    x, y = (arguments.array(f"{who}: {name}", part, KINDS) for name, part in zip("xy", data, strict=True))
    if not x.ndim or not y.ndim or len(x) != len(y):
        raise ValueError(f"{who}: x and y must have equal first dimensions, not shapes {x.shape} and {y.shape}")
    return x, y


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named training and test set; ``classes[label]`` is the name of a label.

    Compared by identity, as arrays have no single truth value.

    Raises TypeError if name is not a str, train or test not a Split (or a pair of arrays), or a class
    not a str; ValueError if x and y differ in length.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        arguments.text("Dataset: name", self.name)
        for part in ("train", "test"):
            object.__setattr__(self, part, Split(*checked_pair(f"Dataset: {part}", getattr(self, part))))
        arguments.instance("Dataset: classes", self.classes, (tuple, list))
        classes = tuple(arguments.text("Dataset: a class of classes", name) for name in self.classes)
        object.__setattr__(self, "classes", classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one image."""
        return tuple(self.train.x.shape[1:])

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, train={len(self.train.y)}, test={len(self.test.y)}, "
            f"input_shape={self.input_shape}, classes={len(self.classes)}, "
            f"dtype={self.train.x.dtype})"
        )
