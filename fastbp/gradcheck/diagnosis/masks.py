"""Causes in layers that pass or stop each element: ReLU, dropout, and other functions element by element."""

from collections.abc import Iterator

import numpy as np

from .evidence import Cause, Evidence, number
from .general import options
from .layer_formulas import derivative, mask_scale


def mask_slips(e: Evidence) -> Iterator[Cause]:
    """y = x · mask · s: the mask missing, inverted or taken from the wrong array; s missing, inverted or twice."""
    d = derivative(e)
    scale = mask_scale(d) if d is not None else None
    if scale is None or not e.same_shape:
        return
    scales = [("", scale)] if abs(scale - 1) < 1e-6 else [("", scale), (", and not scaled", 1.0)]
    mask, dout, x, y = d != 0, e.douts, e.tensor, np.asarray(e.output)
    if len(scales) > 1 and mask.any() and (found := list(_scale(e, mask, scale))):
        yield from found
        return
    stops = "nothing comes back where the forward pass stopped the element"
    compare = "compare the mask with the forward pass: it is 1 where the element passed"
    not_dout = "the mask belongs to the layer's input; the sign of dout has no meaning here"
    keep = "keep the forward pass's mask in the cache"
    everywhere = ("mask-missing", np.ones(mask.shape), "the mask is missing: dout passes everywhere", stops)
    masks = [] if mask.all() else [everywhere]
    masks += [
        ("mask-inverted", ~mask, "the mask is inverted: dout passes exactly where it should be stopped", compare),
        ("mask-from-dout", dout > 0, "the mask is taken from dout: dout passes where dout > 0", not_dout),
        ("mask-from-dout", dout < 0, "the mask is taken from dout: dout passes where dout < 0", not_dout),
        ("mask-from-output", y > 0, "the mask is taken from the output: dout passes where the output is > 0", keep),
        ("mask-from-input", x > 0, "the mask is taken from the input: dout passes where x > 0", keep),
        ("mask-inverted", x < 0, "the mask is inverted: dout passes where x < 0", compare),
    ]
    for how, s in scales:
        for name, other, message, hint in masks:
            if not np.array_equal(other, mask) and e.explains(dout * other * s):
                yield Cause(name, message + how, hint)
                return
    for how, s in scales:
        with np.errstate(all="ignore"):
            passed = np.all(e.given != 0, axis=0)
        if not e.explains(dout * passed * s) or passed.all() or np.array_equal(passed, mask):
            continue
        for inside, sign in ((x[passed], ">"), (-x[passed], "<")):
            outside = x[~passed] if sign == ">" else -x[~passed]
            if inside.size and outside.size and inside.min() > outside.max():
                way = 1 if sign == ">" else -1
                low, high = sorted((inside.min() * way, outside.max() * way))
                threshold = f"x {sign} t with t between {number(low)} and {number(high)}"
                yield Cause(
                    "mask-threshold",
                    f"the mask has another threshold: {threshold}{how}",
                    "the same comparison as in the forward pass",
                )
                return
        stopped = int(np.sum(mask & ~passed))
        also = int(np.sum(~mask & passed))
        message = f"another mask: {stopped} elements are stopped that passed, {also} pass that were stopped{how}"
        yield Cause(
            "mask-other",
            message,
            "is it the mask that the forward pass used, not a new one, and with its axes in the same order?",
        )
        return


def stopped_value(e: Evidence) -> Iterator[Cause]:
    """Where the mask stops an element the gradient is a number other than 0."""
    d = derivative(e)
    if d is None or not np.any(d == 0) or not e.same_shape:
        return
    values = np.unique(e.given[:, d == 0])
    if len(values) == 1 and values[0] != 0 and e.explains(np.where(d == 0, values[0], e.douts * d)):
        yield Cause(
            "mask-value",
            f"where the element was stopped the gradient is {number(values[0])}, not 0",
            "what the forward pass stops gets the gradient 0",
        )


def wrong_derivative(e: Evidence) -> Iterator[Cause]:
    """dout times something else than the derivative."""
    d = derivative(e)
    if d is None or not e.same_shape:
        return
    with np.errstate(all="ignore"):
        used = np.median(e.given / e.douts, axis=0)
    if np.all(np.isfinite(used)) and e.explains(e.douts * used):
        at = np.unravel_index(np.argmax(np.abs(used - d)), d.shape)
        example = f"at x = {number(e.tensor[at])} it is {number(used[at])}, not {number(d[at])}"
        message = f"the gradient is dout times another function of x than the derivative: {example}"
        yield Cause("wrong-derivative", message, "differentiate the layer's function once more")


def _scale(e: Evidence, mask: np.ndarray, scale: float) -> Iterator[Cause]:
    masked = e.douts * mask
    named = [name for name, value in options(e).items() if abs(value * scale - 1) < 1e-6]
    named += [f"(1 − {name})" for name, value in options(e).items() if abs((1 - value) * scale - 1) < 1e-6]
    factor = f"1/{named[0]} = {number(scale)}" if named else number(scale)
    if e.explains(masked):
        yield Cause(
            "scale-missing",
            f"the mask is right, the factor {factor} of the forward pass is missing",
            "scale the gradient as the output was scaled",
        )
    elif e.explains(masked / scale):
        yield Cause(
            "scale-inverted",
            f"the mask is right, the factor is {number(1 / scale)}, not {factor}",
            "divide where the forward pass divides",
        )
    elif e.explains(masked * scale**2, scale):
        yield Cause(
            "scale-twice",
            f"the factor {factor} is applied twice",
            "if the mask in the cache is scaled already, do not scale again",
        )
    elif scale != 2 and e.explains(masked * scale / (scale - 1), 1 / (scale - 1)):
        message = f"scaled by {number(scale / (scale - 1))}, not by {factor}: p and 1 − p are exchanged"
        yield Cause("scale-inverted", message, "is p the probability to keep or to drop?")


def slopes_exchanged(e: Evidence) -> Iterator[Cause]:
    """Leaky ReLU: two slopes, at the wrong sides."""
    d = derivative(e)
    if d is None or not e.same_shape:
        return
    values = np.unique(np.round(d[d != 0], 6))
    if len(values) == 2 and np.all(d != 0):
        exchanged = np.where(np.isclose(d, values[0], atol=1e-5), values[1], values[0])
        if e.explains(e.douts * exchanged, 10.0):
            yield Cause("mask-inverted", "the two slopes are exchanged", "compare the condition with the forward pass")
        for value in values:
            if e.explains(e.douts * value, 10.0):
                yield Cause(
                    "mask-missing", f"the slope is {number(value)} everywhere", "the slope depends on the sign of x"
                )


def dout_added(e: Evidence) -> Iterator[Cause]:
    """y = f(x) element by element: dout added to the derivative, or dout twice."""
    d = derivative(e)
    if d is None or not e.same_shape:
        return
    for combined, text in (
        (e.douts + d, "dout + derivative"),
        (d - e.douts, "derivative − dout"),
        (e.douts - d, "dout − derivative"),
    ):
        if e.explains(combined):
            message = f"dout is added to the derivative, not multiplied by it: the gradient is {text}"
            yield Cause("dout-added", message, "the chain rule multiplies: dout · derivative")
    if e.explains(e.douts**2 * d, e.douts) or e.explains(e.douts**2):
        yield Cause("dout-twice", "the gradient is multiplied by dout twice", "dout is a factor once")


def divided(e: Evidence) -> Iterator[Cause]:
    """y = f(x) element by element: dout divided by the derivative, or the derivative by dout."""
    d = derivative(e)
    if d is None or not e.same_shape:
        return
    with np.errstate(all="ignore"):
        if not np.all(np.abs(d) == 1) and (e.explains(e.douts / d) or e.explains(d / e.douts)):
            yield Cause(
                "divided",
                "the gradient is divided where it should be multiplied: dout / derivative or its inverse",
                "the chain rule multiplies: dout · derivative",
            )
