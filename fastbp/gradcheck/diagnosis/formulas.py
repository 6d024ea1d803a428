"""Layers and losses whose gradient is a short formula.

If a formula gives the numeric gradient, then the layer is known, and each wrong formula one slip away is tried.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .evidence import Cause, Evidence, close
from .formula import Formula, fit
from .general import option_arrays
from .layer_formulas import affine, elementwise, normalisation
from .loss_formulas import losses
from .slips import Slip, slips

LARGEST = 20_000  # elements of the output; with more, hundreds of formulas take too long


@lru_cache(maxsize=8)
def recognised(e: Evidence) -> tuple[Formula, ...]:
    """The formulas that give the numeric gradient."""
    found = []
    with np.errstate(all="ignore"):
        for candidates in (affine, elementwise, normalisation, losses):
            for formula in candidates(e):
                value = fit(formula.value(e.douts), e.right.shape)
                if value is not None and e.corrects(value):
                    found.append(replace(formula, gradients=_other_gradients(e)))
    return tuple(found)


def _other_gradients(e: Evidence) -> dict[str, np.ndarray]:
    """What backward gave for the other tensors, which may stand where something else belongs."""
    others = {name: np.asarray(g) for name, g in e.gradients.items() if name != e.name and name.isidentifier()}
    given = {f"d{n}": g for n, g in others.items() if len(g) == len(e.douts) and g.dtype.kind == "f"}
    if e.output.ndim == 2:  # a formula has x as a matrix, one row for each sample
        given |= {name: g.reshape(*g.shape[:2], -1) for name, g in given.items() if g.ndim > 3}
    return given


def not_a_gradient(e: Evidence) -> Iterator[Cause]:
    """An input, an output or a value of the computation stands where its gradient belongs."""
    fixed = [*e.tensors.items(), ("the output", e.output), *option_arrays(e).items()]
    fixed += [pair for formula in recognised(e) for pair in formula.names.items() if not isinstance(pair[1], Callable)]
    known = [("dout", e.douts)] + [
        (name, np.broadcast_to(array, (len(e.douts), *np.shape(array)))) for name, array in fixed
    ]
    known += [pair for formula in recognised(e) for pair in formula.values(e.douts).items()]
    for name, array in known:
        if array.shape == e.given.shape and array.size > len(e.douts) and e.explains(array):
            hint = (
                f"the gradient of a value is another array: which formula gives d{e.name}, and is it what is returned?"
            )
            yield Cause(
                "not-a-gradient", f"{name} itself stands where the gradient with respect to {e.name} belongs", hint
            )
            return


def one_slip(e: Evidence) -> Iterator[Cause]:
    """The formulas one slip away that give what backward gave, the shortest first."""
    found = []
    if np.size(e.output) > LARGEST:
        return
    with np.errstate(all="ignore"):
        for formula in recognised(e):
            fixed = {name: value for name, value in formula.names.items() if not isinstance(value, Callable)}
            cached = tuple(name for name, value in fixed.items() if np.size(value) > 1)
            names = [*fixed, *formula.gradients, *re.findall(r"^(?!result)\w+(?= =)", formula.source, re.MULTILINE)]
            for slip in slips(formula.source, tuple(dict.fromkeys(names if e.is_loss else [*names, "dout"])), cached):
                if not _may_explain(e, formula.value(e.douts[:1], slip.code)):
                    continue
                value = formula.value(e.douts, slip.code)
                if e.explains(fit(value, e.right.shape)) or (
                    not e.same_shape and e.explains_in_shape(fit(value, e.given.shape))
                ):
                    found.append((formula, slip))
                    break
    for _, slip in sorted(found, key=lambda pair: pair[1].cost)[:2]:
        yield _cause(slip)


def _may_explain(e: Evidence, first: np.ndarray | None) -> bool:
    """Do the numbers for the first cotangent agree? Most formulas are refused here, which is cheap."""
    if first is None or first.size != e.given[0].size:
        return False
    allowed = e.allowed[e.name][0] if e.same_shape else np.nanmax(e.allowed[e.name])
    agree = close(first.reshape(e.given.shape[1:]), e.given[0], allowed)
    return bool(np.all(agree | ~e.measured[0])) if e.same_shape else bool(np.all(agree))


OF_MEAN = "the mean depends on every x of its group: its gradient has to be added"
OF_VARIANCE = "the variance depends on every x of its group: its gradient has to be added"
DROPPED = {
    "onehot": ("one-hot-missing", "subtract 1 at the right class of each sample"),
    "sum(mask) * onehot": (
        "correct-class-missing", "the right class is in every margin: subtract the number of violated ones",
    ),
    "mask": ("mask-missing", "where the forward pass sets outputs to zero nothing comes back"),
    "x > 0": ("mask-missing", "where the forward pass sets outputs to zero nothing comes back"),
    "xhat": ("not-normalised", "gamma is multiplied by the normalised x"),
    "gamma": ("gamma-missing", "the chain rule through gamma · xhat + beta: multiply by gamma"),
    "eps": ("eps-missing", "use the same root √(var + eps) as the forward pass"),
    "max(x)": ("not-shifted", "exp overflows beyond 709: subtract the largest score of each sample before exp"),
    "-y": ("label-missing", "the derivative of −y·x with respect to x is −y"),
    "y": ("label-missing", "the label is a factor of the score, so it is one of the gradient"),
    "p - 1": ("overwritten", "at the right class a number is assigned: subtract 1 from what stands there"),
    "1 - onehot": ("own-margin-counted", "the right class has no margin of its own: leave it out"),
    "std": ("std-missing", "the normalised x is divided by the standard deviation, so is its gradient"),
    "dmu / N": ("mean-term-missing", OF_MEAN),
    "mean(dxhat)": ("mean-term-missing", OF_MEAN),
    "dvar * 2 * (x - mu) / N": ("variance-term-missing", OF_VARIANCE),
    "xhat * mean(dxhat * xhat)": ("variance-term-missing", OF_VARIANCE),
}  # fmt: skip


def _cause(slip: Slip) -> Cause:
    message = f"the gradient is what `{slip.line}` gives; right is `{slip.was}`"
    if slip.kind in ("term", "factor") or (slip.kind == "comparison" and slip.piece == "1 - onehot"):
        is_mask = " > " in slip.piece and slip.piece not in DROPPED
        name, hint = (
            DROPPED["mask"]
            if is_mask
            else DROPPED.get(slip.piece, (f"{slip.kind}-missing", f"{slip.piece} is left out"))
        )
        return Cause(name, message, hint)
    if slip.kind == "operator":
        name = "dout-added" if "dout" in slip.piece and slip.line.count("+") > slip.was.count("+") else "wrong-operator"
        return Cause(name, message, "one of + − · / @ is another: compare operator by operator")
    if slip.kind == "sign":
        return Cause("wrong-sign-inside", message, f"the sign of {slip.piece}")
    if slip.kind == "comparison":
        return Cause("wrong-comparison", message, "compare > >= < <= == with the forward pass")
    if slip.kind == "axis":
        if "_other" in slip.line:
            message = f"the gradient is what `{slip.was}` gives with a {slip.piece} over the wrong axis"
        return Cause(
            "wrong-axis", message, "sum over the axes along which the same number was used, usually the batch's"
        )
    if slip.kind == "transpose":
        return Cause(
            "wrong-product", message, "write the shapes next to the factors: the inner axis must be the one summed over"
        )
    if slip.kind == "order":
        message = f"{slip.piece} are exchanged: the gradient is that of the formula with each in the other's place"
        return Cause("wrong-order", message, "take the values out of the cache in the order in which they were put in")
    if slip.kind == "constant":
        return Cause("wrong-constant", message, "a constant is another than in the derivative")
    if slip.kind == "function":
        return Cause("wrong-function", message, f"{slip.piece} is left out, or another function stands for it")
    twice = f"{slip.piece} * {slip.piece}" in slip.line and f"{slip.piece} * {slip.piece}" not in slip.was
    name = "dout-twice" if "dout" in slip.line and slip.line.count("dout") > slip.was.count("dout") else "wrong-operand"
    return Cause(
        name, message, f"{slip.piece} is used twice" if twice else f"something else stands where {slip.piece} belongs"
    )
