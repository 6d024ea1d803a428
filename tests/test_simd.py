"""The tiles against their definition in NumPy, for every number of rows and columns; nothing beside them is touched."""

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbp.kernels import linear, matmul, norm_relu_pool, pool2d, simd
from fastbp.kernels.jit import kernel
from fastbp.kernels.simd import plain

dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


@kernel
def outer(a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add):
    simd.outer(a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add)


@kernel
def dot(a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add):
    simd.dot(a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add)


@kernel
def sum_rows(a, a0, ak, rows, b, b0, bk, c, c0, columns):
    simd.sum_rows(a, a0, ak, rows, b, b0, bk, c, c0, columns)


@kernel
def outer_descend(a, a0, am, ak, b, b0, bk, K, c, velocity, c0, cm, rows, columns, numbers):
    simd.outer_descend(a, a0, am, ak, b, b0, bk, K, c, velocity, c0, cm, rows, columns, numbers)


@kernel
def sum_rows_descend(a, a0, ak, rows, b, b0, bk, c, velocity, c0, columns, numbers):
    simd.sum_rows_descend(a, a0, ak, rows, b, b0, bk, c, velocity, c0, columns, numbers)


@kernel
def pack(b, b0, bk, K, panel, p0, columns):
    simd.pack(b, b0, bk, K, panel, p0, columns)


@kernel
def lanes(x):
    return simd.lanes(x)


@kernel
def tile_sizes(x):
    return simd.outer_rows(x), simd.dot_rows(x), simd.dot_columns(x)


def same(tile, definition, arguments, c):
    """Both fill a copy of c alike, to rounding, and leave the rest of it as it was."""
    results = []
    for function in (tile, definition):
        mine = c.copy()
        function(*(mine if argument is c else argument for argument in arguments))
        results.append(mine)
    scale = 1e-5 if c.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(*results, rtol=0, atol=scale * 50)
    untouched = results[1] == c
    assert np.array_equal(results[0][untouched], c[untouched])


@given(dtypes, seeds, st.integers(1, 8), st.integers(1, 48), st.integers(0, 9), st.booleans(), st.booleans())
def test_outer_tile(dtype, seed, rows, columns, K, tables, add):
    high, _, _ = tile_sizes(np.empty(0, dtype))
    rows, columns = min(rows, high), min(columns, 3 * lanes(np.empty(0, dtype)))
    rng = np.random.default_rng(seed)
    am, ak, bk, cm = 1 + rng.integers(0, 9, 4) + (0, 0, columns, columns)
    a, c = rng.normal(size=3 + 8 * am + 10 * ak).astype(dtype), rng.normal(size=5 + 8 * cm).astype(dtype)
    b = rng.normal(size=2 + max(K - 1, 0) * bk + columns).astype(dtype)  # ends with the last column of the last row
    if tables:
        ak, bk = np.arange(K) * ak, np.arange(K) * bk
    same(outer, plain.outer, (a, 3, am, ak, b, 2, bk, K, c, 4, cm, rows, columns, add), c)


@given(dtypes, seeds, st.integers(1, 4), st.integers(1, 6), st.integers(0, 40), st.booleans(), st.booleans())
def test_dot_tile(dtype, seed, rows, columns, K, tables, add):
    rng, (_, high, wide) = np.random.default_rng(seed), tile_sizes(np.empty(0, dtype))
    rows, columns = min(rows, high), min(columns, wide)
    am, bn, cm = K + rng.integers(0, 5), K + rng.integers(0, 5), columns + rng.integers(0, 5)
    sizes = 1 + (rows - 1) * am + K, 2 + (columns - 1) * bn + K
    a, b = (rng.normal(size=size).astype(dtype) for size in sizes)
    c = rng.normal(size=3 + rows * cm).astype(dtype)
    if tables:
        same(dot, plain.dot, (a, 1, am, b, 0, 2 + np.arange(columns) * bn, K, c, 2, cm, rows, columns, add), c)
    else:
        same(dot, plain.dot, (a, 1, am, b, 2, bn, K, c, 2, cm, rows, columns, add), c)


@given(dtypes, seeds, st.integers(1, 9), st.integers(1, 40))
def test_summed_rows(dtype, seed, rows, columns):
    rng = np.random.default_rng(seed)
    ak, bk = 1 + rng.integers(0, 5), columns + rng.integers(0, 5)
    sizes = 2 + rows * ak, 1 + (rows - 1) * bk + columns, 3 + columns + 5
    a, b, c = (rng.normal(size=size).astype(dtype) for size in sizes)
    same(sum_rows, plain.sum_rows, (a, 2, ak, rows, b, 1, bk, c, 3, columns), c)


@given(dtypes, seeds, st.integers(1, 8), st.integers(1, 48), st.integers(0, 9), st.booleans())
def test_outer_tile_that_descends(dtype, seed, rows, columns, K, nesterov):
    high, _, _ = tile_sizes(np.empty(0, dtype))
    rows, columns = min(rows, high), min(columns, 3 * lanes(np.empty(0, dtype)))
    rng = np.random.default_rng(seed)
    am, ak, bk, cm = 1 + rng.integers(0, 9, 4) + (0, 0, columns, columns)
    sizes = 3 + 8 * am + 10 * ak, 2 + max(K - 1, 0) * bk + columns
    a, b = (rng.normal(size=size).astype(dtype) for size in sizes)
    # c ends with the last column of the last row: a row may be computed twice, but must be updated once
    c, velocity = (rng.normal(size=4 + (rows - 1) * cm + columns).astype(dtype) for _ in range(2))
    tiles, operands = (outer_descend, plain.outer_descend), (a, 3, am, ak, b, 2, bk, K)
    same_descent(*tiles, operands, (c, velocity), (4, cm, rows, columns), rng, nesterov)


@given(dtypes, seeds, st.integers(0, 4), st.integers(1, 40), st.booleans())
def test_summed_rows_that_descend(dtype, seed, rows, columns, nesterov):
    rng = np.random.default_rng(seed)
    ak, bk = 1 + rng.integers(0, 5), columns + rng.integers(0, 5)
    a, b = (rng.normal(size=n).astype(dtype) for n in (2 + rows * ak, 1 + max(rows - 1, 0) * bk + columns))
    c, velocity = (rng.normal(size=3 + columns).astype(dtype) for _ in range(2))
    tiles, operands = (sum_rows_descend, plain.sum_rows_descend), (a, 2, ak, rows, b, 1, bk)
    same_descent(*tiles, operands, (c, velocity), (3, columns), rng, nesterov)


def same_descent(tile, definition, before, vectors, after, rng, nesterov):
    """Both leave the same c and velocity, to rounding, and what stands beside the tile's places as it was."""
    numbers = tuple(map(vectors[0].dtype.type, (-rng.uniform(), rng.uniform(), rng.uniform(), nesterov)))
    results = []
    for function in (tile, definition):
        mine = [vector.copy() for vector in vectors]
        function(*before, *mine, *after, numbers)
        results.append(mine)
    for of_tile, expected, vector in zip(*results, vectors, strict=True):
        np.testing.assert_allclose(of_tile, expected, rtol=0, atol=1e-4 if vector.dtype == np.float32 else 1e-12)
        untouched = expected == vector
        assert untouched[: after[0]].all() and np.array_equal(of_tile[untouched], vector[untouched])


@given(dtypes, seeds, st.integers(0, 5), st.integers(1, 48))
def test_packed_columns(dtype, seed, K, columns):
    rng, wide = np.random.default_rng(seed), 3 * lanes(np.empty(0, dtype))
    columns = min(columns, wide)
    bk = columns + rng.integers(0, 5)
    b, panel = rng.normal(size=2 + max(K - 1, 0) * bk + columns).astype(dtype), np.full(4 + K * wide, np.nan, dtype)
    pack(b, 2, bk, K, panel, 4, columns)
    for k in range(K):
        row = panel[4 + k * wide : 4 + (k + 1) * wide]
        assert np.array_equal(row[:columns], b[2 + k * bk : 2 + k * bk + columns]) and not row[columns:].any()
    assert np.isnan(panel[:4]).all()


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="NumPy's sums follow the shapes")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("M", "N", "K"), [(70, 50, 37), (66, 256, 600), (9, 65, 1030), (65, 9, 3072), (5, 1, 300), (3, 7, 0)]
)
def test_parts_of_a_product_have_the_bits_of_the_whole(M, N, K, dtype, transposed):
    """Threads may share a product by any rows or columns of c: for any part, no bit changes. But a bᵀ of many rows may
    be summed in another order than one of few."""
    rng = np.random.default_rng(M)
    a, b = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)

    def outer_part(m, n):
        mine, columns = a[m[0] : m[1]], b[:, n[0] : n[1]].copy()
        stored, strides = (mine.T.copy(), (1, len(mine))) if transposed else (mine.copy(), (K, 1))
        c = np.full((len(mine), columns.shape[1]), np.nan, dtype)
        in_b, sizes = (c.shape[1], 1), (*c.shape, K)
        matmul.outer_product(
            stored.reshape(-1), strides, columns.reshape(-1), in_b, c.reshape(-1), c.shape[1], sizes, None
        )
        return c

    def inner_part(m, n):
        mine, columns = a[m[0] : m[1]].copy(), b[:, n[0] : n[1]].T.copy()
        c = np.full((len(mine), N), np.nan, dtype)
        sizes = len(mine), len(columns), K
        matmul.inner_product(mine.reshape(-1), columns.reshape(-1), c.reshape(-1)[n[0] :], sizes, N)
        return c[:, n[0] : n[1]].copy()

    for part in (outer_part, inner_part):
        whole = part((0, M), (0, N))
        np.testing.assert_allclose(whole, a @ b, atol=1e-11 if dtype == np.float64 else 1e-3)
        for m in [(0, 1), (M - 1, M), (1, M), (0, 2), (0, M // 2), (M // 3, M), (0, M)]:
            if part is inner_part and matmul.turned(m[1] - m[0], K, N) != matmul.turned(M, K, N):
                continue
            for n in [(0, N), (0, 1), (N // 2, N), (0, (N + 1) // 2)]:
                assert np.array_equal(part(m, n), whole[m[0] : m[1], n[0] : n[1]]), (part, m, n)


@given(dtypes, seeds, st.integers(1, 9), st.integers(1, 60), st.integers(0, 9), st.booleans())
def test_products_of_any_size(dtype, seed, M, N, K, transposed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    c, d = (np.full((M, N), np.nan, dtype) for _ in range(2))
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    stored, strides = (a.T.copy(), (1, M)) if transposed else (a, (K, 1))
    matmul.outer_product(stored.reshape(-1), strides, b.reshape(-1), (N, 1), c.reshape(-1), N, (M, N, K), None)
    np.testing.assert_allclose(c, a @ b, atol=50 * tolerance)
    matmul.inner_product(a.reshape(-1), b.T.copy().reshape(-1), d.reshape(-1), (M, N, K), N)
    np.testing.assert_allclose(d, a @ b, atol=50 * tolerance)


SIZES = [(16, 256, 5), (17, 128, 300), (70, 31, 600), (3, 5, 2500), (61, 5, 2560), (1, 70, 513), (90, 1100, 256)]


@pytest.mark.parametrize(("M", "N", "K"), SIZES)
def test_products_that_are_copied_or_taken_in_blocks(M, N, K):
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(M, K)), rng.normal(size=(K, N)), np.empty((M, N)), np.empty((M, N))
    matmul.outer_product(a.reshape(-1), (K, 1), b.reshape(-1), (N, 1), c.reshape(-1), N, (M, N, K), None)
    matmul.inner_product(a.reshape(-1), b.T.copy().reshape(-1), d.reshape(-1), (M, N, K), N)
    np.testing.assert_allclose(c, a @ b, atol=1e-11)
    np.testing.assert_allclose(d, a @ b, atol=1e-11)


@pytest.mark.parametrize("settings", [(0.1, 0.9, 0.0, 0.0), (0.1, 0.8, 0.01, 0.0), (0.1, 0.9, 0.01, 1.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("N", "D", "F"), [(0, 5, 3), (1, 70, 9), (4, 33, 17), (5, 33, 17), (64, 100, 21), (700, 5, 3)])
def test_the_descent_of_a_linear_layer(N, D, F, dtype, settings):
    """Part by part of the rows, the bias with the last: an update with `linear_backward_parameters`' gradients."""
    rng, size, settings = np.random.default_rng(N), F * D + F, np.array(settings)
    dout, x = rng.normal(size=(N, F)).astype(dtype), rng.normal(size=(N, D)).astype(dtype)
    values, velocity = (rng.normal(size=size).astype(dtype) for _ in range(2))
    expected, v, grads = values.astype(np.float64), velocity.astype(np.float64), np.empty(size, dtype)
    g = np.concatenate([(dout.T.astype(np.float64) @ x).ravel(), dout.sum(axis=0, dtype=np.float64)])
    g += settings[2] * expected
    v = settings[1] * v + g
    expected -= settings[0] * (g + settings[1] * v if settings[3] else v)
    for first, last in [(0, F // 3), (F // 3, F)]:
        part = slice(first * D, size if last == F else last * D)
        linear.linear_descend(dout, dout, x, values[part], grads[part], velocity[part], settings, (first, last))
    tolerance = 1e-3 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(values, expected, atol=tolerance)
    np.testing.assert_allclose(velocity, v, atol=tolerance)


@kernel
def copy_row(*arguments):
    simd.copy_row(*arguments)


@given(dtypes, st.integers(0, 40), st.integers(0, 3), st.integers(0, 3))
def test_copied_rows(dtype, columns, start, to):
    x, y, add = np.arange(3.0 * 50).astype(dtype).reshape(3, 50)[1:], np.full(50, -1, dtype), dtype(0.5)
    expected = y.copy()
    copy_row(x, start, y, to, columns, add)
    plain.copy_row(x, start, expected, to, columns, add)
    assert np.array_equal(y, expected) and (y >= 0).sum() == columns


@kernel
def copy_row_and_zeros(*arguments):
    simd.copy_row_and_zeros(*arguments)


@given(dtypes, st.integers(0, 40), st.integers(0, 3))
def test_copied_rows_filled_up(dtype, columns, to):
    x, y, L = np.arange(1.0, 43).astype(dtype), np.full(60, -1, dtype), lanes(np.empty(0, dtype))
    copy_row_and_zeros(x[: 2 + columns], 2, y, to, columns)  # x ends with the row
    end = to + -(-columns // L) * L
    assert np.array_equal(y[to : to + columns], x[2 : 2 + columns])
    assert (y[to + columns : end] == 0).all() and (y[:to] == -1).all() and (y[end:] == -1).all()


@kernel
def split_row(*arguments):
    simd.split_row(*arguments)


@kernel
def join_row(*arguments):
    simd.join_row(*arguments)


@given(dtypes, st.integers(0, 70), st.integers(0, 3))
def test_split_rows_and_joined_ones(dtype, columns, start):
    x, (mine, expected) = np.arange(1.0, 75).astype(dtype), np.full((2, 200), -1, dtype)
    x = x[: start + columns]  # it ends with the row
    split_row(x, start, mine, 1, 100, columns, dtype(7))
    count = (columns + 1) // 2
    assert np.array_equal(mine[1 : 1 + count], x[start::2])
    assert np.array_equal(mine[100 : 100 + columns // 2], x[start + 1 :: 2])
    plain.split_row(x, start, expected, 1, 100, columns, dtype(7))
    beyond = -(-columns // (2 * lanes(x))) * lanes(x)
    for to in (1, 100):
        assert np.array_equal(mine[to : to + count], expected[to : to + count])
    for to, count in ((1, (columns + 1) // 2), (100, columns // 2)):
        assert (mine[to + count : to + beyond] == 7).all()
    assert (mine[1 + beyond : 100] == -1).all() and (mine[100 + beyond :] == -1).all()
    for join in (join_row, plain.join_row):
        joined = np.full(columns + 5, -1, dtype)
        join(mine, 1, 100, joined[: 2 + columns], 2, columns)  # it ends with the row
        assert np.array_equal(joined[2:-3], x[start:]) and (joined[:2] == -1).all() and (joined[-3:] == -1).all()


@kernel
def copy_even(*arguments):
    simd.copy_even(*arguments)


@given(dtypes, st.integers(0, 40), st.integers(0, 3), st.integers(0, 3))
def test_every_second_number(dtype, columns, start, to):
    x, y = np.arange(1, 1 + start + max(2 * columns - 1, 0), dtype=dtype), np.zeros(to + columns + 3, dtype)
    expected = y.copy()
    expected[to : to + columns] = x[start::2][:columns]
    copy_even(x, start, y, to, columns)
    assert np.array_equal(y, expected)


@kernel
def pixel_rows(x):
    return simd.pixel_rows(x)


@kernel
def pixels_in_lanes(*arguments):
    simd.pixels_in_lanes(*arguments)


@kernel
def channels_in_lanes(*arguments):
    simd.channels_in_lanes(*arguments)


def placed(rng, K, count, size, apart):
    """(taps, places, room): K taps anywhere in two arrays of `size` numbers; `count` beginnings, and ends `apart`"""
    taps, ends = rng.integers(0, size, (K, 2)), rng.permutation(count) * apart
    return taps.reshape(-1), np.stack([rng.integers(0, size, count), ends], 1).reshape(-1), 2 * size


@given(dtypes, seeds, st.integers(0, 9), st.integers(0, 9), st.integers(1, 8))
def test_pixels_in_lanes(dtype, seed, K, count, rows):
    rng, L, high = np.random.default_rng(seed), lanes(np.empty(0, dtype)), pixel_rows(np.empty(0, dtype))
    rows = min(rows, high)
    taps, places, room = placed(rng, K, count, 30, L + rng.integers(0, 3))
    w, x, bias = (rng.normal(size=size).astype(dtype) for size in (2 + room + high, room + L, 2 + high))
    ym = (count + 1) * (L + 3)
    y = rng.normal(size=1 + rows * ym).astype(dtype)
    arguments = w, 2, x, taps, K, bias, places, count, y, 1, ym, rows
    with mock.patch.object(plain, "lanes", lanes):
        same(pixels_in_lanes, plain.pixels_in_lanes, arguments, y)


@given(dtypes, seeds, st.integers(0, 9), st.integers(0, 20), st.integers(1, 8), st.booleans())
def test_channels_in_lanes(dtype, seed, K, count, vectors, along):
    rng, wide = np.random.default_rng(seed), vectors * lanes(np.empty(0, dtype))
    taps, places, room = placed(rng, K, count, 30, wide + rng.integers(0, 3))
    w, x, first = (rng.normal(size=size).astype(dtype) for size in (room + wide, room, wide))
    y = rng.normal(size=(count + 1) * (wide + 3)).astype(dtype)
    arguments = x, places, count, taps, K, w, y if along else first, int(along), y, vectors
    with mock.patch.object(plain, "lanes", lanes):
        same(channels_in_lanes, plain.channels_in_lanes, arguments, y)


@kernel
def windows_by_filters(*arguments):
    simd.windows_by_filters(*arguments)


@kernel
def windows_by_pixels(*arguments):
    simd.windows_by_pixels(*arguments)


@given(
    dtypes, seeds, st.integers(1, 20), st.integers(1, 3), st.integers(0, 6), st.sampled_from(["ties", "random", "nan"])
)
def test_windows_by_filters(dtype, seed, windows, panels, K, kind):
    rng = np.random.default_rng(seed)
    width, step, bk = 2 * windows + rng.integers(0, 4), 16 * panels + rng.integers(0, 3), 16 + rng.integers(0, 3)
    ak, bp = rng.permutation(9)[:K], K * bk + rng.integers(0, 3)
    a, b, bias = (drawn(rng, dtype, kind, size) for size in (2 + 2 * width + 9, 1 + panels * bp + 16, 48))
    results = []
    for function in (windows_by_filters, plain.windows_by_filters):
        y, argmax = np.full(3 + windows * step, 7, dtype), np.full(3 + windows * step, -1, np.int32)
        function(a, 2, width, ak, b, 1, bk, bp, K, bias, y, argmax, 3, step, 100, windows, panels)
        results.append((y, argmax))
    same_windows(results, dtype)


@given(
    dtypes, seeds, st.integers(1, 40), st.integers(1, 6), st.integers(0, 6), st.sampled_from(["ties", "random", "nan"])
)
def test_windows_by_pixels(dtype, seed, windows, filters, K, kind):
    rng, (high,) = np.random.default_rng(seed), pixel_filters(np.empty(0, dtype))
    filters, low, step, wf = min(filters, high), 60, windows + rng.integers(0, 3), K + rng.integers(0, 3)
    at, width = rng.integers(0, 9, 2 * K), 2 * windows + 3
    w, x, bias = (drawn(rng, dtype, kind, size) for size in (2 + filters * wf, 9 + 2 * low + 16, 6))
    results = []
    for function in (windows_by_pixels, plain.windows_by_pixels):
        y, argmax = np.full(3 + filters * step, 7, dtype), np.full(3 + filters * step, -1, np.int32)
        function(w, 2, wf, x, low, at, K, bias, y, argmax, 3, step, 100, width, windows, filters)
        results.append((y, argmax))
    same_windows(results, dtype)


def drawn(rng, dtype, kind, size):
    """Small whole numbers, whose sums are exact and often equal, or any numbers, or some NaN among whole ones"""
    numbers = rng.normal(size=size) if kind == "random" else rng.integers(-2, 3, size).astype(float)
    if kind == "nan":
        numbers[rng.random(size) < 0.02] = np.nan
    return numbers.astype(dtype)


def same_windows(results, dtype):
    (y, argmax), (expected, numbers) = results
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    assert np.array_equal(argmax, numbers)


@kernel
def pixel_filters(x):
    return (simd.pixel_filters(x),)


@given(dtypes, seeds, st.integers(1, 40), st.sampled_from(["ties", "random", "nan"]))
def test_pooled_pairs(dtype, seed, columns, kind):
    rng = np.random.default_rng(seed)
    W = 2 * columns + seed % 2
    x = (rng.integers(0, 2, (2, W)) if kind == "ties" else rng.normal(size=(2, W))).astype(dtype)
    if kind == "nan":
        x[rng.random((2, W)) < 0.2] = np.nan
    y, argmax = np.full((1, 1, 1, columns), 7, dtype), np.full((1, 1, 1, columns), -1, np.int32)
    pool2d.max_pool_pairs_forward(x.reshape(1, 1, 2, W), y, argmax)
    expected, numbers = np.empty(columns, dtype), np.empty(columns, np.int32)
    plain.pool_pairs(x.reshape(-1), 0, W, expected, numbers, 0, 0, W, columns)
    np.testing.assert_array_equal(y.reshape(-1), expected)
    assert np.array_equal(argmax.reshape(-1), numbers)


@kernel
def pool_row(*arguments):
    simd.pool_row(*arguments)


@given(dtypes, seeds, st.integers(1, 40), st.integers(1, 9), st.sampled_from(["ties", "random", "nan", "nothing"]))
def test_pooled_rows(dtype, seed, columns, taps, kind):
    """Also of windows that hold −∞ alone."""
    rng, L = np.random.default_rng(seed), lanes(np.empty(0, dtype))
    x = np.full(80 + L, -np.inf, dtype) if kind == "nothing" else drawn(rng, dtype, kind, 80 + L)
    starts, steps = rng.integers(0, 30, taps + 2), rng.integers(0, 99, taps + 2).astype(np.int32)
    corner, stride = rng.integers(-9, 9), rng.integers(1, 4)
    results = []
    for function in (pool_row, plain.pool_row):
        y, argmax = np.full(5 + columns, 7, dtype), np.full(5 + columns, -1, np.int32)
        function(x, 2, starts, steps, 1, taps, y, argmax, 3, corner, 5, stride, columns)
        results.append((y, argmax))
    (y, argmax), (expected, numbers) = results
    assert np.array_equal(y, expected, equal_nan=True) and np.array_equal(argmax, numbers)


@kernel
def sum_taps(*arguments):
    simd.sum_taps(*arguments)


@given(dtypes, seeds, st.integers(0, 40), st.integers(0, 5))
def test_summed_taps(dtype, seed, columns, taps):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 30, taps + 2)
    x, y = (rng.normal(size=size).astype(dtype) for size in (4 + starts.max() + columns, 5 + columns))
    same(sum_taps, plain.sum_taps, (x, 4, starts, 1, taps, dtype(0.3), y, 3, columns), y)


@kernel
def sum_pairs(*arguments):
    simd.sum_pairs(*arguments)


@kernel
def spread_pairs(*arguments):
    simd.spread_pairs(*arguments)


@given(dtypes, seeds, st.integers(0, 40))
def test_pairs_of_averages_and_their_gradients(dtype, seed, columns):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=3 + 4 * columns).astype(dtype), rng.normal(size=4 + columns).astype(dtype)
    rows = 2, 3 + 2 * columns  # the second ends with x
    same(sum_pairs, plain.sum_pairs, (x, *rows, dtype(0.25), y, 3, columns), y)
    same(spread_pairs, plain.spread_pairs, (y, 4, dtype(0.25), x, *rows, columns), x)


@given(dtypes, seeds, st.integers(1, 40), st.sampled_from(["ties", "random", "nan"]), st.booleans())
def test_pooled_normalised(dtype, seed, columns, kind, relu):
    """Three rows: the last belongs to no window."""
    rng = np.random.default_rng(seed)
    W = 2 * columns + seed % 2
    x = (rng.integers(0, 2, (3, W)) if kind == "ties" else rng.normal(size=(3, W))).astype(dtype)
    if kind == "nan":
        x[rng.random((3, W)) < 0.2] = np.nan
    # exact for ties; the scale may be 0 or negative
    middle, scale, shift = affine = tuple(rng.integers(-3, 4, 3).astype(dtype))
    maps, shape = np.broadcast_to(x, (2, 2, 3, W)).copy(), (2, 2, 1, columns)
    y, chosen, argmax = np.full(shape, 7, dtype), np.full(shape, 7, dtype), np.full(shape, -1, np.int32)
    gamma, beta, *batch = (np.full(2, number, dtype) for number in (scale, shift, middle, 1))
    norm_relu_pool.norm_relu_pool_forward(maps, gamma, beta, tuple(batch), y, chosen, argmax, relu)
    expected, at_maxima, numbers = np.empty(columns, dtype), np.empty(columns, dtype), np.empty(columns, np.int32)
    affine = *affine, dtype(0 if relu else -np.inf)
    plain.pool_normalised(x.reshape(-1), 0, W, affine, expected, at_maxima, numbers, 0, 0, W, columns)
    for n, c in np.ndindex(2, 2):
        np.testing.assert_allclose(y[n, c, 0], expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-14)
        np.testing.assert_array_equal(chosen[n, c, 0], at_maxima)
        assert np.array_equal(argmax[n, c, 0], numbers)


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="compiles for other processors")
@pytest.mark.parametrize(
    ("processor", "features", "expected"), [("haswell", "+avx2,+avx,+fma", 8), ("nehalem", "+sse4.2", 4)]
)
def test_other_instruction_sets_give_the_same(processor, features, expected):
    """A network's step in a process that Numba compiles for another processor."""
    if sys.platform == "darwin" or os.uname().machine != "x86_64":
        pytest.skip("this machine is not of that family")
    code = (
        "import numpy as np, fastbp\nfrom fastbp.kernels import simd\nfrom fastbp.kernels.jit import kernel\n"
        "@kernel\ndef lanes(x): return simd.lanes(x)\n"
        "n = fastbp.Sequential(fastbp.Conv2d(2, 5, 3), fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(180, 7),"
        " dtype=np.float64)\n"
        "x = np.random.default_rng(0).normal(size=(3, 2, 15, 15)); y = n.forward(x)\n"
        "dx = n.backward(np.random.default_rng(1).normal(size=y.shape))\n"
        "print(lanes(np.empty(0, np.float32)), *[repr(float(np.abs(v).sum())) for v in (y, dx, n.gradient_vector)])"
    )
    outputs = []
    for environment in ({}, {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}):
        env = {**os.environ, **environment}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout.split())
    assert int(outputs[1][0]) == expected
    np.testing.assert_allclose(np.array(outputs[0][1:], float), np.array(outputs[1][1:], float), rtol=1e-12)


@kernel
def to_columns(source, s0, ss, target, t0, ts, rows, columns):
    simd.to_columns(source, s0, ss, target, t0, ts, rows, columns)


@kernel
def from_columns(source, s0, ss, target, t0, ts, rows, columns):
    simd.from_columns(source, s0, ss, target, t0, ts, rows, columns)


@kernel
def rows_at_once(x):
    return simd.rows_at_once(x)


@given(dtypes, seeds, st.integers(1, 16), st.integers(1, 4), st.booleans())
def test_four_columns(dtype, seed, rows, columns, whole):
    """To features by samples, and back: nothing beside them is read or written."""
    rng, most = np.random.default_rng(seed), rows_at_once(np.empty(0, dtype))
    rows, columns = (most, 4) if whole else (min(rows, most), columns)
    ss, ts = columns + rng.integers(0, 4), rows + rng.integers(0, 4)
    x = rng.normal(size=2 + (rows - 1) * ss + columns).astype(dtype)  # ends with the last number that is meant
    y = rng.normal(size=3 + (columns - 1) * ts + rows).astype(dtype)
    same(to_columns, plain.to_columns, (x, 2, ss, y, 3, ts, rows, columns), y)
    same(from_columns, plain.from_columns, (y, 3, ts, x, 2, ss, rows, columns), x)
