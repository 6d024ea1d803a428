"""The two kinds of numbers that everything is computed in."""

import contextlib

import numpy as np

from .arguments import shown

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
FLOAT_NAMES = {"float32", "float64", "single", "double", "float", "f4", "f8", "<f4", "<f8", "=f4", "=f8", "f", "d"}


def float_dtype(dtype) -> np.dtype:
    """`dtype` as float32 or float64; anything else is a TypeError."""
    found = None
    if isinstance(dtype, (type, np.dtype)) or (isinstance(dtype, str) and dtype in FLOAT_NAMES):
        with contextlib.suppress(Exception):  # of a class that only looks like a dtype
            found = np.dtype(dtype)
    if found is None or found not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {shown(dtype) if found is None else found}")
    return found
