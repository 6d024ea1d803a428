"""Frozen parameters: no gradient, no update, nothing computed below them that nobody needs; kept in files."""

import copy
import pickle

import numpy as np
import pytest
from machines import CUTS

import fastbp
from fastbp import (
    SGD,
    Adam,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    check_gradients,
)

rng = np.random.default_rng(1)
X, LABELS = rng.normal(size=(12, 2, 8, 8)), rng.integers(0, 3, 12)
PATHS = ["0.weight", "0.bias", "3.gamma", "3.beta", "4.body.0.weight", "4.body.1.gamma", "7.weight", "7.bias", "9.bias"]
SETS = [
    ["0.weight"],  # as a whitening convolution's
    ["0.weight", "0.bias"],
    ["3.gamma", "4.body.1.gamma"],
    ["0.weight", "0.bias", "3.gamma", "3.beta", "4.body.0.weight", "4.body.1.gamma", "4.body.1.beta"],
    ["7.weight", "9.weight"],
    ["7.bias", "9.weight", "9.bias"],
    PATHS,
]


def network(frozen=(), dtype=np.float64, **more):
    layers = [Conv2d(2, 6, 3, padding=1), ReLU(), MaxPool2d(2), BatchNorm2d(6)]
    layers += [Residual(Conv2d(6, 6, 3, padding=1, bias=False), BatchNorm2d(6)), ReLU(), Flatten(), Linear(96, 20)]
    net = Sequential(*layers, ReLU(), Linear(20, 3), dtype=dtype, seed=5, **more)
    for path in frozen:
        net.named_parameters[path].requires_grad = False
    return net


def gradients(net, x=X, need_dx=False):
    """By the layers one by one."""
    loss = SoftmaxCrossEntropy()
    loss.forward(net.forward(x.astype(net.dtype), training=True), LABELS)
    dx = net.backward(loss.backward(), need_dx=need_dx)
    return dx, {name: parameter.grad.copy() for name, parameter in net.named_parameters.items()}


def by_engine(net, need_dx):
    engine, loss = net.engine(X.shape[1:]), SoftmaxCrossEntropy()
    loss.forward(engine.forward(X.astype(net.dtype), training=True).copy(), LABELS)
    net.gradient_vector  # noqa: B018 -- all that is open is computed
    dx = engine.backward(loss.backward(), need_dx=need_dx)
    return dx, {name: parameter.grad.copy() for name, parameter in net.named_parameters.items()}


@pytest.mark.parametrize("frozen", SETS, ids=lambda paths: "-".join(paths[:3]))
@pytest.mark.parametrize("machine", CUTS)
@pytest.mark.parametrize("compute", [gradients, by_engine])
def test_the_others_gradients_are_what_they_were_and_the_frozen_ones_are_0(frozen, machine, compute):
    whole_dx, whole = compute(network(machine=CUTS[machine]), need_dx=True)
    for need_dx in (True, False):
        dx, found = compute(network(frozen, machine=CUTS[machine]), need_dx=need_dx)
        assert np.array_equal(dx, whole_dx) if need_dx else dx is None
        for name, gradient in whole.items():
            assert np.array_equal(found[name], 0 * gradient if name in frozen else gradient), name


@pytest.mark.parametrize("frozen", SETS, ids=lambda paths: "-".join(paths[:3]))
@pytest.mark.parametrize("machine", CUTS)
@pytest.mark.parametrize("kept", [True, False])
def test_training_moves_the_others_alone_and_as_before(frozen, machine, kept):
    nets = [network(paths, np.float32, machine=CUTS[machine]) for paths in ((), frozen)]
    before = nets[1].state_dict()
    for net in nets:
        if kept:
            net.gradient_vector  # noqa: B018 -- from now on they are kept
        optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=0.1)
        trainer = Trainer(net, SoftmaxCrossEntropy(), optimizer)
        trainer.step(X.astype(np.float32), LABELS)
    whole, found = (net.state_dict() for net in nets)
    for name, parameter in nets[1].named_parameters.items():
        assert np.array_equal(found[name], before[name] if name in frozen else whole[name]), name
        if name in frozen:
            assert not parameter.grad.any() and parameter.requires_grad is False
    trainer.step(X.astype(np.float32), LABELS)  # the velocity does not move them either
    assert all(np.array_equal(nets[1].named_parameters[name].value, before[name]) for name in frozen)


class Asked(Layer):
    """y = x · w, which counts what it is asked for."""

    def __init__(self):
        super().__init__()
        self.weight, self.asked = self.parameter("weight", (1,), lambda rng: np.ones(1)), []

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, training=False, out=None):
        self.cache = x
        return x * self.weight.value

    def backward(self, dout, need_dx=True, out=None):
        self.asked.append(need_dx)
        self.weight.grad = np.sum(dout * self.cache, keepdims=True).reshape(1)
        return dout * self.weight.value if need_dx else None


@pytest.mark.parametrize("way", ["layers", "engine"])
def test_nothing_is_computed_below_the_first_that_is_trained(way):
    first, second, third = Asked(), Asked(), Asked()
    net = Sequential(Flatten(), first, second, third, dtype=np.float64)
    x, targets = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def asked():
        for layer in (first, second, third):
            layer.asked.clear()
        if way == "engine":
            Trainer(net, fastbp.MeanSquaredError(), SGD(lr=0.01)).step(x, targets)
        else:
            net.forward(x, training=True)
            net.backward(np.ones((4, 3)), need_dx=False)
        return first.asked, second.asked, third.asked

    assert asked() == ([False], [True], [True])
    second.requires_grad_(False)
    assert asked() == ([False], [True], [True]) and second.weight.grad == 0
    first.weight.requires_grad = False
    assert asked() == ([], [], [False]) and not first.weight.grad.any()
    third.requires_grad_(False)
    assert asked() == ([], [], [])
    net.requires_grad_()
    assert asked() == ([False], [True], [True]) and first.weight.grad != 0


class OwnStep(Adam):
    """One that needs the whole gradient, and moves everything."""

    def step(self, values, grads):
        values -= self.lr * (grads / np.linalg.norm(grads) + 1)


def test_an_optimisers_own_step_moves_no_frozen_parameter():
    net = network(["0.weight", "7.bias"])
    before = net.state_dict()
    Trainer(net, SoftmaxCrossEntropy(), OwnStep(lr=0.1)).step(X, LABELS)
    for name, parameter in net.named_parameters.items():
        moved = (parameter.value != before[name]).ravel()
        assert moved.all() if name not in ("0.weight", "7.bias") else not moved.any()


def test_files_copies_and_pickles_keep_what_is_frozen(tmp_path):
    frozen = ["0.weight", "4.body.1.gamma"]
    net = network(frozen)
    net.save(tmp_path / "net.npz")
    for other in (fastbp.load(tmp_path / "net.npz"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert [name for name, p in other.named_parameters.items() if not p.requires_grad] == frozen
    assert Sequential(copy.deepcopy(net.layers[0]), seed=1).named_parameters["0.weight"].requires_grad is False
    net.astype(np.float32)
    assert not net.layers[0].weight.requires_grad and net.layers[0].bias.requires_grad


def test_freezing_between_steps_and_what_resume_keeps(tmp_path):
    data = X.astype(np.float32), LABELS

    def freeze(run):
        if run.epoch == 2:
            run.network.layers[0].bias.requires_grad = False

    def trained(epochs, resume=None):
        net = network(["0.weight"], np.float32)
        options = {"callbacks": [freeze], "batch_size": 5, "progress": False, "resume": resume}
        fastbp.fit(net, SoftmaxCrossEntropy(), SGD(0.1, 0.9), data, epochs=epochs, **options)
        return net

    two, whole = trained(2, tmp_path / "training"), trained(4)
    assert np.array_equal(two.layers[0].bias.value, whole.layers[0].bias.value)
    assert not np.array_equal(two.layers[7].bias.value, whole.layers[7].bias.value)
    again = trained(4, tmp_path / "training")
    assert np.array_equal(again.parameter_vector, whole.parameter_vector)
    assert not again.layers[0].bias.requires_grad


@pytest.mark.parametrize("frozen", [["0.weight"], ["0.weight", "0.bias", "3.beta", "7.weight"]])
@pytest.mark.parametrize("training", [True, False])
def test_the_check_skips_them_and_says_so(frozen, training):
    report = check_gradients(network(frozen), X[:3], samples=2, training=training)
    assert report.passed and len(report.tensors) == 12 - len(frozen)
    assert len(report.skipped) == len(frozen) and report.to_dict()["skipped"][0] == "0.weight (Conv2d)"
    assert "skipped, since frozen: 0.weight (Conv2d)" in str(report)
    layer = Linear(3, 2)
    layer.bias.requires_grad = False
    assert check_gradients(layer, X[0, 0, :, :3]).skipped == ("bias",)


def test_costs_leave_out_what_is_not_computed():
    def backward(*frozen):
        return network(frozen).costs((2, 8, 8)).backward

    rows = network().costs((2, 8, 8)).rows
    conv, bias = rows[0].cost.dw, rows[0].cost.db
    assert backward() - backward("0.weight") == conv
    assert backward() - backward("0.bias") == bias
    below = [row.cost.dx for row in rows[1:4]]
    assert backward() - backward("0.weight", "0.bias") == conv + bias + sum(below)
    assert backward(*network().named_parameters) == 0


def test_requires_grad_is_true_or_false():
    with pytest.raises(TypeError, match="weight: requires_grad must be True or False, got 'no'"):
        Linear(2, 3).weight.requires_grad = "no"
    with pytest.raises(TypeError, match="Linear.requires_grad_: value must be True or False"):
        Linear(2, 3).requires_grad_(1)


@pytest.mark.parametrize("frozen", [["0"], ["2"], ["0", "2"], ["0.bias", "4.weight"], ["0", "2", "4"]])
def test_narrow_layers_of_a_large_batch_with_groups(frozen):
    x, targets = rng.normal(size=(1500, 4)), rng.normal(size=(1500, 4))
    net = Sequential(Linear(4, 32), fastbp.Tanh(), Linear(32, 16), fastbp.Tanh(), Linear(16, 4), dtype=np.float64)
    for name, parameter in net.named_parameters.items():
        parameter.requires_grad = not any(f"{name}.".startswith(f"{start}.") for start in frozen)
    other, before, loss = copy.deepcopy(net), net.state_dict(), fastbp.MeanSquaredError()
    loss.forward(other.forward(x, training=True), targets)
    other.backward(loss.backward(), need_dx=False)
    groups = {"*.bias": {"lr": 0.3}}
    Trainer(net, fastbp.MeanSquaredError(), SGD(0.1, groups=groups)).step(x, targets)
    for name, parameter in net.named_parameters.items():
        rate = 0.3 if name.endswith("bias") else 0.1
        wanted = before[name] - rate * other.named_parameters[name].grad
        np.testing.assert_allclose(parameter.value, wanted, rtol=0, atol=1e-12, err_msg=name)
        assert parameter.requires_grad or np.array_equal(parameter.value, before[name]) and not parameter.grad.any()
