"""Starts a process that leaves the group and outlives it (by twenty seconds at most)."""

import os
import time

import numpy as np


def fc_forward(x, w, b):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for _ in range(200):
                time.sleep(0.1)
        os._exit(0)
    time.sleep(0.3)
    return x @ w + b, (x, w)


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
