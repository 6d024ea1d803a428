"""The sandbox: values across the pipe, ordinary submissions, and those in tests/hostile, which may harm none but
themselves."""

import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter, OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from ahead import ahead
from hypothesis import given
from hypothesis import strategies as st

from fastbp.grading import child_process, messages
from fastbp.grading.folders import remove
from fastbp.grading.limits import Limits, SubmissionError
from fastbp.grading.sandbox import Handle, Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="submissions run on Linux and macOS only")

HOSTILE = Path(__file__).parent / "hostile"
QUICK = Limits(seconds=1.5, memory_bytes=320 << 20, output_bytes=50_000)
PATIENT = Limits(seconds=20, memory_bytes=320 << 20, output_bytes=50_000)


# -- the message format


def pack(*values, limit=1 << 30, opaque=False) -> bytes:
    writer = messages.Writer(limit, opaque)
    for value in values:
        writer.write(value)
    return writer.message(7)[messages.HEADER.size :]


def unpack(data):
    reader = messages.Reader(data)
    value = reader.read()
    reader.end()
    return value


def same(a, b) -> bool:
    """Equal to the last bit and of the same types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, messages.Handle):
        return a.number == b.number
    return repr(a) == repr(b)


arrays = hnp.arrays(
    st.sampled_from(messages.DTYPES) | st.sampled_from([np.dtype("q"), np.dtype("l")]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2 ** (8 * messages.INT_BYTES - 2)), 2 ** (8 * messages.INT_BYTES - 2))
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | arrays
    | hnp.arrays(st.sampled_from(messages.DTYPES), ()).map(lambda array: array[()])
    | st.integers(0, 2**64 - 1).map(messages.Handle)
)
keys = st.text() | st.integers(-1000, 1000) | st.none()
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner), max_leaves=12
)


@given(values)
def test_values_survive(value):
    assert same(unpack(pack(value)), value)


@given(arrays, st.randoms(use_true_random=False))
def test_arrays_keep_their_kind_of_layout(array, rng):
    axes = list(range(array.ndim))
    rng.shuffle(axes)
    steps = tuple(slice(None, None, rng.choice((1, 1, 2, -1))) for _ in axes)
    view = array.transpose(axes)[(*steps, ...)]
    copy = unpack(pack(view))
    assert copy.shape == view.shape and np.array_equal(copy, view, equal_nan=copy.dtype.kind in "fc")
    assert copy.flags.c_contiguous == view.flags.c_contiguous and copy.flags.f_contiguous == view.flags.f_contiguous
    assert copy.flags.writeable and copy.flags.aligned


def test_what_is_written_as_something_plainer():
    Pair = namedtuple("Pair", "a b")
    big_endian = np.arange(3, dtype=">f8")
    for value, plain in (
        (Pair(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (np.str_("x"), "x"),
        (signal.SIGTERM, 15),
        (big_endian, np.arange(3.0)),
        (np.ma.masked_array([1, 2], [True, False]), np.array([1, 2])),
        ("\ud800", "\\ud800"),
    ):
        assert same(unpack(pack(value)), plain)


@pytest.mark.parametrize(
    "value, message",
    [
        (object(), "object of type object"),
        (len, "builtin_function_or_method"),
        ([1, (2, {3})], "type set"),
        (b"bytes", "type bytes"),
        (np.array([object()]), "array of objects"),
        (np.array(["text"]), "dtype <U4"),
        (np.zeros(2, np.longdouble), "dtype"),
        (np.zeros(2, "datetime64[s]"), "dtype"),
        (np.zeros(2, [("a", int)]), "dtype"),
        ({(1, 2): 3}, "key of type tuple"),
        (2**600, "integer"),
        ({i: i for i in range(messages.KEYS + 1)}, "entries"),
        ([0] * (messages.VALUES + 1), "values"),
        ("x" * 2000, "too large"),
        (np.broadcast_to(0.0, (10**6, 10**6)), "too large"),
        (np.zeros((1,) * 33) if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else object(), "."),
    ],
)
def test_what_cannot_cross_is_said(value, message):
    limit = 1000 if isinstance(value, str) else 1 << 30
    with pytest.raises(messages.MessageError, match=message):
        pack(value, limit=limit)


def test_nesting_is_limited_on_both_sides():
    value = []
    for _ in range(messages.DEPTH):
        value = [value]
    assert same(unpack(pack(value)), value)
    with pytest.raises(messages.MessageError, match="nested"):
        pack([value])
    with pytest.raises(messages.MessageError, match="nested"):
        unpack(b"l\1\0\0\0" * 50_000 + b"N")
    value.append(value)
    with pytest.raises(messages.MessageError, match="nested"):
        pack(value)


def test_opaque_stands_for_what_cannot_cross():
    value = unpack(pack({"a": 1, "b": [len]}, opaque=True))
    assert value["a"] == 1 and value["b"][0].type_name == "builtin_function_or_method"


@given(values, st.randoms(use_true_random=False))
def test_damaged_messages_are_message_errors(value, rng):
    data = bytearray(pack(value))
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(rng.randint(0, 4)):
            damaged[rng.randrange(len(damaged))] = rng.choice(
                (0, 1, 255, rng.randrange(256), ord(rng.choice("aldtmshn")))
            )
        del damaged[rng.randint(0, len(damaged)) :]
        try:
            unpack(damaged)
        except messages.MessageError:
            pass


@given(st.binary(max_size=200), st.sampled_from("NTFidcsnatlmho"))
def test_garbage_is_a_message_error(data, tag):
    try:
        unpack(tag.encode() + data)
    except messages.MessageError:
        pass


def test_a_length_is_checked_before_anything_is_allocated():
    huge = [
        b"s\xff\xff\xff\xff",
        b"l\xff\xff\xff\xff" + b"N" * 100,
        b"m\xff\x03\0\0",
        b"i\xff",
        b"a\x0b\x00\x02" + (1 << 40).to_bytes(8, "little") * 2,
        b"a\x0b\x02\x01" + (1 << 62).to_bytes(8, "little"),
        b"a\x0b\x00\x03" + bytes(8) + (1 << 63).to_bytes(8, "little") * 2,
        b"a\x0b\x00\x20" + b"\xff" * 256,
        b"a\x0b\x00\xff" + b"\xff" * 2040,
        b"a\xff\x00\x00",
        b"a\x0b\x02\x00" + bytes(8),
    ]
    tracemalloc.start()
    for data in huge:
        with pytest.raises(messages.MessageError):
            unpack(data)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_bool_is_0_or_1():
    array = unpack(pack(np.zeros(3, bool))[:-3] + b"\0\2\xff")
    assert array.tobytes() == b"\0\1\1"


def test_reading_cannot_execute_code():
    tree = ast.parse(Path(messages.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert imported == {"math", "struct", "numpy"} and not any(
        isinstance(node, ast.ImportFrom) for node in ast.walk(tree)
    )
    assert not called & {"eval", "exec", "compile", "__import__", "getattr"}


# -- ordinary submissions

ORDINARY = """
import os, sys, weakref
import numpy as np
from numpy import *
from helper import shift

UNIT = 3

class Layer:
    def forward(self, x):
        return twice(x)

def affine_forward(x, w, b=0, *, scale=1):
    return x @ w + b, (x, w)

def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)

def echo(*values):
    return values

def layout(x):
    return x.flags.c_contiguous, x.flags.f_contiguous, x.flags.writeable, x.dtype.name

def update(x, bn_param, unused):
    bn_param["running_mean"] = bn_param["running_mean"] * 0.9 + 0.1 * x.mean(0)
    bn_param["step"] += 1
    return x - x.mean(0)

def spoil(x, y, param):
    y[...] += 1
    param["function"] = len
    return x

def twice(x):
    return 2 * x

def numeric(x):
    grad = np.zeros_like(x)
    for i in range(x.size):
        grad.flat[i] = Layer().forward(x).sum() + (lambda v: twice(v).sum())(x)
    return grad

def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)

def say(text):
    print(text)
    print(text, file=sys.stderr)

class Cache:
    alive = weakref.WeakSet()
    def __init__(self): self.alive.add(self)

def cached(): return 1.0, Cache()
def alive(): return len(Cache.alive)
def draw(): return np.random.randn(3), np.random.rand()
def world(): return dict(os.environ), os.getcwd(), os.listdir(), sys.path, sys.stdin.read(), sys.argv
def fail(x):
    return deeper(x)
def deeper(x):
    return np.zeros(2) @ np.zeros(3)
def shifted(x): return shift(x)
def _private(x): return x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ordinary")
    (folder / "main work.py").write_text(ORDINARY)
    (folder / "helper.py").write_text("def shift(x):\n    return x + 1\n")
    return folder


@pytest.fixture(scope="module")
def shared(folder):
    with Sandbox(folder, main="main work.py") as sandbox:
        yield sandbox


def write(path, text):
    file = path / "submission.py"
    file.write_text(text)
    return file


def test_functions_and_their_parameters(shared):
    functions = shared.functions
    assert functions["affine_forward"] == ["x", "w", "b", "scale"] and functions["affine_backward"] == ["dout", "cache"]
    assert "shift" in functions
    assert not {"Layer", "_private", "np", "maximum", "sum", "UNIT", "array"} & set(functions)


def test_a_pair_with_its_cache_in_the_child(shared):
    rng = np.random.default_rng(0)
    x, w, b, dout = (rng.normal(size=shape) for shape in ((3, 4), (4, 2), 2, (3, 2)))
    out, cache = shared.call("affine_forward", x, w, b, keep=(1,))
    assert isinstance(cache, Handle) and np.array_equal(out, x @ w + b)
    for _ in range(2):
        dx, dw, db = shared.call("affine_backward", dout, cache)
        assert np.array_equal(dx, dout @ w.T) and np.array_equal(dw, x.T @ dout) and np.array_equal(db, dout.sum(0))
    kept = shared.call("echo", [cache], {"a": cache}, keep=(0, 1))
    assert all(isinstance(handle, Handle) for handle in kept)


@given(values.filter(lambda value: "Handle" not in repr(value)))
def test_values_survive_the_way_there_and_back(shared, value):
    if b"h" not in pack(value, opaque=True):
        assert same(shared.call("echo", value), (value,)) and shared.arguments_after[0] is value


def test_large_arrays(shared):
    x = np.random.default_rng(1).normal(size=2_500_000)
    (y,) = shared.call("echo", x)
    assert np.array_equal(x, y)


def test_layouts_arrive(shared):
    x = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    for view in (x, x.T, x[::2], x[:, ::-1], x[1:, 2:], np.float64(3), x[:0], x.astype(">i4")):
        view = np.asarray(view)
        c_order, f_order, writeable, name = shared.call("layout", view)
        assert (c_order, f_order, writeable) == (view.flags.c_contiguous, view.flags.f_contiguous, True)
        assert name == view.dtype.newbyteorder("=").name


def test_what_a_call_did_to_its_arguments_is_seen(shared):
    x, mean = np.random.default_rng(2).normal(size=(5, 3)), np.zeros(3)
    param, labels = {"running_mean": mean, "step": 4, "mode": "train"}, np.arange(5)
    shared.call("update", x, param, labels)
    after = shared.arguments_after
    assert after[0] is x and after[2] is labels and param["step"] == 4 and param["running_mean"] is mean
    assert (
        after[1]["step"] == 5 and after[1]["mode"] == "train" and np.allclose(after[1]["running_mean"], 0.1 * x.mean(0))
    )
    y = np.asfortranarray(x)[:, ::2]
    shared.call("spoil", x, y, {})
    assert shared.arguments_after[0] is x and np.array_equal(shared.arguments_after[1], y + 1)
    assert shared.arguments_after[2]["function"].type_name == "builtin_function_or_method"
    with pytest.raises(SubmissionError):
        shared.call("fail", x)
    assert shared.arguments_after[0] is x


def test_calls_inside_are_counted(shared):
    shared.call("numeric", np.ones(7))
    inside = shared.calls_inside
    assert (inside["twice"], inside["Layer.forward"], inside["numeric.<locals>.<lambda>"], inside["numeric"]) == (
        14,
        7,
        7,
        0,
    )
    shared.call("factorial", 6)
    assert shared.calls_inside == Counter(factorial=6)
    shared.call("twice", 1)
    assert not shared.calls_inside
    shared.call("shifted", 1)
    assert shared.calls_inside == Counter(shift=1)


def test_caches_that_nobody_holds_are_let_go(shared):
    handles = [shared.call("cached", keep=(1,))[1] for _ in range(50)]
    assert shared.call("alive") == 50
    del handles[10:]
    shared.call("echo")
    assert shared.call("alive") == 10


def test_errors_show_the_submissions_lines_only(shared):
    with pytest.raises(SubmissionError) as caught:
        shared.call("fail", 1)
    error = caught.value
    assert error.kind == "raised" and str(error).startswith("raised: ValueError: matmul")
    lines = error.message.split("\n")
    assert (
        lines[1].startswith("  main work.py, line ")
        and lines[1].endswith("in fail")
        and lines[2] == "    return deeper(x)"
    )
    assert lines[3].endswith("in deeper") and lines[4] == "    return np.zeros(2) @ np.zeros(3)"
    assert len(lines) == 5 and "child.py" not in error.message and "/" not in error.message


@pytest.mark.parametrize(
    "arguments, keep, kind, message",
    [
        (("nothing",), (), "missing", "nothing is not defined"),
        (("UNIT",), (), "not callable", "UNIT is not a function but of type int"),
        (("twice", 1), (1,), "value", "twice returned one value (int), expected a tuple of 2"),
        (("echo", 1), (1,), "value", "echo returned a tuple of 1, expected 2"),
        (("cached",), (), "value", "an object of type Cache"),
        (("twice",), (), "raised", "TypeError: twice() missing 1 required positional argument: 'x'"),
    ],
)
def test_wrong_calls(shared, arguments, keep, kind, message):
    with pytest.raises(SubmissionError) as caught:
        shared.call(*arguments, keep=keep)
    assert caught.value.kind == kind and message in caught.value.message
    assert shared.call("twice", 2) == 4


def test_an_argument_that_cannot_be_sent_is_the_callers_mistake(shared):
    with pytest.raises(messages.MessageError, match="type set"):
        shared.call("twice", {1, 2})
    assert shared.call("twice", 2) == 4


def test_the_world_of_a_submission(shared):
    environment, folder, files, path, typed, arguments = shared.call("world")
    assert set(environment) <= {"PATH", "LANG", "HOME", "TMPDIR", "MPLBACKEND", "FASTBP_CHILD", "LC_CTYPE"} | {
        name for name in environment if name.endswith("_NUM_THREADS")
    }
    assert environment["HOME"] == environment["TMPDIR"] == folder == path[0] and typed == ""
    assert sorted(files) == ["helper.py", "main work.py"] and arguments == ["main work.py"]
    assert not any((Path(entry) / "fastbp").exists() for entry in path if "site-packages" not in entry)
    assert os.path.isdir(folder)


def test_what_is_printed_is_kept_up_to_the_limit(folder):
    with Sandbox(folder, Limits(output_bytes=1000), main="main work.py") as sandbox:
        for i in range(100):
            sandbox.call("say", f"line {i}")
        assert sandbox.printed.startswith("line 0\nline 0\nline 1\n") and len(sandbox.printed) == 1000
        sandbox.restart()
        assert sandbox.printed.startswith("line 0\n")
    assert len(sandbox.printed) == 1000


def test_a_flood_is_charged_to_the_call_that_made_it(folder):
    with Sandbox(folder, Limits(output_bytes=100_000), main="main work.py") as sandbox:
        for _ in range(3):
            with pytest.raises(SubmissionError, match="output: say printed more than 100000 bytes"):
                sandbox.call("say", "x" * 60_000)
            assert sandbox.call("twice", 1) == 2


def test_a_restart_ends_the_handles(folder):
    with Sandbox(folder, main="main work.py") as sandbox:
        _, cache = sandbox.call("affine_forward", np.ones((1, 2)), np.ones((2, 1)), keep=(1,))
        first = sandbox.call("draw")
        sandbox.restart()
        with pytest.raises(SubmissionError, match="value: .* the process that held its cache has ended"):
            sandbox.call("affine_backward", np.ones((1, 1)), cache)
        assert same(sandbox.call("draw"), first)  # the same random numbers in every child


def test_handles_belong_to_one_sandbox(shared, folder):
    with Sandbox(folder, main="main work.py") as other:
        _, cache = other.call("cached", keep=(1,))
        with pytest.raises(SubmissionError, match="value"):
            shared.call("echo", cache)


def test_folders_and_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        Sandbox(tmp_path / "nothing.py")
    (tmp_path / "secret.txt").write_text("VALUE = 42")
    course = tmp_path / "course"
    course.mkdir()
    (course / "secret.py").symlink_to(tmp_path / "secret.txt")
    (course / "notes.txt").write_text("notes")

    def error(sandbox):
        with sandbox, pytest.raises(SubmissionError) as caught:
            sandbox.call("f")
        return caught.value.kind, caught.value.message

    assert error(Sandbox(course)) == ("import", "the submission must have one main file, but has no Python file")
    (course / "a.py").write_text("import os\nfrom parts.b import f\ndef files(): return sorted(os.listdir())\n")
    (course / "parts").mkdir()
    (course / "parts/b.py").write_text("def f(): return 5\n")
    with Sandbox(course) as sandbox:
        assert sandbox.call("f") == 5 and sandbox.call("files") == ["a.py", "parts"]
    (course / "c.py").write_text("import secret\n")
    assert error(Sandbox(course)) == (
        "import",
        "the submission must have one main file, but has several Python files: a.py, c.py",
    )
    assert error(Sandbox(course, main="d.py")) == ("import", "there is no d.py in the submission")
    assert "ModuleNotFoundError: No module named 'secret'" in error(Sandbox(course, main="c.py"))[1]
    with Sandbox(course, main="a.py") as sandbox:
        assert sandbox.call("f") == 5
    plain = tmp_path / "submission"
    plain.write_text("def f(): return 1\n")
    with Sandbox(plain) as sandbox:
        assert sandbox.call("f") == 1


@pytest.mark.parametrize(
    "text, lines",
    [
        ("x = 1\ndef f(:\n", ["SyntaxError: invalid syntax", "  submission.py, line 2", "    def f(:"]),
        ("if True:\nx = 1\n", ["IndentationError: expected an indented block after 'if' statement on line 1"]),
        ("\0", None),
        ("\xff\xfe", None),
        ("import nothing_of_this_name\n", ["ModuleNotFoundError: No module named 'nothing_of_this_name'"]),
        (
            "def f():\n    return 1 / 0\nf()\n",
            ["ZeroDivisionError: division by zero", "  submission.py, line 3, in <module>"],
        ),
    ],
)
def test_what_cannot_be_imported(tmp_path, text, lines):
    file = tmp_path / "submission.py"
    file.write_bytes(text.encode("latin-1"))
    with Sandbox(file) as sandbox:
        for _ in range(2):
            with pytest.raises(SubmissionError) as caught:
                sandbox.call("f")
            assert caught.value.kind == "import" and str(tmp_path) not in caught.value.message
            if lines:
                assert caught.value.message.split("\n")[: len(lines)] == lines


def test_modules_named_like_numpys_come_after_the_walls(tmp_path):
    for name in ("numpy", "json", "ctypes", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit\n")
    (tmp_path / "work.py").write_text("import numpy as np\ndef f(x): return np.maximum(x, 0)\n")
    with Sandbox(tmp_path, main="work.py") as sandbox:
        assert sandbox.call("f", np.array([-1.0, 1.0])).tolist() == [0, 1]


def test_libraries_work_inside(tmp_path):
    file = write(
        tmp_path,
        "import numpy as np, concurrent.futures\n"
        "def f(x):\n"
        "    import scipy.special\n"
        "    np.testing.assert_allclose(np.fft.ifft(np.fft.fft(x)).real, x, atol=1e-9)\n"
        "    u, s, v = np.linalg.svd(x)\n"
        "    np.savez('kept.npz', x=x)\n"
        "    with concurrent.futures.ThreadPoolExecutor(2) as pool:\n"
        "        list(pool.map(abs, range(5)))\n"
        "    x.ctypes.data\n"
        "    return np.load('kept.npz')['x'], scipy.special.expit(0.0), (u * s) @ v\n",
    )
    x = np.random.default_rng(3).normal(size=(3, 3))
    with Sandbox(file) as sandbox:
        y, half, z = sandbox.call("f", x)
        assert np.array_equal(x, y) and half == 0.5 and np.allclose(z, x)


# -- many at once, and their ends


def gone(pid: int) -> bool:
    """Does the process end within some seconds? A zombie has ended."""
    for _ in range(250):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and ") Z " in state.read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def use(path: str, value: float) -> float:
    with Sandbox(path, main="main work.py") as sandbox:
        return sum(sandbox.call("twice", value) for _ in range(20))


def test_several_at_once_in_threads(folder):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, [str(folder)] * 6, range(6))) == [40 * i for i in range(6)]


def test_in_the_workers_of_a_pool(folder):
    program = (
        "import multiprocessing, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from fastbp.grading.sandbox import Sandbox\n"
        "def use(value):\n"
        "    with Sandbox(sys.argv[1], main='main work.py') as sandbox:\n"
        "        return sum(sandbox.call('twice', value) for _ in range(20))\n"
        "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
        "    print(list(pool.map(use, range(4))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "[0, 40, 80, 120]\n", run.stderr


def test_a_child_outlives_the_thread_that_started_it(folder):
    with Sandbox(folder, main="main work.py") as sandbox:
        thread = threading.Thread(target=lambda: sandbox.functions)
        thread.start()
        thread.join()
        child = sandbox._child
        time.sleep(0.1)
        assert sandbox.call("twice", 4) == 8 and sandbox._child is child


def test_nothing_is_left_behind(folder):
    descriptors = len(os.listdir("/dev/fd"))
    sandbox = Sandbox(folder, main="main work.py")
    with sandbox:
        sandbox.call("twice", 1)
        process, place = sandbox._child._process.pid, sandbox._child.folder
        assert place.exists()
    assert gone(process) and not place.exists() and len(os.listdir("/dev/fd")) == descriptors
    assert sandbox.call("twice", 1) == 2  # it can be opened again
    sandbox.close()
    sandbox.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's word at a closed pipe is Linux's")
def test_a_child_dies_with_its_parent(tmp_path):
    program = (
        "import sys\n"
        "from fastbp.grading.sandbox import Sandbox\n"
        "sandbox = Sandbox(sys.argv[1])\n"
        "sandbox.functions\n"
        "print(sandbox._child._process.pid, sandbox._child.folder, flush=True)\n"
        "sandbox.call('fc_forward', 1, 2, 3)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(HOSTILE / "catches_everything.py")], stdout=subprocess.PIPE, text=True
    )
    pid, place = parent.stdout.readline().split(maxsplit=1)
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(int(pid))
    remove(Path(place.strip()))


def test_an_interrupted_call_ends_the_child(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Sandbox(HOSTILE / "sleeps.py", PATIENT) as sandbox:
            _ = sandbox.functions
            process = sandbox._child._process.pid
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                sandbox.call("fc_forward", 1, 2, 3)
            assert gone(process)
            assert sandbox.call("relu_forward", 1.0)[0] == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_processor_time_is_limited():
    with Sandbox(HOSTILE / "loops_in_function.py", Limits(seconds=30, cpu_seconds=1)) as sandbox:
        with pytest.raises(SubmissionError, match="timeout: fc_forward went past 1 s of processor time"):
            sandbox.call("fc_forward", 1, 2, 3)
        assert sandbox.call("relu_forward", 1.0)[0] == 1


def test_a_folder_nested_too_deep_is_removed(tmp_path):
    top = here = tmp_path / "top"
    top.mkdir()
    descriptor = os.open(here, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=descriptor)
        inner = os.open("deep", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    remove(top)
    assert not top.exists()


def test_a_locked_folder_is_removed(tmp_path):
    locked = tmp_path / "top" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("here")
    locked.chmod(0)
    locked.parent.chmod(0o500)
    remove(locked.parent)
    assert not locked.parent.exists()


# -- submissions that misbehave

# What becomes of fc_forward: the kinds of error that are right, or None for a value.
EXPECTED = {
    "allocates_everything": {"memory"},
    "allocates_small": {"memory"},
    "announces_too_much": {"protocol"},
    "answers_and_loops": {None, "protocol"},
    "answers_nonsense": {"protocol"},
    "answers_slowly": {"timeout"},
    "answers_twice": {None, "protocol"},
    "catches_everything": {"timeout"},
    "closes_pipes": {"protocol"},
    "collides": {"value"},
    "contains_itself": {"value"},
    "daemon": {"raised"},
    "disguises": {"value"},
    "exits": {"exited"},
    "exits_at_import": {"exited"},
    "exits_hard": {"exited"},
    "fork_bomb": {"raised"},
    "imports_fastbp": {"raised"},
    "interrupts": {"raised"},
    "kills_itself": {"crashed"},
    "kills_parent": {"raised"},
    "leaves_thread": {"timeout"},
    "links_files": {"raised"},
    "locks_folder": {"raised"},
    "loops_at_import": {"timeout"},
    "loops_in_c": {"timeout"},
    "loops_in_function": {"timeout"},
    "nests_deeply": {"value"},
    "nests_folders": {None, "raised", "timeout"},
    "opens_socket": {"raised"},
    "patches_numpy": {None},
    "prints_megabytes": {"output"},
    "prints_to_error": {"output"},
    "raises_at_import": {"import"},
    "raises_disguised": {"raised"},
    "reads_files": {"raised"},
    "reads_grader": {"raised"},
    "reads_input": {"raised"},
    "recurses": {"raised"},
    "recurses_deeply": {"crashed", "raised", "memory"},
    "returns_nan": {None},
    "returns_nothing": {"value"},
    "returns_object_array": {"value"},
    "returns_objects": {"value"},
    "returns_too_many": {"value"},
    "returns_too_much": {"value"},
    "returns_wrong_shapes": {None},
    "runs_programs": {"raised"},
    "segfaults": {"crashed"},
    "segfaults_with_ctypes": {"raised", "crashed"},
    "sets_alarm": {None},
    "sleeps": {"timeout"},
    "starts_many_threads": {"raised"},
    "starves_parent": {"raised"},
    "writes_big_file": {"raised"},
    "writes_garbage": {"protocol"},
    "writes_many_files": {"output"},
    "writes_outside": {"raised"},
}
# What the message must say, where the message tells whether it was stopped.
SAYS = {
    "fork_bomb": "RuntimeError: 0 forked",
    "imports_fastbp": "No module named 'fastbp'",
    "kills_parent": "the grader lives",
    "reads_files": "read: []",
    "reads_grader": "PermissionError",
    "links_files": "PermissionError",
    "opens_socket": "PermissionError",
    "runs_programs": "PermissionError",
    "reads_input": "EOFError",
    "starves_parent": "nothing was changed",
    "writes_big_file": "File too large",
    "writes_outside": "written: []",
    "writes_many_files": "wrote more than",
    "announces_too_much": "bytes, where",
    "closes_pipes": "closed the pipe",
}
AT_IMPORT = {"exits_at_import", "loops_at_import", "raises_at_import"}
FORBIDDEN = (
    "daemon",
    "fork_bomb",
    "imports_fastbp",
    "kills_parent",
    "links_files",
    "opens_socket",
    "reads_files",
    "reads_grader",
    "runs_programs",
    "starts_many_threads",
    "writes_outside",
)


class KernelOnly(Sandbox):
    _layers = ("landlock", "seccomp")


class HookOnly(Sandbox):
    _layers = ("audit",)


class Open(Sandbox):
    _layers = ()


def outcome(sandbox) -> tuple:
    """What fc_forward comes to: (None, its value) or (kind, message)."""
    rng = np.random.default_rng(4)
    try:
        return None, sandbox.call(
            "fc_forward", rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), np.zeros(2), keep=(1,)
        )
    except SubmissionError as error:
        return error.kind, error.message


def relu_is_right(sandbox) -> bool:
    x, dout = np.random.default_rng(5).normal(size=(2, 4, 3))
    out, cache = sandbox.call("relu_forward", x, keep=(1,))
    dx = sandbox.call("relu_backward", dout, cache)
    return np.array_equal(out, np.maximum(x, 0)) and np.array_equal(dx, dout * (x > 0))


def test_every_file_is_tested():
    assert {path.stem for path in HOSTILE.glob("*.py")} - {"conftest"} == set(EXPECTED)


def misbehave(name: str) -> tuple:
    """One submission, as a grader would take it: (what fc_forward came to, is relu right after it, the same again)."""
    with Sandbox(HOSTILE / f"{name}.py", QUICK if "timeout" in EXPECTED[name] else PATIENT) as sandbox:
        first = outcome(sandbox)
        if name not in AT_IMPORT:
            sandbox.restart()
            return *first, relu_is_right(sandbox), None
        sandbox.path = HOSTILE / "nothing.py"  # it is not read again
        return *first, None, outcome(sandbox) == first


@pytest.fixture(scope="module")
def outcomes(request):
    names = [item.callspec.params["name"] for item in request.session.items if "outcomes" in item.fixturenames]
    with ahead(misbehave, names) as result:
        yield result


@pytest.mark.parametrize("name", EXPECTED)
def test_a_hostile_submission_costs_itself_only(name, outcomes):
    kind, result, others_right, same_again = outcomes(name)
    assert kind in EXPECTED[name] and SAYS.get(name, "") in str(result), result
    assert others_right if name not in AT_IMPORT else same_again


@pytest.mark.parametrize(
    "name", ["answers_and_loops", "answers_twice", "patches_numpy", "sets_alarm", "starts_many_threads"]
)
def test_the_next_call_ends_even_without_a_restart(name):
    with Sandbox(HOSTILE / f"{name}.py", QUICK) as sandbox:
        outcome(sandbox)
        for _ in range(2):
            try:
                sandbox.call("relu_forward", np.random.default_rng(6).normal(size=(500, 1000)), keep=(1,))
            except SubmissionError as error:
                assert error.kind in ("timeout", "protocol", "raised", "crashed", "value"), error
            time.sleep(0.15)
        sandbox.restart()
        assert relu_is_right(sandbox)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's layers are Linux's")
@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_kernel_alone_stops_what_is_forbidden(name):
    with KernelOnly(HOSTILE / f"{name}.py", PATIENT) as sandbox:
        if sandbox.notes:
            pytest.skip(f"not on this system: {sandbox.notes}")
        kind, result = outcome(sandbox)
        assert kind == "raised" and SAYS.get(name, "") in result


@pytest.mark.parametrize("name", [name for name in FORBIDDEN if name != "starts_many_threads"])
def test_the_interpreters_hook_alone_stops_what_is_forbidden(name):
    with HookOnly(HOSTILE / f"{name}.py", PATIENT) as sandbox:
        kind, result = outcome(sandbox)
        assert kind == "raised" and SAYS.get(name, "") in result
        if sys.platform.startswith("linux"):
            assert (
                len(sandbox.notes) == 2
                and "files" in sandbox.notes[0] + sandbox.notes[1]
                and "network" in str(sandbox.notes)
            )


def marked() -> list[int]:
    """The processes with a sandbox's mark in their environment, this process's own sandboxes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and f"FASTBP_CHILD=submission-{os.getpid()}-".encode() in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the processes are found in /proc")
@pytest.mark.parametrize("name", ["daemon", "fork_bomb"])
def test_processes_that_left_the_group_are_killed_where_they_could_be_started(name):
    before = set(marked())
    with Open(HOSTILE / f"{name}.py", PATIENT) as sandbox:
        kind, result = outcome(sandbox)
        assert kind is None or "0 forked" not in result.replace("200", "")
        assert len(set(marked()) - before) > 1
    assert set(marked()) <= before


@pytest.mark.parametrize("kind", [KernelOnly, HookOnly])
def test_fastbp_is_hidden_where_it_is_installed_beside_other_packages(tmp_path, monkeypatch, kind):
    site = tmp_path / "site"
    (site / "other").mkdir(parents=True)
    (site / "other" / "__init__.py").write_text("VALUE = 6\n")
    (site / "fastbp").mkdir()
    shutil.copytree(child_process.HERE, site / "fastbp" / "grading")
    (site / "fastbp" / "__init__.py").write_text("VALUE = 7\n")
    packages = child_process.packages()
    monkeypatch.setattr(child_process, "HERE", site / "fastbp" / "grading")
    monkeypatch.setattr(child_process, "packages", lambda: [*packages, str(site)])
    file = write(
        tmp_path,
        "import os\n"
        "def f():\n    import other\n    return other.VALUE\n"
        "def g():\n    import fastbp\n    return fastbp.VALUE\n"
        f"def h():\n    return open({str(site / 'fastbp' / '__init__.py')!r}).read()\n",
    )
    with kind(file) as sandbox:
        if kind is KernelOnly and sandbox.notes:
            pytest.skip(f"not on this system: {sandbox.notes}")
        assert sandbox.call("f") == 6
        with pytest.raises(SubmissionError, match="raised: (ModuleNotFoundError|PermissionError)"):
            sandbox.call("g")
        with pytest.raises(SubmissionError, match="raised: PermissionError"):
            sandbox.call("h")


def test_a_parent_survives_random_answers(tmp_path):
    """Whatever bytes come as an answer, the parent raises SubmissionError or returns."""
    file = write(
        tmp_path,
        "import os, random, sys\n"
        "def f(seed):\n"
        "    frame = sys._getframe(1)\n"
        "    grader, number = frame.f_locals['self'], frame.f_locals['number']\n"
        "    draw = random.Random(seed)\n"
        "    message = bytearray(grader.answer(number, True, (1.5, 'text', [None]), {'f': 1}, {0: {'a': 2}}))\n"
        "    for _ in range(draw.randint(1, 3)):\n"
        "        message[draw.randrange(len(message))] = draw.randrange(256)\n"
        "    os.write(grader.replies, message)\n"
        "    os._exit(0)\n",
    )
    draw = random.Random(7)
    with Sandbox(file, Limits(seconds=3)) as sandbox:
        for _ in range(8):
            try:
                sandbox.call("f", draw.randrange(10**6))
            except SubmissionError as error:
                assert error.kind in ("protocol", "exited", "timeout"), error
