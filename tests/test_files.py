"""Files are replaced whole or not at all, keep what they are, and are known by their names alone."""

import gc
import io
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import Linear, Sequential, load, plotting
from fastbp.files import claimed, new_folder, opened, written_atomically, written_into
from fastbp.grading import find_submissions, grade_all
from fastbp.grading.batch import Job
from fastbp.grading.reports import Report
from fastbp.grading.results import Result
from fastbp.sweeps import sweep
from fastbp.training.resume import epochs_done, part_done, seconds_spent


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


# -- every writer, every kind of target --------------------------------------------------------------------------------


def history():
    measured = fastbp.History()
    measured.train_loss = [1.0, 0.5]
    return measured


def fitted(path=None, **options):
    """A short training that writes to `path`."""
    x = np.eye(4, dtype=np.float32)
    network = Sequential(Linear(4, 2))
    callbacks = [fastbp.Checkpoint(path)] if path is not None else []
    data = x, np.array([0, 1, 0, 1])
    fastbp.fit(
        network,
        fastbp.SoftmaxCrossEntropy(),
        fastbp.SGD(),
        data,
        None,
        1,
        callbacks=callbacks,
        progress=False,
        **options,
    )


def reported(path):
    report = Report("json", path, "small", ["ann"])
    report.add(Result("ann", "small", 0, 10.0))
    assert report.finish() in ("", f"wrote {path}")


RESULT = Result("ann", "small", 0, 10.0)
WRITERS = {
    "save": lambda path: Sequential(Linear(4, 2)).save(path),
    "to_json": lambda path: history().to_json(path),
    "Checkpoint": fitted,
    "plotting": lambda path: plotting.save(history().plot(), path),
    "record": lambda path: Job("ann", Path("ann.py"), "small", 0, None, Path(path)).write(RESULT),
    "report": reported,
}
# a report refuses a file that is there
REPLACING = {name: write for name, write in WRITERS.items() if name != "report"}
REPLACING["resume"] = lambda path: fitted(resume=path)


@pytest.mark.parametrize("name", REPLACING)
@pytest.mark.parametrize("mode", [0o640, 0o600, 0o666, 0o444])
def test_a_file_that_is_there_keeps_its_mode(tmp_path, name, mode):
    path = tmp_path / "file"
    REPLACING[name](path)
    first = path.stat().st_ino
    path.chmod(mode)
    if os.access(path, os.W_OK):  # root may write to all
        REPLACING[name](path)
        assert name == "resume" or path.stat().st_ino != first
    assert stat.S_IMODE(path.stat().st_mode) == mode and os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_is_there_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    os.chown(path, 1234, 4321)
    write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (1234, 4321, b"new")


def test_a_file_that_may_not_be_written_to_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, b"old")
    monkeypatch.setattr(os, "access", lambda name, mode: False)  # as for users other than root
    with pytest.raises(PermissionError, match="file"):
        write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def into_fifo(path, write_to):
    """What the writer puts into a FIFO at `path`."""
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_to(path)
    reader.join(timeout=30)
    return got[0]


@pytest.mark.parametrize("name", WRITERS)
def test_a_fifo_gets_what_a_file_gets_and_stays_one(tmp_path, name):
    WRITERS[name](tmp_path / "file")
    assert into_fifo(tmp_path / "fifo", WRITERS[name]) == (tmp_path / "file").read_bytes()
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode) and sorted(os.listdir(tmp_path)) == ["fifo", "file"]


def test_a_network_goes_through_a_fifo(tmp_path):
    network, path, got = Sequential(Linear(30, 20), seed=3), tmp_path / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(load(path)))
    reader.start()
    network.save(path)
    reader.join(timeout=30)
    np.testing.assert_array_equal(got[0].parameter_vector, network.parameter_vector)


@pytest.mark.parametrize("name", WRITERS)
def test_a_character_device_stays_one(name):
    before = os.stat(os.devnull)
    WRITERS[name](Path(os.devnull))
    after = os.stat(os.devnull)
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_terminal_gets_the_text():
    ours, theirs = os.openpty()
    try:
        write(os.ttyname(theirs), b"hello\n")
        assert os.read(ours, 100).replace(b"\r", b"") == b"hello\n" and stat.S_ISCHR(
            os.stat(os.ttyname(theirs)).st_mode
        )
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_open_file_is_written_on(tmp_path):
    """As /dev/stdout in `… > file`: what is printed before and after stays before and after."""
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(b"before ")
        write(f"/dev/fd/{file.fileno()}", b"content")
        file.write(b" after")
    assert (tmp_path / "file").read_bytes() == b"before content after" and os.listdir(tmp_path) == ["file"]


def test_an_open_pipe_is_written_to(tmp_path):
    out, into = os.pipe()
    (tmp_path / "link").symlink_to(f"/dev/fd/{into}")
    write(tmp_path / "link", b"content")
    os.close(into)
    with open(out, "rb") as file:
        assert file.read() == b"content"
    assert os.listdir(tmp_path) == ["link"]


def test_an_exception_puts_nothing_into_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ZeroDivisionError), written_atomically(tmp_path / "fifo") as file:
        file.write(b"half")
        file.flush()
        raise ZeroDivisionError
    assert os.read(reader, 10) == b""
    os.close(reader)


@pytest.mark.parametrize("name", ["save", "to_json", "Checkpoint", "plotting"])
def test_folders_and_sockets_are_refused_by_name_and_stay(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for kind in ("folder", "socket"):
            with pytest.raises(OSError, match=kind) as error:
                WRITERS[name](tmp_path / kind)
            assert error.value.filename == str(tmp_path / kind)
        assert stat.S_ISSOCK(os.stat("socket").st_mode) and sorted(os.listdir()) == ["folder", "socket"]


def test_block_devices_are_refused_by_name(monkeypatch, tmp_path):
    write(tmp_path / "disk", b"data")
    real = os.stat

    def block(path, **options):
        found = list(real(path, **options))
        return os.stat_result([stat.S_IFBLK | 0o660, *found[1:]])

    monkeypatch.setattr(os, "stat", block)
    with pytest.raises(OSError, match="block device.*disk"):
        write(tmp_path / "disk", b"new")
    assert (tmp_path / "disk").read_bytes() == b"data"


def test_symbolic_links_stay_and_lead_to_the_new_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for content in (b"new", b"newer"):  # at first the link leads nowhere
        write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "folder/file").read_bytes() == content
    assert os.listdir(tmp_path / "folder") == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, ".", "a b\n'\"*"])
def test_every_name_that_the_system_takes_is_one(tmp_path, name):
    if name == ".":
        with pytest.raises(IsADirectoryError):
            write(tmp_path / name, b"content")
        return
    write(tmp_path / name, b"content")
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"content"


def test_what_is_written_into():
    assert written_into(os.devnull) and written_into("/dev/stdout")
    assert not written_into(__file__) and not written_into("/") and not written_into("/nowhere/at/all")


# -- names of files alone ----------------------------------------------------------------------------------------------


class Named:
    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


def add(a):
    return a


BY_NAME = {
    **{name: write for name, write in WRITERS.items() if name != "record"},
    "Checkpoint": fastbp.Checkpoint,
    "load": load,
    "Sequential.load": Sequential.load,
    "resume": lambda path: fitted(resume=path),
    "opened": lambda path: opened(path).__enter__(),
    "claimed": claimed,
    "written_into": written_into,
    "sweep": lambda path: sweep(add, [{"a": 1}], folder=path, jobs=1, progress=False),
    "find_submissions": lambda path: find_submissions([path]),
    "grade_all": lambda path: grade_all([__file__], "cs231n-a2", folder=path, jobs=1),
}
OPTIONAL = {"to_json", "report", "sweep", "resume", "grade_all"}  # None is no file there
NO_NAMES = [0, 1, 2, True, False, np.int64(1), 1.0, b"bytes", Named(b"bytes"), io.BytesIO(), object(), ["a"]]


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_no_name_is_a_type_error_and_closes_nothing(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = [os.fstat(number) for number in range(3)]
    for value in NO_NAMES if name in OPTIONAL else [*NO_NAMES, None]:
        with pytest.raises(TypeError, match=re.escape("must be a str or an os.PathLike")):
            BY_NAME[name](value)
    assert [os.fstat(number) for number in range(3)] == before and os.listdir() == []


@pytest.mark.parametrize("name", ["save", "to_json", "Checkpoint", "resume", "load"])
@pytest.mark.parametrize("wrong", ["", "a\0b"])
def test_what_can_be_no_files_name_is_a_value_error(name, wrong):
    with pytest.raises(ValueError, match="must be the name of a file"):
        BY_NAME[name](wrong)


@pytest.mark.parametrize("kind", [str, Path, Named, pathlib.PurePosixPath])
def test_every_kind_of_name_is_taken(tmp_path, kind):
    path = kind(str(tmp_path / "net.npz"))
    network = Sequential(Linear(4, 2), seed=5)
    network.save(path)
    np.testing.assert_array_equal(load(path).parameter_vector, network.parameter_vector)
    saved = kind(str(tmp_path / "state.npz"))
    fitted(resume=saved)
    assert epochs_done(saved) == (1, 1) and part_done(saved) == 1 and seconds_spent(saved) > 0


def test_another_file_holds_no_epochs(tmp_path):
    write(tmp_path / "other", b"text")
    for path in (tmp_path / "other", tmp_path / "nowhere"):
        assert epochs_done(path) == (0, 0) and part_done(path) == 0


# -- what dead processes leave -----------------------------------------------------------------------------------------

HALF = """if True:
    import sys, time
    from fastbp.files import written_atomically
    with written_atomically(sys.argv[1]) as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        sys.stdin.readline()
        file.write(b" and half")
"""


def writing(path):
    """A process that has written half of a file and waits."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HALF, path], **pipes)
    assert process.stdout.readline() == "writing\n"
    return process


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path):
    path = tmp_path / "run.npz"
    # pids are given again: they say nothing
    ours = [f".run.npz.{os.getpid()}.0123456789abcdef.part", ".run.npz.1.ab.part"]
    theirs = [".run.npz.part", ".run.npz.1.draft.part", ".other.npz.1.ab.part"]
    theirs += ["run.npz.1.ab.part", ".run.npz.1.ab.parts"]
    with writing(path) as dead, writing(path) as alive:
        for name in ours + theirs:
            write(tmp_path / name, b"")
        dead.kill()
        dead.wait()
        assert len(os.listdir(tmp_path)) == 9
        write(path, b"new")
        left = set(os.listdir(tmp_path)) - {"run.npz", *theirs}
        assert len(left) == 1 and f".{alive.pid}." in left.pop() and set(theirs) < set(os.listdir(tmp_path))
        alive.communicate("go on\n", timeout=30)
    assert path.read_bytes() == b"half and half" and sorted(os.listdir(tmp_path)) == sorted(["run.npz", *theirs])


def test_writers_that_come_and_go_take_no_part_from_each_other(tmp_path):
    """Each looks for parts of dead ones while the others make theirs."""
    path, failures = tmp_path / "file", []

    def often(content):
        try:
            for _ in range(100):
                write(path, content)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=often, args=(bytes([n]) * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and os.listdir(tmp_path) == ["file"]


def test_a_claim_is_one_processs_until_it_is_closed(tmp_path):
    path = tmp_path / "claim"
    first = claimed(path)
    first.write(b"mine")
    assert claimed(path) is None and path.read_bytes() == b"mine"
    first.close()
    second = claimed(path)
    assert second.read() == b"mine"
    path.unlink()  # whoever holds a claim may remove it: the next has another file
    third = claimed(path)
    assert third is not None and claimed(path) is None
    second.close()
    third.close()
    with pytest.raises(IsADirectoryError):
        claimed(tmp_path)


def test_new_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("run-2", b"a file is in the way")
    assert [str(new_folder("run")) for _ in range(3)] == ["run", "run-3", "run-4"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_an_interruption_at_any_moment_is_one_and_leaves_no_part(tmp_path, monkeypatch):
    """A signal at random moments of many saves."""
    # one that comes while an object is collected is nobody's
    monkeypatch.setattr(sys, "unraisablehook", lambda about: None)
    network, path = fastbp.Sequential(fastbp.Linear(30, 20), fastbp.Linear(20, 3)), tmp_path / "network.npz"
    network.save(path)
    rng = np.random.default_rng(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    hits = 0
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-5, 2e-3)))
                network.save(path)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.collect()
    fastbp.load(path)
    assert hits > 20 and os.listdir(tmp_path) == ["network.npz"]
