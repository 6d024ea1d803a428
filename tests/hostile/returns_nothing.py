"""Returns nothing."""

import numpy as np


def fc_forward(x, w, b):
    pass


def fc_backward(dout, cache):
    pass


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
