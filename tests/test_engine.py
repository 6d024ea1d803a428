"""The engine against the layers one by one: whole and cut in all ways, after what is set, and what it refuses."""

import copy
import dataclasses
import re

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from machines import CUTS, ROWS, SAMPLES, cuts_of, ops_of, parts_of

import fastbp
from fastbp.engine import Machine, Op
from fastbp.engine.engine import BATCHES_KEPT

pytestmark = pytest.mark.vectors


@st.composite
def networks(draw):
    """A convolutional network, with rows that are computed in one pass and others, in float64, and its input shape."""
    C, size = draw(st.integers(1, 3)), draw(st.integers(12, 17))
    shape, layers = (C, size, draw(st.integers(12, 17))), []
    for _ in range(draw(st.integers(1, 2))):
        conv = fastbp.Conv2d(
            layers_channels(layers, C), draw(st.sampled_from([1, 2, 3, 4, 5, 6, 16])),
            draw(st.sampled_from([1, 3, (5, 2)])), padding=draw(st.sampled_from([0, 1, (2, 1), "same", "full"])),
            stride=draw(st.sampled_from([1, 1, 1, 2])),
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


def compare(network, shape, N, seed=0, need_dx=True):
    """AssertionError unless the engine computes what the layers compute, in two passes: masks and statistics differ."""
    rng = np.random.default_rng(seed)
    for layer in network.leaves().values():
        if isinstance(layer, fastbp.BatchNorm2d):  # channels with negative factors, and without one
            C = layer.num_features
            layer.gamma.value, layer.beta.value = rng.integers(-2, 3, C), rng.normal(size=C)
    other, engine = copy.deepcopy(network), network.engine(shape)
    for _ in range(2):
        x = rng.normal(size=(N, *shape))
        y, expected = engine.forward(x, training=True), other.forward(x, training=True)
        np.testing.assert_allclose(y, expected, atol=1e-11)
        dout = rng.normal(size=y.shape)
        dx, expected_dx = engine.backward(dout, need_dx), other.backward(dout, need_dx)
        np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-9)
        if need_dx:
            np.testing.assert_allclose(dx, expected_dx, atol=1e-10)
        else:
            assert dx is None
        gradient, dx = network.gradient_vector.copy(), None if dx is None else dx.copy()
        again = engine.backward(dout, need_dx)
        assert np.array_equal(network.gradient_vector, gradient) and (again is dx is None or np.array_equal(again, dx))
    for name, array in network.state_dict().items():
        np.testing.assert_allclose(array, other.state_dict()[name], atol=1e-11)
    np.testing.assert_allclose(engine.forward(x), other.forward(x), atol=1e-11)


@settings(max_examples=60)
@given(networks(), st.integers(0, 5), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(sorted(CUTS)))
def test_the_engine_computes_what_the_layers_compute(case, N, seed, need_dx, cut):
    network, shape = case
    if N == 0 and any(isinstance(layer, fastbp.BatchNorm2d) for layer in network.layers):
        N = 2  # an empty batch has no mean
    network.machine = CUTS[cut]
    compare(network, shape, N, seed, need_dx)


# -- ways of cutting ---------------------------------------------------------------------------------------------------


def convolutional():
    """Samples, channels, features and rows are cut in it; a batch of 4."""
    layers = [
        fastbp.Conv2d(1, 8, 3), fastbp.BatchNorm2d(8), fastbp.Tanh(), fastbp.Conv2d(8, 2, 5), fastbp.ReLU(),
        fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(32, 12), fastbp.BatchNorm1d(12), fastbp.ReLU(),
        fastbp.Linear(12, 3),
    ]  # fmt: skip
    return fastbp.Sequential(*layers, dtype=np.float64, seed=1), (1, 14, 14), 4


def dense():
    """Few samples go back through a layer with many outputs: dx is a sum of shares."""
    layers = [fastbp.Linear(9, 20), fastbp.ReLU(), fastbp.Linear(20, 200), fastbp.Tanh(), fastbp.Linear(200, 3)]
    return fastbp.Sequential(*layers, dtype=np.float64, seed=1), (9,), 3


WAYS = [  # which op is cut, and how
    (convolutional, SAMPLES, "ConvOp", "forward", "samples"), (convolutional, SAMPLES, "ConvOp", "backward", "samples"),
    (convolutional, SAMPLES, "ConvPool", "gradients", "samples"),
    (convolutional, SAMPLES, "BatchNormOp", "forward", "channels"),
    (convolutional, SAMPLES, "BatchNormOp", "gradients", "channels"),
    (convolutional, SAMPLES, "BatchNormOp", "backward", "channels"),
    (convolutional, SAMPLES, "MapNormOp", "statistics", "samples"),
    (convolutional, SAMPLES, "MapNormOp", "forward", "samples"),
    (convolutional, SAMPLES, "MapNormOp", "plane_sums", "samples"),
    (convolutional, SAMPLES, "MapNormOp", "backward", "samples"),
    (convolutional, SAMPLES, "LinearOp", "forward", "features"),
    (convolutional, SAMPLES, "LinearOp", "backward", "columns"),
    (convolutional, ROWS, "ConvOp", "gradients", "rows"), (convolutional, SAMPLES, "LinearOp", "gradients", "rows"),
    (dense, SAMPLES, "LinearOp", "backward", "terms"),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("make", "machine", "op", "method", "axis"), WAYS)
def test_each_way_of_cutting(make, machine, op, method, axis, threads):
    network, shape, N = make()
    network.machine, before = machine, fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        compare(network, shape, N)
    finally:
        fastbp.set_num_threads(before)
    assert (method, axis) in cuts_of(network, shape, N)[op]


SUMS = [way for way in WAYS if way[2:] == ("ConvPool", "gradients", "samples") or way[-1] == "terms"]
BUGS = [*((*way, "left out") for way in WAYS), *((*way, "the first part again") for way in SUMS)]


@pytest.mark.parametrize(("make", "machine", "op", "method", "axis", "bug"), BUGS)
def test_a_bug_in_a_way_of_cutting_is_seen(make, machine, op, method, axis, bug, monkeypatch):
    """Every part but the first is not made, or made of the first range: the check of the network fails."""
    firsts, correct = {}, Op.calls

    def broken(self, name, by=None, part=None, **more):
        passes = ("gradients", "backward") if name == "together" else (name,)  # a convolution's way back
        if type(self).__name__ != op or method not in passes or by != axis:
            return correct(self, name, by, part, **more)
        first = firsts.setdefault(id(self), part)
        if first == part:
            return correct(self, name, by, part, **more)
        return [] if bug == "left out" else correct(self, name, by, first, **more)

    monkeypatch.setattr(Op, "calls", broken)
    assert not checked(make, machine).passed


def checked(make, machine):
    network, shape, N = make()
    network.machine = machine
    x = np.random.default_rng(0).normal(size=(N, *shape))
    return fastbp.check_gradients(network, x, samples=8, smallest=False)


@pytest.mark.parametrize(("make", "machine"), [(convolutional, SAMPLES), (convolutional, ROWS), (dense, SAMPLES)])
def test_a_network_that_is_cut_passes_the_check(make, machine):
    assert checked(make, machine).passed


@pytest.mark.parametrize(("make", "machine"), [(convolutional, SAMPLES), (dense, SAMPLES)])
def test_a_sum_of_shares_that_leaves_one_out_is_seen(make, machine, monkeypatch):
    def broken(parts, total):
        np.copyto(total, parts[:-1].sum(0))

    monkeypatch.setattr("fastbp.engine.sections.sum_parts", broken)
    assert not checked(make, machine).passed


@pytest.mark.parametrize(("channels", "size", "kernel"), [(8, 12, 3), (16, 6, 3), (3, 14, 5), (3, 7, 2)])
def test_large_convolutions_take_their_gradients_by_rows(channels, size, kernel):
    """Winograd's tiles, small and large, pixels and channels in the lanes: each block of filters for all samples."""
    shape, layers = (channels, size, size), [fastbp.Conv2d(channels, 33, kernel), fastbp.Tanh(), fastbp.Flatten()]
    features = fastbp.Sequential(*layers).output_shape(shape)[0]
    network = fastbp.Sequential(*layers, fastbp.Linear(features, 3), dtype=np.float64)
    network.machine = dataclasses.replace(ROWS, per_weight=10**12)
    compare(network, shape, 4)
    batch = network.engine(shape).batch(4, True)
    assert len(batch.schedule.bounds) == 2 and len(batch.schedule.cuts[0].gradients.ranges) == 4
    of_the_convolution = [pieces for pieces in batch.ranges if pieces[0].first < 33 * channels * kernel**2]
    assert len(of_the_convolution) == 4


@pytest.mark.parametrize("N", [4, 8])
def test_shares_of_a_sum_where_they_pay(N):
    """Two parts of a small batch would write and add too many numbers for the products that they share."""
    network = fastbp.Sequential(*(fastbp.Conv2d(C, F, 3, padding=1) for C, F in ((64, 128), (128, 128))))
    schedule = network.engine((64, 8, 8)).batch(N, True).schedule
    assert len(schedule.bounds) == 2
    assert [cuts.gradients.axis for cuts in schedule.cuts] == ["rows" if N == 4 else "samples"] * 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("large", [100, 10_000])
def test_parts_of_a_batch_stay_apart(threads, training, large):
    """A network that narrows and widens again: no part, of samples or features, may write where another still reads."""
    before, rng = fastbp.get_num_threads(), np.random.default_rng(0)
    network = fastbp.Sequential(
        fastbp.Linear(30, 40), fastbp.Tanh(), fastbp.Linear(40, 3), fastbp.ReLU(), fastbp.Linear(3, 50), fastbp.Tanh(),
        fastbp.Linear(50, 30),
    )  # fmt: skip
    network.machine = Machine(part_work=1, per_share=1, piece_work=1, large=large, tile_columns=4)
    x = rng.normal(size=(16, 30)).astype(np.float32)
    expected, engine = network.forward(x), network.engine((30,))
    try:
        fastbp.set_num_threads(threads)
        for _ in range(50):
            np.testing.assert_allclose(engine.forward(x, training), expected, atol=1e-5)
    finally:
        fastbp.set_num_threads(before)
    assert parts_of(network, (30,), 16, training) == 8


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("N", [0, 1, 3, 4])
def test_few_samples_go_back_through_a_large_linear_layer_in_shares(N, threads):
    """dx is a sum over parts of the features of y up to some number of samples; from there on its columns are cut."""
    network, shape, _ = dense()
    network.machine, before = Machine(large=100, piece_work=1, tile_columns=4), fastbp.get_num_threads()
    try:
        fastbp.set_num_threads(threads)
        compare(network, shape, N)
    finally:
        fastbp.set_num_threads(before)
    cut = network.engine(shape).batch(N, True).schedule.cuts[2].backward
    assert cut.axis == ("terms" if N < 4 else "columns")


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_of(network, shape, training):
    """The addresses of its wires' memory."""
    ops = network.engine(shape).batch(4, training).schedule.ops
    return {op.output.array.ctypes.data for op in ops} | {ops[0].inputs[0].array.ctypes.data}


def test_wires_share_memory_in_evaluation():
    """A wire has the memory of one that nobody reads any more; in training each has its own, for the way back."""
    block = fastbp.Sequential(fastbp.Softmax(), fastbp.Linear(20, 20), fastbp.Softmax(), fastbp.Linear(20, 20))
    network = fastbp.Sequential(fastbp.Linear(6, 20), block, *copy.deepcopy(block.layers), dtype=np.float64)
    assert len(memory_of(network, (6,), True)) == 10 and len(memory_of(network, (6,), False)) == 3
    block = fastbp.Residual(fastbp.Linear(20, 20), fastbp.Tanh(), fastbp.Linear(20, 20))
    branched = fastbp.Sequential(fastbp.Linear(6, 20), fastbp.Tanh(), block, copy.deepcopy(block), dtype=np.float64)
    assert len(memory_of(branched, (6,), False)) == 4  # what a shortcut holds is kept until it has been added
    x = np.random.default_rng(0).normal(size=(4, 6))
    for each in (network, branched):
        np.testing.assert_allclose(each.engine((6,)).forward(x), each.forward(x), atol=1e-12)


def test_engines_are_kept_for_the_last_few_shapes_and_dropped_with_the_dtype():
    network = fastbp.Sequential(fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), fastbp.MaxPool2d(2))
    engine = network.engine((1, 20, 20))
    assert network.engine((1, 20, 20)) is engine is network.engine([1, 20, 20])
    for size in range(21, 30):
        network.engine((1, size, size))
    assert network.engine((1, 20, 20)) is not engine and len(network._engines) <= 4
    x = np.random.default_rng(0).normal(size=(2, 1, 20, 20))
    network.engine((1, 20, 20)).forward(x.astype(np.float32))
    network.astype(np.float64)
    np.testing.assert_allclose(network.engine((1, 20, 20)).forward(x), network.forward(x), atol=1e-12)
    with pytest.raises(ValueError, match="Conv2d: expected input"):
        network.engine((3, 20, 20))


def test_another_machine_builds_the_engine_anew():
    network = pooled()
    engine = network.engine((1, 12, 12))
    assert network.machine == Machine() and parts_of(network, (1, 12, 12), 4) == 1
    network.machine = SAMPLES
    assert network.engine((1, 12, 12)) is not engine and parts_of(network, (1, 12, 12), 4) == 4
    with pytest.raises(TypeError, match="Sequential: machine"):
        network.machine = {"parts": 2}
    for name, wrong, error in (
        ("parts", 0, ValueError), ("parts", 2.5, TypeError), ("part_work", 0, ValueError), ("large", -1, ValueError),
        ("read", "16", TypeError), ("few", float("nan"), ValueError), ("tile_rows", True, ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=f"Machine: {name}"):
            Machine(**{name: wrong})
    given = Machine(parts=np.int64(4), large=np.float32(10))
    assert (type(given.parts), type(given.large)) == (int, float) and given == Machine(parts=4, large=10)


def test_sizes_of_any_kind_give_the_same_results():
    """The smallest and the largest numbers that a Machine takes."""
    tiny, huge = 5e-324, 1e308
    works = "part_work", "per_share", "per_weight", "piece_work", "range_work", "block_rows", "block_weights"
    others = "part_sums", "large", "read", "few", "update_work"
    for work in (tiny, huge):
        for other in (0, huge):
            sizes = {**dict.fromkeys(works, work), **dict.fromkeys(others, other)}
            network, shape, N = convolutional()
            network.machine = Machine(parts=10**9, blocks=10**9, tile_rows=1, tile_columns=1, **sizes)
            compare(network, shape, N)


def test_an_engine_says_how_each_layer_is_computed():
    network = fastbp.Sequential(
        fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Conv2d(2, 2, 3, stride=2),
        fastbp.Conv2d(2, 2, 2), fastbp.Flatten(), fastbp.Linear(18, 3), fastbp.ReLU(), Halved(),
    )  # fmt: skip
    rows = [re.split("  +", line) for line in str(network.engine((1, 20, 20))).splitlines()]
    assert [row[:2] for row in rows] == [
        ["0, 1, 2", "Conv2d(1, 2, 3) + ReLU() + MaxPool2d(2, stride=2)"], ["3", "Conv2d(2, 2, 3, stride=2)"],
        ["4", "Conv2d(2, 2, 2)"], ["5", "Flatten()"], ["6", "Linear(18, 3)"], ["7", "ReLU()"], ["8", "Halved()"],
    ]  # fmt: skip
    expected = (
        "ConvPool: one pass", "ConvOp: all products, .*lanes", "ConvOp: all products, .*lanes",
        "CopyOp: no computation", "LinearOp: register tiles", "ReLUAfter: .*the layer before",
        "Opaque: its own forward and backward",
    )  # fmt: skip
    assert all(re.search(how, row[2]) for how, row in zip(expected, rows, strict=True))


# -- what is set between two steps -------------------------------------------------------------------------------------


def pooled(*more, seed=0):
    layers = fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), *more, fastbp.Flatten(), fastbp.Linear(200, 3)
    return fastbp.Sequential(*layers, seed=seed)


SETTINGS = [
    (lambda: fastbp.Dropout(0.5), "rate", 0.2), (lambda: fastbp.Dropout(0.5), "rate", 0.0),
    (lambda: fastbp.LeakyReLU(0.1), "negative_slope", 3.0), (lambda: fastbp.BatchNorm1d(9), "eps", 0.5),
    (lambda: fastbp.BatchNorm1d(9), "momentum", 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "value"), SETTINGS)
def test_numbers_that_are_set_count_from_the_next_step_on_and_rebuild_nothing(make, name, value):
    """A rate, a slope, an epsilon, a momentum; both passes, and for batch norm what evaluation makes of it."""
    network = fastbp.Sequential(fastbp.Linear(6, 9), make(), fastbp.Linear(9, 3), dtype=np.float64)
    rng = np.random.default_rng(0)
    loss, engine = fastbp.SoftmaxCrossEntropy(), network.engine((6,))
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1))
    x, labels = rng.normal(size=(2, 5, 6)), rng.integers(0, 3, (2, 5))
    trainer.step(x[0], labels[0])
    batches = engine.batch(5, True), engine.batch(5, False)
    as_it_was, other = copy.deepcopy(network), copy.deepcopy(network)
    for each in (network, other):
        setattr(each.layers[1], name, value)
    expected = loss.forward(other.forward(x[1], training=True), labels[1])
    other.backward(loss.backward())
    assert trainer.step(x[1], labels[1]) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-12)
    assert network.engine((6,)) is engine and (engine.batch(5, True), engine.batch(5, False)) == batches
    other.parameter_vector = network.parameter_vector
    y = engine.forward(x[1])
    np.testing.assert_allclose(y, other.forward(x[1]), atol=1e-12)
    fastbp.Trainer(as_it_was, loss, fastbp.SGD(lr=0.1)).step(x[1], labels[1])
    assert not np.allclose(as_it_was.forward(x[1]), y)  # the setting does something


def test_other_settings_build_calls_anew():
    network = fastbp.Sequential(fastbp.Conv2d(1, 2, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), dtype=np.float64)
    x, engine = np.random.default_rng(0).normal(size=(2, 1, 12, 12)), network.engine((1, 12, 12))
    engine.forward(x)
    network.layers[0].padding = 2
    network.layers[2].stride = 1
    assert network.engine((1, 12, 12)) is not engine
    y = network.engine((1, 12, 12)).forward(x)
    assert y.shape == (2, 2, 13, 13)
    np.testing.assert_allclose(y, network.forward(x), atol=1e-12)


def test_a_dropouts_step_can_be_set_back():
    network = pooled(fastbp.Dropout(0.5))
    x, engine = np.random.default_rng(0).normal(size=(4, 1, 12, 12)).astype(np.float32), network.engine((1, 12, 12))
    first = engine.forward(x, training=True).copy()
    assert not np.array_equal(engine.forward(x, training=True), first)
    network.layers[2].state["step"] = 0  # the same mask again, in the array that calls are bound to
    assert np.array_equal(engine.forward(x, training=True), first)


def test_batch_sizes_take_turns_and_memory_stays_bounded():
    network, rng = pooled(), np.random.default_rng(0)
    engine = network.engine((1, 12, 12))
    for size in (4, 1, 4, 7, 0, 2, 9, 4, 3):
        for training in (True, False):
            x = rng.normal(size=(size, 1, 12, 12)).astype(np.float32)
            np.testing.assert_allclose(engine.forward(x, training), network.forward(x), atol=1e-5)
    assert len(engine.batches) <= BATCHES_KEPT


# -- layers of one's own -----------------------------------------------------------------------------------------------


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


def test_a_layer_of_ones_own_is_called_as_a_whole():
    network, rng = pooled(Halved()).astype(np.float64), np.random.default_rng(0)
    engine, x = network.engine((1, 12, 12)), rng.normal(size=(3, 1, 12, 12))
    np.testing.assert_allclose(engine.forward(x, True), network.forward(x, True), atol=1e-12)
    dout = rng.normal(size=(3, 3))
    dx = engine.backward(dout).copy()
    gradient = network.gradient_vector.copy()
    np.testing.assert_allclose(dx, network.backward(dout), atol=1e-12)
    np.testing.assert_allclose(gradient, network.gradient_vector, atol=1e-12)
    assert network.engine((1, 12, 12)) is engine  # setting `mask` did not throw it away

    class Wrong(Halved):
        def output_shape(self, input_shape):
            return (*input_shape, 1)

    with pytest.raises(ValueError, match="Wrong: forward gave"):
        fastbp.Sequential(Wrong()).engine((3,)).forward(np.zeros((2, 3), np.float32))


class Normalised(fastbp.Optimizer):
    """An optimiser that needs the whole gradient at once."""

    def step(self, values, grads):
        values -= self.lr * grads / np.linalg.norm(grads)


@pytest.mark.parametrize("make", [lambda: fastbp.SGD(0.1, 0.9), lambda: fastbp.Adam(0.01), lambda: Normalised(0.1)])
def test_a_step_of_the_engine_is_a_step_of_the_optimizer(make):
    network, rng = pooled().astype(np.float64), np.random.default_rng(0)
    network.machine = Machine(part_work=1, range_work=1)
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


def test_an_engine_outlives_the_network():
    layers, x = [fastbp.Linear(3, 4), fastbp.Tanh()], np.ones((2, 3), np.float32)
    engine = fastbp.Sequential(*copy.deepcopy(layers)).engine((3,))
    np.testing.assert_allclose(engine.forward(x), fastbp.Sequential(*layers).forward(x), atol=1e-6)


def test_a_network_without_parameters():
    engine, x = fastbp.Sequential(fastbp.ReLU(), fastbp.Tanh()).engine((3,)), np.array([[1, -2, 3]], np.float32)
    assert np.allclose(engine.forward(x, training=True), np.tanh([1, 0, 3]))
    dout = np.array([[0.7, -2, 1.3]], np.float32)
    assert np.allclose(
        engine.backward(dout), dout * (1 - np.tanh([1, 0, 3]) ** 2) * [1, 0, 1], atol=1e-6
    )  # 1 − y² cancels
    trainer = fastbp.Trainer(fastbp.Sequential(fastbp.ReLU()), fastbp.SoftmaxCrossEntropy(), fastbp.SGD())
    assert trainer.step(x, np.array([2])) > 0


def test_the_engine_refuses_what_it_can_not_do():
    network = pooled()
    engine, x = network.engine((1, 12, 12)), np.zeros((2, 1, 12, 12), np.float32)
    with pytest.raises(RuntimeError, match="before a forward pass in training mode"):
        engine.backward(np.zeros((2, 3), np.float32))
    engine.forward(x)
    with pytest.raises(RuntimeError, match="before a forward pass in training mode"):
        engine.backward(np.zeros((2, 3), np.float32))
    engine.forward(x, training=True)
    with pytest.raises(ValueError, match=r"expected dout \(2, 3\), got \(3,\)"):
        engine.backward(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"expected input \(N, 1, 12, 12\), got \(2, 1, 12, 1\)"):
        engine.forward(x[..., :1])

    class Residual(fastbp.Sequential):
        def forward(self, x, training=False):
            return x + super().forward(x, training)

    with pytest.raises(TypeError, match="Residual has a forward or backward of its own"):
        Residual(fastbp.Linear(3, 3)).engine((3,))

    class Summed(Halved):
        def backward(self, dout, need_dx=True, out=None):
            return dout.sum(axis=0)

    engine = fastbp.Sequential(fastbp.Linear(3, 3), Summed()).engine((3,))
    engine.forward(np.zeros((2, 3), np.float32), training=True)
    with pytest.raises(ValueError, match=r"Summed: backward gave \(3,\) for an input \(2, 3\)"):
        engine.backward(np.zeros((2, 3), np.float32))


class Small(fastbp.Conv2d):
    """A constructor and a repr: it is computed as its base."""

    def __init__(self):
        super().__init__(1, 4, 3)

    def __repr__(self):
        return "Small()"


class Described(fastbp.BatchNorm2d):
    """With a method and an attribute that have nothing to do with passes."""

    described = True

    def describe(self):
        return f"{self.num_features} channels"


class Twofold(fastbp.Linear):
    """A forward of its own, on the base's; backward takes dout twice too."""

    def forward(self, x, training=False, out=None):
        return 2 * super().forward(x, training)

    def backward(self, dout, need_dx=True, out=None):
        return super().backward(2 * dout, need_dx)


class Doubling(fastbp.ReLU):
    """A backward of its own beside the base's forward."""

    def backward(self, dout, need_dx=True, out=None):
        return 2 * super().backward(dout, need_dx)


class Inner(Twofold):
    """A subclass of one with passes of its own."""


@pytest.mark.parametrize(("layers", "ops"), [
    ([Small(), fastbp.ReLU(), fastbp.MaxPool2d(2)], ["ConvPool"]),
    ([Described(1), fastbp.ReLU(), fastbp.MaxPool2d(2)], ["NormPool"]),
    ([fastbp.Conv2d(1, 2, 3), Doubling(), fastbp.MaxPool2d(2)], ["ConvOp", "Opaque", "MaxPoolOp"]),
    ([fastbp.Flatten(), Twofold(144, 4), fastbp.ReLU(), fastbp.Linear(4, 3)],
     ["CopyOp", "Opaque", "ReLUOp", "LinearOp"]),
    ([fastbp.Flatten(), Inner(144, 4), fastbp.Linear(4, 3), Doubling()], ["CopyOp", "Opaque", "LinearOp", "Opaque"]),
    ([fastbp.Flatten(), fastbp.Linear(144, 4), fastbp.ReLU(), fastbp.ReLU(), fastbp.BatchNorm1d(4), fastbp.ReLU()],
     ["CopyOp", "LinearOp", "ReLUAfter", "ReLUOp", "BatchNormOp"]),
    ([fastbp.Flatten(), fastbp.BatchNorm1d(144), fastbp.ReLU(), fastbp.Identity()],
     ["CopyOp", "BatchNormOp", "CopyOp"]),
])  # fmt: skip
@pytest.mark.parametrize("cut", sorted(CUTS))
def test_subclasses_and_neighbours_that_could_be_mistaken(layers, ops, cut):
    """A pass of one's own, beside the base's other, is called as a whole; a subclass without one counts as its base."""
    network = fastbp.Sequential(*copy.deepcopy(layers), dtype=np.float64)
    network.machine = CUTS[cut]
    assert ops_of(network, (1, 12, 12)) == ops
    compare(network, (1, 12, 12), 4)


def test_kernels_in_methods_of_a_layer_are_a_mistake():
    """Layers had such methods once: one that would not be called any more is an error where it is defined."""
    for name in ("forward_calls", "input_calls", "parameter_calls"):
        with pytest.raises(TypeError, match=f"Wrong: layers have no {name}; .*Op"):
            type("Wrong", (fastbp.Linear,), {name: lambda self, p: iter(())})


def test_a_replaced_method_keeps_layers_out_of_a_row():
    for kind in (fastbp.Conv2d(1, 2, 3), fastbp.BatchNorm2d(1)):
        layers, x = [kind, fastbp.ReLU(), fastbp.MaxPool2d(2)], np.ones((2, 1, 20, 20), np.float32)
        for k in range(3):
            network = fastbp.Sequential(*copy.deepcopy(layers))
            assert len(ops_of(network, (1, 20, 20))) == 1
            mine = network.layers[k]

            def forward(x, training=False, out=None, of_sample=mine.output_shape):
                return np.ones((len(x), *of_sample(x.shape[1:])), x.dtype)

            mine.forward = forward
            assert "Opaque" in ops_of(network, (1, 20, 20)) and len(ops_of(network, (1, 20, 20))) > 1
            np.testing.assert_allclose(network.engine((1, 20, 20)).forward(x), network.forward(x), atol=1e-6)


def test_state_and_methods_that_are_replaced_count():
    network = fastbp.Sequential(fastbp.BatchNorm1d(3), fastbp.Linear(3, 2))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    network.engine((3,)).forward(x)
    network.layers[0].state.update(running_mean=[5, 6, 7])
    np.testing.assert_allclose(network.engine((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[0].state = {"running_mean": np.ones(3, np.float32), "running_var": np.full(3, 2, np.float32)}
    np.testing.assert_allclose(network.engine((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[0].state["running_var"] = [3, 4, 5]
    np.testing.assert_allclose(network.engine((3,)).forward(x), network.forward(x), atol=1e-5)
    network.layers[1].forward = lambda x, training=False, out=None: np.full((4, 2), 8, np.float32)
    assert (network.engine((3,)).forward(x) == 8).all()
    del network.layers[1].forward
    np.testing.assert_allclose(network.engine((3,)).forward(x), network.forward(x), atol=1e-5)
    trainer = fastbp.Trainer(pooled(), fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=1))
    trainer.optimizer.step = lambda values, grads: None
    before = trainer.network.parameter_vector.copy()
    trainer.step(np.zeros((2, 1, 12, 12), np.float32), np.array([0, 1]))
    assert np.array_equal(trainer.network.parameter_vector, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_one_program_and_follows_what_changes(threads):
    """Another smoothing, loss, optimiser or kind of labels from step to step; labels that are no classes change
    nothing."""
    rng, before = np.random.default_rng(0), fastbp.get_num_threads()
    network = fastbp.Sequential(fastbp.Linear(5, 7), fastbp.ReLU(), fastbp.Linear(7, 3), dtype=np.float64, seed=1)
    other, x, labels = copy.deepcopy(network), rng.normal(size=(6, 5)), rng.integers(0, 3, 6)
    loss, optimizer = fastbp.SoftmaxCrossEntropy(), fastbp.Adam(lr=0.1)
    steps = [
        (loss, optimizer, labels), (loss, optimizer, labels.astype(np.uint8)), (loss, optimizer, list(labels)),
        (fastbp.MulticlassHinge(), optimizer, labels), (loss, fastbp.SGD(lr=0.1, momentum=0.5), labels),
        (loss, optimizer, labels),
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
            for wrong, message in (
                (np.full(6, 3), "must be in"), (np.full(6, -1), "must be in"), (labels[:5], "differ in length"),
                (np.zeros(6), "expected integer labels"),
            ):  # fmt: skip
                with pytest.raises((ValueError, TypeError), match=message):
                    fastbp.Trainer(network, of_loss, of_optimizer).step(x, wrong)
                np.testing.assert_allclose(network.parameter_vector, other.parameter_vector, atol=1e-12)
                assert of_optimizer.steps == mine.steps
    finally:
        fastbp.set_num_threads(before)
    programs = network.engine((5,)).batch(6, True).step.program
    assert len(programs) == 1 or numba.config.DISABLE_JIT


def test_a_method_that_is_put_into_a_class_is_called(monkeypatch):
    """As a test of one's own does that plants a mistake."""
    x, right = np.ones((2, 3), np.float32), fastbp.Tanh.forward
    monkeypatch.setattr(fastbp.Tanh, "forward", lambda self, *given, **named: 2 * right(self, *given, **named))
    network = fastbp.Sequential(fastbp.Linear(3, 2), fastbp.Tanh())
    np.testing.assert_allclose(fastbp.outputs(network, x), network.forward(x), atol=1e-6)
    assert "Opaque" in str(network.engine((3,)))
