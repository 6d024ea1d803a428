"""The two containers every data set comes in."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Split(NamedTuple):
    """Labelled images; unpacks as ``x, y = split``.

    x: floating, shape (N, C, H, W), values in [0, 1] until normalized.
    y: int64 class labels, shape (N,).
    """

    x: NDArray[np.floating]
    y: NDArray[np.int64]

    def __repr__(self) -> str:
        x, y = np.asarray(self.x), np.asarray(self.y)
        return f"Split(x={x.shape} {x.dtype}, y={y.shape} {y.dtype})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named training and test set; ``classes[label]`` is the name of a label.

    Compared by identity, as arrays have no single truth value.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

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
