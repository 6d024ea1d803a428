"""Writes file after file."""

import time

import numpy as np


def fc_forward(x, w, b):
    for i in range(1000):
        with open(f"file{i}", "wb") as file:
            file.write(bytes(1 << 20))
        time.sleep(0.005)
    return x @ w + b, (x, w)


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
