"""Sets an alarm that kills the process later, in another item."""

import signal

import numpy as np


def fc_forward(x, w, b):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    return x @ w + b, (x, w)


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
