"""A gradient against finite differences, element by element."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .diagnosis import Evidence, diagnose
from .measure import DIRECTIONS, Measure
from .numeric import away_from_zero
from .problems import Problem
from .properties import check_backward, check_forward, check_kinds, copied
from .report import KINK, GradientReport, TensorCheck

COTANGENTS = 3
SHARE, LEAST = 512, 16  # mode="sampled": elements shared among the tensors by size, and each tensor's least
EXPLAINED = 4096  # elements of a gradient of the wrong shape whose right values are measured for the diagnosis


def check(
    problem: Problem, mode: str = "full", samples: int | None = None, tolerance: float = 1e-6, seed: int = 0
) -> GradientReport:
    """The report on a problem, as `check_gradients` describes it."""
    rng = np.random.default_rng(seed)
    first = problem.forward()
    douts = np.ones((1,)) if problem.scalar else away_from_zero(rng, (COTANGENTS, *first.shape))  # every output counts
    properties = check_forward(problem, first)
    gradients = [copied(problem.backward(dout.copy())) for dout in douts]
    with np.errstate(all="ignore"):  # 0 · ∞, for a dout of 0
        properties += check_backward(problem, douts, gradients)
    properties += check_kinds(problem, gradients[0])
    report = GradientReport(problem.subject, tolerance, seed, mode, properties=tuple(properties))
    report.skipped = problem.frozen
    if not all(p.passed for p in properties if p.name in ("forward deterministic", "inputs unmodified by forward")):
        steady = "forward can't be differentiated"
        report.tensors = tuple(TensorCheck(n, a.shape, a.size, problem=steady) for n, a in problem.tensors.items())
        return report
    with np.errstate(all="ignore"):  # what is infinite or NaN has a verdict
        measure = Measure(problem, first, douts, tolerance, rng)
        report.tensors = tuple(_tensors(report, problem, gradients, measure, samples))
        if not report.passed:
            _explain(report, problem, first, douts, measure)
    return report


def _tensors(
    report: GradientReport, problem: Problem, gradients: list[dict], measure: Measure, samples: int | None
) -> Iterator[TensorCheck]:
    """The verdicts on each tensor's gradients."""
    total = sum(array.size for array in problem.tensors.values())
    for name, array in problem.tensors.items():
        given = [g[name] for g in gradients]
        if all(map(_is_none, given)):
            yield TensorCheck(name, array.shape, array.size)  # an input without a gradient: a target, a mask
            continue
        trouble = _trouble(array, given)
        if trouble:
            yield TensorCheck(name, array.shape, array.size, problem=trouble, given=_stack(given))
            continue
        analytic = np.array(given, np.float64)
        if report.mode == "directional":
            bad = measure.directions(array, analytic)
            if not bad:
                yield TensorCheck(name, array.shape, array.size, directions=DIRECTIONS, given=analytic)
                continue
        elements = np.arange(array.size)
        if report.mode == "sampled":
            share = samples or max(LEAST, SHARE * array.size // max(total, 1))
            elements = _sample(measure.rng, array.size, share)
        yield measure.tensor(name, array, analytic, elements)


def _trouble(array: np.ndarray, given: list[np.ndarray]) -> str:
    """Why the gradient can't be compared at all, or nothing."""
    for g in given:
        if _is_none(g):
            return "backward gave None"
        if g.shape != array.shape:
            return f"the gradient has shape {g.shape}"
        if g.dtype.kind not in "fiub":
            return f"the gradient has dtype {g.dtype}"
    return ""


def _is_none(gradient: np.ndarray) -> bool:
    return gradient.dtype == object and gradient.ndim == 0 and gradient.item() is None


def _stack(given: list[np.ndarray]) -> np.ndarray | None:
    """All cotangents' gradients as one float64 array, if they can be."""
    if all(g.dtype.kind in "fiub" and g.shape == given[0].shape for g in given):
        return np.array(given, np.float64)
    return None


def _sample(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Which elements: random ones, the first and the last always among them, since mistakes like the ends."""
    if count >= size:
        return np.arange(size)
    ends = np.unique([0, size - 1])[:count]
    rest = rng.choice(np.arange(1, size - 1), count - len(ends), replace=False) if count > len(ends) else []
    return np.sort(np.concatenate([ends, rest]).astype(np.intp))


def _explain(report: GradientReport, problem: Problem, first: np.ndarray, douts: np.ndarray, measure: Measure) -> None:
    """Fill in the likely causes of every tensor that failed."""
    numeric, allowed = {}, {}
    for tensor, array in zip(report.tensors, problem.tensors.values(), strict=True):
        if (
            tensor.problem and array.size <= EXPLAINED
        ):  # of the wrong shape, say: its right values are wanted all the same
            tensor = measure.tensor(tensor.name, array, np.zeros((len(douts), *array.shape)), np.arange(array.size))
        unknown = np.full((len(douts), *array.shape), np.nan)
        if tensor.measured is None:
            numeric[tensor.name] = allowed[tensor.name] = unknown
        else:
            numeric[tensor.name] = np.where(tensor.verdicts == KINK, np.nan, tensor.measured)
            allowed[tensor.name] = tensor.estimate + report.tolerance * np.abs(tensor.measured)
    given = {t.name: t.given for t in report.tensors if t.given is not None}
    explained = []
    for tensor in report.tensors:
        if not tensor.passed and tensor.name in given:
            with np.errstate(all="ignore"):
                causes = diagnose(
                    Evidence(tensor.name, problem.tensors, problem.others, first, douts, given, numeric, allowed)
                )
            tensor = replace(tensor, causes=tuple(causes))
        explained.append(tensor)
    report.tensors = tuple(explained)
