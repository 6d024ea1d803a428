"""A gradient against finite differences, element by element."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..arguments import flag, instance, number, shown, whole
from ..losses import Loss
from .diagnosis import Evidence, diagnose
from .measure import DIRECTIONS, Measure
from .numeric import away_from_zero
from .paths import check_network, is_opened
from .problems import Problem, problem_of
from .properties import check_backward, check_forward, check_kinds, copied
from .report import KINK, GradientReport, TensorCheck

COTANGENTS = 3
SHARE, LEAST = 512, 16  # mode="sampled": elements shared among the tensors by size, and each tensor's least
EXPLAINED = 4096  # elements of a gradient of the wrong shape whose right values are measured for the diagnosis


def check_gradients(
    thing,
    *inputs,
    loss: Loss | None = None,
    training: bool = True,
    mode: str = "full",
    samples: int | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    smallest: bool = True,
) -> GradientReport:
    """Compare every gradient that `thing` computes with finite differences in float64.

    - a layer or a network, `check_gradients(layer, x)`: what is differentiated is Σ y · dout, for three random
      cotangents dout
    - a loss, `check_gradients(loss, scores, targets)`
    - a network with a loss, `check_gradients(network, x, targets, loss=loss)`. Of a network, and of a container of
      layers, the engine's path is checked: fused ops, parts and threads as training uses them, an SGD step too. The
      layers one by one are compared with it; where they differ, the report says which of the two is wrong and names the
      op.
    - a pair of plain functions, `check_gradients((forward, backward), x, w, …)`, with `out, cache = forward(x, w, …)`
      and `dx, dw, … = backward(dout, cache)`, one gradient for each floating-point array, in order; None for one
      without
    - one function that gives a loss and its gradient, `check_gradients(svm_loss, x, y)`, with `loss, dx = svm_loss(x,
      y)`
    - an operation of the graph, a subclass of `fastbp.graph.Op`, `check_gradients(MatMul, a, b)`; a dictionary as the
      last input holds the options of its forward: `check_gradients(Sum, x, {"axis": 0})`

    Layers, networks and losses are copied and the copy is converted to float64; the copy's state is put back before
    each evaluation, so that dropout keeps its mask. `training` is the mode of their forward pass. Functions get float64
    copies of floating-point arrays and everything else as it is (labels, option dictionaries: a copy for each call);
    NumPy's global generator is put back before each call.

    Every element gets a verdict, and the report counts them:

    - `ok`: |analytic − numeric| ≤ tolerance · max(|analytic|, |numeric|) + the estimate of the numeric derivative's own
      error
    - `mismatch`: more than that
    - `kink`: the slopes on the two sides differ and stay different for smaller steps; any value between them is right
    - `below noise`: they agree, but the gradient is so small that rounding hides its digits
    - `not finite`: the gradient, or the function there, is infinite or NaN

    The numeric derivative is Richardson's extrapolation of two central differences, at steps from 2⁻⁹ to 2⁻³³ of the
    element's scale, the first that settles it; its error is estimated from truncation, kinks and the measured rounding
    of the function. A pair that takes complex arrays is differentiated by the complex step where that agrees and is
    more exact.

    `mode`: "full" checks every element; "sampled" some of each tensor, 512 in all by size but at least 16 of each, or
    `samples` of each; "directional" the derivative along eight random directions of each tensor, and every element of a
    tensor that fails. Mismatch or not finite anywhere, or a property that does not hold (`report.properties`), fails
    the report. On a failure `report.tensors[…].causes` names the likely mistakes and `report.smallest` is a small case
    that fails in the same way, searched for unless `smallest=False`.

    TypeError and ValueError for a thing that can't be checked, inputs that it does not take (masked arrays, np.matrix
    and complex numbers among them), and functions that don't return what they should.

    >>> from fastbp import Linear, check_gradients
    >>> check_gradients(Linear(3, 2), np.random.default_rng(0).normal(size=(4, 3))).passed
    True
    """
    tolerance = number("check_gradients: tolerance", tolerance, above=0)
    if not isinstance(mode, str) or mode not in ("full", "sampled", "directional"):
        kind = ValueError if isinstance(mode, str) else TypeError
        raise kind(f'check_gradients: mode is "full", "sampled" or "directional", got {shown(mode)}')
    if samples is not None:
        samples = whole("check_gradients: samples", samples)
        if mode == "directional":
            raise ValueError(
                f'check_gradients: samples are of elements, and mode "directional" has none, got {samples}'
            )
    seed, smallest = whole("check_gradients: seed", seed, 0), flag("check_gradients: smallest", smallest)
    if loss is not None:
        instance("check_gradients: loss", loss, Loss)
    training, mode = flag("check_gradients: training", training), "sampled" if samples is not None else mode
    try:
        problem = problem_of(thing, inputs, loss, training)

        def judged(problem: Problem) -> GradientReport:
            return check(problem, mode, samples, tolerance, seed)

        if is_opened(thing):
            report = check_network(judged, thing, inputs, loss, training, seed)
        else:
            report = judged(problem)
    except MemoryError as error:
        raise MemoryError("check_gradients: the inputs are too large for the memory that there is") from error
    if smallest and not report.passed:
        from .smallest import smallest_failure

        report.smallest = smallest_failure(thing, inputs, loss, training, report)
    return report


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
