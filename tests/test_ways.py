"""Every way to convolve against the definition: any geometry, both dtypes, in any pieces of the batch and the rows."""

from unittest import mock

import naive
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbp.kernels.conv.pooled import Pooled
from fastbp.kernels.conv.ways import Direct, Geometry, Winograd, tiles_for, way_of
from fastbp.kernels.simd.toom_cook import TILES

pytestmark = pytest.mark.vectors


class ByPixels(Direct):
    """Pixels in the lanes, whether or not they fill them"""

    def by_pixels(self, what):
        return True


class ByChannels(Direct):
    def by_pixels(self, what):
        return False


CAN = {  # what a way can do at all; whether it is the fastest there does not matter here
    Winograd: tiles_for,
    ByPixels: lambda geometry: True,
    ByChannels: lambda geometry: True,
}
SQUARES = [(k, s) for _, k, s in TILES]
BOUNDS = {np.float32: 1e-5, np.float64: 1e-13}  # of the largest result, 4 times that for the tiles with more points
dtypes, seeds = st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1)
channels = st.sampled_from([1, 2, 3, 5, 8, 16, 17])


def run(calls) -> None:
    for call in calls:
        call()


def pieces(rng, size) -> list[slice]:
    """That many numbers in pieces, some of them empty."""
    cuts = [0, *sorted(rng.integers(0, size + 1, rng.integers(0, 3))), size]
    return [slice(first, last) for first, last in zip(cuts[:-1], cuts[1:], strict=True)]


def definition(x, w, b, dout, stride, before):
    """(y, dx, dw) in float64, tap by tap"""
    (N, C, H, W), (OH, OW), (KH, KW) = x.shape, dout.shape[2:], w.shape[2:]
    (sh, sw), (top, left) = stride, before
    wide = np.zeros((N, C, max(top + H, (OH - 1) * sh + KH), max(left + W, (OW - 1) * sw + KW)))
    wide[:, :, top : top + H, left : left + W] = x
    y, dwide, dw = np.zeros(dout.shape), np.zeros_like(wide), np.zeros(w.shape)
    for p, q in np.ndindex(KH, KW):
        seen = np.s_[:, :, p : p + (OH - 1) * sh + 1 : sh, q : q + (OW - 1) * sw + 1 : sw]
        y += np.einsum("fc,ncij->nfij", w[:, :, p, q], wide[seen])
        dwide[seen] += np.einsum("fc,nfij->ncij", w[:, :, p, q], dout)
        dw[:, :, p, q] = np.einsum("nfij,ncij->fc", dout, wide[seen])
    return y if b is None else y + b[:, None, None], dwide[:, :, top : top + H, left : left + W], dw


def close(result, expected, bound):
    assert np.abs(result - expected).max(initial=0) <= bound * max(np.abs(expected).max(initial=0), 1)


@st.composite
def convolutions(draw, pooled=False):
    """(geometry, x, w, b or None, dout), the arrays in float64"""
    rng, axes = np.random.default_rng(draw(seeds)), []
    # maps of these sizes push each other out of the cache
    image = draw(st.sampled_from([None, None, None, (16, 32), (32, 16), (8, 64)]))
    square = draw(st.sampled_from([None, *SQUARES])) if not pooled else None
    for axis in range(2):
        kernel, stride = square or (draw(st.integers(1, 6)), 1 if pooled else draw(st.integers(1, 3)))
        before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        size = draw(st.integers(max(1, kernel - before - after), 18)) + (10 if pooled else 0)
        size = image[axis] if image else size
        axes.append((kernel, stride, before, (size + before + after - kernel) // stride + 1, size, after))
    kernel, stride, before, output, size, after = zip(*axes, strict=True)
    N, C, F = draw(st.integers(0, 4)), draw(channels), draw(channels)
    geometry = Geometry(C, F, kernel, stride, before, output, draw(st.sampled_from([2, 4])))
    x, w, dout = (rng.normal(size=shape) for shape in ((N, C, *size), (F, C, *kernel), (N, F, *output)))
    return geometry, x, w, rng.normal(size=F) if draw(st.booleans()) else None, dout, after


def cast(arrays, dtype):
    return [array if array is None else array.astype(dtype) for array in arrays]


@given(convolutions())
def test_the_definition_is_the_oracles(convolution):
    geometry, x, w, b, dout, after = convolution
    x, w, dout, v = x[:1, :3], w[:3, :3], dout[:1, :3], np.random.default_rng(0).normal(size=x[:1, :3].shape)
    b, padding = None if b is None else b[:3], tuple(zip(geometry.before, after, strict=True))
    y, dx, dw = definition(x, w, b, dout, geometry.stride, geometry.before)
    close(y, naive.conv2d(x, w, b, geometry.stride, padding), 1e-13)
    moved = (naive.conv2d(v, w, None, geometry.stride, padding) * dout).sum()
    assert abs((v * dx).sum() - moved) < 1e-11 * (1 + abs(moved))  # the adjoint, along a random direction
    u = np.random.default_rng(1).normal(size=w.shape)
    moved = (naive.conv2d(x, u, None, geometry.stride, padding) * dout).sum()
    assert abs((u * dw).sum() - moved) < 1e-11 * (1 + abs(moved))


@pytest.mark.parametrize("kind", [ByPixels, ByChannels])
@pytest.mark.parametrize(("kernel", "stride", "before", "image"), [
    ((3, 3), (2, 2), (1, 1), (16, 32)), ((7, 7), (1, 1), (3, 3), (32, 32)), ((9, 9), (1, 1), (4, 4), (32, 16)),
    ((1, 1), (2, 2), (1, 1), (16, 32)), ((7, 1), (1, 1), (3, 0), (32, 32)), ((11, 11), (4, 4), (5, 5), (64, 64)),
    ((5, 5), (3, 3), (2, 2), (32, 32)), ((7, 7), (2, 2), (3, 1), (32, 32)),
])  # fmt: skip
def test_many_channels_of_maps_that_push_each_other_out_of_the_cache(kind, kernel, stride, before, image):
    """They are copied apart, where zeros around them are left out as well as where they are not."""
    output = tuple((image[k] + 2 * before[k] - kernel[k]) // stride[k] + 1 for k in range(2))
    rng, sizes = np.random.default_rng(3), [(2, 8, *image), (9, 8, *kernel), (2, 9, *output)]
    x, w, dout = (rng.normal(size=size) for size in sizes)
    way = kind(Geometry(8, 9, kernel, stride, before, output), 2, np.dtype(np.float64))
    y, dx, dw = (np.full(shape, np.nan) for shape in (dout.shape, x.shape, w.shape))
    run(way.prepare(w, True))
    run(way.forward(x, w, None, y))
    run(way.backward_input(dout, w, dx))
    run(way.backward_weight(dout, x, dw))
    for result, expected in zip((y, dx, dw), definition(x, w, None, dout, stride, before), strict=True):
        close(result, expected, 1e-12)


@pytest.mark.parametrize("kind", CAN)
@given(convolutions(), dtypes, st.booleans(), seeds)
def test_every_way_computes_what_the_definition_says(kind, convolution, dtype, training, seed):
    geometry, *arrays, _ = convolution
    if not CAN[kind](geometry):
        return
    rng, (x, w, b, dout) = np.random.default_rng(seed), cast(arrays, dtype)
    bound = BOUNDS[dtype] * (4 if geometry.tile == 4 else 1)
    way = kind(geometry, len(x), dtype)
    inputs = [x, w, dout] if b is None else [x, w, dout, b]
    copies = [array.copy() for array in inputs]
    y, dx, dw = (np.full_like(array, np.nan) for array in (dout, x, w))
    run(way.prepare(w, training))
    run(way.forward(x, w, b, y))
    run(way.backward_input(dout, w, dx))
    run(way.backward_weight(dout, x, dw))
    expected = definition(*cast((x, w, b, dout), np.float64), geometry.stride, geometry.before)
    for result, right in zip((y, dx, dw), expected, strict=True):
        close(result, right, bound)
    parts = [np.full_like(array, np.nan) for array in (y, dx, dw)]
    for part in pieces(rng, len(x)):
        run(way.forward(x[part], w, b, parts[0][part]))
    for part in pieces(rng, len(x)):
        run(way.backward_input(dout[part], w, parts[1][part]))
    for rows in pieces(rng, len(w)):
        run(way.backward_weight(dout, x, parts[2][rows], rows.start))
    both = [np.full_like(array, np.nan) for array in (dx, dw)]
    run(way.backward(dout, x, w, *both))
    for result, right in zip(both, (dx, dw), strict=True):
        assert np.array_equal(result, right)
    close(parts[2], expected[2], bound)
    for whole, part in zip((y, dx), parts[:2], strict=True):
        close(part, whole, bound)
        if not numba.config.DISABLE_JIT:  # in NumPy the order of sums follows the shapes
            assert np.array_equal(part, whole)
    shares = sum((share(way, dout[part], x[part], w) for part in pieces(rng, len(x))), np.zeros(w.shape))
    close(shares, expected[2], bound)
    assert all(np.array_equal(array, copy) for array, copy in zip(inputs, copies, strict=True))


def share(way, dout, x, w):
    """The weights' gradient of some samples"""
    dw = np.full_like(w, np.nan)
    run(way.backward_weight(dout, x, dw))
    return dw.astype(np.float64)


@pytest.mark.parametrize("kind", CAN)
@pytest.mark.parametrize("training", [True, False])
def test_bound_calls_follow_the_filters(kind, training):
    """They are bound once, and made again after each step that changes the filters."""
    rng = np.random.default_rng(0)
    way = kind(Geometry(9, 8, (3, 3), (1, 1), (1, 1), (6, 7)), 2, np.float64)
    x, w, dout = rng.normal(size=(2, 9, 6, 7)), rng.normal(size=(8, 9, 3, 3)), rng.normal(size=(2, 8, 6, 7))
    y, dx = np.empty_like(dout), np.empty_like(x)
    calls = [*way.prepare(w, training), *way.forward(x, w, None, y), *way.backward_input(dout, w, dx)]
    for _ in range(2):
        w[:] = rng.normal(size=w.shape)
        run(calls)
        expected = definition(x, w, None, dout, (1, 1), (1, 1))
        close(y, expected[0], 1e-12)
        close(dx, expected[1], 1e-12)


def test_the_choice_is_told():
    def told(output, N=None, stride=(1, 1), channels=96, kernel=(3, 3), tile=4):
        return way_of(Geometry(channels, 96, kernel, stride, (1, 1), output, tile), N, np.float32).how

    text = "Winograd's minimal filtering, tiles of {0}×{0} outputs: {1}×{1} filters, stride {2}"
    assert told((16, 16)) == text.format(4, 3, 1) and told((16, 16), tile=2) == text.format(2, 3, 1)
    assert told((16, 16), kernel=(5, 5)) == text.format(2, 5, 1)
    assert told((16, 16), stride=(2, 2), kernel=(4, 4)) == text.format(2, 4, 2)
    assert told((4, 4)) == text.format(4, 3, 1) and told((4, 4), 1) == text.format(2, 3, 1)
    sums = [told((9, 9), stride=(2, 1)), told((9, 9), channels=2), told((10, 10), channels=2)]
    assert all("all products, in register tiles with " in how and "tiles for" not in how for how in sums)


@given(convolutions(pooled=True), dtypes, st.booleans(), seeds)
def test_the_pooled_pass_is_two_passes(convolution, dtype, by_filters, seed):
    geometry, *arrays, _ = convolution
    rng, (x, w, b, dout) = np.random.default_rng(seed), cast(arrays, dtype)
    wide = cast((x, w, b), np.float64)
    OH, OW = geometry.output
    maps = definition(*wide, np.zeros(dout.shape), (1, 1), geometry.before)[0]
    windows = maps[:, :, : OH // 2 * 2, : OW // 2 * 2].reshape(*maps.shape[:2], OH // 2, 2, OW // 2, 2)
    expected = windows.max((3, 5))
    bound, dpool = BOUNDS[dtype], dout[:, :, : OH // 2, : OW // 2].copy()
    with mock.patch.object(Pooled, "by_filters", by_filters):
        way = Pooled(geometry, len(x), dtype)
        y, argmax = np.full(expected.shape, np.nan, dtype), np.full(expected.shape, -1, np.int32)
        run(way.forward(x, w, b, y, argmax))
        close(y, expected, bound)
        parts = [np.full_like(y, np.nan), np.full_like(argmax, -1)]
        for part in pieces(rng, len(x)):
            run(way.forward(x[part], w, b, *(array[part] for array in parts)))
        if not numba.config.DISABLE_JIT:
            assert np.array_equal(parts[0], y) and np.array_equal(parts[1], argmax)
    # where the maximum is, as the pass has chosen: of equal ones any
    chosen = windows.transpose(0, 1, 2, 4, 3, 5).reshape(*expected.shape, 4)
    dmaps, places = np.zeros(maps.shape), np.argsort(chosen, axis=-1)
    gap = np.take_along_axis(chosen, places[..., -1:], -1) - np.take_along_axis(chosen, places[..., -2:-1], -1)
    best = places[..., -1]
    clear = gap[..., 0] > 1e-4
    dpool[~clear] = 0  # no gradient where rounding decides
    for n, f, i, j in np.argwhere(clear):
        r, q = divmod(best[n, f, i, j], 2)
        dmaps[n, f, 2 * i + r, 2 * j + q] = dpool[n, f, i, j]
    _, dx, dw = definition(*wide, dmaps, (1, 1), geometry.before)
    got, db = [np.full_like(array, np.nan) for array in (x, w)], None if b is None else np.full_like(b, np.nan)
    for part in pieces(rng, len(x)):
        run(way.backward_input(dpool[part], argmax[part], w, got[0][part]))
    run(way.backward_weight(dpool, argmax, x, got[1], db))
    close(got[0], dx, bound)
    close(got[1], dw, bound)
    if b is not None:
        close(db, dmaps.sum((0, 2, 3)), bound)
