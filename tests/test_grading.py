"""The grader: what is right gets its points; what is wrong loses its own, and only those, and is told why."""

import dataclasses
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
from ahead import ahead

from fastbp import cli
from fastbp.grading import (
    Assignment,
    AssignmentError,
    Case,
    Convention,
    Item,
    find_submissions,
    grade,
    grade_all,
    load_assignment,
)
from fastbp.grading.assignments import cs231n_a2, eecs598_hw1
from fastbp.grading.results import Result, points

TWINS, HOSTILE = Path(__file__).parent / "twins", Path(__file__).parent / "hostile"
EECS = (TWINS / "eecs598_hw1.py").read_text()


def changed(path: Path, *pairs: tuple[str, str], source: str = EECS) -> Path:
    """A submission in a file: the right one with texts replaced."""
    for old, new in pairs:
        assert source.count(old) >= 1, old
        source = source.replace(old, new, 1)
    path.write_text(source)
    return path


def only(*names: str, of=eecs598_hw1) -> Assignment:
    return Assignment("part", [item for item in of.ITEMS if item.name in names])


def part(result: Result, item: str, name: str):
    found = next(i for i in result.items if i.name == item)
    return next(p for p in found.parts if p.name == name)


def feedback(result: Result) -> str:
    return "\n".join(line for item in result.items for part in item.parts for line in part.lines)


@pytest.mark.portable
@pytest.mark.parametrize(("name", "seed"), [("eecs598-hw1", 0), ("eecs598-hw1", 5), ("cs231n-a2", 1)])
def test_right_submissions_get_all_points(name, seed):
    result = grade(TWINS / f"{name.replace('-', '_')}.py", load_assignment(name), seed=seed)
    assert result.points == pytest.approx(result.possible), str(result)
    assert (
        result.finished and not result.error and not feedback(result) and not any(item.flags for item in result.items)
    )


MISTAKES = [  # item, text, replacement, parts that lose points, a word of the feedback
    ("fc", "dw = flat.T @ dout\n", "dw = flat.T @ dout / len(x)\n", ["backward"], "gradient of w is wrong"),
    (
        "fc",
        "x.reshape(len(x), len(w)) @ w + b\n",
        "x.reshape(len(x), len(w)) @ w\n",
        ["forward"],
        "the output is wrong",
    ),
    ("relu", "return dout * (x > 0)", "return dout * (dout > 0)", ["backward"], "gradient of x is wrong"),
    ("relu", "return np.maximum(x, 0), x", "return np.maximum(x, 0), x[:1]", ["backward"], "gradient of x"),
    ("batchnorm", "+ dmean / N", "", ["backward"], "gradient of x is wrong"),
    (
        "batchnorm",
        '"running_mean"] = momentum * running_mean',
        '"running_mean"] = running_mean',
        ["forward"],
        "running_mean",
    ),
    ("dropout", "return dout.copy() if mask is None else dout * mask", "return dout", ["backward"], "gradient of x"),
    (
        "conv",
        "dx[:, :, p : p + OH, q : q + OW] +=",
        "dx[:, :, p : p + OH, q : q + OW] =",
        ["backward"],
        "gradient of x is wrong",
    ),
    (
        "max_pool",
        "1 + (H - PH) // stride, 1 +",
        "-(-(H - PH) // stride) + 1, 1 +",
        ["forward"],
        "windows that do not divide",
    ),
    ("svm", "/ len(x)\n    return loss, dx", "\n    return loss, dx", ["backward"], "gradient of x is wrong"),
    ("softmax", "shifted = x - x.max(axis=1, keepdims=True)", "shifted = x", ["forward"], "scores as large as 1000"),
]


@pytest.mark.parametrize(
    ("item", "old", "new", "losing", "word"), MISTAKES, ids=[f"{m[0]}-{k}" for k, m in enumerate(MISTAKES)]
)
def test_a_mistake_costs_its_part_alone(tmp_path, item, old, new, losing, word):
    result = grade(changed(tmp_path / "s.py", (old, new)), only(item))
    assert [p.name for p in result.items[0].parts if not p.passed] == losing, str(result)
    assert word in feedback(result)
    assert any(words in feedback(result) for words in ("smallest failing input", "infinite or NaN", "raised an error"))


def test_a_slip_in_forward_is_not_punished_twice(tmp_path):
    """|x| for max(x, 0), with the gradient of |x|."""
    path = changed(tmp_path / "s.py", ("return np.maximum(x, 0), x", "return np.abs(x), x"),
                   ("return dout * (x > 0)", "return dout * np.sign(x)"))  # fmt: skip
    result = grade(path, only("relu"))
    assert part(result, "relu", "forward").points == 0 and part(result, "relu", "backward").passed
    assert result.items[0].correct == {"x": False} and result.items[0].consistent == {"x": True}
    assert "right for your forward pass, which is not the one asked for" in feedback(result)


def test_the_smallest_failing_input_is_small_and_shows_both_outputs(tmp_path):
    result = grade(changed(tmp_path / "s.py", ("return np.maximum(x, 0), x", "return np.abs(x), x")), only("relu"))
    assert "relu_forward(x=np.array([[-1.]]))" in feedback(result)
    assert "got      [[1.]]" in feedback(result) and "expected [[0.]]" in feedback(result)
    hidden = Assignment("part", [dataclasses.replace(only("relu").items[0], shows=False)])
    assert "expected [[" not in feedback(grade(tmp_path / "s.py", hidden))


FLIPPED = [
    ("def conv_forward(", "def _conv("), ("def conv_forward_flipped(", "def conv_forward("),
    ("return conv_forward(x, w", "return _conv(x, w"), ("def conv_backward(", "def _back("),
    ("def conv_backward_flipped(", "def conv_backward("), ("= conv_backward(", "= _back("),
]  # fmt: skip
VANILLA = [
    (".random(x.shape) < p) / p", ".random(x.shape) < p)"),
    ("return x.copy(), None", "return x * p, p * np.ones_like(x)"),
]
SUMMED = [
    ("loss = np.maximum(margin, 0).mean()", "loss = np.maximum(margin, 0).sum()"),
    ("* (margin > 0) / len(x)", "* (margin > 0)"),
]
ZERO_ONE = [
    (
        "t = np.where(y > 0, 1, -1).reshape(x.shape)\n    loss = np.logadd",
        "t = (2 * y - 1).reshape(x.shape)\n    loss = np.logadd",
    ),
]
UNBIASED = [
    ('"running_var"] = momentum * running_var + (1 - momentum) * var',
     '"running_var"] = momentum * running_var + (1 - momentum) * x.var(axis=0, ddof=1)'),
]  # fmt: skip
CONVENTIONS = [  # item, replacements, convention recognised, accepted
    ("conv", FLIPPED, "the filter is flipped", True),
    ("dropout", VANILLA, "vanilla", True),
    ("dropout", [("< p) / p", ">= p) / (1 - p)")], "probability to drop", False),
    ("svm", SUMMED, "summed", False),
    ("logistic", ZERO_ONE, "labels 0 and 1", True),
    ("batchnorm", UNBIASED, "unbiased", True),
]


@pytest.mark.parametrize(
    ("item", "pairs", "name", "accepted"), CONVENTIONS, ids=[f"{c[0]}-{c[2]}" for c in CONVENTIONS]
)
def test_conventions_are_recognised_and_named(tmp_path, item, pairs, name, accepted):
    result = grade(changed(tmp_path / "s.py", *pairs), only(item))
    assert name in result.items[0].convention and result.items[0].accepted == accepted, str(result)
    assert name in feedback(result)
    assert part(result, item, "forward").passed == accepted, str(result)
    assert part(result, item, "backward").passed, str(result)


NUMERIC = """
def numeric(f, a, dout, h=1e-5):
    g = np.zeros_like(a)
    for i in range(a.size):
        up, down = a.copy(), a.copy()
        up.flat[i] += h
        down.flat[i] -= h
        g.flat[i] = ((f(up) - f(down)) * dout).sum() / (2 * h)
    return g
"""


def test_finite_differences_inside_backward_are_seen(tmp_path):
    numeric = "dw = numeric(lambda v: fc_forward(x, v, 0)[0], w, dout)\n"
    path = changed(
        tmp_path / "s.py", ("import numpy as np\n", "import numpy as np\n" + NUMERIC), ("dw = flat.T @ dout\n", numeric)
    )
    result = grade(path, only("fc"))
    assert part(result, "fc", "backward").points == 0 and "differentiates numerically" in feedback(result)
    assert "finite differences inside backward" in result.items[0].flags[0]
    inlined = numeric.replace("fc_forward(x, v, 0)[0]", "flat @ v")
    path = changed(
        tmp_path / "t.py", ("import numpy as np\n", "import numpy as np\n" + NUMERIC), ("dw = flat.T @ dout\n", inlined)
    )
    result = grade(path, only("fc"))
    assert result.items[0].flags and result.items[0].passed  # likely, not sure: for the instructor


def test_functions_that_call_helpers_often_are_not_taken_for_cheats(tmp_path):
    helper = "def one(a, m):\n    return a * m\n"
    loop = "return np.array([one(a, m) for a, m in zip(dout.ravel(), (x > 0).ravel())]).reshape(x.shape)"
    forward = "return np.array([one(a, a > 0) for a in x.ravel()]).reshape(x.shape), x"
    path = changed(tmp_path / "s.py", ("import numpy as np\n", "import numpy as np\n" + helper),
                   ("return np.maximum(x, 0), x", forward), ("return dout * (x > 0)", loop))  # fmt: skip
    result = grade(path, only("relu"))
    assert result.points == result.possible and not result.items[0].flags


def test_missing_and_misnamed_functions(tmp_path):
    misnamed, short = ("def relu_backward(", "def relu_backwards("), ("def fc_forward(x, w, b)", "def fc_forward(x, w)")
    path = changed(tmp_path / "s.py", misnamed, short)
    result = grade(path, only("fc", "relu"))
    assert "relu_backward(dout, cache) is missing; there is a relu_backwards" in feedback(result)
    assert "fc_forward(x, w) takes too few arguments" in feedback(result)
    assert part(result, "relu", "forward").passed and part(result, "relu", "backward").points == 0


def test_a_function_that_writes_to_dout_or_differs_from_call_to_call_is_told(tmp_path):
    path = changed(tmp_path / "s.py", ("return dout * (x > 0)", "dout[x <= 0] = 0\n    return dout"))
    assert "backward writes to dout" in feedback(grade(path, only("relu")))


# -- hostile submissions -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(request):
    paths = [item.callspec.params["path"] for item in request.session.items if "hostile" in item.fixturenames]
    with ahead(lambda path: grade(path, only("fc", "relu"), seconds=1.0), paths) as result:
        yield result


@pytest.mark.parametrize("path", sorted(HOSTILE.glob("*.py")), ids=lambda path: path.stem)
def test_a_hostile_submission_loses_its_item_and_nothing_else(path, hostile, monkeypatch):
    monkeypatch.setattr("fastbp.grading.item_grader.TRIES", 1)  # of the search for the smallest failing input
    result = hostile(path)
    assert result.finished and len(result.items) == 2
    if part(result, "relu", "present").passed:  # it could be imported
        assert part(result, "relu", "forward").passed and part(result, "relu", "backward").passed, str(result)
    assert part(result, "fc", "forward").points + part(result, "fc", "backward").points < result.items[0].possible, str(
        result
    )
    json.dumps(result.to_dict())


# -- assignments -------------------------------------------------------------------------------------------------------


def test_an_instructors_assignment_is_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("""
import numpy as np
from fastbp.grading import Assignment, Case, Convention, Item

def square(out, x):
    return x**2, lambda dout: (2 * x * dout,)

assignment = Assignment("squares", [
    Item("square", "sq(x) -> out, cache", ("x",), [Convention("x²", square)], backward="dsq(dout, cache) -> dx",
         cases=[Case("random", lambda rng: {"x": rng.normal(size=(2, 3))}, gradients=True)], points=4,
         visibility="hidden"),
])
""")
    submission = tmp_path / "s.py"
    submission.write_text("def sq(x):\n    return x * x, x\n\ndef dsq(dout, x):\n    return x * dout\n")
    result = grade(submission, load_assignment(file))
    assert (result.points, result.possible) == (2.0, 4.0) and result.items[0].visibility == "hidden"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("assignment = 3", "defines no `assignment`"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
    ],
)
def test_a_broken_assignment_file_is_a_clear_error(tmp_path, text, message):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(AssignmentError, match=message):
        load_assignment(tmp_path / "a.py")


def test_wrong_items_are_clear_errors():
    case, way = (
        Case("c", lambda rng: {"x": np.ones(2)}, gradients=True),
        Convention("w", lambda out, x: (x, lambda d: (d,))),
    )
    with pytest.raises(AssignmentError, match="signature"):
        Item("a", "f x", ("x",), [way], [case])
    with pytest.raises(AssignmentError, match="at least one convention"):
        Item("a", "f(x)", ("x",), [], [case])
    with pytest.raises(AssignmentError, match="visibility"):
        Item("a", "f(x)", ("x",), [way], [case], visibility="secret")
    with pytest.raises(AssignmentError, match="can't be negative"):
        Item("a", "f(x)", ("x",), [way], [case], points=-1)
    item = Item("a", "f(x)", ("x",), [way], [case])
    with pytest.raises(AssignmentError, match="a name of its own"):
        Assignment("twice", [item, item])
    with pytest.raises(AssignmentError, match="no assignment nowhere"):
        load_assignment("nowhere")


@pytest.mark.parametrize("module", [eecs598_hw1, cs231n_a2])
def test_references_agree_with_finite_differences_in_every_convention(module):
    """The references are the layers, which are tested, in another dress: transposes, sums, flips, masks."""
    from fastbp import check_gradients
    from fastbp.grading.answers import copied

    for item in module.ITEMS:
        for convention in item.conventions:
            for number, case in enumerate(item.cases):
                if not case.gradients:
                    continue
                arguments = case.draw(np.random.default_rng(number))
                arguments = convention.convert(arguments) if convention.convert else arguments
                rest = {n: v for n, v in arguments.items() if n not in item.gradients}
                places = np.arange(np.size(arguments["x"])).reshape(arguments["x"].shape)
                out = np.where(places % 3, 1.0, 0.0)  # dropout's mask

                def forward(*given, item=item, convention=convention, rest=rest, out=out):
                    named = dict(zip(item.gradients, given, strict=True))
                    return convention.reference(
                        out, **{n: named.get(n, v) for n, v in copied({**named, **rest}).items()}
                    )

                def backward(dout, cache, item=item):
                    return tuple(np.array(g) for g in (cache(dout) if item.backward else cache()))

                given = tuple(arguments[n] for n in item.gradients)
                if item.backward:
                    report = check_gradients((forward, backward), *given)
                else:
                    report = check_gradients(lambda x, f=forward: (lambda r: (r[0], r[1]()[0]))(f(x)), *given)
                assert report.passed, f"{item.name}, {convention.name}, {case.name}\n{report}"


# -- many submissions, and the command ---------------------------------------------------------------------------------


@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    changed(folder / "ann.py")
    changed(folder / "bob.py", ("return dout * (x > 0)", "return dout"))
    (folder / "cy.py").write_text("import time\ntime.sleep(1000)\n")
    (folder / "dee").mkdir()
    changed(folder / "dee" / "layers.py",
            ("import numpy as np\n", "import numpy as np\nfrom helper import relu as rectified\n"),
            ("return np.maximum(x, 0), x", "return rectified(x), x"))  # fmt: skip
    (folder / "dee" / "helper.py").write_text("def relu(x):\n    return x * (x > 0)\n")
    return folder


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.py"
    file.write_text("""
from fastbp.grading import Assignment
from fastbp.grading.assignments.eecs598_hw1 import ITEMS
assignment = Assignment("small", [item for item in ITEMS if item.name in ("fc", "relu")], seconds=2)
""")
    return file


def scores(results):
    return {result.submission: points(result.points) for result in results}


def test_submissions_are_found_by_name(class_folder):
    assert list(find_submissions([class_folder])) == ["ann", "bob", "cy", "dee"]
    again = find_submissions([class_folder / "ann.py", class_folder])
    assert list(again) == ["ann", "bob", "cy", "dee"]
    other = class_folder.parent / "other"
    other.mkdir()
    (other / "ann.py").write_text("")
    above = class_folder.parent.name
    assert list(find_submissions([class_folder / "ann.py", other / "ann.py"])) == [
        f"{above}-class-ann",
        f"{above}-other-ann",
    ]
    with pytest.raises(FileNotFoundError):
        find_submissions([class_folder / "none.py"])
    (class_folder.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no Python files"):
        find_submissions([class_folder.parent / "empty"])


def test_any_executor_gives_the_same_scores_and_results_are_on_disk(class_folder, small, tmp_path):
    seen = []
    results = grade_all(
        [class_folder], small, jobs=2, folder=tmp_path / "records", done=lambda r: seen.append(r.submission)
    )
    assert scores(results) == {"ann": "20", "bob": "15", "cy": "0", "dee": "20"}
    assert sorted(seen) == ["ann", "bob", "cy", "dee"]
    for result in results:
        record = Result.from_dict(json.loads((tmp_path / "records" / f"{result.submission}.json").read_text()))
        assert record == result and record.finished
    with ThreadPoolExecutor(2) as pool:
        assert scores(grade_all([class_folder], small, executor=pool)) == scores(results)
    assert "took too long" in results[2].error


@pytest.mark.peers
def test_dask_is_an_executor_like_any(class_folder, small):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        assert scores(grade_all([class_folder], small, executor=client.get_executor()))["bob"] == "15"


def test_what_there_is_so_far_is_on_disk_after_every_item(class_folder, small, tmp_path):
    seen = []
    record = tmp_path / "r" / "ann.json"

    def done(result):
        seen.append((len(result.items), result.finished))

    grade(class_folder / "ann.py", load_assignment(small), done=done)
    assert seen == [(1, False), (2, False), (2, True)]
    grade_all([class_folder / "ann.py"], small, folder=record.parent)
    assert len(json.loads(record.read_text())["items"]) == 2


def test_the_command_prints_one_submissions_feedback(class_folder, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", str(class_folder / "bob.py"), "--assignment", str(small)]) == 0
    out = capsys.readouterr().out
    assert "bob: 15 of 20 points (small, seed 0)" in out and "WRONG backward" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["class", "small.py"]  # nothing is left behind


def test_the_command_leaves_a_folder_for_a_class(class_folder, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", str(class_folder), "--assignment", str(small), "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "bob" in out and "relu (-5)" in out and "mean" in out
    folder = tmp_path / "fastbp-grade-small"
    assert {p.name for p in folder.iterdir()} == {"ann.txt", "bob.txt", "cy.txt", "dee.txt", "records"}
    assert (
        cli.main(["grade", str(class_folder), "--assignment", str(small), "--jobs", "1", "--output", str(folder)]) == 2
    )
    assert "nothing is overwritten" in capsys.readouterr().err


def test_the_command_writes_json_and_gradescope(class_folder, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["grade", str(class_folder / "bob.py"), "--assignment", str(small)]
    assert cli.main([*arguments, "--format", "json", "--output", "out/all.json"]) == 0
    assert json.loads((tmp_path / "out/all.json").read_text())["results"][0]["points"] == 15
    capsys.readouterr()
    assert cli.main([*arguments, "--format", "gradescope"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == 15
    arguments[1] = str(class_folder / "dee")
    assert cli.main([*arguments, "--one", "--format", "gradescope", "--output", "r.json"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["score"] == 20
    assert cli.main(["grade", str(class_folder), "--assignment", str(small), "--format", "gradescope"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.py", "--assignment", "small.py"], "no such file or folder: x.py"),
        (["class", "--assignment", "cs231n"], "no assignment cs231n: give one of eecs598-hw1, cs231n-a2"),
        (["class", "--assignment", "small.py", "--jobs", "0"], "at least 1"),
        (["class", "--assignment", "small.py", "--timeout", "-1"], "timeout"),
        (["class"], "--assignment"),
    ],
)
def test_wrong_arguments_are_one_line(class_folder, small, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_an_interruption_ends_all_and_keeps_what_is_graded(class_folder, small, tmp_path, how):
    (class_folder / "zoe.py").write_text("import time\ntime.sleep(60)\n")
    slow = small.read_text().replace("seconds=2", "seconds=50")
    small.write_text(slow)
    command = [sys.executable, "-m", "fastbp", "grade", str(class_folder / "ann.py"), str(class_folder / "zoe.py"),
               "--assignment", str(small), "--jobs", "2", "--output", "out"]  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    record = tmp_path / "out" / "ann.txt"
    deadline = time.monotonic() + 60
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted after 1 of 2 submissions; what is graded is in out" in errors
    assert "20 of 20 points" in record.read_text()
    assert not list(scratch.glob("submission-*"))  # nor their processes, which live there


# -- what a review found -----------------------------------------------------------------------------------------------


def test_a_mistake_in_a_later_case_alone_is_a_mistake(tmp_path):
    """Overlapping windows are the second case, x of four axes the second too."""
    path = changed(tmp_path / "s.py", ("stride] += dout * (winner", "stride] = dout * (winner"),
                   ("return dout * (x > 0)", "return dout * (x > 0) if x.ndim == 2 else dout"))  # fmt: skip
    result = grade(path, only("max_pool", "relu"))
    assert part(result, "max_pool", "backward").points == 0 and part(result, "relu", "backward").points == 0
    assert "right for your forward pass" not in feedback(result)


def test_stubs_earn_no_more_than_their_presence(tmp_path):
    (tmp_path / "s.py").write_text("""
import numpy as np

def fc_forward(x, w, b): return np.zeros((len(x), len(b))), (x, w, b)
def fc_backward(dout, cache): return tuple(map(np.zeros_like, cache))
def relu_forward(x): return np.zeros(1), x
def relu_backward(dout, cache): return np.zeros_like(cache)
def svm_loss(x, y): return 0.0, np.zeros_like(x)
def dropout_forward(x, dropout_param): return np.zeros_like(x), x
def dropout_backward(dout, cache): return np.zeros_like(cache)
""")
    result = grade(tmp_path / "s.py", only("fc", "relu", "svm"))
    assert [points(item.points) for item in result.items] == ["1", "1", "1"], str(result)
    assert grade(tmp_path / "s.py", only("dropout")).points == 1


def test_differentiating_numerically_with_any_step_earns_nothing(tmp_path):
    numeric = "dw = numeric(lambda v: fc_forward(x, v, 0)[0], w, dout, h=0.5)\n"  # exact, since the layer is linear
    path = changed(
        tmp_path / "s.py", ("import numpy as np\n", "import numpy as np\n" + NUMERIC), ("dw = flat.T @ dout\n", numeric)
    )
    result = grade(path, only("fc"))
    assert part(result, "fc", "backward").points == 0 and result.items[0].flags


def test_a_helper_for_each_sample_and_low_precision_are_not_cheating(tmp_path):
    helper = "def sigmoid(a):\n    return np.float32(1 / (1 + np.exp(-a)))\n"
    path = changed(tmp_path / "s.py", ("import numpy as np\n", "import numpy as np\n" + helper),
                   ("dx = -t * np.exp(-np.logaddexp(0, t * x)) / len(x)",
                    "dx = -t * np.array([sigmoid(a) for a in -t * x]) / len(x)"))  # fmt: skip
    result = grade(path, only("logistic"))
    assert part(result, "logistic", "backward").points == part(result, "logistic", "backward").possible, str(result)


@pytest.mark.parametrize(
    "style",
    [
        "def relu_forward(*args):\n    return np.maximum(args[0], 0), args[0]\n",
        "class Relu:\n    def forward(self, x):\n        return np.maximum(x, 0), x\nrelu_forward = Relu().forward\n",
        "@np.errstate(all='ignore')\ndef relu_forward(x):\n    return np.maximum(x, 0), x\n",
        "def relu_forward(x, scale=None):\n    return [x * (x > 0), x]\n",
    ],
    ids=["*args", "method", "decorated", "list"],
)
def test_functions_of_any_style_are_found(tmp_path, style):
    text = EECS.replace("def relu_forward(x):", "def _plain(x):")
    (tmp_path / "numpy.py").write_text(text + "\n\n" + style)
    result = grade(tmp_path / "numpy.py", only("relu"))
    assert result.points == result.possible, str(result)


def test_outputs_of_a_wrong_shape_lose_their_item_alone(tmp_path):
    path = changed(tmp_path / "s.py", ("        return x * mask, mask\n", "        return np.ones(1), mask\n"))
    result = grade(path, only("dropout", "relu"))
    assert (
        part(result, "dropout", "forward").points < 4 and part(result, "relu", "backward").passed and not result.error
    )


def test_a_fault_of_the_assignment_is_named_and_ends_nothing(tmp_path, capsys):
    file = tmp_path / "faulty.py"
    file.write_text("""
import dataclasses
from fastbp.grading import Assignment, Convention
from fastbp.grading.assignments.eecs598_hw1 import ITEMS

def broken(out, x):
    raise KeyError("oh")

fc, relu, norm, *_ = ITEMS
assignment = Assignment("faulty", [dataclasses.replace(relu, conventions=[Convention("c", broken)]), fc])
""")
    submission = changed(tmp_path / "s.py")
    for form in ("text", "gradescope"):
        assert cli.main(["grade", str(submission), "--assignment", str(file), "--format", form]) == 1
        out, err = capsys.readouterr()
        assert "the grader failed at relu: KeyError: 'oh'" in out and "the grader failed at relu" in err
    assert grade(submission, load_assignment(file)).items[1].passed


def test_names_are_kept_apart_and_what_is_left_out_is_said(tmp_path, small, capsys):
    folder = tmp_path / "class"
    (folder / "ann").mkdir(parents=True)
    (folder / "bob" / "hw1").mkdir(parents=True)
    for path in (
        folder / "ann.py",
        folder / "ann" / "layers.py",
        folder / "bob" / "hw1" / "layers.py",
        folder / f"{'é' * 100}.py",
    ):
        changed(path)
    (folder / "cy.ipynb").write_text("{}")
    assert len(find_submissions([folder])) == 4
    assert (
        cli.main(["grade", str(folder), "--assignment", str(small), "--jobs", "2", "--output", str(tmp_path / "out")])
        == 0
    )
    out, err = capsys.readouterr()
    assert out.count(" 20\n") == 5 and "cy.ipynb" in err  # four, and the mean
    with pytest.raises(ValueError, match="is a notebook"):
        find_submissions([folder / "cy.ipynb"])


def test_a_full_disk_ends_nothing_and_is_said(class_folder, small, tmp_path, monkeypatch, capsys):
    import contextlib
    import errno

    @contextlib.contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield

    for module in ("batch", "reports"):
        monkeypatch.setattr(f"fastbp.grading.{module}.written_atomically", full)
    arguments = ["grade", str(class_folder / "ann.py"), str(class_folder / "bob.py"), "--assignment", str(small)]
    assert cli.main([*arguments, "--jobs", "1", "--output", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "ann" in out and "relu (-5)" in out and "bob.txt could not be written: No space left on device" in err


def test_two_vectors_with_gradients_are_no_fault(tmp_path):
    path = tmp_path / "s.py"
    path.write_text("def f(x, s):\n    return x * s, (x, s)\n\ndef g(dout, c):\n    return dout * c[1], dout * c[0]\n")

    def product(out, x, s):
        return x * s, lambda dout: (dout * s, dout * x)

    case = Case("random", lambda rng: {"x": rng.normal(size=5), "s": rng.normal(size=5)}, gradients=True)
    conventions = [Convention("x s", product)]
    item = Item("scale", "f(x, s) -> out, cache", ("x", "s"), conventions, [case], backward="g(dout, cache) -> dx, ds")
    assert grade(path, Assignment("vectors", [item])).points == 10


def test_messages_cannot_reach_the_terminal(tmp_path):
    path = changed(
        tmp_path / "s.py", ("    return np.maximum(x, 0), x\n", "    raise ValueError('\\x1b[2J\\x07 gone')\n")
    )
    assert "\x1b" not in str(grade(path, only("relu"))) and "gone" in str(grade(path, only("relu")))


@pytest.mark.parametrize("form", ["json", "gradescope", "text"])
def test_a_report_goes_into_a_fifo_once_and_whole(class_folder, small, tmp_path, capsys, form):
    os.mkfifo(tmp_path / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_text()))
    reader.start()
    command = ["grade", str(class_folder / "ann.py"), "--assignment", str(small), "--format", form]
    assert cli.main([*command, "--output", str(tmp_path / "fifo")]) == 0 and capsys.readouterr().out == ""
    reader.join(timeout=30)
    assert cli.main([*command, "--output", str(tmp_path / "file")]) == 0
    expected = (tmp_path / "file").read_text()
    assert got == [expected] if form == "text" else json.loads(got[0]).keys() == json.loads(expected).keys()
    assert (tmp_path / "fifo").is_fifo()
