"""Sandwich layers: several layers of a network computed in one pass. Training uses them; their results are those of the layers."""

from functools import partial

import numpy as np

from ..costs import Cost
from ..kernels import norm_relu_pool
from ..kernels.conv.pooled import Pooled
from .activations import ReLU
from .base import Layer
from .conv import Conv2d
from .norm import BatchNorm2d
from .pool import MaxPool2d


class ConvReLUPool(Layer):
    """Conv2d of stride 1, ReLU and 2×2 MaxPool2d, on the convolution's own parameters.

    x (N, C, H, W) · y (N, F, OH // 2, OW // 2) for the convolution's output (N, F, OH, OW)

    Where two pixels of a window differ by less than the bias's rounding, the maximum may be taken at the other one.
    """

    def __init__(self, conv: Conv2d):
        super().__init__()
        self.conv, self.parameters, self.dtype = conv, conv.parameters, conv.dtype

    @staticmethod
    def fits(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> bool:
        """Do these three layers, of this input, make the sandwich?"""
        if not pools_pairs(layers, Conv2d):
            return False
        layers[0].output_shape(input_shape)  # which checks it
        return Pooled.suits(layers[0].convolution(input_shape[1:]), None)

    def way(self, image: tuple[int, int]) -> Pooled:
        """How images (H, W) are convolved and pooled."""
        return Pooled(self.conv.convolution(image), None, self.conv.dtype)

    def algorithm(self, input_shape):
        self.output_shape(input_shape)  # which checks it
        return self.way(input_shape[1:]).how

    def accept(self, x):
        return self.expect(x, "N", self.conv.in_channels, "H", "W")

    def forward_calls(self, p):
        """y = max(0, b + the maximum of each window of w ⋆ x)"""
        w, b = self.conv.weight.value, self.conv.bias and self.conv.bias.value
        p.argmax, p.way = np.empty(p.y.shape, np.int32), self.way(p.x.shape[2:])
        yield from p.way.forward(p.x, w, b, p.y, p.argmax)

    def input_calls(self, p):
        """dx, through the pixels that have a gradient"""
        yield from p.way.backward_input(p.dout, p.y, p.argmax, self.conv.weight.value, p.dx)

    def parameter_calls(self, p, rows=None):
        """dw, db, likewise"""
        dw, db = p.grad(self.conv.weight), self.conv.bias and p.grad(self.conv.bias)
        yield from p.way.backward_weight(p.dout, p.x, p.y, p.argmax, dw, db)

    def __repr__(self) -> str:
        return f"{self.conv!r} + ReLU() + MaxPool2d(2)"

    def multiply_adds(self, input_shape):
        return self.conv.multiply_adds(input_shape)

    def costs(self, input_shape, N):
        return relu_pool_costs(self.conv, input_shape, N)

    def output_shape(self, input_shape):
        F, OH, OW = self.conv.output_shape(input_shape)
        return (F, OH // 2, OW // 2)


class NormReLUPool(Layer):
    """BatchNorm2d, ReLU and 2×2 MaxPool2d, on the batch norm's own parameters and state.

    x (N, C, H, W) · y (N, C, H // 2, W // 2)
    """

    mixes_samples = True

    def __init__(self, norm: BatchNorm2d):
        super().__init__()
        self.norm, self.parameters, self.dtype, self.num_features = norm, norm.parameters, norm.dtype, norm.num_features

    @staticmethod
    def fits(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> bool:
        """Do these three layers, of this input, make the sandwich?"""
        return pools_pairs(layers, BatchNorm2d) and min(layers[0].output_shape(input_shape)[1:]) >= 2

    def algorithm(self, input_shape):
        return "one pass, vectors of 2×2 windows; parameters' gradients over the pooled pixels alone"

    def accept(self, x):
        return self.norm.accept(x)

    def prepare_calls(self, p):
        p.argmax, p.chosen = np.empty(p.y.shape, np.int32), np.empty(p.y.shape, p.y.dtype)
        return self.norm.prepare_calls(p)

    def forward_calls(self, p):
        """y = max(0, the maximum of each window of gamma · x̂ + beta)"""
        gamma, beta, channels = self.norm.gamma.value, self.norm.beta.value, p.channels or (0, self.num_features)
        yield from self.norm.statistics_calls(p)
        batch, kernel = (p.mean, p.inv_std), norm_relu_pool.norm_relu_pool_forward
        yield partial(kernel, p.x, gamma, beta, batch, p.y, p.chosen, p.argmax, channels)

    def parameter_calls(self, p, rows=None):
        """dgamma and dbeta, from the pixels that have a gradient"""
        sums, channels = (p.grad(self.norm.gamma), p.grad(self.norm.beta)), p.channels or (0, self.num_features)
        kernel = norm_relu_pool.norm_relu_pool_backward_parameters
        yield partial(kernel, p.dout, p.y, p.chosen, (p.mean, p.inv_std), *sums, channels)

    def input_calls(self, p):
        """dx, through the mean and the variance too where they are the batch's own"""
        gamma, beta, channels = self.norm.gamma, self.norm.beta, p.channels or (0, self.num_features)
        batch, parameters = (p.mean, p.inv_std), (gamma.value, p.grad(gamma), p.grad(beta))
        kernel = norm_relu_pool.norm_relu_pool_backward_input
        yield partial(kernel, p.dout, p.x, (p.y, p.argmax), batch, parameters, p.dx, channels, p.training)

    def costs(self, input_shape, N):
        return relu_pool_costs(self.norm, input_shape, N)

    def __repr__(self) -> str:
        return f"{self.norm!r} + ReLU() + MaxPool2d(2)"

    def output_shape(self, input_shape):
        C, H, W = self.norm.output_shape(input_shape)
        return (C, H // 2, W // 2)


def relu_pool_costs(layer: Layer, input_shape: tuple[int, ...], N: int) -> Cost:
    """What the layer, ReLU and 2×2 pooling cost, each on its own."""
    shape = layer.output_shape(input_shape)
    return layer.costs(input_shape, N).followed_by(ReLU().costs(shape, N), MaxPool2d(2).costs(shape, N))


def pools_pairs(layers: tuple[Layer, ...], first: type[Layer]) -> bool:
    """Are these a layer of the kind `first`, ReLU and 2×2 pooling, whose methods are the package's own?"""
    if [type(layer) for layer in layers] != [first, ReLU, MaxPool2d]:
        return False
    changed = any(callable(getattr(type(layer), name, None)) for layer in layers for name in vars(layer))
    return layers[2].pairs and not changed


def sandwiches(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> list[Layer]:
    """The layers with each group that makes a sandwich for this input replaced by it."""
    stages, at, shape = [], 0, tuple(input_shape)
    while at < len(layers):
        stage, taken = layers[at], 1
        for sandwich in (ConvReLUPool, NormReLUPool):
            if sandwich.fits(layers[at : at + 3], shape):
                stage, taken = sandwich(layers[at]), 3
        stages.append(stage)
        shape, at = stage.output_shape(shape), at + taken
    return stages
