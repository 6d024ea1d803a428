"""The kernel cache: no code of others is run, nothing damaged is loaded, settings stay apart, all is compiled once."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp.engine import program
from fastbp.kernels import activations, cache, jit
from fastbp.kernels import claims as claim_module

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the JIT is off")
users = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="files of other users can only be made by root"
)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX's users and modes")

NOBODY = 65534
STEP = """
import json, sys, numba
from numba.core import event
class Count(event.Listener):
    compiled = []
    def on_start(self, e): self.compiled.append(str(e.data["dispatcher"].py_func.__qualname__))
    def on_end(self, e): pass
event.register("numba:compile", Count())
import fastbp, numpy as np
from fastbp.kernels.jit import KernelCache
loss = fastbp.LogisticLoss()
loss.forward(np.array([1.0, 2.0]), np.array([0, 1]))
y = fastbp.Softmax().forward(np.array([[1.0, 2.0]]))
print(json.dumps([y.tolist(), loss.backward()[0], KernelCache.compiled, Count.compiled]))
"""


def start(code: str, folder: Path | str, **more) -> subprocess.Popen:
    env = {**os.environ, "FASTBP_CACHE_DIR": str(folder), "PYTHONPATH": str(Path(fastbp.__file__).parents[1]), **more}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(code: str, folder: Path | str, **more) -> tuple[list, str]:
    """What a fresh interpreter prints, and its warnings."""
    process = start(code, folder, **more)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return json.loads(out), error


@pytest.fixture
def chosen(monkeypatch):
    """The folder that a process takes which finds this in FASTBP_CACHE_DIR"""

    def choose(value) -> Path | None:
        monkeypatch.setenv("FASTBP_CACHE_DIR", str(value))
        cache.cache_folder.cache_clear()
        return cache.cache_folder()

    yield choose
    cache.cache_folder.cache_clear()


# -- whose folder ------------------------------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path, monkeypatch) -> Path:
    """The user's own cache, where kernels go that can't be kept where the user wants them"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "fastbp" / "kernels" / cache.FOLDER


def meddle(how: str, root: Path) -> None:
    """Make the folder `root` one that others could write to, or put another in its place."""
    inner = root / cache.FOLDER
    inner.mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    if how == "shared as /tmp":
        root.chmod(0o1777)
    elif how == "writable by all":
        root.chmod(0o702)
    elif how == "writable by a group":
        os.chown(root, -1, NOBODY)
        root.chmod(0o770)
    elif how == "another's":
        os.chown(root, NOBODY, -1)
    elif how == "another's inside":
        os.chown(inner, NOBODY, -1)
    elif how == "writable inside":
        inner.chmod(0o777)
    elif how == "in another's folder":
        os.chown(root.parent, NOBODY, -1)
    elif how == "in a folder where all can rename":
        root.parent.chmod(0o777)
    elif how == "a link of another's":
        root.rename(root.with_name("real"))
        root.symlink_to("real")
        os.lchown(root, NOBODY, -1)


ANOTHERS = ["writable by a group", "another's", "another's inside", "in another's folder", "a link of another's"]
MEDDLINGS = ["shared as /tmp", "writable by all", "writable inside", "in a folder where all can rename"]
MEDDLINGS += [pytest.param(how, marks=users) for how in ANOTHERS]


@posix
@pytest.mark.parametrize("how", MEDDLINGS)
def test_a_folder_that_others_can_meddle_with_is_not_used(how, tmp_path, private, chosen):
    root = tmp_path / "shared" / "cache"
    meddle(how, root)
    with pytest.warns(RuntimeWarning) as warned:
        assert chosen(root) == private
    assert len(warned) == 1
    told = str(warned[0].message)
    assert str(root) in told and str(private.parent) in told
    assert "nobody" in told or "others can write" in told or "65534" in told


@posix
def test_where_the_users_own_folder_is_not_safe_nothing_is_kept(private, tmp_path, chosen):
    private.mkdir(parents=True)
    private.parent.chmod(0o777)
    root = tmp_path / "shared" / "cache"
    meddle("writable by all", root)
    with pytest.warns(RuntimeWarning, match=f"{root}.*{private.parent}.*compiled in each process"):
        assert chosen(root) is None


@posix
def test_folders_in_tmp_and_behind_own_links_are_safe_and_new_ones_are_closed(tmp_path, chosen, recwarn):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "link").symlink_to("tmp/../tmp")
    old = os.umask(0)
    try:
        folder = chosen(tmp_path / "link" / "mine" / "kernels")
    finally:
        os.umask(old)
    assert folder == tmp_path / "link" / "mine" / "kernels" / cache.FOLDER and not recwarn
    assert all((tmp_path / "tmp" / path).stat().st_mode & 0o777 == 0o700 for path in ("mine", "mine/kernels"))
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "circle").symlink_to("circle")
    assert chosen(tmp_path / "circle") is None


@users
def test_a_group_of_the_users_own_may_write(tmp_path, chosen, recwarn, monkeypatch):
    """As with a umask of 002, which many systems give to users with a group of their own."""
    folder = tmp_path / cache.FOLDER
    folder.mkdir()
    for path in (tmp_path, folder):
        path.chmod(0o775)  # root's group is root's alone
    assert chosen(tmp_path) == folder and not recwarn
    cache.write(folder / "a.nbc", b"content")
    (folder / "a.nbc").chmod(0o664)
    assert cache.read(folder / "a.nbc") == b"content"
    import grp

    others = grp.struct_group(("root", "x", 0, ["root", "somebody"]))
    monkeypatch.setattr(grp, "getgrgid", lambda _: others)
    cache._private.cache_clear()
    try:
        assert cache.read(folder / "a.nbc") is None
        with pytest.warns(RuntimeWarning, match="others can write"):
            assert chosen(tmp_path) != folder
    finally:
        cache._private.cache_clear()


@posix
def test_planted_code_is_never_run(first_steps, kernels, tmp_path):
    """Each kernel's file replaced by a pickle that makes a file, in all ways with one user, and by another user's."""
    made = tmp_path / "it ran"

    class Plant:
        def __reduce__(self):
            return (open, (str(made), "w"))

    assert pickle.loads(pickle.dumps(Plant())).close() is None and made.exists()
    made.unlink()
    planted = pickle.dumps(Plant())
    for k, path in enumerate(sorted(kernels.glob("*/*.nbc"))):
        whole = path.read_bytes()
        path.unlink()
        if k % 5 == 0:
            path.write_bytes(planted)
        elif k % 5 == 1:
            path.write_bytes(whole[: cache.DIGEST] + planted)
        elif k % 5 == 2:
            os.mkfifo(path)
        elif k % 5 == 3:
            cache.write(path.with_name("another.nbc"), planted)  # with a right digest, but of another file's name
            path.with_name("another.nbc").rename(path)
        else:
            cache.write(path, planted)
            path.chmod(0o666)
            if os.geteuid() == 0:
                path.chmod(0o644)
                os.chown(path, NOBODY, -1)
    for compiled in (True, False):
        out, _ = run(STEP, kernels)
        assert out[:2] == first_steps.results[0][2:] and (out[2] > 0) == compiled
    assert not made.exists()


@posix
def test_only_regular_files_are_read(tmp_path):
    path = tmp_path / "a.nbc"
    cache.write(path, b"content")
    assert cache.read(path) == b"content" and path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "b.nbc")
    assert cache.read(tmp_path / "b.nbc") is None  # another's name
    os.symlink("b.nbc", path)
    assert cache.read(path) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.read(path) is None  # and it does not wait for a writer
    path.unlink()
    path.mkdir()
    assert cache.read(path) is None and cache.read(tmp_path / "none.nbc") is None


# -- which folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_nothing_in_the_environment_is_no_choice(value, private, chosen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chosen(value) == private
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_home_directory_and_a_relative_path_are_as_in_a_shell(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert chosen("~/kernels") == tmp_path / "me" / "kernels" / cache.FOLDER
    assert chosen("some/kernels") == tmp_path / "some" / "kernels" / cache.FOLDER
    assert chosen("~nobody-of-that-name/kernels") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me", "some"]


def test_a_folder_that_another_process_removes_is_no_trouble(tmp_path, chosen, monkeypatch):
    for k in range(12):
        (tmp_path / f"{cache.FOLDER_PREFIX}{k:020x}").mkdir()
    (tmp_path / f"{cache.FOLDER_PREFIX}gone").symlink_to("nowhere")  # in the list, but not to be looked at
    assert chosen(tmp_path) == tmp_path / cache.FOLDER


# -- damage ------------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.binary(max_size=200), st.data())
def test_whatever_happens_to_a_file_its_content_is_right_or_it_is_not_there(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "damaged.nbc"
    cache.write(path, content)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for place, bit in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 7)), max_size=3)):
        damaged[place] ^= 1 << bit
    damaged = bytes(damaged[: data.draw(st.integers(0, len(whole)))]) + data.draw(st.binary(max_size=3))
    path.write_bytes(damaged)
    assert cache.read(path) == (content if damaged == whole else None)


def test_damaged_kernels_and_no_others_are_compiled_again(first_steps, kernels):
    rng, (folder,) = np.random.default_rng(3), kernels.iterdir()
    before = {path: path.read_bytes() for path in folder.glob("*.nbc")}
    names = "softmax.softmax_forward", "losses.logistic_forward", "losses.logistic_backward"
    flipped, cut, empty = damaged = [next(folder.glob(f"{name}-*.nbc")) for name in names]
    broken = bytearray(before[flipped])
    for bit in rng.integers(8 * len(broken), size=3):
        broken[bit // 8] ^= 1 << bit % 8
    flipped.write_bytes(broken)
    cut.write_bytes(before[cut][: rng.integers(len(before[cut]))])
    empty.write_bytes(b"")
    for compiled in (3, 0):
        out, _ = run(STEP, kernels)
        assert out[:3] == [*first_steps.results[0][2:], compiled]
        assert ({name.split(".")[1] for name in names} <= set(out[3])) == (compiled > 0)
    assert all(path.read_bytes() == content for path, content in before.items() if path not in damaged)


@posix
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_where_nothing_can_be_claimed_nobody_is_waited_for(make, tmp_path):
    make(tmp_path / "claims")
    claims = claim_module.Claims(tmp_path)
    claims.wait("kernel")
    assert claims.take("kernel") and not claims.taken("kernel")
    claims.release("kernel")
    assert len(list(tmp_path.iterdir())) == 1


# -- settings ----------------------------------------------------------------------------------------------------------

VECTOR = numba.types.Array(numba.types.float64, 1, "C")
KEPT = getattr(activations.relu_forward, "_cache", None)
RELU = "import sys, numba\nfrom fastbp.kernels.activations import relu_forward as relu\n"
RELU += "from fastbp.kernels import cache, claims\nfrom fastbp.kernels.jit import KernelCache\n"
RELU += "vector = numba.types.Array(numba.types.float64, 1, 'C')\nname = relu._cache.path((vector, vector)).name\n"
CODE = {
    "OPT": 0,
    "BOUNDSCHECK": 1,
    "SLP_VECTORIZE": 1,
    "LOOP_VECTORIZE": 0,
    "DEBUGINFO_DEFAULT": 1,
    "CPU_NAME": "nehalem",
}
CODE |= {"CPU_FEATURES": "+sse4.2", "ENABLE_AVX": 7, "LLVM_REFPRUNE_PASS": 0, "DISABLE_INTEL_SVML": 7, "DEBUG_NRT": 1}
CODE |= {"FULL_TRACEBACKS": 1, "ENABLE_PROFILING": 7, "EXTEND_VARIABLE_LIFETIMES": 1, "A_NEW_SETTING": 1}
OTHER = {"CACHE_DIR": "/elsewhere", "NUMBA_NUM_THREADS": 77, "DUMP_ASSEMBLY": 1, "CUDA_LOG_SIZE": 7, "SHOW_HELP": 1}


@pytest.mark.parametrize(("name", "value"), [*CODE.items(), *OTHER.items()])
def test_settings_that_change_code_belong_to_a_kernels_name(name, value, monkeypatch, chosen, tmp_path):
    chosen(tmp_path)
    before = KEPT.path((VECTOR, VECTOR))
    monkeypatch.setattr(numba.config, name, value, raising=False)
    assert (KEPT.path((VECTOR, VECTOR)) != before) == (name in CODE)
    monkeypatch.undo()
    chosen(tmp_path)
    assert KEPT.path((VECTOR, VECTOR)) == before


def test_a_run_without_optimisation_leaves_nothing_to_others(tmp_path):
    """Nor does one that sets it when it is running."""
    late = RELU + "import os\nos.environ['NUMBA_OPT'] = '0'\n"
    compiled = "relu.compile((vector, vector))\nprint(KernelCache.compiled)"
    slow, _ = run(RELU + compiled, tmp_path, NUMBA_OPT="0")
    counts = [run(before + compiled, tmp_path)[0] for before in (late, RELU, RELU)]
    assert counts == [slow, slow, 0] and slow > 0, "one has taken what another has made with other settings"


# -- claims ------------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from fastbp.kernels import cache, claims
claims.claims(cache.cache_folder()).take(sys.argv[0] and "kernel")
print("held", flush=True)
time.sleep(600)
"""


def test_a_claim_ends_with_its_process(chosen, tmp_path):
    claims = claim_module.claims(chosen(tmp_path))
    process = start(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        assert claims.taken("kernel") and not claims.take("kernel") and not claims.taken("another")
    finally:
        process.kill()
        process.communicate()
    assert not claims.taken("kernel") and claims.take("kernel") and claims.take("kernel")
    claims.release("kernel")


def test_a_process_that_waits_can_be_interrupted_and_goes_on_when_the_other_is_dead(chosen, tmp_path):
    folder = chosen(tmp_path)
    holds = start(
        RELU + "claims.claims(cache.cache_folder()).take(name)\nprint(name, flush=True)\nsys.stdin.read()", tmp_path
    )
    name = holds.stdout.readline().strip()
    wait = RELU + "print('begins', flush=True)\nrelu.compile((vector, vector))\nprint(KernelCache.compiled)"
    waiting = [start(wait, tmp_path) for _ in range(2)]
    try:
        assert all(process.stdout.readline() == "begins\n" for process in waiting)
        time.sleep(0.3)
        assert all(process.poll() is None for process in waiting)
        waiting[0].send_signal(signal.SIGINT)
        _, error = waiting[0].communicate(timeout=60)
        assert waiting[0].returncode in (-signal.SIGINT, 1) and waiting[1].poll() is None
        # nothing where Python itself ends by the signal
        assert error.strip().endswith("KeyboardInterrupt") or not error
        holds.kill()
        out, error = waiting[1].communicate(timeout=60)
        assert int(out) > 0 and not error
        assert (folder / name).exists()
    finally:
        for process in (holds, *waiting):
            process.kill()
            process.communicate()


def test_no_process_is_waited_for_for_ever(tmp_path, monkeypatch):
    """It may be stopped."""
    monkeypatch.setattr(claim_module, "PATIENCE", 0.05)
    monkeypatch.setattr(claim_module, "_lock", lambda *_: False)
    claims = claim_module.Claims(tmp_path)
    start = time.monotonic()
    claims.wait("kernel")
    assert not claims.held and time.monotonic() - start < 30


def test_where_files_cannot_be_locked_a_claim_counts_for_some_time(tmp_path, monkeypatch):
    def refuse(file, place):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(claim_module, "_lock", refuse)
    one, two = (claim_module.Claims(tmp_path) for _ in range(2))  # as in two processes
    assert one.take("kernel") and one.take("kernel") and not one.taken("kernel")
    assert two.taken("kernel") and not two.take("kernel") and two.take("another")
    two.release("kernel")  # it has none
    assert two.taken("kernel")
    one.release("kernel")
    assert two.take("kernel")
    (file,) = tmp_path.glob("kernel*")
    for shift in (-2, 2):  # its process died long ago, or the clocks differ
        os.utime(file, (time.time() + shift * claim_module.PATIENCE,) * 2)
        assert not one.taken("kernel")
        assert one.take("kernel")
        one.release("kernel")
        assert two.take("another")
        file.touch()
    file.unlink()
    two.release("another")
    assert [path.name for path in tmp_path.iterdir()] == ["claims"]


def test_no_claim_outlasts_a_kernel_that_cannot_be_compiled_or_kept(chosen, tmp_path, monkeypatch):
    claims = claim_module.claims(chosen(tmp_path))
    kernel, taken = jit.kernel(activations.relu_forward.py_func), []
    monkeypatch.setattr(claim_module.Claims, "_take", lambda self, name: taken.append(name) or True)
    with pytest.raises(numba.TypingError):
        kernel.compile((numba.types.unicode_type, VECTOR))
    assert taken and not claims.held
    monkeypatch.setattr(jit, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    kernel.compile((VECTOR, VECTOR))
    assert not claims.held and not claims.possible  # from now on nobody waits for what can't be kept
    assert len(kernel.overloads) == 1


def test_kernels_are_loaded_from_a_folder_that_cannot_be_written(first_steps, kernels, monkeypatch):
    """As from a container's image."""
    code = "import fastbp.kernels.cache as cache, os\nreal = os.open\n"
    code += "def refuse(path, flags, *rest, **more):\n    if flags & os.O_WRONLY or flags & os.O_RDWR:\n"
    code += "        raise OSError(30, 'Read-only file system')\n"
    code += "    return real(path, flags, *rest, **more)\nos.open = refuse\n"
    out, error = run(code + STEP, kernels)
    assert out == [*first_steps.results[0][2:], 0, []] and not error


# -- Numba's inside ----------------------------------------------------------------------------------------------------

NETWORK = """
import json, sys, warnings
import numpy as np
import fastbp
from fastbp.kernels.jit import KernelCache
CHANGE
network = fastbp.Sequential(fastbp.ReLU(), fastbp.Tanh())
x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
y = network.forward(x)
from fastbp.engine import program
from functools import partial
from fastbp.kernels.activations import relu_forward
a, b = np.array([-1.0, 2.0]), np.zeros(2)
made = program.programs([[[partial(relu_forward, a, b)], [partial(relu_forward, b, b)]]])
for call in made:
    call()
print(json.dumps([float(np.abs(y - np.tanh(np.maximum(x, 0))).max()), b.tolist(), [type(c).__name__ for c in made]]))
"""
CALLER = """
import json
import numpy as np
from fastbp.kernels.jit import KernelCache
from fastbp.kernels.jit import twice_weighted
print(json.dumps([twice_weighted(np.arange(6.0).reshape(2, 3), (4, 0.5)), KernelCache.compiled]))
"""
SHAPE_FIRST = """
from fastbp.engine import program
words = program.words
program.words = lambda value: words(value)[::-1] if isinstance(value, np.ndarray) else words(value)
"""
LONGER = """
from numba.core import types
from numba.core.datamodel import models
def init(self, manager, kind):
    sizes, owner = types.UniTuple(types.intp, kind.ndim), types.MemInfoPointer(kind.dtype)
    models.StructModel.__init__(self, manager, kind, [
        ("meminfo", owner), ("parent", types.pyobject), ("nitems", types.intp), ("itemsize", types.intp),
        ("data", types.CPointer(kind.dtype)), ("shape", sizes), ("strides", sizes), ("device", types.intp),
    ])
models.ArrayModel.__init__ = init
"""
NO_STATUS = "import numba.core.callconv\ndel numba.core.callconv.RETCODE_NONE\n"
NO_CODE = "from fastbp.engine import program\nprogram.code = None\n"
# What another Numba could have changed, after fastbp was imported and before
AFTER = {"words": SHAPE_FIRST, "code": NO_CODE}
BEFORE = {"import": NO_STATUS, "array": LONGER}


@pytest.fixture(scope="module")
def unknown(tmp_path_factory) -> Path:
    """A cache for the kernels as they are compiled then"""
    return tmp_path_factory.mktemp("unknown")


@pytest.mark.parametrize("change", [*AFTER, *BEFORE])
def test_where_numbas_inside_is_another_calls_are_made_one_by_one(change, unknown):
    code = BEFORE.get(change, "") + NETWORK.replace("CHANGE", AFTER.get(change, ""))
    (error, b, kinds), told = run(code, unknown if change != "array" else unknown / "array")
    assert error < 1e-6 and b == [0, 2]
    assert kinds == ["partial", "partial"]
    assert told.count("RuntimeWarning: fastbp does not know the inside of Numba") == 1


def test_where_compiled_code_cannot_become_bytes_nothing_is_kept(tmp_path):
    gone = "import numba.core.caching\ndel numba.core.caching.CompileResultCacheImpl\n"
    (error, b, kinds), told = run(gone + NETWORK.replace("CHANGE", ""), tmp_path)
    assert error < 1e-6 and b == [0, 2] and kinds == ["Program"]
    assert told.count("RuntimeWarning: fastbp can't keep compiled kernels") == 1
    assert not list(tmp_path.rglob("*.nbc"))


def test_where_symbols_are_no_way_to_call_kernels_contain_what_they_call(tmp_path):
    change = "from fastbp.kernels import jit\njit.call_symbol = None\n"
    for compiled in (True, False):
        (result, count), told = run(change + CALLER, tmp_path)
        assert result == 41 and (count > 0) == compiled
        assert told.count("RuntimeWarning: fastbp does not know the inside of Numba") == 1
    assert run(CALLER, tmp_path)[1] == ""


def test_numbas_inside_is_known():
    assert program.PROGRAMS.passed() and jit.SYMBOLS.passed()
