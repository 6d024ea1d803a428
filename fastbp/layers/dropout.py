"""Dropout."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, number
from ..engine.neighbours import VANISHING
from ..engine.ops import Op, computes, flat
from ..flops import Cost
from ..kernels import dropout
from .base import Layer


class Dropout(Layer):
    """Drops each element with probability `rate` in training and scales the kept by 1 / (1 − rate); x of any shape.

    Training:   y = x · m / (1 − rate), with m 1 where the element is kept and 0 where it is dropped
                dx = dout · m / (1 − rate)
    Evaluation: y = x, dx = dout

    What is dropped becomes 0, but NaN and infinity, whose products with 0 are NaN, become NaN.

    Whether an element is kept is a function of (key, step, its index): `state["key"]` is set by the network from its
    seed, `state["step"]` counts the training passes. Set the step back to replay a mask.
    """

    rate, number_names = Setting(number, least=0, below=1), ("rate",)

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.state |= {"key": np.zeros((), np.uint64), "step": np.zeros((), np.int64)}

    def accept(self, x):
        return self.expect(x, ...)

    def batch_shape(self, shape):
        return shape

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=1)

    def output_shape(self, input_shape):
        return self.sample_shape(input_shape)


@computes(Dropout)
class DropoutOp(Op):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.key = np.zeros(1, np.uint64)
        self.rate = self.layer.numbers if self.setting.training else np.zeros(1)
        self.copies = not self.setting.training

    def prepare(self):
        """A training pass takes the next step's key; evaluation drops nothing."""
        if self.setting.training:
            yield partial(dropout.next_key, self.layer.state["key"], self.layer.state["step"], self.key)

    def forward(self, samples):
        """y = x · m / (1 − rate)"""
        yield self._masked(self.x[samples], self.y[samples], samples)

    def backward(self, samples):
        """dx = dout · m / (1 − rate)"""
        yield self._masked(self.dout[samples], self.dx[samples], samples)

    def _masked(self, x, y, samples):
        first = samples.start * math.prod(x.shape[1:])
        return partial(dropout.dropout_forward, flat(x), flat(y), self.key, first, self.rate)


VANISHING.add(Dropout)
