"""Dropout."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, number
from ..costs import Cost
from ..kernels import dropout
from .base import Layer


class Dropout(Layer):
    """Drops each element with probability `rate` in training and scales the kept by 1 / (1 − rate); x of any shape.

    Training:   y = x · m / (1 − rate), with m 1 where the element is kept and 0 where it is dropped
                dx = dout · m / (1 − rate)
    Evaluation: y = x, dx = dout

    What is dropped becomes 0, but NaN and infinity, whose products with 0 are NaN, become NaN.

    Whether an element is kept is a function of (key, step, its index): `state["key"]` is set by the network from its seed,
    `state["step"]` counts the training passes. Set the step back to replay a mask.
    """

    rate = Setting(number, least=0, below=1)

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.state |= {"key": np.zeros((), np.uint64), "step": np.zeros((), np.int64)}

    def accept(self, x):
        return self.expect(x, ...)

    def batch_shape(self, shape):
        return shape

    def prepare_calls(self, p):
        """A training pass takes the next step's key; evaluation drops nothing."""
        p.key = np.zeros(1, np.uint64)
        if p.training:
            yield partial(dropout.next_key, self.state["key"], self.state["step"], p.key)

    def forward_calls(self, p):
        """y = x · m / (1 − rate)"""
        yield self._masked(p.x, p.y, p)

    def input_calls(self, p):
        """dx = dout · m / (1 − rate)"""
        yield self._masked(p.dout, p.dx, p)

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=1)

    def _masked(self, x, y, p):
        first, rate = p.first * math.prod(x.shape[1:]), self.rate if p.training else 0.0
        return partial(dropout.dropout_forward, x.reshape(-1), y.reshape(-1), p.key, first, rate)

    def output_shape(self, input_shape):
        return self.sample_shape(input_shape)
