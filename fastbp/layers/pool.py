"""Max and average pooling."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, pair
from ..engine.ops import Op, computes
from ..flops import Cost
from ..kernels import pool2d
from .base import SIZE_LIMIT, Layer
from .windows import pixels_held


class Pool2d(Layer):
    """Geometry shared by the two: windows, strides, padding; OH = (H + 2·ph − KH) // sh + 1, OW likewise."""

    kernel_size, stride = (Setting(pair, most=SIZE_LIMIT) for _ in range(2))
    padding = Setting(pair, least=0, most=SIZE_LIMIT)

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = self.kernel_size if stride is None else stride
        self.padding = padding
        self._check_padding()

    def _check_padding(self) -> None:
        """The maximum of a window that holds padding alone is not defined."""
        if self.padding[0] >= self.kernel_size[0] or self.padding[1] >= self.kernel_size[1]:
            name = type(self).__name__
            raise ValueError(f"{name}: padding {self.padding} must be smaller than kernel_size {self.kernel_size}")

    @property
    def pairs(self) -> bool:
        """Are these windows of 2×2, side by side?"""
        return self.kernel_size == self.stride == (2, 2) and self.padding == (0, 0)

    def accept(self, x):
        return self.expect(x, "N", "C", "H", "W")

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 3:
            raise ValueError(f"{type(self).__name__}: expected input (N, C, H, W), got {('N', *shape)}")
        C, H, W = shape
        (KH, KW), (sh, sw) = self.kernel_size, self.stride
        ph, pw = self.padding
        if ph >= KH or pw >= KW:
            self._check_padding()
        if H < 1 or W < 1 or H + 2 * ph < KH or W + 2 * pw < KW:
            name = type(self).__name__
            raise ValueError(f"{name}: window {(KH, KW)} does not fit an image {(H, W)} with padding {(ph, pw)}")
        return C, (H + 2 * ph - KH) // sh + 1, (W + 2 * pw - KW) // sw + 1


def how(pool: Pool2d) -> str:
    """How its ops compute, in a few words."""
    return "vectors of 2×2 windows" if pool.pairs else "vectors of a row's windows"


class MaxPool2d(Pool2d):
    """y = the maximum of each window of x (N, C, H, W); y (N, C, OH, OW).

    dx is dout at the first maximum of each window in row-major order, summed where windows overlap, 0 elsewhere.

    `kernel_size`, `stride` (default: the kernel size) and `padding` are an int or a (vertical, horizontal) pair.
    Padding never wins. Windows that would stick out are left out: rows and columns they alone hold have gradient 0.

    >>> MaxPool2d(2).output_shape((6, 5, 5))
    (6, 2, 2)
    """

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        overlap = any(s < k for s, k in zip(self.stride, self.kernel_size, strict=True))
        return N * math.prod(self.output_shape(shape)) * Cost(forward=math.prod(self.kernel_size) - 1, dx=int(overlap))


@computes(MaxPool2d)
class MaxPoolOp(Op):
    saves = {"argmax": np.int32}

    @property
    def how(self):
        return how(self.layer)

    def forward(self, samples):
        pool, arrays = self.layer, (self.x[samples], self.y[samples], self.argmax[samples])
        if pool.pairs:
            yield partial(pool2d.max_pool_pairs_forward, *arrays)
        else:
            yield partial(pool2d.max_pool2d_forward, *arrays, pool.kernel_size, pool.stride, pool.padding)

    def backward(self, samples):
        yield partial(pool2d.max_pool2d_backward, self.dout[samples], self.argmax[samples], self.dx[samples])


class AvgPool2d(Pool2d):
    """y = the sum of each window of x (N, C, H, W) divided by KH·KW; y (N, C, OH, OW).

    dx is the sum of dout / (KH·KW) over the windows that hold the pixel.

    Arguments and windows as in MaxPool2d; padding counts as zeros, and the divisor is KH·KW at the border too.

    >>> AvgPool2d(3, stride=2, padding=1).output_shape((6, 8, 8))
    (6, 4, 4)
    """

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        C, *output = self.output_shape(shape)
        P, window = math.prod(output), math.prod(self.kernel_size)
        additions = P * window - pixels_held(output, self.kernel_size, self.stride)
        return N * C * Cost(forward=P * window, dx=P + additions)


@computes(AvgPool2d)
class AvgPoolOp(Op):
    @property
    def how(self):
        return how(self.layer)

    def forward(self, samples):
        pool, arrays = self.layer, (self.x[samples], self.y[samples])
        if pool.pairs:
            yield partial(pool2d.avg_pool_pairs_forward, *arrays)
        else:
            yield partial(pool2d.avg_pool2d_forward, *arrays, pool.kernel_size, pool.stride, pool.padding)

    def backward(self, samples):
        pool, arrays = self.layer, (self.dout[samples], self.dx[samples])
        if pool.pairs:
            yield partial(pool2d.avg_pool_pairs_backward, *arrays)
        else:
            yield partial(pool2d.avg_pool2d_backward, *arrays, pool.kernel_size, pool.stride, pool.padding)
