"""The compiler policy: lazy, cached by source hash, never stale, works where nothing can be written."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from first_steps import FIRST_STEPS

import fastbp
from fastbp.kernels import cache, jit, numba_inside
from fastbp.kernels.activations import relu_forward

PACKAGE = Path(fastbp.__file__).parent
COMPILES = """
import json, sys, numba
from numba.core import event
class Count(event.Listener):
    compiled = []
    def on_start(self, e): self.compiled.append(str(e.data["dispatcher"].py_func.__qualname__))
    def on_end(self, e): pass
event.register("numba:compile", Count())
"""


def run(code: str, root: Path = PACKAGE.parent, **environment) -> str:
    """What a fresh interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(root), **environment}
    env = {name: value for name, value in env.items() if value is not None}
    command = [sys.executable, "-c", COMPILES + code]
    result = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_compiles_nothing_and_loads_no_plotting():
    out = run("import fastbp; print(json.dumps([Count.compiled, [m for m in sys.modules if m in HEAVY]]))".replace(
        "HEAVY", "('matplotlib', 'tqdm', 'PIL', 'torch', 'IPython', 'platformdirs', 'scipy.linalg')"
    ))  # fmt: skip
    assert json.loads(out) == [[], []]


STEP = """
import fastbp, numpy as np
y = fastbp.Softmax().forward(np.array([[1.0, 2.0]]))
loss = fastbp.LogisticLoss()
loss.forward(np.array([1.0, 2.0]), np.array([0, 1]))
print(json.dumps([y.tolist(), len(Count.compiled), loss.backward()[0]]))
"""


def test_processes_that_start_at_once_compile_each_kernel_once(first_steps):
    assert first_steps.results[0] == first_steps.results[1] == first_steps.results[2]
    (folder,) = first_steps.folder.iterdir()
    kept = sorted(file.name for file in folder.iterdir())
    kernels = [name for name in kept if name.endswith(".nbc")]
    assert sum(first_steps.compiled) == len(kernels) > 20
    assert len(kept) == len(kernels) + 1  # and the file of claims


def test_a_second_process_compiles_nothing(first_steps, kernels):
    result, compiled = json.loads(run(FIRST_STEPS, FASTBP_CACHE_DIR=str(kernels)))
    assert (result, compiled) == (first_steps.results[0], 0)
    out = json.loads(run(STEP, FASTBP_CACHE_DIR=str(kernels)))
    assert out[0] == result[2] and out[1:] == [0, result[3]]


def test_loading_imports_nothing_of_the_compiler_which_comes_when_it_is_wanted(kernels):
    step = FIRST_STEPS + "loaded = [m for m in ('scipy.linalg', 'numba.np.arraymath') if m in sys.modules]\n"
    step += "norm = numba.njit(lambda a: np.linalg.norm(a) + np.sort(a)[0])(np.array([4.0, 3.0]))\n"
    step += "print(json.dumps([loaded, norm]))"
    first, second = run(step, FASTBP_CACHE_DIR=str(kernels)).splitlines()
    assert json.loads(first)[1] == 0 and json.loads(second) == [[], 8.0]


def test_warming_up_compiles_what_training_needs_and_changes_nothing(kernels):
    code = """
import fastbp, numpy as np
layers = fastbp.Linear(4, 8), fastbp.BatchNorm1d(8), fastbp.ReLU(), fastbp.Dropout(0.2), fastbp.Linear(8, 3)
network = fastbp.Sequential(*layers)
before, x, labels = network.state_dict(), np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
loss, optimizer = fastbp.SoftmaxCrossEntropy(), fastbp.Adam()
counts = [fastbp.warmup(network, loss, optimizer, (x, labels)) for _ in range(2)]
unchanged = all(np.array_equal(before[name], array) for name, array in network.state_dict().items())
unchanged = unchanged and not optimizer.steps
compiled = len(Count.compiled)
fastbp.fit(network, loss, optimizer, (x, labels), (x, labels), epochs=1, progress=False)
print(json.dumps([counts, unchanged, len(Count.compiled) - compiled]))
"""
    first, second = (json.loads(run(code, FASTBP_CACHE_DIR=str(kernels))) for _ in range(2))
    assert first[0][0] > 5 and first[0][1] == 0 and second[0] == [0, 0]
    assert first[1:] == second[1:] == [True, 0]


def test_an_edited_kernel_is_used_even_where_another_file_calls_it(tmp_path, kernels):
    """Numba's own cache would keep the old sigmoid inside the compiled loss: it looks at the loss's file alone."""
    shutil.copytree(PACKAGE, tmp_path / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    cache = str(kernels)
    before = json.loads(run(STEP, root=tmp_path, FASTBP_CACHE_DIR=cache))
    assert before[1] == 0  # a copy of the package is the same package
    source = tmp_path / "fastbp" / "kernels" / "activations.py"
    text = source.read_text()
    assert text.count("return upper if x >= 0 else e * upper") == 1
    source.write_text(
        text.replace("return upper if x >= 0 else e * upper", "return (upper if x >= 0 else e * upper) + 10")
    )
    after = json.loads(run(STEP, root=tmp_path, FASTBP_CACHE_DIR=cache))
    assert after[2] == pytest.approx(before[2] + 5)  # the gradient of a mean over two
    source.write_text(text)
    again = json.loads(run(STEP, root=tmp_path, FASTBP_CACHE_DIR=cache))
    assert again[2] == before[2] and again[1] == 0  # the first folder is still there


PROGRAM = """
from functools import partial
import numpy as np
from fastbp.engine.program import Program
from fastbp.engine.threads import Team
from fastbp.kernels.activations import relu_forward
x = np.array([-1.0, 2.0])
team = Team()
team.run(Program([[[partial(relu_forward, x, x)]]]), 0)
print(json.dumps([Count.compiled, x.tolist()]))
"""


@pytest.mark.parametrize("edited", ["engine/program.py", "engine/team.py", "kernels/activations.py"])
def test_an_edit_reaches_the_kernels_of_the_engine(edited, tmp_path, kernels):
    """They stand in another room than the kernels that they call: an edit there, too, must lead to new code."""
    shutil.copytree(PACKAGE, tmp_path / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"root": tmp_path, "FASTBP_CACHE_DIR": str(kernels)}
    run(PROGRAM, **environment)
    assert json.loads(run(PROGRAM, **environment)) == [[], [0, 2]]
    source = tmp_path / "fastbp" / edited
    text, change = source.read_text(), {
        "engine/program.py": ("enter(table, at + 1) != 0", "0 != 0"),
        "engine/team.py": ("run_calls(table, load(table, parts + part), end)", "end"),
        "kernels/activations.py": ("zero if x[i] <= zero else x[i]", "x[i]"),
    }[edited]  # fmt: skip
    source.write_text(text.replace(*change))
    assert source.read_text() != text
    compiled, x = json.loads(run(PROGRAM, **environment))
    assert x == [-1, 2] and "do_sections" in compiled  # the ReLU is left out, or has become another


def test_kernels_outside_their_folder_use_nothing_that_the_cache_does_not_know():
    for path in PACKAGE.rglob("*.py"):
        inside, tree = path.relative_to(PACKAGE).parts, ast.parse(path.read_text())
        decorators = {d.id for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for d in f.decorator_list
                      if isinstance(d, ast.Name)}  # fmt: skip
        if inside[0] != "kernels" and decorators & {"kernel", "ordered_kernel", "separate_kernel"}:
            assert inside[0] == "engine"
            modules = {node.module.split(".")[0] for node in ast.walk(tree)
                       if isinstance(node, ast.ImportFrom) and node.level == len(inside)}  # fmt: skip
            assert modules <= {"kernels", "memory"}, path


def test_no_home_and_no_cache_folder_still_works(tmp_path):
    read_only = tmp_path / "file"
    read_only.write_text("a file where a folder is wanted")
    out = json.loads(run(STEP, FASTBP_CACHE_DIR=str(read_only / "cache")))
    assert out[1] > 0 and np.allclose(out[0], [[1 / (1 + np.e), np.e / (1 + np.e)]])
    homeless = {"HOME": str(read_only / "home"), "XDG_CACHE_HOME": None, "FASTBP_CACHE_DIR": None}
    assert json.loads(run(STEP, **homeless)) == out


def test_a_kernel_from_the_disk_finds_the_separate_kernels_it_calls(first_steps, kernels):
    """They are not part of its file: they are loaded with it, or compiled again where theirs is missing or damaged."""
    step = FIRST_STEPS + "print(json.dumps(sorted(set(Count.compiled))))"
    names = "matmul.outer_product", "conv.padding.put_planes"
    (product,), (taps,) = (kernels.glob(f"*/{name}.callee-*.nbc") for name in names)
    product.write_bytes(b"garbage")
    taps.unlink()
    first, compiled = (json.loads(line) for line in run(step, FASTBP_CACHE_DIR=str(kernels)).splitlines())
    assert first == [first_steps.results[0], 2]
    assert {"outer_product", "put_planes"} <= set(compiled) and "columns_forward" not in compiled


def test_a_separate_kernel_raises_what_its_caller_would():
    source = "import numpy as np\nfrom fastbp.kernels.jit import kernel, separate_kernel\n"
    source += "@separate_kernel\ndef inner(a, k):\n    return a[k], np.ones(k).sum() if k else np.empty(-1).sum()\n"
    source += "@kernel\ndef outer(a, k):\n    value, total = inner(a, k)\n    return value + total\n"
    source += "print(outer(np.arange(4.0), 2))\ntry:\n    outer(np.arange(4.0), 0)\n"
    source += "except ValueError as error:\n    print(error)"
    assert run(source).splitlines() == ["4.0", "negative dimensions not allowed"]


def test_a_full_disk_does_not_stop_a_kernel(tmp_path):
    """No file may grow beyond 0 bytes: every write to the cache fails."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    out = json.loads(run(limit + STEP.replace("print(", "sys.stdout.write("), FASTBP_CACHE_DIR=str(tmp_path / "cache")))
    assert out[1] > 0
    assert not list(tmp_path.glob("cache/*/*.nbc*"))


def test_old_folders_go_and_nothing_else_does(tmp_path, monkeypatch):
    for k in range(12):
        folder = tmp_path / f"{cache.FOLDER_PREFIX}{k:020x}"
        folder.mkdir()
        os.utime(folder, (k, k))
    (tmp_path / "thesis").mkdir()
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path))
    cache.cache_folder.cache_clear()
    try:
        mine = cache.cache_folder()
        left = {f.name for f in tmp_path.iterdir()}
        assert mine.name in left and "thesis" in left and len(left) == cache.FOLDERS_KEPT + 1
        assert f"{cache.FOLDER_PREFIX}{11:020x}" in left and f"{cache.FOLDER_PREFIX}{0:020x}" not in left
    finally:
        cache.cache_folder.cache_clear()


def test_kernels_live_in_their_folder_and_nowhere_else():
    machinery = ("cache.py", "claims.py", "jit.py", "numba_inside.py", "probe.py", "program.py", "team.py")
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {getattr(node, "module", None) or alias.name for node in ast.walk(tree)
                    if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}  # fmt: skip
        if path.name not in machinery and path.parent.name != "simd":
            assert not any(str(name).split(".")[0] in ("numba", "llvmlite") for name in imported), path
        others = *machinery, "ways.py", "plans.py", "__init__.py"
        if path.parent.name in ("kernels", "conv") and path.name not in others:
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    kinds = ["kernel"], ["ordered_kernel"], ["separate_kernel"]
                    assert [d.id for d in node.decorator_list] in kinds, f"{path.name}: {node.name}"
                    assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
                    assert len(node.args.args) <= 8, f"{path.name}: {node.name} has too many arguments"


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the JIT is off")
@pytest.mark.parametrize(
    ("message", "raised"), [("no compiled object yet for <Library>", KeyboardInterrupt), ("another", RuntimeError)]
)
def test_an_interrupt_in_the_compiler_is_not_another_error(message, raised, monkeypatch, tmp_path):
    def reduce(data):
        raise RuntimeError(message)

    vector, fresh = numba.types.Array(numba.types.float64, 1, "C"), jit.kernel(relu_forward.py_func)
    with monkeypatch.context() as without_a_cache:  # what comes from the disk can't be looked into
        without_a_cache.setattr(jit, "cache_folder", lambda: None)
        fresh.compile((vector, vector))
    kept = jit.KernelCache("activations.relu_forward")
    monkeypatch.setattr(kept, "path", lambda _: tmp_path / "kernel.nbc")
    monkeypatch.setattr(numba_inside.CompileResultCacheImpl, "reduce", lambda self, data: reduce(data))
    with pytest.raises(raised):
        kept.save_overload((vector, vector), fresh.overloads[vector, vector])
    assert not list(tmp_path.iterdir())


def sums_in_memory(source: str) -> list[str]:
    """Where an innermost loop adds to an element that stays the same. The compiler makes vectors of such a sum only
    where it sees, as it runs, that nothing else lies near the element in memory: the order of the sum would depend on
    addresses."""
    found, loops = [], (ast.For, ast.While)
    for loop in (node for node in ast.walk(ast.parse(source)) if isinstance(node, loops)):
        inside = [node for node in ast.walk(loop) if node is not loop]
        if any(isinstance(node, loops) for node in inside):
            continue
        changing = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for target in (node.target for node in inside if isinstance(node, ast.AugAssign)):
            parts = list(ast.walk(target))
            element = isinstance(target, ast.Subscript) and not any(isinstance(part, ast.Slice) for part in parts)
            if element and changing.isdisjoint(part.id for part in parts if isinstance(part, ast.Name)):
                found.append(ast.unparse(target))
    return found


def test_no_sum_whose_order_depends_on_addresses():
    assert sums_in_memory("for n in range(N):\n    for s in range(S):\n        db[n] += g[s]") == ["db[n]"]
    for path in (PACKAGE / "kernels").rglob("*.py"):
        assert not sums_in_memory(path.read_text()), path


def test_nan_survives_the_fast_math_flags():
    assert "nnan" not in jit.FAST_MATH and "ninf" not in jit.FAST_MATH and "fast" not in jit.FAST_MATH
