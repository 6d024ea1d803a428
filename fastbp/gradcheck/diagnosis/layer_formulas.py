"""Layers whose gradient is a short formula: fully connected, elementwise, normalisation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from .evidence import Evidence
from .formula import Formula, Names, sums
from .general import option_arrays, options


def affine(e: Evidence) -> Iterator[Formula]:
    """y = x w + b or x Wᵀ + b; any bias: the sum over the other axes."""
    y, t = np.asarray(e.output), e.tensor
    if e.is_loss or y.ndim < 2:
        return
    if y.ndim == 2:
        for name, other in e.tensors.items():
            if name == e.name or other.size == 0 or other.ndim == 0:
                continue
            if t.ndim >= 2 and len(t) == len(y) and other.ndim == 2:
                names = {"x": t.reshape(len(t), -1), "w": other}
                yield Formula("result = dout @ w.T", names)
                yield Formula("result = dout @ w", names)
            if t.ndim == 2 and other.ndim >= 2 and len(other) == len(y):
                names = {"x": other.reshape(len(other), -1), "w": t}
                yield Formula("result = x.T @ dout", names)
                yield Formula("result = dout.T @ x", names)
    if t.ndim == 1:
        axes = {2: "0", 3: "(0, 2)", 4: "(0, 2, 3)"}.get(y.ndim)
        names = {name: other for name, other in e.tensors.items() if other.shape == y.shape}
        if axes:
            yield Formula(f"result = dout.sum(axis={axes})", names)


def elementwise(e: Evidence) -> Iterator[Formula]:
    """y = f(x) element by element: the derivative is what all cotangents agree on."""
    d = derivative(e)
    if d is None:
        return
    names: Names = {"x": e.tensor, "out": np.asarray(e.output)}
    yield Formula("result = dout * (x > 0)", names)
    yield Formula("result = dout * out * (1 - out)", names)
    yield Formula("result = dout * (1 - out ** 2)", names)
    scale = mask_scale(d)
    if scale is not None and abs(scale - 1) < 1e-6:
        yield Formula("result = dout * mask", {**names, "mask": (d != 0).astype(float)})
    elif scale is not None:
        yield Formula("result = dout * mask * scale", {**names, "mask": (d != 0).astype(float), "scale": scale})
        yield Formula("result = dout * mask / p", {**names, "mask": (d != 0).astype(float), "p": 1 / scale})
    else:
        yield Formula("result = dout * derivative", {**names, "derivative": d})


def derivative(e: Evidence) -> np.ndarray | None:
    """d with numeric = dout · d for every cotangent, zeros exact; None if there is none."""
    if e.is_loss or e.douts.shape != e.right.shape or len(e.douts) < 2 or not e.measured.any():
        return None
    weight = np.where(e.measured, np.abs(e.douts), 0.0)
    total = weight.sum(axis=0)
    d = np.where(e.measured, e.right, 0.0) * np.sign(e.douts)
    d = np.divide(d.sum(axis=0), total, out=np.zeros(total.shape), where=total > 0)
    most = np.max(np.where(e.measured, e.allowed[e.name], 0), axis=0)
    allowed = np.divide(most, total, out=np.zeros(total.shape), where=total > 0)
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
    """The normalisation by the batch's own mean and variance that gives the output, if one does."""
    return next((norm for norm in _norms(e, _own) if np.any(norm.var > 0)), None)


@lru_cache(maxsize=8)
def evaluated(e: Evidence) -> Norm | None:
    """The normalisation by a mean and a variance among the options (running ones) that gives the output, if any."""
    return next(_norms(e, _running), None)


def _own(e: Evidence, x: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    for axes in {2: [(0,), (1,)], 4: [(0, 2, 3), (1, 2, 3), (2, 3), (1,)]}[x.ndim]:
        yield axes, x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


def _running(e: Evidence, x: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    arrays = option_arrays(e)
    for mean, var in permutations([a for a in arrays.values() if a.shape == (x.shape[1],)], 2):
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        yield tuple(axis for axis in range(x.ndim) if axis != 1), mean.reshape(shape), var.reshape(shape)


def _norms(e: Evidence, statistics) -> Iterator[Norm]:
    y = np.asarray(e.output)
    for name, x in e.tensors.items():
        if e.is_loss or x.ndim not in (2, 4) or x.shape != y.shape or x.size == 0:
            continue
        others = [(other, t) for other, t in e.tensors.items() if other != name]
        choices = [(1.0, 0.0)] if not others else []
        shaped = {other: list(_along_features(t, x.shape)) for other, t in others}
        for one, two in permutations(shaped, 2):
            choices += product(shaped[one], shaped[two])
        given = [value for key, value in options(e).items() if "eps" in key.lower()]
        for (axes, mu, var), eps in product(statistics(e, x), dict.fromkeys([*given, 1e-5, 1e-8, 0.0])):
            with np.errstate(all="ignore"):
                xhat = (x - mu) / np.sqrt(var + eps)
                for gamma, beta in choices:
                    if np.allclose(gamma * xhat + beta, y, rtol=1e-9, atol=1e-11):
                        yield Norm(name, axes, eps, np.asarray(gamma), np.asarray(beta), mu, var, xhat)


def _along_features(t: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    if t.ndim == 1:
        for axis in (1, 0, *range(2, len(shape))):
            if shape[axis] == t.size:
                yield t.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    elif t.ndim == len(shape) and all(a in (1, b) for a, b in zip(t.shape, shape, strict=True)):
        yield t


CHAINS = (
    "dxhat = dout * gamma\n"
    "dmean = mean(dxhat)\n"
    "projection = mean(dxhat * xhat)\n"
    "result = (dxhat - dmean - xhat * projection) / std",
    "dxhat = dout * gamma\nresult = (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std",
    "result = gamma / std * (dout - mean(dout) - xhat * mean(dout * xhat))",
    "result = gamma / std * (dout - (sum(dout) + xhat * sum(dout * xhat)) / N)",
    "result = gamma / (N * std) * (N * dout - sum(dout) - xhat * sum(dout * xhat))",
    "dxhat = dout * gamma\n"
    "xmu = x - mu\n"
    "istd = 1 / std\n"
    "distd = sum(dxhat * xmu)\n"
    "dstd = -1 / std ** 2 * distd\n"
    "dvar = 0.5 / sqrt(var + eps) * dstd\n"
    "dxmu = dxhat * istd + 2 * xmu * dvar / N\n"
    "dmu = -sum(dxmu)\n"
    "result = dxmu + dmu / N",
    "dxhat = dout * gamma\n"
    "xmu = xhat * std\n"
    "distd = sum(dxhat * xmu)\n"
    "dstd = -distd / std ** 2\n"
    "dvar = dstd / (2 * std)\n"
    "dxmu = dxhat / std + dvar / N * 2 * xmu\n"
    "dmu = -sum(dxmu)\n"
    "result = dxmu + dmu / N",
    "dxhat = dout * gamma\n"
    "dvar = sum(dxhat * xmu) * -0.5 * istd ** 3\n"
    "dmu = -sum(dxhat * istd)\n"
    "dx = dxhat * istd\n"
    "result = dx + dvar * 2 * xmu / N + dmu / N",
    "dxhat = dout * gamma\n"
    "xhat = (x - mu) / sqrt(var + eps)\n"
    "result = 1 / N / sqrt(var + eps) * (N * dxhat - sum(dxhat) - xhat * sum(dxhat * xhat))",
    "dxhat = dout * gamma\n"
    "dvar = sum(dxhat * (x - mu) * -0.5 * (var + eps) ** -1.5)\n"
    "dmu = -sum(dxhat / sqrt(var + eps)) + dvar * mean(-2 * (x - mu))\n"
    "result = dxhat / sqrt(var + eps) + dvar * 2 * (x - mu) / N + dmu / N",
)
EVALUATED = (
    "dxhat = dout * gamma\nresult = dxhat / std",
    "result = dout * gamma * istd",
    "result = gamma / std * dout",
)
# -- ways to write dx, from the shortest to one node of the graph a line


def normalisation(e: Evidence) -> Iterator[Formula]:
    norm = normalised(e) or evaluated(e)
    if norm is None:
        yield from _other_normalisation(e)
        return
    x = e.tensors[norm.x]
    xmu = x - norm.mu
    names: Names = {
        "x": x, "xhat": norm.xhat, "gamma": norm.gamma, "beta": norm.beta, "mu": norm.mu, "var": norm.var,
        "std": norm.std, "eps": norm.eps, "xmu": xmu, "istd": 1 / norm.std, "sqrt": np.sqrt,
    }  # fmt: skip
    if e.name == norm.x:
        names |= {**sums(norm.axes), "N": np.prod([x.shape[axis] for axis in norm.axes])}
        for source in CHAINS if normalised(e) else EVALUATED:
            yield Formula(source, names)
    else:
        names |= sums(tuple(a for a in range(x.ndim) if norm.gamma.ndim == 0 or norm.gamma.shape[a] == 1))
        names |= {
            "x_over_std": x / norm.std,
            "xmu_over_var": xmu / norm.std**2,
            "xhat_without_eps": xmu / np.sqrt(norm.var),
        }
        for source in ("result = sum(dout * xhat)", "result = sum(dout * xmu * istd)", "result = sum(dout)"):
            yield Formula(source, names)


def _other_normalisation(e: Evidence) -> Iterator[Formula]:
    """One of another kind: the output still says what gamma is multiplied by."""
    y = np.asarray(e.output)
    if e.is_loss or e.tensor.size * 2 > y.size or e.tensor.ndim > y.ndim:
        return
    for name, beta in e.tensors.items():
        if name != e.name and beta.shape == e.tensor.shape:
            for g, b in zip(_along_features(e.tensor, y.shape), _along_features(beta, y.shape), strict=True):
                with np.errstate(all="ignore"):
                    names = {"xhat": (y - b) / g, **sums(tuple(a for a in range(y.ndim) if g.shape[a] == 1)), "out": y}
                yield Formula("result = sum(dout * xhat)", names)
