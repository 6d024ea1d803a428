"""Activations, each with its op: ReLU, LeakyReLU, Sigmoid, Tanh, GELU, SiLU on arrays of any shape, Softmax and
LogSoftmax on (N, C)."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from ..arguments import Setting, choice, number
from ..engine.graph import Wire
from ..engine.ops import Op, computes, flat
from ..flops import Cost
from ..kernels import activations, softmax
from .base import Layer


class Elementwise(Layer):
    """A function of each element of x, of any shape; dx has the shape of x. The kernels take flat arrays.

    `kind` is its number for the kernel `activate`, by which the op of a layer before can make it in its own pass.
    """

    kind: int | None = None

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


class Activation(NamedTuple):
    """An activation that an op makes in its own pass: y = activate(z, kind, numbers), z the op's output, y another's.

    Both may have the same memory. In the op's method: `yield activation.call(self.y, samples)`.
    """

    kind: int
    numbers: np.ndarray
    wire: Wire

    @classmethod
    def of(cls, layer: Elementwise, wire: Wire) -> "Activation":
        """That of a layer, whose output is this wire."""
        return cls(layer.kind, layer.numbers, wire)

    def call(self, z: np.ndarray, samples: slice) -> partial:
        """The call of the kernel for some samples."""
        return partial(activations.activate, flat(z[samples]), flat(self.wire.array[samples]), self.kind, self.numbers)

    def call_back(self, dout: np.ndarray, dz: np.ndarray, samples: slice) -> partial:
        """That of dz = dout · the derivative, where y tells it."""
        arrays = flat(dout[samples]), flat(self.wire.array[samples]), flat(dz[samples])
        return partial(activations.activate_backward, *arrays, self.kind, self.numbers)


class ReLU(Elementwise):
    """y = max(x, 0).   dx = dout where y > 0, else 0: the subgradient at the kink is 0. Keeps y."""

    kind = activations.RELU

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

    kind = activations.LEAKY_RELU
    negative_slope, number_names = Setting(number), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def __setattr__(self, name, value):
        rising = self.rising
        super().__setattr__(name, value)
        if self.rising != rising and self.network is not None:
            self.network.forget_engines()  # another op may compute it

    @property
    def rising(self) -> bool:
        """Does y have the sign of x, or is 0? Then the derivative can be told from y."""
        return self.__dict__.get("negative_slope", 0) >= 0

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=2, dx=2)


@computes(LeakyReLU)
class LeakyReLUOp(ElementwiseOp):
    kernels = activations.leaky_relu_forward, activations.leaky_relu_backward
    keeps = "x"


class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ), without overflow for any x.   dx = dout · y (1 − y). Keeps y."""

    kind = activations.SIGMOID

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=3, dx=3)


@computes(Sigmoid)
class SigmoidOp(ElementwiseOp):
    kernels = activations.sigmoid_forward, activations.sigmoid_backward


class Tanh(Elementwise):
    """y = tanh(x).   dx = dout · (1 − y²). Keeps y."""

    kind = activations.TANH

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=1, dx=3)


@computes(Tanh)
class TanhOp(ElementwiseOp):
    kernels = activations.tanh_forward, activations.tanh_backward


class GELU(Elementwise):
    """y = x Φ(x), with Φ the standard normal distribution: x (1 + erf(x / √2)) / 2.   dx = dout · (Φ(x) + x φ(x))

    With approximate="tanh" y = x (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³), within 5e-4 of it:
    dx = dout · (1 + tanh u + x (1 − tanh² u) du/dx) / 2

    φ(x) = e^(−x²/2) / √(2π) is Φ's derivative. Keeps x. Both to full precision, also where y is nearly 0; as in
    PyTorch, −∞ gives NaN.

    >>> GELU().forward(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """

    approximate = Setting(choice, fixed=True, options=("none", "tanh"))

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    @property
    def kind(self) -> int:
        return activations.GELU_TANH if self.approximate == "tanh" else activations.GELU

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        one = Cost(forward=9, dx=18) if self.approximate == "tanh" else Cost(forward=5, dx=11)
        return N * math.prod(shape) * one


@computes(GELU)
class GELUOp(ElementwiseOp):
    keeps = "x"

    @property
    def kernels(self):
        if self.layer.approximate == "tanh":
            return activations.gelu_tanh_forward, activations.gelu_tanh_backward
        return activations.gelu_forward, activations.gelu_backward


class SiLU(Elementwise):
    """y = x σ(x) with σ(x) = 1 / (1 + e⁻ˣ), also called swish.   dx = dout · σ(x) (1 + x (1 − σ(x))). Keeps x.

    As in PyTorch, −∞ gives NaN.
    """

    kind = activations.SILU

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * math.prod(shape) * Cost(forward=4, dx=8)


@computes(SiLU)
class SiLUOp(ElementwiseOp):
    kernels = activations.silu_forward, activations.silu_backward
    keeps = "x"


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
