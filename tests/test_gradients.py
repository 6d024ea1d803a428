"""Gradients that a step leaves open: the training is the same, and whoever asks finds the last step's."""

import copy
import gc
import multiprocessing
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbp
from fastbp.engine import Machine, computes
from fastbp.engine.gradients import Gradients
from fastbp.layers.linear import LinearOp

SGDS = [{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.01}]


def mlp(*sizes, dtype=np.float32, bias=True, seed=3):
    layers = []
    for D, F in zip(sizes, sizes[1:], strict=False):
        layers += [fastbp.Linear(D, F, bias=bias), fastbp.ReLU()]
    return fastbp.Sequential(*layers[:-1], dtype=dtype, seed=seed)


def mixed(dtype=np.float64):
    """Layers whose gradients stay open beside others'."""
    layers = [
        fastbp.Conv2d(1, 4, 3), fastbp.BatchNorm2d(4), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(),
        fastbp.Linear(100, 9), fastbp.BatchNorm1d(9), fastbp.Tanh(), fastbp.Linear(9, 5, bias=False),
        fastbp.Linear(5, 3),
    ]  # fmt: skip
    return fastbp.Sequential(*layers, dtype=dtype, seed=2)


def batches(network, shape, sizes, seed=0):
    rng, classes = np.random.default_rng(seed), network.output_shape(shape)[0]
    for N in sizes:
        yield rng.normal(size=(N, *shape)).astype(network.dtype), rng.integers(0, classes, N)


def trainer(network, **settings):
    return fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.05, **settings))


def by_layers(network, x, labels):
    """The gradients of a step, layer by layer in a copy."""
    network, loss = copy.deepcopy(network), fastbp.SoftmaxCrossEntropy()
    loss.forward(network.forward(x, training=True), labels)
    network.backward(loss.backward())
    return network.gradient_vector


def is_open(network):
    return network.gradients._open is not None


@pytest.fixture(params=[1, 2])
def threads(request):
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(request.param)
    yield request.param
    fastbp.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", SGDS)
def test_training_is_the_same_whoever_looks(settings, dtype, threads):
    """Bit for bit, with batches of one sample, of few, of as many as a tile sums at once and of more."""
    quiet, watched = (mlp(70, 49, 33, 10, dtype=dtype) for _ in range(2))
    quiet.machine = watched.machine = Machine(range_work=20_000)
    one, other = trainer(quiet, **settings), trainer(watched, **settings)
    held = watched.gradient_vector
    for x, labels in batches(quiet, (70,), (1, 1, 4, 4, 32, 3, 130, 700, 1, 32)):
        expected = by_layers(watched, x, labels)
        assert one.step(x, labels) == other.step(x, labels)
        assert is_open(quiet) and not is_open(watched)
        assert np.array_equal(quiet.parameter_vector, watched.parameter_vector)
        assert np.array_equal(one.optimizer.state["velocity"], other.optimizer.state["velocity"])
        np.testing.assert_allclose(held, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert np.array_equal(quiet.gradient_vector, held)


@given(st.integers(1, 20), st.integers(0, 2**16), st.sampled_from(SGDS))
def test_asking_after_a_step_gives_its_gradients(N, seed, settings):
    network = mixed()
    of_one = trainer(network, **settings)
    for x, labels in batches(network, (1, 12, 12), (N + 1, N + 1), seed):
        expected = by_layers(network, x, labels)
        of_one.step(x, labels)
    assert is_open(network)
    np.testing.assert_allclose(network.gradient_vector, expected, atol=1e-11)
    of_last = network.layers[-1].weight.grad
    for x, labels in batches(network, (1, 12, 12), (N + 1, 2), seed + 1):  # and so from now on
        expected = by_layers(network, x, labels)
        of_one.step(x, labels)
        assert not is_open(network)
        np.testing.assert_allclose(of_last.ravel(), expected[-18:-3], atol=1e-11)
        np.testing.assert_allclose(network.gradient_vector, expected, atol=1e-11)


def take_last(network):
    return network.layers[-1].weight.grad


def take_by_name(network):
    return network.named_parameters["2.weight"].grad


def take_from_copy(network):
    return copy.deepcopy(network).layers[-1].weight.grad


def take_from_pickle(network):
    return pickle.loads(pickle.dumps(network)).layers[-1].weight.grad


def take_from_layer(network):
    return copy.deepcopy(network.layers[-1]).weight.grad


def take_converted(network):
    return network.astype(np.float32).layers[-1].weight.grad


def take_after_predicting(network):
    network.engine((7,)).forward(np.ones((4, 7)))
    network.engine((7,)).forward(np.ones((3, 7)))
    network.forward(np.ones((3, 7)))
    return network.layers[-1].weight.grad


def take_after_a_forward_pass(network):
    network.engine((7,)).forward(np.ones((3, 7)), training=True)
    network.engine((7,)).forward(np.ones((4, 7)), training=True)
    return network.layers[-1].weight.grad


def take_after_the_engine_is_gone(network):
    network.forget_engines()
    gc.collect()
    return network.layers[-1].weight.grad


def take_in_another_thread(network):
    found = []
    thread = threading.Thread(target=lambda: found.append(network.layers[-1].weight.grad))
    thread.start()
    thread.join()
    return found[0]


def take_in_a_forked_process(network):
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send(network.layers[-1].weight.grad.copy())
    )
    child.start()
    found = receiver.recv()
    child.join()
    return found


@pytest.mark.parametrize("take", [
    take_last, take_by_name, take_from_copy, take_from_pickle, take_from_layer, take_converted, take_after_predicting,
    take_after_a_forward_pass, take_after_the_engine_is_gone, take_in_another_thread, take_in_a_forked_process,
])  # fmt: skip
def test_ways_to_a_gradient(take):
    network = mlp(7, 6, 3, dtype=np.float64)
    of_network = trainer(network, momentum=0.9)
    for x, labels in batches(network, (7,), (5, 4)):
        expected = by_layers(network, x, labels)
        of_network.step(x, labels)
    assert is_open(network)
    np.testing.assert_allclose(take(network).ravel(), expected[-21:-3], atol=1e-6 if take is take_converted else 1e-12)


def test_a_copy_trains_on_alone():
    network = mlp(7, 6, 3, dtype=np.float64)
    of_network = trainer(network, momentum=0.9)
    steps = list(batches(network, (7,), (5, 5, 5)))
    of_network.step(*steps[0])
    other = copy.deepcopy(of_network)
    losses = [[each.step(*step) for step in steps[1:]] for each in (of_network, other)]
    assert losses[0] == losses[1] and is_open(network) and is_open(other.network)
    assert np.array_equal(network.parameter_vector, other.network.parameter_vector)
    assert np.array_equal(network.gradient_vector, other.network.gradient_vector)


def test_backward_layer_by_layer_after_an_open_step():
    """What backward writes stays, whatever the step before has left open."""
    for backward in (
        lambda network, dout: network.backward(dout),
        lambda network, dout: network.layers[-1].backward(dout),
    ):
        network = mlp(7, 6, 3, dtype=np.float64)
        for x, labels in batches(network, (7,), (5,)):
            trainer(network).step(x, labels)
        y = network.forward(x, training=True)
        assert is_open(network)
        dout = np.random.default_rng(1).normal(size=y.shape)
        backward(network, dout)
        np.testing.assert_allclose(network.layers[-1].weight.grad, dout.T @ network.layers[-1].cache["x"], atol=1e-12)


def test_an_assigned_gradient_stays():
    network = mlp(7, 6, 3, dtype=np.float64)
    for x, labels in batches(network, (7,), (5,)):
        trainer(network).step(x, labels)
    network.layers[0].weight.grad = np.full((6, 7), 2.5)
    assert (network.gradient_vector[:42] == 2.5).all() and (network.gradient_vector[42:] != 2.5).all()


def test_gradients_of_the_engines_backward_after_an_open_step():
    network = mlp(7, 6, 3, dtype=np.float64)
    of_network, steps = trainer(network), list(batches(network, (7,), (5, 5)))
    of_network.step(*steps[0])
    engine, dout = network.engine((7,)), np.random.default_rng(1).normal(size=(5, 3))
    engine.forward(steps[1][0], training=True)
    engine.backward(dout)
    other = copy.deepcopy(network)
    other.forward(steps[1][0], training=True)
    other.backward(dout)
    np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, atol=1e-12)


def test_after_a_step_that_failed_open_gradients_are_nan():
    class Failing(fastbp.Tanh):
        fail = False

        def forward(self, x, training=False, out=None):
            if Failing.fail:
                raise RuntimeError("as it was told")
            return super().forward(x, training, out)

    network = fastbp.Sequential(fastbp.Linear(4, 5), Failing(), fastbp.Linear(5, 3), dtype=np.float64)
    of_network, steps = trainer(network), list(batches(network, (4,), (6, 6, 6)))
    of_network.step(*steps[0])
    Failing.fail = True
    with pytest.raises(RuntimeError, match="as it was told"):
        of_network.step(*steps[1])
    assert np.isnan(network.gradient_vector).all()
    Failing.fail = False
    expected = by_layers(network, *steps[2])
    of_network.step(*steps[2])
    np.testing.assert_allclose(network.gradient_vector, expected, atol=1e-12)


class Clipped(fastbp.SGD):
    """An optimiser that looks at the whole gradient first."""

    def step(self, values, grads):
        super().step(values, grads * min(1, 0.1 / np.linalg.norm(grads)))


class ClippedInPlace(fastbp.SGD):
    def step(self, values, grads):
        grads *= min(1, 0.1 / np.linalg.norm(grads))
        super().step(values, grads)


class Signed(fastbp.SGD):
    def update(self, values, grads, velocity):
        super().update(values, np.sign(grads), velocity)


class DoubledInAnOp(fastbp.Linear):
    """A linear layer whose gradients are its own, by an op that makes no update of its own."""


@computes(DoubledInAnOp)
class DoublingOp(LinearOp):
    descend = None

    def gradients(self, into, rows):
        yield from super().gradients(into, rows)
        first, last = rows
        yield lambda: np.multiply(into[self.layer.weight][first:last], 2, out=into[self.layer.weight][first:last])


class DoubledInBackward(fastbp.Linear):
    """A linear layer of one's own in methods of layers."""

    def backward(self, dout, need_dx=True, out=None):
        dx = super().backward(dout, need_dx, out)
        self.weight.grad *= 2
        return dx


@pytest.mark.parametrize("make", [Clipped, Signed, fastbp.Adam])
def test_optimizers_that_need_the_gradients(make):
    network = mlp(7, 6, 3, dtype=np.float64)
    other, optimizer = copy.deepcopy(network), make(lr=0.05)
    of_network = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), make(lr=0.05))
    for x, labels in batches(network, (7,), (5, 5, 4)):
        expected = by_layers(other, x, labels)
        optimizer.step(other.parameter_vector, expected)
        of_network.step(x, labels)
        np.testing.assert_allclose(network.parameter_vector, other.parameter_vector, atol=1e-12)
        np.testing.assert_allclose(network.gradients.array, expected, atol=1e-12)  # without a question


def test_what_an_optimizer_makes_of_the_gradients_stays():
    network = mlp(7, 6, 3, dtype=np.float64)
    of_network = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), ClippedInPlace(lr=0.05))
    for x, labels in batches(network, (7,), (5,)):
        of_network.step(x, labels)
    assert np.linalg.norm(network.gradient_vector) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [DoubledInAnOp, DoubledInBackward])
def test_layers_with_gradients_of_their_own(kind):
    def made(middle):
        layers = fastbp.Linear(7, 6), fastbp.ReLU(), middle(6, 4), fastbp.ReLU(), fastbp.Linear(4, 3)
        return fastbp.Sequential(*layers, dtype=np.float64)

    network, plain = made(kind), made(fastbp.Linear)
    of_network = trainer(network)
    for x, labels in batches(network, (7,), (5, 5)):
        plain.parameter_vector[:] = network.parameter_vector
        expected = by_layers(plain, x, labels)
        expected[48:72] *= 2
        before = network.parameter_vector.copy()
        of_network.step(x, labels)
        np.testing.assert_allclose(network.parameter_vector, before - 0.05 * expected, atol=1e-12)
    assert is_open(network)  # a layer that writes to its own grad in a step has not asked
    np.testing.assert_allclose(network.gradient_vector, expected, atol=1e-12)


def test_the_learning_rate_may_change_from_step_to_step():
    network = mlp(7, 6, 3, dtype=np.float64)
    of_network = trainer(network)
    for k, (x, labels) in enumerate(batches(network, (7,), (5, 5, 5))):
        of_network.optimizer.lr = 0.1 / (k + 1)
        before, expected = network.parameter_vector.copy(), by_layers(network, x, labels)
        of_network.step(x, labels)
        np.testing.assert_allclose(network.parameter_vector, before - 0.1 / (k + 1) * expected, atol=1e-12)


def test_losses_of_ones_own_leave_gradients_open_too():
    class Halved(fastbp.SoftmaxCrossEntropy):
        def step(self, scores, targets, out):
            value = super().step(scores, targets, out)
            out *= 0.5
            return value / 2

    network = mlp(7, 6, 3, dtype=np.float64)
    of_network = fastbp.Trainer(network, Halved(), fastbp.SGD(lr=0.05))
    for x, labels in batches(network, (7,), (5, 5)):
        before, expected = network.parameter_vector.copy(), by_layers(network, x, labels) / 2
        of_network.step(x, labels)
        np.testing.assert_allclose(network.parameter_vector, before - 0.05 * expected, atol=1e-12)
    assert is_open(network)
    np.testing.assert_allclose(network.gradient_vector, expected, atol=1e-12)


def test_a_network_is_freed_without_the_collector():
    network = mlp(7, 6, 3)
    of_network = trainer(network)
    for x, labels in batches(network, (7,), (5, 4, 5)):
        of_network.step(x, labels)
    assert is_open(network)
    seen, of_gradients = weakref.ref(network), weakref.ref(network.gradients)
    gc.disable()
    try:
        del network, of_network
        assert seen() is None and of_gradients() is None
    finally:
        gc.enable()


def test_gradients_can_be_forgotten_again():
    """Steps leave them open again, as fast as if nobody had looked; whoever asks again finds the last step's."""
    quiet, watched = (mlp(7, 6, 3, dtype=np.float64) for _ in range(2))
    one, other = trainer(quiet, momentum=0.9), trainer(watched, momentum=0.9)
    watched.gradient_vector  # noqa: B018 -- somebody has looked
    for k, (x, labels) in enumerate(batches(quiet, (7,), (5, 4, 5, 5, 4))):
        if k == 2:
            watched.forget_gradients()
        expected = by_layers(quiet, x, labels)
        assert one.step(x, labels) == other.step(x, labels)
        assert is_open(watched) is (k >= 2)
        assert np.array_equal(quiet.parameter_vector, watched.parameter_vector)
    np.testing.assert_allclose(watched.gradient_vector, expected, atol=1e-12)
    assert not is_open(watched)
    of_copy = copy.deepcopy(watched)  # where nobody has looked
    trainer(of_copy).step(x, labels)
    assert is_open(of_copy)


def test_without_a_step_there_is_nothing_to_complete():
    gradients = Gradients(3, np.dtype(np.float64))
    gradients.complete()
    gradients.array[:] = 1, 2, 3
    assert not gradients.kept and gradients.ask() is gradients.array and gradients.kept
    assert gradients.array.tolist() == [1, 2, 3]
    assert (fastbp.Sequential(fastbp.Linear(2, 2)).gradient_vector == 0).all()


class Scale(fastbp.Layer):
    """y = s x, as README says that a layer of one's own is written"""

    def __init__(self, D):
        super().__init__()
        self.D = D
        self.s = self.parameter("s", (D,), lambda rng: rng.uniform(0.5, 1.5, D))

    def forward(self, x, training=False, out=None):
        self.cache = x
        return x * self.s.value

    def backward(self, dout, need_dx=True, out=None):
        self.s.grad[...] = (dout * self.cache).sum(axis=0)
        return dout * self.s.value if need_dx else None

    def output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("looked_at", [False, True])
def test_a_layer_that_writes_its_gradient_in_a_step_leaves_others_alone(momentum, looked_at):
    layers = fastbp.Linear(6, 6), Scale(6), fastbp.BatchNorm1d(6), fastbp.ReLU(), fastbp.Linear(6, 3)
    network = fastbp.Sequential(*layers, seed=1, dtype=np.float64)
    plain, optimizer = copy.deepcopy(network), fastbp.SGD(lr=0.05, momentum=momentum)
    of_network, loss = (
        fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.05, momentum=momentum)),
        None,
    )
    rng = np.random.default_rng(0)
    for step in range(5):
        x, labels = rng.normal(size=(8, 6)), rng.integers(0, 3, 8)
        loss = fastbp.SoftmaxCrossEntropy()
        loss.forward(plain.forward(x, training=True), labels)
        plain.backward(loss.backward())
        optimizer.step(plain.parameter_vector, plain.gradient_vector)
        of_network.step(x, labels)
        np.testing.assert_allclose(network.parameter_vector, plain.parameter_vector, atol=1e-12)
        if looked_at and step == 1:
            np.testing.assert_allclose(network.gradient_vector, plain.gradient_vector, atol=1e-12)
            network.forget_gradients()
    np.testing.assert_allclose(network.gradient_vector, plain.gradient_vector, atol=1e-12)


def test_a_step_that_ends_with_an_error_is_over():
    network, of_network = mlp(7, 6, 3), None
    of_network = trainer(network)
    x = np.zeros((4, 7), np.float32)
    of_network.step(x, np.array([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="must be in"):
        of_network.step(x, np.array([0, 1, 2, 9]))
    of_network.step(x, np.array([0, 1, 2, 0]))
    assert np.isfinite(network.gradient_vector).all() and network.gradients.kept


def test_a_prediction_in_a_step_leaves_the_caches_of_layers_of_ones_own():
    class Looking(fastbp.SoftmaxCrossEntropy):
        def forward(self, scores, targets):
            fastbp.outputs(network, other)
            return super().forward(scores, targets)

    layers = fastbp.Linear(6, 6), Scale(6), fastbp.Linear(6, 3)
    rng = np.random.default_rng(0)
    x, other, labels = rng.normal(size=(8, 6)), rng.normal(size=(5, 6)), rng.integers(0, 3, 8)
    network = fastbp.Sequential(*layers, seed=1, dtype=np.float64)
    plain = copy.deepcopy(network)
    fastbp.Trainer(network, Looking(), fastbp.SGD(lr=0.1)).step(x, labels)
    fastbp.Trainer(plain, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1)).step(x, labels)
    np.testing.assert_allclose(network.parameter_vector, plain.parameter_vector, atol=1e-12)


def test_a_step_that_is_interrupted_before_its_update_is_not_counted():
    class Interrupting(Scale):
        on = False

        def backward(self, dout, need_dx=True, out=None):
            if self.on:
                raise KeyboardInterrupt
            return super().backward(dout, need_dx)

    middle, optimizer = Interrupting(6), fastbp.Adam(lr=0.01)
    network = fastbp.Sequential(fastbp.Linear(6, 6), middle, fastbp.Linear(6, 3), dtype=np.float64)
    step = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), optimizer).step
    x, labels = np.random.default_rng(0).normal(size=(4, 6)), np.array([0, 1, 2, 0])
    step(x, labels)
    before, middle.on = network.parameter_vector.copy(), True
    with pytest.raises(KeyboardInterrupt):
        step(x, labels)
    assert optimizer.steps == 1 and np.array_equal(network.parameter_vector, before)


def test_training_wants_no_dx_of_the_first_layer_after_a_pass_that_did():
    wanted = []

    class Told(Scale):
        def backward(self, dout, need_dx=True, out=None):
            wanted.append(need_dx)
            return super().backward(dout, need_dx)

    network, x = fastbp.Sequential(Told(6), fastbp.Linear(6, 3), dtype=np.float64), np.ones((4, 6))
    engine, labels = network.engine((6,)), np.array([0, 1, 2, 0])
    engine.forward(x, training=True)
    engine.backward(np.ones((4, 3)), need_dx=True)
    trainer(network).step(x, labels)
    engine.forward(x, training=True)
    assert engine.backward(np.ones((4, 3)), need_dx=True) is not None
    assert wanted == [True, False, True]
