"""Activations: ReLU, LeakyReLU, Sigmoid, Tanh on arrays of any shape, Softmax and LogSoftmax on (N, C), each with its
op."""

import math
from functools import partial

from ..arguments import Setting, number
from ..engine.ops import Op, computes, flat
from ..flops import Cost
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


class ElementwiseOp(Op):
    """`kernels` forward(x, y) and backward(dout, kept, dx) on flat arrays, where `kept` is x or y.

    A layer with `number_names` has its numbers given to both kernels at the end.
    """

    kernels = None, None
    keeps = "y"

    def forward(self, samples):
        yield partial(self.kernels[0], flat(self.x[samples]), flat(self.y[samples]), *self._numbers())

    def backward(self, samples):
        kept, dx = flat(getattr(self, self.keeps)[samples]), flat(self.dx[samples])
        yield partial(self.kernels[1], flat(self.dout[samples]), kept, dx, *self._numbers())

    def _numbers(self):
        return (self.layer.numbers,) if self.layer.number_names else ()


class ReLU(Elementwise):
    """y = max(x, 0).   dx = dout where y > 0, else 0: the subgradient at the kink is 0. Keeps y."""

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=1)


@computes(ReLU)
class ReLUOp(ElementwiseOp):
    kernels = activations.relu_forward, activations.relu_backward


class LeakyReLU(Elementwise):
    """y = x where x > 0, else negative_slope · x.

    dx = dout where x > 0, else negative_slope · dout: the value at the kink is negative_slope. Keeps x.
    """

    negative_slope, number_names = Setting(number), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=2, dx=2)


@computes(LeakyReLU)
class LeakyReLUOp(ElementwiseOp):
    kernels = activations.leaky_relu_forward, activations.leaky_relu_backward
    keeps = "x"


class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ), without overflow for any x.   dx = dout · y (1 − y). Keeps y."""

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=3, dx=3)


@computes(Sigmoid)
class SigmoidOp(ElementwiseOp):
    kernels = activations.sigmoid_forward, activations.sigmoid_backward


class Tanh(Elementwise):
    """y = tanh(x).   dx = dout · (1 − y²). Keeps y."""

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=3)


@computes(Tanh)
class TanhOp(ElementwiseOp):
    kernels = activations.tanh_forward, activations.tanh_backward


class RowWise(Layer):
    """A function of each row of x (N, C), one row a sample."""

    def accept(self, x):
        return self.expect(x, "N", "C")

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"{type(self).__name__}: expected input (N, C) with C of at least 1, got {('N', *shape)}")
        return shape


class RowWiseOp(Op):
    """`kernels` forward(x, y) and backward(dout, y, dx) on rows, one for each sample."""

    kernels = None, None

    def forward(self, samples):
        yield partial(self.kernels[0], self.x[samples], self.y[samples])

    def backward(self, samples):
        yield partial(self.kernels[1], self.dout[samples], self.y[samples], self.dx[samples])


class Softmax(RowWise):
    """y[n, c] = exp(x[n, c]) / Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum so that nothing overflows.

    dx[n, c] = y[n, c] (dout[n, c] − Σ_k dout[n, k] y[n, k]). Keeps y.

    To train a classifier use the loss SoftmaxCrossEntropy on the scores instead: it is exact where y underflows.
    """

    def costs(self, input_shape, N):
        (C,), N = self.batch_of(input_shape, N)
        return N * Cost(forward=5 * C - 2, dx=4 * C - 1)


@computes(Softmax)
class SoftmaxOp(RowWiseOp):
    kernels = softmax.softmax_forward, softmax.softmax_backward


class LogSoftmax(RowWise):
    """y[n, c] = x[n, c] − log Σ_k exp(x[n, k]) for x (N, C), shifted by each row's maximum.

    dx[n, c] = dout[n, c] − exp(y[n, c]) Σ_k dout[n, k]. Keeps y.
    """

    def costs(self, input_shape, N):
        (C,), N = self.batch_of(input_shape, N)
        return N * Cost(forward=5 * C - 1, dx=4 * C - 1)


@computes(LogSoftmax)
class LogSoftmaxOp(RowWiseOp):
    kernels = softmax.log_softmax_forward, softmax.log_softmax_backward
