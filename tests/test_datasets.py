"""The data room: readers, lookup, downloads, the four sets, and cutting them up."""

import gzip
import hashlib
import io
import lzma
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fastbp.datasets as datasets
import fastbp.files as files_module
from fastbp.datasets import DataError, DataNotFoundError, Dataset, Split, lookup, places, published, sets
from fastbp.datasets import download as download_module
from fastbp.datasets.download import Remote, download, extract

REAL = os.environ.get("FASTBP_DATA")
MNIST_NAMES = [remote.name for remote in published.MNIST]
quick = settings(deadline=None, max_examples=60)


def real(folder):
    there = bool(REAL) and Path(REAL, folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs FASTBP_DATA with a folder {folder}")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """No data, no network, an empty user cache; its path is the value."""
    monkeypatch.delenv("FASTBP_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.setattr(download_module, "open_url", offline)
    return tmp_path / "cache" / "fastbp" / "data"


def offline(url):
    raise OSError("no network here")


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Making files


def idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + (array.tobytes())


def digit_images(count, seed=0, shape=(28, 28)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), (np.arange(count) % 10).astype(np.uint8)


def idx_files(train=30, test=20, pack=lambda data: gzip.compress(data, 1)):
    """The four files as {stem: content}, and the arrays they hold."""
    arrays = (*digit_images(train, 1), *digit_images(test, 2))
    names = (*places.TRAIN, *places.TEST)
    return {name: pack(idx(array)) for name, array in zip(names, arrays, strict=True)}, arrays


def put(folder, contents, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / (name + suffix)).write_bytes(data)
    return folder


def cifar_file(count, seed=0):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (count, 3073), np.uint8)
    records[:, 0] = np.arange(count) % 10
    return records.tobytes()


def cifar_files(count=10):
    return {name: cifar_file(count, seed) for seed, name in enumerate(places.CIFAR_BATCHES)}


def image_folder(folder, names="AB", count=3, size=(28, 28), mode="L", suffix=".png"):
    rng = np.random.default_rng(0)
    arrays = []
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            shape = size if mode == "L" else (*size, 3)
            arrays.append(rng.integers(0, 256, shape, np.uint8))
            Image.fromarray(arrays[-1]).save(folder / name / f"{k}{suffix}")
    return np.stack(arrays)


# The module


def test_import_is_cheap_and_independent():
    folder = Path(datasets.__file__).parent
    code = (
        "import sys, types\n"
        "package = sys.modules['fastbp'] = types.ModuleType('fastbp')\n"
        f"package.__path__ = [{str(folder.parent)!r}]\n"
        "import fastbp.datasets\n"
        "fastbp.datasets.digits()\n"
        "heavy = {'PIL', 'tqdm', 'urllib.request', 'tarfile', 'platformdirs', 'http', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('fastbp.')}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[:2] == ["[]", "['arguments', 'datasets', 'files']"]


def test_public_names_exist():
    assert all(hasattr(datasets, name) for name in datasets.__all__)
    assert issubclass(DataNotFoundError, DataError)
    assert issubclass(DataNotFoundError, FileNotFoundError)


# digits


def test_digits_counts_and_range():
    data = datasets.digits()
    assert isinstance(data, Dataset) and isinstance(data.train, Split)
    assert data.name == "digits" and data.classes == tuple("0123456789")
    assert len(data.train.y) + len(data.test.y) == 1797
    assert data.input_shape == (1, 8, 8)
    for x, y in (data.train, data.test):
        assert x.shape == (len(y), 1, 8, 8) and x.dtype == np.float32 and x.flags.c_contiguous
        assert y.dtype == np.int64
        assert x.min() == 0 and x.max() == 1


@pytest.mark.peers
def test_digits_equal_the_source():
    load_digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits
    source = load_digits()
    data = datasets.digits(np.float64)
    x, y = np.concatenate([data.train.x, data.test.x]), np.concatenate([data.train.y, data.test.y])
    ours = {(*row.ravel(), label) for row, label in zip(x * 16, y, strict=True)}
    theirs = {(*row, label) for row, label in zip(source.data, source.target, strict=True)}
    assert ours == theirs
    np.testing.assert_array_equal(np.bincount(y), np.bincount(source.target))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_digits_are_stratified(fraction):
    data = datasets.digits(test_fraction=fraction, seed=3)
    train, test = np.bincount(data.train.y), np.bincount(data.test.y)
    assert train.sum() + test.sum() == 1797
    np.testing.assert_allclose(test, fraction * (train + test), atol=0.51)


def test_digits_seed():
    first, again, other = datasets.digits(seed=1), datasets.digits(seed=1), datasets.digits(seed=2)
    np.testing.assert_array_equal(first.test.x, again.test.x)
    assert not np.array_equal(first.test.x, other.test.x)
    assert datasets.digits(np.float64).train.x.dtype == np.float64


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 0.001, 0.999, float("nan")])
def test_digits_fraction_checked(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        datasets.digits(test_fraction=fraction)


@pytest.mark.parametrize("load", [datasets.digits, datasets.mnist, datasets.cifar10])
def test_dtype_must_be_floating(load):
    with pytest.raises(TypeError, match="floating"):
        load(dtype=np.int32)


def test_digits_licence_is_shipped():
    text = Path(datasets.__file__).with_name("digits.LICENSE.txt").read_text("utf-8")
    for part in ("Alpaydin", "Kaynak", "10.24432/C50P49", "licenses/by/4.0", "scikit-learn"):
        assert part in text


def test_repr_is_short_and_dataset_frozen():
    data = datasets.digits()
    assert repr(data) == (
        f"Dataset('digits', train={len(data.train.y)}, test={len(data.test.y)}, "
        "input_shape=(1, 8, 8), classes=10, dtype=float32)"
    )
    assert "float32" in repr(data.train) and len(repr(data.train)) < 100
    assert data == data and data != datasets.digits()
    with pytest.raises(AttributeError):
        data.name = "other"


# idx


@pytest.mark.portable
@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(0, 4), max_size=5), packed=st.booleans())
def test_idx_round_trip(tmp_path_factory, shape, packed):
    array = np.arange(np.prod(shape, dtype=int)).astype(np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = datasets.read_idx(path)
    assert found.dtype == np.uint8 and found.shape == tuple(shape)
    np.testing.assert_array_equal(found, array)


def test_idx_by_content_not_name_and_writable(tmp_path):
    plain, packed = tmp_path / "plain.gz", tmp_path / "packed"
    plain.write_bytes(idx([[1, 2], [3, 4]]))
    packed.write_bytes(gzip.compress(idx([[1, 2], [3, 4]])))
    for path in (plain, str(packed)):
        array = datasets.read_idx(path)
        assert array.tolist() == [[1, 2], [3, 4]]
        array[0, 0] = 9


GOOD = idx(np.arange(12).reshape(3, 4))
BAD_IDX = {
    "empty": (b"", "4-byte idx header"),
    "short magic": (GOOD[:3], "4-byte idx header"),
    "magic": (b"\1" + GOOD[1:], "starting with bytes 00 00"),
    "text": (b"<html>not found</html>", "starting with bytes 00 00"),
    "type code": (GOOD[:2] + b"\x0d" + GOOD[3:], "type code 0x08.*found 0x0d"),
    "cut header": (GOOD[:9], "header of 12 bytes"),
    "truncated": (GOOD[:-1], "expected 24 bytes .*found 23"),
    "trailing": (GOOD + b"x", "expected 24 bytes .*found 25"),
    "huge": (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "found 19 bytes"),
    "huge, none": (b"\0\0\x08\x04" + b"\xff" * 12 + b"\0" * 4, "usable idx shape"),
    "rank": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", "rank of at most"),
}


@pytest.mark.parametrize("case", BAD_IDX)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_idx(tmp_path, case, packed):
    data, message = BAD_IDX[case]
    path = tmp_path / "some-file"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=message) as error:
        datasets.read_idx(path)
    assert str(path) in str(error.value)


def damaged(data):
    middle = len(data) // 2
    return {
        "truncated": data[:-3],
        "cut early": data[:9],
        "trailing": data + b"junk",
        "flipped": data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :],
        "bad checksum": data[:-8] + bytes([data[-8] ^ 1]) + data[-7:],
    }


@pytest.mark.parametrize("how", damaged(bytes(20)))
def test_damaged_gzip(tmp_path, how):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50))
    path = tmp_path / "a.gz"
    path.write_bytes(damaged(gzip.compress(idx(noise)))[how])
    with pytest.raises(DataError, match="a.gz"):
        datasets.read_idx(path)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        datasets.read_idx(tmp_path / "none")


# CIFAR batches


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_cifar_batch(tmp_path, pack):
    raw = cifar_file(7)
    path = tmp_path / "batch"
    path.write_bytes(pack(raw))
    images, labels = datasets.read_cifar_batch(path)
    assert images.shape == (7, 3, 32, 32) and images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous and labels.tolist() == list(range(7))
    assert images[2, 1, 3, 4] == raw[2 * 3073 + 1 + 1024 + 3 * 32 + 4]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_joined_and_padded_streams(tmp_path, pack):
    path = tmp_path / "batch"
    path.write_bytes(pack(cifar_file(2)) + bytes(8) + pack(cifar_file(3)) + bytes(4))
    assert len(datasets.read_cifar_batch(path)[1]) == 5


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "whole number of 3073-byte.*found 0 bytes"),
        (cifar_file(2)[:-1], "found 6145 bytes"),
        (cifar_file(2) + b"x", "found 6147 bytes"),
        (b"\x0a" + cifar_file(2)[1:], "labels 0..9, found 10"),
    ],
)
def test_bad_cifar_batch(tmp_path, pack, raw, message):
    path = tmp_path / "batch.bin"
    path.write_bytes(pack(raw))
    with pytest.raises(DataError, match=message) as error:
        datasets.read_cifar_batch(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("how", damaged(bytes(20)))
def test_damaged_cifar_batch(tmp_path, pack, how):
    path = tmp_path / "batch.bin"
    path.write_bytes(damaged(pack(cifar_file(3)))[how])
    with pytest.raises(DataError, match="batch.bin"):
        datasets.read_cifar_batch(path)


# Image folders


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_image_folder(tmp_path, mode, channels):
    arrays = image_folder(tmp_path / "set", names="BA", size=(5, 7), mode=mode)
    images, labels, classes = datasets.read_image_folder(tmp_path / "set")
    assert images.dtype == np.uint8 and images.shape == (6, channels, 5, 7)
    assert classes == ("A", "B") and labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert labels.dtype == np.int64
    expected = arrays.reshape(6, 5, 7, channels).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images, np.concatenate([expected[3:], expected[:3]]))


def test_image_folder_ignores_the_rest(tmp_path):
    image_folder(tmp_path / "set")
    (tmp_path / "set" / ".hidden").mkdir()
    (tmp_path / "set" / "readme.txt").write_text("x")
    (tmp_path / "set" / "A" / "Thumbs.db").write_text("x")
    (tmp_path / "set" / "A" / "._0.png").write_text("x")
    assert len(datasets.read_image_folder(tmp_path / "set")[0]) == 6


@pytest.mark.portable
def test_image_folder_formats_and_modes(tmp_path):
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    grey = Image.fromarray(np.full((4, 4), 200, np.uint8))
    grey.save(folder / "0.JPG", quality=100)
    grey.convert("1").save(folder / "1.png")
    grey.convert("LA").save(folder / "2.png")
    images, _, _ = datasets.read_image_folder(tmp_path / "set")
    assert images.shape == (3, 1, 4, 4) and abs(int(images[0, 0, 0, 0]) - 200) < 3
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    red.save(folder / "3.png")
    red.convert("RGB").quantize(4).save(folder / "4.png")
    images, _, _ = datasets.read_image_folder(tmp_path / "set")
    assert images.shape == (5, 3, 4, 4)
    assert images[2, :, 0, 0].tolist() == [200] * 3
    assert images[3, :, 0, 0].tolist() == images[4, :, 0, 0].tolist() == [255, 0, 0]


def spoil(folder):
    whole = (folder / "A" / "0.png").read_bytes()
    (folder / "A" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "A" / "2.png").write_bytes(b"")
    (folder / "B" / "0.png").write_bytes(b"nonsense")


def test_unreadable_images(tmp_path):
    image_folder(tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(DataError, match=r"A.1\.png: expected a readable image"):
        datasets.read_image_folder(tmp_path / "set")
    with pytest.warns(UserWarning, match="skipped 3 unreadable") as caught:
        images, labels, _ = datasets.read_image_folder(tmp_path / "set", skip_unreadable=True)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert labels.tolist() == [0, 1, 1] and len(images) == 3


def test_bad_image_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        datasets.read_image_folder(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="one sub-folder for each class"):
        datasets.read_image_folder(empty)
    (empty / "A").mkdir()
    with pytest.raises(DataError, match="expected image files, found none"):
        datasets.read_image_folder(empty)
    (empty / "A" / "0.png").write_bytes(b"x")
    with pytest.raises(DataError, match="expected readable images, found none"):
        datasets.read_image_folder(empty, skip_unreadable=True)
    image_folder(tmp_path / "set")
    odd = tmp_path / "set" / "B" / "1.png"
    Image.new("L", (28, 27)).save(odd)
    with pytest.raises(DataError, match=r"B.1\.png.*28x28.*found 27x28"):
        datasets.read_image_folder(tmp_path / "set")
    Image.fromarray(np.zeros((28, 28), np.uint16)).save(odd)
    with pytest.raises(DataError, match="8-bit"):
        datasets.read_image_folder(tmp_path / "set", skip_unreadable=True)


# mnist: places, names, order


@pytest.mark.parametrize("place", ["mnist", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist(tmp_path, place, suffix):
    contents, arrays = idx_files(pack=gzip.compress if suffix else bytes)
    put(tmp_path / "root" / place, contents, suffix)
    data = datasets.mnist(tmp_path / "root")
    assert data.name == "mnist" and data.input_shape == (1, 28, 28)
    assert data.train.x.dtype == np.float32 and data.train.y.dtype == np.int64
    np.testing.assert_array_equal(data.train.x[:, 0], arrays[0].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.test.y, arrays[3])
    assert data.train.x.max() == 1 and data.train.x.flags.c_contiguous
    assert datasets.mnist(str(tmp_path / "root"), np.float64).test.x.dtype == np.float64


def test_mnist_dotted_names(tmp_path):
    contents, _ = idx_files(pack=bytes)
    dotted = {name.replace("-idx", ".idx"): data for name, data in contents.items()}
    assert len(datasets.mnist(put(tmp_path / "root", dotted)).test.y) == 20


def test_explicit_folder_never_falls_through(tmp_path, monkeypatch, cache):
    contents, _ = idx_files()
    put(cache / "mnist", contents, ".gz")
    monkeypatch.setenv("FASTBP_DATA", str(cache))
    partial = put(tmp_path / "root" / "mnist", contents, ".gz")
    (partial / MNIST_NAMES[1]).unlink()
    with pytest.raises(DataNotFoundError) as error:
        datasets.mnist(tmp_path / "root")
    text = str(error.value)
    assert "train-labels-idx1-ubyte" in text and str(partial) in text
    assert "t10k" not in text  # only what is missing
    for load, name in (
        (datasets.mnist, "train-images-idx3-ubyte"),
        (datasets.notmnist, "t10k-labels-idx1-ubyte"),
        (datasets.cifar10, "test_batch.bin"),
    ):
        with pytest.raises(DataNotFoundError, match=name):
            load(tmp_path / "nowhere")


@pytest.mark.portable
def test_lookup_order(tmp_path, monkeypatch, cache):
    for count, folder in ((11, tmp_path / "given"), (12, tmp_path / "env"), (13, cache)):
        put(folder / "mnist", idx_files(test=count)[0], ".gz")
    assert len(datasets.mnist().test.y) == 13
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "env"))
    assert len(datasets.mnist().test.y) == 12
    assert len(datasets.mnist(tmp_path / "given").test.y) == 11
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "nothing-here"))
    assert len(datasets.mnist().test.y) == 13
    monkeypatch.setenv("FASTBP_DATA", "")
    assert len(datasets.mnist().test.y) == 13


def test_tilde_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(tmp_path / "d", idx_files()[0], ".gz")
    assert len(datasets.mnist("~/d").test.y) == 20


MISMATCHED = {
    "count": (0, idx(digit_images(29)[0]), r"labels of shape \(29,\)", 1),
    "size": (0, idx(digit_images(30, shape=(27, 28))[0]), r"\(N, 28, 28\), found", 0),
    "rank": (0, idx(np.zeros(30)), r"\(N, 28, 28\), found \(30,\)", 0),
    "none": (0, idx(np.zeros((0, 28, 28))), r"\(N, 28, 28\), found", 0),
    "label": (1, idx([10] * 30), "labels 0..9, found 10", 1),
    "label rank": (1, idx(np.zeros((30, 1))), r"labels of shape \(30,\)", 1),
    "damaged": (1, b"\x1f\x8bxxxxxxxxxxx", "gzip", 1),
}


@pytest.mark.parametrize("case", MISMATCHED)
def test_mismatched_idx_files(tmp_path, case):
    index, data, message, blamed = MISMATCHED[case]
    contents, _ = idx_files(pack=bytes)
    contents[places.TRAIN[index]] = data
    put(tmp_path / "root", contents)
    with pytest.raises(DataError, match=message) as error:
        datasets.mnist(tmp_path / "root")
    assert not isinstance(error.value, DataNotFoundError)
    assert str(tmp_path / "root" / places.TRAIN[blamed]) in str(error.value)


# notmnist


def test_notmnist_sample_alone(tmp_path):
    images, labels = digit_images(10)
    contents = {places.TEST[0]: gzip.compress(idx(images)), places.TEST[1]: idx(labels)}
    put(tmp_path / "notmnist", contents, ".gz")
    data = datasets.notmnist(tmp_path)
    assert data.classes == tuple("ABCDEFGHIJ") and data.name == "notmnist"
    assert data.train.y.tolist() == list(range(8)) and data.test.y.tolist() == [8, 9]
    np.testing.assert_array_equal(data.test.x[:, 0], images[8:].astype(np.float32) / 255)
    put(tmp_path / "notmnist", {places.TEST[0]: idx(images[:1]), places.TEST[1]: idx(labels[:1])})
    with pytest.raises(DataError, match="at least 2"):
        datasets.notmnist(tmp_path)


def test_notmnist_pairs(tmp_path):
    contents, _ = idx_files(30, 20)
    folder = put(tmp_path / "notmnist", contents, ".gz")
    data = datasets.notmnist(tmp_path)
    assert (len(data.train.y), len(data.test.y)) == (30, 20)
    (folder / f"{places.TRAIN[1]}.gz").unlink()
    with pytest.raises(DataError, match="expected both train-images"):
        datasets.notmnist(tmp_path)
    with pytest.raises(DataNotFoundError):
        datasets.notmnist(folder)  # MNIST's files have the same names: no guessing here


@pytest.mark.parametrize("place", ["", "notMNIST_small", "notMNIST_large"])
def test_notmnist_image_folders(tmp_path, place):
    folder = tmp_path / "notmnist" / place
    image_folder(folder, names="ABCDEFGHIJ", count=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = datasets.notmnist(tmp_path)
    assert (len(data.train.y), len(data.test.y)) == (32, 8)
    assert np.bincount(np.concatenate([data.train.y, data.test.y])).tolist() == [4] * 10
    assert data.train.y.tolist() != sorted(data.train.y)
    np.testing.assert_array_equal(datasets.notmnist(tmp_path).test.x, data.test.x)
    spoil(folder)
    with pytest.warns(UserWarning, match="skipped 3 unreadable") as caught:
        data = datasets.notmnist(tmp_path)
    assert len(caught) == 1 and len(data.train.y) + len(data.test.y) == 37


def test_notmnist_image_shape(tmp_path):
    image_folder(tmp_path / "notmnist", names="ABCDEFGHIJ", count=1, size=(8, 8))
    with pytest.raises(DataError, match="28x28"):
        datasets.notmnist(tmp_path)


# cifar10


@pytest.mark.parametrize("place", ["cifar10", "cifar-10-batches-bin", "."])
@pytest.mark.parametrize("suffix, pack", [("", bytes), (".xz", lzma.compress), (".gz", None)])
def test_cifar10(tmp_path, place, suffix, pack):
    contents = cifar_files(4)
    packed = {name: (pack or gzip.compress)(data) for name, data in contents.items()}
    put(tmp_path / place, packed, suffix)
    data = datasets.cifar10(tmp_path, np.float64)
    assert data.classes == sets.CIFAR_CLASSES and data.input_shape == (3, 32, 32)
    assert data.train.y.tolist() == [0, 1, 2, 3] * 5 and data.test.y.dtype == np.int64
    assert data.train.x.shape == (20, 3, 32, 32) and data.train.x.dtype == np.float64
    raw = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(-1, 3073)[:, 1:]
    both = np.concatenate([data.train.x, data.test.x])
    np.testing.assert_array_equal(both, raw.reshape(-1, 3, 32, 32) / 255)
    assert data.train.x.flags.c_contiguous and data.test.x.flags.c_contiguous


def test_cifar10_class_names(tmp_path):
    put(tmp_path, cifar_files(1))
    meta = tmp_path / "batches.meta.txt"
    meta.write_text("\n".join("abcdefghij") + "\n\n")
    assert datasets.cifar10(tmp_path).classes == tuple("abcdefghij")
    meta.write_text("a\nb\n")
    with pytest.raises(DataError, match="10 class names, found 2"):
        datasets.cifar10(tmp_path)
    meta.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="class names as text"):
        datasets.cifar10(tmp_path)


def test_cifar10_missing_batch(tmp_path):
    put(tmp_path / "cifar10", cifar_files(1))
    (tmp_path / "cifar10" / "data_batch_3.bin").unlink()
    with pytest.raises(DataNotFoundError, match="data_batch_3.bin") as error:
        datasets.cifar10(tmp_path)
    assert "data_batch_2" not in str(error.value)


# Downloads


class Server:
    def __init__(self):
        self.contents, self.asked = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                data = server.contents.get(self.path)
                if data is None:
                    return self.send_error(404)
                cut = self.path.startswith("/cut/")
                self.send_response(200)
                self.send_header("Content-Length", str(len(data) + 10 * cut))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def offer(self, contents, bases=("/a/",), serve=("/a/",), algorithm="sha256"):
        """Remotes for {name: data} with addresses under bases, served under some of them."""
        for folder in serve:
            self.contents |= {folder + name: data for name, data in contents.items()}
        return tuple(
            Remote(
                name,
                tuple(self.base + folder + name for folder in bases),
                algorithm,
                hashlib.new(algorithm, data).hexdigest(),
            )
            for name, data in contents.items()
        )

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


OPEN_URL = download_module.open_url


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_module, "open_url", OPEN_URL)
    server = Server()
    yield server
    server.close()


def gz_named(contents):
    return {name + ".gz": data for name, data in contents.items()}


def test_published_addresses():
    mnist, cifar = published.MNIST, published.CIFAR
    assert mnist[0].urls == (
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
    )
    assert cifar.urls == ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    assert (cifar.algorithm, cifar.digest) == ("md5", "c32a1d4ab5d03f1284b67883e8d87530")
    everything = [*mnist, *published.NOTMNIST, cifar]
    assert all(url.startswith("https://") for remote in everything for url in remote.urls)
    assert len({remote.digest for remote in everything}) == 7
    assert 0 < download_module.TIMEOUT <= 60


def test_mnist_download_once(monkeypatch, cache, server, capsys):
    contents, arrays = idx_files()
    monkeypatch.setattr(sets, "MNIST", server.offer(gz_named(contents)))
    data = datasets.mnist()
    np.testing.assert_array_equal(data.train.y, arrays[1])
    assert leftovers(cache) == sorted(MNIST_NAMES)
    assert len(server.asked) == 4
    datasets.mnist()
    assert len(server.asked) == 4
    assert capsys.readouterr() == ("", "")  # no progress where there is no terminal


def test_download_resumes_after_whole_files(monkeypatch, cache, server):
    contents = gz_named(idx_files()[0])
    monkeypatch.setattr(sets, "MNIST", server.offer(contents))
    folder = put(cache / "mnist", {MNIST_NAMES[0]: contents[MNIST_NAMES[0]]})
    (folder / MNIST_NAMES[1]).write_bytes(b"damaged")
    datasets.mnist()
    assert [path.split("/")[-1] for path in server.asked] == MNIST_NAMES[1:]


def test_notmnist_download(monkeypatch, cache, server):
    contents = gz_named({name: idx_files()[0][name] for name in places.TEST})
    monkeypatch.setattr(sets, "NOTMNIST", server.offer(contents))
    assert len(datasets.notmnist().train.y) == 16
    assert leftovers(cache) == sorted(contents)
    assert (cache / "notmnist").is_dir()


def test_file_address(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "open_url", OPEN_URL)
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    remote = Remote("x", (source.as_uri(),), "md5", hashlib.md5(b"abc").hexdigest())
    assert download(remote, tmp_path / "to" / "there").read_bytes() == b"abc"


@pytest.mark.parametrize("first", ["/absent/", "/wrong/", "/cut/", "/a/../refused/"])
def test_second_mirror(tmp_path, server, first):
    (remote,) = server.offer({"x": b"right"}, bases=(first, "/b/"), serve=("/b/",))
    server.contents |= {"/wrong/x": b"wrong", "/cut/x": b"righ"}
    assert download(remote, tmp_path / "to").read_bytes() == b"right"
    assert leftovers(tmp_path) == ["x"]


def test_wrong_checksum_leaves_nothing(monkeypatch, cache, server):
    contents = gz_named(idx_files()[0])
    remotes = server.offer(contents)
    server.contents[f"/a/{MNIST_NAMES[0]}"] = b"a page that asks you to log in"
    monkeypatch.setattr(sets, "MNIST", remotes)
    with pytest.raises(DataNotFoundError, match="expected sha256") as error:
        datasets.mnist()
    assert remotes[0].digest in str(error.value)
    assert leftovers(cache) == []


def test_silent_server_times_out(tmp_path, monkeypatch, server):
    monkeypatch.setattr(download_module, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(DataError, match="timed out"):
            download(Remote("x", (url,), "md5", "0"), tmp_path)
    assert leftovers(tmp_path) == []


class Interrupted(io.BytesIO):
    def read(self, size=-1):
        data = super().read(5)
        if not data:
            raise KeyboardInterrupt
        return data


def test_interrupt_leaves_nothing(monkeypatch, cache):
    monkeypatch.setattr(download_module, "open_url", lambda url: Interrupted(b"0123456789"))
    for load in (datasets.mnist, datasets.notmnist, datasets.cifar10):
        with pytest.raises(KeyboardInterrupt):
            load()
    assert leftovers(cache) == []


def test_file_has_no_final_name_before_it_is_whole(tmp_path, monkeypatch):
    seen = []

    class Watching(io.BytesIO):
        def read(self, size=-1):
            seen.append(leftovers(tmp_path))
            return super().read(size)

    monkeypatch.setattr(download_module, "open_url", lambda url: Watching(b"abc"))
    download(Remote("x", ("u",), "md5", hashlib.md5(b"abc").hexdigest()), tmp_path)
    assert len(seen) == 2 and all(len(names) == 1 and names != ["x"] for names in seen)
    assert leftovers(tmp_path) == ["x"]


def test_many_at_once(monkeypatch, cache, server):
    monkeypatch.setattr(sets, "MNIST", server.offer(gz_named(idx_files()[0])))
    results = []
    threads = [threading.Thread(target=lambda: results.append(datasets.mnist())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and leftovers(cache) == sorted(MNIST_NAMES)


def test_another_process_finished_first(monkeypatch, cache):
    def meanwhile(url):
        put(cache / "mnist", gz_named(idx_files()[0]))
        raise OSError("broken")

    monkeypatch.setattr(download_module, "open_url", meanwhile)
    assert len(datasets.mnist().test.y) == 20


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_only(tmp_path, monkeypatch, server, capsys):
    (remote,) = server.offer({"x": bytes(100_000)})
    monkeypatch.setattr(sys, "stderr", Terminal())
    download(remote, tmp_path / "1")
    assert "x: 100%" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    download(remote, tmp_path / "2")
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)
    download(remote, tmp_path / "3")
    assert capsys.readouterr().out == ""


class BrokenTerminal(Terminal):
    def write(self, text):
        raise OSError("gone")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [BrokenTerminal(), closed(), object()])
def test_a_broken_standard_error_does_not_cost_the_download(tmp_path, monkeypatch, server, stream):
    (remote,) = server.offer({"x": bytes(300_000)})
    monkeypatch.setattr(sys, "stderr", stream)
    assert download(remote, tmp_path).stat().st_size == 300_000
    assert server.asked == ["/a/x"]


@pytest.mark.parametrize(
    "load, names",
    [
        (datasets.mnist, MNIST_NAMES),
        (datasets.notmnist, MNIST_NAMES[2:]),
        (datasets.cifar10, [*places.CIFAR_BATCHES, "batches.meta.txt"]),
    ],
)
def test_offline_error_says_what_to_do(tmp_path, monkeypatch, cache, load, names):
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataNotFoundError) as error:
        load()
    text = str(error.value)
    assert all(name in text for name in names)
    assert str(cache / load.__name__) in text and str(tmp_path / "mine") in text
    assert "FASTBP_DATA" in text and "no network here" in text and "https://" in text
    assert leftovers(cache) == []


def test_unwritable_cache(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(blocked / name))
    with pytest.raises(DataNotFoundError, match="cannot make the folder") as error:
        datasets.mnist()
    assert "FASTBP_DATA" in str(error.value)


def test_read_only_cache(monkeypatch, cache):
    folder = cache / "mnist"
    folder.mkdir(parents=True)
    opened = []
    monkeypatch.setattr(download_module, "open_url", opened.append)
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):  # as root: let the system call itself refuse
            folder.chmod(0o700)

            def refuse(path, mode="r", *rest, **more):
                if "x" in mode:
                    raise PermissionError(13, "Permission denied", str(path))
                return open(path, mode, *rest, **more)

            monkeypatch.setattr(files_module, "open", refuse, raising=False)
        with pytest.raises(DataNotFoundError, match="cannot write") as error:
            datasets.mnist()
    finally:
        folder.chmod(0o700)
    assert "FASTBP_DATA" in str(error.value) and not opened


@pytest.mark.portable
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG convention")
def test_no_home_directory(tmp_path):
    code = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "import fastbp.datasets as d, fastbp.datasets.download as w\n"
        "def offline(url): raise OSError('offline')\n"
        "w.open_url = offline\n"
        "print(len(d.digits().train.y))\n"
        "try: d.mnist()\n"
        "except d.DataNotFoundError as error: print(error)\n"
        "print(os.listdir('.'))"
    )
    path = os.pathsep.join(filter(None, [*sys.path]))
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert "no home directory" in found.stdout and "FASTBP_DATA" in found.stdout
    assert "train-images-idx3-ubyte.gz" in found.stdout
    assert found.stdout.endswith("[]\n")


def test_unusable_cache_convention(monkeypatch):
    def broken(name):
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_cache_dir", broken)
    assert lookup.user_cache() is None
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: "~/.cache/fastbp")
    assert lookup.user_cache() is None


def tar_gz(contents, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def cifar_members(**more):
    members = {f"cifar-10-batches-bin/{name}": data for name, data in cifar_files(2).items()}
    return members | more


def test_cifar_download(monkeypatch, tmp_path, cache, server):
    archive = tar_gz(
        cifar_members()
        | {
            "cifar-10-batches-bin/batches.meta.txt": "\n".join("abcdefghij").encode(),
            "cifar-10-batches-bin/readme.html": b"not wanted",
            "../../evil": b"not wanted",
            str(tmp_path / "absolute"): b"not wanted",
        }
    )
    (remote,) = server.offer({"cifar-10-binary.tar.gz": archive}, algorithm="md5")
    monkeypatch.setattr(published, "CIFAR", remote)
    data = datasets.cifar10()
    assert len(data.train.y) == 10 and data.classes == tuple("abcdefghij")
    everything = leftovers(tmp_path)
    assert everything == sorted([*places.CIFAR_BATCHES, "batches.meta.txt"])
    datasets.cifar10()
    assert len(server.asked) == 1


def test_cifar_archive_with_links_or_gaps(monkeypatch, cache, server):
    members = cifar_members()
    del members["cifar-10-batches-bin/test_batch.bin"]
    archive = tar_gz(members, [("cifar-10-batches-bin/test_batch.bin", "/etc/passwd")])
    (remote,) = server.offer({"cifar-10-binary.tar.gz": archive}, algorithm="md5")
    monkeypatch.setattr(published, "CIFAR", remote)
    with pytest.raises(DataNotFoundError, match="expected test_batch.bin inside"):
        datasets.cifar10()
    assert "test_batch.bin" not in leftovers(cache)


def test_cifar_wrong_checksum(monkeypatch, cache, server):
    (remote,) = server.offer({"cifar-10-binary.tar.gz": tar_gz(cifar_members())}, algorithm="md5")
    server.contents["/a/cifar-10-binary.tar.gz"] += b"x"
    monkeypatch.setattr(published, "CIFAR", remote)
    with pytest.raises(DataNotFoundError, match="expected md5"):
        datasets.cifar10()
    assert leftovers(cache) == []


@pytest.mark.parametrize("data", [b"no archive", tar_gz(cifar_members())[:-5000], b""])
def test_damaged_archive(tmp_path, data):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(data)
    wanted = {f"cifar-10-batches-bin/{name}": name for name in places.CIFAR_BATCHES}
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, wanted, tmp_path)
    assert not [name for name in leftovers(tmp_path) if name.endswith(".part")]
    assert all((tmp_path / n).stat().st_size == 6146 for n in leftovers(tmp_path) if "batch" in n)


def test_interrupt_while_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(tar_gz({"m": bytes(100)}))

    def interrupted(source, sinks):
        sinks[0](source.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr(download_module, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "a", {"m": "out"}, tmp_path)
    assert leftovers(tmp_path) == ["a"]


# split


@quick
@given(
    count=st.integers(1, 300),
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    spare=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_split_properties(count, weights, spare, seed):
    total = sum(weights) + spare
    fractions = [weight / total for weight in weights]
    x, y = np.arange(count, dtype=np.float32)[:, None], np.arange(count)
    try:
        pieces = datasets.split((x, y), fractions, seed)
    except ValueError as error:
        assert "empty piece" in str(error) and min(fractions) * count < 1.5
        return
    everything = np.concatenate([piece.y for piece in pieces])
    assert len(pieces) == len(fractions) and len(np.unique(everything)) == len(everything)
    for piece, fraction in zip(pieces, fractions, strict=True):
        assert isinstance(piece, Split) and len(piece.y)
        assert abs(len(piece.y) - fraction * count) <= 1 + 1e-6
        np.testing.assert_array_equal(piece.x[:, 0], piece.y)
        assert piece.x.dtype == np.float32
    if not spare:
        assert len(everything) == count
    again = datasets.split((x, y), fractions, seed)
    np.testing.assert_array_equal(everything, np.concatenate([piece.y for piece in again]))


def test_split_default_shuffles_and_rounds_safely():
    data = datasets.digits().train
    train, valid, test = datasets.split(data)
    assert len(train.y) + len(valid.y) + len(test.y) == len(data.y)
    assert not np.array_equal(train.y, data.y[: len(train.y)])
    assert len(datasets.split(data, [0.1] * 10)) == 10  # a sum of 0.999... in floating point
    assert not np.array_equal(datasets.split(data, seed=1)[0].y, train.y)


@pytest.mark.parametrize(
    "fractions, message",
    [
        ((), "positive"),
        ((0.5, 0), "positive"),
        ((-0.5, 1), "positive"),
        ((float("nan"),), "positive"),
        ((0.6, 0.5), "at most 1"),
        ((0.5, 0.01), "empty piece"),
    ],
)
def test_split_checks(fractions, message):
    with pytest.raises(ValueError, match=message):
        datasets.split((np.zeros((10, 2)), np.zeros(10, int)), fractions)


def test_split_needs_equal_lengths():
    with pytest.raises(ValueError, match="equal first dimensions"):
        datasets.split((np.zeros((10, 2)), np.zeros(9, int)))


@quick
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 3))
def test_distinct_keeps_the_first_of_equal_inputs(values, side):
    x, y = np.array(values, np.float32).repeat(side * side).reshape(-1, 1, side, side), np.arange(len(values))
    found = datasets.distinct((x, y))
    firsts = [n for n, value in enumerate(values) if value not in values[:n]]
    assert found.y.tolist() == firsts and np.array_equal(found.x, x[firsts]) and found.x.shape[1:] == x.shape[1:]
    assert not np.shares_memory(found.x, x)


def test_distinct_wants_as_many_labels_as_inputs():
    with pytest.raises(ValueError, match="equal first dimensions"):
        datasets.distinct((np.zeros((3, 2)), np.zeros(2, int)))
    with pytest.raises(ValueError, match="empty piece"):
        datasets.split((np.zeros((0, 2)), np.zeros(0, int)))


# normalize


@pytest.mark.parametrize("per, axes", [("channel", (0, 2, 3)), ("pixel", (0,))])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_normalize(monkeypatch, per, axes, dtype, tolerance):
    monkeypatch.setattr("fastbp.datasets.scaling.BLOCK", 100)  # many blocks
    rng = np.random.default_rng(0)
    train, test = (Split((rng.random((n, 3, 4, 5)) * 7 + 100).astype(dtype), np.arange(n)) for n in (41, 9))
    before = train.x.copy()
    new_train, new_test = datasets.normalize(train, test, per=per)
    np.testing.assert_array_equal(train.x, before)
    mean = before.mean(axes, dtype=np.float64, keepdims=True)
    deviation = before.std(axes, dtype=np.float64, keepdims=True)
    for new, old in ((new_train, train), (new_test, test)):
        assert new.x.dtype == dtype and new.y is old.y and new.x.flags.c_contiguous
        np.testing.assert_allclose(new.x, (old.x - mean) / deviation, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("per", ["channel", "pixel"])
@pytest.mark.parametrize("value", [0.1, 0.0, 1e30, 1 / 3])
def test_normalize_constants(per, value):
    x = np.full((37, 2, 3, 3), value, np.float32)
    x[:, 1] = np.random.default_rng(0).random((37, 3, 3))
    other = np.full((2, 2, 3, 3), value, np.float32)
    (new, new_other) = datasets.normalize((x, np.zeros(37)), (other, np.zeros(2)), per=per)
    assert (new.x[:, 0] == 0).all() and (new_other.x[:, 0] == 0).all()
    assert abs(new.x[:, 1].std() - 1) < 1e-4


def test_normalize_alone_and_flat():
    (only,) = datasets.normalize(Split(np.arange(8.0).reshape(4, 2), np.zeros(4, int)))
    np.testing.assert_allclose(only.x.std(0), 1)
    train = datasets.digits().train
    (pixel,) = datasets.normalize(train, per="pixel")
    assert np.isfinite(pixel.x).all() and pixel.x.dtype == np.float32


def test_normalize_checks():
    def piece(*shape, dtype=np.float32):
        return Split(np.zeros(shape, dtype), np.zeros(shape[0], int))

    good = piece(3, 2, 4, 4)
    with pytest.raises(ValueError, match="per must be"):
        datasets.normalize(good, per="image")
    with pytest.raises(TypeError, match="floating"):
        datasets.normalize(piece(3, 2, 4, 4, dtype=np.uint8))
    with pytest.raises(TypeError, match="floating"):
        datasets.normalize(good, piece(3, 2, 4, 4, dtype=np.int64))
    for other in (piece(3, 3, 4, 4), piece(3, 2)):
        with pytest.raises(ValueError, match="shape"):
            datasets.normalize(good, other)
    assert len(datasets.normalize(good, piece(3, 2, 5, 5))) == 2
    with pytest.raises(ValueError, match="shape"):
        datasets.normalize(good, piece(3, 2, 5, 5), per="pixel")
    with pytest.raises(ValueError, match="shape"):
        datasets.normalize(piece(3))
    with pytest.raises(ValueError, match="empty"):
        datasets.normalize(piece(0, 2, 4, 4))
    good.x[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        datasets.normalize(good)


# batches


@quick
@given(count=st.integers(0, 60), size=st.integers(1, 70), seed=st.none() | st.integers(0, 99))
def test_batches_cover_everything(count, size, seed):
    x, y = np.arange(count * 2.0).reshape(count, 2), np.arange(count)
    rng = None if seed is None else np.random.default_rng(seed)
    found = list(datasets.batches(x, y, size, rng))
    assert [len(part) for _, part in found[:-1]] == [size] * (len(found) - 1)
    assert len(found) == -(-count // size)
    for xb, yb in found:
        np.testing.assert_array_equal(xb, x[yb])
    order = [label for _, part in found for label in part]
    assert sorted(order) == list(range(count))
    if rng is None:
        assert order == sorted(order)


def test_batches_order_is_fresh():
    x, y = np.zeros((100, 1)), np.arange(100)
    rng = np.random.default_rng(0)
    first, second = (np.concatenate([b for _, b in datasets.batches(x, y, 7, rng)]) for _ in "12")
    assert not np.array_equal(first, second) and not np.array_equal(first, y)
    xb, _ = next(datasets.batches(x, y, 10))
    assert np.shares_memory(xb, x)


def test_batches_checked_at_the_call():
    x, y = np.zeros((4, 1)), np.zeros(4, int)
    for size in (0, -1):
        with pytest.raises(ValueError, match="batch_size"):
            datasets.batches(x, y, size)
    with pytest.raises(TypeError):
        datasets.batches(x, y, 2.0)
    with pytest.raises(TypeError, match="Generator"):
        datasets.batches(x, y, 2, 0)
    with pytest.raises(ValueError, match="equal first"):
        datasets.batches(x, y[:3], 2)


# Data as people have it: layouts


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "MNIST", "mnist/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_as_torchvision_leaves_it(tmp_path, place, suffix):
    contents, arrays = idx_files(pack=gzip.compress if suffix else bytes)
    put(tmp_path / "root" / "FashionMNIST" / "raw", idx_files(10, 10)[0], ".gz")  # the same names
    put(tmp_path / "root" / place, contents, suffix)
    np.testing.assert_array_equal(datasets.mnist(tmp_path / "root").train.y, arrays[1])


def test_image_folders_with_what_systems_leave_in_them(tmp_path):
    arrays = image_folder(tmp_path / "set")
    for name in ("__MACOSX/A", "C", "D", ".ipynb_checkpoints", "@eaDir", "System Volume Information"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / "__MACOSX" / "A" / "._0.png").write_bytes(b"x")
    (tmp_path / "set" / "__MACOSX" / "0.png").write_bytes(b"x")
    for name in ("D/.DS_Store", "D/Thumbs.db", "D/desktop.ini", ".DS_Store", "A/.DS_Store", "A/._1.png"):
        (tmp_path / "set" / name).write_bytes(b"x")
    images, labels, classes = datasets.read_image_folder(tmp_path / "set")
    assert classes == ("A", "B") and labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(images[:, 0], arrays)
    (tmp_path / "set" / "C" / "photo.heic").write_bytes(b"x")  # not empty: images that nobody reads
    with pytest.raises(DataError, match=r"set.C: expected image files, found none"):
        datasets.read_image_folder(tmp_path / "set")


@pytest.mark.parametrize("place", ["", "notMNIST_small", "notMNIST_large", "notmnist/notMNIST_small"])
def test_notmnist_in_the_root_itself(tmp_path, place):
    folder = tmp_path / "root" / place
    image_folder(folder, names="ABCDEFGHIJ", count=2)
    for name in ("__MACOSX", "K", ".git"):
        (folder / name).mkdir()
    (folder / "B" / ".DS_Store").write_bytes(b"x")
    data = datasets.notmnist(tmp_path / "root")
    assert np.bincount(np.concatenate([data.train.y, data.test.y])).tolist() == [2] * 10
    for file in (folder / "D").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"D: expected image files, found none"):
        datasets.notmnist(tmp_path / "root")
    (folder / "D").rmdir()
    with pytest.raises(DataNotFoundError, match=r"has no D\)"):
        datasets.notmnist(tmp_path / "root")


# CIFAR-10's Python version


def python2(value):
    """The value as Python 2 pickles it in protocol 2, where bytes are what is called str there; some memos as well."""
    if isinstance(value, np.ndarray):
        kind = python2(value.dtype.str[1:].encode())
        order = python2(value.dtype.str[:1].encode())
        return (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\0\x85U\x01b\x87q\x02R("
            + (b"K\x01" + python2(value.shape) + b"cnumpy\ndtype\n" + kind + b"K\0K\x01\x87R(K\x03" + order)
            + (b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb" + python2(not value.flags.c_contiguous))
            + (python2(value.tobytes("A")) + b"tb")
        )
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, dict):
        return b"}q\x03(" + b"".join(python2(part) for item in value.items() for part in item) + b"u"
    opening, closing = {list: (b"](", b"e"), tuple: (b"(", b"t")}[type(value)]
    return opening + b"".join(map(python2, value)) + closing


def as_python2(value):
    data = b"\x80\x02" + python2(value) + b"."
    np.testing.assert_equal(pickle.loads(data, encoding="bytes"), value)  # it is one: made right here
    return data


def batch_of(content):
    """The dictionary that the Python version has for a file of the binary version."""
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    names = [b"%d.png" % k for k in range(len(records))]
    return {
        b"batch_label": b"a batch",
        b"labels": records[:, 0].tolist(),
        b"data": records[:, 1:].copy(),
        b"filenames": names,
    }


WRITERS = {
    "Python 2": as_python2,
    "protocol 2": lambda value: pickle.dumps(value, 2),
    "protocol 3": lambda value: pickle.dumps(value, 3),
    "protocol 4": lambda value: pickle.dumps(value, 4),
    "protocol 5": lambda value: pickle.dumps(value, 5),
    "texts": lambda value: pickle.dumps({key.decode(): item for key, item in value.items()}),
    "old NumPy": lambda value: pickle.dumps(value, 3).replace(b"cnumpy._core.", b"cnumpy.core."),
    "columns": lambda value: as_python2(value | {b"data": np.asfortranarray(value[b"data"])}),
    "columns, protocol 5": lambda value: pickle.dumps(value | {b"data": np.asfortranarray(value[b"data"])}, 5),
    "array of labels": lambda value: pickle.dumps(value | {b"labels": np.array(value[b"labels"])}),
    "big-endian labels": lambda value: as_python2(value | {b"labels": np.array(value[b"labels"], ">i2")}),
    "packed": lambda value: lzma.compress(as_python2(value)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pickled_batch_is_the_binary_one(tmp_path, writer):
    (tmp_path / "binary").write_bytes(cifar_file(300))
    (tmp_path / "pickled").write_bytes(WRITERS[writer](batch_of(cifar_file(300))))
    for found, expected in zip(
        datasets.read_cifar_batch(tmp_path / "pickled"), datasets.read_cifar_batch(tmp_path / "binary"), strict=True
    ):
        assert found.dtype == expected.dtype and found.flags.c_contiguous and found.flags.writeable
        np.testing.assert_array_equal(found, expected)


def python_version(count=4):
    """The files of the Python version, and what the binary version with the same images gives."""
    files = {name.removesuffix(".bin"): as_python2(batch_of(data)) for name, data in cifar_files(count).items()}
    names = [name.encode() for name in "abcdefghij"]
    return files | {
        "batches.meta": as_python2({b"num_vis": 3072, b"label_names": names, b"num_cases_per_batch": count})
    }


def same(found, expected):
    assert found.name == expected.name
    for one, other in zip((*found.train, *found.test), (*expected.train, *expected.test), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10", "."])
def test_cifar10_in_its_python_version(tmp_path, place):
    put(tmp_path / "python" / place, python_version())
    (tmp_path / "python" / "cifar-10-batches-bin").mkdir()
    found = datasets.cifar10(tmp_path / "python")
    same(found, datasets.cifar10(put(tmp_path / "binary", cifar_files(4))))
    assert found.classes == tuple("abcdefghij")
    (tmp_path / "python" / place / "batches.meta").unlink()
    assert datasets.cifar10(tmp_path / "python").classes == sets.CIFAR_CLASSES
    (tmp_path / "python" / place / "data_batch_4").unlink()
    with pytest.raises(DataNotFoundError, match="expected data_batch_4 ") as error:
        datasets.cifar10(tmp_path / "python")
    assert str(tmp_path / "python" / "cifar-10-batches-py") in str(error.value)


@pytest.mark.parametrize("place", ["cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_cifar10_in_its_binary_version_as_it_is_unpacked(tmp_path, place):
    put(tmp_path / place, cifar_files(2))
    assert len(datasets.cifar10(tmp_path).train.y) == 10


BAD_BATCHES = {
    "no dictionary": ([1, 2], "a dictionary with 'data' and 'labels'"),
    "no labels": ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1]}, "a dictionary with"),
    "data of 16 bits": ({b"data": np.zeros((1, 3072), np.uint16), b"labels": [1]}, "uint8 and shape"),
    "another width": ({b"data": np.zeros((2, 1024), np.uint8), b"labels": [1, 2]}, r"\(N, 3072\), found"),
    "flat data": ({b"data": np.zeros(3072, np.uint8), b"labels": [1]}, r"found uint8 and \(3072,\)"),
    "no images": ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "at least one element"),
    "floats": ({b"data": np.zeros((1, 3072)), b"labels": [1]}, "array of integers"),
    "bytes": ({b"data": bytes(3072), b"labels": [1]}, "array of integers"),
    "too few labels": ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "expected 2 labels.* found 1"),
    "label 10": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "labels 0..9"),
    "label -1": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "labels 0..9"),
    "huge label": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]}, "labels 0..9"),
    "bool": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}, "labels 0..9"),
    "label text": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]}, "labels 0..9"),
    "label array": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": np.array([[1, 2]])}, "labels 0..9"),
    "labels missing": ({b"data": np.zeros((1, 3072), np.uint8), b"labels": None}, "labels: expected an array"),
    "objects": ({b"data": np.array([[1, 2]], object), b"labels": [1]}, "array of integers"),
    "records": ({b"data": np.zeros((1, 3072), "u1,u1"), b"labels": [1]}, "array of integers"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_pickled_batches(tmp_path, case):
    value, message = BAD_BATCHES[case]
    (tmp_path / "batch").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=message) as error:
        datasets.read_cifar_batch(tmp_path / "batch")
    assert str(tmp_path / "batch") in str(error.value)


class Hostile:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def stacked(module, name):
    """STACK_GLOBAL: a name that may have dots in it."""
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in (module, name)) + b"\x93"


def forged_array(**changes):
    """A small array's pickle, some of whose parts are forged."""
    parts = {
        "call": b"cnumpy.core.multiarray\n_reconstruct\n",
        "kind": b"cnumpy\nndarray\n",
        "shape": python2((1, 3072)),
        "dtype": b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        "content": python2(bytes(3072)),
        "version": b"K\x01",
    } | changes
    array = parts["call"] + parts["kind"] + b"K\0\x85U\x01b\x87R(" + parts["version"] + parts["shape"] + parts["dtype"]
    return b"\x80\x02}(U\x06labels](K\x01eU\x04data" + array + b"\x89" + parts["content"] + b"tbu."


def laughs(depth=60):
    """Lists of ten times the list before: the last has 10⁶⁰ elements for whoever looks at all of them."""
    return b"(]q\x00" + (b"(" + b"h\x00" * 10 + b"lq\x00") * depth + b"l"


# without the flag for objects
OBJECTS = b"cnumpy\ndtype\nU\x02O8K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
HOSTILE = {
    "a module's function": b"\x80\x02cos\nsystem\nU\x04trueR.",
    "a builtin": b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\ncnumpy\nndarray\nU\x05dumps\x86R.",
    "load": b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
    "dots": b"\x80\x04" + stacked(b"numpy.core.multiarray", b"_reconstruct.__class__") + b".",
    "dots within NumPy": b"\x80\x04" + stacked(b"numpy", b"_core.multiarray.sys.modules") + b".",
    "dots, other module": b"\x80\x04" + stacked(b"numpy._core._core.multiarray", b"_reconstruct") + b".",
    "a name of no text": b"\x80\x04]\x8c\x01x\x93.",
    "persistent": b"\x80\x02Pxy\n.",
    "persistent, of the stack": b"\x80\x02U\x01xQ.",
    "extension": b"\x80\x02\x82\x01.",
    "extension 2": b"\x80\x02\x83\x01\x01.",
    "extension 4": b"\x80\x02\x84\x01\x01\x01\x01.",
    "instance": b"\x80\x02(U\x04trueios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\nU\x04trueo.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "new object of a call": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "a call of a class": forged_array(call=b"cnumpy\nndarray\n"),
    "an array of another class": forged_array(kind=b"cnumpy\ndtype\n"),
    "a subclass": forged_array(kind=b"cnumpy\nmatrix\n"),
    "a call of a number": b"\x80\x02K\x01)R.",
    "arguments that are a list": b"\x80\x02cnumpy\nndarray\n]R.",
    "a state for a dictionary": b"\x80\x02}}b.",
    "a state for a name": b"\x80\x02cnumpy\nndarray\n}U\x08__init__Nsb.",
    "an array that is not built": b"\x80\x02}(U\x06labels](K\x01eU\x04datacnumpy\nndarray\n)Ru.",
    "objects": forged_array(dtype=OBJECTS, shape=python2((1, 384))),
    "objects in a list": forged_array(dtype=OBJECTS, shape=python2((1, 1)), content=b"](K\x01e"),
    "too large a shape": forged_array(shape=python2((2**31 - 1, 3072))),
    "an overflowing shape": forged_array(shape=b"\x8a\x09" + bytes(8) + b"\x01M\0\x0c\x86"),
    "a negative shape": forged_array(shape=python2((-1, -3072))),
    "an empty shape": forged_array(shape=python2((0, 3072)), content=python2(b"")),
    "a shape of many sizes": forged_array(shape=b"(J\xff\xff\xff\x7fq\x00" + b"h\x00" * 100_000 + b"t"),
    "bytes made again and again": b"\x80\x02](c_codecs\nencode\nX\0\0\1\0%sX\6\0\0\0latin1\x86q\x00R%se."
    % (bytes(1 << 16), b"c_codecs\nencode\nh\x00R" * 2000),
    "a shape of lists": forged_array(shape=b"](K\x01e" + laughs() + b"\x86"),
    "laughs as data": b"\x80\x02}(U\x06labels](K\x01eU\x04data" + laughs() + b"u.",
    "laughs as labels": forged_array().replace(b"](K\x01e", b"](" + laughs() + b"e", 1),
    "laughs as a key": b"\x80\x02}" + laughs()[:-1] + b"tK\x01s.",
    "a deep key": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "calls inside calls": b"\x80\x02)" + b"q\x00cnumpy\nndarray\nh\x00R\x85" * 20_000 + b".",
    "too many operations": b"\x80\x02" + b"]" * 270_000 + b".",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "a text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 64) - 1) + b"x.",
    "a buffer that is not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b".",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "a negative length": b"\x80\x02T\xff\xff\xff\xff.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"1.",
    "a long decimal": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "a far memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "an empty memo": b"\x80\x02h\x07.",
    "a text with a wrong escape": b"\x80\x02S'\\u'\n.",
    "an unknown operation": b"\x80\x02\xff.",
    "no value": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "no end": b"\x80\x02}",
    "nothing": b"\x80",
    "odd items": b"\x80\x02}(K\x01u.",
    "items of a list": b"\x80\x02](K\x01K\x02u.",
    "append to a dictionary": b"\x80\x02}K\x01a.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, case):
    for name, read in (("data_batch_1", datasets.read_cifar_batch), ("batches.meta", datasets.cifar10)):
        files = python_version(1) if name == "batches.meta" else {}
        put(tmp_path / name, files | {name: HOSTILE[case]})
        with pytest.raises(DataError) as error:
            read(tmp_path / name / name if read is datasets.read_cifar_batch else tmp_path / name)
        assert str(tmp_path / name / name) in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["alone", "as data", "among labels", "in an array", "in a class"])
def test_nothing_that_a_pickle_names_is_run(tmp_path, protocol, where):
    trace = tmp_path / "trace"
    call = Hostile(Path.touch, trace)
    good = batch_of(cifar_file(1))
    value = {
        "alone": call,
        "as data": good | {b"data": call},
        "among labels": good | {b"labels": [call]},
        "in an array": good | {b"data": np.array([[call]], object)},
        "in a class": good | {b"more": Hostile(type, "X", (object,), {"__reduce__": call})},
    }[where]
    data = pickle.dumps(value, protocol)
    pickle.loads(data)
    assert trace.exists()  # so hostile it is
    trace.unlink()
    (tmp_path / "batch").write_bytes(data)
    with pytest.raises(DataError):
        datasets.read_cifar_batch(tmp_path / "batch")
    put(tmp_path / "set", python_version(1) | {"test_batch": data})
    with pytest.raises(DataError):
        datasets.cifar10(tmp_path / "set")
    assert not trace.exists()


SMALL_BATCH = as_python2(batch_of(cifar_file(2)))


@quick
@given(data=st.data())
def test_damaged_pickles_are_an_error_or_a_batch(tmp_path_factory, data):
    content = bytearray(SMALL_BATCH)
    heads = len(content) - 2 * 3072
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(1, heads))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "batch"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        images, labels = datasets.read_cifar_batch(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert images.shape == (len(labels), 3, 32, 32) and images.dtype == labels.dtype == np.uint8


def test_a_pickle_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.datasets.pickles.MOST_BYTES", len(SMALL_BATCH) - 1)
    for pack in (bytes, gzip.compress, lzma.compress):
        (tmp_path / "batch").write_bytes(pack(SMALL_BATCH))
        with pytest.raises(DataError, match="at most .* bytes, found more"):
            datasets.read_cifar_batch(tmp_path / "batch")
    (tmp_path / "batch").write_bytes(cifar_file(30))  # no pickle
    assert len(datasets.read_cifar_batch(tmp_path / "batch")[1]) == 30


# Archives that are not unpacked


def tar_of(folder, contents, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("place", ["", "cifar10"])
@pytest.mark.parametrize(
    "name, inside, mode",
    [
        ("cifar-10-python.tar.gz", "cifar-10-batches-py", "w:gz"),
        ("cifar-10-python.tar", "./cifar-10-batches-py", "w"),
        ("cifar-10-python.tgz", "a/b/cifar-10-batches-py", "w:gz"),
        ("cifar-10-batches-py.tar.gz", "cifar-10-batches-py", "w:gz"),
        ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "w:gz"),
    ],
)
def test_cifar10_out_of_its_archive(tmp_path, place, name, inside, mode):
    contents = cifar_files(3) if "binary" in name else python_version(3)
    archive = put(tmp_path / "packed" / place, {name: tar_of(inside, contents, mode)}) / name
    before = leftovers(tmp_path)
    same(datasets.cifar10(tmp_path / "packed"), datasets.cifar10(put(tmp_path / "plain", cifar_files(3))))
    assert leftovers(tmp_path / "packed") == before
    contents |= {name: b"\x80\x02cos\nsystem\nU\x04trueR." for name in contents if name.startswith("data_batch_2")}
    archive.write_bytes(tar_of(inside, contents, mode))
    with pytest.raises(DataError, match=rf"{name}.*data_batch_2"):
        datasets.cifar10(tmp_path / "packed")
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(DataError, match=f"{name}: expected a whole archive"):
        datasets.cifar10(tmp_path / "packed")
    archive.write_bytes(tar_of(inside, {name: data for name, data in contents.items() if "test" not in name}, mode))
    with pytest.raises(DataNotFoundError, match="expected test_batch") as error:
        datasets.cifar10(tmp_path / "packed")
    assert str(archive) in str(error.value)


def test_a_member_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.datasets.packed.MOST_BYTES", 3072)
    put(tmp_path, {"cifar-10-binary.tar.gz": tar_of("cifar-10-batches-bin", cifar_files(1))})
    with pytest.raises(DataError, match="data_batch_1.bin: expected at most 3072 bytes, found 3073"):
        datasets.cifar10(tmp_path)


@pytest.mark.parametrize("place", ["", "notmnist"])
@pytest.mark.parametrize("suffix, mode", [(".tar.gz", "w:gz"), (".tar", "w")])
def test_notmnist_out_of_its_archive(tmp_path, place, suffix, mode):
    image_folder(tmp_path / "plain" / "notMNIST_small", names="ABCDEFGHIJ", count=3)
    (tmp_path / "plain" / "notMNIST_small" / "B" / "0.png").write_bytes(b"damaged")
    contents = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in (tmp_path / "plain").rglob("*.png")}
    junk = {"../__MACOSX/notMNIST_small/A/0.png": b"x", "A/._0.png": b"x", "A/.DS_Store": b"x", "K/0.png": b"x"}
    packed = tar_of("notMNIST_small", contents | junk, mode)
    put(tmp_path / "packed" / place, {f"notMNIST_small{suffix}": packed})
    with pytest.warns(UserWarning, match="skipped 1 unreadable") as caught:
        found = datasets.notmnist(tmp_path / "packed")
    assert len(caught) == 1 and caught[0].filename == __file__ and f"notMNIST_small{suffix}" in str(caught[0].message)
    with pytest.warns(UserWarning, match="skipped 1 unreadable"):
        same(found, datasets.notmnist(tmp_path / "plain"))
    few = {name: data for name, data in contents.items() if name[0] not in "CH"}
    put(tmp_path / "packed" / place, {f"notMNIST_small{suffix}": tar_of("notMNIST_small", few, mode)})
    with pytest.raises(DataNotFoundError, match=rf"notMNIST_small{suffix} has no C, H\)"):
        datasets.notmnist(tmp_path / "packed")


@pytest.mark.parametrize("load", [datasets.mnist, datasets.notmnist, datasets.cifar10])
@pytest.mark.parametrize("name", ["archive.zip", "MNIST.tar.gz", "cifar10.7z"])
def test_other_archives_are_named(tmp_path, monkeypatch, load, name):
    put(tmp_path / "root", {name: b"x"})
    with pytest.raises(DataNotFoundError, match="unpack") as error:
        load(tmp_path / "root")
    assert str(tmp_path / "root" / name) in str(error.value)
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "root"))
    with pytest.raises(DataNotFoundError, match="unpack") as error:
        load()
    assert str(tmp_path / "root" / name) in str(error.value) and "no network here" in str(error.value)


@pytest.mark.parametrize("load", [datasets.mnist, datasets.notmnist, datasets.cifar10])
def test_the_error_names_places_and_files(tmp_path, load):
    with pytest.raises(DataNotFoundError) as error:
        load(tmp_path / "root")
    wanted = {
        datasets.mnist: ["mnist", "MNIST/raw", *places.TRAIN, *places.TEST],
        datasets.notmnist: ["notmnist", "notMNIST_small", *places.TEST, "A to J"],
        datasets.cifar10: [
            "cifar10",
            "cifar-10-batches-py",
            "cifar-10-batches-bin",
            "data_batch_3.bin",
            "data_batch_3,",
        ],
    }[load]
    assert all(text in str(error.value).replace(os.sep, "/") for text in (str(tmp_path / "root"), *wanted))


def test_a_file_is_no_data_folder(tmp_path):
    archive = put(tmp_path, {"cifar-10-python.tar.gz": b"x"}) / "cifar-10-python.tar.gz"
    with pytest.raises(DataNotFoundError, match=r"data_dir must be a folder, and .*cifar-10-python.tar.gz is a file"):
        datasets.cifar10(archive)


# Arguments of the wrong kind


class Way:
    def __fspath__(self):
        return "no such file"


@pytest.mark.parametrize("wrong", [0, 1, True, 2.5, b"x", [], object(), np.int64(3), Path, io.BytesIO()])
def test_paths_are_texts_or_path_like(wrong):
    for read in (datasets.read_idx, datasets.read_cifar_batch, datasets.read_image_folder):
        with pytest.raises(TypeError, match=f"{read.__name__}: path must be a str or an os.PathLike"):
            read(wrong)
        with pytest.raises(TypeError, match=f"{read.__name__}: path"):
            read(None)
        with pytest.raises(FileNotFoundError):
            read(Way())
    for load in (datasets.mnist, datasets.notmnist, datasets.cifar10):
        with pytest.raises(TypeError, match=f"{load.__name__}: data_dir must be a str or an os.PathLike"):
            load(wrong)
        with pytest.raises(DataNotFoundError):
            load(Way())


X, Y = np.zeros((4, 1, 2, 2)), np.arange(4)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(
    "kind", [np.ma.masked_array, lambda array: np.asmatrix(array.reshape(4, -1)), lambda array: array.astype(object)]
)
def test_arrays_that_are_no_plain_arrays_are_refused(kind):
    rng = np.random.default_rng(0)
    for x, y in ((kind(X), Y), (X, kind(Y))):
        for call in (
            lambda pair: datasets.split(pair, (0.5, 0.5)),
            datasets.distinct,
            datasets.normalize,
            lambda pair: datasets.normalize((X, Y), pair),
            lambda pair: datasets.batches(*pair, 2),
            lambda pair: Dataset("mine", pair, (X, Y), ("a",)),
            lambda pair: Dataset("mine", (X, Y), Split(*pair), ("a",)),
        ):
            with pytest.raises(TypeError, match="masked array|matrix|dtype object"):
                call((x, y))
    for change in (datasets.RandomFlip(), datasets.RandomCrop()):
        with pytest.raises(TypeError, match="x is a masked|x is a np.matrix|x must be"):
            change(kind(X), rng)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: datasets.digits(dtype=None), "dtype"),
        (lambda: datasets.digits(dtype="no such type"), "dtype"),
        (lambda: datasets.digits(dtype=[1]), "dtype"),
        (lambda: datasets.digits(test_fraction="0.2"), "test_fraction"),
        (lambda: datasets.digits(test_fraction=None), "test_fraction"),
        (lambda: datasets.digits(seed=1.5), "seed"),
        (lambda: datasets.digits(seed=None), "seed"),
        (lambda: datasets.split((X, Y), "ab"), "fractions"),
        (lambda: datasets.split((X, Y), 0.5), "fractions"),
        (lambda: datasets.split((X, Y), ("0.5", 0.5)), "fractions"),
        (lambda: datasets.split((X, Y), (0.5, 0.5), "1"), "seed"),
        (lambda: datasets.split(X, (0.5, 0.5)), "data"),
        (lambda: datasets.split("ab", (0.5, 0.5)), "data"),
        (lambda: datasets.split((X, Y, Y), (0.5, 0.5)), "data"),
        (lambda: datasets.distinct({"x": X, "y": Y}), "data"),
        (lambda: datasets.distinct((X, "abcd")), "y"),
        (lambda: datasets.normalize(X), "train"),
        (lambda: datasets.normalize((X, Y), X), "others"),
        (lambda: datasets.normalize((X, Y), per=2), "per"),
        (lambda: datasets.batches(X, Y, True), "batch_size"),
        (lambda: datasets.batches(X, Y, "2"), "batch_size"),
        (lambda: datasets.read_image_folder(".", "no"), "skip_unreadable"),
        (lambda: datasets.RandomFlip()(X, 3), "rng"),
        (lambda: datasets.RandomCrop()(None, np.random.default_rng(0)), "x"),
        (lambda: Dataset(3, (X, Y), (X, Y), ("a",)), "name"),
        (lambda: Dataset("a", 3, (X, Y), ("a",)), "train"),
        (lambda: Dataset("a", (X, Y), None, ("a",)), "test"),
        (lambda: Dataset("a", (X, Y), (X, Y), "abc"), "classes"),
        (lambda: Dataset("a", (X, Y), (X, Y), (1, 2)), "classes"),
    ],
)
def test_a_wrong_kind_is_an_error_with_the_arguments_name(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b") as error:
        call()
    assert isinstance(error.value, TypeError) or name == "batch_size"


def test_what_a_split_holds_is_shown_whatever_it_is():
    assert repr(Split([1, [2]], None)) == "Split(x=[1, [2]], y=None)"
    data = Dataset("mine", (X, [0, 1, 2, 3]), Split(X, Y), ["a", "b"])
    assert data.input_shape == (1, 2, 2) and data.classes == ("a", "b") and isinstance(data.train, Split)
    assert data.test.x is X
    with pytest.raises(ValueError, match="Dataset: train: x and y must have equal first dimensions"):
        Dataset("mine", (X, Y[:2]), (X, Y), ())


def test_the_dtype_of_a_set_is_the_machines_own():
    assert datasets.digits(">f4").train.x.dtype.isnative


# The real files


def counts(split):
    return np.bincount(split.y, minlength=10).tolist()


def centroid_accuracy(data):
    """Share of test images nearest to the mean training image of their own class."""
    x, y = (part.reshape(len(part), -1) for part in (data.train.x, data.train.y))
    means = np.stack([x[y[:, 0] == label].mean(0) for label in range(10)])
    test = data.test.x.reshape(len(data.test.y), -1)
    distance = (means**2).sum(1) - 2 * test @ means.T
    return (distance.argmin(1) == data.test.y).mean()


@real("mnist")
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("FASTBP_DATA", REAL)
    data = datasets.mnist()
    assert counts(data.train) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts(data.test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.x.shape == (60000, 1, 28, 28) and data.train.x.max() == 1
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(centroid_accuracy(data) - 0.8203) < 0.002


@real("notmnist")
def test_real_notmnist():
    data = datasets.notmnist(REAL)
    assert (len(data.train.y), len(data.test.y)) == (8000, 2000)
    assert counts(data.test) == [241, 203, 220, 170, 172, 195, 187, 203, 195, 214]
    assert [a + b for a, b in zip(counts(data.train), counts(data.test), strict=True)] == [1000] * 10
    assert abs(centroid_accuracy(data) - 0.791) < 0.002


@real("cifar10")
def test_real_cifar10():
    data = datasets.cifar10(REAL)
    assert data.classes == sets.CIFAR_CLASSES
    assert counts(data.train) == [5000] * 10 and counts(data.test) == [1000] * 10
    assert counts(Split(data.train.x[:10000], data.train.y[:10000])) == [
        *(1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981)
    ]
    first = data.train.x[:10000]
    np.testing.assert_allclose(first.mean((0, 2, 3)), [0.4935, 0.4834, 0.4472], atol=1e-4)
    np.testing.assert_allclose(first.std((0, 2, 3)), [0.2476, 0.2446, 0.2626], atol=1e-4)
