"""A submission for examples/own_assignment.py, as a student might write it, with one mistake in a backward pass."""

import numpy as np


def leaky_forward(x, slope):
    out = np.where(x > 0, x, slope * x)
    return out, (x, slope)


def leaky_backward(dout, cache):
    x, slope = cache
    return dout * np.where(x < 0, 1, slope)


def mse_loss(x, target):
    difference = x - target
    return np.mean(difference**2), 2 * difference / difference.size
