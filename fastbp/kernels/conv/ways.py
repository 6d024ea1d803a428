"""The ways to convolve, behind one contract, and the choice among them.

A convolution of x with the filters w, its adjoint (from dout to dx) and the gradient of its filters are one group of
three: a layer that goes the other way, a transposed convolution, has the adjoint for its forward pass and the
convolution for dx. Each way can do all three for each geometry that it is made for; which is fastest is decided by
`suits`, in the order of WAYS.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from ...memory import aligned
from .. import simd
from ..activations import NONE
from ..simd.toom_cook import TILES
from . import filters, plans, shifted, tabled, winograd

Calls = Iterator[Callable[[], None]]

# Tuning figures: bench/NOTES.md
SHIFTED_FROM = 100  # pixels of an output map from which they fill vectors well, and sums over them are long
FILTERS = 15  # tiles in a batch whose products take as long as it does to bring the filters to the points and back
TURNS = 60  # products of direct sums that take as long as it does to turn a tap of a filter for them, once a batch
TRANSFORMS = 9  # products that it takes to bring a number of a channel to a point, or back from it
# Beside the products: what it takes to turn rows of channels to maps, in products of each output, forward and for dw,
TURNED, TURNED_SUMS = 12, 6
SPLIT = 40  # what it takes to lay out a pixel in the planes of a stride, or a gradient from them, in products
LANE_SUMS = 6  # sums across the lanes of a weight gradient, in vectors of pixels
HALF_TILE = 4  # rows of the smaller tile with channels in the lanes


class Geometry(NamedTuple):
    """All that is fixed about a convolution but the batch.

    x (N, channels, H, W) · w (filters, channels, *kernel) · y (N, filters, *output) · `before` (top, left), the zeros
    put before x's first row and column · `tile` 4, or 2 for smaller tiles of minimal filtering, which round less"""

    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    output: tuple[int, int]
    tile: int = 4

    @property
    def shifts_rows(self) -> bool:
        """Whether maps are large and lie in a row for each tap, so that vectors of pixels do well."""
        return self.stride == (1, 1) and math.prod(self.output) >= SHIFTED_FROM

    def image(self, axis: int) -> int:
        """The pixels of an image along an axis, if as many zeros come after them as before and all are seen."""
        size = (self.output[axis] - 1) * self.stride[axis] + self.kernel[axis] - 2 * self.before[axis]
        return max(size, 1)

    def seen(self, axis: int) -> int:
        """How many pairs of an output and a tap along an axis see such an image and not the zeros around."""
        places = (i * self.stride[axis] - self.before[axis] for i in range(self.output[axis]))
        taps, size = self.kernel[axis], self.image(axis)
        return max(1, sum(max(min(taps, size - place) - max(-place, 0), 0) for place in places))

    def tiles(self, m: int) -> int:
        """The tiles of m×m outputs of one image."""
        return -(-self.output[0] // m) * -(-self.output[1] // m)


class After(NamedTuple):
    """An activation that is made while a sample's outputs are in the cache: `out` = that of y, which may be y itself;
    kind and numbers as for `activate` in kernels/activations.py."""

    out: np.ndarray
    kind: int
    numbers: np.ndarray


UNSET = np.zeros(0)  # the settings of an activation that is none


class Way:
    """One way to convolve, for one geometry, dtype and batch of N samples (None: many).

    The methods give bound kernel calls. What `prepare` computes, for the filters as they are when its calls are made,
    belongs to the way; its calls come before all others. Arrays of the others may hold some samples of the batch, in
    any number of calls that may be made at once, and `dw` the rows of the weights' gradient from filter `first` on."""

    def __init__(self, geometry: Geometry, N: int | None, dtype: np.dtype):
        self.geometry, self.N, self.dtype = geometry, N, np.dtype(dtype)

    @classmethod
    def suits(cls, geometry: Geometry, N: int | None) -> bool:
        """Whether it is faster than the ways that follow it in WAYS."""
        return True

    @property
    def how(self) -> str:
        """Which way this is, and why, in plain words."""
        raise NotImplementedError

    def prepare(self, w: np.ndarray, training: bool) -> Calls:
        """What is made once before a pass over the batch, of which `backward_input` is a part with `training`."""
        return iter(())

    def forward(
        self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray, after: After | None = None
    ) -> Calls:
        """y = b + w ⋆ x, and the activation of it, where there is one"""
        raise NotImplementedError

    def backward_input(self, dout: np.ndarray, w: np.ndarray, dx: np.ndarray) -> Calls:
        """dx = the adjoint of x ↦ w ⋆ x applied to dout; also after `prepare` without `training`, then slower."""
        raise NotImplementedError

    def backward_weight(self, dout: np.ndarray, x: np.ndarray, dw: np.ndarray, first: int = 0) -> Calls:
        """dw[f] = the gradient of filter first + f, summed over the samples"""
        raise NotImplementedError

    def backward(self, dout: np.ndarray, x: np.ndarray, w: np.ndarray, dx: np.ndarray, dw: np.ndarray) -> Calls:
        """The gradient of all filters and dx, for the same samples: the two above, or one pass that makes both."""
        yield from self.backward_weight(dout, x, dw)
        yield from self.backward_input(dout, w, dx)


class Winograd(Way):
    """Minimal filtering, for the filters and strides of toom_cook.TILES: see winograd.py."""

    @classmethod
    def suits(cls, geometry, N):
        """By the products for a sample of the batch, those of empty lanes included."""
        C, F, L = geometry.channels, geometry.filters, simd.lanes_of(np.dtype(np.float32))
        wide = [-(-count // simd.PANEL) * simd.PANEL for count in (C, F)]
        rows = min((rows_of(tile, geometry, N) for tile in tiles_for(geometry)), default=math.inf)
        turned = 0 if N is None else TURNS * math.prod(geometry.kernel) / max(N, 1)
        return rows * (C * wide[1] + TRANSFORMS * sum(wide)) < C * F * (products_of_outputs(geometry, L) + turned)

    def __init__(self, geometry, N, dtype):
        super().__init__(geometry, N, dtype)
        self.tile = min(tiles_for(geometry), key=lambda tile: rows_of(tile, geometry, N))
        self.sizes, self.points = (geometry.filters, geometry.channels), points_of(self.tile)
        self.u = self.turned = None  # arrays, once they are wanted
        self.training = False

    @property
    def how(self):
        m, r, s = self.tile
        text = f"Winograd's minimal filtering, tiles of {m}×{m} outputs: {r}×{r} filters, stride {s}"
        return text if self.suits(self.geometry, 1) else f"{text}; another way for the few tiles of small batches"

    def prepare(self, w, training):
        """The filters at the points of the tiles, and turned for the way back"""
        if self.u is None:
            self.u = self._room(*self.sizes[::-1])
        if training and self.turned is None:
            self.turned = self._room(*self.sizes)
        calls = [partial(winograd.winograd_filters, w, self.u, self.tile)]
        if training:
            calls.append(partial(winograd.turn_filters, self.u, self.turned, self.sizes))
        self.training = training
        return iter(calls)

    def _room(self, C: int, F: int) -> np.ndarray:
        """An array for the filters from C to F channels at the points"""
        return aligned((self.points, winograd.filter_size(C, F)), self.dtype)

    def forward(self, x, w, b, y, after=None):
        after, places = tuple(after or After(y, NONE, UNSET)), (self.geometry.before, self.tile)
        yield partial(winograd.winograd_forward, x, self.u, b, y, after, places)

    def backward_input(self, dout, w, dx):
        yield from self.backward(dout, dx, w, dx, np.empty((0, *w.shape[1:]), w.dtype))

    def backward_weight(self, dout, x, dw, first=0):
        places, none = (self.geometry.before, self.tile), np.empty((0, *x.shape[1:]), x.dtype)
        yield partial(winograd.winograd_backward, dout, x, self.u, none, dw, places, first)

    def backward(self, dout, x, w, dx, dw):
        turned = self.turned
        if not self.training:  # in an array of this call's own: others may be made at the same time
            turned = self._room(*self.sizes)
            yield partial(winograd.turn_filters, self.u, turned, self.sizes)
        yield partial(winograd.winograd_backward, dout, x, turned, dx, dw, (self.geometry.before, self.tile), 0)


def points_of(tile: tuple[int, int, int]) -> int:
    """The points of a tile, in both directions."""
    m, r, s = tile
    return (s * (m - 1) + r) ** 2


def tiles_for(geometry: Geometry) -> list[tuple[int, int, int]]:
    """The tiles (m, r, s) that minimal filtering has for this geometry: of those with m = 2 for 3×3 filters, or with
    `tile` 4, as many points along an axis."""
    most = geometry.tile + 2
    return [
        (m, r, s)
        for m, r, s in TILES
        if m + -(-r // s) - 1 <= most and geometry.kernel == (r, r) and geometry.stride == (s, s)
    ]


def rows_of(tile: tuple[int, int, int], geometry: Geometry, N: int | None) -> float:
    """The rows of the products at all points for a sample, with what the filters' transforms count for in a batch of N,
    in none of a large one (None)."""
    return points_of(tile) * (geometry.tiles(tile[0]) + (0 if N is None else FILTERS / max(N, 1)))


class Direct(Way):
    """All products, in register tiles with pixels or channels in the lanes, for any geometry: see shifted.py and
    tabled.py."""

    def __init__(self, geometry, N, dtype):
        super().__init__(geometry, N, dtype)
        self.places = geometry.kernel, geometry.stride, geometry.before
        self.turned: dict[str, np.ndarray] = {}  # the filters as the tiles read them, forward and backward
        self.plans: dict[tuple, plans.Plan] = {}
        self.training = False

    def by_pixels(self, what: str) -> bool:
        """Whether pixels in the lanes take less than channels, for "y", "dx" or "dw": by the products for each filter
        and channel, those of empty lanes and in vectors' time what else there is to do included."""
        (KH, KW), (sh, sw) = self.geometry.kernel, self.geometry.stride
        (OH, OW), C, F = self.geometry.output, self.geometry.channels, self.geometry.filters
        L, terms, K = simd.lanes_of(self.dtype), self.geometry.seen(0) * self.geometry.seen(1), C * KH * KW
        if what == "dw":
            pixels = (OH - 1) * (OW + (KW - 1) // sw) + OW + LANE_SUMS * L
            apart = plans.apart(C, terms, math.prod(self.geometry.kernel + self.geometry.output))
            rows = filled(C if apart else K, HALF_TILE)
            channels = (terms if apart else OH * OW * KH * KW) * filled(F, L) * rows * (1 + TURNED_SUMS / K)
            return pixels * KH * KW < channels
        if what == "dx":  # for one phase
            OH, OW = (-(-self.geometry.image(axis) // self.geometry.stride[axis]) for axis in range(2))
            F, K = C, F * KH * KW / (sh * sw)
        pixels = plans.vectors(OH, OW, OW + (KW - 1) // sw, L)[0] * L * KH * KW
        split = 1 + SPLIT / (F * KH * KW) if (sh, sw) != (1, 1) else 1
        return pixels * split < terms * filled(F, L) * (1 + TURNED / K)

    @property
    def how(self):
        by = {what: "pixels" if self.by_pixels(what) else "channels" for what in ("y", "dx", "dw")}
        lanes = [kind if len({*by.values()}) == 1 else f"{kind} ({', '.join(what for what in by if by[what] == kind)})"
                 for kind in dict.fromkeys(by.values())]  # fmt: skip
        few = "; few tiles for minimal filtering in the batch" if Winograd.suits(self.geometry, None) else ""
        return f"all products, in register tiles with {' and '.join(lanes)} in the lanes{few}"

    def prepare(self, w, training):
        """The filters as rows of numbers for each tap, of filters, and of channels for the way back"""
        self.training = training
        yield partial(filters.filters_forward, w, self._turned("forward"))
        if training:
            yield partial(filters.filters_backward, w, self._turned("backward"))

    def _turned(self, what: str) -> np.ndarray:
        """The array for them: each call that is bound keeps its own"""
        if what not in self.turned:
            self.turned[what] = self._room(what)
        return self.turned[what]

    def _room(self, what: str) -> np.ndarray:
        across, along = (self.geometry.filters, self.geometry.channels)[:: 1 if what == "forward" else -1]
        return aligned((along * math.prod(self.geometry.kernel), plans.wide(across)), self.dtype)

    def forward(self, x, w, b, y, after=None):
        arrays = x, self._turned("forward"), b, y, tuple(after or After(y, NONE, UNSET))
        if self.by_pixels("y"):
            yield partial(shifted.shifted_forward, *arrays, *self.places)
        else:
            yield partial(tabled.tabled_forward, *arrays, *self._plan(plans.forward_plan, x)[:3])

    def backward_input(self, dout, w, dx):
        if self.training:
            turned = self._turned("backward")
        else:  # in an array of this call's own: others may be made at the same time
            turned = self._room("backward")
            yield partial(filters.filters_backward, w, turned)
        if self.by_pixels("dx"):
            yield partial(shifted.shifted_backward_input, dout, turned, dx, *self.places)
        else:
            yield partial(tabled.tabled_backward_input, dout, turned, dx, *self._plan(plans.input_plan, dx)[:3])

    def backward_weight(self, dout, x, dw, first=0):
        if self.by_pixels("dw"):
            yield partial(shifted.shifted_backward_weight, dout, x, dw, *self.places[1:], first)
        else:
            plan = self._plan(plans.weight_plan, x, len(dw))
            yield partial(tabled.tabled_backward_weight, dout, x, dw, first, *plan)

    def _plan(self, plan: Callable, x: np.ndarray, F: int | None = None) -> plans.Plan:
        """A plan for images like x, and F filters or all: made once"""
        key = plan, x.shape[2:], F or self.geometry.filters
        if key not in self.plans:
            kernel, stride, before = self.places
            sizes = self.geometry.channels, key[2], key[1], self.geometry.output
            self.plans[key] = plan(*sizes, kernel, stride, before)
        return self.plans[key]


def products_of_outputs(geometry: Geometry, L: int) -> float:
    """The products for a channel and a filter that `Direct` takes with L lanes, of pixels or of filters."""
    (OH, OW), (KH, KW) = geometry.output, geometry.kernel
    pixels = plans.vectors(OH, OW, OW + (KW - 1) // geometry.stride[1], L)[0] * L * KH * KW
    return min(pixels, geometry.seen(0) * geometry.seen(1) * filled(geometry.filters, L))


def filled(count: int, size: int) -> float:
    """How many numbers there are for each of `count` in vectors of that size."""
    return -(-count // size) * size / count


WAYS = [Winograd, Direct]


def way_of(geometry: Geometry, N: int | None, dtype: np.dtype) -> Way:
    """The first way that suits a batch of N samples, or of many where N is None."""
    return next(way for way in WAYS if way.suits(geometry, N))(geometry, N, dtype)
