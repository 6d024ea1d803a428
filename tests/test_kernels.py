"""Kernels called as threads and fused layers call them: by parts, with ReLU in the same pass."""

import naive
import numpy as np
import pytest
from numba import config

from fastbp.kernels import linear

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@dtypes
@pytest.mark.parametrize("bias", [False, True])
def test_linear_with_relu(dtype, bias):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(dtype) for shape in [(5, 7), (11, 7), (11,)])
    x[3] = np.nan
    plain, rectified = np.empty((5, 11), dtype), np.empty((5, 11), dtype)
    linear.linear_forward(x, w, b if bias else None, plain, False)
    linear.linear_forward(x, w, b if bias else None, rectified, True)
    np.testing.assert_allclose(plain, naive.linear(x, w, b if bias else None), atol=1e-5 if dtype == np.float32 else 1e-13)
    assert np.array_equal(rectified, naive.relu(plain).astype(dtype), equal_nan=True)


@dtypes
def test_parts_of_linear_gradients(dtype):
    rng, (N, F, D) = np.random.default_rng(1), (6, 13, 50)
    dout, x = rng.normal(size=(N, F)).astype(dtype), rng.normal(size=(N, D)).astype(dtype)
    whole, db = np.full((F, D), np.nan, dtype), np.full(F, np.nan, dtype)
    linear.linear_backward_parameters(dout, x, whole, db, (0, F))
    np.testing.assert_allclose(whole, dout.T @ x, atol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(db, dout.sum(0), atol=1e-5 if dtype == np.float32 else 1e-13)
    for cuts in [(0, 1, 13), (0, 6, 7, 13), (0, 0, 9, 13)]:
        parts = np.full((F, D), np.nan, dtype)
        for rows in zip(cuts[:-1], cuts[1:], strict=True):
            before = parts.copy()
            linear.linear_backward_parameters(dout, x, parts, None, rows)
            assert np.array_equal(parts[rows[1] :], before[rows[1] :], equal_nan=True)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)
        if not config.DISABLE_JIT:  # NumPy's sums follow the shapes
            assert np.array_equal(parts, whole)
