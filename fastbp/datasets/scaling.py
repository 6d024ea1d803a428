"""Bringing inputs to mean 0 and standard deviation 1."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import arguments
from .dataset import KINDS, Split

BLOCK = 1 << 18  # elements worked on at a time, so that float64 never fills the memory


def normalize(train: Split, *others: Split, per: Literal["channel", "pixel"] = "channel") -> tuple[Split, ...]:
    """Return (train, *others) with x replaced by (x - m) / s, as new arrays of the same dtype.

    m and s are the mean and the standard deviation (divisor N) of train.x, for each channel
    over all images and positions (per="channel") or for each input position over all images
    (per="pixel"). Where train.x is constant s is 1. All is computed in float64, in blocks.

    x is floating, of shape (N, C, ...); the labels are handed on as they are.

    Raises ValueError if per is unknown, train is empty or not finite, or a shape differs from
    train's (per="channel": in the number of channels or of dimensions); TypeError if x is not
    floating, or an argument no pair.
    """
    per = arguments.choice("normalize: per", per, ("channel", "pixel"))
    parts = [
        _part(name, data) for name, data in zip(["train"] + ["others"] * len(others), (train, *others), strict=True)
    ]
    first = parts[0].x
    for x, _ in parts:
        kept = (x.ndim, x.shape[1:2]) if per == "channel" else (x.ndim, x.shape[1:])
        wanted = (first.ndim, first.shape[1:2] if per == "channel" else first.shape[1:])
        if x.ndim < 2 or kept != wanted:
            raise ValueError(
                f"normalize: x must have shape (N, C, ...) and fit the training set's {first.shape}, not {x.shape}"
            )
    if not first.size:
        raise ValueError("normalize: the training set, train, is empty")
    mean, deviation = _statistics(first, per)
    return tuple(Split(_scaled(x, mean, deviation), y) for x, y in parts)


def _part(name: str, data: Any) -> Split:
    """A Split or a pair (x, y) with x as a floating array; y stays what it is, as it is only handed on."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"normalize: {name} must be a Split or a pair (x, y), got {arguments.shown(data)}")
    x, y = arguments.array(f"normalize: {name}: x", data[0], KINDS), data[1]
    if isinstance(y, np.ndarray):
        arguments.array(f"normalize: {name}: y", y, KINDS)
    if x.dtype.kind != "f":
        raise TypeError(f"normalize: {name}: x must be floating, not {x.dtype}")
    return Split(x, y)


def _statistics(x: NDArray[Any], per: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, float64, of shape (1, C, 1, ...) or (1, C, H, W).

    Deviations are first taken from one sample, which makes constants come out exactly.
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


def _scaled(x: NDArray[Any], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[Any]:
    result = np.empty(x.shape, x.dtype)
    for part in _blocks(x):
        difference = np.subtract(x[part], mean)
        difference /= deviation
        result[part] = difference
    return result


def _blocks(x: NDArray[Any]) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, x[:1].size))
    for start in range(0, len(x), step):
        yield slice(start, start + step)
