"""Returns NaN and infinity."""

import numpy as np


def fc_forward(x, w, b):
    return np.full((x.shape[0], w.shape[1]), np.nan), (x, w)


def fc_backward(dout, cache):
    return np.inf, np.nan, -np.inf


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
