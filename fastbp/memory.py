"""Memory for vectors of parameters and for buffers."""

import math

import numpy as np


def aligned(shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that start on a 64-byte boundary, a cache line and the widest vector register."""
    size = shape if isinstance(shape, int) else math.prod(shape)
    raw = np.zeros(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape)
