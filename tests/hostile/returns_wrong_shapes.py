"""Returns wrong shapes, and one array where three are due."""

import numpy as np


def fc_forward(x, w, b):
    return np.zeros((0, 7, 1)), (x, w)


def fc_backward(dout, cache):
    return np.zeros(())


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
