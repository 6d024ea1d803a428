"""A damaged .npz file is refused, or gives what was written."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from fastbp import Adam, Linear, Sequential, SoftmaxCrossEntropy, fit, load
from fastbp.archives import Damaged, read_arrays

rng = np.random.default_rng(0)


def bits(arrays):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


@pytest.fixture
def written(tmp_path):
    """Arrays, one of them larger than what NumPy reads at once, and their file."""
    arrays = {"w": rng.normal(size=(60, 50)).astype(np.float32), "key": np.array(3, np.uint64), "text": np.array("ß")}
    np.savez(tmp_path / "it.npz", **arrays)
    return arrays, tmp_path / "it.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, written, save):
    arrays, path = written
    save(path, **arrays)
    assert bits(read_arrays(path)) == bits(arrays)
    assert bits(read_arrays(str(path), "key")) == bits({"key": arrays["key"]})


def test_every_flipped_bit_is_refused_or_changes_nothing(written):
    """In every byte of the heads, and in some elsewhere. The list of the parts may lack some, and is right for the
    others."""
    arrays, path = written
    content, marks = path.read_bytes(), (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY")
    near = {at + k for mark in marks for at in places(mark, content) for k in range(120)}
    chosen = sorted(place for place in near if place < len(content)) + rng.integers(0, len(content), 200).tolist()
    refused = 0
    for place in chosen:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert bits(read_arrays(path)).items() <= bits(arrays).items(), place
        except Damaged:
            refused += 1
    assert refused > 0.5 * len(chosen)


def places(mark, content):
    at = content.find(mark)
    while at >= 0:
        yield at
        at = content.find(mark, at + 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'<f4'", b"'<f2'"),  # half of the numbers, whose checksum NumPy would not compare
        (b"(60, 50)", b"(30, 50)"),
        (b"w.npy", b"w\0npy"),  # no name of an array
        (b"{'descr'", b"['descr'"),  # an error of Python's tokenizer
    ],
)
def test_damaged_heads_give_no_other_numbers(written, old, new):
    _, path = written
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new))
    assert path.read_bytes() != content
    with pytest.raises(Damaged):
        read_arrays(path)


def test_an_encrypted_part_and_a_name_that_stands_twice_are_refused(written):
    _, path = written
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for number in range(2):
            file = io.BytesIO()
            np.save(file, np.array(number))
            archive.writestr("a.npy", file.getvalue())
    with pytest.raises(Damaged):
        read_arrays(path)


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_arrays(tmp_path / "nowhere.npz")
    assert error.value.filename == str(tmp_path / "nowhere.npz")


def test_a_network_with_a_damaged_dtype_is_refused(tmp_path):
    path = tmp_path / "network.npz"
    Sequential(Linear(100, 100)).save(path)
    path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'<f2'", 1))
    with pytest.raises(ValueError, match="network.npz is not a network saved by fastbp, or it is damaged"):
        load(path)


# -- trainings to go on with -------------------------------------------------------------------------------------------

X, LABELS = rng.normal(size=(12, 4)).astype(np.float32), rng.integers(0, 3, 12)


class Training:
    def __init__(self, path):
        self.path = path
        self.network, self.optimizer = Sequential(Linear(4, 3), seed=1), Adam(lr=0.01)

    def fit(self, epochs):
        given = {"epochs": epochs, "progress": False, "resume": self.path}
        fit(self.network, SoftmaxCrossEntropy(), self.optimizer, (X, LABELS), **given)
        return self.now()

    def now(self):
        state = {name: array.tobytes() for name, array in self.optimizer.state.items()}
        return self.network.parameter_vector.tobytes(), state, self.optimizer.steps, self.optimizer.lr


def rewritten(path, **changed):
    """The file with other arrays or values of its header, all checksums right."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["training"]))
    header |= {name: value for name, value in changed.items() if name in header}
    arrays |= {name: value for name, value in changed.items() if name in arrays}
    np.savez(path, **arrays | {"training": np.array(json.dumps(header))})


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 1.5},
        {"epochs": "2"},
        {"epochs": -1},
        {"steps": {}},
        {"steps": 1.5},
        {"lr": None},
        {"stop_reason": 3},
        {"arrays": 3},
        {"training": None},
        {"optimizer.first": np.zeros(2, np.float32)},
        {"optimizer.second": np.zeros(15)},
        {"optimizer.second": np.array("a")},
        {"history.train_loss": np.zeros((2, 2))},
        {"history.train_loss": np.zeros(1)},
        {"history.seconds": np.array(["a", "b"])},
        {"network.0.weight": np.zeros((3, 5), np.float32)},
        {"network.0.weight": np.full((3, 4), "a")},
    ],
    ids=str,
)
def test_a_training_that_does_not_fit_changes_nothing(tmp_path, changed):
    path = tmp_path / "run.npz"
    expected = Training(path).fit(2)
    assert Training(path).fit(2) == expected  # it is read
    rewritten(path, **changed)
    training, before, content = Training(path), Training(path).now(), path.read_bytes()
    with pytest.raises(ValueError, match="run.npz"):
        training.fit(4)
    assert training.now() == before and path.read_bytes() == content and os.listdir(tmp_path) == ["run.npz"]
