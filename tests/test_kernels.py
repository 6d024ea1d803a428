"""Kernels called as the engine calls them: by parts, with ReLU in the same pass."""

import naive
import numpy as np
import pytest
from numba import config

from fastbp.kernels import activations, linear, norm, reduce

pytestmark = pytest.mark.vectors

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@dtypes
@pytest.mark.parametrize("bias", [False, True])
def test_linear_with_relu(dtype, bias):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(dtype) for shape in [(5, 7), (11, 7), (11,)])
    x[3] = np.nan
    plain, rectified = np.empty((5, 11), dtype), np.empty((5, 11), dtype)
    for out, kind in ((plain, activations.NONE), (rectified, activations.RELU)):
        linear.linear_forward(x, w, b if bias else None, out, out, kind, np.empty(0), (0, 11))
    np.testing.assert_allclose(
        plain, naive.linear(x, w, b if bias else None), atol=1e-5 if dtype == np.float32 else 1e-13
    )
    assert np.array_equal(rectified, naive.relu(plain).astype(dtype), equal_nan=True)


@dtypes
@pytest.mark.parametrize("N", [1, 2, 9])
@pytest.mark.parametrize("cuts", [(0, 1, 29), (0, 12, 16, 29), (0, 0, 28, 29)])
def test_parts_of_a_linear_layer_by_features(dtype, N, cuts):
    """Features of y and columns of dx may be shared out; nothing else is written, and no bit changes."""
    rng, size = np.random.default_rng(N), 29
    x, dout, w = (rng.normal(size=shape).astype(dtype) for shape in [(N, size), (N, size), (size, size)])
    b, tight = rng.normal(size=size).astype(dtype), 1e-4 if dtype == np.float32 else 1e-12
    whole, parts = (np.full((2, N, size), np.nan, dtype) for _ in range(2))
    for out, pieces in ((whole, [(0, size)]), (parts, list(zip(cuts[:-1], cuts[1:], strict=True)))):
        for first, last in pieces:
            before = out.copy()
            linear.linear_forward(x, w, b, out[0], out[0], activations.RELU, np.empty(0), (first, last))
            linear.linear_backward_input(dout, w, out[1], (first, last), (0, size))
            for others in (slice(None, first), slice(last, None)):
                assert np.array_equal(out[:, :, others], before[:, :, others], equal_nan=True)
    shares = np.full((2, N, size), np.nan, dtype)
    for share, features in zip(shares, [(0, 11), (11, size)], strict=True):
        linear.linear_backward_input(dout, w, share, (0, size), features)
    np.testing.assert_allclose(shares.sum(axis=0), dout @ w, atol=tight)
    np.testing.assert_allclose(whole[0], np.maximum(x @ w.T + b, 0), atol=tight)
    np.testing.assert_allclose(whole[1], dout @ w, atol=tight)
    np.testing.assert_allclose(parts, whole, atol=tight)
    if not config.DISABLE_JIT:  # NumPy's sums follow the shapes
        assert np.array_equal(parts, whole)


@dtypes
def test_parts_of_linear_gradients(dtype):
    rng, (N, F, D) = np.random.default_rng(1), (6, 13, 50)
    dout, x = rng.normal(size=(N, F)).astype(dtype), rng.normal(size=(N, D)).astype(dtype)
    whole, db = np.full((F, D), np.nan, dtype), np.full(F, np.nan, dtype)
    linear.linear_backward_parameters(dout, dout, x, whole, db, (0, F))
    np.testing.assert_allclose(whole, dout.T @ x, atol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(db, dout.sum(0), atol=1e-5 if dtype == np.float32 else 1e-13)
    for cuts in [(0, 1, 13), (0, 6, 7, 13), (0, 0, 9, 13)]:
        parts = np.full((F, D), np.nan, dtype)
        for rows in zip(cuts[:-1], cuts[1:], strict=True):
            before = parts.copy()
            linear.linear_backward_parameters(dout, dout, x, parts, None, rows)
            assert np.array_equal(parts[rows[1] :], before[rows[1] :], equal_nan=True)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)
        if not config.DISABLE_JIT:  # NumPy's sums follow the shapes
            assert np.array_equal(parts, whole)


@dtypes
@pytest.mark.parametrize("shape", [(5, 9, 1), (70, 141, 1), (3, 4, 23), (40, 70, 3), (3, 4, 67), (1, 3, 40)])
def test_batch_norm_with_relu_and_by_parts(dtype, shape):
    """Against the definition in float64; NaN stays in its channel; the parts of a pass don't matter."""
    (N, C, M), rng, tight = shape, np.random.default_rng(2), 1e-5 if dtype == np.float32 else 1e-12
    x, dout = rng.normal(3, 2, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    x[0, 2, 0] = np.nan
    affine = rng.normal(size=C).astype(dtype), rng.normal(size=C).astype(dtype)

    def run(cuts, relu):
        mean, inv_std, rm, rv, *dgamma_dbeta = (np.full(C, 7, dtype) for _ in range(6))
        y, dx, dx_constant = (np.full(shape, 7, dtype) for _ in range(3))
        rm[:], rv[:], sums = 0, 1, tuple(dgamma_dbeta)
        batch, running, shares = (mean, inv_std), (rm, rv), np.empty((2, N, C), dtype)
        by_samples, numbers = M >= norm.SHORT, np.array([1e-5, 0.2])
        parts = [(part, slice(*part), (0, C)) if by_samples else (part, slice(0, N), part) for part in cuts]
        for _, n, channels in parts:
            if by_samples:
                norm.plane_statistics(x[n], *shares[:, n])
            else:
                norm.batch_norm_statistics(x, *batch, running, numbers, channels)
        if by_samples:
            norm.gather_statistics(*shares, M, *batch, running, numbers)
        for _, n, channels in parts:
            norm.batch_norm_forward(x[n], affine, batch, y[n], channels, relu)
            if by_samples:
                norm.plane_sums(dout[n], x[n], affine, batch, *shares[:, n], relu)
            else:
                norm.batch_norm_backward_parameters(dout, x, affine, batch, sums, channels, relu)
        if by_samples:
            reduce.sum_parts(shares[0], sums[0])
            reduce.sum_parts(shares[1], sums[1])
        for part, n, channels in parts:
            norm.batch_norm_backward_training(dout[n], x[n], affine, batch, (*sums, N * M), dx[n], channels, relu)
            norm.batch_norm_backward_evaluation(dout[n], y[n], affine[0], inv_std, dx_constant[n], relu)
            for array in (dx,) if by_samples else (dx.transpose(1, 0, 2),):
                assert (array[part[1] :] == 7).all()
        return mean, inv_std, rm, rv, y, dx, dx_constant, *sums

    size = N if M >= norm.SHORT else C
    whole = {relu: run([(0, size)], relu) for relu in (False, True)}
    for relu in (False, True):
        for cuts in [[(0, 1), (1, size)], [(0, size // 2), (size // 2, size // 2), (size // 2, size)]]:
            for part, expected in zip(run(cuts, relu), whole[relu], strict=True):
                assert np.array_equal(part, expected, equal_nan=True)
    mean, inv_std, rm, rv, y, dx, dx_constant, dgamma, dbeta = whole[True]
    good = np.arange(C) != 2
    for array in (mean, inv_std, y.transpose(1, 0, 2), rm, rv, dgamma):
        assert np.isnan(array[2]).all() and np.isfinite(array[good]).all()
    assert np.array_equal(y, naive.relu(whole[False][4]).astype(dtype), equal_nan=True)
    wide, (gamma, beta) = x.astype(np.float64)[:, good], (array[good, None].astype(np.float64) for array in affine)
    np.testing.assert_allclose(mean[good], wide.mean((0, 2)), rtol=tight)
    unbiased = wide.var((0, 2)) * (N * M / (N * M - 1))
    np.testing.assert_allclose(rv[good], 0.8 + 0.2 * unbiased, rtol=tight)
    hat = (wide - wide.mean((0, 2))[:, None]) / np.sqrt(wide.var((0, 2)) + 1e-5)[:, None]
    np.testing.assert_allclose(whole[False][4][:, good], gamma * hat + beta, atol=50 * tight)
    masked, factor = (dout * (y > 0))[:, good].astype(np.float64), gamma * inv_std[good, None]
    np.testing.assert_allclose(dgamma[good], (masked * hat).sum((0, 2)), atol=50 * tight)
    np.testing.assert_allclose(dbeta[good], masked.sum((0, 2)), atol=50 * tight)
    np.testing.assert_allclose(dx_constant[:, good], masked * factor, atol=50 * tight)
    through = masked.sum((0, 2))[:, None] + hat * (masked * hat).sum((0, 2))[:, None]
    np.testing.assert_allclose(dx[:, good], factor * (masked - through / (N * M)), atol=50 * tight)


@pytest.mark.parametrize("shape", [(20, 2, 50), (100, 3, 1), (70, 2, 9)])
def test_statistics_of_a_mean_a_million_deviations_away(shape):
    x, C = np.random.default_rng(3).normal(1e6, 1, shape), shape[1]
    mean, inv_std, rm, rv = np.empty(C), np.empty(C), np.zeros(C), np.zeros(C)
    settings = np.array([0.0, 1.0])
    if shape[2] >= norm.SHORT:
        shares = np.empty((2, *shape[:2]))
        norm.plane_statistics(x, *shares)
        norm.gather_statistics(*shares, shape[2], mean, inv_std, (rm, rv), settings)
    else:
        norm.batch_norm_statistics(x, mean, inv_std, (rm, rv), settings, (0, C))
    np.testing.assert_allclose(inv_std, 1 / x.std((0, 2)), rtol=1e-9)
    np.testing.assert_allclose(rm, x.mean((0, 2)), rtol=1e-14)


@dtypes
@pytest.mark.parametrize("spread", [1e-6, 0.1, 1, 10, 80])
def test_tanh_and_the_sigmoid_are_as_exact_as_their_type(dtype, spread):
    """Against NumPy in a wider type: within two roundings, and a few more for each power of two in a sigmoid's tail."""
    x = (np.random.default_rng(0).uniform(-1, 1, 999) * spread).astype(dtype)
    wide, eps = x.astype(np.longdouble), np.finfo(dtype).eps
    for compute, wanted, allowed in (
        (activations.tanh_forward, np.tanh(wide), 3 * eps),
        (activations.sigmoid_forward, 1 / (1 + np.exp(-wide)), (3 + np.maximum(0, -wide)) * eps),
    ):
        y = np.empty_like(x)
        compute(x, y)
        assert (np.abs(y - wanted) <= allowed * np.abs(wanted)).all()


@dtypes
def test_tanh_and_the_sigmoid_of_special_numbers(dtype):
    x = np.array([0.0, -0.0, 1e-30, -1e-30, -1e3, 1e3, -np.inf, np.inf, np.nan, -709, -88], dtype)
    y = np.empty_like(x)
    activations.tanh_forward(x, y)
    np.testing.assert_array_equal(y, np.array([0, 0, 1e-30, -1e-30, -1, 1, -1, 1, np.nan, -1, -1], dtype))
    assert not np.signbit(y[0])
    activations.sigmoid_forward(x, y)
    tail = 6.054601895401186e-39 if dtype == np.float64 else 0
    np.testing.assert_allclose(y, np.array([0.5, 0.5, 0.5, 0.5, 0, 1, 0, 1, np.nan, 0, tail], dtype), rtol=1e-13)
