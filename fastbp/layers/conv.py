"""Two-dimensional convolution."""

import math
from functools import partial

from .. import initializers
from ..arguments import Setting, flag, instance, pair, shown, whole
from ..engine.ops import Op, computes
from ..flops import Cost
from ..kernels.conv.padding import conv2d_backward_bias
from ..kernels.conv.ways import After, Geometry, way_of
from .activations import Activation
from .base import SIZE_LIMIT, Layer, Parameter
from .windows import pixels_held


def pad(size: int, kernel: int, stride: int, padding: int | str) -> tuple[int, int]:
    """(before, total): the zeros put before one axis of an image, and before and after it together.

    "valid" puts none; "full" kernel − 1 on both sides; "same" as many as make the output ceil(size / stride) long,
    the odd one after the image.
    """
    if padding == "valid":
        return 0, 0
    if padding == "full":
        return kernel - 1, 2 * (kernel - 1)
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total
    return padding, 2 * padding


def padding_of(what: str, value) -> tuple[int, int] | str:
    """A Conv2d's padding."""
    if not isinstance(value, str):
        return pair(what, value, 0, SIZE_LIMIT)
    if value not in ("valid", "same", "full"):
        raise ValueError(f"{what} must be an int, a pair, 'valid', 'same' or 'full', got {shown(value)}")
    return value


class Conv2d(Layer):
    """Two-dimensional convolution of deep learning: the cross-correlation of the input with each filter.

    x (N, C, H, W) input · w (F, C, KH, KW) weight · b (F,) bias · y (N, F, OH, OW) output,
    with C = in_channels and F = out_channels

        y[n, f, i, j] = b[f] + Σ_{c,p,q} w[f, c, p, q] · x[n, c, i·sh + p − top, j·sw + q − left]

    where x is 0 outside the image, and OH = (H + rows of padding − KH) // sh + 1, OW likewise.

    Backward, for dout = ∂L/∂y of shape (N, F, OH, OW):
        dx[n, c, h, w] = Σ w[f, c, p, q] · dout[n, f, i, j] over the taps that read (h, w)
        dw[f, c, p, q] = Σ_{n,i,j} dout[n, f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]
        db[f]          = Σ_{n,i,j} dout[n, f, i, j]
    For stride 1 and padding "valid", dx is the "full" convolution of dout with the filters turned by 180°.

    `kernel_size` and `stride` are an int or a (vertical, horizontal) pair. `padding` is an int, such a pair, or
    "valid" (0), "same" (OH = ceil(H / sh), an odd row or column of padding goes below or right) or "full" (KH − 1 on
    each side). `init` is as in Linear, with fan_in = C·KH·KW and fan_out = F·KH·KW.

    With many channels, filters of 2×2, 3×3 and 5×5 with stride 1, and of 3×3, 4×4 and 5×5 with stride 2, are done by
    Winograd's minimal filtering, in tiles of up to 4×4 outputs, or smaller ones in a network with `winograd=2`: see
    Sequential.

    >>> Conv2d(1, 32, 7).output_shape((1, 28, 28))
    (32, 22, 22)
    >>> Conv2d(3, 8, (3, 5), stride=2, padding="same").output_shape((3, 32, 31))
    (8, 16, 16)
    """

    winograd_tile = 4  # the network's `winograd`, once it belongs to one

    in_channels, out_channels = (Setting(whole, most=SIZE_LIMIT, fixed=True) for _ in range(2))
    kernel_size, stride = Setting(pair, most=SIZE_LIMIT, fixed=True), Setting(pair, most=SIZE_LIMIT)
    padding, init = Setting(padding_of), Setting(initializers.known, fixed=True)
    weight, bias = (Setting(instance, kind=(Parameter, type(None)), fixed=True) for _ in range(2))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        bias: bool = True,
        init: str | initializers.Initializer = "he_normal",
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.init = stride, padding, init
        C, F, (KH, KW) = self.in_channels, self.out_channels, self.kernel_size
        draw, fan_in, fan_out = initializers.get(init), C * KH * KW, F * KH * KW
        self.weight = self.parameter(
            "weight", (F, C, KH, KW), lambda rng: draw.weight(rng, (F, C, KH, KW), fan_in, fan_out)
        )
        self.bias = (
            self.parameter("bias", (F,), lambda rng: draw.bias(rng, (F,), fan_in))
            if flag("Conv2d: bias", bias)
            else None
        )

    def geometry(self, image: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, left), (OH, OW)) for an image (H, W)."""
        before, output = [], []
        for axis, size in enumerate(image):
            padding = self.padding if isinstance(self.padding, str) else self.padding[axis]
            kernel, stride = self.kernel_size[axis], self.stride[axis]
            first, total = pad(size, kernel, stride, padding)
            if size < 1 or size + total < kernel:
                raise ValueError(
                    f"Conv2d: kernel {self.kernel_size} does not fit an image {image} with padding {self.padding}"
                )
            before.append(first)
            output.append((size + total - kernel) // stride + 1)
        return tuple(before), tuple(output)

    def on(self, image: tuple[int, int]) -> Geometry:
        """What the ways to convolve go by, for images (H, W)."""
        before, output = self.geometry(image)
        sizes = self.in_channels, self.out_channels, self.kernel_size, self.stride
        return Geometry(*sizes, before, output, self.winograd_tile)

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        output, b = self.geometry(shape[1:])[1], self.bias is not None
        C, F, P, taps = (
            self.in_channels,
            self.out_channels,
            math.prod(output),
            self.in_channels * math.prod(self.kernel_size),
        )
        products = N * P * F * taps
        return Cost(
            forward=N * P * F * (2 * taps - 1 + b),
            dx=2 * products - N * C * pixels_held(output, self.kernel_size, self.stride),
            dw=2 * products - F * taps,
            db=b * F * (N * P - 1),
            multiply_adds=products,
        )

    def join(self, network):
        super().join(network)
        self.winograd_tile = network.winograd

    def accept(self, x):
        return self.expect(x, "N", self.in_channels, "H", "W")

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise ValueError(f"Conv2d: expected input (N, {self.in_channels}, H, W), got {('N', *shape)}")
        return (self.out_channels, *self.geometry(shape[1:])[1])


@computes(Conv2d)
class ConvOp(Op):
    """By the first of the ways to convolve that suits: see kernels/conv/ways.py."""

    apart = True
    activation: Activation | None = None  # made in the same pass

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sizes = {"rows": self.layer.out_channels}
        self.way = way_of(self.layer.on(self.inputs[0].shape[1:]), self.setting.N, self.setting.dtype)
        self.how = self.way.how

    def prepare(self):
        yield from self.way.prepare(self.layer.weight.value, self.setting.training)

    def forward(self, samples):
        """z = b + w ⋆ x, and y = the activation of that, where there is one"""
        w, b = self.layer.weight.value, self.layer.bias and self.layer.bias.value
        after = None
        if self.activation:
            after = After(self.activation.wire.array[samples], self.activation.kind, self.activation.numbers)
        yield from self.way.forward(self.x[samples], w, b, self.y[samples], after)

    def gradients(self, into, samples, rows):
        """dw = dout ⋆ x,  db = Σ dout; db with the last rows, which it follows in the flat vector"""
        first, last = rows
        dout, x, dw = self.dout[samples], self.x[samples], into[self.layer.weight][first:last]
        if self.layer.weight.requires_grad:
            yield from self.way.backward_weight(dout, x, dw, first)
        if self.layer.bias and last == self.layer.out_channels:
            yield self.bias_gradient(dout, into)

    def backward(self, samples):
        """dx = the adjoint of x ↦ w ⋆ x applied to dout"""
        yield from self.way.backward_input(self.dout[samples], self.layer.weight.value, self.dx[samples])

    def together(self, into, samples):
        """All of these"""
        dout, x, dx = (array[samples] for array in (self.dout, self.x, self.dx))
        if self.layer.weight.requires_grad:
            yield from self.way.backward(dout, x, self.layer.weight.value, dx, into[self.layer.weight])
        else:
            yield from self.backward(samples)
        if self.layer.bias:
            yield self.bias_gradient(dout, into)

    def bias_gradient(self, dout, into):
        """db = Σ dout, or 0 before a batch norm: the sum of no samples"""
        return partial(conv2d_backward_bias, dout[:0] if self.centred else dout, into[self.layer.bias])
