"""Networks that branch: containers of the package and of one's own do all that flat networks do."""

import copy
import gc
import pickle
import weakref

import branched
import numpy as np
import pytest
from branched import CLASSES, SHAPE, Dense, Doubled, Either, Gated, Times, data, varied
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import graph
from fastbp.engine import Wire
from fastbp.layers import Container, Join, Plus

LOSS = fastbp.SoftmaxCrossEntropy


@pytest.fixture(autouse=True, scope="module")
def threads():
    before = fastbp.get_num_threads()
    yield
    fastbp.set_num_threads(before)


def train(network, steps=3, dtype=np.float64, optimizer=None, shape=SHAPE, classes=CLASSES, N=6):
    trainer = fastbp.Trainer(network, LOSS(), optimizer or fastbp.SGD(lr=1e-3, momentum=0.9))
    losses = [trainer.step(*data(N, dtype, seed, shape, classes)) for seed in range(steps)]
    assert np.isfinite(losses).all()
    return network


def bits(network) -> dict:
    return {name: array.tobytes() for name, array in network.state_dict().items()}


def by_layers(network, x, targets, need_dx=True):
    """The scores, the gradient of x, and all gradients, layer by layer."""
    loss, y = LOSS(), network.forward(x, training=True)
    loss.forward(y, targets)
    dx = network.backward(loss.backward(), need_dx=need_dx)
    return y, dx, network.gradient_vector.copy()


def by_engine(network, x, targets, need_dx=True):
    engine, loss = network.engine(x.shape[1:]), LOSS()
    y = engine.forward(x, training=True).copy()
    loss.forward(y, targets)
    dx = engine.backward(loss.backward(), need_dx=need_dx)
    return y, dx if dx is None else dx.copy(), network.gradient_vector.copy()


def close(a, b, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=atol * max(1, np.abs(b).max(initial=0)))


# -- what is computed --------------------------------------------------------------------------------------------------


def test_a_residual_block_is_body_and_shortcut_added():
    rng = np.random.default_rng(1)
    first, second, beside = fastbp.Linear(5, 4), fastbp.Tanh(), fastbp.Linear(5, 4)
    alone = [copy.deepcopy(layer).astype(np.float64) for layer in (first, second, beside)]
    block = fastbp.Residual(first, second, shortcut=beside).astype(np.float64)
    x, dout = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    close(block.forward(x), np.tanh(x @ alone[0].weight.value.T) + x @ alone[2].weight.value.T)
    inner = dout * (1 - np.tanh(x @ alone[0].weight.value.T) ** 2)
    close(block.backward(dout), inner @ alone[0].weight.value + dout @ alone[2].weight.value)
    close(first.weight.grad, inner.T @ x)
    close(beside.weight.grad, dout.T @ x)


def test_branches_stand_one_after_the_other_along_the_first_axis():
    rng = np.random.default_rng(2)
    block = fastbp.Concat(fastbp.Tanh(), fastbp.Sequential(fastbp.Sigmoid(), fastbp.Tanh()), fastbp.Identity())
    x, dout = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(2, 9, 4)).astype(np.float32)
    sigmoid = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(block.forward(x), np.concatenate([np.tanh(x), np.tanh(sigmoid), x], axis=1), rtol=1e-5)
    slopes = 1 - np.tanh(x) ** 2, (1 - np.tanh(sigmoid) ** 2) * sigmoid * (1 - sigmoid), np.ones_like(x)
    expected = sum(slope * dout[:, 3 * k : 3 * k + 3] for k, slope in enumerate(slopes))
    np.testing.assert_allclose(block.backward(dout), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "block",
    [
        fastbp.Residual(fastbp.Linear(4, 4), fastbp.BatchNorm1d(4), fastbp.Tanh()),
        fastbp.Residual(fastbp.Linear(4, 4), shortcut=fastbp.Sequential(fastbp.Linear(4, 4), fastbp.Dropout(0.4))),
        fastbp.Concat(
            fastbp.Linear(4, 2), fastbp.Sequential(fastbp.Linear(4, 3), fastbp.Sigmoid()), fastbp.Linear(4, 1)
        ),
        Gated(fastbp.Linear(4, 3), fastbp.Linear(4, 3, bias=False)),
        Dense(fastbp.Sequential(fastbp.Linear(4, 4), fastbp.Tanh())),
        Either(4, [fastbp.Linear(4, 4), fastbp.Sequential(fastbp.Softmax())]),
        Doubled(fastbp.Linear(4, 4)),
    ],
)
def test_gradients_of_containers_alone(block):
    assert fastbp.check_gradients(block, np.random.default_rng(3).normal(size=(5, 4)), smallest=False).passed


def test_the_gradients_of_a_network_of_all_containers():
    x, targets = data(4)
    report = fastbp.check_gradients(varied(), x, targets, loss=LOSS(), mode="directional", smallest=False)
    assert report.passed
    assert {"1.shortcut.1.gamma (BatchNorm2d)", "7.mixed.w (Mixed)"} <= {tensor.name for tensor in report.tensors}


@pytest.mark.parametrize("need_dx", [True, False])
def test_the_engine_computes_what_the_layers_compute(need_dx):
    network, other = varied(), varied()
    for seed in range(2):  # other masks the second time
        x, targets = data(6, seed=seed)
        for a, b in zip(by_engine(network, x, targets, need_dx), by_layers(other, x, targets, need_dx), strict=True):
            if a is None or b is None:
                assert a is b is None
            else:
                close(a, b)
    for name, array in network.state_dict().items():
        close(array, other.state_dict()[name])
    close(network.engine(SHAPE).forward(x), other.forward(x))


def test_a_step_is_the_gradient_of_the_layers():
    network, other = varied(), varied()
    x, targets = data(6)
    *_, gradient = by_layers(other, x, targets, need_dx=False)
    for kept in (False, True):  # in the second step gradients are no longer left open
        before, state = network.parameter_vector.copy(), network.state_dict()
        assert network.gradients.kept is kept
        fastbp.Trainer(network, LOSS(), fastbp.SGD(lr=1.0)).step(x, targets)
        close(before - network.parameter_vector, gradient, 1e-11)
        close(network.gradient_vector, gradient)
        network.load_state_dict(state)


@settings(max_examples=8)
@given(st.integers(0, 299))
def test_networks_drawn_at_random(seed):
    compare_drawn(seed)


def compare_drawn(seed):
    """AssertionError unless a network drawn at random trains as its layers do, whole and cut, in both dtypes."""
    network, shape, N = branched.drawn(seed)
    x, targets = data(N, seed=seed, shape=shape, classes=3)
    state = network.state_dict()
    expected = by_layers(network, x, targets)
    statistics = network.state_dict()
    scale = np.abs(expected[2]).max()
    found = []
    for machine, count in ((network.machine, 1), (branched.machine(seed), 1), (branched.machine(seed), 3)):
        fastbp.set_num_threads(count)
        network.load_state_dict(state)
        network.machine = machine
        found.append(by_engine(network, x, targets))
        for a, b in zip(found[-1], expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * max(scale, 1), err_msg=f"seed {seed}")
        for name, array in network.state_dict().items():
            np.testing.assert_allclose(array, statistics[name], rtol=1e-9, atol=1e-10, err_msg=f"seed {seed}")
        predicted, wanted = network.engine(shape).forward(x), network.forward(x)
        allowed = 1e-9 * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(predicted, wanted, rtol=1e-8, atol=allowed, err_msg=f"seed {seed}: evaluation")
        _, dx, gradients = by_engine(copy_of(network, state), x, targets, need_dx=False)
        assert dx is None
        np.testing.assert_array_equal(gradients, found[-1][2], err_msg=f"seed {seed}")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*found[1:], strict=True)), f"seed {seed}: threads"
    network.load_state_dict(state)
    network.forget_gradients()
    before = network.parameter_vector.copy()
    fastbp.Trainer(network, LOSS(), fastbp.SGD(lr=1.0)).step(x, targets)
    step, atol = before - network.parameter_vector, 1e-9 * max(scale, 1)
    np.testing.assert_allclose(step, expected[2], rtol=1e-8, atol=atol, err_msg=f"seed {seed}: a step")
    network.load_state_dict(state)
    network.astype(np.float32)
    narrow = by_engine(network, x.astype(np.float32), targets)
    network.load_state_dict({name: array.astype(narrow[0].dtype) for name, array in state.items()} | keys(state))
    wide = by_layers(network, x.astype(np.float32), targets)
    for a, b, exact in zip(narrow, wide, expected, strict=True):
        allowed = 1e-3 * max(np.abs(exact).max(), 1e-3) + 4 * np.abs(b - exact).max()
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=allowed, err_msg=f"seed {seed}, float32")


def copy_of(network, state):
    network.load_state_dict(state)
    return network


def keys(state):
    return {name: array for name, array in state.items() if array.dtype.kind != "f"}


# -- training, files, copies -------------------------------------------------------------------------------------------


def test_the_same_bits_on_any_number_of_threads():
    found = set()
    for count in (1, 2, 4):
        fastbp.set_num_threads(count)
        for dtype in (np.float32, np.float64):
            network = train(varied(dtype, machine=branched.machine(5)), dtype=dtype)
            found.add((dtype, network.parameter_vector.tobytes(), network.gradient_vector.tobytes()))
    assert len(found) == 2


def test_another_machine_is_another_sum_of_the_same_numbers():
    usual = train(varied()).parameter_vector
    for seed in range(3):
        close(train(varied(machine=branched.machine(seed))).parameter_vector, usual, 1e-10)


def test_saved_and_loaded_with_classes_of_ones_own(tmp_path):
    network = train(varied(np.float32), dtype=np.float32)
    network.save(tmp_path / "network.npz")
    other = fastbp.load(tmp_path / "network.npz")
    assert repr(other) == repr(network)
    assert bits(other) == bits(network)
    x, _ = data(5, np.float32)
    assert fastbp.outputs(other, x).tobytes() == fastbp.outputs(network, x).tobytes()
    assert bits(train(other, dtype=np.float32)) == bits(train(network, dtype=np.float32))


class Wide(fastbp.Sequential):
    """A row of layers with a constructor of its own"""

    def __init__(self, width):
        super().__init__(fastbp.Linear(4, width), fastbp.ReLU(), fastbp.Linear(width, 4))
        self.width = width


class Scaled(Container):
    """y = factor · … with a plain argument before the layers, options in a dictionary and layers in one"""

    def __init__(self, factor, *layers, named, options=None):
        super().__init__(*layers, **named)
        self.factor, self.layers, self.named, self.options = factor, layers, named, options

    def connect(self, x, place):
        for layer in (*self.layers, *self.named.values()):
            x = place(layer, x)
        return x


def test_arguments_of_containers_in_files(tmp_path):
    block = Scaled(0.5, fastbp.Linear(4, 4), fastbp.ReLU(), named={"last": fastbp.Linear(4, 4)}, options={"type": 3})
    network = fastbp.Sequential(Wide(7), block, fastbp.Residual(Wide(3)))
    network.save(tmp_path / "network.npz")
    other = fastbp.load(tmp_path / "network.npz")
    assert bits(other) == bits(network)
    assert [type(layer) for layer in other.layers] == [Wide, Scaled, fastbp.Residual]
    assert (other.layers[0].width, other.layers[1].factor, other.layers[2].layers[0].width) == (7, 0.5, 3)
    assert repr(Either(2, [fastbp.ReLU(), fastbp.Tanh()])) == "Either(2, [ReLU(), Tanh()])"


def test_a_class_that_nobody_has_defined_is_named(tmp_path, monkeypatch):
    fastbp.Sequential(fastbp.Residual(Dense(fastbp.Linear(2, 2)), shortcut=fastbp.Linear(2, 6))).save(
        tmp_path / "n.npz"
    )
    monkeypatch.delitem(fastbp.Layer.types, Dense.type_name())
    with pytest.raises(
        ValueError, match=r"can't be rebuilt: layer Dense is unknown; import the module .* first, branched"
    ):
        fastbp.load(tmp_path / "n.npz")


def test_a_container_that_does_not_keep_its_arguments_trains_and_is_shown(tmp_path):
    network = fastbp.Sequential(Ends(4, fastbp.Linear(4, 2)), fastbp.Linear(4, 4), dtype=np.float64)
    train(network, shape=(4,))
    assert "Ends(…)" in repr(network)
    assert "Ends(…)" in repr(fastbp.Residual(Ends(4, fastbp.ReLU())))
    with pytest.raises(AttributeError, match="features"):
        network.save(tmp_path / "n.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_go_on_alone(twin):
    network = train(varied())
    other = twin(network)
    assert bits(other) == bits(network)
    before = bits(network)
    train(other)
    assert bits(network) == before != bits(other)
    assert bits(train(network)) == bits(other)
    block = twin(network.layers[1])  # a part of it
    assert block.network is None
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 8))
    np.testing.assert_array_equal(block.forward(x), network.layers[1].forward(x))


def test_state_has_paths_and_is_loaded_whole_or_not_at_all():
    network = train(varied())
    state = network.state_dict()
    assert {
        "1.body.1.running_mean",
        "1.shortcut.1.running_var",
        "5.gate.1.running_var",
        "6.layer.body.1.step",
    } <= state.keys()
    assert {
        "1.body.0.weight",
        "3.0.bias",
        "5.body.weight",
        "5.gate.0.weight",
        "7.mixed.w",
        "8.body.0.bias",
    } <= state.keys()
    other = varied(seed=8)
    before = bits(other)
    with pytest.raises(ValueError, match=r"1.body.1.running_mean"):
        other.load_state_dict({name: array for name, array in state.items() if name != "1.body.1.running_mean"})
    with pytest.raises(ValueError, match=r"load_state_dict: 7.mixed.w"):
        other.load_state_dict({**state, "7.mixed.w": np.zeros(3)})
    assert bits(other) == before
    other.load_state_dict(state)
    assert bits(other) == bits(network)


def test_resumed_with_the_same_bits(tmp_path):
    def fit(stop=None, resume=None):
        def end(run):
            if run.epoch == stop:
                raise KeyboardInterrupt

        network = varied(np.float32)
        options = {"epochs": 4, "batch_size": 5, "progress": False, "resume": resume, "callbacks": [end]}
        history = fastbp.fit(
            network, LOSS(), fastbp.Adam(lr=1e-3), data(12, np.float32), data(7, np.float32, 1), **options
        )
        return bits(network), history.validation_loss

    with pytest.raises(KeyboardInterrupt):
        fit(2, tmp_path / "state.npz")
    assert fit(resume=tmp_path / "state.npz") == fit()


def test_early_stopping_puts_the_best_network_back():
    network, seen = varied(np.float32), {}

    class Worse(fastbp.Callback):
        def on_epoch_end(self, run):
            seen[run.epoch] = bits(run.network)
            run.optimizer.lr = 10.0 if run.epoch == 1 else run.optimizer.lr

    stopping = fastbp.EarlyStopping(patience=2)
    with np.errstate(all="ignore"):
        fastbp.fit(
            network, LOSS(), fastbp.SGD(lr=1e-3), data(12, np.float32), data(12, np.float32), 6, 12,
            [stopping, Worse()], progress=False,
        )  # fmt: skip
    assert bits(network) == seen[stopping.best_epoch] != seen[max(seen)]


def test_astype_converts_everything_inside():
    network = train(varied(np.float32), dtype=np.float32)
    wide = copy.deepcopy(network).astype(np.float64)
    assert {array.dtype for name, array in wide.state_dict().items() if array.dtype.kind == "f"} == {
        np.dtype(np.float64)
    }
    assert wide.layers[3].branches[1].dtype == wide.layers[1].shortcut.dtype == np.float64
    x, _ = data(5)
    np.testing.assert_allclose(wide.forward(x), network.forward(x.astype(np.float32)), rtol=1e-3, atol=1e-4)
    block = fastbp.Residual(fastbp.Linear(3, 3), fastbp.Sequential(fastbp.BatchNorm1d(3))).astype(np.float64)
    assert block.forward(np.zeros((2, 3))).dtype == np.float64
    assert block.layers[1].layers[0].state["running_mean"].dtype == np.float64
    for inside in (network.layers[1], network.layers[3].branches[1]):
        with pytest.raises(ValueError, match="network's astype"):
            inside.astype(np.float64)


def test_evaluation_drops_nothing_and_keeps_the_running_statistics():
    network = train(varied())
    before, (x, _) = bits(network), data(5)
    y = network.engine(SHAPE).forward(x).copy()
    close(network.forward(x), y)
    close(fastbp.outputs(network, x), y)
    fastbp.set_num_threads(1)
    close(np.concatenate([fastbp.outputs(network, x[i : i + 1]) for i in range(5)]), y)
    assert bits(network) == before
    network.machine = branched.machine(7)
    close(network.engine(SHAPE).forward(x), y)


def test_nan_comes_through_every_branch():
    x, targets = data(4)
    for at in range(2):
        x[at, 0, 3, 3] = np.nan
        for y in (varied().forward(x), varied().engine(SHAPE).forward(x)):
            assert np.isnan(y[: at + 1]).all()
            assert np.isfinite(y[at + 1 :]).all()
    network = varied()
    assert np.isnan(fastbp.Trainer(network, LOSS(), fastbp.SGD(lr=0.1)).step(x, targets))


def test_an_operation_of_the_graph():
    network, other = varied(), varied()
    x, targets = data(5)
    node = graph.TensorNode(x)
    network.gradient_vector[:] = 0
    graph.apply_loss(LOSS(), graph.apply_layer(network, node, training=True), targets).backward()
    _, dx, gradient = by_layers(other, x, targets)
    close(network.gradient_vector, gradient)
    close(node.grad, dx)
    assert bits(network) == bits(other)
    block, small = network.layers[6], np.random.default_rng(0).normal(size=(3, 9))
    twice = graph.apply_layer(block, graph.TensorNode(small)) + graph.apply_layer(block, graph.TensorNode(2 * small))
    close(twice.value, block.forward(small) + block.forward(2 * small))


class InTheGraph(graph.GraphLayer):
    """A layer written with nodes that uses a container"""

    def __init__(self):
        super().__init__()
        self.block = fastbp.Residual(fastbp.Linear(4, 4), fastbp.Tanh())
        self.parameters = self.block.parameters

    def compute(self, x, *parameters):
        return graph.apply_layer(self.block, x * x, self.training)


def test_a_container_in_a_layer_written_with_nodes():
    layer, x = InTheGraph(), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(layer.forward(x), layer.block.forward(x * x), rtol=1e-6)


def test_dropout_depends_on_seed_and_path():
    def network(seed):
        def half():
            return fastbp.Residual(fastbp.Dropout(0.5), fastbp.Sequential(fastbp.Dropout(0.5)))

        return fastbp.Sequential(half(), fastbp.Concat(fastbp.Dropout(0.5), fastbp.Dropout(0.5)), half(), seed=seed)

    keys = [
        array.item() for seed in range(3) for name, array in network(seed).state_dict().items() if name.endswith("key")
    ]
    assert len(set(keys)) == len(keys) == 18
    flat = fastbp.Sequential(fastbp.Linear(2, 2), fastbp.Dropout(0.5), seed=7)
    expected = np.random.SeedSequence([7, 1, 1]).generate_state(1, np.uint64)[0]
    assert flat.state_dict()["1.key"] == expected


# -- first values ------------------------------------------------------------------------------------------------------


def test_first_values_depend_on_seed_and_path():
    def network(seed, *more):
        return fastbp.Sequential(
            fastbp.Residual(fastbp.Linear(3, 3), fastbp.Linear(3, 3)), fastbp.Linear(3, 3), *more, seed=seed
        )

    weights = [
        array.tobytes() for seed in range(2) for name, array in network(seed).state_dict().items() if "weight" in name
    ]
    assert len(set(weights)) == len(weights) == 6
    flat = fastbp.Sequential(fastbp.Linear(3, 2), fastbp.ReLU(), fastbp.Linear(2, 3), seed=5)
    drawn = np.random.default_rng([5, 2]).normal(0, np.sqrt(2 / 2), (3, 2))
    np.testing.assert_allclose(flat.layers[2].weight.value, drawn, rtol=1e-6)


def test_a_layer_put_into_a_block_moves_nobody_elses_values():
    plain = varied().state_dict()
    deeper = fastbp.Sequential(
        fastbp.Conv2d(2, 4, 3, padding=1),
        fastbp.Residual(fastbp.Conv2d(4, 6, 3, stride=2, padding=1), fastbp.BatchNorm2d(6), fastbp.ReLU(),
                        fastbp.Conv2d(6, 6, 3, padding=1), fastbp.Conv2d(6, 6, 1),
                        shortcut=fastbp.Sequential(fastbp.Conv2d(4, 6, 1, stride=2), fastbp.BatchNorm2d(6))),
        dtype=np.float64, seed=3,
    ).state_dict()  # fmt: skip
    assert "1.body.4.weight" in deeper
    assert "1.body.4.weight" not in plain
    same = [name for name in deeper if not name.startswith("1.body.4")]
    assert all(deeper[name].tobytes() == plain[name].tobytes() for name in same)


def test_a_network_that_nobody_has_looked_at_is_drawn_by_the_outer_seed():
    def inner(seed=1):
        return fastbp.Sequential(fastbp.Linear(3, 4), fastbp.ReLU(), seed=seed)

    def outer(inside, seed=2):
        return fastbp.Sequential(inside, fastbp.Linear(4, 2), seed=seed)

    fresh = [outer(inner(seed)).parameter_vector.tobytes() for seed in (1, 9)]
    assert fresh[0] == fresh[1] != outer(inner(), seed=3).parameter_vector.tobytes()
    assert fresh[0] == outer(fastbp.Sequential(inner(), seed=4).layers[0]).parameter_vector.tobytes()
    for look in (
        lambda network: network.parameter_vector,
        lambda network: network.layers[0].weight.value,
        lambda network: network.forward(np.zeros((1, 3), np.float32)),
        lambda network: network.state_dict(),
        lambda network: fastbp.outputs(network, np.zeros((1, 3), np.float32)),
    ):
        seen = inner()
        look(seen)
        values = seen.layers[0].weight.value.copy()
        assert (outer(seen).layers[0].layers[0].weight.value == values).all()


# -- a network that is a part of another -------------------------------------------------------------------------------


def autoencoder():
    encoder = fastbp.Sequential(fastbp.Linear(6, 4), fastbp.BatchNorm1d(4), fastbp.Tanh(), seed=1)
    return encoder, fastbp.Sequential(encoder, fastbp.Linear(4, 6), dtype=np.float64, seed=2, winograd=4)


def test_an_encoder_is_trained_in_its_network_and_predicts_alone():
    encoder, network = autoencoder()
    x = np.random.default_rng(0).normal(size=(20, 6))
    assert encoder.network is network
    assert (encoder.dtype, encoder.winograd) == (np.float64, 4)
    before = fastbp.outputs(encoder, x)
    trainer = fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.01))
    for _ in range(3):
        trainer.step(x, x)
    after = fastbp.outputs(encoder, x)
    assert np.abs(after - before).max() > 1e-4
    close(after, encoder.forward(x))
    close(fastbp.outputs(network, x), network.layers[1].forward(after))
    for use in (
        lambda: encoder.parameter_vector,
        lambda: encoder.gradient_vector,
        lambda: setattr(encoder, "machine", fastbp.engine.Machine(parts=2)),
    ):
        with pytest.raises(ValueError, match="part of another network, which has the parameters.*deepcopy"):
            use()
    alone = copy.deepcopy(encoder)
    assert alone.parameter_vector.dtype == np.float64
    assert bits(alone) == bits(encoder)
    rest = network.gradient_vector.copy()
    engine = encoder.engine((6,))
    engine.forward(x, training=True)
    engine.backward(np.ones_like(after))
    size = alone.parameter_vector.size
    assert (network.gradient_vector[size:] == rest[size:]).all()
    assert (network.gradient_vector[:size] != rest[:size]).any()


def test_a_part_goes_on_when_its_network_is_gone():
    encoder, network = autoencoder()
    x = np.random.default_rng(0).normal(size=(5, 6))
    network.machine = fastbp.engine.Machine(parts=3)
    fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.1)).step(x, x)
    before, y = bits(encoder), fastbp.outputs(encoder, x)
    del network
    gc.collect()
    assert encoder.network is None
    assert (encoder.dtype, encoder.winograd, encoder.machine.parts) == (np.float64, 4, 3)
    assert bits(encoder) == before
    assert fastbp.outputs(encoder, x).tobytes() == y.tobytes()
    assert encoder.parameter_vector.size == 6 * 4 + 4 + 8
    fastbp.Trainer(encoder, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.1)).step(x, y)
    assert fastbp.Sequential(encoder, fastbp.Linear(4, 2), dtype=np.float64).holds(encoder.layers[0])


def test_a_layer_of_another_network_is_refused_and_nothing_is_taken():
    conv, taken = fastbp.Conv2d(4, 4, 3, padding=1), fastbp.Linear(3, 3)
    network, other = fastbp.Sequential(fastbp.Residual(taken)), fastbp.Sequential(conv, seed=1, winograd=4)
    vector = other.parameter_vector
    for inside in (taken, network.layers[0], fastbp.Concat(fastbp.Tanh(), taken)):
        with pytest.raises(ValueError, match=r"belongs to another network; use copy.deepcopy\(layer\)"):
            fastbp.Sequential(other, inside)
    assert other.parameter_vector is vector
    assert conv.network is other
    assert conv.winograd_tile == 4


def test_an_engine_can_be_shown_when_its_network_is_gone():
    assert "Plus" in str(fastbp.Sequential(fastbp.Residual(fastbp.Linear(3, 3))).engine((3,)))


# -- costs and words ---------------------------------------------------------------------------------------------------


def test_costs_by_hand():
    N, D = 5, 6
    network = fastbp.Sequential(
        fastbp.Linear(4, D),
        fastbp.Residual(fastbp.Linear(D, D), fastbp.Tanh()),
        fastbp.ReLU(),
        fastbp.Concat(fastbp.Linear(D, 2), fastbp.Linear(D, 3), fastbp.Identity()),
    )
    sheet = network.costs((4,), N)
    assert [row.path for row in sheet.rows] == ["0", "1.body.0", "1.body.1", "1", "2", "3.0", "3.1", "3.2", "3"]
    linear = {"0": (4, D), "1.body.0": (D, D), "3.0": (D, 2), "3.1": (D, 3)}
    forward = {path: N * 2 * d * f for path, (d, f) in linear.items()}
    forward |= {"1.body.1": N * D, "1": N * D, "2": N * D, "3.2": 0, "3": 0}
    assert {row.path: row.forward for row in sheet.rows} == forward
    back = {path: f * d * (2 * N - 1) + f * (N - 1) + N * d * (2 * f - 1) for path, (d, f) in linear.items()}
    back["0"] -= N * 4 * (2 * D - 1)  # nothing needs the gradient of the input
    back["0"] += N * D  # whose output has two readers: the gradients are added
    back |= {
        "1.body.1": 3 * N * D,
        "1": 0,
        "2": N * D + 2 * N * D,
        "3.2": 0,
        "3": 0,
    }  # three readers of the ReLU's output
    assert {row.path: row.backward for row in sheet.rows} == back
    assert sheet.forward == sum(forward.values())
    assert sheet.backward == sum(back.values())
    assert sheet.parameters == network.parameter_vector.size
    assert sheet.activation_bytes == 4 * N * (4 + 5 * D + 2 + 3 + D + 11)
    assert sheet.input_gradient == N * 4 * (2 * D - 1)
    table = network.summary((4,), N)
    for words in ("1.body.0", "Plus()", "Join()", "(N, 11)", f"{sheet.forward:,}"):
        assert words in table
    assert fastbp.Sequential(fastbp.Residual(fastbp.Linear(3, 3))).costs((3,), 2).input_gradient == 2 * 3 * 5 + 2 * 3
    assert varied().costs(SHAPE).forward is None  # Times says nothing
    assert "unknown: layer 5.times" in varied().summary(SHAPE)


def test_the_engine_says_how_each_layer_is_computed():
    lines = str(varied().engine(SHAPE)).splitlines()
    assert [line.split()[0].rstrip(",") for line in lines] == [
        "0", "1.body.0", "1.body.1", "1.body.3", "1.shortcut.0", "1.shortcut.1", "1", "2", "3.0", "3.1.0", "3.1.1",
        "3.2", "3", "4", "5.body", "5.gate.0", "5.gate.1", "5", "5.times", "6.layer.body.0", "6.layer.body.1",
        "6.layer", "6", "6", "7.0", "7.1.0", "7.mixed", "8", "9",
    ]  # fmt: skip
    assert "own forward and backward" in lines[18]


class ReadTwice(Container):
    """Convolution, ReLU and pool in a row, and another pool that reads what one of the first two gives, or x"""

    def __init__(self, after):
        super().__init__(conv=fastbp.Conv2d(2, 4, 3, padding=1))
        self.after = after

    def connect(self, x, place):
        y = place(self.conv, x)
        r = place(fastbp.ReLU(), y)
        pooled = place(fastbp.MaxPool2d(2), r)
        return place(Join(), pooled, place(fastbp.AvgPool2d(2), {"conv": y, "relu": r, "pool": x}[self.after]))


@pytest.mark.parametrize("after", ["conv", "relu", "pool"])
def test_a_row_is_not_taken_where_somebody_else_reads_what_lies_between(after):
    network, shape = fastbp.Sequential(ReadTwice(after), dtype=np.float64), (2, 12, 12)
    taken = "ConvPool" in str(network.engine(shape))
    assert taken is (after == "pool")
    assert fastbp.check_gradients(network, data(2, shape=shape)[0], mode="directional", smallest=False).passed


# -- containers of one's own -------------------------------------------------------------------------------------------


class Ends(Container):
    """Something that nobody reads, a layer that is not placed at all, and the sum of x with itself"""

    def __init__(self, features, unread):
        super().__init__(unread=unread, unplaced=fastbp.Linear(3, 5), body=fastbp.Linear(features, features))

    def connect(self, x, place):
        assert isinstance(x, Wire)
        assert x.shape == (self.body.in_features,)
        place(fastbp.Tanh(), place(self.unread, x))
        return place(self.body, place(Plus(), x, x))


@pytest.mark.parametrize("features", [4, 600])  # a large layer's gradients come at the end of a step
@pytest.mark.parametrize(
    "unread", [lambda D: fastbp.Linear(D, 150), fastbp.BatchNorm1d, lambda D: Doubled(fastbp.Linear(D, D))]
)
def test_what_has_no_part_in_the_output_has_no_gradient(features, unread):
    def network():
        layers = fastbp.Linear(5, features), Ends(features, unread(features)), fastbp.Linear(features, 3)
        return fastbp.Sequential(*layers, dtype=np.float64)

    one, two = network(), network()
    one.gradient_vector[:], two.gradient_vector[:] = 7, 7
    x, targets = data(6, shape=(5,), classes=3)
    for a, b in zip(by_engine(one, x, targets), by_layers(two, x, targets), strict=True):
        close(a, b)
    for name in ("unread", "unplaced"):
        for path, parameter in one.named_parameters.items():
            assert not path.startswith(f"1.{name}.") or not parameter.grad.any(), path
    assert one.layers[1].body.weight.grad.any()
    other, before = network(), bits(network())
    fastbp.Trainer(other, LOSS(), fastbp.SGD(lr=0.1)).step(x, targets)
    same = {name for name, array in bits(other).items() if array == before[name]}
    assert {name for name in before if "unplaced" in name or "unread" in name and "running" not in name} == same


class Twice(Container):
    """A layer of two inputs that has parameters, first in a network, on one wire twice"""

    def __init__(self):
        super().__init__(mixed=branched.Mixed(4), times=Times())

    def connect(self, x, place):
        return place(self.times, place(self.mixed, x, x), x)


def test_a_layer_of_two_inputs_comes_first():
    network = fastbp.Sequential(Twice(), fastbp.Linear(4, 3), dtype=np.float64)
    x, targets = data(5, shape=(4,), classes=3)
    assert fastbp.check_gradients(network, x, targets, loss=LOSS(), smallest=False).passed
    for need_dx in (True, False):
        for a, b in zip(by_engine(network, x, targets, need_dx), by_layers(network, x, targets, need_dx), strict=True):
            assert a is b is None or np.allclose(a, b, rtol=0, atol=1e-12)


class Bilinear(fastbp.Layer):
    """y[n, f] = Σ a[n, i] w[f, i, j] b[n, j]: two inputs of different shapes, and a weight of three axes"""

    def __init__(self, A, B, F):
        super().__init__()
        self.A, self.B, self.F = A, B, F
        self.w = self.parameter("w", (F, A, B), lambda rng: rng.normal(size=(F, A, B)) / 3)

    def output_shape(self, a, b):
        if (a, b) != ((self.A,), (self.B,)):
            raise ValueError(f"Bilinear: {a}, {b}")
        return (self.F,)

    def forward(self, a, b, training=False, out=None):
        self.cache = a, b
        return np.einsum("ni,fij,nj->nf", a, self.w.value, b)

    def backward(self, dout, need_dx=True):
        a, b = self.cache
        self.w.grad = np.einsum("nf,ni,nj->fij", dout, a, b)
        w = self.w.value
        return (np.einsum("nf,fij,nj->ni", dout, w, b), np.einsum("nf,ni,fij->nj", dout, a, w)) if need_dx else None


class Pair(Container):
    """A container that is placed on two wires, in one that makes them"""

    def __init__(self):
        super().__init__(a=fastbp.Linear(5, 4), b=fastbp.Linear(5, 3))
        self.both = Both()

    def connect(self, x, place):
        return place(self.both, place(self.a, x), place(self.b, x))


class Both(Container):
    def __init__(self):
        super().__init__(bilinear=Bilinear(4, 3, 6))

    def connect(self, a, b, place):
        return place(self.bilinear, place(fastbp.Tanh(), a), b)


def test_a_container_of_two_inputs():
    network = fastbp.Sequential(Pair(), fastbp.Linear(6, 3), dtype=np.float64)
    x, targets = data(5, shape=(5,), classes=3)
    assert fastbp.check_gradients(network, x, targets, loss=LOSS(), smallest=False).passed
    assert "0.both.bilinear.w" in network.named_parameters
    for a, b in zip(by_engine(network, x, targets), by_layers(network, x, targets), strict=True):
        close(a, b)


class Through(Container):
    """Nothing at all: y is x"""

    def connect(self, x, place):
        return x


def test_a_container_that_does_nothing():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    block = Through()
    y = block.forward(x)
    dx = block.backward(y)
    assert (y == x).all() and (dx == x).all()
    assert not np.may_share_memory(y, x) and not np.may_share_memory(dx, y)
    out = np.empty_like(x)
    assert block.forward(x, out=out) is out
    with pytest.raises(ValueError, match="out overlaps the input"):
        block.forward(x, out=x)
    network = fastbp.Sequential(Through(), fastbp.Linear(4, 3), Through())
    fastbp.Trainer(network, LOSS(), fastbp.SGD()).step(x, np.zeros(3, int))
    assert fastbp.Sequential(Through()).engine((4,)).forward(x).tobytes() == x.tobytes()


class TwiceX(fastbp.Sequential):
    """A forward of its own around the inherited one"""

    def forward(self, x, training=False, out=None):
        return super().forward(2 * x, training, out)

    def backward(self, dout, need_dx=True, out=None):
        dx = super().backward(dout, need_dx, out)
        return 2 * dx if need_dx else None


def test_a_sequential_with_a_forward_of_its_own():
    alone = TwiceX(fastbp.Linear(4, 4), dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(3, 4))
    close(alone.forward(x), alone.layers[0].forward(2 * x))
    assert alone.output_shape((4,)) == (4,)
    with pytest.raises(TypeError, match="TwiceX has a forward or backward of its own"):
        fastbp.outputs(alone, x)
    network = fastbp.Sequential(TwiceX(fastbp.Linear(4, 4), fastbp.Tanh()), fastbp.Linear(4, 3), dtype=np.float64)
    assert fastbp.check_gradients(network, x, np.zeros(3, int), loss=LOSS(), smallest=False).passed
    spied, calls = fastbp.Sequential(fastbp.Linear(4, 4), dtype=np.float64), []
    whole = spied.forward
    spied.forward = lambda *arguments, **options: calls.append(1) or whole(*arguments, **options)
    spied.forward(x)
    assert calls == [1]


def test_children_by_constructor_and_by_attribute():
    gated = Gated(fastbp.Linear(2, 3), fastbp.Linear(2, 3))
    assert list(gated.named_children) == ["body", "gate", "times"]
    assert [*gated.leaves()] == ["body", "gate", "times"]
    assert gated.children == (gated.body, gated.gate, gated.times)
    assert [p.name for p in gated.parameters] == ["weight", "bias", "weight", "bias"]
    gated.first = gated.body  # another name for one that is there
    assert len(gated.children) == 3
    network = fastbp.Sequential(fastbp.Linear(2, 2), gated)
    network.start, network.teacher = network.layers[0], fastbp.Linear(9, 9)  # a row's attributes are no children
    assert len(network.layers) == 2
    assert network.parameter_vector.size == 6 + 2 * 9

    class Before(fastbp.Sequential):
        def __init__(self):
            self.head = fastbp.Linear(2, 2)
            super().__init__(fastbp.Tanh(), self.head)

    assert (before := Before()).layers[1] is before.head


def wrong(connect, **children):
    """A container with this connect."""

    class Wrong(Container):
        def connect(self, x, place):
            return connect(self, x, place)

    return Wrong(**children)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Container(a=fastbp.Tanh()), TypeError, r"Container does not define connect\(x, place\)"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Linear(2, 2), x)), ValueError,
         r"Wrong.connect places Linear\(2, 2\), which is not one of its children"),
        (lambda: wrong(lambda self, x, place: place(self.a, place(self.a, x)), a=fastbp.Tanh()), ValueError,
         r"Tanh\(\) is placed twice; use copy.deepcopy\(layer\)"),
        (lambda: wrong(lambda self, x, place: None), TypeError,
         "Wrong.connect must return the wire of its output, one that place gave, got None"),
        (lambda: wrong(lambda self, x, place: (place(fastbp.Tanh(), x),)), TypeError,
         "must return the wire of its output"),
        (lambda: wrong(lambda self, x, place: Wire((2,))), TypeError, "must return the wire of its output"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Tanh, x)), TypeError,
         "place takes a layer and wires, got <class"),
        (lambda: wrong(lambda self, x, place: place(np.tanh, x)), TypeError,
         "place takes a layer and wires, got <ufunc"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Tanh(), np.zeros(2))), TypeError, "got an array"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Tanh())), TypeError,
         r"Tanh\(\) is placed with 0 wires, but takes 1"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Tanh(), x, x)), TypeError,
         "placed with 2 wires, but takes 1"),
        (lambda: wrong(lambda self, x, place: place(Plus(), x)), TypeError,
         r"Plus\(\) is placed with 1 wires, but takes 2"),
        (lambda: wrong(lambda self, x, place: place(Join())), TypeError,
         r"Join\(\) is placed with 0 wires, but takes 1 or more"),
        (lambda: wrong(lambda self, x, place: place(self.a, x, x), a=fastbp.Residual(fastbp.Tanh())), TypeError,
         "placed with 2 wires, but takes 1"),
        (lambda: wrong(lambda self, x, place: place(fastbp.Tanh(), Wire((2,)))), ValueError, "a wire of another pass"),
        (lambda: wrong(lambda self, x, place: place(Plus(), x, place(self.a, x)), a=fastbp.Linear(2, 3)), ValueError,
         r"Plus: can't add \('N', 2\) and \('N', 3\)"),
        (lambda: fastbp.Residual(fastbp.Linear(2, 3)), ValueError,
         r"Residual: the layers give \('N', 3\), the input has \('N', 2\); give a shortcut that fits"),
        (lambda: fastbp.Residual(fastbp.Linear(2, 3), shortcut=fastbp.Linear(2, 4)), ValueError,
         r"Residual: the layers give \('N', 3\), the shortcut gives \('N', 4\)"),
        (lambda: fastbp.Concat(fastbp.Tanh(), wrong(lambda self, x, place: place(self.a, x), a=Rows())), ValueError,
         r"Concat: the branches give \('N', 2\), \('N', 2, 1\), which differ beyond the first axis after N"),
    ],
)  # fmt: skip
def test_errors_of_connect(make, error, message, alone):
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(error, match=message):
        make().forward(x) if alone else fastbp.Sequential(make()).engine((2,))


class Rows(fastbp.Layer):
    """(N, D) → (N, D, 1)"""

    def output_shape(self, shape):
        return (*shape, 1)

    def forward(self, x, training=False, out=None):
        return x[..., None]

    def backward(self, dout, need_dx=True):
        return dout[..., 0]


LINEAR, NETWORK = fastbp.Linear(2, 2), varied()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastbp.Residual(), ValueError, "Residual: expected at least one layer"),
        (lambda: fastbp.Concat(), ValueError, "Concat: expected at least one branch"),
        (lambda: fastbp.Residual([fastbp.ReLU()]), TypeError,
         r"Residual: expected layers, got list: unpack it with \*"),
        (lambda: fastbp.Concat([fastbp.ReLU()]), TypeError, r"Concat: expected layers, got list: unpack it with \*"),
        (lambda: fastbp.Residual(fastbp.ReLU), TypeError, "Residual: expected layers, got type"),
        (lambda: fastbp.Residual(fastbp.ReLU(), shortcut=fastbp.ReLU), TypeError,
         "shortcut must be a layer, got the class ReLU"),
        (lambda: fastbp.Residual(LINEAR, LINEAR), ValueError,
         "Residual: the same layer stands twice; use copy.deepcopy"),
        (lambda: fastbp.Residual(LINEAR, shortcut=LINEAR), ValueError, "the same layer stands twice"),
        (lambda: fastbp.Concat(LINEAR, fastbp.Sequential(LINEAR)), ValueError, "Concat: the same layer stands twice"),
        (lambda: fastbp.Sequential(LINEAR, fastbp.Residual(fastbp.Tanh(), LINEAR)), ValueError,
         "the same layer stands twice"),
        (lambda: Container(**{"a.b": fastbp.ReLU()}), ValueError, "'a.b' can't be the name of a child"),
        (lambda: Container(state=fastbp.ReLU()), ValueError, "'state' can't be the name of a child"),
        (lambda: Container().parameter("w", (1,), lambda rng: np.zeros(1)), TypeError, "has no parameters of its own"),
        (lambda: setattr(Container(), "state", {"mean": np.zeros(1)}), AttributeError, "state is that of its children"),
        (lambda: setattr(Gated(fastbp.ReLU(), fastbp.Tanh()), "gate", fastbp.ReLU()), AttributeError,
         "gate can't be set"),
        (lambda: setattr(Gated(fastbp.ReLU(), fastbp.Tanh()), "gate", None), AttributeError, "gate can't be set"),
        (lambda: setattr(NETWORK.layers[5], "more", fastbp.ReLU()), AttributeError, "more can't be set in a network"),
        (lambda: fastbp.Residual(fastbp.ReLU()).backward(np.zeros(3)), RuntimeError,
         "Residual.backward called before forward"),
        (lambda: fastbp.Residual(fastbp.ReLU()).forward([1.0]), TypeError, "NumPy array"),
        (lambda: fastbp.Residual(fastbp.ReLU()).forward(np.zeros((1, 2)), training=2), TypeError,
         "training must be True or False"),
        (lambda: Plus().forward([1.0], [2.0]), TypeError, "Plus: expected input to be a NumPy array, got list"),
        (lambda: Join().forward(np.zeros((2, 3)), [2.0]), TypeError,
         "Join: expected input to be a NumPy array, got list"),
        (lambda: Plus().backward(np.zeros(3)), RuntimeError, "Plus.backward called before forward"),
        (lambda: varied().engine((2, 9)), ValueError, "Conv2d: expected input"),
        (lambda: copy.copy(varied()), ValueError, "copy.deepcopy"),
    ],
)  # fmt: skip
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_container_that_calls_no_constructor_says_so():
    class Hasty(Container):
        def __init__(self):
            self.body = fastbp.ReLU()

    with pytest.raises(AttributeError, match=r"Hasty: call super\(\).__init__\(\) before body is set"):
        Hasty()


def test_wrong_arrays_of_a_layer_of_several_inputs_are_an_error():
    class Short(Times):
        def backward(self, dout, need_dx=True):
            return super().backward(dout)[:1]

    class Square(Container):
        def __init__(self):
            super().__init__(times=Short())

        def connect(self, x, place):
            return place(self.times, x, x)

    network = fastbp.Sequential(fastbp.Linear(3, 3), Square())
    with pytest.raises(ValueError, match="Short: backward must give a tuple of 2 gradients"):
        train(network, 1, np.float32, shape=(3,), classes=3)
    network.forward(np.zeros((1, 3), np.float32), training=True)
    with pytest.raises(ValueError, match="Short: backward must give a tuple of 2 gradients"):
        network.backward(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("use", ["engine", "layers", "steps"])
def test_a_network_is_freed_without_the_collector(use):
    network = varied()
    x, targets = data(4)
    if use == "layers":
        by_layers(network, x, targets)
    elif use == "engine":
        by_engine(network, x, targets)
    else:
        train(network)
    gone = [weakref.ref(each) for each in (network, network.gradients, *network.leaves().values())]
    gc.collect()
    gc.disable()
    try:
        del network
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


@pytest.mark.parametrize("head", [fastbp.Sigmoid, fastbp.Softmax, fastbp.LogSoftmax])
def test_predictions_go_by_the_layer_that_gives_the_output_wherever_it_stands(head):
    linear = fastbp.Linear(3, 1 if head is fastbp.Sigmoid else 4)
    flat = fastbp.Sequential(linear, head())
    flat.state_dict()  # looks at the values
    nested = fastbp.Sequential(fastbp.Sequential(copy.deepcopy(linear), fastbp.Sequential(head())))
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(fastbp.predict(nested, x), fastbp.predict(flat, x))
    np.testing.assert_array_equal(fastbp.predict_proba(nested, x), fastbp.predict_proba(flat, x))
    assert len(set(fastbp.predict(nested, x).tolist())) > 1


BODIES = [lambda: fastbp.BatchNorm1d(3), lambda: [fastbp.Linear(3, 3)], lambda: {"body": fastbp.Dropout(0.5)}]


@pytest.mark.parametrize("made", BODIES)
def test_a_plain_layer_that_holds_layers_says_what_a_network_will_not_see(made):
    class Holder(fastbp.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    with pytest.warns(UserWarning, match="Holder: a network does not see the layers in inner.*fastbp.Container"):
        Holder(made())
    Holder(fastbp.Tanh())  # nothing of it can be lost


class AsTheyCome(fastbp.Container):
    """With the constructor that it has from Container"""

    def connect(self, x, place):
        return place(fastbp.layers.Plus(), *(place(child, x) for child in self.children))


class ByName(fastbp.Container):
    def __init__(self, width, *others, **named):
        super().__init__(*others, **named)
        self.width = width

    def connect(self, x, place):
        for child in self.children:
            x = place(child, x)
        return x


@pytest.mark.parametrize(
    "made",
    [
        lambda: AsTheyCome(a=fastbp.Linear(3, 3), b=fastbp.Linear(3, 3)),
        lambda: AsTheyCome(fastbp.Linear(3, 3), fastbp.Tanh()),
        lambda: ByName(3, fastbp.Linear(3, 4), head=fastbp.Linear(4, 3)),
    ],
)
def test_containers_that_take_their_children_as_they_come_are_saved_and_shown(made, tmp_path):
    network = fastbp.Sequential(made(), fastbp.Linear(3, 2), seed=5)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    network.save(tmp_path / "network.npz")
    loaded = fastbp.load(tmp_path / "network.npz")
    assert repr(loaded) == repr(network) and "Linear(3" in repr(network.layers[0])
    assert np.array_equal(fastbp.outputs(loaded, x), fastbp.outputs(network, x))


def test_a_part_of_a_network_is_not_trained_alone():
    inner = fastbp.Sequential(fastbp.Linear(3, 3))
    outer = fastbp.Sequential(inner, fastbp.Linear(3, 2))
    with pytest.raises(ValueError, match="Trainer: network is a part of another network"):
        fastbp.Trainer(inner, fastbp.SoftmaxCrossEntropy(), fastbp.SGD())
    assert outer.holds(inner)
    with pytest.raises(AttributeError, match="body is a child and can't be deleted"):
        del fastbp.Residual(fastbp.ReLU()).body
    with pytest.raises(ValueError, match="'_x' can't be the name of a child"):
        fastbp.Container(_x=fastbp.ReLU())
    with pytest.raises(TypeError, match="no containers"):
        fastbp.engine.computes(fastbp.Residual)
