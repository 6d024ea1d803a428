"""Arguments of the grading room's public functions, and of what an assignment consists of."""

import math

import numpy as np
import pytest
from refused import refused

import fastbp
from fastbp import grading
from fastbp.grading import Assignment, Case, Convention, Item, Result


def square(out, x):
    return x**2, lambda dout: (2 * x * dout,)


def draw(rng):
    return {"x": rng.normal(size=(2, 3))}


GOOD = {
    Convention: {"name": "x²", "reference": square},
    Case: {"name": "random", "draw": draw, "gradients": True},
    Item: {
        "name": "square", "forward": "sq(x) -> out, cache", "backward": "dsq(dout, cache) -> dx", "gradients": ("x",),
        "conventions": [Convention("x²", square)], "cases": [Case("random", draw, gradients=True)],
    },
}  # fmt: skip
GOOD[Assignment] = {"name": "squares", "items": [Item(**GOOD[Item])]}
NO_TEXT, NO_FLAG, NO_FUNCTION = [None, 3, b"x", ["x"]], [None, 1, "yes"], [None, 3, "square", dict]
WRONG = {
    Convention: {"name": NO_TEXT, "reference": NO_FUNCTION, "accepted": NO_FLAG, "convert": NO_FUNCTION[1:]},
    Case: {
        "name": NO_TEXT, "draw": NO_FUNCTION, "gradients": NO_FLAG, "strided": NO_FLAG,
        "written": ["x", ("x",), ("x", "k"), (1, ("k",))],
    },
    Item: {
        "name": NO_TEXT, "forward": [*NO_TEXT, "", "f x", "f(x) y"], "backward": [3, "g"],
        "gradients": [None, "x", [1], {"x"}],
        "conventions": [None, [], [square], Convention("x²", square), (c for c in ())],
        "cases": [None, [], [draw], [Case("a", draw)]],
        "points": [None, "ten", -1, math.nan, math.inf, True, np.ones(2)], "shows": NO_FLAG, "hint": NO_TEXT,
        "weights": [None, 1, (1, 1), (0, 0, 0), (-1, 1, 1), ("1", 1, 1), (math.nan, 1, 1)],
        "visibility": [None, "secret", ["visible"]],
    },
    Assignment: {
        "name": NO_TEXT, "items": [None, [], "squares", [square], [Item(**GOOD[Item])] * 2], "title": NO_TEXT,
        "tolerance": [None, 0, -1, "a", math.nan, True], "seconds": [None, 0, -1, "1", math.inf], "source": NO_TEXT,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in WRONG.items() for name in names])
def test_parts_of_an_assignment_are_checked_as_they_are_made(kind, name):
    for value in WRONG[kind][name]:
        refused(lambda value=value: kind(**{**GOOD[kind], name: value}), name)


@pytest.fixture
def submission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.py"
    path.write_text("def sq(x):\n    open('ran', 'w')\n    return x * x, x\n")
    return path


NO_PATH = [None, 3, True, b"s.py", ["s.py"], "", "a\0b"]


def test_arguments_of_grade_are_named_before_anything_runs(submission):
    good, wrong = {"path": submission, "assignment": Assignment(**GOOD[Assignment])}, {
        "path": NO_PATH, "assignment": [None, "cs231n-a2", Assignment], "seed": [None, -1, 1.5, "0", True],
        "seconds": [0, -1, "1", math.nan], "done": NO_FUNCTION,
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            refused(lambda name=name, value=value: grading.grade(**{**good, name: value}), name)
    refused(lambda: grading.grade("nowhere.py", good["assignment"]), "path", kind=FileNotFoundError)


def test_arguments_of_grade_all_are_named_before_anything_runs(submission, tmp_path):
    good, wrong = {"paths": [submission], "assignment": "cs231n-a2", "folder": tmp_path / "records"}, {
        "paths": [None, 3, str(submission), submission, [3], [b"s.py"], [""]], "assignment": NO_PATH,
        "seed": [None, -1, 1.5, "0"], "jobs": [0, -1, 1.5, "2"], "seconds": [0, "1"], "folder": NO_PATH[1:],
        "executor": [3, "threads"], "one": NO_FLAG, "done": NO_FUNCTION,
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            refused(lambda name=name, value=value: grading.grade_all(**{**good, name: value}), name)
    refused(lambda: grading.grade_all(**{**good, "assignment": "nothing"}), "name", kind=grading.AssignmentError)
    refused(lambda: grading.find_submissions(["nowhere.py"]), "nowhere.py", kind=FileNotFoundError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.py"]


def test_a_folder_for_records_may_be_a_name(submission):
    result = grading.grade_all([str(submission)], "cs231n-a2", jobs=1, folder="records")[0]
    assert result.finished and result.points == 0 and submission.with_name("records").joinpath("s.json").exists()


def test_results_come_from_dictionaries_that_they_have_written():
    result = Result("s", "squares", 0, 10.0, [grading.ItemResult("square", [grading.Part("present", 1.0, 1.0)])])
    assert Result.from_dict(result.to_dict()) == result
    entry = result.to_dict()
    for value in (None, 3, "a", [entry], {}, {**entry, "items": 3}, {**entry, "items": [{}]}, {**entry, "more": 1}):
        refused(lambda value=value: Result.from_dict(value), "entry")
    for value in (None, entry, [result], fastbp.ReLU()):
        refused(lambda value=value: grading.gradescope(value), "result", kind=TypeError)
