"""Activations: ReLU, LeakyReLU, Sigmoid, Tanh on arrays of any shape, Softmax and LogSoftmax on (N, C)."""

import math
from functools import partial

from ..arguments import Setting, number
from ..costs import Cost
from ..kernels import activations, softmax
from .base import Layer


class Elementwise(Layer):
    """A function of each element of x, of any shape; dx has the shape of x. The kernels take flat arrays."""

    def accept(self, x):
        return self.expect(x, ...)

    def batch_shape(self, shape):
        return shape

    def output_shape(self, input_shape):
        return self.sample_shape(input_shape)


class ReLU(Elementwise):
    """y = max(x, 0).   dx = dout where y > 0, else 0: the subgradient at the kink is 0. Keeps y."""

    def forward_calls(self, p):
        yield partial(activations.relu_forward, p.x.reshape(-1), p.y.reshape(-1))

    def input_calls(self, p):
        yield partial(activations.relu_backward, p.dout.reshape(-1), p.y.reshape(-1), p.dx.reshape(-1))

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=1)


class LeakyReLU(Elementwise):
    """y = x where x > 0, else negative_slope · x.

    dx = dout where x > 0, else negative_slope · dout: the value at the kink is negative_slope. Keeps x.
    """

    negative_slope = Setting(number)

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def forward_calls(self, p):
        yield partial(activations.leaky_relu_forward, p.x.reshape(-1), p.y.reshape(-1), self.negative_slope)

    def input_calls(self, p):
        flat = p.dout.reshape(-1), p.x.reshape(-1), p.dx.reshape(-1)
        yield partial(activations.leaky_relu_backward, *flat, self.negative_slope)

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=2, dx=2)


class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ), without overflow for any x.   dx = dout · y (1 − y). Keeps y."""

    def forward_calls(self, p):
        yield partial(activations.sigmoid_forward, p.x.reshape(-1), p.y.reshape(-1))

    def input_calls(self, p):
        yield partial(activations.sigmoid_backward, p.dout.reshape(-1), p.y.reshape(-1), p.dx.reshape(-1))

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=3, dx=3)


class Tanh(Elementwise):
    """y = tanh(x).   dx = dout · (1 − y²). Keeps y."""

    def forward_calls(self, p):
        yield partial(activations.tanh_forward, p.x.reshape(-1), p.y.reshape(-1))

    def input_calls(self, p):
        yield partial(activations.tanh_backward, p.dout.reshape(-1), p.y.reshape(-1), p.dx.reshape(-1))

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=3)


class RowWise(Layer):
    """A function of each row of x (N, C), one row a sample."""

    def accept(self, x):
        return self.expect(x, "N", "C")

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"{type(self).__name__}: expected input (N, C) with C of at least 1, got {('N', *shape)}")
        return shape


class Softmax(RowWise):
    """y[n, c] = exp(x[n, c]) / Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum so that nothing overflows.

    dx[n, c] = y[n, c] (dout[n, c] − Σ_k dout[n, k] y[n, k]). Keeps y.

    To train a classifier use the loss SoftmaxCrossEntropy on the scores instead: it is exact where y underflows.
    """

    def forward_calls(self, p):
        yield partial(softmax.softmax_forward, p.x, p.y)

    def input_calls(self, p):
        yield partial(softmax.softmax_backward, p.dout, p.y, p.dx)

    def costs(self, input_shape, N):
        (C,), N = self.batch_of(input_shape, N)
        return N * Cost(forward=5 * C - 2, dx=4 * C - 1)


class LogSoftmax(RowWise):
    """y[n, c] = x[n, c] − log Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum.

    dx[n, c] = dout[n, c] − exp(y[n, c]) Σ_k dout[n, k]. Keeps y.
    """

    def forward_calls(self, p):
        yield partial(softmax.log_softmax_forward, p.x, p.y)

    def input_calls(self, p):
        yield partial(softmax.log_softmax_backward, p.dout, p.y, p.dx)

    def costs(self, input_shape, N):
        (C,), N = self.batch_of(input_shape, N)
        return N * Cost(forward=5 * C - 1, dx=4 * C - 1)
