"""Activations: ReLU, LeakyReLU, Sigmoid, Tanh on arrays of any shape, Softmax and LogSoftmax on (N, C)."""

import math

from ..kernels import activations, softmax
from .base import Layer


class Elementwise(Layer):
    """A function of each element of x, of any shape; dx has the shape of x. Subclasses call kernels on flat arrays."""

    def forward(self, x, training=False, out=None):
        x = self.expect(x, ...)
        y = self.buffer(out, x.shape, x)
        self.cache = self._forward(x, y)
        return y

    def backward(self, dout, need_dx=True, out=None):
        (kept,) = self.cache
        dout = self.expect(dout, *kept.shape, what="dout")
        if not need_dx:
            return None
        dx = self.buffer(out, kept.shape, dout)
        self._backward(dout, kept, dx)
        return dx

    def output_shape(self, input_shape):
        return tuple(input_shape)


class ReLU(Elementwise):
    """y = max(x, 0).   dx = dout where y > 0, else 0: the subgradient at the kink is 0. Keeps y."""

    def _forward(self, x, y):
        activations.relu_forward(x.reshape(-1), y.reshape(-1))
        return (y,)

    def _backward(self, dout, y, dx):
        activations.relu_backward(dout.reshape(-1), y.reshape(-1), dx.reshape(-1))


class LeakyReLU(Elementwise):
    """y = x where x > 0, else negative_slope · x.

    dx = dout where x > 0, else negative_slope · dout: the value at the kink is negative_slope. Keeps x.
    """

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        self.negative_slope = float(negative_slope)
        if not math.isfinite(self.negative_slope):
            raise ValueError(f"LeakyReLU: negative_slope must be finite, got {negative_slope}")

    def _forward(self, x, y):
        activations.leaky_relu_forward(x.reshape(-1), y.reshape(-1), self.negative_slope)
        return (x,)

    def _backward(self, dout, x, dx):
        activations.leaky_relu_backward(dout.reshape(-1), x.reshape(-1), dx.reshape(-1), self.negative_slope)


class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ), without overflow for any x.   dx = dout · y (1 − y). Keeps y."""

    def _forward(self, x, y):
        activations.sigmoid_forward(x.reshape(-1), y.reshape(-1))
        return (y,)

    def _backward(self, dout, y, dx):
        activations.sigmoid_backward(dout.reshape(-1), y.reshape(-1), dx.reshape(-1))


class Tanh(Elementwise):
    """y = tanh(x).   dx = dout · (1 − y²). Keeps y."""

    def _forward(self, x, y):
        activations.tanh_forward(x.reshape(-1), y.reshape(-1))
        return (y,)

    def _backward(self, dout, y, dx):
        activations.tanh_backward(dout.reshape(-1), y.reshape(-1), dx.reshape(-1))


class RowWise(Elementwise):
    """A function of each row of x (N, C), one row a sample."""

    def forward(self, x, training=False, out=None):
        x = self.expect(x, "N", "C")
        self.output_shape(x.shape[1:])
        return super().forward(x, training, out)

    def output_shape(self, input_shape):
        if len(input_shape) != 1 or input_shape[0] < 1:
            raise ValueError(f"{type(self).__name__}: expected input (N, C) with C of at least 1, got {('N', *input_shape)}")
        return tuple(input_shape)


class Softmax(RowWise):
    """y[n, c] = exp(x[n, c]) / Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum so that nothing overflows.

    dx[n, c] = y[n, c] (dout[n, c] − Σ_k dout[n, k] y[n, k]). Keeps y.

    To train a classifier use the loss SoftmaxCrossEntropy on the scores instead: it is exact where y underflows.
    """

    def _forward(self, x, y):
        softmax.softmax_forward(x, y)
        return (y,)

    def _backward(self, dout, y, dx):
        softmax.softmax_backward(dout, y, dx)


class LogSoftmax(RowWise):
    """y[n, c] = x[n, c] − log Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum.

    dx[n, c] = dout[n, c] − exp(y[n, c]) Σ_k dout[n, k]. Keeps y.
    """

    def _forward(self, x, y):
        softmax.log_softmax_forward(x, y)
        return (y,)

    def _backward(self, dout, y, dx):
        softmax.log_softmax_backward(dout, y, dx)
