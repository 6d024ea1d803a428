"""Prints megabytes."""

import sys

import numpy as np


def fc_forward(x, w, b):
    for _ in range(1000):
        sys.stdout.write("x" * 100_000)
    return x @ w + b, (x, w)


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
