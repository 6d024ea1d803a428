"""Inputs for assignments that leave no doubt: away from kinks and ties, and no two axes of one length."""

import math

import numpy as np


def spread(rng: np.random.Generator, *shape: int, scale: float = 2.0) -> np.ndarray:
    """Numbers from −scale to scale in random order: no two closer than scale / (2 · size).

    When scale is 2, none lies at 0 or ±1.
    """
    size = math.prod(shape)
    steps = np.arange(size) - size / 2 + rng.uniform(0.3, 0.7, size)
    values = rng.permutation(steps * (2 * scale / max(size, 1)))
    near = np.abs(np.abs(values) - 1) < scale / (8 * max(size, 1))
    return np.where(near, values * (1 + scale / (4 * max(size, 1))), values).reshape(shape)


def sizes(rng: np.random.Generator, *ranges: tuple[int, int]) -> list[int]:
    """A size of each range, all different: an axis taken for another then shows."""
    while True:
        drawn = [int(rng.integers(low, high + 1)) for low, high in ranges]
        if len(set(drawn)) == len(drawn):
            return drawn


def labels(rng: np.random.Generator, N: int, C: int) -> np.ndarray:
    """(N,) integers from 0 to C − 1, not all the same where N allows."""
    drawn = rng.integers(0, C, N)
    if N > 1 and C > 1 and len(set(drawn.tolist())) == 1:
        drawn[0] = (drawn[0] + 1) % C
    return drawn


def signs(rng: np.random.Generator, N: int) -> np.ndarray:
    """(N,) integers −1 and +1, both there where N allows."""
    return 2 * labels(rng, N, 2) - 1
