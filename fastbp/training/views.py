"""Test-time augmentation: views of a batch of images, whose outputs are averaged with weights."""

from collections.abc import Callable, Sequence

import numpy as np

from ..arguments import choice, number, shown

View = Callable[[np.ndarray], np.ndarray]
Views = str | Sequence[View | tuple[float, View]]


def same(x: np.ndarray) -> np.ndarray:
    return x


def mirrored(x: np.ndarray) -> np.ndarray:
    """Each image left to right:   y[n, c, i, j] = x[n, c, i, W − 1 − j]"""
    _images(x)
    return x[:, :, :, ::-1]


def up_left(x: np.ndarray) -> np.ndarray:
    """Each image moved by one pixel up and left; the border is reflected:   y[n, c, i, j] = x[n, c, i + 1, j + 1]"""
    return _moved(x, 2)


def down_right(x: np.ndarray) -> np.ndarray:
    """Each image moved by one pixel down and right; the border is reflected:   y[n, c, i, j] = x[n, c, i − 1, j − 1]"""
    return _moved(x, 0)


def _moved(x: np.ndarray, first: int) -> np.ndarray:
    """A window of the padded image that begins at this pixel on both axes."""
    H, W = _images(x, 2)
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")[:, :, first : first + H, first : first + W]


def _images(x: np.ndarray, least: int = 0) -> tuple[int, int]:
    if x.ndim != 4 or min(x.shape[2:]) < least:
        what = f" of at least {least} pixels a side" if least else ""
        raise ValueError(f"augment: expected images (N, C, H, W){what}, got {x.shape}")
    return x.shape[2:]


def _both(view: View) -> View:
    return lambda x: mirrored(view(x))


BY_NAME = {
    "flip": [(0.5, same), (0.5, mirrored)],
    "flip_shift": [
        *[(0.25, view) for view in (same, mirrored)],
        *[(0.125, view) for moved in (up_left, down_right) for view in (moved, _both(moved))],
    ],
}


def views_of(who: str, augment: Views) -> list[tuple[float, View]]:
    """The views with weights whose sum is 1, each checked when it is made."""
    what = f"{who}: augment"
    if isinstance(augment, str):
        return BY_NAME[choice(what, augment, BY_NAME)]
    if not isinstance(augment, (list, tuple)):
        names = ", ".join(map(repr, BY_NAME))
        raise TypeError(f"{what} must be one of {names}, or a list of functions of a batch, got {shown(augment)}")
    pairs = [view if isinstance(view, tuple) and len(view) == 2 else (1.0, view) for view in augment]
    for _, view in pairs:
        if not callable(view) or isinstance(view, type):
            raise TypeError(f"{what} must hold functions of a batch, or pairs (weight, function), got {shown(view)}")
    weights = [number(f"{what}: a weight", weight, above=0) for weight, _ in pairs]
    if not weights:
        raise ValueError(f"{what} must hold at least one function")
    return [(weight / sum(weights), _checked(what, view)) for weight, (_, view) in zip(weights, pairs, strict=True)]


def _checked(what: str, view: View) -> View:
    def checked(x: np.ndarray) -> np.ndarray:
        y = view(x)
        if not isinstance(y, np.ndarray) or y.shape != x.shape or y.dtype != x.dtype:
            got = f"{y.dtype} {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
            raise ValueError(f"{what}: a function made {got} of a batch {x.dtype} {x.shape}")
        return y

    return checked
