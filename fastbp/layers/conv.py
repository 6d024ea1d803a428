"""Two-dimensional convolution."""

import math
from functools import partial

from .. import initializers
from ..arguments import Setting, flag, instance, pair, shown, whole
from ..costs import Cost
from ..kernels import conv2d, winograd
from ..kernels.simd import PANEL
from ..memory import aligned
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


FEW_TILES = (
    8  # of 2×2 outputs in a batch, for which it isn't worth it to bring the filters to Winograd's points: with 256→256
)
# -- channels on 2×2, forward and both gradients take 1.2 ms for 4 samples, unfolded 0.9 ms; for 16 samples 2.6 and 2.9 ms


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
    "valid" (0), "same" (OH = ceil(H / sh), an odd row or column of padding goes below or right) or "full" (KH − 1 on each side).
    `init` is as in Linear, with fan_in = C·KH·KW and fan_out = F·KH·KW.

    3×3 filters with stride 1 and many channels are done by Winograd's minimal filtering, in tiles of 2×2 outputs or, in a network
    with `winograd=4`, of 4×4: see Sequential.

    >>> Conv2d(1, 32, 7).output_shape((1, 28, 28))
    (32, 22, 22)
    >>> Conv2d(3, 8, (3, 5), stride=2, padding="same").output_shape((3, 32, 31))
    (8, 16, 16)
    """

    splits_rows = True
    winograd_tile = 2  # the network's `winograd`, once it belongs to one

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

    def shifts_rows(self, output: tuple[int, int]) -> bool:
        """Whether the kernels for shifted rows are faster than those that unfold, for outputs (OH, OW)."""
        return self.stride == (1, 1) and output[0] * output[1] >= conv2d.SHIFTED_FROM

    def tile(self, output: tuple[int, int], samples: int | None = None) -> int:
        """The side of Winograd's tiles for outputs (OH, OW) of so many samples (None: many), or 0 where other kernels are faster
        or the only ones."""
        # A whole step by tiles of 2 is 1.2 to 1.8 times as fast as one by shifted rows from 16 channels in and out on (8 images of
        # 14×14; 0.9 to 1.4 of 28×28), 0.2 to 0.8 times below. Beside unfolding (8×8 and 4×4) it is 0.7 times as fast for 4→8
        # channels, 1.1 to 1.3 times for 8→8, 2 times for 16→16. Tiles of 4 pay where they take fewer products: 36 for a tile in
        # the place of 16.
        least = 16 if self.shifts_rows(output) else 8
        if self.kernel_size != (3, 3) or self.stride != (1, 1) or min(self.in_channels, self.out_channels) < least:
            return 0
        tiles = -(-output[0] // 2) * -(-output[1] // 2)
        if samples is not None and samples * tiles <= FEW_TILES and not self.shifts_rows(output):
            return 0
        products = {m: (m + 2) ** 2 * -(-output[0] // m) * -(-output[1] // m) for m in (2, self.winograd_tile)}
        return min(products, key=products.get)

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

    def algorithm(self, input_shape):
        output = self.output_shape(input_shape)[1:]
        if m := self.tile(output):
            few = "" if self.tile(output, 1) else f"; unfolded patches for {FEW_TILES} tiles of 2×2 or fewer in a batch"
            return f"Winograd's minimal filtering, tiles of {m}×{m} outputs: 3×3 filters, stride 1{few}"
        if self.shifts_rows(output):
            return "register tiles on shifted rows: stride 1, output of 100 pixels or more"
        why = "strides" if self.stride != (1, 1) else "output of fewer than 100 pixels"
        return f"register tiles on unfolded patches: {why}"

    def join(self, network):
        super().join(network)
        self.winograd_tile = network.winograd

    def accept(self, x):
        return self.expect(x, "N", self.in_channels, "H", "W")

    def prepare_calls(self, p):
        """The filters at the points of Winograd's tiles, where they are used"""
        p.before, output = self.geometry(p.x.shape[2:])
        p.tile, p.shifted = self.tile(output, len(p.x)), self.shifts_rows(output)
        if p.tile:
            C, F, points = self.in_channels, self.out_channels, (p.tile + 2) ** 2
            p.u, p.turned = aligned((points, winograd.filter_size(C, F)), p.x.dtype), None
            yield partial(winograd.winograd_filters, self.weight.value, p.u)
            if p.training:
                yield self._turn(p)

    def _turn(self, p):
        """The filters for the way back, once for all parts of a batch"""
        C, F = self.in_channels, self.out_channels
        p.turned = aligned((len(p.u), winograd.filter_size(F, C)), p.x.dtype)
        return partial(winograd.turn_filters, p.u, p.turned, (F, C))

    def forward_calls(self, p):
        """y = b + w ⋆ x"""
        w, b = self.weight.value, self.bias and self.bias.value
        if p.tile:
            yield partial(winograd.winograd_forward, p.x, p.u, b, p.y, p.before)
        elif p.shifted:
            yield partial(conv2d.shifted_forward, p.x, w, b, p.y, p.before)
        else:
            yield partial(conv2d.unfolded_forward, p.x, w, b, p.y, self.stride, p.before)

    def input_calls(self, p):
        """dx = the adjoint of x ↦ w ⋆ x applied to dout"""
        if p.tile:
            if p.turned is None:  # after a forward pass in evaluation mode
                yield self._turn(p)
            yield partial(winograd.winograd_backward_input, p.dout, p.turned, p.dx, p.before)
        elif p.shifted:
            yield partial(conv2d.shifted_backward_input, p.dout, self.weight.value, p.dx, p.before)
        else:
            yield partial(conv2d.unfolded_backward_input, p.dout, self.weight.value, p.dx, self.stride, p.before)

    def parameter_calls(self, p, rows=None):
        """dw = dout ⋆ x,  db = Σ dout; db with the last rows, which it follows in the flat vector"""
        first, last = rows or (0, self.out_channels)
        dw = p.grad(self.weight)[first:last]
        if p.tile:
            yield partial(winograd.winograd_backward_weight, p.dout, p.x, dw, p.before, p.tile, first)
        elif p.shifted:
            # by filters → along the pixels, four images in float32, AVX-512 and AVX2: 1→32 channels, 7×7, 22×22 outputs 54 → 81 µs
            # and 80 → 81; 6→16, 5×5, 10×10 21 → 34 and 22 → 37; 3→16, 5×5, 28×28 80 → 75 and 86 → 99; but 3→6 81 → 31, 83 → 37
            by_filters = self.kernel_size[1] >= 5 and -(-len(dw) // PANEL) * PANEL < 1.2 * len(dw)
            kernel = conv2d.shifted_backward_weight_by_filters if by_filters else conv2d.shifted_backward_weight
            yield partial(kernel, p.dout, p.x, dw, p.before, first)
        else:
            yield partial(conv2d.unfolded_backward_weight, p.dout, p.x, dw, self.stride, p.before, first)
        if self.bias and last == self.out_channels:
            yield partial(conv2d.conv2d_backward_bias, p.dout, p.grad(self.bias))

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise ValueError(f"Conv2d: expected input (N, {self.in_channels}, H, W), got {('N', *shape)}")
        return (self.out_channels, *self.geometry(shape[1:])[1])
