"""Sweeps: order, resuming, failures, and the same numbers over any executor."""

import functools
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from refused import refused

import fastbp
from fastbp import sweeps
from fastbp.sweeps import SweepError, grid, sweep


def square(x, log=None):
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{x}\n")
    if x < 0:
        raise ValueError("no squares of these")
    return {"square": x * x, "pid": os.getpid(), "threads": fastbp.get_num_threads()}


def train(width, seed, resume=None):
    assert resume is None
    data = fastbp.datasets.digits()
    network = fastbp.models.mlp([64, width, 10], dropout=0.2, seed=seed)
    loss, optimizer = fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1, momentum=0.9)
    history = fastbp.fit(network, loss, optimizer, data.train, data.test, epochs=2, seed=seed, progress=False)
    total = float(np.abs(network.parameter_vector).sum())
    return {"loss": history.train_loss, "accuracy": history.validation_accuracy, "sum": total}


def needs_a_file(x, resume):
    found = resume.exists()
    resume.write_text(str(x))
    if not found:
        raise RuntimeError("interrupted")
    return resume.read_text()


def dies(x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_runs_come_in_the_order_of_their_settings_with_one_thread_each():
    settings = grid(x=[3, 1, 2])
    runs = sweep(square, settings, jobs=2)
    assert [run.settings for run in runs] == settings and [run.result["square"] for run in runs] == [9, 1, 4]
    assert all(run.result["pid"] != os.getpid() and run.result["threads"] == 1 and run.seconds >= 0 for run in runs)


def test_one_job_runs_here_with_all_threads():
    for run in sweep(square, grid(x=[1, 2]), jobs=1) + sweep(square, grid(x=[1]), jobs=4):
        assert run.result["pid"] == os.getpid() and run.result["threads"] == fastbp.get_num_threads()


def numbers(runs):
    return [(run.settings, run.result) for run in runs]


@pytest.mark.portable
def test_any_number_of_jobs_and_any_executor_give_the_same_numbers():
    settings = grid(width=[5, 20], seed=[0, 1])
    here = numbers(sweep(train, settings, jobs=1))
    assert len({json.dumps(result) for _, result in here}) == 4
    assert numbers(sweep(train, settings, jobs=2)) == here
    with ThreadPoolExecutor(3) as threads:
        assert numbers(sweep(train, settings, executor=threads)) == here


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
@pytest.mark.filterwarnings("ignore")
def test_dask_is_an_executor_like_any():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        runs = sweep(train, grid(width=[5], seed=[0, 1]), executor=client.get_executor())
    assert numbers(runs) == numbers(sweep(train, grid(width=[5], seed=[0, 1]), jobs=1))


def test_what_has_ended_is_not_run_again(tmp_path):
    log = str(tmp_path / "log")
    first = sweep(square, grid(x=[1, 2], log=[log]), tmp_path / "runs", jobs=1)
    again = sweep(square, grid(x=[1, 2, 3], log=[log]), tmp_path / "runs", jobs=1)
    assert again[:2] == first and Path(log).read_text().split() == ["1", "2", "3"]
    (record,) = [
        path for path in (tmp_path / "runs").glob("*.json") if json.loads(path.read_text())["settings"]["x"] == 2
    ]
    record.write_text("{")  # not a record: run anew
    assert numbers(sweep(square, grid(x=[2], log=[log]), tmp_path / "runs", jobs=1)) == numbers(first[1:])
    assert Path(log).read_text().split()[3:] == ["2"]


MODULE = """
import decimal, fractions, functools
from beside import value
CONSTANT = {constant}
TABLE = {{"f": lambda x: x, "kind": {kind}}}
def helper(x):
    return x * CONSTANT {extra}
def other(): return {other}
@functools.cache
def cached(x):
    return x {inside}
def function(x):
    return [helper(v) + cached(v) + value(v) + TABLE["f"](v) for v in [x]]
"""
BESIDE = """
CONSTANT = 5
def value(x):
    return x + {beside}
"""


@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"other": 2}, True), ({"constant": 3}, False), ({"extra": "+ 1"}, False), ({"inside": "+ 1"}, False),
     ({"beside": 2}, False), ({"kind": "fractions.Fraction"}, False)],
    ids=str,
)  # fmt: skip
def test_a_result_belongs_to_the_source_that_gave_it(tmp_path, monkeypatch, change, same):
    keys = []
    for number, values in enumerate(({}, change)):
        folder = tmp_path / str(number)
        folder.mkdir()
        values = {
            "constant": 2,
            "extra": "",
            "other": 1,
            "inside": "",
            "kind": "decimal.Decimal",
            "beside": 1,
            **values,
        }
        (folder / "changing.py").write_text(MODULE.format(**values))
        (folder / "beside.py").write_text(BESIDE.format(**values))
        monkeypatch.syspath_prepend(str(folder))
        for module in ("changing", "beside"):
            sys.modules.pop(module, None)
        import changing

        keys.append([sweeps._key(changing.function, {"x": 1}), sweeps._key(changing.function, {"x": 2})])
    for module in ("changing", "beside"):
        sys.modules.pop(module)
    assert keys[0][0] != keys[0][1] and (keys[0] == keys[1]) == same


def test_a_function_with_resume_gets_a_file_of_its_own(tmp_path):
    with pytest.raises(SweepError, match="2 of 2 runs failed. x 1: RuntimeError: interrupted; x 2"):
        sweep(needs_a_file, grid(x=[1, 2]), tmp_path, jobs=1, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert [run.result for run in sweep(needs_a_file, grid(x=[1, 2]), tmp_path, jobs=1)] == ["1", "2"]
    assert not list(tmp_path.glob("*.npz")) and len(list(tmp_path.glob("*.json"))) == 2


def test_without_a_folder_there_is_nothing_to_resume_from():
    assert sweep(train, grid(width=[5], seed=[0]), jobs=1)[0].result["loss"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_does_not_keep_others_from_running(tmp_path, jobs):
    with pytest.raises(SweepError, match="1 of 3 runs failed. x -1: ValueError: no squares of these") as caught:
        sweep(square, grid(x=[-1, 1, 2]), tmp_path, jobs=jobs)
    assert [run.result["square"] for run in caught.value.runs] == [1, 4] and len(list(tmp_path.glob("*.json"))) == 2


def test_a_worker_that_dies_is_told_of():
    with pytest.raises(SweepError, match="BrokenProcessPool"):
        sweep(dies, grid(x=[1, 2]), jobs=2)


def test_settings_and_results_must_be_what_json_can_hold():
    with pytest.raises(TypeError, match="settings must be what JSON can hold"):
        sweep(square, [{"x": np.ones(3)}])
    with pytest.raises(SweepError, match="the result is not what JSON can hold"):
        sweep(lambda x: np.ones(x), [{"x": 2}])


@pytest.mark.parametrize("jobs", [0, -1, 1.5])
def test_jobs_is_a_number_of_processes(jobs):
    with pytest.raises((ValueError, TypeError), match="sweep: jobs must be an int"):
        sweep(square, grid(x=[1]), jobs=jobs)


def test_equal_settings_run_once(tmp_path):
    log = str(tmp_path / "log")
    runs = sweep(square, grid(x=[2, 2], log=[log]), jobs=1)
    assert [run.result["square"] for run in runs] == [4, 4] and Path(log).read_text() == "2\n"
    assert sweep(square, []) == []


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, capsys):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(sweeps, "written_atomically", full)
    assert [run.result["square"] for run in sweep(square, grid(x=[1, 2]), tmp_path, jobs=1)] == [1, 4]
    assert "its result could not be kept: [Errno 28] No space left on device" in capsys.readouterr().err
    with pytest.raises(SweepError, match="interrupted"):
        sweep(needs_a_file, grid(x=[1]), tmp_path, jobs=1)
    assert sweep(needs_a_file, grid(x=[1]), tmp_path, jobs=1)[0].result == "1"
    assert len(list(tmp_path.glob("*.npz"))) == 1  # to go on from another time


def slow_epochs(seed, resume):
    def slow(run):
        time.sleep(0.01 * (run.epoch < 2))
        if first and run.epoch == 2:
            raise RuntimeError("interrupted")

    first, data, callbacks = not resume.exists(), fastbp.datasets.digits(), [Then(slow)]
    network, loss = fastbp.models.mlp([64, 10], seed=seed), fastbp.SoftmaxCrossEntropy()
    fastbp.fit(
        network, loss, fastbp.SGD(lr=0.1), data.train, epochs=3, callbacks=callbacks, progress=False, resume=resume
    )


def test_the_time_of_a_run_is_that_of_all_its_parts(tmp_path):
    with pytest.raises(SweepError, match="interrupted"):
        sweep(slow_epochs, grid(seed=[0]), tmp_path, jobs=1)
    (run,) = sweep(slow_epochs, grid(seed=[0]), tmp_path, jobs=1)
    batches = -(-len(fastbp.datasets.digits().train.x) // 64)
    assert run.seconds > 2 * batches * 0.01  # what the first call has slept; the second one does not sleep


def test_ctrl_c_keeps_what_has_ended_and_ends_the_workers(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, time\nfrom fastbp.sweeps import grid, sweep\n"
        "def f(x):\n    open(f'{x}.pid', 'w').write(str(os.getpid()))\n    time.sleep(60 * (x > 0))\n    return x\n"
        "if __name__ == '__main__':\n    print([run.result for run in sweep(f, grid(x=range(8)), 'runs', jobs=2)])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    begun = lambda: list((tmp_path / "runs").glob("*.json")) and (tmp_path / "2.pid").exists()  # noqa: E731
    while not begun() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0  # nor does a worker go on with what it was given for later
    (record,) = (tmp_path / "runs").glob("*.json")
    assert json.loads(record.read_text())["result"] == 0
    for k in (1, 2):
        pid = int((tmp_path / f"{k}.pid").read_text())
        for _ in range(100):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"worker {pid} still runs")


def test_workers_that_are_told_to_end_while_they_end_say_nothing(tmp_path):
    (tmp_path / "late.py").write_text(
        "import time, weakref\nfrom fastbp.processes import pool\n"
        "class Held: pass\n"
        "def ends_slowly():\n"
        "    global held\n    held = Held()\n    weakref.finalize(held, time.sleep, 0.5)\n    time.sleep(0.2)\n"
        "if __name__ == '__main__':\n"
        "    with pool(2) as workers:\n"
        "        for each in [workers.submit(ends_slowly) for _ in range(2)]:\n            each.result()\n"
        "        raise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "late.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 3 and done.stderr == ""


def test_the_bar_counts_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sweep(square, grid(x=[1, 2]), jobs=1)
    assert "2/2" in capsys.readouterr().err
    sweep(square, grid(x=[1, 2]), jobs=1, progress=False)
    assert capsys.readouterr().err == ""


def trains_slowly(seed, resume):
    """Looks at the bar between two epochs; the first time it is shown half a run."""
    data = fastbp.datasets.digits()
    network, loss = fastbp.models.mlp([64, 10], seed=seed), fastbp.SoftmaxCrossEntropy()

    def wait(run):
        deadline = time.monotonic() + 20
        while run.epoch == 2 and seed == 0 and "| 0.5/2 [" not in sys.stderr.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)

    fastbp.fit(
        network, loss, fastbp.SGD(lr=0.1), data.train, epochs=4, callbacks=[Then(wait)], progress=False, resume=resume
    )


class Then(fastbp.Callback):
    def __init__(self, function):
        self.function = function

    def on_batch_end(self, run, loss):
        self.function(run)


def test_the_bar_moves_with_the_epochs_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "LOOK", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    sweep(trains_slowly, grid(seed=[0, 1]), tmp_path, jobs=1)
    assert "| 0.5/2 [" in terminal.getvalue() and "2/2 [" in terminal.getvalue()
    assert not [thread for thread in threading.enumerate() if "_watch" in thread.name]


def test_elsewhere_each_run_is_a_line(tmp_path, capsys):
    sweep(square, grid(x=[1, 2]), tmp_path, jobs=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(",")[0] for line in lines] == ["run 1 of 2: x 1", "run 2 of 2: x 2"]
    sweep(square, grid(x=[1, 2, 3]), tmp_path, jobs=1)
    assert capsys.readouterr().err.startswith("run 3 of 3: x 3, ")


# -- bad arguments, and standard error that is none --------------------------------------------------------------------


class Called:
    def __call__(self, x):
        return x


def twice(x, factor=2):
    return factor * x


WRONG = {
    "function": [None, 3, "square", Called(), functools.partial(twice, factor=3), dict, print, [square]],
    "settings": [
        None,
        3,
        "ab",
        {"x": 1},
        [1],
        ["x"],
        [{"x": 1}, None],
        [{1: 2}],
        [{"x": object()}],
        [{"x": 1j}],
        [{"x": {1}}],
    ],
    "folder": [3, True, b"runs", "", "a\0b", [1]],
    "jobs": [0, -1, 1.5, "2", True],
    "executor": [3, "threads", ThreadPoolExecutor, threading],
    "progress": [None, 1, "no"],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named_before_any_call(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    good = {"function": square, "settings": [{"x": 1, "log": str(log)}], "folder": "runs", "jobs": 1}
    for value in WRONG[name]:
        refused(lambda value=value: sweep(**{**good, name: value}), name)
    deep = functools.reduce(lambda inner, _: [inner], range(100_000), 0)
    refused(lambda: sweep(square, [{"x": deep}]), "settings", kind=TypeError)
    assert not log.exists() and not os.path.exists("runs")


def test_the_values_of_a_grid_are_lists():
    for value in (None, 3, "ab", b"ab", {"a": 1}, object()):
        refused(lambda value=value: grid(seed=[0], lr=value), "lr", kind=TypeError)
    refused(lambda: grid(seed=range(10**12)), "values", kind=MemoryError)
    assert grid(a=range(2), b=(x for x in "cd")) == [{"a": a, "b": b} for a in (0, 1) for b in "cd"]


def test_settings_may_come_one_by_one():
    assert [run.result for run in sweep(twice, ({"x": x} for x in (1, 2)), jobs=1, progress=False)] == [2, 4]


class Failing(io.StringIO):
    """A terminal that has gone."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")

    flush = write


@pytest.mark.parametrize("stream", [lambda: None, Failing, object, lambda: (file := io.StringIO(), file.close())[0]])
def test_whatever_standard_error_is_a_sweep_goes_on(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    runs = sweep(twice, grid(x=[1, 2]), tmp_path / "runs", jobs=1)
    (tmp_path / "runs").chmod(0o500)  # and trouble to be told of
    again = sweep(twice, grid(x=[1, 2, 3]), tmp_path / "runs", jobs=1)
    (tmp_path / "runs").chmod(0o700)
    assert [run.result for run in runs] == [2, 4] and [run.result for run in again] == [2, 4, 6]
