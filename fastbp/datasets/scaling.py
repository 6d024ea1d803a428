"""Bringing inputs to mean 0 and standard deviation 1."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ..arguments import array, choice, shown
from .dataset import KINDS, Split

BLOCK = 1 << 18  # elements worked on at a time, so that float64 never fills the memory


def normalize(train: Split, *others: Split, per: Literal["channel", "pixel"] = "channel") -> tuple[Split, ...]:
    """(train, *others) with x brought to mean 0 and standard deviation 1:   x ← (x − m) / s, as new arrays

    x (N, C, …) floating, which keeps its dtype; the labels are handed on as they are. m and s are the mean and the
    standard deviation (divisor N) of train.x: of each channel over all images and positions (per="channel"), or of each
    position over all images (per="pixel"). Where train.x is constant s is 1. All is computed in float64, in blocks.

    ValueError for an unknown `per`, a train that is empty or not finite, and a shape that does not fit train's
    (per="channel": in the number of channels or of axes); TypeError for an x that is not floating, and for an argument
    that is no pair.
    """
    per = choice("normalize: per", per, ("channel", "pixel"))
    parts = [_part("train", train), *(_part("others", data) for data in others)]
    first = parts[0].x
    for x, _ in parts:
        kept = (x.ndim, x.shape[1:2]) if per == "channel" else (x.ndim, x.shape[1:])
        wanted = (first.ndim, first.shape[1:2] if per == "channel" else first.shape[1:])
        if x.ndim < 2 or kept != wanted:
            wanted = f"x must have shape (N, C, …) and fit the training set's {first.shape}"
            raise ValueError(f"normalize: {wanted}, got {x.shape}")
    if not first.size:
        raise ValueError("normalize: the training set, train, is empty")
    mean, deviation = _statistics(first, per)
    return tuple(Split(_scaled(x, mean, deviation), y) for x, y in parts)


def _part(name: str, data: Any) -> Split:
    """A Split or a pair (x, y) with x as a floating array; y stays what it is, as it is only handed on."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"normalize: {name} must be a Split or a pair (x, y), got {shown(data)}")
    x, y = array(f"normalize: {name}: x", data[0], KINDS), data[1]
    if isinstance(y, np.ndarray):
        array(f"normalize: {name}: y", y, KINDS)
    if x.dtype.kind != "f":
        raise TypeError(f"normalize: {name}: x must be floating, got {x.dtype}")
    return Split(x, y)


def _statistics(x: np.ndarray, per: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, float64 (1, C, 1, …) or (1, C, H, W).

    The mean is that of the differences from one sample, plus that sample: so constants come out exactly.
    """
    axes = (0, *range(2, x.ndim)) if per == "channel" else (0,)
    index = (slice(0, 1), slice(None)) + (slice(0, 1) if per == "channel" else slice(None),) * (x.ndim - 2)
    origin = x[index].astype(np.float64)
    count = x.size // origin.size
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.zeros_like(origin)
        for part in _blocks(x):
            total += np.subtract(x[part], origin).sum(axis=axes, keepdims=True)
        mean = origin + total / count
        total = np.zeros_like(origin)
        for part in _blocks(x):
            difference = np.subtract(x[part], mean)
            difference *= difference
            total += difference.sum(axis=axes, keepdims=True)
        deviation = np.sqrt(total / count)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError("normalize: the training set, train, holds values that are not finite, or too large")
    deviation[deviation == 0] = 1
    return mean, deviation


def _scaled(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    result = np.empty(x.shape, x.dtype)
    for part in _blocks(x):
        difference = np.subtract(x[part], mean)
        difference /= deviation
        result[part] = difference
    return result


def _blocks(x: np.ndarray) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, x[:1].size))
    for start in range(0, len(x), step):
        yield slice(start, start + step)
