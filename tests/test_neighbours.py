"""What neighbouring layers spare each other: two that are one in evaluation, and a bias that a mean takes away."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import oracle
from machines import CUTS, ops_of

import fastbp
from fastbp.layers import folded

pytestmark = pytest.mark.vectors


def seen(layers, rng, dtype):
    """A network whose batch norms have seen something: factors of both signs, running statistics of their own."""
    network = fastbp.Sequential(*layers, dtype=dtype, seed=int(rng.integers(1000)))
    for layer in walk(network):
        if isinstance(layer, (fastbp.BatchNorm1d, fastbp.BatchNorm2d)):
            C = layer.num_features
            layer.gamma.value, layer.beta.value = rng.integers(-2, 3, C) + 0.5, rng.normal(size=C)
            layer.state.update(running_mean=rng.normal(size=C), running_var=rng.uniform(0.5, 2, C))
        elif layer.parameters and getattr(layer, "bias", None):
            layer.bias.value = rng.normal(size=layer.bias.shape)
    return network


def walk(thing):
    for layer in getattr(thing, "layers", []) or getattr(thing, "named_children", {}).values():
        yield layer
        yield from walk(layer)


def by_layers(network, x):
    for layer in network.layers:
        x = oracle(layer, x, False, None)
    return x


AFTER = {
    "nothing": [], "ReLU": [fastbp.ReLU()], "Tanh": [fastbp.Tanh()], "LeakyReLU": [fastbp.LeakyReLU(0.2)],
    "pool": [fastbp.MaxPool2d(2)], "ReLU, pool": [fastbp.ReLU(), fastbp.MaxPool2d(2)],
}  # fmt: skip


@given(
    st.integers(0, 3), st.integers(1, 9), st.integers(1, 17), st.sampled_from([1, 3, (2, 3)]), st.integers(1, 2),
    st.integers(4, 13), st.booleans(), st.sampled_from(sorted(AFTER)), st.integers(0, 999),
)  # fmt: skip
def test_a_convolution_and_a_batch_norm_are_one_in_evaluation(N, C, F, kernel, stride, size, bias, after, seed):
    rng = np.random.default_rng(seed)
    conv = fastbp.Conv2d(C, F, kernel, stride=stride, padding=1, bias=bias)
    network = seen([conv, fastbp.BatchNorm2d(F), *copy.deepcopy(AFTER[after])], rng, np.float64)
    x = rng.normal(size=(N, C, size, size + 1))
    np.testing.assert_allclose(network.engine(x.shape[1:]).forward(x), by_layers(network, x), atol=1e-11)
    few = conv.weight.size <= folded.SAMPLES * np.prod(conv.output_shape(x.shape[1:]))
    assert few != any("BatchNorm" in op or "Norm" in op for op in ops_of(network, x.shape[1:], False))


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 999))
def test_a_linear_layer_and_a_batch_norm_are_one_in_evaluation(N, D, F, bias, relu, seed):
    rng = np.random.default_rng(seed)
    layers = [fastbp.Linear(D, F, bias=bias), fastbp.BatchNorm1d(F), *([fastbp.ReLU()] if relu else [])]
    network, x = seen(layers, rng, np.float64), rng.normal(size=(N, D))
    np.testing.assert_allclose(network.engine((D,)).forward(x), by_layers(network, x), atol=1e-11)
    assert (D > folded.SAMPLES) == ("FixedBatchNormOp" in ops_of(network, (D,), False))


def test_several_batch_norms_in_a_row_are_one_layer_in_evaluation():
    rng = np.random.default_rng(5)
    norms = [fastbp.BatchNorm2d(4) for _ in range(3)]
    network = seen([fastbp.Conv2d(2, 4, 3), *norms, fastbp.ReLU()], rng, np.float64)
    x = rng.normal(size=(3, 2, 8, 9))
    assert ops_of(network, x.shape[1:], False)[0] == "ConvOp" and len(ops_of(network, x.shape[1:], False)) == 2
    for _ in range(2):  # what changes in any of them counts at once
        np.testing.assert_allclose(network.engine(x.shape[1:]).forward(x), by_layers(network, x), atol=1e-11)
        for norm in norms:
            norm.gamma.value = rng.normal(size=4)
            norm.state["running_var"][...] = rng.uniform(1, 2, 4)


def small_network(dtype=np.float64):
    layers = [
        fastbp.Conv2d(2, 5, 3, padding=1), fastbp.BatchNorm2d(5), fastbp.ReLU(), fastbp.Conv2d(5, 8, 3, bias=False),
        fastbp.BatchNorm2d(8), fastbp.Flatten(), fastbp.Linear(8 * 36, 6), fastbp.Linear(6, 7), fastbp.BatchNorm1d(7),
    ]  # fmt: skip
    return seen(layers, np.random.default_rng(3), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_changes_between_predictions_takes_effect_at_once(dtype):
    network, rng = small_network(dtype), np.random.default_rng(0)
    x = rng.normal(size=(4, 2, 8, 8)).astype(dtype)

    def agree():
        expected = by_layers(network, x.astype(np.float64))
        got = fastbp.outputs(network, x)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=1e-4 if dtype == np.float32 else 1e-11)
        return got.copy()

    before = agree()
    assert np.array_equal(fastbp.outputs(network, x), before)
    conv, norm = network.layers[:2]

    def scale_weights():
        conv.weight.value *= 2

    changes = [
        scale_weights, lambda: setattr(conv.bias, "value", conv.bias.value + 1),
        lambda: setattr(norm.gamma, "value", norm.gamma.value * 3), lambda: norm.state["running_mean"].fill(0.3),
        lambda: norm.state.update(running_var=norm.state["running_var"] * 2), lambda: setattr(norm, "eps", 0.5),
        lambda: setattr(network.layers[-1], "eps", 0.1),
    ]  # fmt: skip
    for change in changes:
        change()
        after = agree()
        assert np.abs(after - before).max() > 1e-3
        before = after
    fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.1)).step(
        x, rng.normal(size=(4, 7)).astype(dtype)
    )
    assert np.abs(agree() - before).max() > 1e-3


@pytest.mark.parametrize("cut", sorted(CUTS))
def test_any_number_of_threads_gives_the_same_bits(cut):
    found, x, before = set(), np.random.default_rng(0).normal(size=(6, 2, 8, 8)), fastbp.get_num_threads()
    try:
        for threads in (1, 2):
            fastbp.set_num_threads(threads)
            network = small_network()
            network.machine = CUTS[cut]
            found.add(fastbp.outputs(network, x).tobytes())
    finally:
        fastbp.set_num_threads(before)
    assert len(found) == 1


class Own(fastbp.BatchNorm1d):
    def forward(self, x, training=False, out=None):
        return super().forward(x, training) + 1

    def backward(self, dout, need_dx=True, out=None):
        return super().backward(dout, need_dx)


def test_layers_stay_two_where_someone_else_reads_between_or_one_is_not_ours():
    def ops(*layers):
        return ops_of(fastbp.Sequential(*layers), (5,), False)

    assert ops(fastbp.Linear(5, 5), fastbp.BatchNorm1d(5)) == ["LinearOp"]
    inside = fastbp.Residual(fastbp.BatchNorm1d(5))
    assert ops(fastbp.Linear(5, 5), inside) == ["LinearOp", "FixedBatchNormOp", "PlusOp"]
    ends = fastbp.Sequential(fastbp.Linear(5, 5)), fastbp.Sequential(fastbp.BatchNorm1d(5), fastbp.ReLU())
    assert ops(*ends)[0] == "LinearOp" and not any("Norm" in op for op in ops(*copy.deepcopy(ends)))
    assert ops(fastbp.Linear(5, 5), Own(5)) == ["LinearOp", "Opaque"]
    assert ops(fastbp.BatchNorm1d(5), fastbp.Linear(5, 5)) == ["FixedBatchNormOp", "LinearOp"]


# -- no gradient of a bias before a batch norm -------------------------------------------------------------------------


def biased(dtype=np.float64, machine=None):
    layers = [
        fastbp.Conv2d(2, 8, 3, padding=1), fastbp.BatchNorm2d(8), fastbp.ReLU(), fastbp.MaxPool2d(2),
        fastbp.Conv2d(8, 9, 3), fastbp.BatchNorm2d(9), fastbp.Tanh(), fastbp.Flatten(), fastbp.Linear(81, 12),
        fastbp.BatchNorm1d(12), fastbp.LeakyReLU(0.1), fastbp.Linear(12, 3),
    ]  # fmt: skip
    network = fastbp.Sequential(*layers, dtype=dtype, seed=1)
    if machine is not None:
        network.machine = machine
    return network, np.random.default_rng(0).normal(size=(6, 2, 10, 10)).astype(dtype)


@pytest.mark.parametrize("cut", sorted(CUTS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bias_before_batch_norm_has_no_gradient(dtype, cut):
    network, x = biased(dtype, CUTS[cut])
    engine, biases = network.engine(x.shape[1:]), [layer.bias for layer in network.layers if hasattr(layer, "bias")]
    y = engine.forward(x, training=True)
    for need_dx in (False, True):
        network.gradient_vector[:] = 7
        engine.backward(np.random.default_rng(1).normal(size=y.shape).astype(dtype), need_dx)
        assert all((bias.grad == 0).all() for bias in biases[:-1]) and (biases[-1].grad != 0).all()
        assert all(np.abs(p.grad).max() > 1e-3 for p in network.parameters if p.name != "bias")
    before = [bias.value.copy() for bias in biases]
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1, momentum=0.9))
    network.forget_gradients()
    for _ in range(2):
        trainer.step(x, np.arange(6) % 3)
    moved = [not np.array_equal(bias.value, old) for bias, old in zip(biases, before, strict=True)]
    assert moved == [False, False, False, True]


def test_nor_has_one_at_the_end_of_a_run_of_narrow_layers():
    layers = [fastbp.Linear(5, 6), fastbp.Tanh(), fastbp.Linear(6, 4), fastbp.BatchNorm1d(4)]
    network, rng = fastbp.Sequential(*layers, dtype=np.float64, seed=1), np.random.default_rng(0)
    engine = network.engine((5,))
    engine.forward(rng.normal(size=(600, 5)), training=True)
    assert [type(op).__name__ for op in engine.last.schedule.ops] == ["NarrowOp", "BatchNormOp"]
    engine.backward(rng.normal(size=(600, 4)))
    first, last = (network.layers[i].bias.grad for i in (0, 2))
    assert (last == 0).all() and (first != 0).all()


def test_the_check_agrees():
    network, x = biased()
    fastbp.check_gradients(network, x, samples=5, smallest=False).raise_if_failed()


def test_a_bias_that_counts_keeps_its_gradient():
    """Read by others too, with an activation between, or before a batch norm with constants."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4))
    for layers in (
        [fastbp.Linear(4, 4), fastbp.Residual(fastbp.BatchNorm1d(4))],
        [fastbp.Linear(4, 4), fastbp.Tanh(), fastbp.BatchNorm1d(4)],
        [fastbp.Linear(4, 4), fastbp.ReLU(), fastbp.BatchNorm1d(4)],
    ):
        network = fastbp.Sequential(*layers, dtype=np.float64, seed=1)
        engine = network.engine((4,))
        y = engine.forward(x, training=True)
        engine.backward(rng.normal(size=y.shape))
        assert (np.abs(network.layers[0].bias.grad) > 1e-6).any()


# -- layers that change nothing in evaluation --------------------------------------------------------------------------


def test_dropout_is_no_call_in_evaluation():
    """Rows go on through it, also where it is the last layer, or its input has other readers."""
    layers = [
        fastbp.Linear(5, 6), fastbp.Dropout(0.5), fastbp.ReLU(), fastbp.Residual(fastbp.Dropout(0.2)),
        fastbp.Dropout(0.3), fastbp.Linear(6, 4), fastbp.Dropout(0.1), fastbp.BatchNorm1d(4), fastbp.Dropout(0.5),
    ]  # fmt: skip
    network, x = fastbp.Sequential(*layers, dtype=np.float64, seed=1), np.random.default_rng(0).normal(size=(7, 5))
    assert ops_of(network, (5,), False) == ["LinearOp", "ReLUAfter", "PlusOp", "LinearOp"]
    (w, b), (v, c) = ((layer.weight.value, layer.bias.value) for layer in (network.layers[0], network.layers[5]))
    expected = (2 * np.maximum(x @ w.T + b, 0) @ v.T + c) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(network.engine((5,)).forward(x), expected, atol=1e-13)
    assert ops_of(network, (5,), True).count("DropoutOp") == 5
    alone = fastbp.Sequential(fastbp.Dropout(0.5), fastbp.Dropout(0.5))
    x = x.astype(np.float32)
    assert np.array_equal(alone.engine((5,)).forward(x), x)
