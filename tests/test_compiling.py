"""Kernels compiled by two processes: all of them, once, by one where that is enough; no process is left behind."""

import ast
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import numba
import numpy as np
import pytest
from first_steps import FIRST_STEPS
from numba import types

import fastbp
from fastbp.engine import compiling, program
from fastbp.kernels import activations, cache, matmul
from fastbp.kernels import claims as claim_module
from fastbp.kernels.jit import KernelCache, Separate, kernel

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the JIT is off")

VECTOR = types.Array(types.float64, 1, "C")
RELU = {(activations.relu_forward, (VECTOR, VECTOR)): None}
WATCH = """
import json, subprocess, sys
from functools import partial

started = []
class Watched(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        started.append(self)
        super().__init__(*args, **kwargs)
subprocess.Popen = Watched
"""
COUNTS = """
print(json.dumps([KernelCache.compiled, [child.returncode for child in started]]))
"""


def run(code: str, cache: Path) -> list:
    env = {**os.environ, "FASTBP_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", WATCH + code + COUNTS], env=env, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_first_step_gets_help_and_the_next_process_compiles_nothing(first_steps, kernels):
    def names():
        return {file.name for file in kernels.rglob("*.nbc")}

    for what in ("*/conv.pooled.*", "*/conv.shifted.*", "*/losses*", "*/pool2d*", "*/linear.linear*"):
        for file in kernels.glob(what):
            file.unlink()
    step, kept = FIRST_STEPS.replace("set_num_threads(1)", "set_num_threads(2)"), names()
    together, warm = (run(step, kernels) for _ in range(2))
    assert [result[0][0] for result in (together, warm)] == [first_steps.results[0]] * 2
    assert len(together[1][1]) == 1 and together[1][1][0] is not None, "the other process is still there"
    assert 0 < together[0][1] < len(names() - kept), "nobody helped"
    assert warm[1] == [0, []]
    assert names() >= {file.name for file in first_steps.folder.rglob("*.nbc")}  # two threads need kernels of their own


def test_where_no_kernel_can_be_kept_nobody_helps(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    code = "import numpy as np\nfrom fastbp.engine import compiling\n"
    code += "from fastbp.kernels.activations import relu_forward\nfrom fastbp.kernels.jit import KernelCache\n"
    code += "compiling.HELPED, x = 1, np.array([-1.0, 2.0])\n"
    code += "compiling.compile_kernels([partial(relu_forward, x, x)], True)"
    ((compiled, started),) = run(code, folder)
    assert compiled > 0 and started == []


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """This process's cache, empty"""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield cache.cache_folder()
    cache.cache_folder.cache_clear()


def test_the_other_process_leaves_kernels_in_the_cache(folder):
    with compiling.helper(RELU):
        end = time.monotonic() + 100
        while not list(folder.glob("activations.relu_forward-*.nbc")) and time.monotonic() < end:
            time.sleep(0.05)
    assert list(folder.glob("activations.relu_forward-*.nbc"))


def test_one_process_of_those_that_share_a_cache_has_help(folder, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1) or contextlib.nullcontext(Mock()))
    others = claim_module.Claims(folder)  # as another process has them, but for the system's locks
    mine = claim_module.claims(folder).file
    monkeypatch.setattr(claim_module, "_lock", lambda file, place: not (file == mine and others.held))
    others.take(compiling.HELPER)
    with compiling.helper(RELU):
        assert not started
    others.release(compiling.HELPER)
    with compiling.helper(RELU):
        assert started


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


def test_every_kernel_is_kept_and_found_by_its_name():
    """Whatever stands below `kernel` or one of its relatives, in their folder, in one below it, or in the engine's."""
    names, root = [], Path(fastbp.__file__).parent
    for path in [*(root / "kernels").rglob("*.py"), *(root / "engine").rglob("*.py")]:
        module = ".".join(["fastbp", *path.relative_to(root).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = {getattr(decorator, "id", "") for decorator in getattr(node, "decorator_list", [])}
            if decorators & {"kernel", "ordered_kernel", "separate_kernel"}:
                value = getattr(import_module(module), node.name)
                for function in [value.dispatcher, value.callee] if isinstance(value, Separate) else [value]:
                    assert (function.__module__, function.__qualname__) == (module, node.name)
                    assert isinstance(function._cache, KernelCache), f"{module}.{node.name} is compiled in each process"
                    names.append(function._cache.path((VECTOR,)).name)
    assert len(set(names)) == len(names) > 80


def test_a_kernel_in_a_folder_below_is_kept_under_a_name_of_its_own():
    def compiled(path: Path):
        code = compile("def double(x):\n    return 2 * x", path, "exec")
        exec(code, space := {"__name__": "somewhere"})
        return kernel(space["double"])

    root = Path(fastbp.__file__).parent
    places = [root / "kernels" / place for place in ("rows.py", "simd/rows.py", "conv/deep/rows.py")]
    caches = [compiled(place)._cache for place in [*places, root / "engine" / "rows.py"]]
    assert len({kept.path((types.float64,)).name for kept in caches}) == 4
    assert not isinstance(compiled(root / "rows.py")._cache, KernelCache)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 3)), np.zeros((2, 3)).T, np.zeros((4, 3))[::2], np.zeros(3, np.float32),
        np.broadcast_to(np.zeros(1), 3), np.zeros((3, 2), np.int64)[:, 0],
        np.zeros(()), 3, 2.5, True, None, (1, 2), (1, None), (), np.float32(1), (np.ones(2), (1, 2.0)),
    ],
    ids=repr,
)  # fmt: skip
def test_types_are_numbas(value):
    assert program.type_of(value) == program.type_of(value) == numba.typeof(value)
