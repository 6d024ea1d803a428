"""Reads memory that is not there."""

import numpy as np


def fc_forward(x, w, b):
    return np.lib.stride_tricks.as_strided(x, (10,), (1 << 40,)).copy(), None


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
