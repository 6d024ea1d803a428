"""Raises an error that cannot be printed."""

import numpy as np


class Unprintable(Exception):
    def __str__(self):
        raise SystemExit


def fc_forward(x, w, b):
    raise Unprintable


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
