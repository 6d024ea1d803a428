"""What `check_gradients` says of a network: of the engine's path, that training takes, and of the layers one by one."""

import copy
import inspect
from functools import partial

import numpy as np
import pytest

import fastbp
from fastbp.engine import Machine
from fastbp.engine.sections import Schedule
from fastbp.gradcheck import paths
from fastbp.layers import activations, conv, folded, fused, linear, norm, pool

RNG = np.random.default_rng(0)
CUT = Machine(
    part_work=1,
    per_share=1e-9,
    per_weight=1,
    large=10,
    piece_work=1,
    range_work=1,
    few=1,
    run=4,
    tile_rows=4,
    tile_columns=4,
)
LOSS = fastbp.SoftmaxCrossEntropy()


def conv_network(machine=CUT):
    layers = [fastbp.Conv2d(1, 3, 3), fastbp.ReLU(), fastbp.MaxPool2d(2)]
    block = fastbp.Residual(fastbp.Conv2d(3, 3, 3, padding=1), fastbp.BatchNorm2d(3), fastbp.Dropout(0.3))
    layers += [block, fastbp.ReLU(), fastbp.Flatten(), fastbp.Linear(75, 4)]
    return fastbp.Sequential(*layers, seed=1, machine=machine), RNG.normal(size=(4, 1, 12, 12))


def norm_network(machine=CUT):
    layers = [fastbp.Conv2d(1, 5, 3, padding=1), fastbp.BatchNorm2d(5), fastbp.ReLU(), fastbp.MaxPool2d(2)]
    layers += [fastbp.Flatten(), fastbp.Linear(45, 9), fastbp.BatchNorm1d(9), fastbp.ReLU(), fastbp.Linear(9, 4)]
    return fastbp.Sequential(*layers, seed=2, machine=machine), RNG.normal(size=(4, 1, 6, 6))


def wide_network(machine=CUT, tail=fastbp.ReLU):
    """Large linear layers, whose dx is cut by terms for one sample and by columns for more."""
    layers = [fastbp.Linear(6, 40), tail(), fastbp.Linear(40, 40), tail(), fastbp.Linear(40, 4)]
    return fastbp.Sequential(*layers, seed=3, machine=machine), RNG.normal(size=(1, 6))


def wide_batch(machine=CUT):
    network, _ = wide_network(machine)
    return network, RNG.normal(size=(5, 6))


def check(made, **options):
    network, x = made
    labels = np.arange(len(x)) % 4
    return fastbp.check_gradients(network, x, labels, loss=LOSS, samples=30, **options)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("machine", [Machine(), CUT])
@pytest.mark.parametrize("make", [conv_network, norm_network, wide_network, wide_batch])
def test_right_networks_pass(make, machine, threads):
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        report = check(make(machine))
    finally:
        fastbp.set_num_threads(before)
    report.raise_if_failed()
    names = [p.name for p in report.properties]
    assert {paths.AGREE, paths.DESCENDS} <= set(names)


def wrong_sign(of):
    def method(self, into, **ranges):
        yield from of(self, into, **ranges)
        first = next(iter(into.values()))
        yield partial(np.negative, first, first)

    return method


def scaled(of, name):
    def method(self, **ranges):
        yield from of(self, **ranges)
        array = getattr(self, name)
        samples = ranges.get("samples", slice(None))
        part = array[samples] if name == "y" or "samples" in ranges else array
        yield partial(np.multiply, part, 1.01, part)

    return method


def like(method, wrong):
    """`wrong` with the signature of `method`, by which an op is cut."""
    wrong.__signature__ = inspect.signature(method)
    return wrong


PLANTED = {
    "conv, ReLU, pool: dw": (conv_network, fused.ConvPool, "gradients", wrong_sign, "ConvPool"),
    "convolution: dw": (conv_network, conv.ConvOp, "gradients", wrong_sign, None),
    "norm, ReLU, pool: dgamma": (norm_network, fused.NormPool, "gradients", wrong_sign, "NormPool"),
    "norm, ReLU: dgamma": (norm_network, norm.BatchNormOp, "gradients", wrong_sign, None),
    "norm, ReLU, pool: dx": (norm_network, fused.NormPool, "backward", "dx", "NormPool"),
    "ReLU after linear: dx": (wide_network, fused.ReLUAfter, "backward", "dx", "ReLUAfter"),
    "ReLU after a sum: dx": (conv_network, fused.ReLUAfter, "backward", "dx", "ReLUAfter"),
    "linear: dw by rows": (wide_network, linear.LinearOp, "gradients", wrong_sign, None),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_bug_in_an_op_is_caught(name, monkeypatch):
    make, op, method, kind, blamed = PLANTED[name]
    right = getattr(op, method)
    wrong = kind(right) if callable(kind) else scaled(right, kind)
    monkeypatch.setattr(op, method, like(right, wrong))
    report = check(make())
    assert not report.passed
    if blamed:  # the layers one by one do not use this op, so the report says which path is wrong, and where
        (told,) = (p.message for p in report.properties if p.name == paths.AGREE)
        assert "the engine is wrong, the layers one by one are right" in told and f"; {blamed}(" in told


def test_an_output_that_is_not_the_layers_is_told(monkeypatch):
    """With its own gradients right, finite differences alone can't see another function."""
    right = fused.ConvPool.forward
    monkeypatch.setattr(fused.ConvPool, "forward", like(right, scaled(right, "y")))
    (told,) = (p for p in check(conv_network()).properties if p.name == paths.AGREE)
    assert not told.passed and "the output" in told.message and "ConvPool" in told.message


def test_a_fused_update_that_is_not_the_gradients_is_caught(monkeypatch):
    right = linear.LinearOp.descend

    def halved(self, values, grads, velocity, settings, rows):
        yield partial(np.copyto, velocity, values)
        yield from right(self, values, grads, np.zeros_like(velocity), settings, rows)
        yield partial(lambda: np.copyto(values, (values + velocity) / 2))

    monkeypatch.setattr(linear.LinearOp, "descend", halved)
    report = check(wide_network())
    assert not report.passed and all(tensor.passed for tensor in report.tensors)
    (told,) = (p.message for p in report.properties if p.name == paths.DESCENDS)
    assert "a step of SGD moves 0.weight (Linear)" in told


CUTS = {
    "terms": (wide_network, linear.LinearOp, "backward"),
    "columns": (wide_batch, linear.LinearOp, "backward"),
    "features": (wide_network, linear.LinearOp, "forward"),
    "rows": (wide_network, linear.LinearOp, "gradients"),
    "samples": (conv_network, activations.ElementwiseOp, "backward"),
    "channels": (norm_network, norm.BatchNormOp, "backward"),
}


@pytest.mark.parametrize("axis", CUTS)
def test_a_range_that_is_not_heeded_is_caught(axis, monkeypatch):
    """An op that does the first range of an axis again in place of each later one."""
    make, op, method = CUTS[axis]
    right, firsts = getattr(op, method), {}

    def wrong(self, *args, **ranges):
        part = ranges[axis]
        start = part.start if isinstance(part, slice) else part[0]
        if start == 0:
            firsts[self] = part
        elif self in firsts:
            ranges[axis] = firsts[self]
        yield from right(self, *args, **ranges)

    monkeypatch.setattr(op, method, like(right, wrong))
    assert not check(make()).passed and firsts


def test_a_share_that_is_not_added_is_caught(monkeypatch):
    right = Schedule._into

    def one_missing(self, op, cut):
        into = right(self, op, cut)
        if len(into) > 1 and op in self.shares:
            self.shares[op][-1] = 0
            into[-1] = {p: np.zeros(p.shape, self.setting.dtype) for p in op.parameters}
        return into

    monkeypatch.setattr(Schedule, "_into", one_missing)
    assert not check(conv_network()).passed


def test_a_gradient_of_a_branch_that_is_lost_is_caught(monkeypatch):
    monkeypatch.setattr(Schedule, "_total", lambda self, wire, due: (yield from ()) or due[0])
    report = check(conv_network())
    assert not report.passed
    (told,) = (p.message for p in report.properties if p.name == paths.AGREE)
    assert "the engine is wrong" in told


def test_layers_one_by_one_that_are_wrong_are_told(monkeypatch):
    """A pooling op that the engine does not use: it computes convolution, ReLU and pooling in one pass."""
    right = pool.MaxPoolOp.backward
    monkeypatch.setattr(pool.MaxPoolOp, "backward", like(right, scaled(right, "dx")))
    report = check(conv_network())
    (told,) = (p.message for p in report.properties if p.name == paths.AGREE)
    assert not report.passed and "the engine is right, the layers one by one are wrong" in told
    assert any(t.name.endswith("layers one by one") and not t.passed for t in report.tensors)


def test_evaluation_compares_the_prediction(monkeypatch):
    made = norm_network()
    report = fastbp.check_gradients(*made, training=False, samples=20)
    assert report.passed and paths.PREDICTS in [p.name for p in report.properties]
    right = folded.new_weights

    def wrong(layer, after, made):
        yield from right(layer, after, made)
        yield partial(np.multiply, made.weight.value, 1.01, made.weight.value)

    monkeypatch.setattr(folded, "new_weights", wrong)
    report = fastbp.check_gradients(*made, training=False, samples=20)
    (told,) = (p.message for p in report.properties if p.name == paths.PREDICTS)
    assert not report.passed and "the engine's prediction differs" in told


def test_nothing_of_the_network_changes():
    network, x = conv_network()
    network.forward(x.astype(np.float32), training=True)
    before = network.state_dict()
    assert fastbp.check_gradients(network, x, samples=5).passed
    assert all(np.array_equal(before[name], array) for name, array in network.state_dict().items())


def test_a_container_alone_is_checked_as_the_engine_computes_it():
    block = fastbp.Residual(fastbp.Linear(3, 3), fastbp.ReLU(), fastbp.Linear(3, 3))
    report = fastbp.check_gradients(block, RNG.normal(size=(4, 3)))
    assert report.passed and paths.AGREE in [p.name for p in report.properties]
    assert [t.name for t in report.tensors][:2] == ["x", "body.0.weight (Linear)"]


class NoShape(fastbp.Layer):
    def forward(self, x, training=False, out=None):
        self.cache = x
        return x * 2

    def backward(self, dout, need_dx=True, out=None):
        return dout * 2


def test_a_network_that_can_not_train_is_checked_by_its_layers():
    report = fastbp.check_gradients(fastbp.Sequential(fastbp.Linear(3, 2), NoShape()), RNG.normal(size=(4, 3)))
    (told,) = (p for p in report.properties if p.name == paths.AGREE)
    assert report.passed and told.warning and "does not define output_shape" in told.message


def test_a_fault_of_parts_alone_is_found_in_a_batch_that_is_not_cut(monkeypatch):
    right = fused.ConvPool.gradients

    def wrong(self, into, samples):
        yield from right(self, into, samples)
        if samples != self.whole("samples"):
            first = next(iter(into.values()))
            yield partial(np.negative, first, first)

    monkeypatch.setattr(fused.ConvPool, "gradients", like(right, wrong))
    report = check(conv_network(Machine()))
    (told,) = (p.message for p in report.properties if p.name == paths.IN_PARTS)
    assert not report.passed and all(tensor.passed for tensor in report.tensors)
    assert "cut into small parts, the engine differs in 0.weight (Conv2d); ConvPool(" in told


def test_a_wrong_dx_of_a_value_that_others_read_too_is_named(monkeypatch):
    right = fused.ConvPool.backward
    monkeypatch.setattr(fused.ConvPool, "backward", like(right, scaled(right, "dx")))
    body = fastbp.Conv2d(2, 4, 3, padding=1), fastbp.ReLU(), fastbp.MaxPool2d(2)
    block = fastbp.Residual(*body, shortcut=fastbp.Conv2d(2, 4, 2, stride=2))
    network = fastbp.Sequential(fastbp.Conv2d(1, 2, 1), block, fastbp.Flatten(), fastbp.Linear(144, 4))
    report = check((network, RNG.normal(size=(3, 1, 12, 12))))
    (told,) = (p.message for p in report.properties if p.name == paths.AGREE)
    assert "; ConvPool(" in told and "its dx is not what the layers give" in told


def test_a_fused_update_that_forgets_the_momentum_is_caught(monkeypatch):
    right = linear.LinearOp.descend

    def without(self, values, grads, velocity, settings, rows):
        yield partial(velocity.fill, 0)
        yield from right(self, values, grads, velocity, settings, rows)

    monkeypatch.setattr(linear.LinearOp, "descend", without)
    report = check(wide_network())
    (told,) = (p.message for p in report.properties if p.name == paths.DESCENDS)
    assert not report.passed and "with momentum" in told


class DoubledAtTheStart(fastbp.Layer):
    """y = x w, with a gradient that is wrong where no dx is wanted"""

    def __init__(self):
        super().__init__()
        self.w = self.parameter("w", (3, 3), lambda rng: rng.normal(size=(3, 3)))

    def forward(self, x, training=False, out=None):
        self.cache = x
        return x @ self.w.value

    def backward(self, dout, need_dx=True, out=None):
        self.w.grad = self.cache.T @ dout * (1 if need_dx else 2)
        return dout @ self.w.value.T if need_dx else None

    def output_shape(self, input_shape):
        return input_shape


def test_a_gradient_that_is_wrong_where_training_wants_no_dx_is_caught():
    report = fastbp.check_gradients(
        fastbp.Sequential(DoubledAtTheStart(), fastbp.Linear(3, 2)), RNG.normal(size=(4, 3))
    )
    (told,) = (p.message for p in report.properties if p.name == paths.DESCENDS)
    assert not report.passed and "0.w (DoubledAtTheStart)" in told


def test_a_gradient_that_is_zero_but_for_rounding_is_no_alarm():
    """A bias before batch norm, beside gradients of 1e6"""
    layers = fastbp.Conv2d(2, 4, 3, padding=1), fastbp.BatchNorm2d(4), fastbp.ReLU(), fastbp.Flatten()
    for seed in range(4):
        network, rng = fastbp.Sequential(*layers, fastbp.Linear(144, 3), seed=seed), np.random.default_rng(seed)
        x, targets = 1e-3 * rng.normal(size=(6, 2, 6, 6)), 1e3 * rng.normal(size=(6, 3))
        report = fastbp.check_gradients(network, x, targets, loss=fastbp.MeanSquaredError(), samples=5)
        assert all(p.passed for p in report.properties if p.name in (paths.AGREE, paths.DESCENDS, paths.IN_PARTS))
        layers = [copy.deepcopy(layer) for layer in layers]
