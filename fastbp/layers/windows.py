"""Counting in windows that slide over an image."""

import math


def pixels_held(output: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    """How many pixels, of padding or not, OH×OW windows hold together, each once."""
    return math.prod((n - 1) * min(s, k) + k for n, k, s in zip(output, kernel, stride, strict=True))
