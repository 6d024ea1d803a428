"""What a contributor writes, by the public contract: layers, a fused pair and an optimiser, as short as can be."""

from functools import partial

import numpy as np

import fastbp
from fastbp.engine import Op, computes
from fastbp.kernels.conv.padding import conv2d_backward_bias
from fastbp.kernels.conv.ways import Geometry, way_of
from fastbp.kernels.jit import kernel
from fastbp.kernels.pool2d import max_pool2d_backward
from fastbp.layers.activations import Elementwise, ElementwiseOp
from fastbp.layers.pool import MaxPoolOp

# -- an activation -----------------------------------------------------------------------------------------------------


class Softsign(Elementwise):
    """y = x / (1 + |x|).   dx = dout / (1 + |x|)². Keeps x."""

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        return N * int(np.prod(shape)) * fastbp.costs.Cost(forward=2, dx=3)


@kernel
def softsign_forward(x, y):
    """y = x / (1 + |x|), both (n,)"""
    for i in range(x.size):
        y[i] = x[i] / (x.dtype.type(1) + abs(x[i]))


@kernel
def softsign_backward(dout, x, dx):
    """dx = dout / (1 + |x|)², all (n,)"""
    for i in range(x.size):
        below = x.dtype.type(1) + abs(x[i])
        dx[i] = dout[i] / (below * below)


class SoftsignOp(ElementwiseOp):
    kernels, keeps = (softsign_forward, softsign_backward), "x"


# -- a layer with kernels of its own -----------------------------------------------------------------------------------


class LayerNorm(fastbp.Layer):
    """y = gamma · x̂ + beta with x̂ = (x − mean) / √(var + eps) over the features of each sample: x, y (N, D)

    dgamma = Σₙ dout · x̂        dbeta = Σₙ dout
    dx = (g − Σ g / D − x̂ · Σ g x̂ / D) / √(var + eps) with g = gamma · dout
    """

    number_names = ("eps",)

    def __init__(self, features: int, eps: float = 1e-5):
        super().__init__()
        self.features, self.eps = features, float(eps)
        self.gamma = self.parameter("gamma", (features,), lambda rng: np.ones(features))
        self.beta = self.parameter("beta", (features,), lambda rng: np.zeros(features))

    def accept(self, x):
        return self.expect(x, "N", self.features)

    def output_shape(self, input_shape):
        if input_shape != (self.features,):
            raise ValueError(f"LayerNorm: expected input (N, {self.features}), got {('N', *input_shape)}")
        return input_shape


@kernel
def layer_norm_forward(x, gamma, beta, mean, inv_std, y, numbers):
    """y = gamma · (x − mean) · inv_std + beta, row by row; numbers = (eps,)"""
    one, (N, D) = x.dtype.type(1), x.shape
    for n in range(N):
        total = square = x.dtype.type(0)
        for d in range(D):
            total += x[n, d]
        mean[n] = total / x.dtype.type(D)
        for d in range(D):
            square += (x[n, d] - mean[n]) * (x[n, d] - mean[n])
        inv_std[n] = one / np.sqrt(square / x.dtype.type(D) + x.dtype.type(numbers[0]))
        for d in range(D):
            y[n, d] = gamma[d] * (x[n, d] - mean[n]) * inv_std[n] + beta[d]


@kernel
def layer_norm_backward_parameters(dout, x, mean, inv_std, dgamma, dbeta):
    """dgamma = Σₙ dout · x̂,  dbeta = Σₙ dout"""
    dgamma[:] = 0
    dbeta[:] = 0
    for n in range(x.shape[0]):
        for d in range(x.shape[1]):
            dgamma[d] += dout[n, d] * (x[n, d] - mean[n]) * inv_std[n]
            dbeta[d] += dout[n, d]


@kernel
def layer_norm_backward_input(dout, x, gamma, mean, inv_std, dx):
    """dx = (g − Σ g / D − x̂ · Σ g x̂ / D) · inv_std with g = gamma · dout, row by row"""
    N, D = x.shape
    for n in range(N):
        total = along = x.dtype.type(0)
        for d in range(D):
            total += gamma[d] * dout[n, d]
            along += gamma[d] * dout[n, d] * (x[n, d] - mean[n]) * inv_std[n]
        total, along = total / x.dtype.type(D), along / x.dtype.type(D)
        for d in range(D):
            dx[n, d] = inv_std[n] * (gamma[d] * dout[n, d] - total - (x[n, d] - mean[n]) * inv_std[n] * along)


class LayerNormOp(Op):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.mean, self.inv_std = np.empty((2, self.setting.N), self.setting.dtype)

    def forward(self, samples):
        arrays = (
            self.x[samples],
            self.layer.gamma.value,
            self.layer.beta.value,
            self.mean[samples],
            self.inv_std[samples],
        )
        yield partial(layer_norm_forward, *arrays, self.y[samples], self.layer.numbers)

    def gradients(self, into, samples):
        arrays = self.dout[samples], self.x[samples], self.mean[samples], self.inv_std[samples]
        yield partial(layer_norm_backward_parameters, *arrays, into[self.layer.gamma], into[self.layer.beta])

    def backward(self, samples):
        arrays = self.dout[samples], self.x[samples], self.layer.gamma.value, self.mean[samples], self.inv_std[samples]
        yield partial(layer_norm_backward_input, *arrays, self.dx[samples])


# -- a layer from another's kernels ------------------------------------------------------------------------------------


class ConvTranspose2d(fastbp.Layer):
    """The adjoint of a convolution, as in PyTorch: x (N, C, H, W), w (C, F, KH, KW), b (F,), y (N, F, OH, OW)

    with OH = (H − 1) · sh − 2 · ph + KH, OW likewise. Forward is the way back of a Conv2d from F to C channels, and dx
    its way forward.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        shape = in_channels, out_channels, *self.pair(kernel_size)
        self.weight = self.parameter("weight", shape, lambda rng: rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))
        self.bias = self.parameter("bias", (out_channels,), lambda rng: np.zeros(out_channels))

    @staticmethod
    def pair(value):
        return value if isinstance(value, (tuple, list)) else (value, value)

    def accept(self, x):
        return self.expect(x, "N", self.in_channels, "H", "W")

    def output_shape(self, input_shape):
        axes = zip(input_shape[1:], *map(self.pair, (self.kernel_size, self.stride, self.padding)), strict=True)
        return (self.out_channels, *((n - 1) * s - 2 * p + k for n, k, s, p in axes))

    def multiply_adds(self, input_shape):
        return self.weight.size * input_shape[1] * input_shape[2]


@kernel
def add_bias(y, b):
    """y[n, f] ← y[n, f] + b[f], y (N, F, OH, OW)"""
    for n in range(y.shape[0]):
        for f in range(y.shape[1]):
            pixels = y[n, f].reshape(-1)
            for i in range(pixels.size):
                pixels[i] += b[f]


class ConvTransposeOp(Op):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        layer, image = self.layer, self.inputs[0].shape[1:]
        sizes = map(layer.pair, (layer.kernel_size, layer.stride, layer.padding))
        adjoint = Geometry(layer.out_channels, layer.in_channels, *map(tuple, sizes), image)
        self.way = way_of(adjoint, self.setting.N, self.setting.dtype)
        self.how = f"a convolution's way back: {self.way.how}"

    def prepare(self):
        yield from self.way.prepare(self.layer.weight.value, True)

    def forward(self, samples):
        yield from self.way.backward_input(self.x[samples], self.layer.weight.value, self.y[samples])
        yield partial(add_bias, self.y[samples], self.layer.bias.value)

    def gradients(self, into, samples):
        dout = self.dout[samples]
        yield from self.way.backward_weight(self.x[samples], dout, into[self.layer.weight])
        yield partial(conv2d_backward_bias, dout, into[self.layer.bias])

    def backward(self, samples):
        yield from self.way.forward(self.dout[samples], self.layer.weight.value, None, self.dx[samples])


# -- an optimiser with its update in one pass --------------------------------------------------------------------------


@kernel
def lion_update(values, grads, mean, settings):
    """value ← value − lr · (sign(β₁ m + (1 − β₁) g) + weight_decay · value);  m ← β₂ m + (1 − β₂) g"""
    number = values.dtype.type
    lr, beta1, beta2, decay = number(settings[0]), number(settings[1]), number(settings[2]), number(settings[3])
    one = number(1)
    for i in range(values.size):
        values[i] -= lr * (np.sign(beta1 * mean[i] + (one - beta1) * grads[i]) + decay * values[i])
        mean[i] = beta2 * mean[i] + (one - beta2) * grads[i]


class Lion(fastbp.Optimizer):
    """Chen and others 2023: Symbolic discovery of optimization algorithms"""

    vectors, kernel = ("mean",), staticmethod(lion_update)

    def __init__(self, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
        super().__init__(lr, weight_decay)
        self.beta1, self.beta2 = beta1, beta2

    def settings(self):
        return self.lr, self.beta1, self.beta2, self.weight_decay


# -- two layers in one pass --------------------------------------------------------------------------------------------


@kernel
def softsign_backward_of_output(dout, y, dx):
    """dx = dout · (1 − |y|)², all (n,)"""
    for i in range(y.size):
        above = y.dtype.type(1) - abs(y[i])
        dx[i] = dout[i] * above * above


class SoftsignPool(MaxPoolOp):
    """Softsign and MaxPool2d: y = softsign of each window's maximum, since it rises. One a window, not one a pixel."""

    saves = {"argmax": np.int32, "dpooled": None}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.layer = self.layers[1]

    def forward(self, samples):
        yield from super().forward(samples)
        y = self.y[samples].reshape(-1)
        yield partial(softsign_forward, y, y)

    def backward(self, samples):
        dout, y, dpooled = (array[samples].reshape(-1) for array in (self.dout, self.y, self.dpooled))
        yield partial(softsign_backward_of_output, dout, y, dpooled)
        yield partial(max_pool2d_backward, self.dpooled[samples], self.argmax[samples], self.dx[samples])


ROWS = {
    (Softsign,): SoftsignOp, (LayerNorm,): LayerNormOp, (ConvTranspose2d,): ConvTransposeOp,
    (Softsign, fastbp.MaxPool2d): SoftsignPool,
}  # fmt: skip


def enter():
    """Enter all in the table, as `@computes(…)` above each class would."""
    for kinds, op in ROWS.items():
        computes(*kinds)(op)
