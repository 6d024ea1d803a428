"""The soak finds nothing in a short run, and finds what is planted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
KINDS = ("library", "commands", "caches", "files", "writers", "disks", "cold", "calls", "guards", "networks")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes and memory")


def start(tmp_path, *words, script=BENCH / "soak.py") -> subprocess.Popen:
    """The soak, with a folder of its own for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o711, exist_ok=True)
    paths = os.pathsep.join([str(BENCH.parent), str(BENCH), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(scratch)}
    command = [sys.executable, str(script), *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


def run(tmp_path, *words, status=0, **options) -> tuple[str, dict]:
    """What it prints, and its figures. Nothing is left in the folder for temporary files."""
    process = start(tmp_path, *words, "--json", tmp_path / "soak.json", **options)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == status, output + errors
    assert os.listdir(tmp_path / "scratch") == []
    return output, json.loads((tmp_path / "soak.json").read_text())


def test_nothing_is_lost(tmp_path):
    output, found = run(tmp_path, "--hours", 0.001)
    assert list(found["kinds"]) == list(KINDS) and found["failures"] == [] and "LOST" not in output
    for kind, counts in found["kinds"].items():
        assert counts["tried"] == counts["survived"] >= counts["trials"] > 0 == counts["lost"], kind
    assert found["kinds"]["library"]["tried"] == 5 and found["kinds"]["calls"]["tried"] >= 500


PLANTED = '''
import os, signal, time
import numpy as np
import fastbp.network
import fastbp.training.history
import soak
from soaking import guards, kills, kinds, trials
from soaking.trials import Fork, Lost
from fastbp.kernels.jit import kernel

trials.PATIENCE = 2
open_file = open

def in_place(path):  # a writer of files that are seen half written
    return open_file(path, "wb")

def saves(trial):
    fastbp.network.written_atomically = fastbp.training.history.written_atomically = in_place
    kills.saves(trial)

def hangs(trial):
    Fork(lambda: time.sleep(100), trial.folder / "log").wait(2)

def crashes(trial):
    trial.note("the dereferenced")
    if trial.number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    trial.tried = 3

def fails(trial):
    trial.tried = 7
    raise Lost("two of seven", 2)

source = """
def total(x, y):
    for i in range({first}, x.size + {more}):
        y[0] += x[i if i >= 0 else i - x.size]
"""

def run_kernel(first=0, more=0):
    def trial(trial):
        guards.guard_allocations()
        names = {"__name__": "fastbp.kernels.planted"}
        exec(source.format(first=first, more=more), names)
        planted = kernel(names["total"])
        with guards.Calls(trial):
            planted(np.ones(100), np.zeros(1))
    return trial

kinds.KINDS = {
    "saves": kinds.Kind(saves, 1, ""),
    "hangs": kinds.Kind(hangs, 1, ""),
    "crashes": kinds.Kind(crashes, 3000, ""),
    "fails": kinds.Kind(fails, 1, ""),
    "right": kinds.Kind(run_kernel(), 1, ""),
    "after": kinds.Kind(run_kernel(more=1), 1, ""),
    "before": kinds.Kind(run_kernel(first=-1), 1, ""),
}
if __name__ == "__main__":
    soak.measuring.run(soak.main)
'''


def test_planted_faults_are_found(tmp_path):
    (tmp_path / "planted.py").write_text(PLANTED)
    output, found = run(tmp_path, "--hours", 0.001, "--jobs", 1, status=1, script=tmp_path / "planted.py")
    lost = {kind: (counts["tried"], counts["lost"]) for kind, counts in found["kinds"].items()}
    assert lost["saves"][1] == lost["hangs"][1] == lost["after"][1] == lost["before"][1] == 1
    assert lost["right"] == (2, 0)
    assert lost["fails"] == (7, 2)
    assert lost["crashes"] == (3 + 1 + 3, 1)  # the others go on in another process
    messages = {failure["kind"]: failure["message"] for failure in found["failures"]}
    assert "SIGSEGV at: the dereferenced" in messages["crashes"] and "SIGSEGV at: total" in messages["after"]
    assert messages["hangs"].startswith("hangs: ") and "planted.py" in messages["hangs"]
    assert "SIG" in messages["saves"] and messages["fails"] == "two of seven"
    assert "LOST: python bench/soak.py --only crashes --seed 0 --trial 1\n" in output


def test_one_trial_alone(tmp_path):
    _, found = run(tmp_path, "--only", "files", "--trial", 3, "--seed", 2, "--jobs", 2)
    assert found["kinds"]["files"]["trials"] == 1 and found["seed"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trial", "3"), "--trial needs"),
        (("--trial", "3", "--only", "files,cold"), "--trial needs"),
        (("--hours", "0"), "a number above 0"),
        (("--only", "everything"), "unknown: everything"),
        (("--jobs", "0"), "a whole number above 0"),
        (("--json", "no/such/folder/x.json"), "can't be written"),
    ],
)
def test_wrong_options(tmp_path, words, message):
    process = start(tmp_path, *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and message in errors and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_soak_leaves_nothing(tmp_path, number):
    process = start(tmp_path, "--only", "writers", "--jobs", 2)
    while not any((tmp_path / "scratch").glob("fastbp-soak-*/*/*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "interrupted\n"
    assert os.listdir(tmp_path / "scratch") == []
