"""One submission against an assignment: it answers calls from its sandbox, and everything is judged here."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from .. import arguments
from .assignment import Assignment, Item
from .item_grader import ItemGrader
from .results import ItemResult, Part, Result
from .sandbox import Limits, Sandbox

FAULT = "the grader failed at"  # not the submission's doing: begins a flag and a line of feedback


def grade(
    path: Path | str,
    assignment: Assignment,
    seed: int = 0,
    seconds: float | None = None,
    done: Callable[[Result], None] = lambda result: None,
) -> Result:
    """The result of one submission, a Python file or a folder.

    `seconds` limits each call of a submission's function (the assignment's by default). The same seed draws the same
    inputs. `done(result)` is called after every item, with what there is.

    Whatever the submission does costs its own items their points and raises nothing here. FileNotFoundError if it is
    not there.
    """
    path = Path(arguments.path("grade: path", path))
    if not path.exists():
        raise FileNotFoundError(f"grade: path: no such file or folder: {path}")
    wanted = "fastbp.grading.Assignment, as load_assignment gives one"
    arguments.instance("grade: assignment", assignment, Assignment, wanted)
    seed, done = arguments.whole("grade: seed", seed, 0), arguments.function("grade: done", done)
    seconds = assignment.seconds if seconds is None else arguments.number("grade: seconds", seconds, above=0)
    start = time.perf_counter()
    result = Result(path.stem, assignment.name, seed, assignment.points)
    with Sandbox(path, Limits(seconds=seconds), main=main_file(path, assignment)) as box:
        for item in assignment.items:
            began = time.perf_counter()
            graded = grade_item(box, item, assignment.tolerance, seed)
            graded.seconds = round(time.perf_counter() - began, 3)
            result.items.append(graded)
            result.printed = box.printed[:2000]
            result.seconds = round(time.perf_counter() - start, 3)
            done(result)
            box.restart()  # what an item's functions did to their process ends with it
        result.notes = list(box.notes)
    result.error = _whole_error(result)
    result.finished = True
    result.seconds = round(time.perf_counter() - start, 3)
    done(result)
    return result


def grade_item(box: Sandbox, item: Item, tolerance: float, seed: int) -> ItemResult:
    """One item's result. A fault of the assignment, as a reference that fails, is named and costs this item alone."""
    grader = None
    try:
        grader = ItemGrader(box, item, tolerance, seed)
        return grader.grade()
    except Exception as error:
        unbegun = ItemResult(item.name, [Part("present", 0.0, item.points)], item.visibility)
        result = grader.result if grader is not None else unbegun
        fault = f"{FAULT} {item.name}: {type(error).__name__}: {error}"
        result.parts[-1].lines.append(fault)
        result.flags.append(fault)
        return result


def main_file(path: Path, assignment: Assignment) -> str | None:
    """Of a folder's Python files, the one that defines most of the assignment's functions.

    None for a path that is a file, and where no file defines any.
    """
    wanted = {name for item in assignment.items for name in item.functions}
    counts = {}
    for file in sorted(path.glob("*.py")) if path.is_dir() else []:
        text = file.read_text(encoding="utf-8", errors="replace")
        counts[file.name] = len(wanted & set(re.findall(r"^def\s+(\w+)", text, re.MULTILINE)))
    return max(counts, key=counts.get) if any(counts.values()) else None


def _whole_error(result: Result) -> str:
    """What kept every item from being graded, if it is one thing."""
    reasons = {item.parts[0].lines[0] if item.parts[0].lines else "" for item in result.items}
    return reasons.pop() if len(reasons) == 1 and len(result.items) > 1 and not result.points else ""
