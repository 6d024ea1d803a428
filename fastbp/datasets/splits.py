"""Cutting data into pieces and walking over it in batches."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arguments
from .dataset import Split, checked_pair


def split(
    data: Split | tuple[ArrayLike, ArrayLike],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> tuple[Split, ...]:
    """Cut data at random into disjoint pieces, one for each fraction.

    data: a Split or a pair (x, y) of equal length N; dtypes are kept, values copied.
    fractions: positive, of sum at most 1; piece boundaries are the running sums times N,
    rounded. What is over is in no piece; with a sum of 1 nothing is.

    Raises ValueError if x and y differ in length, the fractions are not as above, a piece would be
    empty, or seed is negative; TypeError if an argument is of another kind.
    """
    x, y = checked_pair("split: data", data)
    if isinstance(fractions, np.ndarray):
        fractions = fractions.ravel().tolist()
    arguments.instance("split: fractions", fractions, (tuple, list), "sequence of numbers")
    shares = [arguments.number("split: fractions (positive, at most 1)", fraction) for fraction in fractions]
    seed = arguments.whole("split: seed", seed, 0)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"split: fractions must be positive and at most 1, not {tuple(shares)}")
    if math.fsum(shares) > 1 + 1e-9:
        raise ValueError(f"split: fractions must sum to at most 1, not {math.fsum(shares)}")
    count = len(x)
    ends = [min(count, round(math.fsum(shares[: k + 1]) * count)) for k in range(len(shares))]
    starts = [0, *ends[:-1]]
    for start, end, share in zip(starts, ends, shares, strict=True):
        if start >= end:
            raise ValueError(f"split: fractions: {share} of {count} elements gives an empty piece")
    order = np.random.default_rng(seed).permutation(count)
    parts = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return tuple(Split(x[part], y[part]) for part in parts)


def distinct(data: Split | tuple[ArrayLike, ArrayLike]) -> Split:
    """The data without repeated inputs: of equal x the first stays, with its label, in the order given. Values are copied.

    An image that stands in the training and in the test set makes the test too easy: call this before `split`.

    >>> distinct((np.array([[1.0], [2.0], [1.0]]), np.array([0, 1, 0])))
    Split(x=(2, 1) float64, y=(2,) int64)

    Raises ValueError if x and y differ in length; TypeError if data is no pair of arrays.
    """
    x, y = checked_pair("distinct: data", data)
    seen: dict[bytes, int] = {}
    for n, row in enumerate(x):
        seen.setdefault(row.tobytes(), n)
    kept = np.fromiter(seen.values(), np.int64, len(seen))
    return Split(x[kept], y[kept])


def batches(
    x: ArrayLike, y: ArrayLike, batch_size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Walk once over (x, y) in batches of batch_size; the last one may be smaller.

    Without rng the order is kept and the batches are views. With a NumPy Generator the order
    is a fresh permutation drawn from it at the call, and the batches are copies.

    Raises, at the call, ValueError if batch_size < 1 or the lengths differ; TypeError if
    batch_size is not an integer or rng not a Generator.
    """
    x, y = checked_pair("batches", (x, y))
    size = arguments.whole("batches: batch_size", batch_size)
    if rng is not None:
        arguments.instance("batches: rng", rng, np.random.Generator, "numpy.random.Generator or None")
    return _walk(x, y, size, None if rng is None else rng.permutation(len(x)))


def _walk(
    x: NDArray[Any], y: NDArray[Any], size: int, order: NDArray[np.int64] | None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        if order is None:
            yield x[part], y[part]
        else:
            yield x[order[part]], y[order[part]]
