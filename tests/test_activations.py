"""GELU, SiLU and the kernel of all activations: as exact as their type, for any numbers and any size."""

import math

import numpy as np
import pytest

import fastbp
from fastbp.kernels import activations
from fastbp.kernels.activations import GELU, GELU_TANH, LEAKY_RELU, NONE, RELU, SIGMOID, SILU, TANH

pytestmark = pytest.mark.vectors

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SLOPE = 0.3


def each(function):
    return np.vectorize(lambda value: function(float(value)), otypes=[float])


def logistic(value):
    """σ of one number, without overflow"""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def twice(value):
    """2u of GELU by tanh, and its derivative"""
    return 2 * math.sqrt(2 / math.pi) * (value + 0.044715 * value**3), 2 * math.sqrt(2 / math.pi) * (
        1 + 0.134145 * value**2
    )


def normal(value):
    """Φ, by the C library"""
    return math.erfc(-value / math.sqrt(2)) / 2


def gelu_tanh_slope(value):
    u, du = twice(value)
    return logistic(u) + value * logistic(u) * logistic(-u) * du


FORWARD = {  # of one number, in float64
    NONE: lambda v: v, RELU: lambda v: max(v, 0), LEAKY_RELU: lambda v: v if v > 0 else SLOPE * v, SIGMOID: logistic,
    TANH: math.tanh, GELU: lambda v: v * normal(v), GELU_TANH: lambda v: v * logistic(twice(v)[0]),
    SILU: lambda v: v * logistic(v),
}  # fmt: skip
SLOPES = {
    NONE: lambda v: 1, RELU: lambda v: v > 0, LEAKY_RELU: lambda v: 1 if v > 0 else SLOPE,
    SIGMOID: lambda v: logistic(v) * logistic(-v), TANH: lambda v: 1 / math.cosh(v) ** 2,
    GELU: lambda v: normal(v) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi), GELU_TANH: gelu_tanh_slope,
    SILU: lambda v: logistic(v) + v * logistic(v) * logistic(-v),
}  # fmt: skip


@dtypes
@pytest.mark.parametrize("spread", [1e-6, 0.3, 3, 12])
@pytest.mark.parametrize("kind", [GELU, GELU_TANH, SILU])
def test_full_precision(kind, spread, dtype):
    """Within a few roundings of the result's size, and of the argument's in an exponent: also where y is nearly 0."""
    x, numbers, eps = (np.random.default_rng(kind).uniform(-1, 1, 2000) * spread).astype(dtype), [], np.finfo(dtype).eps
    y, slope = np.empty_like(x), np.ones_like(x)
    activations.activate(x, y, kind, np.array(numbers))
    activations.times_slope(x, slope, kind, np.array(numbers))
    exponent = {GELU: lambda v: v * v, GELU_TANH: lambda v: 2 * abs(twice(v)[0]), SILU: abs}[kind]
    size = np.abs(each(FORWARD[kind])(x))
    tiny = np.finfo(dtype).tiny * 1000  # below, exponentials are taken for 0
    allowed = eps * (5 + 2 * np.where(x < 0, each(exponent)(x), 0)) * size + tiny
    assert (np.abs(y - each(FORWARD[kind])(x)) <= allowed).all()
    assert (np.abs(slope - each(SLOPES[kind])(x)) <= 12 * eps * (1 + np.abs(x))).all()


@dtypes
@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("size", [0, 1, 17, 20_001])
def test_any_kind_and_size_in_place_or_not(kind, size, dtype):
    """One kernel for all, which reads the layer's numbers when it runs."""
    rng, numbers = np.random.default_rng(size), np.array([SLOPE] if kind == LEAKY_RELU else [])
    tight = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-14}
    x = rng.normal(size=size).astype(dtype)
    x[size // 2 : size // 2 + 1] = np.nan
    y, same = np.full_like(x, 7), x.copy()
    if kind != NONE:
        activations.activate(x, y, kind, numbers)
        activations.activate(same, same, kind, numbers)
        assert np.array_equal(y, same, equal_nan=True)
    else:
        y = x
    with np.errstate(invalid="ignore"):
        good = ~np.isnan(x)
    np.testing.assert_allclose(y[good], each(FORWARD[kind])(x[good]) if good.any() else [], **tight)
    assert np.isnan(y[~good]).all()
    dout = rng.normal(size=size).astype(dtype)
    dx = dout.copy()
    activations.times_slope(x if kind in activations.FROM_X else y, dx, kind, numbers)
    np.testing.assert_allclose(dx[good], dout[good] * each(SLOPES[kind])(x[good]) if good.any() else [], **tight)


@dtypes
@pytest.mark.parametrize("layer", [fastbp.GELU(), fastbp.GELU("tanh"), fastbp.SiLU()], ids=repr)
def test_special_numbers(layer, dtype):
    """Far out it is x or 0, the derivative 1 or 0: nothing overflows on the way."""
    huge = 1e38 if dtype == np.float32 else 1e300
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 300, -300, huge, -huge, np.inf, np.nan], dtype)
    y = layer.forward(x, True)
    np.testing.assert_allclose(y, np.array([0, 0, 5e-31, -5e-31, 300, 0, huge, 0, np.inf, np.nan], dtype), atol=1e-100)
    slopes = layer.backward(np.ones_like(x))
    np.testing.assert_allclose(slopes, [0.5, 0.5, 0.5, 0.5, 1, 0, 1, 0, 1, np.nan], atol=1e-30)


def test_the_settings_of_gelu():
    assert fastbp.GELU().approximate == "none" and repr(fastbp.GELU("tanh")) == "GELU(approximate='tanh')"
    with pytest.raises(ValueError, match="approximate must be one of 'none', 'tanh'"):
        fastbp.GELU("erf")
    with pytest.raises(TypeError, match="approximate"):
        fastbp.GELU(True)
    with pytest.raises(AttributeError, match="approximate"):
        fastbp.GELU().approximate = "tanh"
