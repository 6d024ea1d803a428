"""Losses whose gradient is a short formula: softmax, hinges, logistic, squares."""

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence
from .formula import Formula, Names, sums
from .general import options

SOFTMAX = (
    "p = exp(x - max(x)) / sum(exp(x - max(x)))\nresult = p - onehot",
    "p = exp(x) / sum(exp(x))\nresult = p - onehot",
    "e = exp(x - max(x))\np = e / sum(e)\nresult = p - onehot",
    "shifted = x - max(x)\nlogp = shifted - log(sum(exp(shifted)))\nresult = exp(logp) - onehot",
    "shifted = x - max(x)\ne = exp(shifted)\nsums = sum(e)\np = e / sums\nresult = p - onehot",
    "p = exp(x - max(x)) / sum(exp(x - max(x)))\nresult = (1 - onehot) * p + onehot * (p - 1)",
)
SVM = (
    "mask = (x - correct + margin > 0) * (1 - onehot)\nresult = mask - sum(mask) * onehot",
    "mask = excess > 0\nresult = mask * 1 - sum(mask) * onehot",
    "mask = maximum(x - correct + margin, 0) * (1 - onehot) > 0\nresult = mask * (1 - onehot) - sum(mask) * onehot",
)
LOGISTIC = (
    "result = -y * exp(-y * x) / (1 + exp(-y * x))",
    "result = -y / (1 + exp(y * x))",
    "result = y * (1 / (1 + exp(-y * x)) - 1)",
    "result = -y * exp(-logaddexp(0, y * x))",
    "result = -y * (1 - y * x > 0)",
    "result = -y * (excess > 0)",
)
SIGMOID = "result = 1 / (1 + exp(-x)) - y"
SQUARES = ("result = 2 * (x - y)", "result = x - y")
# -- summed over the batch; with the mean each is divided by N


def losses(e: Evidence) -> Iterator[Formula]:
    """The usual losses of scores and labels; the numbers say which, and whether summed or averaged."""
    x = e.tensor
    if not e.is_loss or x.ndim == 0:
        return
    for labels in (value for value in e.others.values() if isinstance(value, np.ndarray)):
        if labels.size == x.size:
            y = labels.reshape(x.shape).astype(np.float64)
            yield from (f for source in SQUARES for f in _summed_or_mean(source, {"x": x, "y": y}, x))
            sign = 2 * y - 1 if np.all((y == 0) | (y == 1)) else y
            if np.all(np.abs(sign) == 1):
                names: Names = {"x": x, "exp": np.exp, "logaddexp": np.logaddexp, "excess": 1 - sign * x}
                yield from (f for source in LOGISTIC for f in _summed_or_mean(source, {**names, "y": sign}, x))
                yield from _summed_or_mean(SIGMOID, {**names, "y": (sign + 1) / 2}, x)
        if labels.ndim == 1 and x.ndim == 2 and len(labels) == len(x) and labels.dtype.kind in "iu":
            yield from _classes(e, labels)


def _classes(e: Evidence, labels: np.ndarray) -> Iterator[Formula]:
    x = e.tensor
    onehot = (labels[:, None] == np.arange(x.shape[1])).astype(np.float64)
    names: Names = {
        **sums((1,)),
        "exp": np.exp,
        "log": np.log,
        "max": lambda z: np.max(z, axis=1, keepdims=True),
        "min": lambda z: np.min(z, axis=1, keepdims=True),
        "x": x,
        "onehot": onehot,
        "ones_in_columns_y": np.broadcast_to(np.any(onehot, axis=0), x.shape).astype(np.float64),
        "onehot_of_y_minus_1": np.roll(onehot, -1, axis=1),
        "onehot_of_y_plus_1": np.roll(onehot, 1, axis=1),
    }
    yield from (formula for source in SOFTMAX for formula in _summed_or_mean(source, names, x))
    names["maximum"] = np.maximum
    names["correct"] = (x * onehot).sum(axis=1, keepdims=True)
    margins = [value for name, value in options(e).items() if name in ("margin", "delta")]
    for margin in dict.fromkeys((*margins, 1)):
        names["excess"] = np.maximum(x - names["correct"] + margin, 0) * (1 - onehot)
        for source in SVM:
            yield from _summed_or_mean(source.replace("margin", f"{margin:g}"), names.copy(), x)


def _summed_or_mean(source: str, names: Names, x: np.ndarray) -> Iterator[Formula]:
    yield Formula(source, names)
    lines, result = source.rpartition("result = ")[::2]
    simple = " + " not in result and " - " not in result
    for N in dict.fromkeys((len(x), x.size)):
        yield Formula(f"{lines}result = {result if simple else f'({result})'} / N", {**names, "N": N})
