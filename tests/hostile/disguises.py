"""Returns lists and arrays that are not what they seem."""

import numpy as np


class Endless(list):
    def __iter__(self):
        while True:
            yield self

    def __len__(self):
        return 3


def fc_forward(x, w, b):
    return Endless([1, 2, 3]), None


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
