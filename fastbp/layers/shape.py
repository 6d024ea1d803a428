"""Layers that compute nothing: Flatten and Identity."""

import math
from functools import partial

import numpy as np

from ..engine.ops import Op, computes
from ..flops import Cost
from .base import Layer


class Copy(Layer):
    """y is x in another shape, a copy; dx is dout in x's shape, a copy."""

    def costs(self, input_shape, N):
        self.batch_of(input_shape, N)
        return Cost(forward=0, dx=0)


class Flatten(Copy):
    """(N, …) to (N, D) with D the product of the other sizes, in row-major order.

    >>> Flatten().output_shape((16, 5, 5))
    (400,)
    """

    def output_shape(self, input_shape):
        return (math.prod(self.sample_shape(input_shape)),)


class Identity(Copy):
    """y = x, dx = dout."""

    def output_shape(self, input_shape):
        return self.sample_shape(input_shape)


@computes(Flatten)
@computes(Identity)
class CopyOp(Op):
    how, copies, passes_dout = "no computation", True, True

    def forward(self):
        yield partial(np.copyto, self.y, self.x.reshape(self.y.shape))

    def backward(self):
        yield partial(np.copyto, self.dx, self.dout.reshape(self.dx.shape))
