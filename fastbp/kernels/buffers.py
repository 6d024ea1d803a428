"""Buffers inside a kernel, from the beginning of a cache line on: a vector that fills a line lies in one, not in two.

With AVX-512 every second load of a tile is such a vector: products from panels that begin anywhere are slower.
"""

import numpy as np

from .jit import kernel

LINE = 64  # bytes of a cache line


@kernel
def empty(size, like):
    """Room for `size` numbers of like's dtype, and a line more"""
    line = LINE // like.itemsize
    raw = np.empty(size + 2 * line if size else 0, like.dtype)
    return raw[-(raw.ctypes.data // like.itemsize) % line :]


@kernel
def zeros(size, like):
    """The same, all 0"""
    made = empty(size, like)
    made[:] = 0
    return made
