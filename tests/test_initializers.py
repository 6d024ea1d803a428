"""First values: their mean, variance and bounds, measured on many draws."""

import math

import numpy as np
import pytest

from fastbp import Conv2d, Linear, Sequential
from fastbp.initializers import (
    BY_NAME,
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    Normal,
    PyTorchDefault,
    Whitening,
    get,
)

IN, OUT = 300, 200
VARIANCES = {  # of a weight with 300 inputs and 200 outputs
    "he_normal": 2 / 300,
    "he_uniform": 2 / 300,
    "glorot_normal": 2 / 500,
    "glorot_uniform": 2 / 500,
    "pytorch": 1 / 900,
    "normal": 1e-4,
}
BOUNDS = {"he_uniform": math.sqrt(6 / 300), "glorot_uniform": math.sqrt(6 / 500), "pytorch": 1 / math.sqrt(300)}


def drawn(init, seed=0):
    return Sequential(Linear(IN, OUT, init=init), dtype=np.float64, seed=seed).layers[0].weight.value


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_and_variance_are_the_formulas(name, seed):
    values, variance = drawn(name, seed), VARIANCES[name]
    count = values.size
    assert abs(values.mean()) < 5 * math.sqrt(variance / count)
    assert values.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / count))


@pytest.mark.parametrize("name", BOUNDS)
def test_uniform_values_fill_their_interval_and_stay_inside(name):
    values, bound = drawn(name), BOUNDS[name]
    assert np.abs(values).max() <= bound and values.max() > 0.999 * bound and values.min() < -0.999 * bound
    shares = np.histogram(values, 10, (-bound, bound))[0] / values.size
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


@pytest.mark.parametrize("name", ["he_normal", "glorot_normal", "normal"])
def test_normal_values_have_the_bells_quantiles(name):
    z = drawn(name) / math.sqrt(VARIANCES[name])
    for limit, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert np.mean(np.abs(z) < limit) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "init, fan", [("he_normal", 2 / (3 * 5 * 4)), ("glorot_normal", 2 / (3 * 5 * 4 + 500 * 5 * 4))]
)
def test_the_fans_of_a_convolution_count_its_window(init, fan):
    layer = Conv2d(3, 500, (5, 4), init=init)
    assert layer.weight.value.var() == pytest.approx(fan, rel=5 * math.sqrt(2 / layer.weight.value.size))


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"pytorch"}))
def test_biases_start_at_zero(name):
    assert not Linear(7, 5, init=name).bias.value.any() and not Conv2d(2, 3, 3, init=name).bias.value.any()


def test_pytorchs_biases_are_uniform_with_the_weights_bound():
    bias = Linear(100, 20000, init="pytorch").bias.value
    assert np.abs(bias).max() <= np.float32(0.1) and bias.var() == pytest.approx(0.01 / 3, rel=0.05)
    assert np.abs(Conv2d(4, 5000, 5, init="pytorch").bias.value).max() == pytest.approx(0.1, rel=1e-2)


def test_constants_and_chosen_deviations():
    assert (Linear(4, 3, init=Constant(-1.5)).weight.value == -1.5).all()
    assert not Linear(4, 3, init="zeros").weight.value.any()
    assert Linear(300, 300, init=Normal(0.3)).weight.value.std() == pytest.approx(0.3, rel=0.02)


def test_names_and_objects_draw_the_same():
    pairs = {
        "he_normal": HeNormal(),
        "he_uniform": HeUniform(),
        "glorot_normal": GlorotNormal(),
        "glorot_uniform": GlorotUniform(),
        "pytorch": PyTorchDefault(),
        "zeros": Constant(0),
        "normal": Normal(0.01),
    }
    assert pairs.keys() == BY_NAME.keys()
    for name, init in pairs.items():
        np.testing.assert_array_equal(drawn(name), drawn(init))


@pytest.mark.parametrize("wrong", ["he", "He_Normal", "", None, 3, HeNormal, ["he_normal"]])
def test_an_unknown_initialiser_is_an_error_that_lists_the_known(wrong):
    for make in (get, lambda init: Linear(3, 2, init=init), lambda init: Conv2d(1, 1, 2, init=init)):
        with pytest.raises(
            ValueError if isinstance(wrong, str) else TypeError, match="unknown initialiser .*he_normal.*pytorch"
        ):
            make(wrong)


@pytest.mark.parametrize("std", [-1.0, math.nan])
def test_a_deviation_that_is_none_is_an_error_when_it_is_given(std):
    with pytest.raises(ValueError, match="std"):
        Normal(std)


def test_an_initialiser_of_ones_own_is_drawn_with_the_fans():
    class Fans(Initializer):
        def weight(self, rng, shape, fan_in, fan_out):
            return np.full(shape, 1000.0 * fan_in + fan_out)

    assert (Linear(5, 7, init=Fans()).weight.value == 5007).all()
    assert (Conv2d(2, 3, (4, 5), init=Fans()).weight.value == 40060).all()
    with pytest.raises(TypeError, match="Initializer does not say"):
        Linear(3, 2, init=Initializer()).weight.value  # noqa: B018


@pytest.mark.parametrize("name", VARIANCES)
def test_seeds_decide_and_single_precision_is_the_rounded_double(name):
    np.testing.assert_array_equal(drawn(name, 5), drawn(name, 5))
    assert not np.array_equal(drawn(name, 5), drawn(name, 6))
    single = Sequential(Linear(IN, OUT, init=name), seed=5).layers[0].weight.value
    np.testing.assert_array_equal(single, drawn(name, 5).astype(np.float32))


def test_two_layers_of_one_network_draw_different_values():
    network = Sequential(Linear(6, 6), Linear(6, 6))
    assert not np.intersect1d(network.layers[0].weight.value, network.layers[1].weight.value).size


# -- whitening ---------------------------------------------------------------------------------------------------------


def patches_of(images, kernel):
    """All patches, one a row, in the order of a filter's numbers."""
    N, C, H, W = images.shape
    KH, KW = kernel
    places = [(n, i, j) for n in range(N) for i in range(H - KH + 1) for j in range(W - KW + 1)]
    return np.array([images[n, :, i : i + KH, j : j + KW].ravel() for n, i, j in places])


@pytest.mark.parametrize("kernel", [(2, 2), (1, 3)])
def test_whitening_filters_make_outputs_uncorrelated_and_of_variance_1(kernel):
    rng, K = np.random.default_rng(0), 3 * kernel[0] * kernel[1]
    images = rng.normal(size=(40, 3, 6, 5)) @ rng.normal(size=(5, 5)) + 0.3  # neighbours and means that are correlated
    layer = Conv2d(3, 2 * K, kernel, init=Whitening(images, kernel, eps=1e-9), bias=False).astype(np.float64)
    y = layer.forward(images).transpose(0, 2, 3, 1).reshape(-1, 2 * K)
    np.testing.assert_allclose(y[:, :K].T @ y[:, :K] / len(y), np.eye(K), atol=1e-6)
    np.testing.assert_array_equal(y[:, K:], -y[:, :K])
    patches = patches_of(images, kernel)
    moments = patches.T @ patches / len(patches)
    filters = layer.weight.value.reshape(2 * K, K)[:K]
    for k, row in enumerate(filters):  # eigenvectors, by falling eigenvalue, divided by its root
        value = np.linalg.eigvalsh(moments)[::-1][k]
        np.testing.assert_allclose(moments @ row, value * row, atol=1e-6 * np.abs(moments).max() * np.abs(row).max())
        assert row @ row == pytest.approx(1 / (value + 1e-9), rel=1e-5)


def test_whitening_by_fewer_filters_with_eps_and_of_pixels_as_they_are():
    images = np.random.default_rng(1).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    few, all_of_them = (Conv2d(1, F, 2, init=Whitening(images, 2, eps=0.5)).weight.value for F in (4, 8))
    np.testing.assert_array_equal(few[:2], all_of_them[:2])
    np.testing.assert_array_equal(few[2:], -all_of_them[:2])
    flat = Whitening(np.ones((2, 1, 4, 4)), 2, eps=0.5)  # eigenvalues 4, 0, 0, 0
    np.testing.assert_allclose(np.linalg.norm(flat.filters.reshape(4, 4), axis=1), [4.5**-0.5, *[2**0.5] * 3])
    assert flat == Whitening(np.ones((2, 1, 4, 4)), 2, eps=0.5) != Whitening(np.ones((2, 1, 4, 4)), 2, eps=0.4)


def test_wrong_arguments_of_whitening_are_clear_errors():
    images = np.ones((2, 3, 4, 4))
    for error, make, message in [
        (TypeError, lambda: Whitening("cifar10", 2), "Whitening: images must be an array of numbers"),
        (ValueError, lambda: Whitening(images[0], 2), r"Whitening: images must be \(N, C, H, W\)"),
        (ValueError, lambda: Whitening(images[:0], 2), "Whitening: images must be"),
        (ValueError, lambda: Whitening(images, 5), "no smaller than the filter"),
        (ValueError, lambda: Whitening(images, 2, eps=0), "Whitening: eps must be positive"),
        (ValueError, lambda: Whitening(images * np.nan, 2), "Whitening: images must be finite"),
        (ValueError, lambda: Conv2d(3, 25, 2, init=Whitening(images, 2)).weight.value, r"\(24 or fewer, an even"),
        (ValueError, lambda: Conv2d(3, 26, 2, init=Whitening(images, 2)).weight.value, "got .26, 3, 2, 2"),
        (ValueError, lambda: Conv2d(3, 24, 3, init=Whitening(images, 2)).weight.value, "Whitening: expected a weight"),
        (ValueError, lambda: Linear(3, 24, init=Whitening(images, 2)).weight.value, "Whitening: expected a weight"),
    ]:
        with pytest.raises(error, match=message):
            make()
