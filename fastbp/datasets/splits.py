"""Cutting data into pieces and walking over it in batches."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import instance, number, whole
from .dataset import Split, checked_pair


def split(
    data: Split | tuple[ArrayLike, ArrayLike],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> tuple[Split, ...]:
    """Cut data at random into disjoint pieces, one for each fraction.

    `data` is a Split or a pair (x, y) of one length N; dtypes are kept, values copied. `fractions` are positive, their
    sum is at most 1. The pieces end at the running sums times N, rounded. What is over is in no piece; with a sum of 1
    nothing is.

    ValueError for x and y of different lengths, fractions that are not as above, a piece that would be empty, and a
    negative seed; TypeError for an argument of another kind.
    """
    x, y = checked_pair("split: data", data)
    if isinstance(fractions, np.ndarray):
        fractions = fractions.ravel().tolist()
    instance("split: fractions", fractions, (tuple, list), "sequence of numbers")
    shares = [number("split: fractions (positive, at most 1)", fraction) for fraction in fractions]
    seed = whole("split: seed", seed, 0)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"split: fractions must be positive and at most 1, got {tuple(shares)}")
    if math.fsum(shares) > 1 + 1e-9:
        raise ValueError(f"split: fractions must have a sum of at most 1, got {math.fsum(shares)}")
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
    """The data without repeated inputs: of equal x the first stays, with its label, in the order given.

    Values are copied. An image that stands in the training and in the test set makes the test too easy: call this
    before `split`.

    >>> distinct((np.array([[1.0], [2.0], [1.0]]), np.array([0, 1, 0])))
    Split(x=(2, 1) float64, y=(2,) int64)

    ValueError for x and y of different lengths; TypeError for data that is no pair of arrays.
    """
    x, y = checked_pair("distinct: data", data)
    seen: dict[bytes, int] = {}
    for n, row in enumerate(x):
        seen.setdefault(row.tobytes(), n)
    kept = np.fromiter(seen.values(), np.int64, len(seen))
    return Split(x[kept], y[kept])


def batches(
    x: ArrayLike, y: ArrayLike, batch_size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk once over (x, y) in batches of batch_size; the last one may be smaller.

    Without rng the order is kept and the batches are views. With a NumPy Generator the order is a new permutation,
    drawn from it at the call, and the batches are copies.

    At the call: ValueError for a batch_size below 1 and lengths that differ; TypeError for a batch_size that is no int
    and an rng that is no Generator.
    """
    x, y = checked_pair("batches", (x, y))
    size = whole("batches: batch_size", batch_size)
    if rng is not None:
        instance("batches: rng", rng, np.random.Generator, "numpy.random.Generator or None")
    return _walk(x, y, size, None if rng is None else rng.permutation(len(x)))


def _walk(x: np.ndarray, y: np.ndarray, size: int, order: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        if order is None:
            yield x[part], y[part]
        else:
            yield x[order[part]], y[order[part]]
