"""Layers and losses whose derivative is a short formula: fully connected, elementwise, normalisation, losses.

If a formula here gives the numeric gradient, then the layer is known, and each wrong formula one slip away is tried.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

import numpy as np

from .evidence import Cause, Evidence, close
from .general import options
from .slips import Slip, right, slips

Names = dict[str, object]
LARGEST = 20_000
# -- elements of the output; with more, hundreds of formulas take too long


@dataclass(frozen=True)
class Formula:
    """A formula that gives the right gradient, with what its names stand for."""

    family: str
    source: str
    names: Names

    def value(self, douts: np.ndarray, code: CodeType | None = None) -> np.ndarray | None:
        """(K, …) with another formula's code, or its own; None where it cannot be computed."""
        values, code = [], code or right(self.source)
        for dout in douts:
            scope = {**self.names, "dout": dout}
            try:
                exec(code, scope)  # one of the formulas below, never anything from outside
                values.append(np.array(scope["result"], np.float64))
            except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
                return None
        return np.stack(values)


def fit(value: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """`value` (K, …) in the tensor's shape, if it has as many elements."""
    if value is not None and value.size == np.prod(shape):
        return value.reshape(shape)
    return value


@lru_cache(maxsize=8)
def recognised(e: Evidence) -> tuple[Formula, ...]:
    """The formulas that give the numeric gradient."""
    found = []
    with np.errstate(all="ignore"):
        for candidates in (affine, elementwise, normalisation, losses):
            for formula in candidates(e):
                value = fit(formula.value(e.douts), e.right.shape)
                if value is not None and e.corrects(value):
                    found.append(formula)
    return tuple(found)


def one_slip(e: Evidence) -> Iterator[Cause]:
    """The formulas one slip away that give what backward gave, the simplest slips first."""
    found = []
    if np.size(e.output) > LARGEST:
        return
    with np.errstate(all="ignore"):
        for formula in recognised(e):
            names = tuple(name for name, value in formula.names.items() if not isinstance(value, Callable))
            for slip in slips(formula.source, names if e.is_loss else (*names, "dout")):
                if not _may_explain(e, formula.value(e.douts[:1], slip.code)):
                    continue
                value = formula.value(e.douts, slip.code)
                if e.explains(fit(value, e.right.shape)) or (not e.same_shape and e.explains_in_shape(fit(value, e.given.shape))):
                    found.append((formula, slip))
                    break
    for _, slip in sorted(found, key=lambda pair: RANK.get(pair[1].kind, 1))[:2]:
        yield _cause(slip)


def _may_explain(e: Evidence, first: np.ndarray | None) -> bool:
    """Do the numbers for the first cotangent agree? Most formulas are refused here, at a third of the cost."""
    if first is None or first.size != e.given[0].size:
        return False
    allowed = e.allowed[e.name][0] if e.same_shape else np.nanmax(e.allowed[e.name])
    agree = close(first.reshape(e.given.shape[1:]), e.given[0], allowed)
    return bool(np.all(agree | ~e.measured[0])) if e.same_shape else bool(np.all(agree))


OF_MEAN = "the mean depends on every x of its group: its gradient has to be added"
OF_VARIANCE = "the variance depends on every x of its group: its gradient has to be added"
RANK = {"sign": 0, "constant": 2, "function": 2, "operand": 2}
# -- of equal slips in two formulas the simpler is named first
DROPPED = {
    "onehot": ("one-hot-missing", "subtract 1 at the right class of each sample"),
    "sum(mask) * onehot": ("correct-class-missing", "the right class is in every margin: subtract the number of violated ones"),
    "mask": ("mask-missing", "where the forward pass sets outputs to zero nothing comes back"),
    "x > 0": ("mask-missing", "where the forward pass sets outputs to zero nothing comes back"),
    "xhat": ("not-normalised", "gamma is multiplied by the normalised x"),
    "gamma": ("gamma-missing", "the chain rule through gamma · xhat + beta: multiply by gamma"),
    "eps": ("eps-missing", "use the same root √(var + eps) as the forward pass"),
    "max(x)": ("not-shifted", "exp overflows beyond 709: subtract the largest score of each sample before exp"),
    "-y": ("label-missing", "the derivative of −y·x with respect to x is −y"),
    "y": ("label-missing", "the label is a factor of the score, so it is one of the gradient"),
    "1 - onehot": ("own-margin-counted", "the right class has no margin of its own: leave it out"),
    "std": ("std-missing", "the normalised x is divided by the standard deviation, so is its gradient"),
    "dmu / N": ("mean-term-missing", OF_MEAN),
    "mean(dxhat)": ("mean-term-missing", OF_MEAN),
    "dvar * 2 * (x - mu) / N": ("variance-term-missing", OF_VARIANCE),
    "xhat * mean(dxhat * xhat)": (
        "variance-term-missing", OF_VARIANCE,
    ),
}  # fmt: skip


def _cause(slip: Slip) -> Cause:
    message = f"the gradient is what `{slip.line}` gives; right is `{slip.was}`"
    if slip.kind in ("term", "factor"):
        name, hint = DROPPED.get(slip.piece, (f"{slip.kind}-missing", f"{slip.piece} is left out"))
        return Cause(name, message, hint)
    if slip.kind == "operator":
        name = "dout-added" if "dout" in slip.piece and slip.line.count("+") > slip.was.count("+") else "wrong-operator"
        return Cause(name, message, "one of + − · / @ is another: compare operator by operator")
    if slip.kind == "sign":
        return Cause("wrong-sign-inside", message, f"the sign of {slip.piece}")
    if slip.kind == "comparison":
        return Cause("wrong-comparison", message, "compare > >= < <= == with the forward pass")
    if slip.kind == "axis":
        return Cause("wrong-axis", message, "sum over the axes along which the same number was used, usually the batch's")
    if slip.kind == "transpose":
        return Cause("wrong-product", message, "write the shapes next to the factors: the inner axis must be the one summed over")
    if slip.kind == "constant":
        return Cause("wrong-constant", message, "a constant is another than in the derivative")
    if slip.kind == "function":
        return Cause("wrong-function", message, f"{slip.piece} is left out, or another function stands for it")
    twice = f"{slip.piece} * {slip.piece}" in slip.line and f"{slip.piece} * {slip.piece}" not in slip.was
    name = "dout-twice" if "dout" in slip.line and slip.line.count("dout") > slip.was.count("dout") else "wrong-operand"
    return Cause(name, message, f"{slip.piece} is used twice" if twice else f"something else stands where {slip.piece} belongs")


# -- what the formulas are, and what their names stand for --------------------------------------------------------------


def affine(e: Evidence) -> Iterator[Formula]:
    """y = x w + b or x Wᵀ + b; any bias: the sum over the other axes."""
    y, t = np.asarray(e.output), e.tensor
    if e.is_loss or y.ndim < 2:
        return
    if y.ndim == 2:
        for name, other in e.tensors.items():
            if name == e.name or len(other) == 0:
                continue
            if t.ndim >= 2 and len(t) == len(y) and other.ndim == 2:
                names = {"x": t.reshape(len(t), -1), "w": other}
                yield Formula("affine", "result = dout @ w.T", names)
                yield Formula("affine", "result = dout @ w", names)
            if t.ndim == 2 and other.ndim >= 2 and len(other) == len(y):
                names = {"x": other.reshape(len(other), -1), "w": t}
                yield Formula("affine", "result = x.T @ dout", names)
                yield Formula("affine", "result = dout.T @ x", names)
    if t.ndim == 1:
        axes = {2: "0", 3: "(0, 2)", 4: "(0, 2, 3)"}.get(y.ndim)
        names = {name: other for name, other in e.tensors.items() if other.shape == y.shape}
        if axes:
            yield Formula("bias", f"result = dout.sum(axis={axes})", names)


def elementwise(e: Evidence) -> Iterator[Formula]:
    """y = f(x) element by element: the derivative is what all cotangents agree on."""
    d = derivative(e)
    if d is None:
        return
    names: Names = {"x": e.tensor, "out": np.asarray(e.output)}
    yield Formula("elementwise", "result = dout * (x > 0)", names)
    yield Formula("elementwise", "result = dout * out * (1 - out)", names)
    yield Formula("elementwise", "result = dout * (1 - out ** 2)", names)
    scale = mask_scale(d)
    if scale is not None and abs(scale - 1) < 1e-6:
        yield Formula("elementwise", "result = dout * mask", {**names, "mask": (d != 0).astype(float)})
    elif scale is not None:
        yield Formula("elementwise", "result = dout * mask * scale", {**names, "mask": (d != 0).astype(float), "scale": scale})
        yield Formula("elementwise", "result = dout * mask / p", {**names, "mask": (d != 0).astype(float), "p": 1 / scale})
    else:
        yield Formula("elementwise", "result = dout * derivative", {**names, "derivative": d})


def derivative(e: Evidence) -> np.ndarray | None:
    """d with numeric = dout · d for every cotangent, zeros exact; None if there is none."""
    if e.is_loss or e.douts.shape != e.right.shape or len(e.douts) < 2 or not e.measured.any():
        return None
    weight = np.where(e.measured, np.abs(e.douts), 0.0)
    total = weight.sum(axis=0)
    d = np.where(e.measured, e.right, 0.0) * np.sign(e.douts)
    d = np.divide(d.sum(axis=0), total, out=np.zeros(total.shape), where=total > 0)
    allowed = np.divide(
        np.max(np.where(e.measured, e.allowed[e.name], 0), axis=0), total, out=np.zeros(total.shape), where=total > 0
    )
    d = np.where(np.abs(d) <= 2 * allowed, 0.0, d)
    return d if e.corrects(e.douts * d) else None


def mask_scale(d: np.ndarray) -> float | None:
    """s if d is 0 or s > 0 everywhere, else None."""
    kept = d[d != 0]
    if kept.size == 0 or np.ptp(kept) > 1e-5 * abs(kept[0]) or kept[0] < 0:
        return None
    return float(np.median(kept))


@dataclass(frozen=True)
class Norm:
    """y = gamma · xhat + beta with xhat = (x − mu)/√(var + eps), the mean and variance over `axes` of x."""

    x: str
    axes: tuple[int, ...]
    eps: float
    gamma: np.ndarray
    beta: np.ndarray
    mu: np.ndarray
    var: np.ndarray
    xhat: np.ndarray

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.var + self.eps)


@lru_cache(maxsize=8)
def normalised(e: Evidence) -> Norm | None:
    """The normalisation that gives the output, if one does."""
    y = np.asarray(e.output)
    for name, x in e.tensors.items():
        if e.is_loss or x.ndim not in (2, 4) or x.shape != y.shape or x.size == 0:
            continue
        others = [(other, t) for other, t in e.tensors.items() if other != name]
        choices = [(1.0, 0.0)] if not others else []
        shaped = {other: list(_along_features(t, x.shape)) for other, t in others}
        choices += [(g, b) for one, _ in others for two, _ in others if one != two for g in shaped[one] for b in shaped[two]]
        given = [value for key, value in options(e).items() if "eps" in key.lower()]
        for axes in {2: [(0,), (1,)], 4: [(0, 2, 3), (1, 2, 3), (2, 3), (1,)]}[x.ndim]:
            mu, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            if not np.any(var > 0):
                continue
            for eps in dict.fromkeys([*given, 1e-5, 1e-8, 0.0]):
                with np.errstate(all="ignore"):
                    xhat = (x - mu) / np.sqrt(var + eps)
                    for gamma, beta in choices:
                        if np.allclose(gamma * xhat + beta, y, rtol=1e-9, atol=1e-11):
                            return Norm(name, axes, eps, np.asarray(gamma), np.asarray(beta), mu, var, xhat)
    return None


def _along_features(t: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    if t.ndim == 1:
        for axis in (1, 0, *range(2, len(shape))):
            if shape[axis] == t.size:
                yield t.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    elif t.ndim == len(shape) and all(a in (1, b) for a, b in zip(t.shape, shape, strict=True)):
        yield t


def normalisation(e: Evidence) -> Iterator[Formula]:
    norm = normalised(e)
    y = np.asarray(e.output)
    if norm is None and not e.is_loss and e.tensor.size * 2 <= y.size and e.tensor.ndim <= y.ndim:
        # running statistics, or a normalisation of another kind: the output still says what gamma is multiplied by
        for name, beta in e.tensors.items():
            if name != e.name and beta.shape == e.tensor.shape:
                for g, b in zip(_along_features(e.tensor, y.shape), _along_features(beta, y.shape), strict=True):
                    with np.errstate(all="ignore"):
                        names = {"xhat": (y - b) / g, **_sums(tuple(a for a in range(y.ndim) if g.shape[a] == 1)), "out": y}
                    yield Formula("norm", "result = sum(dout * xhat)", names)
        return
    if norm is None:
        return
    x = e.tensors[norm.x]
    names: Names = {
        "x": x, "xhat": norm.xhat, "gamma": norm.gamma, "beta": norm.beta, "mu": norm.mu, "var": norm.var, "std": norm.std,
        "eps": norm.eps, "N": np.prod([x.shape[axis] for axis in norm.axes]), "sqrt": np.sqrt,
    }  # fmt: skip
    if e.name == norm.x:
        names |= _sums(norm.axes)
        yield Formula("norm", "dxhat = dout * gamma\nresult = (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std", names)
        yield Formula("norm", "result = gamma / std * (dout - mean(dout) - xhat * mean(dout * xhat))", names)
        yield Formula("norm", "result = gamma / (N * std) * (N * dout - sum(dout) - xhat * sum(dout * xhat))", names)
        yield Formula(
            "norm",
            "dxhat = dout * gamma\n"
            "xmu = x - mu\n"
            "istd = 1 / std\n"
            "distd = sum(dxhat * xmu)\n"
            "dstd = -1 / std ** 2 * distd\n"
            "dvar = 0.5 / sqrt(var + eps) * dstd\n"
            "dxmu = dxhat * istd + 2 * xmu * dvar / N\n"
            "dmu = -sum(dxmu)\n"
            "result = dxmu + dmu / N",
            names,
        )
        yield Formula(
            "norm",
            "dxhat = dout * gamma\n"
            "xhat = (x - mu) / sqrt(var + eps)\n"
            "result = 1 / N / sqrt(var + eps) * (N * dxhat - sum(dxhat) - xhat * sum(dxhat * xhat))",
            names,
        )
        yield Formula(
            "norm",
            "dxhat = dout * gamma\n"
            "dvar = sum(dxhat * (x - mu) * -0.5 * (var + eps) ** -1.5)\n"
            "dmu = -sum(dxhat / sqrt(var + eps)) + dvar * mean(-2 * (x - mu))\n"
            "result = dxhat / sqrt(var + eps) + dvar * 2 * (x - mu) / N + dmu / N",
            names,
        )
    else:
        axes = tuple(a for a in range(x.ndim) if norm.gamma.ndim == 0 or norm.gamma.shape[a] == 1)
        del names["N"]
        names |= {**_sums(axes), "xmu": x - norm.mu, "xstd": x / norm.std, "no_eps": (x - norm.mu) / np.sqrt(norm.var)}
        names["over_var"] = (x - norm.mu) / (norm.var + norm.eps)
        yield Formula("norm", "result = sum(dout * xhat)", names)
        yield Formula("norm", "result = sum(dout)", names)


def _sums(axes: tuple[int, ...]) -> Names:
    """sum and mean over `axes`, and over the others."""

    def over(function, chosen):
        def total(z):
            z = np.asarray(z)
            return function(z, axis=tuple(a for a in range(z.ndim) if (a in axes) == chosen), keepdims=True)

        return total

    return {
        "sum": over(np.sum, True),
        "mean": over(np.mean, True),
        "sum_other": over(np.sum, False),
        "mean_other": over(np.mean, False),
    }


def losses(e: Evidence) -> Iterator[Formula]:
    """The usual losses of scores and labels; the numbers say which, and whether summed or averaged."""
    if not e.is_loss:
        return
    x = e.tensor
    base: Names = {"exp": np.exp, "x": x}
    for labels in (np.asarray(value) for value in e.others.values() if isinstance(value, np.ndarray)):
        if labels.shape == x.shape or labels.size == x.size:
            y = labels.reshape(x.shape).astype(np.float64)
            sign = 2 * y - 1 if np.all((y == 0) | (y == 1)) else y
            if np.all(np.abs(sign) == 1):
                for name, count in (("N", len(x)), ("", 1)):
                    over = f" / {name}" if name else ""
                    names = {**base, "y": sign, **({"N": count} if name else {})}
                    yield Formula("logistic", f"result = -y * exp(-y * x) / (1 + exp(-y * x)){over}", names)
                    yield Formula("logistic", f"result = -y / (1 + exp(y * x)){over}", names)
                    yield Formula("logistic", f"result = y * (1 / (1 + exp(-y * x)) - 1){over}", names)
                    yield Formula("logistic", f"result = (1 / (1 + exp(-x)) - y){over}", {**names, "y": (sign + 1) / 2})
                    yield Formula("hinge", f"result = -y * (1 - y * x > 0){over}", names)
        if labels.ndim == 1 and x.ndim == 2 and len(labels) == len(x) and labels.dtype.kind in "iu":
            onehot = (labels[:, None] == np.arange(x.shape[1])).astype(np.float64)
            column = np.broadcast_to(np.any(onehot, axis=0), x.shape).astype(np.float64)
            before = np.roll(onehot, -1, axis=1)
            names = {
                **base,
                **_sums((1,)),
                "onehot": onehot,
                "column": column,
                "before": before,
                "after": np.roll(onehot, 1, axis=1),
            }
            names["max"] = lambda z: np.max(z, axis=1, keepdims=True)
            names["min"] = lambda z: np.min(z, axis=1, keepdims=True)
            correct = (x * onehot).sum(axis=1, keepdims=True)
            for name, count in (("N", len(x)), ("", 1)):
                over = f" / {name}" if name else ""
                names_n = {**names, **({"N": count} if name else {})}
                yield Formula("softmax", f"p = exp(x - max(x)) / sum(exp(x - max(x)))\nresult = (p - onehot){over}", names_n)
                yield Formula("softmax", f"p = exp(x) / sum(exp(x))\nresult = (p - onehot){over}", names_n)
                yield Formula("softmax", f"e = exp(x - max(x))\np = e / sum(e)\nresult = (p - onehot){over}", names_n)
                yield Formula(
                    "softmax",
                    f"p = exp(x - max(x)) / sum(exp(x - max(x)))\nresult = ((1 - onehot) * p + onehot * (p - 1)){over}",
                    names_n,
                )
                for margin in dict.fromkeys([*(v for k, v in options(e).items() if k in ("margin", "delta")), 1]):
                    yield Formula(
                        "svm",
                        f"mask = (x - correct + {margin:g} > 0) * (1 - onehot)\nresult = (mask - sum(mask) * onehot){over}",
                        {**names_n, "correct": correct},
                    )
                    yield Formula(
                        "svm",
                        f"m = maximum(x - correct + {margin:g}, 0) * (1 - onehot)\ncount = sum(m > 0)\n"
                        f"result = (1 * (m > 0) - count * onehot){over}",
                        {**names_n, "correct": correct, "maximum": np.maximum},
                    )
                    yield Formula(
                        "svm",
                        f"m = maximum(x - correct + {margin:g}, 0) * (1 - onehot)\ncount = sum(m > 0)\n"
                        f"result = ((m > 0) * (1 - onehot) - count * onehot){over}",
                        {**names_n, "correct": correct, "maximum": np.maximum},
                    )
                    yield Formula(
                        "svm",
                        f"m = maximum(x - correct + {margin:g}, 0) * (1 - onehot)\ncount = sum(m > 0)\n"
                        f"result = (1 * (m > 0) * (1 - onehot) + ((m > 0) - count) * onehot){over}",
                        {**names_n, "correct": correct, "maximum": np.maximum},
                    )
        if labels.shape == x.shape and labels.dtype.kind == "f":
            yield Formula("squares", "result = 2 * (x - y) / N", {"x": x, "y": labels, "N": x.size})
            yield Formula("squares", "result = 2 * (x - y) / N", {"x": x, "y": labels, "N": len(x)})
            yield Formula("squares", "result = (x - y) / N", {"x": x, "y": labels, "N": len(x)})
            yield Formula("squares", "result = 2 * (x - y)", {"x": x, "y": labels})
