"""Winograd's convolution against the definition: any shape, both dtypes, any slice of a batch; tiles and matrices."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbp
from fastbp.kernels import simd
from fastbp.kernels.activations import NONE
from fastbp.kernels.conv import winograd
from fastbp.kernels.conv.ways import Direct, Geometry, Winograd, way_of
from fastbp.kernels.jit import kernel
from fastbp.kernels.simd import plain, toom_cook

pytestmark = pytest.mark.vectors

dtypes, seeds = st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1)
TILES = [*toom_cook.TILES]
tiles = st.sampled_from(TILES)
SMALL, LARGE = (2, 3, 1), (4, 3, 1)


def bound(dtype, tile):
    """Largest error by the largest result, of any array here. Measured in float32 with up to 256 channels: 7e-7 and,
    with six points an axis or more, 4e-6"""
    points = tile[2] * (tile[0] - 1) + tile[1]
    return (2e-6 if points < 6 else 8e-6) if dtype == np.float32 else (1e-14 if points < 6 else 2e-14)


@st.composite
def convolutions(draw, most=20):
    """(x, w, b, dout, before, tile), float64, not of the values that the kernels will get but their originals"""
    rng = np.random.default_rng(draw(seeds))
    N, C, F = draw(st.integers(0, 5)), *(draw(st.sampled_from([1, 3, 4, 5, 8, 9, 15, 16, 17, most])) for _ in range(2))
    before, after = (draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(2))
    tile = draw(tiles)
    _, r, s = tile
    H, W = (draw(st.integers(max(1, r - before[axis] - after[axis]), 12)) for axis in (0, 1))
    OH, OW = ((size + before[axis] + after[axis] - r) // s + 1 for axis, size in ((0, H), (1, W)))
    x, w, dout = rng.normal(size=(N, C, H, W)), rng.normal(size=(F, C, r, r)), rng.normal(size=(N, F, OH, OW))
    return x, w, rng.normal(size=F) if draw(st.booleans()) else None, dout, before, tile


def passes(x, w, b, dout, before, tile):
    """(y, dx, dw) of the kernels, both gradients together and one by one"""
    u = np.full(((tile[2] * (tile[0] - 1) + tile[1]) ** 2, winograd.filter_size(w.shape[1], len(w))), np.nan, x.dtype)
    y, dx, dw = np.full_like(dout, np.nan), np.full_like(x, np.nan), np.full_like(w, np.nan)
    inputs = [array if array is None else array.copy() for array in (x, w, b, dout)]
    winograd.winograd_filters(w, u, tile)
    transformed = u.copy()
    winograd.winograd_forward(x, u, b, y, (y, NONE, np.zeros(0)), (before, tile))
    turned = np.full((len(u), winograd.filter_size(len(w), w.shape[1])), np.nan, u.dtype)
    winograd.turn_filters(u, turned, w.shape[:2])
    winograd.winograd_backward(dout, x, turned, dx, dw, (before, tile), 0)
    alone = np.full_like(x, np.nan), np.full_like(w, np.nan)
    winograd.winograd_backward(dout, x, turned, alone[0], dw[:0].copy(), (before, tile), 0)
    winograd.winograd_backward(dout, x, u, dx[:0].copy(), alone[1], (before, tile), 0)
    for one, both in zip(alone, (dx, dw), strict=True):
        assert np.array_equal(one, both, equal_nan=True)
    for array, copy in zip((x, w, b, dout, u), (*inputs, transformed), strict=True):
        assert array is None or np.array_equal(array, copy, equal_nan=True)
    return y, dx, dw


def definition(x, w, b, dout, before, tile):
    """(y, dx, dw) by the taps, in float64"""
    (N, C, H, W), (OH, OW), (top, left), (_, r, s) = x.shape, dout.shape[2:], before, tile
    padded = np.zeros((N, C, max((OH - 1) * s + r, H + top), max((OW - 1) * s + r, W + left)))
    padded[:, :, top : top + H, left : left + W] = x
    y, dpadded, dw = np.zeros(dout.shape), np.zeros_like(padded), np.zeros(w.shape)
    for p, q in np.ndindex(r, r):
        seen = np.s_[:, :, p : p + (OH - 1) * s + 1 : s, q : q + (OW - 1) * s + 1 : s]
        y += np.einsum("fc,ncij->nfij", w[:, :, p, q], padded[seen])
        dpadded[seen] += np.einsum("fc,nfij->ncij", w[:, :, p, q], dout)
        dw[:, :, p, q] = np.einsum("nfij,ncij->fc", dout, padded[seen])
    return y if b is None else y + b[:, None, None], dpadded[:, :, top : top + H, left : left + W], dw


def close(results, expected, bound):
    for result, right in zip(results, expected, strict=True):
        assert np.abs(result - right).max(initial=0) <= bound * max(np.abs(right).max(initial=0), 1)


def cast(arrays, dtype):
    return [array if array is None else array.astype(dtype) for array in arrays]


@given(convolutions(), dtypes)
def test_passes_agree_with_the_definition(convolution, dtype):
    *arrays, before, tile = convolution
    arrays = cast(arrays, dtype)
    results = passes(*arrays, before, tile)
    close(results, definition(*cast(arrays, np.float64), before, tile), bound(dtype, tile))
    assert all(result.dtype == dtype for result in results)


@given(tiles, seeds)
def test_the_definition_is_the_oracles(tile, seed):
    rng, (_, r, s) = np.random.default_rng(seed), tile
    OH, OW = (r + 2) // s + 1, (r + 1) // s + 1
    x, w, b, dout = (rng.normal(size=z) for z in ((2, 2, r + 3, r + 2), (3, 2, r, r), (3,), (2, 3, OH, OW)))
    y = naive.conv2d(x, w, b, (s, s), ((1, (OH - 1) * s - 4), (0, (OW - 1) * s - 2)))
    np.testing.assert_allclose(definition(x, w, b, dout, (1, 0), tile)[0], y, atol=1e-12)
    np.testing.assert_allclose(passes(x, w, b, dout, (1, 0), tile)[0], y, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("N", "C", "F", "size"), [(3, 40, 70, 12), (30, 64, 33, 4), (2, 5, 3, 26)])
def test_more_tiles_than_are_taken_at_once(tile, dtype, N, C, F, size):
    rng, (_, r, s) = np.random.default_rng(0), tile
    output = (size - 1) // s + 1
    shapes = (N, C, size, size), (F, C, r, r), (F,), (N, F, output, output)
    arrays, before = cast(map(rng.normal, (0,) * 4, (1,) * 4, shapes), dtype), (r // 2, r // 2)
    close(passes(*arrays, before, tile), definition(*cast(arrays, np.float64), before, tile), bound(dtype, tile))


@given(convolutions(most=24))
def test_gradients_are_the_adjoint_of_forward(convolution):
    """⟨conv(x, w), dout⟩ = ⟨x, dx⟩ = ⟨w, dw⟩"""
    x, w, _, dout, before, tile = convolution
    y, dx, dw = passes(x, w, None, dout, before, tile)
    scale = 1e-12 * (1 + np.linalg.norm(y) * np.linalg.norm(dout))
    assert abs((y * dout).sum() - (x * dx).sum()) < scale and abs((y * dout).sum() - (w * dw).sum()) < scale


@given(dtypes, tiles, seeds, st.integers(1, 7), st.integers(0, 7))
def test_a_slice_of_a_batch_gives_the_same_bits(dtype, tile, seed, N, first):
    """So threads may take parts of a batch. 49 or 16 tiles an image: those of a slice are also cut elsewhere."""
    rng, first, (_, r, s) = np.random.default_rng(seed), min(first, N - 1), tile
    OH, OW = (16 - r) // s + 1, (15 - r) // s + 1
    arrays = cast((rng.normal(size=z) for z in ((N, 5, 14, 13), (9, 5, r, r), (9,), (N, 9, OH, OW))), dtype)
    last = int(rng.integers(first, N)) + 1
    y, dx, _ = passes(*arrays, (1, 1), tile)
    x, w, b, dout = arrays
    part = passes(x[first:last], w, b, dout[first:last], (1, 1), tile)
    assert np.array_equal(y[first:last], part[0]) and np.array_equal(dx[first:last], part[1])


@pytest.mark.parametrize("tile", TILES)
def test_nan_goes_where_the_definition_sends_it(tile):
    """And into the rest of its tiles, but into no other image."""
    rng, (_, r, s), before = np.random.default_rng(0), tile, (tile[1] // 2,) * 2
    x, w, dout = (rng.normal(size=z) for z in ((2, 4, 9, 9), (5, 4, r, r), (2, 5, 8 // s + 1, 8 // s + 1)))
    x[0, 1, 4, 4] = dout[0, 2, 4, 3] = np.nan
    results, expected = passes(x, w, None, dout, before, tile), definition(x, w, None, dout, before, tile)
    for result, right in zip(results, expected, strict=True):
        assert np.isnan(result[np.isnan(right)]).all()
    assert np.isfinite(results[0][1]).all() and np.isfinite(results[1][1]).all()


# -- the layer ---------------------------------------------------------------------------------------------------------


def chosen(channels, filters, output, N=None, kernel=(3, 3), stride=(1, 1), tile=4):
    """The kind of way, and Winograd's tile."""
    way = way_of(Geometry(channels, filters, kernel, stride, (1, 1), output, tile), N, np.float32)
    return way.tile[0] if isinstance(way, Winograd) else type(way)


def test_the_tiles_where_they_are_faster():
    outputs = (1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (7, 8), (30, 31)
    assert [chosen(64, 64, output) for output in outputs] == [Direct, Direct, 4, 4, 2, 4, 4]
    assert [chosen(64, 64, output, tile=2) for output in outputs[4:]] == [2] * 3
    network = fastbp.Sequential(fastbp.Conv2d(64, 64, 3, padding=1))
    for size, tile in ((8, "4×4"), (6, "2×2")):
        assert f"tiles of {tile} outputs" in str(network.engine((64, size, size)))
    assert "tiles of 2×2" in str(fastbp.Sequential(fastbp.Conv2d(64, 64, 3), winograd=2).engine((64, 8, 8)))
    # few channels
    assert chosen(16, 16, (30, 30)) == 4 and chosen(4, 64, (30, 30)) == chosen(64, 4, (30, 30)) == Direct
    # few samples: tiles of 4 save the more, but there are more points to bring the filters to
    assert [chosen(64, 64, (12, 8), N) for N in (1, 2)] == [2, 4]
    # nor do direct sums come without: their filters are turned once a batch
    assert [chosen(256, 256, (2, 2), N) for N in (1, None)] == [2, Direct]


def test_other_filters_and_strides():
    def of(kernel, stride, tile=4):
        return chosen(256, 256, (16, 16), kernel=kernel, stride=stride, tile=tile)

    squares = [(k, s) for s in (1, 2, 3) for k in range(1, 7)]
    fit = [(k, s) for k, s in squares if of((k, k), (s, s)) is not Direct]
    assert fit == [(2, 1), (3, 1), (5, 1), (3, 2), (4, 2), (5, 2)]
    for k, s in fit:  # six points along an axis round as tiles of 4×4 do
        assert (of((k, k), (s, s), tile=2) == Direct) == ((k, s) == (5, 1))
    assert of((3, 2), (1, 1)) == of((3, 3), (2, 1)) == of((3, 5), (1, 1)) == Direct


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_layer_follows_its_weights_its_dtype_and_its_tile(dtype):
    rng, layer = np.random.default_rng(0), fastbp.Conv2d(5, 6, 3, padding="same").astype(np.float64)
    layer.forward(rng.normal(size=(1, 5, 3, 3)))
    layer.astype(dtype)
    for m, size in ((2, 4), (4, 4), (2, 6)):
        layer.winograd_tile, layer.weight.value, layer.bias.value = m, rng.normal(size=(6, 5, 3, 3)), rng.normal(size=6)
        x, dout = rng.normal(size=(2, 5, size, size)).astype(dtype), rng.normal(size=(2, 6, size, size)).astype(dtype)
        results = layer.forward(x), layer.backward(dout), layer.weight.grad
        arrays = cast((x, layer.weight.value, layer.bias.value, dout), np.float64)
        close(results, definition(*arrays, (1, 1), (m, 3, 1)), bound(dtype, (m, 3, 1)))
        assert np.array_equal(layer.backward(dout), results[1])


# -- the tiles ---------------------------------------------------------------------------------------------------------

KINDS = ["image_to_points", "map_to_points", "filter_to_points", "points_to_image", "points_to_map", "points_to_filter"]


@kernel
def every_transform(kind, tile, pixels, table, points, p0, step, count, bias):  # compiled once
    if kind == 0:
        simd.image_to_points(tile, pixels, 2, table, 1, points, p0, step, count)
    elif kind == 1:
        simd.map_to_points(tile, pixels, 2, table, 1, points, p0, step, count)
    elif kind == 2:
        simd.filter_to_points(tile, pixels, 2, table, 1, points, p0, step, count)
    elif kind == 3:
        simd.points_to_image(tile, points, p0, step, pixels, 2, table, 1, count)
    elif kind == 4:
        simd.points_to_map(tile, points, p0, step, pixels, 2, table, 1, count, bias)
    else:
        simd.points_to_filter(tile, points, p0, step, pixels, 2, table, 1, count, bias)


@kernel
def transpose(source, s0, ss, target, t0, ts, rows, columns):
    simd.transpose(source, s0, ss, target, t0, ts, rows, columns)


@kernel
def panel_product(a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, rows, panels, add):
    simd.panel_product(a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, rows, panels, add)


@kernel
def lanes(x):
    return simd.lanes(x)


@given(st.integers(0, 5), tiles, dtypes, seeds, st.sampled_from([0, 2, 4]))
def test_transforms(kind, tile, dtype, seed, count):
    rng, (m, r, s) = np.random.default_rng(seed), tile
    n = s * (m - 1) + r
    side, width = (n, m, r)[kind % 3], count * lanes(np.empty(0, dtype))
    vectors = width // plain.lanes(None)  # of the definition's
    table = np.append(0, rng.permutation(side * side) * (width + 3))
    pixels, bias = rng.normal(size=2 + side * side * (width + 3)).astype(dtype), rng.normal(size=width).astype(dtype)
    points = rng.normal(size=1 + n * n * (width + 1)).astype(dtype)
    expected = [pixels.copy(), points.copy()]
    changed = (pixels, expected[0]) if kind >= 3 else (points, expected[1])
    before = changed[0].copy()
    every_transform(kind, tile, pixels, table, points, 1, width + 1, count, bias)
    if kind < 3:
        getattr(plain, KINDS[kind])(tile, expected[0], 2, table, 1, expected[1], 1, width + 1, vectors)
    else:
        rest = [bias] if kind > 3 else []
        getattr(plain, KINDS[kind])(tile, expected[1], 1, width + 1, expected[0], 2, table, 1, vectors, *rest)
    small = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(pixels, expected[0], rtol=0, atol=50 * small)
    np.testing.assert_allclose(points, expected[1], rtol=0, atol=50 * small)
    untouched = changed[1] == before
    assert np.array_equal(changed[0][untouched], before[untouched])


@given(st.sampled_from([np.float32, np.float64, np.int32]), seeds, st.data())
def test_transpose(dtype, seed, data):
    rng, L = np.random.default_rng(seed), lanes(np.empty(0, dtype))
    rows, columns = data.draw(st.integers(1, L)), data.draw(st.integers(1, L))
    ss, ts = columns + rng.integers(0, 4), rows + rng.integers(0, 4)
    source = rng.normal(0, 99, 1 + (rows - 1) * ss + columns).astype(dtype)  # ends with its last number
    target = rng.normal(0, 99, 2 + (columns - 1) * ts + rows).astype(dtype)
    expected = target.copy()
    plain.transpose(source, 1, ss, expected, 2, ts, rows, columns)
    transpose(source, 1, ss, target, 2, ts, rows, columns)
    assert np.array_equal(target, expected)


@given(dtypes, seeds, st.integers(0, 30), st.integers(0, 5), st.integers(0, 9), st.booleans())
def test_panel_product(dtype, seed, rows, panels, K, add):
    rng = np.random.default_rng(seed)
    am, ak, bk, cp, bp = 1 + rng.integers(0, 9, 5) + (0, 0, simd.PANEL, simd.PANEL, 9 * simd.PANEL)
    cm, bp = panels * cp + rng.integers(0, 3), bp + 9 * bk
    a, b = rng.normal(size=3 + 30 * am + 9 * ak).astype(dtype), rng.normal(size=2 + 5 * bp).astype(dtype)
    c = rng.normal(size=4 + 30 * cm + cp).astype(dtype)
    expected, before = c.copy(), c.copy()
    panel_product(a, 3, am, ak, b, 2, bk, bp, K, c, 4, cm, cp, rows, panels, add)
    plain.panel_product(a, 3, am, ak, b, 2, bk, bp, K, expected, 4, cm, cp, rows, panels, add)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    assert np.array_equal(c[expected == before], before[expected == before])


@pytest.mark.parametrize("tile", TILES)
def test_matrices_convolve(tile):
    """Along one axis: y[i] = Σ_k w[k] d[s·i + k]"""
    (B, A, G), (m, r, s) = toom_cook.matrices(*tile), tile
    rng = np.random.default_rng(m)
    d, w = rng.normal(size=s * (m - 1) + r), rng.normal(size=r)
    np.testing.assert_allclose(A.T @ ((G @ w) * (B @ d)), np.correlate(d, w)[::s], atol=1e-13)
