"""What coursework functions should give: fastbp's layers and losses in the coursework's conventions.

Each `reference(out, **arguments)` gives (expected, backward), with `backward(dout)` the
gradients; see `assignment.Convention`.
"""

import math
from collections.abc import Callable

import numpy as np

from ..layers import BatchNorm1d, BatchNorm2d, Conv2d, Linear, MaxPool2d, ReLU
from ..layers.base import Layer
from ..losses import Loss
from .assignment import Disagrees


def _run(layer: Layer, x: np.ndarray, training: bool = True, **parameters: np.ndarray) -> np.ndarray:
    """The layer's output in float64, with these parameters."""
    layer.astype(np.float64)
    for name, value in parameters.items():
        getattr(layer, name).value = value
    return layer.forward(np.array(x, np.float64), training=training)


def affine(out, x, w, b):
    """out = x w + b with x (N, …) flattened to (N, D), w (D, M), b (M,)."""
    layer = Linear(*w.shape)
    expected = _run(layer, x.reshape(len(x), -1), weight=w.T, bias=b)

    def backward(dout):
        return layer.backward(dout).reshape(x.shape), layer.weight.grad.T, layer.bias.grad

    return expected, backward


def relu(out, x):
    """out = max(0, x)"""
    layer = ReLU()
    return _run(layer, x), lambda dout: (layer.backward(dout),)


def batch_norm(unbiased_running: bool = False, reversed_momentum: bool = False, spatial: bool = False) -> Callable:
    """Batch norm with bn_param: running ← momentum · running + (1 − momentum) · batch, of the biased variance.

    `unbiased_running` takes the unbiased variance, `reversed_momentum` exchanges momentum and 1 − momentum.
    """

    def reference(out, x, gamma, beta, bn_param):
        training, momentum = bn_param["mode"] == "train", bn_param.get("momentum", 0.9)
        layer = (BatchNorm2d if spatial else BatchNorm1d)(len(gamma), eps=bn_param.get("eps", 1e-5))
        zeros = np.zeros(len(gamma))
        mean, var = bn_param.get("running_mean", zeros), bn_param.get("running_var", zeros)
        layer.astype(np.float64)
        layer.state["running_mean"], layer.state["running_var"] = mean, var
        expected = _run(layer, x, training, gamma=gamma, beta=beta)
        if training:
            axes = (0, 2, 3) if spatial else 0
            count = x.size // max(x.shape[1], 1)
            batch = x.mean(axis=axes), x.var(axis=axes) * (count / max(count - 1, 1) if unbiased_running else 1)
            keep = 1 - momentum if reversed_momentum else momentum
            for key, running, new in zip(("running_mean", "running_var"), (mean, var), batch, strict=True):
                bn_param[key] = keep * running + (1 - keep) * new
        return expected, lambda dout: (layer.backward(dout), layer.gamma.grad, layer.beta.grad)

    return reference


def layer_norm(out, x, gamma, beta, ln_param):
    """Each row of x (N, D) with mean 0 and variance 1, times gamma (D,), plus beta: rows are batch norm's columns."""
    layer = BatchNorm1d(len(x), eps=ln_param.get("eps", 1e-5))
    normal = _run(layer, x.T).T

    def backward(dout):
        return layer.backward(np.ascontiguousarray((dout * gamma).T)).T, (dout * normal).sum(axis=0), dout.sum(axis=0)

    return normal * gamma + beta, backward


def dropout(inverted: bool = True, p_drops: bool = False) -> Callable:
    """Dropout with dropout_param["p"], the probability to keep unless `p_drops`.

    Kept elements are scaled by 1/keep in training if `inverted`; if not, all are by `keep` in evaluation. Which
    elements were kept is read off the submission's output.
    """

    def reference(out, x, dropout_param):
        keep = 1 - dropout_param["p"] if p_drops else dropout_param["p"]
        if dropout_param["mode"] != "train":
            scale = 1.0 if inverted else keep
            return x * scale, lambda dout: (dout * scale,)
        if out is None or np.shape(out) != x.shape:
            raise Disagrees(f"the output must have the input's shape {x.shape}")
        kept = np.asarray(out) != 0
        share, spread = np.mean(kept), 5 * math.sqrt(keep * (1 - keep) / max(x.size, 1))
        if x.size >= 100 and abs(share - keep) > spread:
            raise Disagrees(f"{share:.0%} of the elements are kept; {keep:.0%} should be")
        if not kept.any() and (1 - keep) ** x.size < 0.01:
            raise Disagrees("no element is kept")
        changes = np.count_nonzero(np.diff(kept.ravel()))
        if x.size >= 100 and changes < keep * (1 - keep) * (x.size - 1):  # twice as many, for independent choices
            raise Disagrees("which elements are kept is not random: they stand together")
        mask = kept / keep if inverted else kept.astype(np.float64)
        return x * mask, lambda dout: (dout * mask,)

    return reference


def conv(flipped: bool = False) -> Callable:
    """Cross-correlation with conv_param's stride and pad (1 and 0 without).

    If `flipped`, convolution: the filters are turned by 180°.
    """

    def reference(out, x, w, b=None, conv_param=None):
        stride, pad = (conv_param or {}).get("stride", 1), (conv_param or {}).get("pad", 0)
        layer = Conv2d(w.shape[1], w.shape[0], w.shape[2:], stride=stride, padding=pad, bias=b is not None)
        turned = w[:, :, ::-1, ::-1] if flipped else w
        expected = _run(layer, x, weight=turned, **({} if b is None else {"bias": b}))

        def backward(dout):
            dx, dw = layer.backward(dout), layer.weight.grad
            return (dx, dw[:, :, ::-1, ::-1] if flipped else dw, *(() if b is None else (layer.bias.grad,)))

        return expected, backward

    return reference


def max_pool(out, x, pool_param):
    """The largest of each window; windows that would stick out are left out."""
    layer = MaxPool2d((pool_param["pool_height"], pool_param["pool_width"]), stride=pool_param["stride"])
    return _run(layer, x), lambda dout: (layer.backward(dout),)


def loss(make: Callable[[], Loss], summed: bool = False) -> Callable:
    """The loss of scores x and labels y, the mean over the batch, or the sum."""

    def reference(out, x, y):
        of = make()
        factor = len(x) if summed else 1
        value = of.forward(np.array(x, np.float64), y) * factor
        return np.float64(value), lambda: (of.backward() * factor,)

    return reference
