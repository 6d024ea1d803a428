"""What holds for single layers: conventions, identities, kinks, ties, extreme values, constructor errors."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

import fastbp

pytestmark = pytest.mark.portable


def test_relu_and_leaky_relu_at_the_kink():
    x, dout = np.array([[-1.0, 0.0, -0.0, 2.0, 5e-324]]), np.array([[3.0, 5.0, 7.0, 11.0, 13.0]])
    relu, leaky = fastbp.ReLU(), fastbp.LeakyReLU(0.5)
    assert relu.forward(x).tolist() == [[0, 0, 0, 2, 5e-324]]
    assert relu.backward(dout).tolist() == [[0, 0, 0, 11, 13]]
    leaky.forward(x)
    assert leaky.backward(dout).tolist() == [[1.5, 2.5, 3.5, 11, 13]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_softmax_of_extreme_scores(dtype):
    x = np.array([[-1e4, -100, 0, 100, 1e4]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):  # where the JIT is off
        y = fastbp.Sigmoid().forward(x)
        assert y[0, 2] == 0.5 and y[0, 0] == 0 and y[0, 4] == 1 and np.isfinite(y).all()
        assert fastbp.Softmax().forward(x).tolist() == [[0, 0, 0, 0, 1]]
        np.testing.assert_allclose(fastbp.LogSoftmax().forward(x), x - 1e4)


def test_sigmoid_and_tanh_keep_their_output_alone():
    for layer in (fastbp.Sigmoid(), fastbp.Tanh(), fastbp.ReLU()):
        x = np.random.default_rng(0).normal(size=(2, 3))
        layer.forward(x)
        dout = np.random.default_rng(1).normal(size=(2, 3))
        before = layer.backward(dout)
        x[:] = 99
        assert np.array_equal(layer.backward(dout), before)


def test_dropout_rate_is_the_probability_to_drop():
    x = np.random.default_rng(0).uniform(1, 2, (200, 500))
    layer = fastbp.Dropout(0.3)
    y = layer.forward(x, training=True)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.7)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / x.size)
    # rows and columns are no more alike than chance allows
    assert np.abs(np.corrcoef(kept[:50]) - np.eye(50)).max() < 0.25
    assert np.array_equal(layer.forward(x), x)


def test_dropout_masks_differ_by_step_and_key_and_can_be_replayed():
    x = np.random.default_rng(0).uniform(1, 2, (20, 50))
    layer = fastbp.Dropout(0.5)
    first, second = layer.forward(x, training=True), layer.forward(x, training=True)
    assert not np.array_equal(first, second)
    layer.state["step"][...] = 0
    assert np.array_equal(layer.forward(x, training=True), first)
    layer.state["step"][...] = 0
    layer.state["key"][...] = 12345
    assert not np.array_equal(layer.forward(x, training=True), first)
    single = fastbp.Dropout(0.5).forward(x.astype(np.float32), training=True)
    assert np.array_equal(single != 0, first != 0)  # the mask does not depend on the dtype


@given(st.integers(0, 2**63), st.integers(1, 60), st.integers(0, 59), st.floats(0, 0.99))
def test_dropout_of_a_slice_is_a_slice_of_dropout(key, size, start, rate):
    from fastbp.kernels.dropout import dropout_forward

    x = np.random.default_rng(0).uniform(1, 2, size)
    whole, part = np.empty(size), np.empty(max(size - start, 0))
    dropout_forward(x, whole, np.array([key], np.uint64), 0, np.array([rate]))
    dropout_forward(x[start:].copy(), part, np.array([key], np.uint64), start, np.array([rate]))
    assert np.array_equal(whole[start:], part)


@pytest.mark.parametrize(("shape", "make"), [((4, 3), fastbp.BatchNorm1d), ((2, 3, 2, 5), fastbp.BatchNorm2d)])
def test_batch_norm_running_statistics(shape, make):
    rng, layer = np.random.default_rng(0), make(3, momentum=0.2).astype(np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(3, 2, shape)
        layer.forward(x, training=True)
        _, batch_mean, _ = naive.batch_norm_training(x, np.ones(3), np.zeros(3), 1e-5)
        mean = naive.running_update(mean, batch_mean, 0.2)
        var = naive.running_update(var, naive.unbiased_variance(x), 0.2)
        layer.forward(x)  # evaluation leaves them alone
        np.testing.assert_allclose(layer.state["running_mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(layer.state["running_var"], var, rtol=1e-12)


def test_batch_norm_of_one_value_per_channel():
    layer = fastbp.BatchNorm1d(3).astype(np.float64)
    layer.beta.value = [1.0, 2.0, 3.0]
    assert layer.forward(np.array([[5.0, -5.0, 0.0]]), training=True).tolist() == [[1, 2, 3]]
    assert not layer.backward(np.array([[1.0, 2.0, 3.0]])).any()
    assert np.isfinite(layer.state["running_var"]).all()


def test_batch_norm_with_a_large_mean_keeps_its_digits():
    x = np.random.default_rng(0).normal(1e4, 1, (1000, 1)).astype(np.float32)
    y = fastbp.BatchNorm1d(1).forward(x, training=True)
    assert abs(y.std() - 1) < 1e-3 and abs(y.mean()) < 2e-2


@pytest.mark.parametrize("mode", ["valid", "full", "same"])
def test_conv2d_modes_agree_with_scipy(mode):
    rng = np.random.default_rng(0)
    x, layer = rng.normal(size=(2, 1, 7, 6)), fastbp.Conv2d(1, 1, (3, 5), padding=mode).astype(np.float64)
    expected = np.stack([signal.correlate2d(image[0], layer.weight.value[0, 0], mode=mode) for image in x])[:, None]
    np.testing.assert_allclose(layer.forward(x), expected, atol=1e-12)


def test_the_input_gradient_of_a_valid_convolution_is_a_full_one_with_turned_filters():
    rng, layer = np.random.default_rng(0), fastbp.Conv2d(3, 4, (3, 2), bias=False).astype(np.float64)
    dout = rng.normal(size=layer.forward(rng.normal(size=(2, 3, 6, 7))).shape)
    adjoint = fastbp.Conv2d(4, 3, (3, 2), padding="full", bias=False).astype(np.float64)
    adjoint.weight.value = layer.weight.value[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(layer.backward(dout), adjoint.forward(dout), atol=1e-12)


@given(st.data())
def test_convolution_and_its_transpose_are_adjoint(data):
    """⟨conv(x), y⟩ = ⟨x, convᵀ(y)⟩, and both equal ⟨w, dw⟩."""
    from layer_cases import cases

    case = data.draw(cases("Conv2d"))
    layer, x = case.layer, case.x
    if layer.bias:
        layer.bias.value = np.zeros(layer.bias.shape)
    y = layer.forward(x)
    dout = np.random.default_rng(0).normal(size=y.shape)
    product = np.vdot(y, dout)
    assert np.isclose(product, np.vdot(x, layer.backward(dout)), rtol=1e-10, atol=1e-10)
    assert np.isclose(product, np.vdot(layer.weight.value, layer.weight.grad), rtol=1e-10, atol=1e-10)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10))
def test_max_pool_sends_the_gradient_to_the_first_maximum(H, W, K, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (2, 2, H, W)).astype(np.float64)  # full of ties
    layer = fastbp.MaxPool2d(min(K, H, W), stride=1 + seed % 3)
    y = layer.forward(x)
    expected, argmax = naive.max_pool2d(x, layer.kernel_size, layer.stride)
    assert np.array_equal(y, expected)
    dout = rng.normal(size=y.shape)
    dx = np.zeros((2, 2, H * W))
    for n, c, i, j in np.ndindex(*y.shape):
        dx[n, c, argmax[n, c, i, j]] += dout[n, c, i, j]
    np.testing.assert_allclose(layer.backward(dout), dx.reshape(x.shape))


def test_max_pool_passes_nan_and_minus_infinity():
    x = np.array([[[[1.0, np.nan], [3.0, 2.0]]], [[[-np.inf, -np.inf], [-np.inf, -np.inf]]]])
    y = fastbp.MaxPool2d(2).forward(x)
    assert np.isnan(y[0, 0, 0, 0]) and y[1, 0, 0, 0] == -np.inf


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastbp.Linear(0, 3), ValueError, "in_features must be an int of at least 1, got 0"),
        (lambda: fastbp.Linear(3, 2.5), TypeError, "out_features must be an int, got 2.5"),
        (lambda: fastbp.Linear(3, 2, init="magic"), ValueError, "unknown initialiser 'magic'"),
        (lambda: fastbp.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size must be an int or a pair"),
        (lambda: fastbp.Conv2d(1, 1, 3, stride=0), ValueError, "stride must be an int of at least 1"),
        (lambda: fastbp.Conv2d(1, 1, 3, padding=-1), ValueError, "padding must be an int of at least 0"),
        (lambda: fastbp.Conv2d(1, 1, 3, padding="half"), ValueError, "'valid', 'same' or 'full', got 'half'"),
        (lambda: fastbp.MaxPool2d(2, padding=2), ValueError, "must be smaller than kernel_size"),
        (lambda: fastbp.Dropout(1.0), ValueError, r"rate must be in \[0, 1\), got 1.0"),
        (lambda: fastbp.Dropout(float("nan")), ValueError, r"rate must be in \[0, 1\), got nan"),
        (lambda: fastbp.BatchNorm1d(3, eps=0), ValueError, "eps must be positive"),
        (lambda: fastbp.BatchNorm2d(3, momentum=2), ValueError, "momentum must be in"),
        (lambda: fastbp.LeakyReLU(float("inf")), ValueError, "negative_slope must be a finite number"),
    ],
)
def test_wrong_constructor_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (fastbp.Linear(3, 2), (5, 4), r"Linear: expected input \(N, 3\), got \(5, 4\)"),
        (fastbp.Conv2d(3, 2, 3), (32, 1, 28, 28), r"Conv2d: expected input \(N, 3, H, W\), got \(32, 1, 28, 28\)"),
        (fastbp.Conv2d(1, 2, 5), (1, 1, 4, 9), r"kernel \(5, 5\) does not fit an image \(4, 9\)"),
        (fastbp.MaxPool2d(3), (1, 1, 2, 9), r"window \(3, 3\) does not fit an image \(2, 9\)"),
        (fastbp.BatchNorm1d(3), (5, 3, 2, 2), r"BatchNorm1d: expected input \(N, 3\), got \(5, 3, 2, 2\)"),
        (fastbp.BatchNorm2d(3), (5, 3), r"BatchNorm2d: expected input \(N, 3, H, W\), got \(5, 3\)"),
        (fastbp.Softmax(), (5, 3, 2), r"Softmax: expected input \(N, C\), got \(5, 3, 2\)"),
        (fastbp.LogSoftmax(), (5, 0), "C of at least 1"),
    ],
)
def test_wrong_input_shapes(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.forward(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=message.split(":")[0].split(r" \(")[0]):
        layer.output_shape(shape[1:])
