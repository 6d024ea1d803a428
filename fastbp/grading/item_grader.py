"""One item of one submission: its functions are there, forward is right, backward is right."""

import difflib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..gradcheck.judge import check
from ..gradcheck.numeric import away_from_zero
from ..gradcheck.report import GradientReport
from ..gradcheck.smallest import code, search, shrink
from .answers import Answer, copied, difference, explain, gathered, short
from .assignment import Arguments, Case, Convention, Disagrees, Item
from .results import ItemResult, Part
from .sandbox import Handle, Sandbox, SubmissionError
from .submitted import Submitted, SubmittedProblem

TRIES = 100  # of the search for each smallest failing input
EXACT = 1e-12  # relative error of a gradient computed in closed form, at the most; by finite differences it is larger


class ItemGrader:
    """The grading of one item of one submission."""

    def __init__(self, box: Sandbox, item: Item, tolerance: float, seed: int):
        self.box, self.item, self.tolerance, self.seed = box, item, tolerance, seed
        self.functions = Submitted(box, item)
        self.parts = [Part(name, 0.0, item.possible(k)) for k, name in enumerate(("present", "forward", "backward"))]
        self.result = ItemResult(item.name, self.parts, item.visibility)
        self.answers: dict[tuple, Answer] = {}
        self.drawn = [case.draw(self.rng(k)) for k, case in enumerate(item.cases)]

    def rng(self, number: int) -> np.random.Generator:
        """For the inputs of a case: the seed's, the item's and the case's own, whatever else is graded."""
        return np.random.default_rng([self.seed, zlib.crc32(self.item.name.encode()), number])

    def grade(self) -> ItemResult:
        usable = self.present()
        if self.functions.forward_name in usable:
            convention = self.forward()
            if not self.functions.backward_name or self.functions.backward_name in usable:
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
                self.answers[key] = self.functions.forward(arguments, self.item.cases[number].strided)
        return self.answers[key]

    def fault(self, case: Case, answer: Answer, convention: Convention) -> str:
        """What is wrong with an answer under a convention, or nothing."""
        if answer.error is not None:
            return explain(self.functions.forward_name, answer.error)
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
            answer = self.functions.forward(arguments, case.strided)
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
        return f"{self.functions.forward_name}({', '.join(f'{n}={code(a)}' for n, a in arguments.items())})"

    # -- backward -----------------------------------------------------------------------------------------------------

    def backward(self, convention: Convention) -> None:
        """Score each gradient: right for the true function or, where forward is wrong, for the submission's own."""
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
        """The gradients in one case, against the reference's and the submission's own forward pass.

        Finite differences of the latter are taken where the reference disagrees, or `always`. They count only if
        forward is wrong here, gives as many numbers, and moves at all.
        """
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
            tried.errors.append(explain(self.functions.backward_name or self.functions.forward_name, error))
        if always or not all(tried.correct.values()):
            tried.problem = SubmittedProblem(self.functions, answer.arguments)
            try:
                tried.report = check(tried.problem, tolerance=self.tolerance, seed=self.seed)
            except SubmissionError as error:
                said = explain(self.functions.backward_name or self.functions.forward_name, error)
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
            return self.functions.named(answer.gradients), reference()
        dout = away_from_zero(rng, answer.out.shape)
        if not self.alive(answer):
            renewed = self.functions.forward(answer.arguments)
            if renewed.error is not None:
                raise renewed.error
            answer.cache = renewed.cache
        return self.functions.named(self.functions.backward(dout, answer)), reference(dout)

    def alive(self, answer: Answer) -> bool:
        """Whether the answer's cache is still there: the process that held it may have been ended since."""
        return not isinstance(answer.cache, Handle) or self.box.holds(answer.cache)

    def mistakes(self, tried: "Tried", convention: Convention) -> list[str]:
        """The likely causes, and the smallest failing input."""
        lines = []
        for tensor in tried.report.tensors:
            if not tensor.passed:
                self.result.causes += [
                    cause.name for cause in tensor.causes[:1] if cause.name not in self.result.causes
                ]
                lines += [f"the gradient of {tensor.name}: {line}" for line in tensor.explanations(2)]

        def build(arguments: Arguments) -> SubmittedProblem:
            output = np.ones(np.shape(arguments[self.item.gradients[0]]))
            convention.reference(output, **copied(arguments))  # raises where the arguments are not legal
            return SubmittedProblem(self.functions, arguments)

        found = search(build, tried.problem.arguments, self.shown_call, tried.report, TRIES)
        if found is not None:
            lines.append(f"smallest failing input: {found.snippet}")
            for tensor in found.report.tensors:
                if tensor.failures and self.item.shows:
                    at = f" at {tensor.index}" if tensor.index else ""
                    wrong = f"the gradient of {tensor.name}{at} is {tensor.analytic:.6g}"
                    lines.append(f"  {wrong}, it should be {tensor.numeric:.6g}")
        return lines

    def finite_differences(self, tried: "Tried", convention: Convention) -> None:
        """Flag a backward pass that differentiates numerically.

        One that runs the forward function itself for every element earns nothing; one that is only as exact as
        differences are is for an instructor to look at.
        """
        problem = tried.problem
        if problem is None or not problem.gradients or not self.parts[2].points:
            return
        tensors = [problem.tensors[n] for n in self.item.gradients]
        elements = max(6, min(a.size for a in [t for t in tensors if t.ndim > 1] or tensors))
        inside = problem.called.get(self.functions.forward_name, 0)
        if self.functions.backward_name and inside >= elements:
            self.parts[2].points = 0.0
            backward, forward = self.functions.backward_name, self.functions.forward_name
            line = f"{backward} differentiates numerically: it ran {forward} {inside} times"
            self.parts[2].lines.append(f"{line}. The gradient is wanted in closed form")
            flag = f"finite differences inside backward: {forward} ran {inside} times in one call"
            self.result.flags.append(flag)
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
    """The gradients of one case, by name.

    `correct` for the true function (None: it could not be told), `consistent` with the submission's own, and `good`,
    whether they count as right.
    """

    number: int
    forward_right: bool = False
    correct: dict[str, bool | None] = field(default_factory=dict)
    consistent: dict[str, bool] = field(default_factory=dict)
    good: dict[str, bool] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    problem: "SubmittedProblem | None" = None
    report: GradientReport | None = None


def moves(report: GradientReport, name: str) -> bool:
    """Whether the function depends on this tensor: the gradient of one that gives zeros is right too."""
    tensor = next(t for t in report.tensors if t.name == name)
    return tensor.measured is not None and bool((np.abs(tensor.measured) > tensor.estimate).any())


NOTICED = (
    "inputs, dout and cache unmodified by backward", "backward twice agrees", "inputs unmodified by forward",
    "forward deterministic", "zero dout gives zero gradients", "linear in dout",
)  # fmt: skip
