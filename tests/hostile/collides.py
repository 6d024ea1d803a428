"""Returns a dict whose keys are made to collide."""

import numpy as np


def fc_forward(x, w, b):
    return {i * (2**61 - 1): i for i in range(5000)}, None


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
