"""Files are replaced whole or not at all."""

import os
import stat
import threading

import numpy as np
import pytest

from fastbp import Linear, Sequential, load
from fastbp.files import written_atomically


def write(path, content):
    with written_atomically(path) as file:
        file.write(content)


@pytest.mark.parametrize("kind", [str, lambda path: path, lambda path: os.fspath(path)])
def test_the_content_arrives_and_nothing_else_is_left(tmp_path, kind):
    write(kind(tmp_path / "a.bin"), b"one")
    write(kind(tmp_path / "a.bin"), b"three")
    assert (tmp_path / "a.bin").read_bytes() == b"three" and os.listdir(tmp_path) == ["a.bin"]


def test_a_name_without_a_folder_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", b"one")
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_exception_leaves_the_old_file_and_no_leftovers(tmp_path, error, old):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), written_atomically(path) as file:
        file.write(b"half")
        file.flush()
        raise error
    assert os.listdir(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


def test_until_the_end_readers_see_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with written_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write(tmp_path / "a.bin", b"one")
        assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode
    finally:
        assert os.umask(before) == mask


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_the_old_file_too(tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_missing_folder_and_a_folder_in_the_way_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere" / "a.bin", b"one")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder", b"one")
    assert os.listdir(tmp_path) == ["folder"]


def test_two_writers_of_one_file_leave_one_of_the_two_whole(tmp_path):
    path, contents = tmp_path / "a.bin", [bytes([n]) * 100_000 for n in range(4)]
    threads = [threading.Thread(target=write, args=(path, content)) for content in contents for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["a.bin"]


def test_a_network_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path, real = tmp_path / "net.npz", np.savez
    first, second = Sequential(Linear(30, 20), seed=1), Sequential(Linear(30, 20), seed=2)
    first.save(path)

    def full(file, **arrays):
        real(file, **arrays)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        second.save(path)
    np.testing.assert_array_equal(load(path).parameter_vector, first.parameter_vector)
    assert os.listdir(tmp_path) == ["net.npz"]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_network_is_a_clear_error(tmp_path, share):
    path = tmp_path / "net.npz"
    Sequential(Linear(30, 20)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="net.npz is not a network saved by fastbp, or it is damaged"):
        load(path)


def test_other_numpy_files_are_no_networks(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5))
    np.savez(tmp_path / "b.npz", x=np.arange(5))
    (tmp_path / "c.npz").write_text("hello")
    for name in ("a.npy", "b.npz", "c.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a network"):
            load(tmp_path / name)
