"""Sequential: one vector, copies, files, errors."""

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbp

pytestmark = pytest.mark.portable


def small(seed=0, dtype=np.float32):
    return fastbp.Sequential(
        fastbp.Conv2d(1, 2, 3), fastbp.BatchNorm2d(2), fastbp.ReLU(), fastbp.MaxPool2d(2),
        fastbp.Dropout(0.5), fastbp.Flatten(),
        fastbp.Linear(8, 3), dtype=dtype, seed=seed,
    )  # fmt: skip


def batch(N=4, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(N, 1, 6, 6)).astype(dtype)


def train_a_little(network):
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(0.1))
    for step in range(3):
        trainer.step(batch(seed=step, dtype=network.dtype), np.array([0, 1, 2, 0]))
    return network


def views(network):
    """Every parameter's arrays lie in the vectors, in order and without gaps."""
    start = 0
    for p in network.parameters:
        part = slice(start, start + p.size)
        for vector, array in ((network.parameter_vector, p.value), (network.gradient_vector, p.grad)):
            assert np.shares_memory(vector[part], array) and np.array_equal(vector[part], array.ravel())
        start += p.size
    return start == network.parameter_vector.size == network.gradient_vector.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_gradients_are_views_of_two_aligned_vectors(dtype):
    network = small(dtype=dtype)
    assert views(network) and network.parameter_vector.dtype == dtype
    assert network.parameter_vector.ctypes.data % 64 == network.gradient_vector.ctypes.data % 64 == 0
    network.parameter_vector[:] = 7
    assert (network.layers[6].weight.value == 7).all()
    network.backward(np.random.default_rng(0).normal(size=network.forward(batch(dtype=dtype)).shape).astype(dtype))
    assert network.gradient_vector.any() and views(network)


def test_forward_and_backward_are_those_of_the_layers_in_turn():
    network, x = small(dtype=np.float64), batch(dtype=np.float64)
    layers = copy.deepcopy(network.layers)
    y = x
    for layer in layers:
        y = layer.forward(y, training=True)
    assert np.array_equal(network.forward(x, training=True), y)
    dout = np.random.default_rng(1).normal(size=y.shape)
    dx = dout
    for layer in reversed(layers):
        dx = layer.backward(dx)
    assert np.array_equal(network.backward(dout), dx)
    gradients = np.concatenate([p.grad.ravel() for layer in layers for p in layer.parameters])
    assert np.array_equal(network.gradient_vector, gradients)
    network.gradient_vector[:] = 0
    assert network.backward(dout, need_dx=False) is None and np.array_equal(network.gradient_vector, gradients)


def test_a_network_without_parameters_works():
    network = fastbp.Sequential(fastbp.Flatten(), fastbp.Tanh())
    y = network.forward(batch())
    assert network.backward(y).shape == (4, 1, 6, 6) and network.backward(y, need_dx=False) is None
    assert network.parameter_vector.shape == (0,)


def test_the_seed_decides_values_and_masks():
    a, b, c = small(seed=3), small(seed=3), small(seed=4)
    assert np.array_equal(a.parameter_vector, b.parameter_vector)
    assert not np.array_equal(a.parameter_vector, c.parameter_vector)
    x = np.abs(batch(64)) + 1
    assert np.array_equal(a.forward(x, training=True), b.forward(x, training=True))
    double = small(seed=3, dtype=np.float64)
    assert np.array_equal(double.parameter_vector.astype(np.float32), a.parameter_vector)
    twins = fastbp.Sequential(fastbp.Linear(5, 5), fastbp.Linear(5, 5), fastbp.Dropout(0.5), fastbp.Dropout(0.5))
    assert not np.array_equal(twins.layers[0].weight.value, twins.layers[1].weight.value)
    assert twins.layers[2].state["key"] != twins.layers[3].state["key"]


def test_values_given_to_a_layer_before_are_kept():
    layer = fastbp.Linear(3, 2)
    layer.weight.value = np.arange(6).reshape(2, 3)
    network = fastbp.Sequential(layer, dtype=np.float64)
    assert network.parameter_vector[:6].tolist() == [0, 1, 2, 3, 4, 5] and views(network)


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_whole_and_independent(twin):
    network = train_a_little(small())
    if twin is copy.copy:
        with pytest.raises(ValueError, match="copy.deepcopy"):
            copy.copy(network)
        return
    other = twin(network)
    assert views(other) and views(network)
    assert not np.shares_memory(other.parameter_vector, network.parameter_vector)
    assert np.array_equal(other.forward(batch()), network.forward(batch()))
    train_a_little(other)
    train_a_little(network)
    assert np.array_equal(other.parameter_vector, network.parameter_vector)  # the same dropout masks too


def test_astype_and_back():
    network = train_a_little(small())
    y = network.forward(batch())
    assert network.astype(np.float64) is network and views(network)
    np.testing.assert_allclose(network.forward(batch(dtype=np.float64)), y, rtol=1e-4, atol=1e-5)
    assert np.array_equal(network.astype(np.float32).forward(batch()), y)
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        network.astype(int)
    with pytest.raises(ValueError, match="belongs to a network"):
        network.layers[0].astype(np.float64)


def test_a_layer_belongs_to_one_network():
    layer = fastbp.Linear(3, 3)
    network = fastbp.Sequential(layer)
    with pytest.raises(ValueError, match="belongs to another network; use copy.deepcopy"):
        fastbp.Sequential(layer)
    assert fastbp.Sequential(copy.deepcopy(layer)).parameter_vector.tolist() == network.parameter_vector.tolist()
    with pytest.raises(ValueError, match="stands twice"):
        fastbp.Sequential(fastbp.ReLU(), a := fastbp.Linear(3, 3), a)
    del network
    gc.collect()
    fastbp.Sequential(layer)  # free again


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastbp.Sequential(), ValueError, "at least one layer"),
        (lambda: fastbp.Sequential([fastbp.ReLU()]), TypeError, r"expected layers, got list: unpack it with \*"),
        (lambda: fastbp.Sequential(fastbp.ReLU), TypeError, "expected layers, got type"),
        (lambda: fastbp.Sequential(fastbp.ReLU(), dtype=np.float16), TypeError, "float32 or float64"),
        (lambda: fastbp.Sequential(fastbp.ReLU(), seed=-1), ValueError, "seed must be an int of at least 0, got -1"),
        (lambda: fastbp.Sequential(fastbp.ReLU(), seed=1.5), TypeError, "seed must be an int, got 1.5"),
        (lambda: small().forward([1.0]), TypeError, "expected input to be a NumPy array, got list"),
        (
            lambda: small().forward(batch(dtype=np.float64)),
            TypeError,
            r"got float64; convert it with x.astype\(numpy.float32\)",
        ),
        (lambda: small().forward(batch()[:, :, :4]), ValueError, "Linear: expected input"),
        (
            lambda: small().backward(np.zeros((1, 3), np.float32)),
            RuntimeError,
            "Sequential.backward called before forward",
        ),
    ],
)
def test_clear_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_summary_shows_layers_shapes_and_counts():
    text = small().summary((1, 6, 6))
    for part in (
        "Conv2d(1, 2, 3)",
        "(N, 2, 4, 4)",
        "MaxPool2d(2",
        "(N, 8)",
        "Linear(8, 3)",
        "(N, 3)",
        "51 parameters",
        "float32",
    ):
        assert part in text
    with pytest.raises(ValueError, match=r"Conv2d: expected input \(N, 1, H, W\)"):
        small().summary((3, 6, 6))


def test_save_and_load_give_back_everything(tmp_path):
    network = train_a_little(small(seed=5))
    network.metadata = {"classes": ["a", "b", "c"], "input_shape": [1, 6, 6]}
    network.save(path := tmp_path / "network.npz")
    for other in (fastbp.load(path), fastbp.Sequential.load(str(path))):
        assert repr(other) == repr(network) and other.metadata == network.metadata and other.seed == 5
        assert views(other) and other.state_dict().keys() == network.state_dict().keys()
        for name, array in network.state_dict().items():
            assert np.array_equal(other.state_dict()[name], array)
        assert np.array_equal(other.forward(batch()), network.forward(batch()))
    # training goes on as if nothing had happened, dropout included
    assert np.array_equal(train_a_little(other).parameter_vector, train_a_little(network).parameter_vector)
    with np.load(path, allow_pickle=False) as archive:
        assert json.loads(str(archive["fastbp"]))["format"] == 1


def test_every_layer_can_be_saved_and_loaded(tmp_path):
    network = fastbp.Sequential(
        fastbp.Conv2d(1, 2, (3, 2), stride=(1, 2), padding="full", bias=False), fastbp.LeakyReLU(0.3),
        fastbp.AvgPool2d((2, 1), stride=1, padding=(1, 0)), fastbp.Identity(), fastbp.Flatten(),
        fastbp.Linear(72, 4, init="pytorch"),
        fastbp.BatchNorm1d(4, eps=0.1, momentum=0.3), fastbp.Sigmoid(), fastbp.Softmax(),
        fastbp.LogSoftmax(), fastbp.Tanh(), fastbp.GELU(), fastbp.GELU("tanh"), fastbp.SiLU(),
        fastbp.Scale(0.3), fastbp.Scale(2, learned=True),
        dtype=np.float64,
    )  # fmt: skip
    x = batch(dtype=np.float64)
    network.save(tmp_path / "n.npz")
    assert np.array_equal(fastbp.load(tmp_path / "n.npz").forward(x), network.forward(x))


class Doubled(fastbp.Layer):
    """A layer of the user's own: y = 2x."""

    def __init__(self, factor: float = 2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x, training=False, out=None):
        x = self.expect(x, ...)
        self.cache = (x.shape,)
        return x * x.dtype.type(self.factor)

    def backward(self, dout, need_dx=True, out=None):
        return self.expect(dout, *self.cache[0], what="dout") * dout.dtype.type(self.factor)

    def output_shape(self, input_shape):
        return tuple(input_shape)


def test_a_layer_of_ones_own_trains_checks_saves_and_loads(tmp_path, monkeypatch):
    network = fastbp.Sequential(fastbp.Linear(3, 3), Doubled(3.0), dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(4, 3))
    fastbp.check_gradients(network, x).raise_if_failed()
    network.save(path := tmp_path / "n.npz")
    assert np.array_equal(fastbp.load(path).forward(x), network.forward(x))
    monkeypatch.delitem(fastbp.Layer.types, Doubled.type_name())
    with pytest.raises(ValueError, match="layer Doubled is unknown; import the module that defines it first"):
        fastbp.load(path)


def saved(tmp_path):
    train_a_little(small()).save(path := tmp_path / "network.npz")
    return path


@given(data=st.data())
def test_a_truncated_or_damaged_file_is_a_clear_error_or_reads_the_same(data, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("damaged")
    path = saved(tmp_path)
    whole, right = path.read_bytes(), fastbp.load(path).state_dict()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    path.write_bytes(damaged)
    try:
        read = fastbp.load(path).state_dict()
    except ValueError as error:
        assert str(path) in str(error)
    else:  # bytes that hold nothing, such as a time stamp
        assert all(np.array_equal(read[name], right[name]) for name in right)


def test_other_files_are_clear_errors(tmp_path):
    text, arrays, newer = tmp_path / "a.txt", tmp_path / "b.npz", tmp_path / "c.npz"
    text.write_text("hello")
    np.savez(arrays, x=np.zeros(3))
    np.savez(newer, fastbp=np.array(json.dumps({"format": 9})))
    for path in (text, arrays):
        with pytest.raises(ValueError, match="is not a network saved by fastbp"):
            fastbp.load(path)
    with pytest.raises(ValueError, match="reads networks of formats 1 to 2, the file has 9; upgrade"):
        fastbp.load(newer)
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "absent.npz")
    pickled = tmp_path / "d.npz"
    np.savez(pickled, fastbp=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ValueError, match="is not a network saved by fastbp"):
        fastbp.load(pickled)


def test_missing_or_misshapen_arrays_are_clear_errors(tmp_path):
    path = saved(tmp_path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for name, change in (("0.weight", None), ("6.bias", np.zeros(5))):
        other = {k: v for k, v in arrays.items() if k != name} | ({} if change is None else {name: change})
        np.savez(tmp_path / "x.npz", **other)
        with pytest.raises(ValueError, match=name):
            fastbp.load(tmp_path / "x.npz")


def test_load_state_dict_changes_nothing_if_anything_is_wrong():
    network, other = small(), train_a_little(small(seed=1))
    before, state = network.state_dict(), other.state_dict()
    for wrong in (
        {k: v for k, v in state.items() if k != "6.bias"},
        state | {"6.bias": np.zeros(9)},
        state | {"9.x": np.zeros(1)},
    ):
        with pytest.raises(ValueError, match=r"6\.bias|9\.x"):
            network.load_state_dict(wrong)
        assert all(np.array_equal(array, before[name]) for name, array in network.state_dict().items())
    network.load_state_dict(state)
    assert np.array_equal(network.forward(batch()), other.forward(batch()))


def test_a_saved_file_holds_no_pickle(tmp_path):
    with zipfile.ZipFile(saved(tmp_path)) as archive:
        for name in archive.namelist():
            assert b"|O" not in archive.read(name)[:128]


WRONG_STATES = {
    "text": ({"0.bias": np.array(["a", "b"])}, TypeError, r"load_state_dict: 0\.bias must be an array of numbers"),
    "objects": ({"6.bias": np.array([1.0, None, 2.0])}, TypeError, r"6\.bias"),
    "complex": (
        {"6.bias": np.ones(3, complex)},
        TypeError,
        r"6\.bias must be an array of numbers, got dtype complex128",
    ),
    "dates": ({"6.bias": np.zeros(3, "datetime64[s]")}, TypeError, r"6\.bias"),
    "ragged": ({"6.bias": [1.0, [2.0], 3.0]}, TypeError, r"6\.bias"),
    "masked": ({"6.bias": np.ma.masked_invalid([1.0, np.nan, 2.0])}, TypeError, r"6\.bias is a masked array"),
    "shape": ({"6.bias": np.zeros(4)}, ValueError, r"6\.bias: expected an array of shape \(3,\), got \(4,\)"),
    "no step": ({"2.step": np.array(0.5)}, ValueError, r"2\.step holds numbers that int64 has not"),
    "a step beyond int64": (
        {"2.step": np.array(2**64 - 1, np.uint64)},
        ValueError,
        r"2\.step holds numbers that int64 has not",
    ),
    "a negative key": ({"2.key": np.array(-1)}, ValueError, r"2\.key holds numbers that uint64 has not"),
    "a name that is no text": ({7: np.zeros(3)}, ValueError, "7 on one side only"),
}


@pytest.mark.parametrize("case", WRONG_STATES)
def test_a_wrong_state_changes_nothing(case):
    changed, error, message = WRONG_STATES[case]

    def make(seed):
        layers = fastbp.Linear(4, 2), fastbp.ReLU(), fastbp.Dropout(0.5), fastbp.Linear(2, 3)
        return fastbp.Sequential(*layers, fastbp.BatchNorm1d(3), fastbp.ReLU(), fastbp.Linear(3, 3), seed=seed)

    network, state = make(0), make(1).state_dict()
    before = network.state_dict()
    with pytest.raises(error, match=message):
        network.load_state_dict(state | changed)
    assert all(np.array_equal(array, before[name]) for name, array in network.state_dict().items())


@pytest.mark.parametrize("state", [None, 3, "weights.npz", [("0.bias", 1)], object()])
def test_a_state_that_is_no_dictionary_is_a_type_error(state):
    with pytest.raises(TypeError, match="load_state_dict: state must be a dictionary of arrays, got"):
        small().load_state_dict(state)


def test_the_packages_names_are_the_packages(tmp_path):
    """A class of the user's own that is called ReLU does not stand for the package's, nor the other way round."""
    network, x = fastbp.Sequential(fastbp.Linear(3, 2), fastbp.ReLU()), np.random.default_rng(0).normal(size=(5, 3))
    network.save(tmp_path / "ours.npz")

    class ReLU(fastbp.Layer):
        def forward(self, x, training=False, out=None):
            return -x

        def backward(self, dout, need_dx=True, out=None):
            return -dout

        def output_shape(self, input_shape):
            return tuple(input_shape)

    own = fastbp.Sequential(fastbp.Linear(3, 2), ReLU())
    own.save(tmp_path / "own.npz")
    x = x.astype(np.float32)
    for path, kind, expected in (("ours.npz", fastbp.ReLU, network.forward(x)), ("own.npz", ReLU, own.forward(x))):
        again = fastbp.load(tmp_path / path)
        assert type(again.layers[1]) is kind
        assert np.array_equal(again.forward(x), expected)


def test_layers_of_ones_own_are_found_by_module_and_name(tmp_path):
    """Two modules with a class of one name each; and a class that was saved by a script."""
    (tmp_path / "one.py").write_text(LAYER_MODULE.format(factor=2))
    (tmp_path / "two.py").write_text(LAYER_MODULE.format(factor=3))
    (tmp_path / "script.py").write_text(
        "import one, two\n" + LAYER_MODULE.format(factor=5).replace("Times", "Alone") + SAVE
    )
    run = [sys.executable, "-W", "error"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(fastbp.__file__).parent.parent)])}
    subprocess.run([*run, "script.py"], cwd=tmp_path, env=env, check=True)
    read = subprocess.run([*run, "-c", READ], cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert read.stdout.split("\n") == [
        "one 2.0", "two 3.0", "script 5.0",
        "ValueError two.npz can't be rebuilt: layer Times is unknown; import the module that defines it first, two",
        "",
    ]  # fmt: skip


LAYER_MODULE = """
import numpy as np, fastbp
class Times(fastbp.Layer):
    def forward(self, x, training=False, out=None):
        return {factor} * x
    def backward(self, dout, need_dx=True, out=None):
        return {factor} * dout
    def output_shape(self, input_shape):
        return tuple(input_shape)
"""
SAVE = """
if __name__ == "__main__":
    for name, layer in (("one", one.Times()), ("two", two.Times()), ("script", Alone())):
        fastbp.Sequential(layer).save(name + ".npz")
"""
READ = """
import fastbp, numpy as np, one, two
x = np.ones((1, 1), np.float32)
print("one", fastbp.load("one.npz").forward(x).item())
print("two", fastbp.load("two.npz").forward(x).item())
import script
print("script", fastbp.load("script.npz").forward(x).item())
del fastbp.Layer.types["two:Times"]
try:
    fastbp.load("two.npz")
except ValueError as error:
    print("ValueError", error)
"""


def test_package_layers_have_names_of_their_own():
    ours = [kind for name, kind in fastbp.Layer.types.items() if ":" not in name]
    assert len({kind.__name__ for kind in ours}) == len(ours) and fastbp.Linear in ours
    assert all(kind.__module__.partition(".")[0] == "fastbp" for kind in ours)


def test_assigning_to_the_parameter_vector_copies_into_it():
    network = small()
    vector, values = network.parameter_vector, np.random.default_rng(3).normal(size=network.parameter_vector.size)
    network.parameter_vector = values.astype(np.float32)
    assert network.parameter_vector is vector and np.array_equal(vector, values.astype(np.float32))
    np.testing.assert_array_equal(network.layers[0].weight.value.ravel(), vector[: network.layers[0].weight.size])
    network.parameter_vector -= np.float32(0.5)
    np.testing.assert_array_equal(vector, values.astype(np.float32) - np.float32(0.5))
    before = vector.copy()
    wrong = [values[:-1], values.reshape(1, -1), values + 0j, "a", None, np.ma.masked_greater(values, 0)]
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match="parameter_vector"):
            network.parameter_vector = value
    assert np.array_equal(network.parameter_vector, before)


def test_the_factor_of_a_learned_scale_is_its_weight():
    scale, constant = fastbp.Scale(0.5, learned=True), fastbp.Scale(0.5)
    with pytest.raises(AttributeError, match="a learned weight starts from: set layer.weight.value"):
        scale.factor = 2.0
    assert scale.factor == 0.5
    constant.factor = 2.0
    assert constant.factor == 2.0
