"""Kernels compiled by two processes: all of them, once, by nobody else when there is no need, and with no process left behind."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import types

import fastbp
from fastbp.kernels import activations, compiling, matmul, program
from fastbp.kernels.jit import KernelCache, Separate

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the JIT is off")

VECTOR = types.Array(types.float64, 1, "C")
RELU = {(activations.relu_forward, (VECTOR, VECTOR)): None}
STEP = """
import json, subprocess, sys
import numpy as np
import fastbp
from fastbp.kernels.jit import KernelCache

started = []
class Watched(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        started.append(self)
        super().__init__(*args, **kwargs)
subprocess.Popen = Watched
network = fastbp.Sequential(
    fastbp.Conv2d(1, 4, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(36, 8), fastbp.ReLU(),
    fastbp.Linear(8, 3), seed=1,
)
rng = np.random.default_rng(2)
trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1))
loss = trainer.step(rng.normal(size=(64, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 64))
print(json.dumps([loss, network.parameter_vector.tobytes().hex(), KernelCache.compiled, [child.returncode for child in started]]))
"""


def step(cache: Path, threads: int) -> tuple[float, str, int, list[int]]:
    env = {**os.environ, "FASTBP_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    code = f"import fastbp; fastbp.set_num_threads({threads})\n{STEP}"
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_first_step_gets_help_and_the_next_process_compiles_nothing(tmp_path):
    alone, together, warm = (step(tmp_path / folder, threads) for folder, threads in (("one", 1), ("two", 2), ("two", 2)))
    assert alone[:2] == together[:2] == warm[:2]
    assert [len(result[3]) for result in (alone, together, warm)] == [0, 1, 0]
    assert together[3][0] is not None, "the other process is still there"
    assert alone[2] > together[2] > 0 and warm[2] == 0, "nobody helped"
    names = [{file.name for file in (tmp_path / folder).rglob("*.nbc")} for folder in ("one", "two")]
    assert names[0] and names[0] <= names[1]  # two threads need kernels of their own


def test_where_no_kernel_can_be_kept_nobody_helps(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    result = step(folder, 2)
    assert result[2] > 0 and result[3] == []


def test_the_other_process_leaves_kernels_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path))
    with compiling.helper(RELU):
        end = time.monotonic() + 100
        while not list(tmp_path.rglob("activations.relu_forward-*.nbc")) and time.monotonic() < end:
            time.sleep(0.05)
    assert list(tmp_path.rglob("activations.relu_forward-*.nbc"))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_other_process_ends_with_the_block(error, monkeypatch):
    started = []

    class Sleeps(subprocess.Popen):
        def __init__(self, command, **options):
            started.append(self)
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **options)

    monkeypatch.setattr(subprocess, "Popen", Sleeps)
    try:
        with compiling.helper(RELU):
            assert started[0].poll() is None
            if error:
                raise error
    except (KeyboardInterrupt, ValueError) as raised:
        assert type(raised) is error
    assert len(started) == 1 and started[0].returncode is not None


@pytest.mark.parametrize("change", ["refused", "no executable", "frozen"])
def test_no_other_process_is_no_error(change, monkeypatch):
    calls = []

    def refused(*args, **kwargs):
        calls.append(args)
        raise PermissionError("no processes here")

    monkeypatch.setattr(subprocess, "Popen", refused)
    if change == "no executable":
        monkeypatch.setattr(sys, "executable", None)
    if change == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    with compiling.helper(RELU):
        pass
    assert len(calls) == (change == "refused")


def test_kernels_are_found_by_their_names(monkeypatch):
    asked = []
    monkeypatch.setattr(numba.core.dispatcher.Dispatcher, "compile", lambda self, types: asked.append((self, types)))
    work = [
        ("fastbp.kernels.activations", "relu_forward", False, (VECTOR, VECTOR)),
        ("fastbp.kernels.matmul", "outer_product", True, (VECTOR,)),
    ]
    compiling.compile_named(work)
    assert asked == [(activations.relu_forward, (VECTOR, VECTOR)), (matmul.outer_product.callee, (VECTOR,))]


def test_every_kernel_that_is_kept_has_a_name():
    kept = 0
    for path in Path(compiling.__file__).parent.glob("[a-z]*.py"):
        for value in vars(import_module(f"fastbp.kernels.{path.stem}")).values():
            function = value.callee if isinstance(value, Separate) else value
            if isinstance(getattr(function, "_cache", None), KernelCache):
                assert getattr(import_module(function.__module__), function.__qualname__) is value
                kept += 1
    assert kept > 50


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 3)), np.zeros((2, 3)).T, np.zeros((4, 3))[::2], np.zeros(3, np.float32), np.broadcast_to(np.zeros(1), 3),
        np.zeros((3, 2), np.int64)[:, 0],
        np.zeros(()), 3, 2.5, True, None, (1, 2), (1, None), (), np.float32(1), (np.ones(2), (1, 2.0)),
    ],
    ids=repr,
)  # fmt: skip
def test_types_are_numbas(value):
    assert program.type_of(value) == program.type_of(value) == numba.typeof(value)
