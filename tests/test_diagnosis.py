"""Diagnosis: every planted mistake is named, no other cause is claimed, and what cannot be explained is not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fastbp.gradcheck.diagnosis import NOTHING, OTHERWISE, RULES, Evidence, diagnose
from fastbp.gradcheck.diagnosis.formulas import recognised
from fastbp.gradcheck.diagnosis.layer_formulas import normalised
from fastbp.gradcheck.diagnosis.partial import describe
from fastbp.gradcheck.diagnosis.slips import slips
from fastbp.gradcheck.diagnosis.window_sums import windows

K, STEP = 3, 1e-5


def numeric_gradient(forward: Callable, tensors: dict, others: dict, name: str, douts: np.ndarray) -> np.ndarray:
    """Central differences of Σ y · dout, (K, *shape)"""
    gradient = np.zeros((len(douts), *tensors[name].shape))
    for index in np.ndindex(tensors[name].shape):
        moved = {key: t.copy() for key, t in tensors.items()}
        moved[name][index] += STEP
        up = np.array(forward(**moved, **others)[0])
        moved[name][index] -= 2 * STEP
        down = np.array(forward(**moved, **others)[0])
        gradient[(slice(None), *index)] = np.tensordot(douts, (up - down) / (2 * STEP), axes=up.ndim)
    return gradient


class Layer:
    """A pair of functions at one input: its numeric gradients, and the evidence that any wrong backward gives."""

    def __init__(self, forward: Callable, tensors: dict, others: dict | None = None, loss: bool = False):
        rng = np.random.default_rng(7)
        self.tensors, self.others = tensors, others or {}
        out, self.cache = forward(**tensors, **self.others)
        self.output = np.array(out)
        shape = (K, *self.output.shape)
        self.douts = np.ones(1) if loss else rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        self.numeric = {name: numeric_gradient(forward, tensors, self.others, name, self.douts) for name in tensors}
        self.allowed = {name: 1e-6 * np.abs(n) + 1e-7 for name, n in self.numeric.items()}

    def evidence(self, name: str, backward: Callable) -> Evidence:
        """`backward(dout, *cache)` gives the gradient of `name`, or a dictionary of all gradients."""
        given = [backward(dout, *self.cache) for dout in self.douts]
        if not isinstance(given[0], dict):
            given = [{name: g} for g in given]
        gradients = {key: np.stack([np.array(g[key]) for g in given]) for key in given[0]}
        gradients = {key: gradients.get(key, self.numeric[key]) for key in self.tensors}
        return Evidence(name, self.tensors, self.others, self.output, self.douts, gradients, self.numeric, self.allowed)


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def apart(*shape, seed=0) -> np.ndarray:
    """No two equal, none near zero: no kink within a step's reach."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape))
    return (rng.permutation(size) - size / 2 + 0.37).reshape(shape) / size * 4


def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w, b)


def linear_forward(x, weight, bias):
    return x @ weight.T + bias, (x, weight, bias)


def relu_forward(x):
    return np.maximum(x, 0), (x,)


def leaky_forward(x):
    return np.where(x > 0, x, 0.1 * x), (x,)


def sigmoid_forward(x):
    y = 1 / (1 + np.exp(-x))
    return y, (x, y)


def dropout_forward(x, dropout_param):
    p = dropout_param["p"]
    mask = np.random.default_rng(dropout_param["seed"]).random(x.shape) < p
    return x * mask / p, (mask, p)


def norm_forward(x, gamma, beta, param):
    axis = param["axis"]
    shape = [1, -1] + [1] * (x.ndim - 2)
    mu, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    std = np.sqrt(var + param["eps"])
    xhat = (x - mu) / std
    return gamma.reshape(shape) * xhat + beta.reshape(shape), (xhat, gamma.reshape(shape), x - mu, var, std, axis, x)


def norm_dx(dout, xhat, gamma, xmu, var, std, axis, x, direct=1, mean=1, variance=1):
    d = dout * gamma
    return (
        direct * d - mean * d.mean(axis, keepdims=True) - variance * xhat * (d * xhat).mean(axis, keepdims=True)
    ) / std


def normed(shape: tuple[int, ...]) -> dict:
    return {"x": 2 * normal(*shape) + 1, "gamma": normal(shape[1], seed=1), "beta": normal(shape[1])}


def evaluated_forward(x, gamma, beta, param):
    std = np.sqrt(param["running_var"] + param["eps"])
    xhat = (x - param["running_mean"]) / std
    return gamma * xhat + beta, (xhat, gamma, std)


def conv_forward(x, w, b, conv_param):
    s, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    parts = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::s, ::s]
    return np.einsum("ncijpq,fcpq->nfij", parts, w) + b[:, None, None], (padded, w, s, pad)


def conv_dx(dout, padded, w, s, pad, write="+=", crop=True, place=lambda i, s: i * s, multiply=np.multiply):
    """By loops, as students write it."""
    dx = np.zeros_like(padded)
    for n, f, i, j in np.ndindex(dout.shape):
        rows, columns = (slice(place(at, s), place(at, s) + k) for at, k in zip((i, j), w.shape[2:], strict=True))
        part = multiply(dout[n, f, i, j], w[f])
        dx[n, :, rows, columns] = part if write == "=" else dx[n, :, rows, columns] + part
    return dx[:, :, pad:-pad, pad:-pad] if crop else dx


def conv_dw(dout, padded, w, s, pad, write="+=", place=lambda i, s: i * s, multiply=np.multiply):
    dw = np.zeros_like(w)
    for n, f, i, j in np.ndindex(dout.shape):
        rows, columns = (slice(place(at, s), place(at, s) + k) for at, k in zip((i, j), w.shape[2:], strict=True))
        part = multiply(dout[n, f, i, j], padded[n, :, rows, columns])
        dw[f] = part if write == "=" else dw[f] + part
    return dw


def pool_forward(x, pool_param):
    k, s = pool_param["pool_height"], pool_param["stride"]
    parts = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::s, ::s]
    return parts.max(axis=(4, 5)), (x, k, s)


def pool_dx(dout, x, k, s, mask=lambda window: window == window.max(), write="+="):
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dout.shape):
        here = n, c, slice(i * s, i * s + k), slice(j * s, j * s + k)
        part = mask(x[here]) * dout[n, c, i, j]
        dx[here] = part if write == "=" else dx[here] + part
    return dx


def softmax_forward(x, y):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = np.logaddexp.reduce(x, axis=1) - x[np.arange(len(x)), y]
    return loss.mean(), (p, np.eye(x.shape[1])[y], x)


def svm_forward(x, y):
    onehot = np.eye(x.shape[1])[y]
    margins = np.maximum(0, x - (x * onehot).sum(axis=1, keepdims=True) + 1) * (1 - onehot)
    return margins.sum() / len(x), ((margins > 0).astype(float), onehot, len(x))


def logistic_forward(x, y):
    return np.logaddexp(0, -y * x).mean(), (x, y, len(x))


def hinge_forward(x, y):
    return np.maximum(0, 1 - y * x).mean(), (1 - y * x, y, len(x))


LABELS = np.array([2, 0, 3, 1, 2])
SIGNS = np.array([1, -1, -1, 1, 1, -1])
POOL = {"pool_height": 3, "pool_width": 3, "stride": 2}
LAYERS = {
    "affine": Layer(affine_forward, {"x": normal(4, 2, 3), "w": normal(6, 5), "b": normal(5)}),
    "square": Layer(affine_forward, {"x": normal(4, 4), "w": normal(4, 4), "b": normal(4)}),
    "linear": Layer(linear_forward, {"x": normal(3, 4), "weight": normal(2, 4), "bias": normal(2)}),
    "relu": Layer(relu_forward, {"x": apart(4, 6)}),
    "leaky": Layer(leaky_forward, {"x": apart(4, 6)}),
    "sigmoid": Layer(sigmoid_forward, {"x": normal(4, 6)}),
    "dropout": Layer(dropout_forward, {"x": normal(5, 6)}, {"dropout_param": {"p": 0.7, "seed": 1, "mode": "train"}}),
    "batchnorm": Layer(norm_forward, normed((6, 4)), {"param": {"axis": 0, "eps": 1e-2}}),
    "layernorm": Layer(norm_forward, normed((4, 6)), {"param": {"axis": 1, "eps": 1e-5}}),
    "spatial": Layer(norm_forward, normed((2, 3, 4, 5)), {"param": {"axis": (0, 2, 3), "eps": 1e-2}}),
    "evaluated": Layer(
        evaluated_forward, normed((6, 4)),
        {
            "param": {
                "mode": "test", "eps": 1e-2,
                "running_mean": normal(4, seed=3), "running_var": normal(4, seed=4) ** 2 + 0.5,
            }
        },
    ),
    "conv": Layer(
        conv_forward, {"x": normal(3, 2, 5, 5), "w": normal(4, 2, 3, 3), "b": normal(4)},
        {"conv_param": {"stride": 2, "pad": 1}}
    ),
    "overpadded": Layer(
        conv_forward, {"x": normal(3, 2, 4, 4), "w": normal(3, 2, 2, 2), "b": normal(3)},
        {"conv_param": {"stride": 2, "pad": 2}}
    ),
    "pool": Layer(pool_forward, {"x": apart(2, 3, 5, 7)}, {"pool_param": POOL}),
    "softmax": Layer(softmax_forward, {"x": normal(5, 4)}, {"y": LABELS}, loss=True),
    "svm": Layer(svm_forward, {"x": apart(5, 4)}, {"y": LABELS}, loss=True),
    "hinge": Layer(hinge_forward, {"x": apart(6, seed=2)}, {"y": SIGNS}, loss=True),
    "logistic": Layer(logistic_forward, {"x": normal(6)}, {"y": SIGNS}, loss=True),
}  # fmt: skip


def affine(dout, x, w, b):
    return {"x": (dout @ w.T).reshape(x.shape), "w": x.reshape(len(x), -1).T @ dout, "b": dout.sum(0)}


def exchange(one, two):
    def backward(dout, *cache):
        gradients = affine(dout, *cache)
        gradients[one], gradients[two] = gradients[two], gradients[one]
        return gradients

    return backward


def scaled(factor, name="x"):
    return lambda dout, *cache: factor * affine(dout, *cache)[name]


def shifted_rows(dx):
    result = np.zeros_like(dx)
    result[:, :, 1:] = dx[:, :, :-1]
    return result


def masked(dx, *index):
    """dx with one place put to zero"""
    dx = dx.copy()
    dx[index] = 0
    return dx


def only(x, sample):
    """x with all other samples put to zero"""
    return (np.arange(len(x)) == sample)[:, None, None] * x


def rows(z):
    """The sum of each row, (N, 1)"""
    return z.sum(1, keepdims=True)


def norm_no_eps(dout, xhat, gamma, xmu, var, std, axis, x):
    bare = np.sqrt(var)
    return norm_dx(dout, xmu / bare, gamma, xmu, var, bare, axis, x)


def norm_swapped_reshape(dout, *cache):
    N, C, H, W = dout.shape
    dx = norm_dx(dout, *cache).transpose(0, 2, 3, 1).reshape(-1, C)
    return dx.reshape(N, C, H, W)


def biased(dout, xhat, gamma, xmu, var, std, axis, x):
    d, M = dout * gamma, len(dout) - 1
    return (d - d.sum(0) / M - xhat * (d * xhat).sum(0) / M) / std


def norm_other(dout, xhat, gamma, xmu, var, std, axis, x):
    """dbeta, which belongs in the mean's term, for dout."""
    d = dout.sum(0) * dout
    return (d - d.mean(0) - xhat * (d * xhat).mean(0)) / std


def norm_mean_of_all(dout, xhat, gamma, xmu, var, std, axis, x):
    d = dout * gamma
    return (d - d.mean() - xhat * (d * xhat).mean(1)[:, None]) / std


def centred_in_test_mode(dout, xhat, gamma, std):
    d = dout * gamma
    dx = d / std - xhat * (d * xhat).mean(0) / std
    return dx - dx.mean(0)


def pool_last(dout, x, k, s, place=lambda position: position, write="="):
    """Each window's maximum gets its dout; of several windows the last."""
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dout.shape):
        row, column = divmod(place(int(x[n, c, i * s : i * s + k, j * s : j * s + k].argmax())), k)
        before = 0 if write == "=" else dx[n, c, i * s + row, j * s + column]
        dx[n, c, i * s + row, j * s + column] = before + dout[n, c, i, j]
    return dx


def pool_up_to(dout, x, k, s):
    """dout goes to all up to the maximum of each window, row by row."""
    return pool_dx(dout, x, k, s, mask=lambda w: (np.arange(w.size) <= w.argmax()).reshape(w.shape))


def assigned(dx, onehot, value):
    return np.where(onehot == 1, value, dx)


def softmax_columns(dout, p, onehot, x):
    e = np.exp(x)
    return (e / e.sum(axis=0) - onehot) / len(x)


# (layer, tensor, accepted names, backward). The first is the planted cause; the others say the same in other words.
MISTAKES = [
    ("affine", "x", "wrong-sign", scaled(-1)),
    ("affine", "x", "constant-factor", scaled(2)),
    ("affine", "w", "constant-factor", scaled(1 / 4, "w")),
    ("affine", "b", "constant-factor", lambda dout, x, w, b: dout.mean(0)),
    ("affine", "x", "zero", lambda dout, x, w, b: np.zeros_like(x)),
    ("affine", "x", "not-reshaped", lambda dout, x, w, b: dout @ w.T),
    ("affine", "w", "transposed", lambda dout, x, w, b: dout.T @ x.reshape(4, -1)),
    ("affine", "b", "not-summed", lambda dout, x, w, b: dout),
    ("affine", "b", "wrong-axis", lambda dout, x, w, b: dout.sum(1)),
    ("affine", "x", "wrong-order", exchange("x", "w")),
    ("affine", "w", "wrong-tensor", lambda dout, x, w, b: (dout @ w.T).reshape(x.shape)),
    ("affine", "w", "not-times-dout", lambda dout, x, w, b: x.reshape(4, -1).T @ np.ones((4, 5))),
    ("affine", "w", "overwritten", lambda dout, x, w, b: np.outer(x.reshape(4, -1)[-1], dout[-1])),
    ("affine", "w", "loop-range", lambda dout, x, w, b: x.reshape(4, -1)[:-1].T @ dout[:-1]),
    ("affine", "b", "loop-range", lambda dout, x, w, b: dout[1:].sum(0)),
    ("affine", "x", "dout-twice", lambda dout, x, w, b: (dout**2 @ w.T).reshape(x.shape)),
    ("affine", "b", "wrong-function", lambda dout, x, w, b: dout.max(0)),
    ("affine", "b", "wrong-operand", lambda dout, x, w, b: (x.reshape(4, -1).T @ dout).sum(0)),
    ("square", "w", "wrong-operand", lambda dout, x, w, b: (dout @ w.T).T @ dout),
    ("affine", "x", "axes-swapped", lambda dout, x, w, b: (dout @ w.T).reshape(x.shape).transpose(0, 2, 1)),
    ("affine", "x", "wrong-reshape", lambda dout, x, w, b: (dout @ w.T).reshape(4, 3, 2).transpose(0, 2, 1)),
    ("affine", "x", "loop-range partly-wrong", lambda dout, x, w, b: masked((dout @ w.T).reshape(x.shape), -1)),
    ("affine", "x", "partly-wrong", lambda dout, x, w, b: (dout @ w.T).reshape(x.shape) + only(x, 2)),
    ("linear", "weight", "transposed", lambda dout, x, w, b: x.T @ dout),
    ("linear", "weight", "constant-factor", lambda dout, x, w, b: dout.T @ x / 3),
    ("square", "x", "wrong-product", lambda dout, x, w, b: dout @ w),
    ("square", "w", "transposed", lambda dout, x, w, b: dout.T @ x),
    ("square", "w", "wrong-product", lambda dout, x, w, b: x @ dout),
    ("square", "w", "wrong-operand not-times-dout", lambda dout, x, w, b: x.T @ x),
    ("square", "b", "wrong-axis", lambda dout, x, w, b: dout.sum(1)),
    ("relu", "x", "mask-missing", lambda dout, x: dout),
    ("relu", "x", "mask-inverted", lambda dout, x: dout * (x < 0)),
    ("relu", "x", "mask-from-dout", lambda dout, x: dout * (dout > 0)),
    ("relu", "x", "mask-threshold", lambda dout, x: dout * (x > 0.5)),
    ("relu", "x", "mask-other", lambda dout, x: dout * (np.arange(24).reshape(4, 6) % 3 > 0)),
    ("relu", "x", "mask-value", lambda dout, x: np.where(x > 0, dout, 1)),
    ("relu", "x", "not-times-dout", lambda dout, x: x > 0),
    ("relu", "x", "dout-added", lambda dout, x: dout + (x > 0)),
    ("relu", "x", "dout-twice", lambda dout, x: dout * dout * (x > 0)),
    ("relu", "x", "wrong-operator divided", lambda dout, x: np.where(x > 0, dout, np.inf * dout)),
    ("leaky", "x", "mask-inverted", lambda dout, x: np.where(x < 0, dout, 0.1 * dout)),
    ("leaky", "x", "mask-missing", lambda dout, x: dout),
    ("sigmoid", "x", "factor-missing wrong-operand", lambda dout, x, y: dout * y),
    ("sigmoid", "x", "wrong-operand", lambda dout, x, y: dout * x * (1 - y)),
    ("sigmoid", "x", "wrong-operator", lambda dout, x, y: dout * y * (1 + y)),
    ("sigmoid", "x", "wrong-derivative", lambda dout, x, y: dout * np.cos(x)),
    ("sigmoid", "x", "dout-added", lambda dout, x, y: dout + y * (1 - y)),
    ("dropout", "x", "mask-missing", lambda dout, mask, p: dout),
    ("dropout", "x", "mask-missing", lambda dout, mask, p: dout / p),
    ("dropout", "x", "scale-missing constant-factor", lambda dout, mask, p: dout * mask),
    ("dropout", "x", "scale-inverted constant-factor", lambda dout, mask, p: dout * mask * p),
    ("dropout", "x", "scale-inverted constant-factor", lambda dout, mask, p: dout * mask / (1 - p)),
    ("dropout", "x", "scale-twice constant-factor", lambda dout, mask, p: dout * mask / p**2),
    ("dropout", "x", "mask-inverted", lambda dout, mask, p: dout * ~mask / p),
    ("dropout", "x", "mask-other", lambda dout, mask, p: dout * np.roll(mask, 2, axis=0) / p),
    ("dropout", "x", "mask-from-input", lambda dout, mask, p: dout * (LAYERS["dropout"].tensors["x"] > 0) / p),
    ("dropout", "x", "mask-from-output", lambda dout, mask, p: dout * (LAYERS["dropout"].output > 0) / p),
    ("dropout", "x", "mask-from-dout", lambda dout, mask, p: dout * (dout > 0) / p),
    ("dropout", "x", "wrong-operator divided", lambda dout, mask, p: np.where(mask, dout / (1 / p), np.inf * dout)),
    *[
        (norm, "x", name, backward)
        for norm in ("batchnorm", "layernorm", "spatial")
        for name, backward in (
            ("mean-term-missing", lambda *a: norm_dx(*a, mean=0)),
            ("variance-term-missing", lambda *a: norm_dx(*a, variance=0)),
            ("mean-and-variance-terms-missing", lambda *a: norm_dx(*a, mean=0, variance=0)),
            ("mean-term-sign", lambda *a: norm_dx(*a, mean=-1)),
            ("variance-term-sign", lambda *a: norm_dx(*a, variance=-1)),
            ("variance-term-factor", lambda *a: norm_dx(*a, variance=2)),
            ("direct-term-missing", lambda *a: norm_dx(*a, direct=0)),
            ("variance-not-root", lambda d, h, g, m, v, s, a, x: norm_dx(d, h, g, m, v, s**2, a, x)),
            ("std-missing", lambda d, h, g, m, v, s, a, x: norm_dx(d, h, g, m, v, 1, a, x)),
            ("gamma-missing", lambda d, h, g, m, v, s, a, x: norm_dx(d, h, 1 + 0 * g, m, v, s, a, x)),
            ("not-normalised", lambda d, h, g, m, v, s, a, x: norm_dx(d, m, g, m, v, s, a, x)),
            ("wrong-sign", lambda *a: -norm_dx(*a)),
        )
    ],
    ("batchnorm", "x", "eps-missing", norm_no_eps),
    ("spatial", "x", "eps-missing", norm_no_eps),
    ("batchnorm", "x", "gamma-twice", lambda d, h, g, m, v, s, a, x: norm_dx(d, h, g**2, m, v, s, a, x)),
    ("batchnorm", "x", "wrong-count", biased),
    ("batchnorm", "x", "mean-term-wrong", lambda dout, *c: norm_dx(dout, *c) + np.sin(dout.sum(0))),
    ("batchnorm", "x", "variance-term-wrong", lambda dout, *c: norm_dx(dout, *c) + c[0] * np.sin(dout.sum(0))),
    ("spatial", "x", "wrong-reshape", norm_swapped_reshape),
    *[
        (norm, "gamma", name, backward)
        for norm, axis in (("batchnorm", 0), ("layernorm", 0), ("spatial", (0, 2, 3)))
        for name, backward in (
            ("not-normalised", lambda d, h, g, m, v, s, a, x, axis=axis: (d * x).sum(axis)),
            ("not-normalised", lambda d, h, g, m, v, s, a, x, axis=axis: (d * m).sum(axis)),
            ("variance-not-root", lambda d, h, g, m, v, s, a, x, axis=axis: (d * m / s**2).sum(axis)),
            ("wrong-tensor not-normalised", lambda d, h, g, m, v, s, a, x, axis=axis: d.sum(axis)),
            ("constant-factor", lambda d, h, g, m, v, s, a, x, axis=axis: (d * h).mean(axis)),
            ("wrong-operator", lambda d, h, g, m, v, s, a, x, axis=axis: (d / h).sum(axis)),
        )
    ],
    ("batchnorm", "x", "direct-and-mean-terms-missing", lambda *a: norm_dx(*a, direct=0, mean=0)),
    ("layernorm", "x", "wrong-axis", norm_mean_of_all),
    ("batchnorm", "gamma", "loop-range", lambda d, h, *rest: (d * h)[:3].sum(0)),
    ("batchnorm", "x", "wrong-operand", norm_other),
    ("batchnorm", "gamma", "wrong-function", lambda d, h, *rest: (d * h).max(0)),
    ("batchnorm", "gamma", "wrong-operand", lambda d, h, g, m, v, s, a, x: (d * g).sum(0)),
    ("evaluated", "x", "statistics-constant", lambda d, h, g, s: norm_dx(d, h, g, 0, 0, s, 0, 0)),
    ("evaluated", "x", "statistics-constant", centred_in_test_mode),
    ("evaluated", "x", "wrong-order wrong-operator", lambda d, h, g, s: d * s / g),
    ("evaluated", "x", "std-missing not-a-gradient factor-missing", lambda d, h, g, s: d * g),
    ("evaluated", "x", "wrong-operator", lambda d, h, g, s: (g - s) * d),
    ("evaluated", "x", "factor-missing", lambda d, h, g, s: d),
    ("evaluated", "gamma", "factor-missing wrong-operand", lambda d, h, g, s: (d * h * s).sum(0)),
    ("batchnorm", "gamma", "wrong-axis", lambda d, h, *rest: (d * h).sum(1)),
    ("batchnorm", "gamma", "not-summed", lambda d, h, *rest: d * h),
    ("conv", "x", "kernel-flipped", lambda dout, padded, w, s, pad: conv_dx(dout, padded, w[:, :, ::-1, ::-1], s, pad)),
    ("conv", "x", "kernel-flipped", lambda dout, padded, w, s, pad: conv_dx(dout, padded, w[:, :, ::-1], s, pad)),
    ("conv", "w", "kernel-flipped", lambda *a: conv_dw(*a)[:, :, ::-1, ::-1]),
    ("conv", "w", "kernel-flipped", lambda *a: conv_dw(*a)[:, :, :, ::-1]),
    ("conv", "w", "exchanged", lambda *a: conv_dw(*a)[:, ::-1]),
    ("conv", "w", "axes-swapped", lambda *a: conv_dw(*a).swapaxes(2, 3)),
    ("conv", "x", "axes-swapped", lambda *a: conv_dx(*a).swapaxes(2, 3)),
    ("conv", "x", "shifted padding-crop", lambda *a: conv_dx(*a, crop=False)[:, :, 2:, 1:-1]),
    ("conv", "x", "shifted", lambda *a: shifted_rows(conv_dx(*a))),
    ("conv", "x", "padding-not-cropped", lambda *a: conv_dx(*a, crop=False)),
    ("conv", "x", "cropped-too-far", lambda *a: conv_dx(*a, crop=False)[:, :, 2:-2, 1:-1]),
    ("conv", "x", "empty", lambda *a: conv_dx(*a)[:, :, 1:1]),
    ("conv", "x", "stride-ignored", lambda *a: conv_dx(*a, place=lambda i, s: i)),
    ("conv", "w", "stride-ignored", lambda *a: conv_dw(*a, place=lambda i, s: i)),
    ("conv", "w", "wrong-window", lambda *a: conv_dw(*a, place=lambda i, s: i + s)),
    ("conv", "x", "overwritten", lambda *a: conv_dx(*a, write="=")),
    ("conv", "w", "overwritten", lambda *a: conv_dw(*a, write="=")),
    ("conv", "x", "dout-added", lambda *a: conv_dx(*a, multiply=np.add)),
    ("conv", "w", "dout-added", lambda *a: conv_dw(*a, multiply=np.subtract)),
    ("conv", "x", "divided", lambda *a: conv_dx(*a, multiply=np.divide)),
    ("conv", "w", "factor-missing", lambda *a: conv_dw(*a, multiply=lambda d, part: d + 0 * part)),
    ("conv", "w", "not-times-dout", lambda *a: conv_dw(*a, multiply=lambda d, part: part)),
    ("conv", "w", "loop-range", lambda dout, *a: conv_dw(masked(dout, -1), *a)),
    ("conv", "x", "loop-range", lambda dout, *a: conv_dx(masked(dout, slice(None), slice(None), 0), *a)),
    ("conv", "x", "wrong-operand", lambda dout, x, *a: conv_dx(dout, x, conv_dw(dout, x, *a), *a[1:])),
    ("conv", "x", "dout-flipped", lambda dout, *a: conv_dx(dout[:, :, ::-1], *a)),
    ("overpadded", "x", "stride-ignored", lambda *a: conv_dx(*a, place=lambda i, s: i)),
    ("overpadded", "w", "stride-ignored", lambda *a: conv_dw(*a, place=lambda i, s: i)),
    ("conv", "b", "constant-factor", lambda dout, *a: dout.mean((0, 2, 3))),
    ("conv", "b", "wrong-axis", lambda dout, *a: dout.sum((1, 2, 3))),
    ("conv", "b", "not-summed", lambda dout, *a: dout.sum((2, 3))),
    ("pool", "x", "pool-spread", lambda *a: pool_dx(*a, mask=lambda window: window < np.inf)),
    ("pool", "x", "pool-averaged", lambda *a: pool_dx(*a, mask=lambda window: np.ones_like(window) / window.size)),
    ("pool", "x", "pool-minimum", lambda *a: pool_dx(*a, mask=lambda window: window == window.min())),
    ("pool", "x", "mask-inverted", lambda *a: pool_dx(*a, mask=lambda window: window != window.max())),
    ("pool", "x", "pool-neighbour", lambda *a: pool_dx(*a, mask=lambda window: (window == window.max()).T)),
    ("pool", "x", "factor-too-many", lambda *a: pool_dx(*a, mask=lambda window: window * (window == window.max()))),
    ("pool", "x", "overwritten", lambda *a: pool_dx(*a, write="=")),
    ("pool", "x", "overwritten", pool_last),
    ("pool", "x", "wrong-sign-inside", lambda *a: pool_last(*a, place=lambda position: -position, write="+=")),
    ("pool", "x", "wrong-comparison", pool_up_to),
    ("pool", "x", "loop-range", lambda dout, *a: pool_dx(masked(dout, slice(None), -1), *a)),
    ("pool", "x", "axes-swapped", lambda dout, *a: pool_dx(dout, *a).transpose(0, 1, 3, 2)),
    ("pool", "x", "wrong-sign", lambda *a: -pool_dx(*a)),
    ("softmax", "x", "one-hot-missing", lambda dout, p, onehot, x: p / 5),
    ("softmax", "x", "wrong-operator", lambda dout, p, onehot, x: (p + onehot) / 5),
    ("softmax", "x", "constant-factor", lambda dout, p, onehot, x: p - onehot),
    ("softmax", "x", "constant-factor", lambda dout, p, onehot, x: (p - onehot) / 4),
    ("softmax", "x", "wrong-sign", lambda dout, p, onehot, x: (onehot - p) / 5),
    ("softmax", "x", "wrong-axis", softmax_columns),
    ("softmax", "x", "overwritten", lambda dout, p, onehot, x: assigned(p, onehot, 1) / 5),
    ("softmax", "x", "wrong-sign-inside", lambda dout, p, onehot, x: (-p - onehot) / 5),
    ("softmax", "x", "wrong-constant", lambda dout, p, onehot, x: (p - 1) / 5),
    ("softmax", "x", "factor-missing", lambda dout, p, onehot, x: (p / np.exp(x - x.max(1)[:, None]) - onehot) / 5),
    ("softmax", "x", "not-a-gradient", lambda dout, p, onehot, x: p),
    ("softmax", "x", "not-a-gradient", lambda dout, p, onehot, x: np.log(p)),
    ("softmax", "x", "not-a-gradient", lambda dout, p, onehot, x: x),
    ("softmax", "x", "wrong-constant wrong-operand", lambda dout, p, onehot, x: (p - 2 * onehot) / 5),
    ("softmax", "x", "factor-missing", lambda dout, p, onehot, x: (np.exp(x - x.max(1, keepdims=True)) - onehot) / 5),
    ("svm", "x", "correct-class-missing term-missing", lambda dout, mask, onehot, N: mask / N),
    ("svm", "x", "constant-factor", lambda dout, mask, onehot, N: mask - mask.sum(1, keepdims=True) * onehot),
    ("svm", "x", "own-margin-counted", lambda dout, mask, onehot, N: (mask - (1 + rows(mask)) * onehot) / N),
    ("svm", "x", "wrong-operator wrong-sign-inside", lambda dout, mask, onehot, N: (mask + rows(mask) * onehot) / N),
    ("svm", "x", "factor-missing", lambda dout, mask, onehot, N: (mask - onehot) / N),
    ("svm", "x", "wrong-axis", lambda dout, mask, onehot, N: (mask - mask.sum() * onehot) / N),
    ("hinge", "x", "not-a-gradient", lambda dout, excess, y, N: excess),
    ("hinge", "x", "wrong-comparison", lambda dout, excess, y, N: -y * (excess < 0) / N),
    ("hinge", "x", "wrong-comparison", lambda dout, excess, y, N: -y * (excess > 1) / N),
    ("hinge", "x", "mask-missing", lambda dout, excess, y, N: -y / N),
    ("hinge", "x", "wrong-operand", lambda dout, excess, y, N: -y * (y > 0) / N),
    ("logistic", "x", "not-a-gradient", lambda dout, x, y, N: y),
    ("logistic", "x", "term-missing factor-missing", lambda dout, x, y, N: -y * np.exp(-y * x) / N),
    ("logistic", "x", "label-missing", lambda dout, x, y, N: 1 / (1 + np.exp(y * x)) / N),
    ("logistic", "x", "wrong-sign-inside", lambda dout, x, y, N: -y / (1 + np.exp(-y * x)) / N),
    ("logistic", "x", "constant-factor", lambda dout, x, y, N: -y / (1 + np.exp(y * x))),
    ("logistic", "x", "wrong-sign", lambda dout, x, y, N: y / (1 + np.exp(y * x)) / N),
    ("logistic", "x", "wrong-operator", lambda dout, x, y, N: -y / (1 - np.exp(y * x)) / N),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "name", "accepted", "backward"),
    MISTAKES,
    ids=[f"{layer}-{name}-{accepted.split()[0]}-{i}" for i, (layer, name, accepted, _) in enumerate(MISTAKES)],
)
def test_the_planted_mistake_is_named_and_no_other(layer, name, accepted, backward):
    with np.errstate(all="ignore"):
        evidence = LAYERS[layer].evidence(name, backward)
    causes = diagnose(evidence)
    assert causes, "unexplained"
    said = [f"{cause.name}: {cause.message}" for cause in causes]
    assert causes[0].name in accepted.split() and {cause.name for cause in causes} <= set(accepted.split()), said
    assert all("\n" not in cause.message + cause.hint and cause.message and cause.hint for cause in causes)


EVERY_TENSOR = [(layer, name) for layer, of in LAYERS.items() for name in of.tensors]


def garbage(evidence: Evidence, seed: int = 0) -> Evidence:
    """Random numbers for a gradient."""
    given = np.random.default_rng([100, seed]).normal(size=evidence.right.shape)
    return replace(evidence, gradients={**evidence.gradients, evidence.name: given})


@pytest.mark.parametrize(("layer", "name"), EVERY_TENSOR)
def test_a_right_gradient_and_random_numbers_have_no_cause(layer, name):
    right = LAYERS[layer].evidence(name, lambda dout, *cache: {})
    assert diagnose(right) == []
    for seed in range(3):
        assert diagnose(garbage(right, seed)) == []


@pytest.mark.parametrize(("layer", "name"), EVERY_TENSOR)
def test_no_single_rule_fires_on_random_numbers_or_on_a_right_gradient(layer, name):
    """A right gradient is of no rule's business, but each has to hold back by itself."""
    right = LAYERS[layer].evidence(name, lambda dout, *cache: {})
    with np.errstate(all="ignore"):
        for rule in (*NOTHING, *RULES, *OTHERWISE):
            assert list(rule(garbage(right))) == [], rule.__name__
        for rule in (*NOTHING, *RULES):
            assert list(rule(right)) == [], rule.__name__


def test_every_layer_is_recognised():
    for layer, of in LAYERS.items():
        for name in of.tensors:
            evidence = of.evidence(name, lambda dout, *cache: {})
            assert recognised(evidence) or windows(evidence), (layer, name)
    norm = normalised(LAYERS["layernorm"].evidence("gamma", lambda dout, *cache: {}))
    assert norm.axes == (1,) and norm.eps == 1e-5 and norm.x == "x"
    conv = windows(LAYERS["conv"].evidence("w", lambda dout, *cache: {}))[0]
    assert (conv.kind, conv.stride, conv.pad) == ("filters", 2, 1)


@pytest.mark.parametrize("index", [0, 6, 15, 25, 31, 43, 50, 59, 64, 95, 118, 126, 145])
def test_elements_that_were_not_measured_do_not_matter(index):
    layer, name, accepted, backward = MISTAKES[index]
    evidence = LAYERS[layer].evidence(name, backward)
    numeric = evidence.right.copy()
    numeric[:, np.random.default_rng(index).random(numeric.shape[1:]) < 0.3] = np.nan
    sampled = replace(evidence, numeric={**evidence.numeric, name: numeric})
    causes = diagnose(sampled)
    assert causes and causes[0].name in accepted.split()
    nothing = replace(evidence, numeric={**evidence.numeric, name: np.full_like(numeric, np.nan)})
    assert [cause.name for cause in diagnose(nothing)] in ([], ["wrong-shape"])


def test_a_difference_within_what_is_allowed_is_no_cause():
    layer = LAYERS["affine"]
    noise = np.random.default_rng(0).uniform(-1, 1, size=(4, 2, 3)) * 1e-7
    right = layer.evidence("x", lambda dout, x, w, b: (dout @ w.T).reshape(x.shape) + noise)
    assert diagnose(right) == []
    twice = layer.evidence("x", lambda dout, x, w, b: 2 * (dout @ w.T).reshape(x.shape) + noise)
    assert [cause.name for cause in diagnose(twice)] == ["constant-factor"]
    off = layer.evidence("x", lambda dout, x, w, b: 2 * (dout @ w.T).reshape(x.shape) + 1e4 * noise)
    assert diagnose(off) == []


def test_gradients_that_accumulate_from_call_to_call():
    total = {}

    def backward(dout, *cache):
        gradients = affine(dout, *cache)
        total["w"] = total.get("w", 0) + gradients["w"]
        return {**gradients, "w": total["w"].copy()}

    causes = diagnose(LAYERS["affine"].evidence("w", backward))
    assert [cause.name for cause in causes] == ["accumulates"]


def test_the_gradient_of_another_tensor_turned_round():
    tensors = {"x": normal(2, 2, 3, 3), "w": normal(2, 2, 3, 3, seed=1), "b": normal(2)}
    layer = Layer(conv_forward, tensors, {"conv_param": {"stride": 1, "pad": 1}})
    causes = diagnose(layer.evidence("x", lambda *a: conv_dw(*a)[:, :, ::-1, ::-1]))
    assert [cause.name for cause in causes] == ["wrong-tensor"] and "reverse order" in causes[0].message
    assert diagnose(layer.evidence("x", lambda *a: conv_dw(*a)[:, :, ::-1] + 0.1)) == []


def test_what_is_no_gradient_is_called_by_its_name():
    def message(layer, name, backward):
        return diagnose(LAYERS[layer].evidence(name, backward))[0].message

    assert message("softmax", "x", lambda dout, p, onehot, x: p).startswith("p itself stands")
    assert message("hinge", "x", lambda dout, excess, y, N: excess).startswith("excess itself stands")
    assert diagnose(LAYERS["softmax"].evidence("x", lambda dout, p, onehot, x: p + 0.01 * x)) == []


def test_terms_of_the_statistics_are_wrong_only_where_these_are_constants():
    """The same terms are right in training, and in evaluation their absence is."""
    assert diagnose(LAYERS["batchnorm"].evidence("x", norm_dx)) == []
    assert diagnose(LAYERS["evaluated"].evidence("x", lambda d, h, g, s: d * g / s)) == []
    (cause,) = diagnose(
        LAYERS["evaluated"].evidence("x", lambda d, h, g, s: norm_dx(d, h, g, 0, 0, s, 0, 0, variance=0))
    )
    assert cause.name == "statistics-constant" and "terms of the mean stand" in cause.message


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2, "2 times too large"),
        (0.5, "2 times too small"),
        (4, "4 times too large (the batch size"),
        (1 / 4, "4 times too small (the batch size"),
        (-4, "4 times too large and of the wrong sign (the batch size"),
        (6, "6 times too large (the number of inputs"),
        (1 / 5, "5 times too small (the number of outputs"),
        (3 / 4, "1.33333 times too small"),
        (1.2345, "1.2345 times too large"),
    ],
)
def test_a_constant_factor_is_named(factor, words):
    (cause,) = diagnose(LAYERS["affine"].evidence("x", scaled(factor)))
    assert cause.name == "constant-factor" and words in cause.message


def test_messages_hold_figures_and_formulas():
    def message(layer, name, backward):
        return diagnose(LAYERS[layer].evidence(name, backward))[0].message

    assert "1/p = 1.42857" in message("dropout", "x", lambda dout, mask, p: dout * mask)
    assert "wrong order: [1, 0]" in message("conv", "w", lambda *a: conv_dw(*a)[:, ::-1])
    assert "(3, 2, 7, 7) instead of (3, 2, 5, 5)" in message("conv", "x", lambda *a: conv_dx(*a, crop=False))
    assert "`(p + onehot) / N`" in message("softmax", "x", lambda dout, p, onehot, x: (p + onehot) / 5)
    assert "between" in message("relu", "x", lambda dout, x: dout * (x > 0.5))
    assert "that of w stands where that of x belongs" in message("affine", "x", exchange("x", "w"))
    assert "divided by 5, not by 6" in message("batchnorm", "x", biased)
    assert "the last sample of dout" in message(
        "affine", "w", lambda dout, x, w, b: x.reshape(4, -1)[:-1].T @ dout[:-1]
    )
    assert "in sample 2" in message("affine", "x", MISTAKES[22][3])


def test_where_a_gradient_is_not_finite():
    x = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]])
    layer = Layer(lambda x: (np.cos(x), (x,)), {"x": x})
    with np.errstate(all="ignore"):
        evidence = layer.evidence("x", lambda dout, x: dout * np.where(x == 0, np.nan, x))
    (cause,) = diagnose(evidence)
    assert cause.name == "not-finite" and "NaN at 2 of 6 elements: where the input is 0" in cause.message

    large = Layer(softmax_forward, {"x": 1000 * normal(5, 4)}, {"y": LABELS}, loss=True)
    with np.errstate(all="ignore"):
        e = np.exp(large.tensors["x"])
        evidence = large.evidence("x", lambda dout, p, onehot, x: (e / e.sum(1, keepdims=True) - onehot) / 5)
    (cause,) = diagnose(evidence)
    assert cause.name == "not-shifted" and "subtract the largest score" in cause.hint


def test_a_gradient_that_should_be_zero():
    layer = Layer(lambda x: (np.round(x), (x,)), {"x": normal(3, 4)})
    (cause,) = diagnose(layer.evidence("x", lambda dout, x: np.sin(dout + x)))
    assert cause.name == "should-be-zero"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.s_[-1], "in the last sample"),
        (np.s_[:, 0], "in the first channel"),
        (np.s_[:, :, -1], "in the last row"),
        (np.s_[..., ::2], "in every second column"),
        (np.s_[..., :2], "in the first 2 columns"),
        (np.s_[:, 1, 0], "in the first row of channel 1"),
        (np.s_[:, :, 1:-1, 1:-1], "in the interior, away from the border"),
        (np.s_[:, :, [0, -1]], "in the first and the last row"),
    ],
)
def test_a_set_of_elements_in_words(wrong, words):
    elements = np.zeros((3, 3, 4, 5), bool)
    elements[wrong] = True
    assert describe(elements) == words


def test_a_set_of_elements_without_a_name():
    assert describe(np.random.default_rng(0).random((3, 3, 4, 5)) < 0.5) == ""
    assert describe(np.zeros((2, 2), bool)) == "" and describe(np.ones((2, 2), bool)) == ""


def test_a_slip_is_never_the_formula():
    found = slips("mask = x > 0\nresult = -dout * mask / N", ("x", "dout"))
    lines = [(slip.kind, slip.line) for slip in found]
    for slip in (
        ("comparison", "x >= 0"),
        ("comparison", "x > 1"),
        ("operand", "dout > 0"),
        ("sign", "dout * mask / N"),
        ("factor", "-dout * mask"),
        ("factor", "-dout / N"),
        ("operator", "-dout * mask * N"),
        ("operator", "(-dout + mask) / N"),
    ):
        assert slip in lines
    assert all(slip.line != slip.was for slip in found)


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((3, 0)),
        np.ones(3),
        np.ones((3, 1)),
        np.ones((3, 5, 3, 2, 4), np.float32),
        np.ones((3, 2, 3, 5, 5), bool),
        np.ones((3, 3, 2, 5, 5)) * 1j,
        np.full((3, 3, 2, 5, 5), None),
        np.full((3, 3, 2, 5, 5), np.nan),
        np.full((3, 3, 2, 5, 5), -np.inf),
        np.arange(450).reshape(3, 3, 2, 5, 5),
        np.full((3, 3, 2, 5, 5), 1e300),
        np.full((3, 3, 2, 5, 5), 5e-324),
    ],
    ids=lambda given: f"{given.shape}-{given.dtype}",
)
def test_gradients_of_any_kind_and_shape_are_read(given):
    for layer, name in EVERY_TENSOR:
        evidence = LAYERS[layer].evidence(name, lambda dout, *cache: {})
        given = given[: len(evidence.douts)]
        for cause in diagnose(replace(evidence, gradients={**evidence.gradients, name: given})):
            assert cause.message and cause.hint


@pytest.mark.parametrize("value", [np.nan, 1e300])
@pytest.mark.parametrize(("layer", "name"), EVERY_TENSOR)
def test_extreme_numbers_are_read(layer, name, value):
    evidence = LAYERS[layer].evidence(name, lambda dout, *cache: {})
    full, partly = np.full(evidence.right.shape, value), evidence.right.copy()
    partly[..., 0] = value
    for given in (full, partly):
        causes = diagnose(replace(evidence, gradients={**evidence.gradients, name: given}))
        assert np.isfinite(value) or causes, "not finite, and nothing is said"


def test_the_names_of_tensors_and_options_do_not_matter():
    layer = LAYERS["conv"]
    evidence = layer.evidence("x", lambda dout, padded, w, s, pad: conv_dx(dout, padded, w[:, :, ::-1, ::-1], s, pad))
    names = {"x": "image", "w": "filters", "b": "c"}
    renamed = Evidence(
        "image",
        *({names[key]: value for key, value in d.items()} for d in (evidence.tensors,)),
        {},
        evidence.output,
        evidence.douts,
        *(
            {names[key]: value for key, value in d.items()}
            for d in (evidence.gradients, evidence.numeric, evidence.allowed)
        ),
    )
    assert [cause.name for cause in diagnose(renamed)] == ["kernel-flipped"]


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1), (2, 3, 4), (1, 1, 1, 1), (2, 1, 2, 1, 2), (0, 3)])
def test_tensors_of_any_shape_are_read(shape):
    options = {"p": np.nan, "eps": np.inf, "mode": "train", "flags": [1, 2], "table": np.arange(3), "mask": None}
    layer = Layer(
        lambda x, s, **rest: (np.sin(x) * s, (x, s)), {"x": np.array(normal(*shape) + 0.3), "s": np.array(1.7)}, options
    )
    right = {"x": lambda dout, x, s: dout * np.cos(x) * s, "s": lambda dout, x, s: (dout * np.sin(x)).sum()}
    for name, backward in right.items():
        assert diagnose(layer.evidence(name, backward)) == []
        for change in (
            np.negative,
            np.square,
            np.ravel,
            lambda g: 2 * g,
            lambda g: g + 1,
            lambda g: g[None],
            lambda g: np.nan * g,
        ):
            evidence = layer.evidence(name, lambda *a, change=change, backward=backward: change(np.array(backward(*a))))
            assert all(cause.message and cause.hint for cause in diagnose(evidence))
