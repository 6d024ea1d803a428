"""Central differences against a backward pass, element by element."""

import copy
from collections.abc import Callable

import numpy as np

from ..layers.base import Layer
from ..losses import Loss
from ..network import Sequential
from .report import GradientReport, TensorCheck

STEPS = (1e-4, 1e-5, 1e-6, 1e-7)
# -- relative to max(1, |element|). The largest has the least rounding error; a smaller one is tried where it disagrees,
#    since curvature (error ~ step²) and a kink within the step's reach fade with it. A wrong gradient disagrees at all.
ROUNDING = 64 * np.finfo(np.float64).eps
# -- allowed for each output that moved, and for one more, relative to its size: functions round in more than their last step


def check_gradients(
    thing,
    *inputs: np.ndarray,
    loss: Loss | None = None,
    training: bool = True,
    samples: int | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> GradientReport:
    """Compare every gradient that `thing` computes with central differences in float64.

    - a layer or a network, `check_gradients(layer, x)`: the scalar differentiated is Σ y · dout with a random dout
    - a loss, `check_gradients(loss, scores, targets)`
    - a network with a loss, `check_gradients(network, x, targets, loss=loss)`
    - a pair of plain functions, `check_gradients((forward, backward), x, w, …)`, with `out, cache = forward(x, w, …)`
      and `dx, dw, … = backward(dout, cache)`, one gradient for each floating-point input, in order

    Layers, networks and losses are copied and the copy is converted to float64; the copy's state is put back before each
    evaluation, so that dropout keeps its mask. `training` is the mode of the forward pass. Inputs of
    an integer kind are passed on as they are; the others are converted to float64.

    An element passes if |analytic − numeric| ≤ tolerance · max(|analytic|, |numeric|) + rounding at one of the steps
    10⁻⁴ … 10⁻⁷, where rounding bounds what float64 arithmetic can have done to the difference, or if it lies on a kink and the
    analytic value is between the two one-sided slopes (the report counts these). `samples` limits the check to so
    many random elements of each tensor (all, if None).

    >>> from fastbp import Linear, check_gradients
    >>> check_gradients(Linear(3, 2), np.random.default_rng(0).normal(size=(4, 3))).passed
    True
    """
    if not tolerance > 0:
        raise ValueError(f"check_gradients: tolerance must be positive, got {tolerance}")
    rng = np.random.default_rng(seed)
    inputs = tuple(_as_input(x) for x in inputs)
    if not inputs:
        raise TypeError("check_gradients: give the inputs to check at, e.g. check_gradients(layer, x)")
    if isinstance(thing, Loss):
        if len(inputs) != 2:
            raise TypeError("check_gradients: a loss takes scores and targets, check_gradients(loss, scores, targets)")
        subject, problem = repr(thing), _loss_problem(copy.deepcopy(thing), *inputs)
    elif isinstance(thing, (Layer, Sequential)):
        if len(inputs) != (1 if loss is None else 2):
            raise TypeError("check_gradients: a layer or network takes x; with loss=… it takes x and targets")
        subject = repr(thing) if isinstance(thing, Layer) else f"Sequential of {len(thing.layers)} layers"
        subject += f" with {loss!r}" if loss is not None else ""
        problem = _layer_problem(_float64_copy(thing), inputs, copy.deepcopy(loss), training, rng)
    elif isinstance(thing, (tuple, list)) and len(thing) == 2 and all(map(callable, thing)):
        subject, problem = getattr(thing[1], "__name__", "backward"), _functions_problem(*thing, inputs, rng)
    else:
        raise TypeError(f"check_gradients: expected a layer, a network, a loss or a pair of functions, got {thing!r}")
    function, cotangent, tensors = problem
    checks = tuple(
        _check_tensor(name, array, gradient, function, cotangent, samples, tolerance, rng) for name, array, gradient in tensors
    )
    return GradientReport(subject, tolerance, seed, checks)


def _as_input(x) -> np.ndarray:
    x = np.array(x)
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers of either sign, none near zero: every output counts."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def _float64_copy(thing):
    thing = copy.deepcopy(thing)
    return thing.astype(np.float64)


# -- Each problem is (function of no arguments giving the outputs, cotangent, [(name, array to perturb, its gradient)]) -----


def _loss_problem(loss: Loss, scores: np.ndarray, targets: np.ndarray):
    loss.forward(scores, targets)
    gradient = loss.backward().copy()
    return lambda: np.array(loss.forward(scores, targets)), np.ones(()), [("scores", scores, gradient)]


def _layer_problem(thing, inputs, loss, training, rng):
    layers = thing.layers if isinstance(thing, Sequential) else (thing,)
    state = [{name: array.copy() for name, array in layer.state.items()} for layer in layers]
    x = inputs[0]

    def outputs() -> np.ndarray:
        for layer, saved in zip(layers, state, strict=True):
            for name, array in saved.items():
                layer.state[name][...] = array
        y = thing.forward(x, training=training)
        return y if loss is None else np.array(loss.forward(y, inputs[1]))

    y = outputs()
    cotangent = _cotangent(rng, y.shape) if loss is None else np.ones(())
    dx = thing.backward(cotangent if loss is None else loss.backward()).copy()
    if isinstance(thing, Sequential):
        kinds = [type(layer).__name__ for layer in thing.layers]
        parameters = [(f"{name} ({kinds[int(name.split('.')[0])]})", p) for name, p in thing.named_parameters.items()]
    else:
        parameters = [(p.name, p) for p in thing.parameters]
    return outputs, cotangent, [("x", x, dx), *((name, p.value, p.grad.copy()) for name, p in parameters)]


def _functions_problem(forward: Callable, backward: Callable, inputs, rng):
    def outputs() -> np.ndarray:
        return np.array(forward(*inputs)[0], np.float64)

    out, cache = forward(*inputs)
    cotangent = _cotangent(rng, np.shape(out))
    gradients = backward(cotangent.copy(), cache)
    gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    floating = [(f"input {i}", x) for i, x in enumerate(inputs) if x.dtype.kind == "f"]
    if len(gradients) != len(floating):
        raise ValueError(f"backward returned {len(gradients)} gradients for {len(floating)} floating-point inputs")
    return outputs, cotangent, [(name, x, np.array(g)) for (name, x), g in zip(floating, gradients, strict=True)]


def _check_tensor(name, array, gradient, function, cotangent, samples, tolerance, rng) -> TensorCheck:
    if gradient.shape != array.shape:
        return TensorCheck(name, array.shape, array.size, problem=f"the gradient has shape {gradient.shape}")
    if gradient.dtype.kind not in "fiub":
        return TensorCheck(name, array.shape, array.size, problem=f"the gradient has dtype {gradient.dtype}")
    elements = np.arange(array.size)
    if samples is not None and samples < array.size:
        elements = np.sort(rng.choice(array.size, samples, replace=False))
    worst, kinks, failures = (-1.0, 0, np.nan, np.nan), 0, 0
    centre = function()
    for element in elements:
        analytic = float(gradient.flat[element])
        numeric, error, at_kink = _compare(array, element, analytic, function, centre, cotangent, tolerance)
        kinks += at_kink
        failures += not error <= tolerance
        if not error <= worst[0]:
            worst = (error, element, analytic, numeric)
    error, element, analytic, numeric = worst
    index = tuple(int(i) for i in np.unravel_index(element, array.shape)) if len(elements) else ()
    return TensorCheck(name, array.shape, array.size, len(elements), kinks, failures, index, analytic, numeric, max(error, 0.0))


def _compare(array, element, analytic, function, centre, cotangent, tolerance) -> tuple[float, float, bool]:
    """(numeric, error, lies on a kink) of one element."""
    tried = []
    for relative_step in STEPS:
        before = array.flat[element]
        step = relative_step * max(1.0, abs(before))
        try:
            array.flat[element] = before + step
            up, above = function(), array.flat[element] - before
            array.flat[element] = before - step
            down, below = function(), before - array.flat[element]
        finally:
            array.flat[element] = before
        numeric = float(np.sum((up - down) * cotangent) / (above + below))
        sizes = np.abs(cotangent) * (np.abs(up) + np.abs(down))
        rounding = float(ROUNDING * (np.sum(sizes[up != down]) + np.max(sizes, initial=0.0)) / (above + below))
        scale = max(abs(analytic), abs(numeric)) + rounding / tolerance
        error = abs(analytic - numeric) / scale if scale > 0 else abs(analytic - numeric)
        tried.append((numeric, error))
        if error <= tolerance:
            return numeric, error, False
    slopes = float(np.sum((up - centre) * cotangent) / above), float(np.sum((centre - down) * cotangent) / below)
    low, high = min(slopes), max(slopes)
    slack = rounding + tolerance * max(abs(low), abs(high))
    if high - low > 1e3 * slack and low - slack <= analytic <= high + slack:
        return numeric, 0.0, True
    # a mismatch: report the numeric value that the step before it confirms best
    steadiest = min(range(1, len(tried)), key=lambda k: abs(tried[k][0] - tried[k - 1][0]))
    return *tried[steadiest], False
