"""One submission against an assignment: the submission answers calls from its sandbox, and everything is judged here."""

import difflib
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..gradcheck.check import check
from ..gradcheck.numeric import away_from_zero
from ..gradcheck.problems import Problem
from ..gradcheck.report import GradientReport
from ..gradcheck.smallest import code, search, shrink
from .assignment import Arguments, Assignment, Case, Convention, Disagrees, Item, parse
from .results import ItemResult, Part, Result
from .sandbox import Handle, Limits, Sandbox, SubmissionError

TRIES = 100  # of the search for each smallest failing input
EXACT = 1e-12  # relative error of a gradient computed in closed form, at the most; by finite differences it is larger
SHOWN = 40  # elements of an array that feedback shows


def grade(
    path: Path | str,
    assignment: Assignment,
    seed: int = 0,
    seconds: float | None = None,
    done: Callable[[Result], None] = lambda result: None,
) -> Result:
    """The result of one submission, a Python file or a folder. `done(result)` is called after every item, with what there is.

    `seconds` limits each call of a submission's function (the assignment's by default). The same seed draws the same inputs.
    Whatever the submission does costs its own items their points and raises nothing here.
    """
    start = time.perf_counter()
    result = Result(Path(path).stem, assignment.name, seed, assignment.points)
    with Sandbox(path, Limits(seconds=seconds or assignment.seconds), main=main_file(Path(path), assignment)) as box:
        for item in assignment.items:
            began = time.perf_counter()
            graded = ItemGrader(box, item, assignment.tolerance, seed).grade()
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


@dataclass
class Answer:
    """What the submission gave for a case: the output and the cache that stays with it, or an error."""

    arguments: Arguments
    out: np.ndarray | None = None
    cache: Handle | None = None
    gradients: tuple | None = None  # a loss's
    error: SubmissionError | None = None
    after: Arguments | None = None  # the arguments as the call left them


class ItemGrader:
    """The grading of one item of one submission."""

    def __init__(self, box: Sandbox, item: Item, tolerance: float, seed: int):
        self.box, self.item, self.tolerance, self.seed = box, item, tolerance, seed
        self.forward_name, self.parameters, _ = parse(item.forward)
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
                part.lines.append(f"{name}({', '.join(wanted)}) is missing" + (f"; there is a {near[0]}" if near else ""))
            elif len(functions[name]) < len(wanted) and not any(p.startswith("*") for p in functions[name]):
                given = ", ".join(functions[name])
                part.lines.append(f"{name}({given}) takes too few arguments: it is called as {name}({', '.join(wanted)})")
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
            answer.out, rest = number_array(returned[0], f"the {'loss' if loss else 'output'} of {self.forward_name}"), returned[1]
            if loss:
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
                self.answers[key] = Answer(arguments, error=SubmissionError("timeout", "not called again: two calls took too long"))
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
        best, faults = None, []
        for convention in self.item.conventions:
            found = [self.fault(case, self.answer(k, convention), convention) for k, case in enumerate(cases)]
            if best is None or found.count("") > faults.count(""):
                best, faults = convention, found
            if not any(faults):
                break
        right = faults.count("")
        self.result.convention, self.result.accepted = best.name, best.accepted or not right
        if right and best.accepted:
            part.points = part.possible * right / len(cases)
            if best is not self.item.conventions[0]:
                part.lines.append(f"convention: {best.name} (accepted)")
        elif right:
            part.lines.append(f"your function follows another convention: {best.name}. This assignment asks for: {self.wanted()}")
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
            fault = self.fault(case, answer, convention)
            return (answer, fault) if fault and answer.error is None else None

        found = shrink(self.answer(number, convention).arguments, fails, TRIES)
        if found is None:
            return []
        arguments, (answer, fault) = found
        lines = [f"smallest failing input: {self.shown_call(arguments)}"]
        if self.item.shows and case.written is None:
            expected, _ = convention.reference(answer.out, **copied(arguments))
            lines += [f"  got      {short(answer.out)}", f"  expected {short(np.asarray(expected))}"]
        else:
            lines.append(f"  {fault}")
        return lines

    def shown_call(self, arguments: Arguments) -> str:
        return f"{self.forward_name}({', '.join(f'{n}={code(a)}' for n, a in arguments.items())})"

    # -- backward -----------------------------------------------------------------------------------------------------

    def backward(self, convention: Convention) -> None:
        """Score each gradient: right for the true function, or at least for the submission's own."""
        part, names = self.parts[2], self.item.gradients
        self.result.correct, errors = self.against_reference(convention)
        report, failure = None, ""
        number = next(k for k, case in enumerate(self.item.cases) if case.gradients)
        problem = None
        try:
            problem = SandboxProblem(self, self.answer(number, convention).arguments)
            report = check(problem, tolerance=self.tolerance, seed=self.seed)
        except SubmissionError as error:
            failure = explain(self.backward_name or self.forward_name, error)
            if problem is None or problem.answer is None:  # forward's error, which was said
                failure = ""
        except (ValueError, TypeError) as error:  # a forward pass whose output changes shape, say
            failure = str(error)
        self.result.consistent = {n: None if report is None else passed(report, n) for n in names}
        good = [n for n in names if self.result.correct[n] or self.result.consistent[n]]
        part.points = part.possible * len(good) / len(names)
        if failure and failure not in errors:
            errors.append(failure)
        if len(good) < len(names):
            part.lines += errors
            if report is not None:
                part.lines += self.mistakes(report, problem)
        for n in good:
            if self.result.correct[n] is False:
                part.lines.append(f"the gradient of {n} is right for your forward pass, which is not the one asked for")
            elif self.result.consistent[n] is False:
                part.lines.append(f"the gradient of {n} is right, though your forward pass is not")
        if report is not None:
            part.lines += [f"notice: {p.message}" for p in report.properties if not p.passed and p.name in NOTICED]
        self.finite_differences(problem, convention)

    def against_reference(self, convention: Convention) -> tuple[dict[str, bool | None], list[str]]:
        """Whether each gradient is that of the true function in every case for gradients, and what was wrong otherwise."""
        names = self.item.gradients
        correct: dict[str, bool | None] = dict.fromkeys(names, True)
        errors: list[str] = []
        for number, case in enumerate(self.item.cases):
            if not case.gradients:
                continue
            answer = self.answer(number, convention)
            if answer.error is not None:
                return dict.fromkeys(names), ["not tried, since forward failed" if self.item.backward else "there is no gradient"]
            try:
                expected, reference = convention.reference(answer.out, **copied(answer.arguments))
                expected = np.asarray(expected, np.float64)
                gradients, wanted = self.gradients(answer, reference, expected, self.rng(1000 + number))
            except Disagrees:
                return dict.fromkeys(names), errors
            except SubmissionError as error:
                return dict.fromkeys(names, False), [*errors, f"{case.name}: {explain(self.backward_name, error)}"]
            for name, got, want in zip(names, gradients, wanted, strict=True):
                if fault := difference(f"the gradient of {name}", got, np.asarray(want), self.tolerance):
                    correct[name] = False
                    errors.append(f"{case.name}: {fault}")
        return correct, errors

    def gradients(self, answer: Answer, reference: Callable, expected: np.ndarray, rng) -> tuple[list[np.ndarray], tuple]:
        """The submission's gradients for a random dout, and the reference's."""
        if self.item.backward is None:
            return self.named(answer.gradients), reference()
        if answer.out.shape != expected.shape:
            raise Disagrees("the output has another shape, so its dout would too")
        dout = away_from_zero(rng, expected.shape)
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

    def mistakes(self, report: GradientReport, problem: "SandboxProblem") -> list[str]:
        """The likely causes, and the smallest failing input."""
        lines = []
        for tensor in report.tensors:
            if not tensor.passed:
                self.result.causes += [cause.name for cause in tensor.causes[:1] if cause.name not in self.result.causes]
                lines += [f"the gradient of {tensor.name}: {line}" for line in tensor.explanations(2)]
        found = search(lambda arguments: SandboxProblem(self, arguments), problem.arguments, self.shown_call, report, TRIES)
        if found is not None:
            lines.append(f"smallest failing input: {found.snippet}")
            for tensor in found.report.tensors:
                if tensor.failures and self.item.shows:
                    at = f" at {tensor.index}" if tensor.index else ""
                    lines.append(f"  the gradient of {tensor.name}{at} is {tensor.analytic:.6g}, it should be {tensor.numeric:.6g}")
        return lines

    def finite_differences(self, problem: "SandboxProblem | None", convention: Convention) -> None:
        """Flag a backward pass that differentiates numerically: it runs the forward pass again and again, or is inexact as
        differences are. The first earns nothing, since it is sure; the second is for an instructor to look at."""
        if problem is None or not problem.gradients or not self.parts[2].points:
            return
        elements = min(problem.tensors[n].size for n in self.item.gradients)
        again = {name: times for name, times in problem.called.items() if times >= max(elements, 3) and name in problem.in_forward}
        errors = []
        for name in self.item.gradients:
            exact, wrong = problem.true_gradients(convention).get(name), problem.gradients.get(name)
            if exact is not None and wrong is not None and exact.shape == wrong.shape and exact.size:
                errors.append(float(np.max(np.abs(exact - wrong)) / max(np.max(np.abs(exact)), 1e-300)))
        inexact = bool(errors) and EXACT < max(errors) < 1e-3 and all(g.dtype == np.float64 for g in problem.gradients.values())
        if again and (inexact or not errors):
            name, times = max(again.items(), key=lambda pair: pair[1])
            self.parts[2].points = 0.0
            culprit = self.backward_name or self.forward_name
            line = f"{culprit} differentiates numerically: it ran {name} {times} times. The gradient is wanted in closed form"
            self.parts[2].lines.append(line)
            self.result.flags.append(f"finite differences inside backward: {name} ran {times} times in one call")
        elif inexact:
            doubt = "finite differences inside, or low precision?"
            self.result.flags.append(f"the gradient is right only to {max(errors):.0e}: {doubt}")


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
        except (Disagrees, ValueError):
            return {}
        return dict(zip(self.tensors, map(np.asarray, gradients), strict=True))


def gathered(names: list[str], faults: list[str]) -> list[str]:
    """A line for each fault, with the cases that have it.

    >>> gathered(["a", "b", "c"], ["wrong", "", "wrong"]), gathered(["a", "b"], ["bad", "bad"])
    (['a; c: wrong'], ['every case: bad'])
    """
    of = {fault: [name for name, other in zip(names, faults, strict=True) if other == fault] for fault in faults if fault}
    whole = len(names) > 1
    return [f"{'every case' if whole and len(cases) == len(names) else '; '.join(cases)}: {fault}" for fault, cases in of.items()]


def copied(arguments: Arguments) -> Arguments:
    """Copies of arrays and dictionaries: references write to theirs."""
    out = {}
    for name, value in arguments.items():
        out[name] = value.copy() if isinstance(value, np.ndarray) else copied(value) if isinstance(value, dict) else value
    return out


def number_array(value, what: str) -> np.ndarray:
    """An array of real numbers, or SubmissionError."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise SubmissionError("value", f"{what} must be an array of numbers, it is {kind(value)}")
    return array


def difference(what: str, got: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """How an array differs from what it should be, in a line, or nothing."""
    if got.shape != expected.shape:
        return f"{what} has shape {got.shape}, expected {expected.shape}"
    if not got.size:
        return ""
    got = got.astype(np.float64)
    if not np.isfinite(got).all() and np.isfinite(expected).all():
        return f"{what} has {int((~np.isfinite(got)).sum())} values that are infinite or NaN"
    with np.errstate(all="ignore"):
        off = np.abs(got - expected)
        allowed = tolerance * np.maximum(np.abs(expected), np.max(np.abs(expected)) * 1e-3) + 1e-12
        wrong = ~(off <= allowed)
    if not wrong.any():
        return ""
    return f"{what} is wrong at {int(wrong.sum())} of {got.size} elements"


def passed(report: GradientReport, name: str) -> bool:
    return next(tensor.passed for tensor in report.tensors if tensor.name == name)


def explain(name: str, error: SubmissionError) -> str:
    """An error of a submission as feedback."""
    words = {"raised": "raised an error", "timeout": "took too long", "crashed": "crashed", "exited": "ended the program",
             "memory": "took too much memory", "output": "printed too much", "protocol": "could not be talked to",
             "value": "returned what can't be graded", "import": "failed"}  # fmt: skip
    return f"{name} {words.get(error.kind, error.kind)}: {error.message}"


def kind(value) -> str:
    """What a value is, in a few words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return {"ndarray": "an array", "NoneType": "None", "Handle": "an object"}.get(type(value).__name__, f"a {type(value).__name__}")


def short(array: np.ndarray) -> str:
    """An array on one line, without its middle if it is long."""
    text = np.array2string(array, precision=6, threshold=SHOWN, separator=", ", max_line_width=10**6, suppress_small=False)
    return " ".join(text.split())
