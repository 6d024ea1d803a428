"""One submission against an assignment: the submission answers calls from its sandbox, and everything is judged here."""

import difflib
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import arguments
from ..gradcheck.check import check
from ..gradcheck.numeric import away_from_zero
from ..gradcheck.problems import Problem
from ..gradcheck.report import GradientReport
from ..gradcheck.smallest import code, search, shrink
from .answers import Answer, copied, difference, explain, gathered, kind, number_array, short
from .assignment import Arguments, Assignment, Case, Convention, Disagrees, Item, parse
from .results import ItemResult, Part, Result
from .sandbox import Handle, Limits, Sandbox, SubmissionError

TRIES = 100  # of the search for each smallest failing input
FAULT = "the grader failed at"  # not the submission's doing: begins a flag and a line of feedback
EXACT = 1e-12  # relative error of a gradient computed in closed form, at the most; by finite differences it is larger


def grade(
    path: Path | str,
    assignment: Assignment,
    seed: int = 0,
    seconds: float | None = None,
    done: Callable[[Result], None] = lambda result: None,
) -> Result:
    """The result of one submission, a Python file or a folder. `done(result)` is called after every item, with what there is.

    `seconds` limits each call of a submission's function (the assignment's by default). The same seed draws the same inputs.
    Whatever the submission does costs its own items their points and raises nothing here. FileNotFoundError if it is not there.
    """
    path = Path(arguments.path("grade: path", path))
    if not path.exists():
        raise FileNotFoundError(f"grade: path: no such file or folder: {path}")
    arguments.instance(
        "grade: assignment", assignment, Assignment, "fastbp.grading.Assignment, as load_assignment gives one"
    )
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
            box.restart()
            # -- what an item's functions did to their process ends with it
        result.notes = list(box.notes)
    result.error = _whole_error(result)
    result.finished = True
    result.seconds = round(time.perf_counter() - start, 3)
    done(result)
    return result


def grade_item(box: Sandbox, item: Item, tolerance: float, seed: int) -> ItemResult:
    """One item's result; a fault of the assignment's own, a reference that fails, say, is the item's alone and named."""
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
    """Of a folder's Python files, the one that defines most of the assignment's functions; None for a file, or if none does."""
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


class ItemGrader:
    """The grading of one item of one submission."""

    def __init__(self, box: Sandbox, item: Item, tolerance: float, seed: int):
        self.box, self.item, self.tolerance, self.seed = box, item, tolerance, seed
        self.forward_name = parse(item.forward)[0]
        self.backward_name = parse(item.backward)[0] if item.backward else ""
        self.parts = [Part(name, 0.0, item.possible(k)) for k, name in enumerate(("present", "forward", "backward"))]
        self.result = ItemResult(item.name, self.parts, item.visibility)
        self.answers: dict[tuple, Answer] = {}
        self.drawn = [case.draw(self.rng(k)) for k, case in enumerate(item.cases)]

    def rng(self, number: int) -> np.random.Generator:
        """For the inputs of a case: the seed's, the item's and the case's own, whatever else is graded."""
        return np.random.default_rng([self.seed, zlib.crc32(self.item.name.encode()), number])

    def grade(self) -> ItemResult:
        usable = self.present()
        if self.forward_name in usable:
            convention = self.forward()
            if not self.backward_name or self.backward_name in usable:
                self.backward(convention)
        if self.item.hint and not self.result.passed:
            self.parts[-1].lines.append(self.item.hint)
        return self.result

    # -- present ------------------------------------------------------------------------------------------------------

    def present(self) -> list[str]:
        """The functions that are there, with as many parameters as they are called with."""
        part = self.parts[0]
        try:
            functions = self.box.functions
        except SubmissionError as error:
            part.lines.append(explain("your file could not be imported", error))
            return []
        usable = []
        for name, wanted in self.item.functions.items():
            if name not in functions:
                near = difflib.get_close_matches(name, set(functions) - set(self.item.functions), 1, 0.85)
                part.lines.append(
                    f"{name}({', '.join(wanted)}) is missing" + (f"; there is a {near[0]}" if near else "")
                )
            elif len(functions[name]) < len(wanted) and not any(p.startswith("*") for p in functions[name]):
                given = ", ".join(functions[name])
                part.lines.append(
                    f"{name}({given}) takes too few arguments: it is called as {name}({', '.join(wanted)})"
                )
            else:
                usable.append(name)
        part.points = part.possible * len(usable) / len(self.item.functions)
        return usable

    # -- forward ------------------------------------------------------------------------------------------------------

    def call(self, arguments: Arguments, strided: bool = False) -> Answer:
        """The submission's forward pass. An answer of the wrong kind is a SubmissionError too."""
        answer = Answer(arguments)
        loss = self.item.backward is None
        try:
            returned = self.box.call(self.forward_name, *arguments.values(), keep=() if loss else (1,), strided=strided)
            answer.after = dict(zip(arguments, self.box.arguments_after, strict=True))
            what = "(loss, dx)" if loss else "(out, cache)"
            if not isinstance(returned, (tuple, list)) or len(returned) != 2:
                raise SubmissionError("value", f"{self.forward_name} must return {what}, it returned {kind(returned)}")
            answer.out, rest = (
                number_array(returned[0], f"the {'loss' if loss else 'output'} of {self.forward_name}"),
                returned[1],
            )
            if loss:
                answer.out = answer.out.reshape(()) if answer.out.size == 1 else answer.out
                answer.gradients = rest if isinstance(rest, (tuple, list)) else (rest,)
            else:
                answer.cache = rest
        except SubmissionError as error:
            answer.error = error
        return answer

    def answer(self, number: int, convention: Convention) -> Answer:
        """The answer to a case as the convention puts it; asked once."""
        key = (number, convention.convert)
        if key not in self.answers:
            drawn = copied(self.drawn[number])
            arguments = convention.convert(drawn) if convention.convert else drawn
            hopeless = sum(a.error is not None and a.error.kind == "timeout" for a in self.answers.values())
            if hopeless >= 2:  # a function that never ends need not be waited for at every case
                self.answers[key] = Answer(
                    arguments, error=SubmissionError("timeout", "not called again: two calls took too long")
                )
            else:
                self.answers[key] = self.call(arguments, self.item.cases[number].strided)
        return self.answers[key]

    def fault(self, case: Case, answer: Answer, convention: Convention) -> str:
        """What is wrong with an answer under a convention, or nothing."""
        if answer.error is not None:
            return explain(self.forward_name, answer.error)
        arguments = copied(answer.arguments)
        try:
            expected, _ = convention.reference(answer.out, **arguments)
        except Disagrees as reason:
            return str(reason)
        if case.written is None:
            what = "the loss" if self.item.backward is None else "the output"
            return difference(what, answer.out, np.asarray(expected), self.tolerance)
        name, keys = case.written
        left = (answer.after or {}).get(name)
        for key in keys:
            got = left.get(key) if isinstance(left, dict) else None
            if not isinstance(got, np.ndarray):
                return f"{name}[{key!r}] is not an array after the call"
            if fault := difference(f"{name}[{key!r}]", got, np.asarray(arguments[name][key]), self.tolerance):
                return fault
        return ""

    def forward(self) -> Convention:
        """Score the forward pass against the convention that explains most cases."""
        part, cases = self.parts[1], self.item.cases
        best, faults, right = None, [], 0
        for convention in self.item.conventions:
            found = [self.fault(case, self.answer(k, convention), convention) for k, case in enumerate(cases)]
            if best is None or found.count("") > faults.count(""):
                best, faults = convention, found
            if convention.accepted:
                right = max(right, found.count(""))
            if not any(faults):
                break
        part.points = part.possible * right / len(cases)
        known = faults.count("") > 0
        self.result.convention, self.result.accepted = best.name if known else "", best.accepted or not known
        if known and not best.accepted:
            part.lines.append(
                f"your function follows another convention: {best.name}. This assignment asks for: {self.wanted()}"
            )
        elif known and best is not self.item.conventions[0]:
            part.lines.append(f"convention: {best.name} (accepted)")
        part.lines += gathered([case.name for case in cases], faults)
        first = next((k for k, fault in enumerate(faults) if fault), None)
        if first is not None and self.answer(first, best).error is None:
            part.lines += self.smallest_forward(first, best)
        return best

    def wanted(self) -> str:
        return "; or ".join(c.name for c in self.item.conventions if c.accepted)

    def smallest_forward(self, number: int, convention: Convention) -> list[str]:
        """The smallest input on which the forward pass is wrong in the way of a case."""
        case = self.item.cases[number]

        def fails(arguments: Arguments):
            answer = self.call(arguments, case.strided)
            fault = "" if answer.error is not None else self.fault(case, answer, convention)
            if not fault:
                return None
            try:
                return answer, fault, np.asarray(convention.reference(answer.out, **copied(arguments))[0])
            except Disagrees:
                return answer, fault, None

        found = shrink(self.answer(number, convention).arguments, fails, TRIES)
        if found is None:
            return []
        arguments, (answer, fault, expected) = found
        lines = [f"smallest failing input: {self.shown_call(arguments)}"]
        if self.item.shows and case.written is None and expected is not None:
            lines += [f"  got      {short(answer.out)}", f"  expected {short(expected)}"]
        else:
            lines.append(f"  {fault}")
        return lines

    def shown_call(self, arguments: Arguments) -> str:
        return f"{self.forward_name}({', '.join(f'{n}={code(a)}' for n, a in arguments.items())})"

    # -- backward -----------------------------------------------------------------------------------------------------

    def backward(self, convention: Convention) -> None:
        """Score each gradient: right for the true function, or where forward is wrong, at least for the submission's own."""
        part, names = self.parts[2], self.item.gradients
        numbers = [k for k, case in enumerate(self.item.cases) if case.gradients and self.answer(k, convention).finite]
        if not numbers:
            part.lines.append("not tried, since forward failed")
            return
        tried = [self.try_backward(k, convention, always=k == numbers[0]) for k in numbers]
        good = [n for n in names if all(t.good[n] for t in tried)]
        part.points = part.possible * len(good) / len(names)
        self.result.correct = {n: all(bool(t.correct[n]) for t in tried) for n in names}
        known = [t.consistent for t in tried if t.consistent]
        self.result.consistent = {n: all(c[n] for c in known) if known else None for n in names}
        part.lines += gathered([self.item.cases[t.number].name for t in tried], ["\n".join(t.errors) for t in tried])
        explained = next(
            (t for t in tried if t.report is not None and not all(t.good.values()) and not t.report.passed), None
        )
        if explained is not None:
            part.lines += self.mistakes(explained, convention)
        if own := [n for n in good if not self.result.correct[n]]:
            what = f"the gradient of {own[0]} is" if len(own) == 1 else f"the gradients of {', '.join(own)} are"
            part.lines.append(f"{what} right for your forward pass, which is not the one asked for")
        if tried[0].report is not None:
            part.lines += [
                f"notice: {p.message}" for p in tried[0].report.properties if not p.passed and p.name in NOTICED
            ]
        self.finite_differences(tried[0], convention)

    def try_backward(self, number: int, convention: Convention, always: bool) -> "Tried":
        """The gradients in one case: against the reference's, and where that fails (or `always`) against finite differences of the
        submission's own forward pass. The latter count only if forward is wrong here, gives as many numbers, and moves at all."""
        names, answer = self.item.gradients, self.answer(number, convention)
        tried = Tried(number)
        tried.forward_right = not self.fault(self.item.cases[number], answer, convention)
        size = answer.out.size
        try:
            expected, reference = convention.reference(answer.out, **copied(answer.arguments))
            size = np.size(expected)
            if np.shape(expected) != answer.out.shape:
                raise Disagrees("the output has another shape, so its dout would too")
            gradients, wanted = self.gradients(answer, reference, self.rng(1000 + number))
            for name, got, want in zip(names, gradients, wanted, strict=True):
                fault = difference(f"the gradient of {name}", got, np.asarray(want), self.tolerance)
                tried.correct[name] = not fault
                tried.errors += [fault] if fault else []
        except Disagrees:
            tried.correct = dict.fromkeys(names)
        except SubmissionError as error:
            tried.correct = dict.fromkeys(names, False)
            tried.errors.append(explain(self.backward_name or self.forward_name, error))
        if always or not all(tried.correct.values()):
            tried.problem = SandboxProblem(self, answer.arguments)
            try:
                tried.report = check(tried.problem, tolerance=self.tolerance, seed=self.seed)
            except SubmissionError as error:
                said = explain(self.backward_name or self.forward_name, error)
                tried.errors += [said] if said not in tried.errors and tried.problem.answer is not None else []
            except (ValueError, TypeError) as error:  # a forward pass whose output changes shape, say
                tried.errors.append(str(error))
        tried.consistent = {} if tried.report is None else {t.name: t.passed for t in tried.report.tensors}
        for name in names:
            own = not tried.forward_right and size == answer.out.size and tried.consistent.get(name, False)
            tried.good[name] = bool(tried.correct[name]) or own and moves(tried.report, name)
        if all(tried.good.values()):
            tried.errors = []
        return tried

    def gradients(self, answer: Answer, reference: Callable, rng) -> tuple[list[np.ndarray], tuple]:
        """The submission's gradients for a random dout, and the reference's."""
        if self.item.backward is None:
            return self.named(answer.gradients), reference()
        dout = away_from_zero(rng, answer.out.shape)
        if not self.alive(answer):
            renewed = self.call(answer.arguments)
            if renewed.error is not None:
                raise renewed.error
            answer.cache = renewed.cache
        return self.named(self.box.call(self.backward_name, dout, answer.cache)), reference(dout)

    def alive(self, answer: Answer) -> bool:
        """Whether the answer's cache is still there: the process that held it may have been ended since."""
        return not isinstance(answer.cache, Handle) or self.box.holds(answer.cache)

    def named(self, returned) -> list[np.ndarray]:
        """The gradients as arrays, as many as there should be; SubmissionError otherwise."""
        names = self.item.gradients
        gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
        if len(gradients) != len(names):
            wanted = ", ".join(f"d{n}" for n in names)
            raise SubmissionError("value", f"{len(gradients)} gradients were returned for {len(names)}: {wanted}")
        return [number_array(g, f"the gradient of {n}") for n, g in zip(names, gradients, strict=True)]

    def mistakes(self, tried: "Tried", convention: Convention) -> list[str]:
        """The likely causes, and the smallest failing input."""
        lines = []
        for tensor in tried.report.tensors:
            if not tensor.passed:
                self.result.causes += [
                    cause.name for cause in tensor.causes[:1] if cause.name not in self.result.causes
                ]
                lines += [f"the gradient of {tensor.name}: {line}" for line in tensor.explanations(2)]

        def build(arguments: Arguments) -> SandboxProblem:
            convention.reference(
                np.ones(np.shape(arguments[self.item.gradients[0]])), **copied(arguments)
            )  # raises if not legal
            return SandboxProblem(self, arguments)

        found = search(build, tried.problem.arguments, self.shown_call, tried.report, TRIES)
        if found is not None:
            lines.append(f"smallest failing input: {found.snippet}")
            for tensor in found.report.tensors:
                if tensor.failures and self.item.shows:
                    at = f" at {tensor.index}" if tensor.index else ""
                    lines.append(
                        f"  the gradient of {tensor.name}{at} is {tensor.analytic:.6g}, it should be {tensor.numeric:.6g}"
                    )
        return lines

    def finite_differences(self, tried: "Tried", convention: Convention) -> None:
        """Flag a backward pass that differentiates numerically. One that runs the forward function itself for every element earns
        nothing; one that is only as exact as differences are is for an instructor to look at."""
        problem = tried.problem
        if problem is None or not problem.gradients or not self.parts[2].points:
            return
        tensors = [problem.tensors[n] for n in self.item.gradients]
        elements = max(6, min(a.size for a in [t for t in tensors if t.ndim > 1] or tensors))
        inside = problem.called.get(self.forward_name, 0)
        if self.backward_name and inside >= elements:
            self.parts[2].points = 0.0
            line = f"{self.backward_name} differentiates numerically: it ran {self.forward_name} {inside} times"
            self.parts[2].lines.append(f"{line}. The gradient is wanted in closed form")
            self.result.flags.append(
                f"finite differences inside backward: {self.forward_name} ran {inside} times in one call"
            )
            return
        errors = [0.0]
        true = problem.true_gradients(convention) if tried.forward_right else {}
        for name, exact in true.items():
            given = problem.gradients[name]
            if exact.shape == given.shape and exact.size and given.dtype == np.float64:
                errors.append(float(np.max(np.abs(exact - given)) / max(np.max(np.abs(exact)), 1e-300)))
        if EXACT < max(errors) < 1e-3:
            doubt = "finite differences inside, or low precision?"
            self.result.flags.append(f"the gradient is right only to {max(errors):.0e}: {doubt}")


@dataclass
class Tried:
    """The gradients of one case, by name: `correct` for the true function (None: it could not be told), `consistent` with the
    submission's own, and `good`, whether they count as right."""

    number: int
    forward_right: bool = False
    correct: dict[str, bool | None] = field(default_factory=dict)
    consistent: dict[str, bool] = field(default_factory=dict)
    good: dict[str, bool] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    problem: "SandboxProblem | None" = None
    report: GradientReport | None = None


def moves(report: GradientReport, name: str) -> bool:
    """Whether the function depends on this tensor: the gradient of one that gives zeros is right too."""
    tensor = next(t for t in report.tensors if t.name == name)
    return tensor.measured is not None and bool((np.abs(tensor.measured) > tensor.estimate).any())


NOTICED = (
    "inputs, dout and cache unmodified by backward", "backward twice agrees", "inputs unmodified by forward",
    "forward deterministic", "zero dout gives zero gradients", "linear in dout",
)  # fmt: skip


class SandboxProblem(Problem):
    """A submission's functions at some arguments, for the gradient checker."""

    def __init__(self, grader: ItemGrader, arguments: Arguments):
        super().__init__()
        self.grader, self.arguments = grader, copied(arguments)
        self.scalar = grader.item.backward is None
        self.subject = grader.backward_name or grader.forward_name
        for name in grader.item.gradients:
            self.arguments[name] = np.array(self.arguments[name], np.float64)
            self.tensors[name] = self.arguments[name]
        self.others = {name: value for name, value in self.arguments.items() if name not in self.tensors}
        self.seen = {"the inputs": list(self.tensors.values())}
        self.gradients: dict[str, np.ndarray] = {}
        self.called: dict[str, int] = {}
        self.in_forward: set[str] = {grader.forward_name}
        self.answer: Answer | None = None

    def forward(self):
        answer = self.grader.call(self.arguments)
        if answer.error is not None:
            raise answer.error
        self.answer = answer
        self.in_forward |= set(self.grader.box.calls_inside)
        after = [answer.after[name] for name in self.tensors]
        self.seen = {"the inputs": [a if isinstance(a, np.ndarray) else np.empty(0) for a in after]}
        if self.scalar:
            self.called = dict(self.grader.box.calls_inside)
        return np.array(answer.out, np.float64)

    def backward(self, dout):
        if self.scalar:
            gradients = self.answer.gradients
        else:
            gradients = self.grader.box.call(self.grader.backward_name, dout, self.answer.cache)
            self.called = dict(self.grader.box.calls_inside)
            left = self.grader.box.arguments_after[0]
            if left is not dout:
                dout[...] = left if isinstance(left, np.ndarray) and left.shape == dout.shape else np.nan
        named = dict(zip(self.tensors, self.grader.named(gradients), strict=True))
        if not self.gradients:
            self.gradients, self.dout = named, np.array(dout)
        return named

    def held(self):
        return self.seen

    def true_gradients(self, convention: Convention) -> dict[str, np.ndarray]:
        """The reference's for the first dout that backward was given."""
        try:
            expected, reference = convention.reference(self.answer.out, **copied(self.arguments))
            gradients = reference() if self.scalar else reference(self.dout)
        except Exception:  # the reference is at odds with the submission's shapes
            return {}
        return dict(zip(self.tensors, map(np.asarray, gradients), strict=True))
