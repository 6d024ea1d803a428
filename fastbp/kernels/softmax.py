"""Softmax and its logarithm over the last axis: x, y, dout, dx (N, C).

Each row is shifted by its maximum before the exponential: the result is unchanged and nothing overflows.
"""

import numpy as np

from .jit import kernel


@kernel
def log_sum_exp(row):
    """log Σ_c exp(row[c]) of one row (C,), as m + log Σ_c exp(row[c] − m) with m the row's maximum"""
    m = row[0]
    for c in range(1, row.size):
        if row[c] > m:
            m = row[c]
    total = row.dtype.type(0)
    for c in range(row.size):
        total += np.exp(row[c] - m)
    return m + np.log(total)


@kernel
def softmax_forward(x, y):
    """y[n, c] = exp(x[n, c]) / Σ_k exp(x[n, k])"""
    for n in range(x.shape[0]):
        log_sum = log_sum_exp(x[n])
        for c in range(x.shape[1]):
            y[n, c] = np.exp(x[n, c] - log_sum)


@kernel
def softmax_backward(dout, y, dx):
    """dx[n, c] = y[n, c] (dout[n, c] − Σ_k dout[n, k] y[n, k])"""
    for n in range(y.shape[0]):
        mean = y.dtype.type(0)
        for k in range(y.shape[1]):
            mean += dout[n, k] * y[n, k]
        for c in range(y.shape[1]):
            dx[n, c] = y[n, c] * (dout[n, c] - mean)


@kernel
def log_softmax_forward(x, y):
    """y[n, c] = x[n, c] − log Σ_k exp(x[n, k])"""
    for n in range(x.shape[0]):
        log_sum = log_sum_exp(x[n])
        for c in range(x.shape[1]):
            y[n, c] = x[n, c] - log_sum


@kernel
def log_softmax_backward(dout, y, dx):
    """dx[n, c] = dout[n, c] − exp(y[n, c]) Σ_k dout[n, k]"""
    for n in range(y.shape[0]):
        total = y.dtype.type(0)
        for k in range(y.shape[1]):
            total += dout[n, k]
        for c in range(y.shape[1]):
            dx[n, c] = dout[n, c] - np.exp(y[n, c]) * total
