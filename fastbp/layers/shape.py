"""Layers that compute nothing: Flatten and Identity."""

import math

import numpy as np

from .base import Layer


class Copy(Layer):
    """y is x in another shape, a copy; dx is dout in x's shape, a copy."""

    def forward(self, x, training=False, out=None):
        x = self.expect(x, "N", ...)
        y = self.buffer(out, (len(x), *self.output_shape(x.shape[1:])), x)
        np.copyto(y, x.reshape(y.shape))
        self.cache = (x.shape, y.shape)
        return y

    def backward(self, dout, need_dx=True, out=None):
        x_shape, y_shape = self.cache
        dout = self.expect(dout, *y_shape, what="dout")
        if not need_dx:
            return None
        dx = self.buffer(out, x_shape, dout)
        np.copyto(dx, dout.reshape(x_shape))
        return dx


class Flatten(Copy):
    """(N, …) to (N, D) with D the product of the other sizes, in row-major order.

    >>> Flatten().output_shape((16, 5, 5))
    (400,)
    """

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)


class Identity(Copy):
    """y = x, dx = dout."""

    def output_shape(self, input_shape):
        return tuple(input_shape)
