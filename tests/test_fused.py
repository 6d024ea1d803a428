"""Layers in a row that are computed in one pass: against the layers one by one, the oracle, and with planted bugs."""

import copy
import functools
import inspect
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layer_cases import oracle, values
from machines import ops_of

import fastbp
from fastbp.kernels import norm as norms
from fastbp.kernels.conv.pooled import Pooled
from fastbp.kernels.conv.ways import Geometry
from fastbp.layers import fused, norm
from fastbp.layers.joins import PlusOp
from fastbp.layers.linear import LinearOp

pytestmark = pytest.mark.vectors


def through(layers, x, training):
    """The output, dx (after a training pass) and the layers' gradients, layer by layer."""
    y = x
    for layer in layers:
        y = layer.forward(y, training)
    dx = dout = np.random.default_rng(1).normal(size=y.shape)
    for layer in reversed(layers) if training else ():
        dx = layer.backward(dx)
    gradients = [parameter.grad.copy() for layer in layers for parameter in layer.parameters] if training else []
    return y, dout, dx, gradients


def compare(network, x, training, ops):
    """AssertionError unless the engine computes this network by these ops, and what the layers and the oracle say."""
    shape, others = x.shape[1:], copy.deepcopy(network.layers)
    before = copy.deepcopy(others)
    y, dout, dx, gradients = through(others, x, training)
    assert ops_of(network, shape, training) == ops
    engine = network.engine(shape)
    np.testing.assert_allclose(engine.forward(x, training), y, atol=1e-11)
    expected = x
    for layer in before:
        expected = oracle(layer, expected, training, y)
    np.testing.assert_allclose(y, expected, atol=1e-10)
    for need_dx in (True, False, True) if training else ():
        network.gradient_vector[:] = 7
        got = engine.backward(dout, need_dx)
        np.testing.assert_allclose(got, dx, atol=1e-10) if need_dx else None
        for parameter, gradient in zip(network.parameters, gradients, strict=True):
            np.testing.assert_allclose(parameter.grad, gradient, atol=1e-10)
    for layer, other in zip(network.layers, others, strict=True):
        for name, array in layer.state.items():
            np.testing.assert_allclose(array, other.state[name], atol=1e-13)


def rising(rng, pool):
    """A max pool with an activation before or after it, or none, all as likely"""
    slope = rng.choice([0, 0.2, 1.5])
    makers = fastbp.ReLU, lambda: fastbp.LeakyReLU(slope), fastbp.Sigmoid, fastbp.Tanh
    layers = [[makers[rng.integers(4)]()], [pool], []]
    order = [(0, 1), (1, 0), (1, 2)][rng.integers(3)]
    return [layer for i in order for layer in layers[i]]


@given(
    st.integers(1, 3), st.sampled_from([*range(1, 10), 15, 16, 17, 33]), st.sampled_from([1, 2, (3, 2), 5, (1, 9)]),
    st.integers(2, 14), st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
def test_conv_pool(C, F, kernel, size, by_filters, training, data):
    """Both ways of computing it, whichever would be chosen."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    padding = data.draw(st.sampled_from([1, "same", "full"]))
    KH, KW = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    assume(padding != 1 or (size + 2 >= KH and size + 4 >= KW))
    conv = fastbp.Conv2d(C, F, kernel, padding=padding, bias=data.draw(st.booleans()))
    assume(min(conv.geometry((size, size + 2))[1]) >= 2)
    network = fastbp.Sequential(conv, *rising(rng, fastbp.MaxPool2d(2)), dtype=np.float64)
    for parameter in conv.parameters:
        parameter.value = values(rng, parameter.shape)
    with mock.patch.object(Pooled, "by_filters", by_filters), mock.patch.object(Pooled, "suits", return_value=True):
        compare(network, rng.normal(size=(2, C, size, size + 2)), training, ["ConvPool"])


@given(st.integers(1, 3), st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0), ((1, 4), (3, 1), (0, 2))]),
       st.integers(5, 24), st.integers(0, 2**32 - 1), st.booleans())  # fmt: skip
def test_activations_are_made_after_max_pools(C, pool, size, seed, training):
    """Behind a convolution that goes its own way, and by themselves; small whole numbers have ties."""
    rng = np.random.default_rng(seed)
    layers = rising(rng, fastbp.MaxPool2d(*pool))
    x = rng.normal(size=(2, C, size, size + 3))
    if len(layers) == 2:
        ties = rng.integers(-2, 3, x.shape) * 1.0
        compare(fastbp.Sequential(*copy.deepcopy(layers), dtype=np.float64), ties, training, ["ActivatedMaxPool"])
    network = fastbp.Sequential(fastbp.Conv2d(C, 3, 2, stride=2, padding=1), *layers, dtype=np.float64)
    compare(network, x, training, ["ConvOp", "ActivatedMaxPool" if len(layers) == 2 else "MaxPoolOp"])


def test_an_activation_that_falls_comes_before_the_pool():
    leaky, x = fastbp.LeakyReLU(-0.5), np.array([[[[-4.0, 1.0], [0.5, 0.2]]]])
    for layers in ([leaky, fastbp.MaxPool2d(2)], [fastbp.GELU(), fastbp.MaxPool2d(2)]):
        network = fastbp.Sequential(*layers, dtype=np.float64)
        compare(network, x, True, [f"{type(layers[0]).__name__}Op", "MaxPoolOp"])
    network = fastbp.Sequential(leaky, fastbp.MaxPool2d(2), dtype=np.float64)
    leaky.negative_slope = 0.5
    compare(network, x, True, ["ActivatedMaxPool"])
    leaky.negative_slope = -0.5
    compare(network, x, True, ["LeakyReLUOp", "MaxPoolOp"])
    assert network.engine((1, 2, 2)).forward(x).item() == 2


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_narrow_maps_of_whole_panels_are_computed_by_filters(lanes):
    chosen = {(16, 5, 10): True, (32, 7, 22): lanes > 4, (6, 5, 28): False, (12, 5, 28): False, (32, 3, 64): False}
    with mock.patch("fastbp.kernels.simd.lanes_of", return_value=lanes):
        for (F, kernel, size), by_filters in chosen.items():
            geometry = Geometry(3, F, (kernel, kernel), (1, 1), (0, 0), (size, size))
            assert Pooled(geometry, None, np.float32).by_filters == by_filters


def normed(kind, C, rng, **settings):
    """A batch norm with negative factors and a factor of 0, and running statistics of its own."""
    layer = kind(C, **settings).astype(np.float64)
    layer.gamma.value, layer.beta.value = rng.integers(-2, 3, C), rng.normal(size=C)
    layer.state.update(running_mean=rng.normal(size=C), running_var=rng.uniform(1, 2, C))
    return layer


@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 9), st.integers(2, 40), st.booleans(), st.data())
def test_norm_relu_pool(N, C, H, W, training, data):
    """Small whole numbers have ties, a gamma of 0 has nothing else."""
    rng, shape = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), (N, C, H, W)
    layer = normed(fastbp.BatchNorm2d, C, rng, momentum=0.3)
    x = rng.integers(-1, 2, shape) * 1.0 if data.draw(st.booleans()) else rng.normal(3, 2, shape)
    relu, pool = [fastbp.ReLU(), fastbp.MaxPool2d(2)]
    orders = {"pool": [pool], "ReLU, pool": [relu, pool], "pool, ReLU": [pool, relu]}
    order = data.draw(st.sampled_from(sorted(orders)))
    network = fastbp.Sequential(layer, *orders[order], dtype=np.float64)
    short = {"pool, ReLU": ["BatchNormOp", "ActivatedMaxPool"]}.get(order, ["BatchNormOp", "MaxPoolOp"])
    compare(network, x, training, (["NormPool"] if H * W >= norms.SHORT else short) if training else ["FixedNormPool"])


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(2, 9), st.integers(4, 20), st.sampled_from([(2,), (3, 2, 1)]),
    st.sampled_from([fastbp.Tanh, fastbp.Sigmoid, lambda: fastbp.LeakyReLU(0.1), lambda: fastbp.LeakyReLU(-0.5)]),
    st.booleans(), st.integers(0, 999),
)  # fmt: skip
def test_norm_activation_pool(N, C, H, W, pool, activation, training, seed):
    """An activation that never falls comes after the maximum."""
    rng, activation = np.random.default_rng(seed), activation()
    layer = normed(fastbp.BatchNorm2d, C, rng)
    layer.gamma.value = rng.choice([-1.5, -0.5, 0.5, 1], C)  # no ties
    network = fastbp.Sequential(layer, activation, fastbp.MaxPool2d(*pool), dtype=np.float64)
    short, one_pass = H * W < norms.SHORT, pool == (2,)
    name, falls = type(activation).__name__, getattr(activation, "negative_slope", 0) < 0
    if training and not falls:
        norm_op = "BatchNormOp" if short else "MapNormOp"
        ops = ["NormPool", f"{name}After"] if one_pass and not short else [norm_op, "ActivatedMaxPool"]
    elif training:
        ops = ["BatchNormOp" if short else "MapNormOp", "LeakyReLUOp", "MaxPoolOp"]
    else:
        ops = ["FixedBatchNormOp", "LeakyReLUOp" if falls else f"{name}After", "MaxPoolOp"]
    compare(network, rng.normal(1, 2, (N, C, H, W)), training, ops)


@given(
    st.integers(1, 4), st.sampled_from([*range(1, 7), 130]), st.lists(st.integers(1, 8), max_size=2), st.booleans(),
    st.integers(0, 999),
)  # fmt: skip
def test_norm_relu(N, C, pixels, training, seed):
    rng = np.random.default_rng(seed)
    layer = normed(fastbp.BatchNorm2d if len(pixels) == 2 else fastbp.BatchNorm1d, C, rng)
    network = fastbp.Sequential(layer, fastbp.ReLU(), dtype=np.float64)
    training_op = "BatchNormOp" if math.prod(pixels) < norms.SHORT else "MapNormOp"
    compare(network, rng.normal(1, 2, (N, C, *pixels)), training, [training_op if training else "FixedBatchNormOp"])


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 999))
def test_linear_relu(N, D, F, bias, training, seed):
    network = fastbp.Sequential(fastbp.Linear(D, F, bias=bias), fastbp.ReLU(), dtype=np.float64, seed=seed)
    compare(network, np.random.default_rng(seed).normal(size=(N, D)), training, ["LinearOp", "ReLUAfter"])


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 999))
def test_sum_relu(N, D, seed):
    """Against the definition in NumPy: y = max(x Wᵀ + b + x, 0)"""
    network = fastbp.Sequential(fastbp.Residual(fastbp.Linear(D, D)), fastbp.ReLU(), dtype=np.float64)
    rng = np.random.default_rng(seed)
    assert ops_of(network, (D,)) == ["LinearOp", "PlusOp", "ReLUAfter"]
    x, dout, engine = rng.normal(size=(N, D)), rng.normal(size=(N, D)), network.engine((D,))
    w, b = (parameter.value for parameter in network.parameters)
    y = np.maximum(x @ w.T + b + x, 0)
    np.testing.assert_allclose(engine.forward(x, training=True), y, atol=1e-12)
    live = dout * (y > 0)
    np.testing.assert_allclose(engine.backward(dout), live @ w + live, atol=1e-11)
    np.testing.assert_allclose(network.parameters[0].grad, live.T @ x, atol=1e-11)
    np.testing.assert_allclose(engine.forward(x), y, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_nan_goes_the_way_that_it_goes_through_the_layers(training):
    for make in (convolutional, pooling, normalising, normalising_features, dense, branched):
        network, shape = make()
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        x.flat[x.size // 2] = np.nan
        y = copy.deepcopy(network).forward(x, training)
        assert (
            np.array_equal(np.isnan(network.engine(shape[1:]).forward(x, training)), np.isnan(y)) and np.isnan(y).any()
        )


def ops(*layers, shape, training=True):
    return ops_of(fastbp.Sequential(*layers), shape, training)


def test_rows_are_taken_where_they_fit():
    """And where nobody else reads what lies between."""
    kinds = ops_of(fastbp.models.cnn(), (1, 28, 28))
    assert kinds == ["ConvPool", "CopyOp", "LinearOp", "ReLUAfter", "LinearOp"]
    kinds = ops_of(fastbp.models.cnn(batch_norm=True, dropout=0.5), (1, 28, 28))
    assert kinds == ["ConvOp", "NormPool", "DropoutOp", "CopyOp", "LinearOp", "ReLUAfter", "LinearOp"]
    for pool in (fastbp.MaxPool2d(2, 1), fastbp.MaxPool2d(3, 2), fastbp.MaxPool2d(2, 2, 1)):
        assert ops(fastbp.BatchNorm2d(2), fastbp.ReLU(), pool, shape=(2, 9, 9)) == ["MapNormOp", "MaxPoolOp"]
    relu, pool = fastbp.ReLU(), fastbp.MaxPool2d(2)
    for conv, size in ((fastbp.Conv2d(1, 2, 3, stride=2), 40), (fastbp.Conv2d(1, 2, 2), 11)):
        assert ops(conv, *copy.deepcopy((relu, pool)), shape=(1, size, size)) == ["ConvOp", "ActivatedMaxPool"]
    for many in (fastbp.Conv2d(64, 64, 3), fastbp.Conv2d(16, 32, 5)):  # Winograd's tiles are faster in two passes
        shape = many.in_channels, 16, 16
        assert ops(many, *copy.deepcopy((relu, pool)), shape=shape) == ["ConvOp", "ActivatedMaxPool"]
    for few, shape in ((fastbp.Conv2d(6, 16, 5), (6, 14, 14)), (fastbp.Conv2d(3, 32, 3), (3, 8, 8))):
        assert ops(few, *copy.deepcopy((relu, pool)), shape=shape) == ["ConvPool"]
    inside = fastbp.Residual(fastbp.Linear(4, 4), fastbp.ReLU())
    assert ops(inside, shape=(4,)) == ["LinearOp", "ReLUAfter", "PlusOp"]
    assert ops(fastbp.Linear(4, 4), fastbp.Residual(fastbp.ReLU()), shape=(4,)) == ["LinearOp", "ReLUOp", "PlusOp"]
    ends = fastbp.Sequential(fastbp.Linear(4, 4)), fastbp.Sequential(fastbp.ReLU())  # a row may lie across containers
    assert ops(*ends, shape=(4,)) == ["LinearOp", "ReLUAfter"]


@pytest.mark.parametrize("training", [True, False])
def test_a_slope_that_changes_its_sign(training):
    """The gradient of LeakyReLU can be told from its output only where the slope is not negative."""
    network = fastbp.Sequential(
        fastbp.Linear(4, 5), fastbp.LeakyReLU(0.2), fastbp.Linear(5, 2), seed=1, dtype="float64"
    )
    x, dout = np.random.default_rng(0).normal(size=(6, 4)), np.random.default_rng(1).normal(size=(6, 2))
    for slope, kind in ((0.2, "LeakyReLUAfter"), (-0.5, "LeakyReLUOp"), (0, "LeakyReLUAfter"), (0.7, "LeakyReLUAfter")):
        network.layers[1].negative_slope = slope
        w, b, v, c = (parameter.value for parameter in network.parameters)
        z = x @ w.T + b
        h = np.where(z > 0, z, slope * z)
        engine = network.engine((4,))
        np.testing.assert_allclose(engine.forward(x, training), h @ v.T + c, atol=1e-13)
        assert ops_of(network, (4,), training) == ["LinearOp", kind, "LinearOp"]
        if training:
            engine.forward(x, True)
            dz = dout @ v * np.where(z > 0, 1, slope)
            np.testing.assert_allclose(engine.backward(dout), dz @ w, atol=1e-13)
            np.testing.assert_allclose(network.layers[0].weight.grad, dz.T @ x, atol=1e-13)


# -- planted bugs ------------------------------------------------------------------------------------------------------


def convolutional():
    layers = fastbp.Conv2d(1, 3, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(75, 2)
    return fastbp.Sequential(*layers, seed=1), (3, 1, 12, 12)


def pooling():
    layers = fastbp.Conv2d(1, 3, 3), fastbp.Tanh(), fastbp.MaxPool2d(3, 2), fastbp.Flatten(), fastbp.Linear(48, 2)
    return fastbp.Sequential(*layers, seed=1), (3, 1, 12, 12)


def normalising():
    network = fastbp.Sequential(fastbp.BatchNorm2d(3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(), seed=1)
    network.layers[0].gamma.value, network.layers[0].beta.value = [1.5, -0.5, 0.7], [0.3, 0.2, -0.1]
    return network, (3, 3, 5, 8)


def normalising_features():
    network = fastbp.Sequential(fastbp.Linear(4, 3), fastbp.BatchNorm1d(3), fastbp.ReLU(), seed=1)
    network.layers[1].gamma.value, network.layers[1].beta.value = [1.5, -0.5, 0.7], [0.3, 0.2, -0.1]
    return network, (6, 4)


def normalising_first():
    network = fastbp.Sequential(fastbp.BatchNorm1d(4), fastbp.ReLU(), fastbp.Linear(4, 3), seed=1)
    network.layers[0].gamma.value, network.layers[0].beta.value = [1.5, -0.5, 0.7, 2], [0.3, 0.2, -0.1, 0.1]
    return network, (6, 4)


def branched():
    block = fastbp.Residual(fastbp.Linear(5, 5), fastbp.Tanh())
    return fastbp.Sequential(fastbp.Linear(4, 5), block, fastbp.ReLU(), fastbp.Linear(5, 2), seed=1), (6, 4)


def dense():
    return fastbp.Sequential(fastbp.Linear(4, 5), fastbp.ReLU(), fastbp.Linear(5, 2), seed=1), (6, 4)


def result_of(op, method, arguments):
    """The array that a method has written."""
    if method == "descend":
        return arguments["values"]
    if method == "gradients":
        return arguments["into"][op.parameters[0]]
    return {"forward": op.y, "backward": op.dx}[method]


BUGS = {
    "sign": lambda result: np.negative(result, out=result),
    "one element": lambda result: result.put(np.abs(result).argmax(), 1.01 * result.flat[np.abs(result).argmax()]),
}
PLACES = [  # a network, the op in it, the method, and whether the pass is for training
    (convolutional, fused.ConvPool, "forward", True), (convolutional, fused.ConvPool, "gradients", True),
    (convolutional, fused.ConvPool, "backward", True), (pooling, fused.ActivatedMaxPool, "forward", True),
    (pooling, fused.ActivatedMaxPool, "backward", True), (normalising, fused.NormPool, "forward", True),
    (normalising, fused.NormPool, "gradients", True), (normalising, fused.NormPool, "backward", True),
    (normalising, fused.FixedNormPool, "forward", False), (normalising_features, norm.BatchNormOp, "forward", True),
    (normalising_features, norm.BatchNormOp, "gradients", True),
    (normalising_features, norm.BatchNormOp, "backward", True),
    (normalising_first, norm.FixedBatchNormOp, "forward", False), (dense, LinearOp, "forward", True),
    (dense, LinearOp, "descend", True), (dense, fused.ReLUAfter, "backward", True), (branched, PlusOp, "forward", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "method", "training", "bug"),
    [*((*place, "one element") for place in PLACES), (*PLACES[1], "sign")],
)
def test_a_bug_in_one_pass_is_seen(make, kind, method, training, bug, monkeypatch):
    """The check of a network is of what trains: an op is wrong, the layers are right, and the report names the op."""
    network, shape = make()
    x, correct = np.random.default_rng(0).normal(size=shape), getattr(kind, method)
    assert fastbp.check_gradients(network, x, training=training, mode="directional").passed
    signature = inspect.signature(correct)

    @functools.wraps(correct)
    def broken(self, *args, **more):
        yield from correct(self, *args, **more)
        several = len(self.layers) > 1 or getattr(self, "relu", False) or getattr(self, "activation", None)
        alone = not several  # as the layers one by one have it
        if type(self) is kind and (kind is fused.ReLUAfter or method == "descend" or not alone):
            arguments = signature.bind(self, *args, **more).arguments
            yield functools.partial(lambda: BUGS[bug](result_of(self, method, arguments)))

    monkeypatch.setattr(kind, method, broken)
    report = fastbp.check_gradients(network, x, training=training, mode="directional", smallest=False)
    assert not report.passed
    assert kind.__name__ in str(report) or method == "descend" or not training
