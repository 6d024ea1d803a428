"""What must hold of a backward pass beside its numbers. Each check is exact: no finite differences."""

from dataclasses import dataclass

import numpy as np

from .numeric import EPS
from .problems import Problem

A, B = 0.75, -1.5  # backward(A·dout₁ + B·dout₂) = A·backward(dout₁) + B·backward(dout₂)


@dataclass(frozen=True)
class Property:
    """One check: `name` what holds, `passed`, `message` what was seen instead; a `warning` does not fail the report."""

    name: str
    passed: bool
    message: str = ""
    warning: bool = False


def snapshot(problem: Problem) -> dict[str, list[np.ndarray]]:
    return {what: [array.copy() for array in arrays] for what, arrays in problem.held().items()}


def changed(problem: Problem, before: dict[str, list[np.ndarray]]) -> list[str]:
    """What of `before` is no longer as it was."""
    return [
        what for what, arrays in problem.held().items() if what in before and not all(map(same, arrays, before[what]))
    ]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=True) if a.dtype.kind in "fc" else np.array_equal(a, b)


def check_forward(problem: Problem, first: np.ndarray) -> list[Property]:
    """Of the forward pass, whose outputs were `first` just now: nothing shared, nothing modified, the same again."""
    pairs = [(result, array) for result in problem.results() for array in problem.held()["the inputs"]]
    shared = any(np.may_share_memory(*pair) and np.shares_memory(*pair) for pair in pairs)
    message = "forward's output shares memory with an input: writing to one changes the other" if shared else ""
    found = [Property("output is a new array", not shared, message, warning=True)]
    before = {"the inputs": snapshot(problem)["the inputs"]}
    again = problem.forward()
    touched = changed(problem, before)
    found.append(
        Property("inputs unmodified by forward", not touched, "forward writes to its inputs" if touched else "")
    )
    steady = same(first, again)
    message = "" if steady else "forward gives another result when it is called again with the same input"
    found.append(Property("forward deterministic", steady, message))
    return found


def check_backward(problem: Problem, douts: np.ndarray, gradients: list[dict[str, np.ndarray]]) -> list[Property]:
    """Of the backward pass, after a forward pass: `gradients` are those of the cotangents `douts` (K, …), as copies."""
    before, dout = snapshot(problem), douts[0].copy()
    again = copied(problem.backward(dout))
    touched = changed(problem, before)
    if not problem.scalar and not same(dout, douts[0]):
        touched.append("dout")
    message = f"backward writes to {' and '.join(touched)}" if touched else ""
    found = [Property("inputs, dout and cache unmodified by backward", not touched, message)]

    differ = [name for name, g in gradients[0].items() if not same(g, again[name])]
    message = (
        f"backward called again with the same dout gives another gradient of {', '.join(differ)}" if differ else ""
    )
    found.append(Property("backward twice agrees", not differ, message))
    if problem.scalar:
        return found

    try:
        nothing = copied(problem.backward(np.zeros_like(douts[0])))
        sums = copied(problem.backward(A * douts[0] + B * douts[-1]))
    except Exception as error:
        return [*found, Property("linear in dout", False, f"backward fails for dout = 0 or a sum of two: {error!r}")]
    # 0 · ∞ is NaN: where the gradient isn't finite, that is what is wrong, and it is said by itself
    finite = {n for n, g in gradients[0].items() if g.dtype.kind in "fiub" and np.isfinite(g).all()}
    left = [name for name, g in nothing.items() if name in finite and np.any(g != 0)]
    message = (
        f"for dout = 0 the gradient of {', '.join(left)} is not 0: something is not multiplied by dout" if left else ""
    )
    found.append(Property("zero dout gives zero gradients", not left, message))

    bent = []
    sizes = [np.abs(g[np.isfinite(g)]).max(initial=0.0) for g in gradients[0].values() if g.dtype.kind in "fiub"]
    # sums that cancel, as for a bias before batch norm, have the rounding of their parts
    rounding = 1e-10 * max([1.0, *sizes])
    for name, total in sums.items():
        first, last = gradients[0][name], gradients[-1][name]
        if name in finite and total.shape == first.shape == last.shape and total.size:
            with np.errstate(all="ignore"):
                wanted = A * first + B * last
                scale = np.abs(A * first) + np.abs(B * last)
                coarse = max(1.0, float(np.finfo(total.dtype).eps / EPS)) if total.dtype.kind == "f" else 1.0
                off = np.abs(total - wanted) > coarse * (1e-9 * scale + rounding)
            if off.any():
                bent.append(name)
    message = f"the gradient of {', '.join(bent)} is not linear in dout" if bent else ""
    found.append(Property("linear in dout", not bent, message))
    return found


def check_kinds(problem: Problem, gradients: dict[str, np.ndarray]) -> list[Property]:
    """Of the gradients' dtypes: those of the input, float64."""
    odd = {
        name: g.dtype for name, g in gradients.items() if g.dtype != np.float64 and g.dtype.kind in "fiub" and g.size
    }
    message = ", ".join(f"the gradient of {name} is {dtype} for a float64 input" for name, dtype in odd.items())
    return [Property("gradients of the input's dtype", not odd, message, warning=True)]


def copied(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(g) for name, g in gradients.items()}
