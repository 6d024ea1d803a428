"""Groups of parameters: each is trained by its own settings, as an oracle does parameter by parameter."""

import copy

import naive
import numpy as np
import pytest
from machines import ROWS as CUT

import fastbp
from fastbp import SGD, Adagrad, Adam, AdamW, BatchNorm2d, Conv2d, Flatten, Linear, ReLU, RMSProp, Sequential, Trainer

rng = np.random.default_rng(0)
X, LABELS = rng.normal(size=(24, 2, 6, 6)), rng.integers(0, 3, 24)

GROUPS = {
    ("*.bias", "*.gamma", "*.beta"): {"weight_decay": 0},
    "0": {"lr": 0.02},
    "4.w*": {"lr": 0.3, "weight_decay": 0.05},
    "[47].bias": {"lr": 0.005},
}
KINDS = [
    (lambda **k: SGD(0.1, weight_decay=0.2, **k), naive.sgd, {"lr": 0.1, "momentum": 0.0, "nesterov": False}),
    (
        lambda **k: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.2, **k),
        naive.sgd,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    (lambda **k: Adam(0.1, weight_decay=0.2, **k), naive.adam, {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    (
        lambda **k: AdamW(0.1, weight_decay=0.2, **k),
        naive.adamw,
        {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    ),
    (lambda **k: RMSProp(0.1, weight_decay=0.2, **k), naive.rmsprop, {"lr": 0.1, "alpha": 0.99, "eps": 1e-8}),
    (lambda **k: Adagrad(0.1, weight_decay=0.2, **k), naive.adagrad, {"lr": 0.1, "eps": 1e-10}),
]


def network(machine=None, dtype=np.float64):
    more = {} if machine is None else {"machine": machine}
    layers = [Conv2d(2, 4, 3, padding=1), ReLU(), BatchNorm2d(4), Flatten(), Linear(144, 17), ReLU()]
    return Sequential(*layers, fastbp.Identity(), Linear(17, 3), dtype=dtype, seed=3, **more)


def of(path, settings):
    """The oracle's settings for a parameter, read off GROUPS by hand."""
    own = {"weight_decay": 0.2, **settings}
    if path.rpartition(".")[2] in ("bias", "gamma", "beta"):
        own["weight_decay"] = 0.0
    if path.startswith("0."):
        own["lr"] = 0.02
    if path == "4.weight":
        own |= {"lr": 0.3, "weight_decay": 0.05}
    if path in ("4.bias", "7.bias"):
        own["lr"] = 0.005
    return own


def gradients(net):
    """By the layers one by one, of a copy."""
    other, loss = copy.deepcopy(net), fastbp.SoftmaxCrossEntropy()
    loss.forward(other.forward(X.astype(net.dtype), training=True), LABELS)
    other.backward(loss.backward())
    return {name: parameter.grad.copy() for name, parameter in other.named_parameters.items()}


@pytest.mark.parametrize(("make", "step", "settings"), KINDS)
@pytest.mark.parametrize("machine", [None, CUT], ids=["whole", "cut"])
def test_each_parameter_is_trained_by_its_groups_settings(make, step, settings, machine):
    net, states = network(machine), {}
    trainer = Trainer(net, fastbp.SoftmaxCrossEntropy(), make(groups=GROUPS))
    for factor in (1.0, 0.5, 0.5):  # as a schedule changes the rate
        trainer.optimizer.lr = 0.1 * factor
        wanted = {}
        for path, gradient in gradients(net).items():
            own = of(path, settings)
            own["lr"] *= factor
            value, state = net.named_parameters[path].value.ravel().copy(), states.get(path, {})
            wanted[path], states[path] = step(value, gradient.ravel(), state, **own)
        trainer.step(X, LABELS)
        for path, value in wanted.items():
            found = net.named_parameters[path].value.ravel()
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-9, err_msg=path)


@pytest.mark.parametrize(("make", "step", "settings"), KINDS[:3])
def test_gradients_that_are_kept_change_no_bit_and_a_loop_of_ones_own_makes_the_same_step(make, step, settings):
    left_open, kept, own = (network(CUT, np.float32) for _ in range(3))
    kept.gradient_vector  # noqa: B018 -- from now on they are kept
    optimizer, loss = make(groups=GROUPS), fastbp.SoftmaxCrossEntropy()
    optimizer.attach(own)
    trainers = [Trainer(net, fastbp.SoftmaxCrossEntropy(), make(groups=GROUPS)) for net in (left_open, kept)]
    for count in (24, 20, 24):  # batches of two sizes have two programs
        for trainer in trainers:
            trainer.step(X[:count].astype(np.float32), LABELS[:count])
        loss.forward(own.forward(X[:count].astype(np.float32), training=True), LABELS[:count])
        own.backward(loss.backward())
        optimizer.step(own.parameter_vector, own.gradient_vector)
    assert np.array_equal(left_open.parameter_vector, kept.parameter_vector)
    np.testing.assert_allclose(own.parameter_vector, kept.parameter_vector, rtol=0, atol=2e-3)


def test_groups_without_effect_change_no_bit():
    plain, grouped = network(CUT, np.float32), network(CUT, np.float32)
    for net, groups in ((plain, None), (grouped, {"*": {"lr": 0.1}, "4.weight": {"momentum": 0.9}})):
        trainer = Trainer(net, fastbp.SoftmaxCrossEntropy(), SGD(0.1, momentum=0.9, groups=groups))
        for _ in range(3):
            trainer.step(X.astype(np.float32), LABELS)
    assert np.array_equal(plain.parameter_vector, grouped.parameter_vector)


def test_settings_are_live_where_the_group_has_none_of_its_own():
    net = Sequential(Linear(2, 1, bias=False), Linear(1, 1, bias=False), dtype=np.float64)
    optimizer = SGD(lr=0.5, momentum=0.5, groups={"1": {"lr": 0.25}})
    optimizer.attach(net)
    values, ones = np.zeros(3), np.ones(3)
    optimizer.step(values, ones)
    assert values.tolist() == [-0.5, -0.5, -0.25]
    optimizer.momentum, optimizer.lr = 0.0, 1.0
    optimizer.step(values, ones)
    assert values.tolist() == [-1.5, -1.5, -0.75]
    assert optimizer.groups == {("1",): {"lr": 0.5}} and "groups={('1',): {'lr': 0.5}}" in repr(optimizer)


class Clipped(SGD):
    """One with a step of its own."""

    def step(self, values, grads):
        super().step(values, np.clip(grads, -1e-3, 1e-3))


class Signs(SGD):
    """One with an update of its own, which reads a setting."""

    def update(self, values, grads, velocity):
        values -= self.lr * np.sign(grads)


@pytest.mark.parametrize("kind", [Clipped, Signs])
def test_optimisers_of_ones_own_have_groups_too(kind):
    net = network(CUT)
    before, wanted = net.state_dict(), gradients(net)
    Trainer(net, fastbp.SoftmaxCrossEntropy(), kind(lr=0.1, groups={"4": {"lr": 0.4}})).step(X, LABELS)
    for path, gradient in wanted.items():
        change = np.clip(gradient, -1e-3, 1e-3) if kind is Clipped else np.sign(gradient)
        change[np.abs(gradient) < 1e-12] = 0
        found = before[path] - net.named_parameters[path].value
        found[np.abs(gradient) < 1e-12] = 0
        np.testing.assert_allclose(found, (0.4 if path[0] == "4" else 0.1) * change, atol=1e-12)


def test_schedules_move_all_rates_and_a_resumed_training_ends_with_the_same_bits(tmp_path):
    data = X.astype(np.float32), LABELS

    def trained(epochs, resume=None, groups=GROUPS):
        net = network(dtype=np.float32)
        options = {"callbacks": [fastbp.CosineDecay(4)], "progress": False, "batch_size": 7, "resume": resume}
        optimizer = SGD(0.1, momentum=0.9, weight_decay=0.2, groups=groups)
        fastbp.fit(net, fastbp.SoftmaxCrossEntropy(), optimizer, data, epochs=epochs, **options)
        return net

    whole = trained(4)
    trained(2, tmp_path / "training")
    assert np.array_equal(trained(4, tmp_path / "training").parameter_vector, whole.parameter_vector)
    with pytest.raises(ValueError, match="is of another training: optimizer: "):
        trained(4, tmp_path / "training", {"0": {"lr": 0.03}})
    again = copy.deepcopy(SGD(0.1, groups=GROUPS))
    assert again.groups == SGD(0.1, groups=GROUPS).groups and repr(again) == repr(SGD(0.1, groups=GROUPS))


def test_wrong_groups_are_clear_errors():
    for error, make, message in [
        (TypeError, lambda: SGD(groups=[1]), "SGD: groups must be a dict of settings by names of parameters"),
        (TypeError, lambda: Adam(groups={"*.bias": 3}), r"Adam: groups\['\*.bias'\] must be a dict of settings"),
        (TypeError, lambda: SGD(groups={3: {}}), "SGD: groups: a key must be a name, a pattern or a tuple"),
        (TypeError, lambda: SGD(groups={(): {}}), "SGD: groups: a key must be"),
        (TypeError, lambda: SGD(groups={"0": {"lr": "fast"}}), r"SGD: groups\['0'\]: lr must be a number"),
        (ValueError, lambda: SGD(groups={"0": {"momentum": 1}}), r"SGD: groups\['0'\]: momentum must be in \[0, 1\)"),
        (ValueError, lambda: SGD(groups={"0": {"beta1": 1}}), "a setting must be one of lr, weight_decay, momentum"),
        (ValueError, lambda: SGD(groups={"0": {"state": {}}}), "a setting must be one of"),
        (ValueError, lambda: SGD(lr=0, groups={"0": {"lr": 1}}), "changes in proportion to the optimiser's own"),
        (
            ValueError,
            lambda: SGD(0.1, 0.9, True, groups={"0": {"momentum": 0}}).attach(network()),
            "SGD: nesterov needs a momentum",
        ),
        (
            ValueError,
            lambda: Trainer(
                network(), fastbp.SoftmaxCrossEntropy(), SGD(groups={"*.bias": {}, ("0", "norm*"): {}})
            ).step(X, LABELS),
            "SGD: groups: 'norm.' names no parameter and no layer of the network, whose parameters are ",
        ),
        (
            ValueError,
            lambda: SGD(groups={"0": {"lr": 0.1}}).step(np.zeros(2), np.ones(2)),
            r"groups name parameters of a network: call attach\(network\) first",
        ),
    ]:
        with pytest.raises(error, match=message):
            make()
