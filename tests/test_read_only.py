"""Read-only arrays from a pickle are copied: out-of-band buffers (Ray, Dask, loky) and memory maps (joblib)."""

import copy
import io
import pickle

import numpy as np
import pytest

import fastbp

X = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def out_of_band(thing, folder):
    """`thing` through protocol 5 with buffers that nobody may write to."""
    buffers = []
    data = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[memoryview(bytes(buffer)) for buffer in buffers])


class Mapping(pickle.Pickler):
    """Arrays go to files of their own, which are mapped for reading, as joblib does."""

    def __init__(self, file, folder):
        super().__init__(file, protocol=5)
        self.folder, self.count = folder, 0

    def reducer_override(self, thing):
        if type(thing) is not np.ndarray or thing.ndim == 0:
            return NotImplemented
        self.count += 1
        path = self.folder / f"{self.count}.npy"
        np.save(path, thing)
        return np.load, (path, "r")


def mapped(thing, folder):
    file = io.BytesIO()
    Mapping(file, folder).dump(thing)
    return pickle.loads(file.getvalue())


ways = pytest.mark.parametrize("through", [out_of_band, mapped])


def network() -> fastbp.Sequential:
    layers = [fastbp.Conv2d(3, 4, 3), fastbp.BatchNorm2d(4), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Dropout(0.5)]
    return fastbp.Sequential(*layers, fastbp.Flatten(), fastbp.Linear(36, 3), seed=3)


def arrays_of(thing) -> list[np.ndarray]:
    found = thing.values() if isinstance(thing, dict) else vars(thing).values()
    return [value for value in found if isinstance(value, np.ndarray)]


@ways
def test_training_goes_on_with_the_same_bits(through, tmp_path):
    trainer = fastbp.Trainer(network(), fastbp.SoftmaxCrossEntropy(), fastbp.Adam(0.01))
    trainer.step(X, LABELS)
    back = through(trainer, tmp_path)
    for _ in range(3):
        assert back.step(X, LABELS) == trainer.step(X, LABELS)
    assert back.network.state_dict().keys() == trainer.network.state_dict().keys()
    for name, array in trainer.network.state_dict().items():
        assert np.array_equal(back.network.state_dict()[name], array), name


@ways
@pytest.mark.parametrize("make", [
    lambda: (fastbp.Dropout(0.5), X), lambda: (fastbp.BatchNorm2d(3), X), lambda: (fastbp.Conv2d(3, 4, 3), X),
    lambda: (fastbp.Linear(8, 2), X[0, 0]), lambda: (fastbp.LeakyReLU(0.2), X),
])  # fmt: skip
def test_a_layer_alone(make, through, tmp_path):
    layer, x = make()
    dout = np.ones_like(layer.forward(x, training=True))
    layer.backward(dout)
    back, twin = through(layer, tmp_path), copy.deepcopy(layer)
    for array in (*arrays_of(back.state), *(array for parameter in back.parameters for array in arrays_of(parameter))):
        assert array.flags.writeable
    for _ in range(2):
        assert np.array_equal(back.forward(x, training=True), twin.forward(x, training=True))
        assert np.array_equal(back.backward(dout), twin.backward(dout))
    for mine, theirs in zip(back.parameters, twin.parameters, strict=True):
        assert np.array_equal(mine.grad, theirs.grad)
        mine.value = np.zeros(mine.shape)
        assert not mine.value.any()


@ways
@pytest.mark.parametrize("kind", [fastbp.SGD, fastbp.Adam, fastbp.AdamW, fastbp.RMSProp, fastbp.Adagrad])
def test_an_optimiser_that_has_made_steps(kind, through, tmp_path):
    rng, optimizer = np.random.default_rng(1), kind(0.1)
    values = rng.normal(size=9)
    optimizer.step(values, rng.normal(size=9))
    back, other, grads = through(optimizer, tmp_path), values.copy(), rng.normal(size=9)
    before = {name: vector.copy() for name, vector in optimizer.state.items()}
    back.step(other, grads)
    assert all(np.array_equal(optimizer.state[name], vector) for name, vector in before.items())
    optimizer.step(values, grads)
    assert np.array_equal(values, other)
    assert repr(back) == repr(optimizer) and back.steps == optimizer.steps == 2


class Own(fastbp.Layer):
    """A layer of a user's own, with an array that it writes to."""

    def __init__(self):
        super().__init__()
        self.seen = np.zeros(3)
        self.state["count"] = np.zeros((), np.int64)

    def forward(self, x, training=False, out=None):
        self.seen += x.sum(axis=0)
        self.state["count"][...] += 1
        return x

    def backward(self, dout, need_dx=True, out=None):
        return dout

    def output_shape(self, input_shape):
        return input_shape


class OwnLoss(fastbp.Loss):
    def __init__(self):
        super().__init__()
        self.weights = np.ones(3)


@ways
def test_classes_of_the_users_own(through, tmp_path):
    back = through(Own(), tmp_path)
    back.forward(np.ones((2, 3)))
    assert back.seen.tolist() == [2, 2, 2] and back.state["count"] == 1
    loss = through(OwnLoss(), tmp_path)
    loss.weights[0] = 5
    assert loss.weights.tolist() == [5, 1, 1]


@ways
def test_a_loss_between_forward_and_backward(through, tmp_path):
    """What it keeps for backward is not pickled, as with layers."""
    loss = fastbp.HingeLoss(0.5)
    loss.forward(np.array([1.0, -1.0]), np.array([0, 1]))
    back = through(loss, tmp_path)
    assert repr(back) == repr(loss)
    with pytest.raises(RuntimeError, match="before forward"):
        back.backward()
    assert loss.backward().tolist() == [0.5, -0.5]


def frozen(array) -> np.ndarray:
    array = np.array(array)
    array.flags.writeable = False
    return array


def test_read_only_arrays_that_are_set():
    optimizer, velocity = fastbp.SGD(1.0, momentum=0.5), frozen([1.0, 2.0])
    optimizer.state["velocity"] = velocity
    values = np.zeros(2)
    optimizer.step(values, np.zeros(2))
    assert values.tolist() == [-0.5, -1.0] and velocity.tolist() == [1.0, 2.0]
    optimizer.state = {"velocity": velocity}
    optimizer.step(values, frozen([0.0, 0.0]))
    assert values.tolist() == [-1.0, -2.0] and velocity.tolist() == [1.0, 2.0]

    layer = fastbp.BatchNorm1d(2)
    layer.state = {"running_mean": frozen(np.zeros(2, np.float32)), "running_var": frozen(np.ones(2, np.float32))}
    layer.forward(np.array([[1, 3], [3, 5]], np.float32), training=True)
    np.testing.assert_allclose(layer.state["running_mean"], [0.2, 0.4])
    layer.state["running_mean"] = frozen([0.0, 7.0])
    layer.forward(np.array([[1, 3], [3, 5]], np.float32), training=True)
    np.testing.assert_allclose(layer.state["running_mean"], [0.2, 6.7], rtol=1e-6)
    layer.gamma.value, layer.gamma.grad = frozen([2.0, 3.0]), frozen([4.0, 5.0])
    assert layer.gamma.value.tolist() == [2, 3] and layer.gamma.grad.tolist() == [4, 5]

    fresh = network()
    fresh.load_state_dict({name: frozen(array) for name, array in network().state_dict().items()})
    fastbp.Trainer(fresh, fastbp.SoftmaxCrossEntropy(), fastbp.SGD()).step(frozen(X), frozen(LABELS))


def stepped(optimizer: fastbp.Optimizer) -> np.ndarray:
    """What one more step makes of zeros."""
    values = np.zeros(200_000)  # 1.6 MB: joblib maps arrays of more than 1 MB
    optimizer.step(values, np.ones_like(values))
    return values


def test_joblib_over_an_adam_that_has_made_steps(tmp_path):
    joblib = pytest.importorskip("joblib")
    optimizer = fastbp.Adam(0.1)
    stepped(optimizer)
    expected = stepped(copy.deepcopy(optimizer))
    results = joblib.Parallel(2)(joblib.delayed(stepped)(optimizer) for _ in range(2))
    assert len(results) == 2 and all(np.array_equal(result, expected) for result in results)
    joblib.dump(optimizer, tmp_path / "adam.joblib")
    assert np.array_equal(stepped(joblib.load(tmp_path / "adam.joblib", mmap_mode="r")), expected)
