"""`check_gradients`: what it takes, which paths of it are checked, and the smallest case that fails."""

from ..arguments import flag, instance, number, shown, whole
from ..losses import Loss
from .judge import check
from .paths import check_network, is_opened
from .problems import Problem, problem_of
from .report import GradientReport
from .smallest import smallest_failure


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

    >>> import numpy as np
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
        report.smallest = smallest_failure(thing, inputs, loss, training, report)
    return report
