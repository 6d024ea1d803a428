"""Sandwich layers: several layers of a network computed in one pass. Training uses them; their results are those of the layers."""

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

    def forward(self, x, training=False, out=None):
        conv = self.conv
        x = self.expect(x, "N", conv.in_channels, "H", "W")
        before, output = conv.geometry(x.shape[2:])
        y = self.buffer(out, (len(x), conv.out_channels, output[0] // 2, output[1] // 2), x)
        argmax = np.empty(y.shape, np.int32)
        conv_relu_pool.conv_relu_pool_forward(x, conv.weight.value, conv.bias and conv.bias.value, y, argmax, before, output)
        self.cache = (x, y, argmax, before, output)
        return y

    def backward(self, dout, need_dx=True, out=None):
        x, y, argmax, before, output = self.cache
        conv, dout = self.conv, self.expect(dout, *y.shape, what="dout")
        db = conv.bias and conv.bias.grad
        conv_relu_pool.conv_relu_pool_backward_parameters(dout, x, y, argmax, conv.weight.grad, db, before, output)
        if not need_dx:
            return None
        dx = self.buffer(out, x.shape, dout)
        conv_relu_pool.conv_relu_pool_backward_input(dout, y, argmax, conv.weight.value, dx, before, output)
        return dx

    def __repr__(self) -> str:
        return f"{self.conv!r} + ReLU() + MaxPool2d(2)"

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
