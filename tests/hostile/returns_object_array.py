"""Returns an array of objects."""

import numpy as np


def fc_forward(x, w, b):
    return np.array([object(), None]), None


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
