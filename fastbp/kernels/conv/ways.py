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
from ..simd.toom_cook import TILES
from . import shifted, unfolded, winograd

Calls = Iterator[Callable[[], None]]

# Tuning figures: bench/NOTES.md
SHIFTED_FROM = 100  # pixels of an output map from which rows are shifted: sums over smaller maps are too short
FILTERS = 15  # tiles in a batch whose products take as long as it does to bring the filters to the points and back
MANY = 16  # channels, in and out, from which minimal filtering pays; the fewer the products, the fewer the channels:
SAVED = 0.4  # of the products are left, at most, where it pays from
SOME, PAIRS = 8, 128  # channels, in and out, and so many pairs of one in and one out
WIDE = 5  # taps in a row from which weight gradients are faster with vectors along filters, if these are full:
FULL = 1.2  # lanes for each filter, below which they are


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
        """Whether shifted rows are faster than unfolded patches."""
        return self.stride == (1, 1) and math.prod(self.output) >= SHIFTED_FROM

    def tiles(self, m: int) -> int:
        """The tiles of m×m outputs of one image."""
        return -(-self.output[0] // m) * -(-self.output[1] // m)


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

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray) -> Calls:
        """y = b + w ⋆ x"""
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
        tiles = tiles_for(geometry)
        if not tiles:
            return False
        direct = math.prod(geometry.kernel) * math.prod(geometry.output)
        least = min(products(tile, geometry, N) for tile in tiles) / (direct * (1 if N is None else max(N, 1)))
        few, pairs = min(geometry.channels, geometry.filters), geometry.channels * geometry.filters
        return least < 1 and (few >= MANY or (least < SAVED and few >= SOME and pairs >= PAIRS))

    def __init__(self, geometry, N, dtype):
        super().__init__(geometry, N, dtype)
        self.tile = min(tiles_for(geometry), key=lambda tile: products(tile, geometry, N))
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

    def forward(self, x, w, b, y):
        yield partial(winograd.winograd_forward, x, self.u, b, y, self.geometry.before, self.tile)

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


def products(tile: tuple[int, int, int], geometry: Geometry, N: int | None) -> int:
    """The products for one channel and one filter in a batch, with what the filters' transforms count for; for many
    samples, N = None, in one of them"""
    tiles = geometry.tiles(tile[0])
    return points_of(tile) * (tiles if N is None else N * tiles + FILTERS)


class Shifted(Way):
    """Register tiles on rows of the image itself, for stride 1: see shifted.py."""

    @classmethod
    def suits(cls, geometry, N):
        return geometry.shifts_rows

    @property
    def how(self):
        return f"register tiles on shifted rows: stride 1, output of {SHIFTED_FROM} pixels or more"

    def forward(self, x, w, b, y):
        yield partial(shifted.shifted_forward, x, w, b, y, self.geometry.before)

    def backward_input(self, dout, w, dx):
        yield partial(shifted.shifted_backward_input, dout, w, dx, self.geometry.before)

    def backward_weight(self, dout, x, dw, first=0):
        by_filters = self.geometry.kernel[1] >= WIDE and -(-len(dw) // simd.PANEL) * simd.PANEL < FULL * len(dw)
        kernel = shifted.shifted_backward_weight_by_filters if by_filters else shifted.shifted_backward_weight
        yield partial(kernel, dout, x, dw, self.geometry.before, first)


class Unfolded(Way):
    """Register tiles on patches of the image, for any geometry: see unfolded.py."""

    @property
    def how(self):
        why = f"output of fewer than {SHIFTED_FROM} pixels"
        if self.geometry.stride != (1, 1):
            why = "strides"
        elif Winograd.suits(self.geometry, None):
            why = "few tiles for minimal filtering in the batch"
        return f"register tiles on unfolded patches: {why}"

    def forward(self, x, w, b, y):
        yield partial(unfolded.unfolded_forward, x, w, b, y, self.geometry.stride, self.geometry.before)

    def backward_input(self, dout, w, dx):
        yield partial(unfolded.unfolded_backward_input, dout, w, dx, self.geometry.stride, self.geometry.before)

    def backward_weight(self, dout, x, dw, first=0):
        places = self.geometry.stride, self.geometry.before
        yield partial(unfolded.unfolded_backward_weight, dout, x, dw, *places, first)


WAYS = [Winograd, Shifted, Unfolded]


def way_of(geometry: Geometry, N: int | None, dtype: np.dtype) -> Way:
    """The first way that suits a batch of N samples, or of many where N is None."""
    return next(way for way in WAYS if way.suits(geometry, N))(geometry, N, dtype)
