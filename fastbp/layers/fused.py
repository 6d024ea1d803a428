"""Sandwich layers: several layers of a network computed in one pass. Training uses them; their results are those of the layers."""

from functools import partial

import numpy as np

from ..kernels import conv_relu_pool
from .activations import ReLU
from .base import Layer
from .conv import Conv2d
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
        if [type(layer) for layer in layers] != [Conv2d, ReLU, MaxPool2d]:
            return False
        conv, _, pool = layers
        output = conv.output_shape(input_shape)[1:]
        plain = pool.kernel_size == pool.stride == (2, 2) and pool.padding == (0, 0)
        # From 32 channels in and out on, Winograd's kernels and the three layers are faster: 128 ms for a step of cifar-8conv at
        # batch 64 where 32→64 channels on 16×16 are not fused, 136 ms where they are.
        many = conv.tile(output) and min(conv.in_channels, conv.out_channels) >= 32
        return plain and min(output) >= 2 and conv.shifts_rows(output) and not many

    def algorithm(self, input_shape):
        return "one pass, register tiles on shifted rows; weight gradient over the pooled pixels alone"

    def accept(self, x):
        return self.expect(x, "N", self.conv.in_channels, "H", "W")

    def forward_calls(self, p):
        """y = max(0, b + the maximum of each window of w ⋆ x)"""
        w, b = self.conv.weight.value, self.conv.bias and self.conv.bias.value
        p.argmax, p.geometry = np.empty(p.y.shape, np.int32), self.conv.geometry(p.x.shape[2:])
        yield partial(conv_relu_pool.conv_relu_pool_forward, p.x, w, b, p.y, p.argmax, *p.geometry)

    def input_calls(self, p):
        """dx, through the pixels that have a gradient"""
        w = self.conv.weight.value
        yield partial(conv_relu_pool.conv_relu_pool_backward_input, p.dout, p.y, p.argmax, w, p.dx, *p.geometry)

    def parameter_calls(self, p, rows=None):
        """dw, db, likewise"""
        dw, db = p.grad(self.conv.weight), self.conv.bias and p.grad(self.conv.bias)
        kernel = conv_relu_pool.conv_relu_pool_backward_parameters
        yield partial(kernel, p.dout, p.x, p.y, p.argmax, dw, db, *p.geometry)

    def __repr__(self) -> str:
        return f"{self.conv!r} + ReLU() + MaxPool2d(2)"

    def multiply_adds(self, input_shape):
        return self.conv.multiply_adds(input_shape)

    def output_shape(self, input_shape):
        F, OH, OW = self.conv.output_shape(input_shape)
        return (F, OH // 2, OW // 2)


def sandwiches(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> list[Layer]:
    """The layers with each group that makes a sandwich for this input replaced by it."""
    stages, at, shape = [], 0, tuple(input_shape)
    while at < len(layers):
        stage, taken = layers[at], 1
        if ConvReLUPool.fits(layers[at : at + 3], shape):
            stage, taken = ConvReLUPool(layers[at]), 3
        stages.append(stage)
        shape, at = stage.output_shape(shape), at + taken
    return stages
