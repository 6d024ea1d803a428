"""A number times an array, and the gradient of that number, on flat arrays."""

import numpy as np

from .jit import kernel

LANES = 16  # sums side by side


@kernel
def scale(x, factor, y):
    """y[i] = factor · x[i], all (n,), factor (1,)"""
    number = y.dtype.type(factor[0])
    for i in range(y.size):
        y[i] = number * x[i]


@kernel
def dot(a, b, total):
    """total[0] = Σ a[i] · b[i], a and b (n,), added up in float64"""
    sums = np.zeros(LANES)
    whole = a.size // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            sums[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
    for i in range(whole, a.size):
        sums[i - whole] += np.float64(a[i]) * np.float64(b[i])
    all_of_them = 0.0
    for lane in range(LANES):
        all_of_them += sums[lane]
    total[0] = all_of_them
