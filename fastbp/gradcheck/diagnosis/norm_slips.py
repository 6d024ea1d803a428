"""Batch norm and layer norm with the batch's own mean and variance.

With D = dout · gamma the gradient has three terms, means over the normalised axes:
    D / std  −  mean(D) / std  −  xhat · mean(D · xhat) / std
from xhat itself, from the mean and from the variance.
"""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from .evidence import Cause, Evidence, number
from .general import names_of
from .layer_formulas import Norm, evaluated, normalised

TERMS = ("direct", "mean", "variance")
HINTS = (
    "dout · gamma / std is the derivative through the normalised x itself",
    "the mean depends on every x of its group: its gradient has to be added",
    "the variance depends on every x of its group: its gradient has to be added",
)


def terms(e: Evidence, norm: Norm, std: np.ndarray | None = None, xhat: np.ndarray | None = None) -> list[np.ndarray]:
    """The three terms, each (K, *shape)."""
    axes = tuple(axis + 1 for axis in norm.axes)
    std, xhat = norm.std if std is None else std, norm.xhat if xhat is None else xhat
    D = e.douts * norm.gamma
    mean, product_mean = D.mean(axes, keepdims=True), (D * xhat).mean(axes, keepdims=True)
    return [D / std, np.broadcast_to(-mean / std, D.shape), -xhat * product_mean / std]


def norm_terms(e: Evidence) -> Iterator[Cause]:
    """A term is missing, of the wrong sign, or has a wrong factor."""
    norm = normalised(e)
    if norm is None or e.name != norm.x or not e.same_shape:
        return
    right = terms(e, norm)
    if not e.corrects(sum(right)):
        return
    if e.is_right or not np.all(np.isfinite(e.given)):
        return
    columns = np.stack([term[e.measured] for term in right], axis=1)
    if np.linalg.matrix_rank(columns) == 3:
        weights = np.linalg.lstsq(columns, e.given[e.measured], rcond=None)[0]
        wrong = [i for i in range(3) if abs(weights[i] - 1) > 1e-5]
        weights[np.abs(weights) < 1e-7] = 0
        # all three at once are no explanation, unless by one factor, which another rule names
        if 0 < len(wrong) < 3 and e.explains(sum(w * term for w, term in zip(weights, right, strict=True))):
            yield from _weighted(e, weights, wrong)
            return
    for found in (
        _substituted(e, norm, right, 0),
        _factors(e, norm, right),
        _no_eps(e, norm),
        _substituted(e, norm, right, -1, -2),
    ):
        if causes := list(found):
            yield from causes
            return


def _weighted(e: Evidence, weights: np.ndarray, wrong: list[int]) -> Iterator[Cause]:
    norm = normalised(e)
    N = np.prod([e.tensor.shape[axis] for axis in norm.axes])
    if wrong == [1, 2] and abs(weights[1] - weights[2]) < 1e-6 and weights[1] > 0:
        message = f"in the mean's and the variance's terms the sums are divided by {number(N / weights[1])}, not by {N}"
        yield Cause(
            "wrong-count", message, f"divide by the number of elements that the mean is taken over, {N}; not by N − 1"
        )
        return
    if wrong == [1, 2] and np.all(weights[wrong] == 0):
        message = "the mean's and the variance's terms are missing: mean and variance are taken for constants"
        yield Cause("mean-and-variance-terms-missing", message, "both depend on x: their gradients have to be added")
        return
    if wrong == [0, 1] and np.all(weights[wrong] == 0):
        message = "the term dout · gamma / std and the mean's term are missing, or cancel"
        yield Cause("direct-and-mean-terms-missing", f"{message}: is it the mean that is subtracted?", HINTS[0])
        return
    for i in wrong:
        weight, term = weights[i], TERMS[i]
        if weight == 0:
            missing = f"the {term}'s term is missing, or zero" if i else "the term dout · gamma / std is missing"
            yield Cause(f"{term}-term-missing", missing, HINTS[i])
        elif abs(weight + 1) < 1e-5:
            yield Cause(
                f"{term}-term-sign",
                f"the {term}'s term has the wrong sign" if i else "the term dout · gamma / std has the wrong sign",
                HINTS[i],
            )
        else:
            size = abs(weight)
            called = names_of(e, size)
            much = f"{number(size)} times too large" if size > 1 else f"{number(1 / size)} times too small"
            yield Cause(
                f"{term}-term-factor",
                f"the {term} term is {much}{' and of the wrong sign' if weight < 0 else ''}{called}",
                HINTS[i],
            )


def _factors(e: Evidence, norm: Norm, right: list[np.ndarray]) -> Iterator[Cause]:
    """Some or all terms times a power of the standard deviation and of gamma."""
    std, gamma = norm.std, norm.gamma
    chosen = [(0, 1, 2), (0,), (1,), (2,), (1, 2), (0, 1), (0, 2)]
    for affected, p, q in product(chosen, (0, -1, 1, -2, 2, 3, -3, -4, 4), (0, -1, 1)):
        if p == q == 0 or (q and np.ndim(gamma) == 0):
            continue
        factor = std ** float(p) * gamma ** float(q)
        changed = sum(term * factor if i in affected else term for i, term in enumerate(right))
        if not e.explains(changed, 1 + np.abs(factor)):
            continue
        named = " and the ".join(("normalised x", "mean", "variance")[i] for i in affected)
        where = f" in the term of the {named}" if len(affected) < 3 else ""
        if q == 0 and p == -1:
            cause = (
                "variance-not-root",
                f"divided by the variance instead of its root{where}",
                "std = √(var + eps): the root is missing, or 1/std stands once too often",
            )
        elif q == 0 and p == 1:
            cause = (
                "std-missing",
                f"not divided by the standard deviation{where}",
                "the normalised x is divided by std, so is its gradient",
            )
        elif p == 0 and q == -1:
            cause = (
                "gamma-missing",
                f"gamma is missing{where}",
                "the chain rule through gamma · xhat + beta: multiply by gamma",
            )
        elif p == 0:
            cause = "gamma-twice", f"multiplied by gamma twice{where}", "gamma is a factor once"
        else:
            times = f"std to the power {p:g}" + (f" and gamma to the power {q:g}" if q else "")
            cause = (
                "std-power",
                f"wrong by the factor {times}{where}",
                "compare the exponents: the derivative of var^(−1/2) is −1/2 · var^(−3/2)",
            )
        yield Cause(*cause)
        return


def _no_eps(e: Evidence, norm: Norm) -> Iterator[Cause]:
    with np.errstate(all="ignore"):
        bare = np.sqrt(norm.var)
        xhat = (norm.xhat * norm.std) / bare
        exact, wrong = terms(e, norm), terms(e, norm, bare, xhat)
        outer = terms(e, norm, bare)
        some = [which for size in (1, 2) for which in combinations(range(3), size)]
        mixed = [sum(wrong[i] if i in which else exact[i] for i in range(3)) for which in some]
        for candidate in (sum(wrong), sum(outer), *mixed):
            if e.explains(candidate):
                yield Cause(
                    "eps-missing",
                    "eps is missing: the gradient uses √var, the forward pass √(var + eps)",
                    "use the same root as the forward pass",
                )
                return


def _substituted(e: Evidence, norm: Norm, right: list[np.ndarray], *powers: int) -> Iterator[Cause]:
    """Something else in place of the normalised x in the variance's term, or means over the wrong axes or of N − 1."""
    axes, x = tuple(axis + 1 for axis in norm.axes), e.tensors[norm.x]
    D = e.douts * norm.gamma
    places = {"xhat": norm.xhat, "x": x, "x − mean": x - norm.mu, "1": np.ones_like(x), "out": np.asarray(e.output)}
    for (outer, o), (inner, i) in product(places.items(), places.items()):
        if outer == inner == "xhat":
            continue
        term = -o * (D * i).mean(axes, keepdims=True) / norm.std
        for p in powers:
            if e.explains(right[0] + right[1] + term * norm.std ** float(p)):
                message = f"in the variance's term stand {outer} · sum(dout · {inner}); both must be the normalised x"
                if "x − mean" in (outer, inner):
                    message += (
                        ": a factor 1/std is missing" if "xhat" in (outer, inner) else ": a factor 1/std² is missing"
                    )
                yield Cause("not-normalised", message, "xhat = (x − mean) / std, the same as in the forward pass")
                return
    for which in ((1,), (2,), (1, 2)):
        other = tuple(a for a in range(1, D.ndim) if a not in axes)
        swapped = [
            right[0],
            -D.mean(other, keepdims=True) / norm.std,
            -norm.xhat * (D * norm.xhat).mean(other, keepdims=True) / norm.std,
        ]
        if e.explains(sum(swapped[i] if i in which else right[i] for i in range(3))):
            yield Cause(
                "wrong-axis",
                f"the {' and '.join(TERMS[i] for i in which)} is taken over the wrong axis",
                f"batch norm: over the batch; layer norm: over the features. Here axis {norm.axes}",
            )
            return


def wrong_term(e: Evidence) -> Iterator[Cause]:
    """What the error looks like inside each group: constant, or like the normalised x."""
    norm = normalised(e)
    if norm is None or e.name != norm.x or not e.same_shape or not e.measured.all() or not np.all(np.isfinite(e.given)):
        return
    axes = tuple(axis + 1 for axis in norm.axes)
    if np.prod([e.given.shape[axis] for axis in axes]) < 4:
        return
    error = e.given - e.right
    mean = error.mean(axes, keepdims=True)
    along = (error * norm.xhat).mean(axes, keepdims=True) / (norm.xhat[None] ** 2).mean(axes, keepdims=True)
    for name, shape, message, hint in (
        (
            "mean-term-wrong",
            mean,
            "the error is the same for all x that share a mean: the mean's term is wrong",
            HINTS[1],
        ),
        (
            "variance-term-wrong",
            along * norm.xhat,
            "the error is proportional to the normalised x: the variance's term is wrong",
            HINTS[2],
        ),
        (
            "mean-and-variance-terms-wrong",
            mean + along * norm.xhat,
            "the terms of the mean and of the variance are wrong",
            HINTS[2],
        ),
    ):
        if e.explains(e.right + np.broadcast_to(shape, error.shape), 2.0):
            yield Cause(name, message, hint)
            return


def not_constant(e: Evidence) -> Iterator[Cause]:
    """With running statistics: the terms that only the batch's own mean and variance have."""
    norm = evaluated(e)
    if norm is None or e.name != norm.x or not e.same_shape:
        return
    direct, mean, variance = terms(e, norm)
    through = direct + variance
    centred = through - through.mean(tuple(axis + 1 for axis in norm.axes), keepdims=True)
    for wrong, which in (
        (direct + mean + variance, "mean and variance"),
        (centred, "mean and variance"),
        (direct + mean, "mean"),
        (through, "variance"),
    ):
        if e.explains(wrong):
            message = f"the terms of the {which} stand in the gradient, but running statistics are constants"
            yield Cause(
                "statistics-constant", message, "is it training or evaluation? The forward pass computed the output so"
            )
            return


def gamma_gradient(e: Evidence) -> Iterator[Cause]:
    """dgamma = Σ dout · xhat, with something else in place of xhat."""
    norm = normalised(e)
    if norm is None or e.name == norm.x or not e.same_shape or np.ndim(norm.gamma) == 0:
        return
    axes = tuple(axis + 1 for axis in range(e.output.ndim) if norm.gamma.shape[axis] == 1)
    x = e.tensors[norm.x]
    if not e.corrects((e.douts * norm.xhat).sum(axes).reshape(e.right.shape)):
        return
    with np.errstate(all="ignore"):
        places = {
            "x": x,
            "x − mean": x - norm.mu,
            "x / std": x / norm.std,
            "(x − mean) / var": norm.xhat / norm.std,
            "out": e.output,
            "(x − mean) · std": norm.xhat * norm.var,
            "gamma · xhat": norm.xhat * norm.gamma,
            "xhat²": norm.xhat**2,
            "1": np.ones_like(x),
            "(x − mean) / √var without eps": norm.xhat * norm.std / np.sqrt(norm.var),
        }
        for text, place in places.items():
            if e.explains((e.douts * place).sum(axes).reshape(e.right.shape)):
                name = "eps-missing" if "eps" in text else "not-normalised"
                if "var" in text and "eps" not in text:
                    name = "variance-not-root"
                yield Cause(
                    name,
                    f"sum(dout · {text}) stands for sum(dout · xhat)",
                    "gamma is multiplied by the normalised x of the forward pass",
                )
                return
