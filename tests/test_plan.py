"""A network's plan against the network layer by layer, and the sandwich layers on their own."""

import copy
from unittest import mock

import naive
import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_cases import values

import fastbp
from fastbp.kernels.conv.pooled import Pooled
from fastbp.kernels.conv.ways import Geometry
from fastbp.layers.fused import ConvReLUPool, NormReLUPool

pytestmark = pytest.mark.vectors


@st.composite
def networks(draw):
    """A convolutional network with and without sandwiches, in float64, and its input shape."""
    C, size = draw(st.integers(1, 3)), draw(st.integers(12, 17))
    shape, layers = (C, size, draw(st.integers(12, 17))), []
    for _ in range(draw(st.integers(1, 2))):
        conv = fastbp.Conv2d(
            layers_channels(layers, C), draw(st.sampled_from([1, 2, 3, 4, 5, 6, 16])), draw(st.sampled_from([1, 3, (5, 2)])),
            padding=draw(st.sampled_from([0, 1, (2, 1), "same", "full"])), stride=draw(st.sampled_from([1, 1, 1, 2])),
            bias=draw(st.booleans()),
        )  # fmt: skip
        layers.append(conv)
        layers += [fastbp.BatchNorm2d(conv.out_channels)] * draw(st.integers(0, 1))
        layers += [draw(st.sampled_from([fastbp.ReLU, fastbp.ReLU, fastbp.Tanh]))()]
        pools = [fastbp.MaxPool2d(2), fastbp.MaxPool2d(2), fastbp.MaxPool2d(3, 2, 1), fastbp.AvgPool2d(2)]
        layers.append(draw(st.sampled_from(pools)))
    layers += [fastbp.Dropout(0.3)] * draw(st.integers(0, 1))
    probe = fastbp.Sequential(*copy.deepcopy(layers))
    try:
        features = int(np.prod(probe.output_shape(shape)))
    except ValueError:  # the maps have become too small for a window
        assume(False)
    layers = [copy.deepcopy(layer) for layer in layers]
    layers += [fastbp.Flatten(), fastbp.Linear(features, 3)]
    return fastbp.Sequential(*layers, dtype=np.float64, seed=draw(st.integers(0, 99))), shape


def layers_channels(layers, C):
    return next((layer.out_channels for layer in reversed(layers) if isinstance(layer, fastbp.Conv2d)), C)


@settings(max_examples=60)
@given(
    networks(),
    st.integers(0, 5),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from(["whole", "samples", "rows"]),
)
def test_a_plan_computes_what_the_layers_compute(case, batch, seed, need_dx, cut):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PART_WORK", "RANGE_WORK", "PER_WEIGHT", "PER_READ", "PIECE_WORK") if cut != "whole" else ():
            patch.setattr(fastbp.plan, name, 1)
        for name in ("TILE_ROWS", "TILE_COLUMNS"):
            patch.setattr(fastbp.plan, name, 4)
        if cut != "whole":
            patch.setattr(fastbp.plan, "LARGE", 100 if cut == "samples" else 10)
        if cut == "rows":  # no share of a sum would pay
            patch.setattr(fastbp.plan, "PER_WEIGHT", 10**12)
        compare_plan_and_layers(case, batch, seed, need_dx)


@pytest.mark.parametrize(("channels", "size", "kernel"), [(8, 8, 3), (16, 12, 3), (3, 14, 5), (3, 7, 2)])
def test_large_convolutions_take_their_gradients_by_rows(channels, size, kernel, monkeypatch):
    """Winograd's tiles, small and large, shifted rows, unfolded patches: each block of filters for the whole batch."""
    for name, value in (
        ("PART_WORK", 1),
        ("PER_WEIGHT", 10**12),
        ("PER_READ", 10**12),
        ("LARGE", 10),
        ("RANGE_WORK", 1),
    ):
        monkeypatch.setattr(fastbp.plan, name, value)
    layers = [fastbp.Conv2d(channels, 33, kernel), fastbp.Tanh(), fastbp.Flatten()]
    features = fastbp.Sequential(*layers).output_shape((channels, size, size))[0]
    network = fastbp.Sequential(*layers, fastbp.Linear(features, 3), dtype=np.float64)
    compare_plan_and_layers((network, (channels, size, size)), 4, 0, True)
    batch = network.plan((channels, size, size)).batch(4, True)
    assert len(batch.bounds) == 2 and batch.stages[0].sums is None
    of_the_convolution = [pieces for pieces in batch.ranges if pieces[0].first < 33 * channels * kernel**2]
    assert len(of_the_convolution) == 4


@pytest.mark.parametrize("batch", [4, 8])
def test_shares_of_a_sum_where_they_pay(batch):
    """Two parts of a small batch would write and add too many numbers for the products that they share."""
    convolutions = [fastbp.Conv2d(C, F, 3, padding=1) for C, F in ((64, 128), (128, 128))]
    network = fastbp.Sequential(*convolutions)
    made = network.plan((64, 8, 8)).batch(batch, True)
    assert len(made.bounds) == 2
    assert [stage.by_rows for stage in made.stages] == [batch == 4] * 2


def compare_plan_and_layers(case, batch, seed, need_dx):
    network, shape = case
    if batch == 0 and any(isinstance(layer, fastbp.BatchNorm2d) for layer in network.layers):
        batch = 2
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, fastbp.BatchNorm2d):  # channels with negative factors, and without one
            layer.gamma.value, layer.beta.value = (
                rng.integers(-2, 3, layer.num_features),
                rng.normal(size=layer.num_features),
            )
    other, plan, x = copy.deepcopy(network), network.plan(shape), rng.normal(size=(batch, *shape))
    for _ in range(2):  # the second pass has other dropout masks and running statistics
        y, expected = plan.forward(x, training=True), other.forward(x, training=True)
        np.testing.assert_allclose(y, expected, atol=1e-11)
        dout = rng.normal(size=y.shape)
        dx, expected_dx = plan.backward(dout, need_dx), other.backward(dout, need_dx)
        np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-9)
        if need_dx:
            np.testing.assert_allclose(dx, expected_dx, atol=1e-10)
        else:
            assert dx is None
    for name, array in network.state_dict().items():
        np.testing.assert_allclose(array, other.state_dict()[name], atol=1e-11)


@given(
    st.integers(1, 3), st.sampled_from([*range(1, 10), 15, 16, 17, 33]), st.sampled_from([1, 2, (3, 2), 5, (1, 9)]),
    st.integers(10, 14), st.booleans(), st.data(),
)  # fmt: skip
def test_conv_relu_pool(C, F, kernel, size, by_filters, data):
    """Both ways of computing it, whichever would be chosen."""
    with mock.patch.object(Pooled, "by_filters", by_filters):
        compare_sandwich_and_layers(C, F, kernel, size, data)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_narrow_maps_of_whole_panels_are_computed_by_filters(lanes):
    chosen = {(16, 5, 10): True, (32, 7, 22): lanes > 4, (6, 5, 28): False, (12, 5, 28): False, (32, 3, 64): False}
    with mock.patch("fastbp.kernels.simd.lanes_of", return_value=lanes):
        for (F, kernel, size), by_filters in chosen.items():
            geometry = Geometry(3, F, (kernel, kernel), (1, 1), (0, 0), (size, size))
            assert Pooled(geometry, None, np.float32).by_filters == by_filters


def compare_sandwich_and_layers(C, F, kernel, size, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    conv = fastbp.Conv2d(
        C, F, kernel, padding=data.draw(st.sampled_from([1, "same", "full"])), bias=data.draw(st.booleans())
    )
    conv.astype(np.float64)
    layers, shape = (conv, fastbp.ReLU(), fastbp.MaxPool2d(2)), (C, size, size + 2)
    if not ConvReLUPool.fits(layers, shape):
        return
    for parameter in conv.parameters:
        parameter.value = values(rng, parameter.shape)
    x = rng.normal(size=(2, *shape))
    y = x
    for layer in layers:
        y = layer.forward(y)
    dx = dout = rng.normal(size=y.shape)
    for layer in reversed(layers):
        dx = layer.backward(dx)
    expected = [parameter.grad.copy() for parameter in conv.parameters]
    sandwich = ConvReLUPool(conv)
    np.testing.assert_allclose(sandwich.forward(x), y, atol=1e-12)
    for need_dx in (True, False, True):
        got = sandwich.backward(dout, need_dx)
        np.testing.assert_allclose(got, dx, atol=1e-12) if need_dx else None
        for parameter, gradient in zip(conv.parameters, expected, strict=True):
            np.testing.assert_allclose(parameter.grad, gradient, atol=1e-11)
    assert sandwich.output_shape(shape) == y.shape[1:]


def test_conv_relu_pool_against_finite_differences_and_the_oracle():
    conv = fastbp.Conv2d(2, 3, 3, padding=1).astype(np.float64)
    conv.bias.value = [0.1, -0.2, 0.3]
    x = np.random.default_rng(0).normal(size=(2, 2, 11, 10))
    sandwich = ConvReLUPool(conv)
    maps = naive.relu(naive.conv2d(x, conv.weight.value, conv.bias.value, (1, 1), ((1, 1), (1, 1))))
    np.testing.assert_allclose(sandwich.forward(x), naive.max_pool2d(maps, (2, 2), (2, 2))[0], atol=1e-12)
    fastbp.check_gradients(sandwich, x).raise_if_failed()


@pytest.mark.parametrize("bug", ["sign", "not divided", "one element"])
def test_a_broken_sandwich_is_rejected(bug, monkeypatch):
    correct = ConvReLUPool.backward

    def broken(self, dout, need_dx=True, out=None):
        dx = correct(self, dout, need_dx, out)
        if bug == "sign":
            self.conv.weight.grad *= -1
        elif bug == "not divided":
            dx *= 2
        else:
            dx.flat[np.flatnonzero(dx)[0]] *= 1.001
        return dx

    sandwich = ConvReLUPool(fastbp.Conv2d(1, 2, 3).astype(np.float64))
    x = np.random.default_rng(0).normal(size=(2, 1, 12, 13))
    assert fastbp.check_gradients(sandwich, x).passed
    monkeypatch.setattr(ConvReLUPool, "backward", broken)
    assert not fastbp.check_gradients(sandwich, x).passed


@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 9), st.integers(2, 40), st.booleans(), st.data())
def test_norm_relu_pool(N, C, H, W, training, data):
    """Against the three layers, and the oracle; small whole numbers have ties, a gamma of 0 has nothing else."""
    rng, shape = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), (N, C, H, W)
    norm = fastbp.BatchNorm2d(C, momentum=0.3).astype(np.float64)
    norm.gamma.value, norm.beta.value = rng.integers(-2, 3, C), rng.normal(size=C)
    norm.state.update(running_mean=rng.normal(size=C), running_var=rng.uniform(1, 2, C))
    layers = copy.deepcopy((norm, fastbp.ReLU(), fastbp.MaxPool2d(2)))
    assert NormReLUPool.fits(layers, shape[1:])
    x = rng.integers(-1, 2, shape) * 1.0 if data.draw(st.booleans()) else rng.normal(3, 2, shape)
    y = x
    for layer in layers:
        y = layer.forward(y, training)
    dx = dout = rng.normal(size=y.shape)
    for layer in reversed(layers):
        dx = layer.backward(dx)
    sandwich = NormReLUPool(norm)
    assert sandwich.output_shape(shape[1:]) == y.shape[1:]
    np.testing.assert_allclose(sandwich.forward(x, training), y, atol=1e-12)
    statistics = (layers[0].state["running_mean"], layers[0].state["running_var"])
    np.testing.assert_allclose((norm.state["running_mean"], norm.state["running_var"]), statistics, atol=1e-13)
    if training:
        maps = naive.batch_norm_training(x, norm.gamma.value, norm.beta.value, norm.eps)[0]
    else:
        maps = naive.batch_norm_evaluation(x, norm.gamma.value, norm.beta.value, *statistics, norm.eps)
    np.testing.assert_allclose(y, naive.max_pool2d(naive.relu(maps), (2, 2), (2, 2))[0], atol=1e-11)
    for need_dx in (True, False, True):
        norm.gamma.grad, norm.beta.grad = np.full((2, C), 7.0)
        got = sandwich.backward(dout, need_dx)
        np.testing.assert_allclose(got, dx, atol=1e-11) if need_dx else None
        for parameter, other in zip(norm.parameters, layers[0].parameters, strict=True):
            np.testing.assert_allclose(parameter.grad, other.grad, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [False, True])
def test_norm_relu_pool_by_channels(dtype, training):
    """Parts write their channels alone, and the same as the whole."""
    rng, norm, shape = np.random.default_rng(0), fastbp.BatchNorm2d(6).astype(dtype), (3, 6, 11, 23)
    norm.gamma.value, norm.beta.value = rng.normal(size=(2, 6))
    x, sandwich = rng.normal(1, 2, shape).astype(dtype), NormReLUPool(norm)
    x[1, 4, 2, 2] = np.nan
    results = []
    for cuts in ([(0, 6)], [(0, 1), (1, 3)], [(3, 6), (0, 0)]):
        norm.gamma.grad, norm.beta.grad, norm.state["running_mean"], norm.state["running_var"] = np.full((4, 6), 1)
        y, dx = np.full((3, 6, 5, 11), 7, dtype), np.full(shape, 7, dtype)
        whole = fastbp.layers.base.Pass(x, y, training)
        fastbp.layers.base.run(sandwich.prepare_calls(whole))
        whole.dout, whole.dx = np.random.default_rng(1).normal(size=y.shape).astype(dtype), dx
        for part in (whole.of_channels(*cut) for cut in cuts):
            for calls in (sandwich.forward_calls, sandwich.parameter_calls, sandwich.input_calls):
                fastbp.layers.base.run(calls(part))
        sums = norm.gamma.grad, norm.beta.grad, norm.state["running_mean"], norm.state["running_var"]
        results.append((y.swapaxes(0, 1), dx.swapaxes(0, 1), *map(np.copy, sums)))
    for whole, low, high in zip(*results, strict=True):
        assert np.array_equal(low[:3], whole[:3]) and np.array_equal(high[3:], whole[3:], equal_nan=True)
        for untouched in (low[3:], high[:3]):
            assert np.isin(untouched, (1, 7)).all()
    y, dx, dgamma = results[0][:3]
    assert np.isnan(y[4]).any() and np.isfinite(np.delete(y, 4, 0)).all() and np.isfinite(np.delete(dx, 4, 0)).all()
    assert np.isnan(dgamma[4]) and np.isfinite(np.delete(dgamma, 4)).all()


@pytest.mark.parametrize("bug", ["sign", "not divided", "one element", None])
def test_norm_relu_pool_against_finite_differences(bug, monkeypatch):
    correct = NormReLUPool.backward

    def broken(self, dout, need_dx=True, out=None):
        dx = correct(self, dout, need_dx, out)
        if bug == "sign":
            self.norm.gamma.grad *= -1
        elif bug == "not divided":
            dx *= 2
        elif bug == "one element":
            dx.flat[np.flatnonzero(dx)[0]] *= 1.01
        return dx

    monkeypatch.setattr(NormReLUPool, "backward", broken)
    sandwich, rng = NormReLUPool(fastbp.BatchNorm2d(3).astype(np.float64)), np.random.default_rng(0)
    sandwich.norm.gamma.value, sandwich.norm.beta.value = [1.5, -0.5, 0.7], [0.3, 0.2, -0.1]
    assert fastbp.check_gradients(sandwich, rng.normal(size=(3, 3, 5, 6))).passed == (bug is None)


def test_a_replaced_method_keeps_layers_out_of_a_sandwich():
    for kind in (fastbp.Conv2d(1, 2, 3), fastbp.BatchNorm2d(1)):
        layers, x = [kind, fastbp.ReLU(), fastbp.MaxPool2d(2)], np.ones((2, 1, 20, 20), np.float32)
        for layer in layers:
            network = fastbp.Sequential(*copy.deepcopy(layers))
            assert len(network.plan((1, 20, 20)).stages) == 1
            mine = network.layers[layers.index(layer)]
            mine.forward = lambda x, training=False, out=None, shape=mine.output_shape: np.zeros(
                (len(x), *shape(x.shape[1:])), np.float32
            )
            assert len(network.plan((1, 20, 20)).stages) == 3
            np.testing.assert_allclose(network.plan((1, 20, 20)).forward(x), network.forward(x), atol=1e-6)


def test_nan_passes_through_a_sandwich():
    conv, x = fastbp.Conv2d(1, 2, 3), np.zeros((1, 1, 12, 12), np.float32)
    x[0, 0, 5, 5] = np.nan
    y = x
    for layer in (conv, fastbp.ReLU(), fastbp.MaxPool2d(2)):
        y = layer.forward(y)
    assert np.array_equal(np.isnan(ConvReLUPool(conv).forward(x)), np.isnan(y)) and np.isnan(y).any()


def test_sandwiches_are_made_where_they_fit():
    stages = fastbp.models.cnn().plan((1, 28, 28)).stages
    assert [type(stage).__name__ for stage in stages] == ["ConvReLUPool", "Flatten", "Linear", "ReLU", "Linear"]
    stages = fastbp.models.cnn(batch_norm=True, dropout=0.5).plan((1, 28, 28)).stages
    kinds = ["Conv2d", "NormReLUPool", "Dropout", "Flatten", "Linear", "ReLU", "Linear"]
    assert [type(stage).__name__ for stage in stages] == kinds
    for pool in (fastbp.MaxPool2d(2, 1), fastbp.MaxPool2d(3, 2), fastbp.MaxPool2d(2, 2, 1), fastbp.AvgPool2d(2)):
        network = fastbp.Sequential(fastbp.BatchNorm2d(2), fastbp.ReLU(), pool)
        assert len(network.plan((2, 9, 9)).stages) == 3
    strided = fastbp.Sequential(fastbp.Conv2d(1, 2, 3, stride=2), fastbp.ReLU(), fastbp.MaxPool2d(2))
    assert [type(stage).__name__ for stage in strided.plan((1, 40, 40)).stages] == ["Conv2d", "ReLU", "MaxPool2d"]


def test_plans_are_kept_for_the_last_few_shapes_and_dropped_with_the_dtype():
    network = fastbp.Sequential(fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), fastbp.MaxPool2d(2))
    plan = network.plan((1, 20, 20))
    assert network.plan((1, 20, 20)) is plan
    for size in range(21, 30):
        network.plan((1, size, size))
    assert network.plan((1, 20, 20)) is not plan and len(network._plans) <= 4
    x = np.random.default_rng(0).normal(size=(2, 1, 20, 20))
    network.plan((1, 20, 20)).forward(x.astype(np.float32))
    network.astype(np.float64)
    np.testing.assert_allclose(network.plan((1, 20, 20)).forward(x), network.forward(x), atol=1e-12)
    with pytest.raises(ValueError, match="Conv2d: expected input"):
        network.plan((3, 20, 20))


def test_a_plan_says_how_each_stage_is_computed():
    network = fastbp.Sequential(
        fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Conv2d(2, 2, 3, stride=2), fastbp.Conv2d(2, 2, 2),
        fastbp.Flatten(), fastbp.Linear(18, 3), fastbp.ReLU(),
    )  # fmt: skip
    lines = str(network.plan((1, 20, 20))).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "Conv2d(1, 2, 3) + ReLU() + MaxPool2d(2)", "Conv2d(2, 2, 3, stride=2)", "Conv2d(2, 2, 2)", "Flatten()", "Linear(18, 3)",
        "ReLU()",
    ]  # fmt: skip
    expected = (
        "one pass",
        "unfolded patches: strides",
        "fewer than 100",
        "no computation",
        "register tiles",
        "the layer before",
    )
    assert all(how in line for how, line in zip(expected, lines, strict=True))


def pooled(*more, seed=0):
    return fastbp.Sequential(
        fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), *more, fastbp.Flatten(), fastbp.Linear(200, 3), seed=seed
    )


def test_a_changed_layer_changes_the_plan():
    """A rate, a slope or a state that is set between two steps counts from the next step on."""
    network = pooled(fastbp.Dropout(0.5), fastbp.LeakyReLU(0.1))
    x, plan = np.random.default_rng(0).normal(size=(4, 1, 12, 12)).astype(np.float32), network.plan((1, 12, 12))
    first = plan.forward(x, training=True).copy()
    network.layers[2].state["step"] = 0  # the same mask again, in the array that the plan is bound to
    assert np.array_equal(plan.forward(x, training=True), first)
    network.layers[2].rate = 0.0
    assert network.plan((1, 12, 12)) is not plan
    np.testing.assert_allclose(network.plan((1, 12, 12)).forward(x, training=True), network.forward(x), atol=1e-5)
    network.layers[3].negative_slope = 3.0
    np.testing.assert_allclose(network.plan((1, 12, 12)).forward(x), network.forward(x), atol=1e-5)


def test_batch_sizes_take_turns_and_memory_stays_bounded():
    network, rng = pooled(), np.random.default_rng(0)
    plan = network.plan((1, 12, 12))
    for size in (4, 1, 4, 7, 0, 2, 9, 4, 3):
        for training in (True, False):
            x = rng.normal(size=(size, 1, 12, 12)).astype(np.float32)
            np.testing.assert_allclose(plan.forward(x, training), network.forward(x), atol=1e-5)
    assert len(plan._batches) <= fastbp.plan.BATCHES_KEPT


class Halved(fastbp.Layer):
    """A layer of one's own that gives a new array."""

    def forward(self, x, training=False, out=None):
        self.mask = x > 0  # an attribute set in every pass
        self.cache = ()
        return x / 2

    def backward(self, dout, need_dx=True, out=None):
        return dout / 2 if need_dx else None

    def output_shape(self, input_shape):
        return tuple(input_shape)


def test_a_layer_of_ones_own_in_a_plan():
    network, rng = pooled(Halved()).astype(np.float64), np.random.default_rng(0)
    plan, x = network.plan((1, 12, 12)), rng.normal(size=(3, 1, 12, 12))
    np.testing.assert_allclose(plan.forward(x, True), network.forward(x, True), atol=1e-12)
    dout = rng.normal(size=(3, 3))
    dx = plan.backward(dout).copy()
    gradient = network.gradient_vector.copy()
    np.testing.assert_allclose(dx, network.backward(dout), atol=1e-12)
    np.testing.assert_allclose(gradient, network.gradient_vector, atol=1e-12)
    assert network.plan((1, 12, 12)) is plan  # setting `mask` did not throw it away

    class Wrong(Halved):
        def output_shape(self, input_shape):
            return (*input_shape, 1)

    with pytest.raises(ValueError, match="Wrong: forward gave"):
        fastbp.Sequential(Wrong()).plan((3,)).forward(np.zeros((2, 3), np.float32))


class Normalised(fastbp.Optimizer):
    """An optimiser that needs the whole gradient at once."""

    def step(self, values, grads):
        values -= self.lr * grads / np.linalg.norm(grads)


@pytest.mark.parametrize("make", [lambda: fastbp.SGD(0.1, 0.9), lambda: fastbp.Adam(0.01), lambda: Normalised(0.1)])
def test_a_step_of_the_plan_is_a_step_of_the_optimizer(make, monkeypatch):
    for name in ("PART_WORK", "RANGE_WORK"):
        monkeypatch.setattr(fastbp.plan, name, 1)
    network, rng = pooled().astype(np.float64), np.random.default_rng(0)
    other, loss, optimizer = copy.deepcopy(network), fastbp.SoftmaxCrossEntropy(), make()
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), make())
    for step in range(4):
        x, labels = rng.normal(size=(8, 1, 12, 12)), rng.integers(0, 3, 8)
        trainer.optimizer.lr = optimizer.lr = 0.1 / (step + 1)
        if step == 2:  # the optimiser's vectors are replaced, as when a run is resumed
            trainer.optimizer.state = {name: vector.copy() for name, vector in trainer.optimizer.state.items()}
        expected = loss.forward(other.forward(x, training=True), labels)
        other.backward(loss.backward())
        optimizer.step(other.parameter_vector, other.gradient_vector)
        assert trainer.step(x, labels) == pytest.approx(expected)
        np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-11)
        np.testing.assert_allclose(network.parameter_vector, other.parameter_vector, atol=1e-11)
    assert trainer.optimizer.steps == optimizer.steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("large", [100, 10_000])
def test_parts_of_a_batch_stay_apart(threads, training, large, monkeypatch):
    """A network that narrows and widens again: no part, of samples or of features, may write where another still reads."""
    for name in ("PART_WORK", "PER_WEIGHT", "PIECE_WORK"):
        monkeypatch.setattr(fastbp.plan, name, 1)
    monkeypatch.setattr(fastbp.plan, "LARGE", large)
    monkeypatch.setattr(fastbp.plan, "TILE_COLUMNS", 4)
    before, rng = fastbp.get_num_threads(), np.random.default_rng(0)
    network = fastbp.Sequential(
        fastbp.Linear(30, 40), fastbp.Tanh(), fastbp.Linear(40, 3), fastbp.ReLU(), fastbp.Linear(3, 50), fastbp.Tanh(),
        fastbp.Linear(50, 30),
    )  # fmt: skip
    x = rng.normal(size=(16, 30)).astype(np.float32)
    expected, plan = network.forward(x), network.plan((30,))
    try:
        fastbp.set_num_threads(threads)
        for _ in range(50):
            np.testing.assert_allclose(plan.forward(x, training), expected, atol=1e-5)
    finally:
        fastbp.set_num_threads(before)
    assert len(plan.batch(16, training).bounds) == 8


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("N", [0, 1, 3, 4])
def test_few_samples_go_back_through_a_large_linear_layer_in_shares(N, threads, monkeypatch):
    """dx is a sum over parts of the features of y up to some number of samples; from there on its columns are cut."""
    for name, value in (("LARGE", 100), ("PIECE_WORK", 1), ("TILE_COLUMNS", 4)):
        monkeypatch.setattr(fastbp.plan, name, value)
    before, rng = fastbp.get_num_threads(), np.random.default_rng(N)
    layers = [fastbp.Linear(9, 30), fastbp.ReLU(), fastbp.Linear(30, 200), fastbp.Tanh(), fastbp.Linear(200, 3)]
    network, x, dout = fastbp.Sequential(*layers, dtype=np.float64), rng.normal(size=(N, 9)), rng.normal(size=(N, 3))
    other, plan = copy.deepcopy(network), network.plan((9,))
    try:
        fastbp.set_num_threads(threads)
        plan.forward(x, training=True)
        dx = plan.backward(dout)
    finally:
        fastbp.set_num_threads(before)
    assert (plan.batch(N, True).stages[2].parts[0].terms is not None) == (N < 4)
    other.forward(x, training=True)
    np.testing.assert_allclose(dx, other.backward(dout), atol=1e-12)
    np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-12)


def test_a_network_without_parameters():
    plan, x = fastbp.Sequential(fastbp.ReLU(), fastbp.Tanh()).plan((3,)), np.array([[1, -2, 3]], np.float32)
    assert np.allclose(plan.forward(x, training=True), np.tanh([1, 0, 3]))
    dout = np.array([[0.7, -2, 1.3]], np.float32)
    assert np.allclose(
        plan.backward(dout), dout * (1 - np.tanh([1, 0, 3]) ** 2) * [1, 0, 1], atol=1e-6
    )  # 1 − y² cancels
    trainer = fastbp.Trainer(fastbp.Sequential(fastbp.ReLU()), fastbp.SoftmaxCrossEntropy(), fastbp.SGD())
    assert trainer.step(x, np.array([2])) > 0


def test_the_plan_refuses_what_it_can_not_do():
    network = pooled()
    plan, x = network.plan((1, 12, 12)), np.zeros((2, 1, 12, 12), np.float32)
    with pytest.raises(RuntimeError, match="before a forward pass in training mode"):
        plan.backward(np.zeros((2, 3), np.float32))
    plan.forward(x)
    with pytest.raises(RuntimeError, match="before a forward pass in training mode"):
        plan.backward(np.zeros((2, 3), np.float32))
    plan.forward(x, training=True)
    with pytest.raises(ValueError, match=r"expected dout \(2, 3\), got \(3,\)"):
        plan.backward(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"expected input \(N, 1, 12, 12\), got \(2, 1, 12, 1\)"):
        plan.forward(x[..., :1])

    class Residual(fastbp.Sequential):
        def forward(self, x, training=False):
            return x + super().forward(x, training)

    with pytest.raises(TypeError, match="Residual has a forward or backward of its own"):
        Residual(fastbp.Linear(3, 3)).plan((3,))

    class Summed(Halved):
        def backward(self, dout, need_dx=True, out=None):
            return dout.sum(axis=0)

    plan = fastbp.Sequential(fastbp.Linear(3, 3), Summed()).plan((3,))
    plan.forward(np.zeros((2, 3), np.float32), training=True)
    with pytest.raises(ValueError, match=r"Summed: backward gave \(3,\) for an input \(2, 3\)"):
        plan.backward(np.zeros((2, 3), np.float32))


class Negative(fastbp.Identity):
    """A layer of the package with other calls."""

    def forward_calls(self, p):
        yield lambda: np.negative(p.x, out=p.y)

    def input_calls(self, p):
        yield lambda: np.negative(p.dout, out=p.dx)


class Twofold(fastbp.Linear):
    def forward_calls(self, p):
        yield from super().forward_calls(p)
        yield lambda: np.multiply(p.y, 2, out=p.y)


@pytest.mark.parametrize("layers", [
    lambda: [fastbp.Linear(4, 4), Negative(), fastbp.Linear(4, 3)], lambda: [Twofold(4, 4), fastbp.ReLU(), fastbp.Linear(4, 3)],
    lambda: [fastbp.Linear(4, 4), fastbp.ReLU(), fastbp.ReLU(), fastbp.BatchNorm1d(4), fastbp.ReLU()],
    lambda: [fastbp.Flatten(), fastbp.BatchNorm1d(4), fastbp.ReLU(), fastbp.Identity()],
])  # fmt: skip
def test_subclasses_and_neighbours_that_could_be_mistaken(layers):
    network, rng = fastbp.Sequential(*layers(), dtype=np.float64), np.random.default_rng(0)
    other, plan, x = copy.deepcopy(network), network.plan((4,)), rng.normal(size=(6, 4))
    y = plan.forward(x, training=True)
    if not any(isinstance(layer, Twofold) for layer in network.layers):  # whose gradients are the plain layer's
        dout = rng.normal(size=y.shape)
        np.testing.assert_allclose(y, other.forward(x, training=True), atol=1e-12)
        np.testing.assert_allclose(plan.backward(dout), other.backward(dout), atol=1e-12)
        np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-12)
    np.testing.assert_allclose(plan.forward(x), network.forward(x), atol=1e-12)


def test_state_and_methods_that_are_replaced_count():
    network = fastbp.Sequential(fastbp.BatchNorm1d(3), fastbp.Linear(3, 2))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    network.plan((3,)).forward(x)
    network.layers[0].state.update(running_mean=[5, 6, 7])
    np.testing.assert_allclose(network.plan((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[0].state = {"running_mean": np.ones(3, np.float32), "running_var": np.full(3, 2, np.float32)}
    np.testing.assert_allclose(network.plan((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[0].state["running_var"] = [3, 4, 5]
    np.testing.assert_allclose(network.plan((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[1].forward = lambda x, training=False, out=None: np.full((4, 2), 8, np.float32)
    assert (network.plan((3,)).forward(x) == 8).all()
    trainer = fastbp.Trainer(pooled(), fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=1))
    trainer.optimizer.step = lambda values, grads: None
    before = trainer.network.parameter_vector.copy()
    trainer.step(np.zeros((2, 1, 12, 12), np.float32), np.array([0, 1]))
    assert np.array_equal(trainer.network.parameter_vector, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_one_program_and_follows_what_changes(threads):
    """Another smoothing, loss, optimiser or kind of labels from one step to the next; labels that are no classes change nothing."""
    rng, before = np.random.default_rng(0), fastbp.get_num_threads()
    network = fastbp.Sequential(fastbp.Linear(5, 7), fastbp.ReLU(), fastbp.Linear(7, 3), dtype=np.float64, seed=1)
    other, x, labels = copy.deepcopy(network), rng.normal(size=(6, 5)), rng.integers(0, 3, 6)
    loss, optimizer = fastbp.SoftmaxCrossEntropy(), fastbp.Adam(lr=0.1)
    steps = [
        (loss, optimizer, labels), (loss, optimizer, labels.astype(np.uint8)), (loss, optimizer, list(labels)),
        (fastbp.MulticlassHinge(), optimizer, labels), (loss, fastbp.SGD(lr=0.1, momentum=0.5), labels), (loss, optimizer, labels),
    ]  # fmt: skip
    theirs = {id(each): copy.deepcopy(each) for _, each, _ in steps}
    fastbp.set_num_threads(threads)
    try:
        for k, (of_loss, of_optimizer, targets) in enumerate(steps):
            loss.label_smoothing = 0.1 * (k % 2)
            value = fastbp.Trainer(network, of_loss, of_optimizer).step(x, targets)
            expected, mine = copy.deepcopy(of_loss), theirs[id(of_optimizer)]
            assert np.isclose(value, expected.forward(other.forward(x, training=True), np.array(targets)), rtol=1e-12)
            other.backward(expected.backward())
            mine.step(other.parameter_vector, other.gradient_vector)
            np.testing.assert_allclose(network.parameter_vector, other.parameter_vector, atol=1e-12)
            assert of_optimizer.steps == mine.steps
            for wrong, message in ((np.full(6, 3), "must be in"), (np.full(6, -1), "must be in"), (labels[:5], "differ in length"),
                                   (np.zeros(6), "expected integer labels")):  # fmt: skip
                with pytest.raises((ValueError, TypeError), match=message):
                    fastbp.Trainer(network, of_loss, of_optimizer).step(x, wrong)
                np.testing.assert_allclose(network.parameter_vector, other.parameter_vector, atol=1e-12)
                assert of_optimizer.steps == mine.steps
    finally:
        fastbp.set_num_threads(before)
    programs = network.plan((5,)).batch(6, True)._step[-1]
    assert len(programs) == 1 or numba.config.DISABLE_JIT
