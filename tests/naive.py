"""Slow, independent reference definitions used by the tests as an oracle.

Every function spells out the textbook definition one element at a time, in float64, with plain
Python loops. Nothing here is meant to be fast, and nothing here may import the library under test.

Conventions:

* inputs may be anything ``np.asarray`` takes, of any float type; they are never modified;
* results are new float64 arrays (int64 for positions) or plain Python floats;
* a pair of strides or kernel sizes is ``(vertical, horizontal)``;
* a padding is ``((top, bottom), (left, right))``, counted in elements.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
State = dict[str, Any]


def _float64(values: npt.ArrayLike) -> Array:
    """A fresh float64 copy of ``values``, same shape."""
    return np.array(values, dtype=np.float64)


# --------------------------------------------------------------------------------------------------
# Fully connected layer
# --------------------------------------------------------------------------------------------------


def linear(x: npt.ArrayLike, w: npt.ArrayLike, b: npt.ArrayLike | None = None) -> Array:
    """y[n, f] = sum over d of x[n, d] * w[f, d], plus b[f].

    x (N, D), w (F, D), b (F,) or None -> y (N, F).
    """
    x, w = _float64(x), _float64(w)
    bias = None if b is None else _float64(b)
    n_rows, n_in = x.shape
    n_out, w_in = w.shape
    assert w_in == n_in, (x.shape, w.shape)
    y = np.zeros((n_rows, n_out))
    for n in range(n_rows):
        for f in range(n_out):
            total = 0.0
            for d in range(n_in):
                total += float(x[n, d]) * float(w[f, d])
            if bias is not None:
                total += float(bias[f])
            y[n, f] = total
    return y


# --------------------------------------------------------------------------------------------------
# Element-wise activations
# --------------------------------------------------------------------------------------------------


def relu(x: npt.ArrayLike) -> Array:
    """y = x where x > 0, else 0 (a NaN stays NaN). Any shape -> same shape."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = float(x[index])
        y[index] = 0.0 if value <= 0.0 else value
    return y


def leaky_relu(x: npt.ArrayLike, negative_slope: float = 0.01) -> Array:
    """y = x where x > 0, else negative_slope * x. Any shape -> same shape."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = float(x[index])
        y[index] = value if value > 0.0 else negative_slope * value
    return y


def sigmoid(x: npt.ArrayLike) -> Array:
    """y = 1 / (1 + exp(-x)), never raising e to a positive power. Any shape -> same shape.

    For x < 0 the equal form exp(x) / (1 + exp(x)) is used.
    """
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = float(x[index])
        if value >= 0.0:
            y[index] = 1.0 / (1.0 + math.exp(-value))
        else:
            power = math.exp(value)
            y[index] = power / (1.0 + power)
    return y


def tanh(x: npt.ArrayLike) -> Array:
    """y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)), by math.tanh. Any shape -> same shape."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = math.tanh(float(x[index]))
    return y


def gelu(x: npt.ArrayLike, approximate: str = "none") -> Array:
    """y = x * erfc(-x / sqrt(2)) / 2, or with "tanh" x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = float(x[index])
        if approximate == "tanh":
            y[index] = value * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3))) / 2.0
        else:
            y[index] = value * math.erfc(-value / math.sqrt(2.0)) / 2.0
    return y


def scale(x: npt.ArrayLike, factor: float) -> Array:
    """y = factor * x. Any shape -> same shape."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = factor * float(x[index])
    return y


def silu(x: npt.ArrayLike) -> Array:
    """y = x / (1 + exp(-x)). Any shape -> same shape."""
    return _float64(x) * sigmoid(x)


# --------------------------------------------------------------------------------------------------
# Softmax
# --------------------------------------------------------------------------------------------------


def softmax(x: npt.ArrayLike) -> Array:
    """y[n, c] = exp(x[n, c] - m) / sum over k of exp(x[n, k] - m), m = max over k of x[n, k].

    x (N, C) -> y (N, C); each row sums to 1. Any number of leading axes will do.
    """
    x = _float64(x)
    y = np.zeros(x.shape)
    n_classes = x.shape[-1]
    for row in np.ndindex(x.shape[:-1]):
        largest = max(float(x[(*row, c)]) for c in range(n_classes))
        total = 0.0
        for c in range(n_classes):
            total += math.exp(float(x[(*row, c)]) - largest)
        for c in range(n_classes):
            y[(*row, c)] = math.exp(float(x[(*row, c)]) - largest) / total
    return y


def log_softmax(x: npt.ArrayLike) -> Array:
    """y[n, c] = (x[n, c] - m) - log(sum over k of exp(x[n, k] - m)), m = max over k of x[n, k].

    x (N, C) -> y (N, C); exp(y) is the softmax. Any number of leading axes will do.
    """
    x = _float64(x)
    y = np.zeros(x.shape)
    n_classes = x.shape[-1]
    for row in np.ndindex(x.shape[:-1]):
        largest = max(float(x[(*row, c)]) for c in range(n_classes))
        total = 0.0
        for c in range(n_classes):
            total += math.exp(float(x[(*row, c)]) - largest)
        for c in range(n_classes):
            y[(*row, c)] = (float(x[(*row, c)]) - largest) - math.log(total)
    return y


# --------------------------------------------------------------------------------------------------
# Dropout
# --------------------------------------------------------------------------------------------------


def dropout(x: npt.ArrayLike, mask: npt.ArrayLike, rate: float) -> Array:
    """y = x / (1 - rate) where mask is true (kept), 0 where it is false (dropped).

    x and mask of one shape -> y of that shape; ``rate`` is the probability of being dropped.
    """
    x = _float64(x)
    kept = np.asarray(mask)
    assert kept.shape == x.shape, (kept.shape, x.shape)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        if bool(kept[index]):
            y[index] = float(x[index]) / (1.0 - rate)
    return y


# --------------------------------------------------------------------------------------------------
# Batch normalisation (axis 1 is the channel)
# --------------------------------------------------------------------------------------------------


def _channel_values(x: Array, channel: int) -> list[float]:
    """Every element of x (N, C, ...) that belongs to the channel, as a plain list of M floats."""
    return [float(x[index]) for index in np.ndindex(x.shape) if index[1] == channel]


def _channel_moments(x: Array, channel: int) -> tuple[float, float]:
    """(mean, biased variance) of one channel of x (N, C, ...): sums over its M values, over M."""
    values = _channel_values(x, channel)
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) * (value - mean)
    return mean, squares / len(values)


def batch_norm_training(
    x: npt.ArrayLike, gamma: npt.ArrayLike, beta: npt.ArrayLike, eps: float
) -> tuple[Array, Array, Array]:
    """y = gamma[c] * (x - mean[c]) / sqrt(var[c] + eps) + beta[c], with this batch's moments.

    mean[c] and var[c] (biased: divided by M) run over the M elements of channel c.
    x (N, C), (N, C, L) or (N, C, H, W), gamma and beta (C,) -> (y like x, mean (C,), var (C,)).
    """
    x = _float64(x)
    n_channels = x.shape[1]
    mean, var = np.zeros(n_channels), np.zeros(n_channels)
    for c in range(n_channels):
        mean[c], var[c] = _channel_moments(x, c)
    return batch_norm_evaluation(x, gamma, beta, mean, var, eps), mean, var


def batch_norm_evaluation(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    eps: float,
) -> Array:
    """y = gamma[c] * (x - running_mean[c]) / sqrt(running_var[c] + eps) + beta[c].

    x (N, C), (N, C, L) or (N, C, H, W), all the others (C,) -> y like x.
    """
    x, gamma, beta = _float64(x), _float64(gamma), _float64(beta)
    mean, var = _float64(running_mean), _float64(running_var)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        c = index[1]
        normalised = (float(x[index]) - float(mean[c])) / math.sqrt(float(var[c]) + eps)
        y[index] = float(gamma[c]) * normalised + float(beta[c])
    return y


def running_update(running: npt.ArrayLike, batch_value: npt.ArrayLike, momentum: float) -> Array:
    """new[c] = (1 - momentum) * running[c] + momentum * batch_value[c]. (C,), (C,) -> (C,)."""
    running, batch_value = _float64(running), _float64(batch_value)
    assert running.shape == batch_value.shape, (running.shape, batch_value.shape)
    new = np.zeros(running.shape)
    for index in np.ndindex(running.shape):
        new[index] = (1.0 - momentum) * float(running[index]) + momentum * float(batch_value[index])
    return new


def unbiased_variance(x: npt.ArrayLike) -> Array:
    """v[c] = biased variance of channel c * M / (M - 1); the factor is 1 when M == 1.

    x (N, C), (N, C, L) or (N, C, H, W) -> v (C,), M being the number of elements of a channel.
    """
    x = _float64(x)
    n_channels = x.shape[1]
    result = np.zeros(n_channels)
    for c in range(n_channels):
        count = len(_channel_values(x, c))
        _, biased = _channel_moments(x, c)
        result[c] = biased if count == 1 else biased * count / (count - 1)
    return result


# --------------------------------------------------------------------------------------------------
# Convolution and pooling
# --------------------------------------------------------------------------------------------------


def _output_size(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """How many whole windows fit: floor((before + size + after - kernel) / stride) + 1."""
    count = (before + size + after - kernel) // stride + 1
    assert count >= 1, "the window is larger than the padded input"
    return count


def conv2d_padding(size: int, kernel: int, stride: int, padding: int | str) -> Pair:
    """(before, after): the zeros to put on either side of one axis of length ``size``.

    * an int p: (p, p);
    * "valid": (0, 0);
    * "same": out = ceil(size / stride), total = max((out - 1) * stride + kernel - size, 0), split
      in halves, an odd one left over going after (bottom or right);
    * "full": (kernel - 1, kernel - 1).
    """
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding == "same":
            out = math.ceil(size / stride)
            total = max((out - 1) * stride + kernel - size, 0)
            before = total // 2
            return before, total - before
        if padding == "full":
            return kernel - 1, kernel - 1
        raise ValueError(f"unknown padding {padding!r}")
    return int(padding), int(padding)


def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    b: npt.ArrayLike | None = None,
    stride: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
) -> Array:
    """Cross-correlation (the kernel is not flipped) of a zero-padded input.

    y[n, f, i, j] = b[f] + sum over c, p, q of
                    x[n, c, i * sh + p - top, j * sw + q - left] * w[f, c, p, q],
    an x outside its plane counting as 0.

    x (N, C, H, W), w (F, C, KH, KW), b (F,) or None -> y (N, F, OH, OW), with
    OH = floor((top + H + bottom - KH) / sh) + 1 and OW alike.
    """
    x, w = _float64(x), _float64(w)
    bias = None if b is None else _float64(b)
    n_images, n_channels, height, width = x.shape
    n_filters, w_channels, k_height, k_width = w.shape
    assert w_channels == n_channels, (x.shape, w.shape)
    (top, bottom), (left, right) = padding
    out_height = _output_size(height, k_height, stride[0], top, bottom)
    out_width = _output_size(width, k_width, stride[1], left, right)
    y = np.zeros((n_images, n_filters, out_height, out_width))
    for n, f, i, j in np.ndindex(y.shape):
        total = 0.0
        for c in range(n_channels):
            for p in range(k_height):
                for q in range(k_width):
                    row = i * stride[0] + p - top
                    column = j * stride[1] + q - left
                    if 0 <= row < height and 0 <= column < width:
                        total += float(x[n, c, row, column]) * float(w[f, c, p, q])
        if bias is not None:
            total += float(bias[f])
        y[n, f, i, j] = total
    return y


def max_pool2d(
    x: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Padding = ((0, 0), (0, 0)),
) -> tuple[Array, Indices]:
    """y[n, c, i, j] = the largest x[n, c, h, w] of the window; padding is never a candidate.

    The window is h = i * sh - top + (0 .. KH - 1), w = j * sw - left + (0 .. KW - 1), cut to the
    plane. argmax[n, c, i, j] = h * W + w of the first maximum in row-major order, h and w counted
    in the unpadded plane. A window wholly in the padding is refused with a ValueError.

    x (N, C, H, W) -> (y, argmax), both (N, C, OH, OW), OH = floor((top + H + bottom - KH) / sh) + 1
    and OW alike.
    """
    x = _float64(x)
    n_images, n_channels, height, width = x.shape
    (top, bottom), (left, right) = padding
    out_height = _output_size(height, kernel[0], stride[0], top, bottom)
    out_width = _output_size(width, kernel[1], stride[1], left, right)
    y = np.zeros((n_images, n_channels, out_height, out_width))
    argmax = np.zeros(y.shape, dtype=np.int64)
    for n, c, i, j in np.ndindex(y.shape):
        best, best_position = 0.0, -1
        for p in range(kernel[0]):
            for q in range(kernel[1]):
                row = i * stride[0] + p - top
                column = j * stride[1] + q - left
                if 0 <= row < height and 0 <= column < width:
                    value = float(x[n, c, row, column])
                    if best_position < 0 or value > best:
                        best, best_position = value, row * width + column
        if best_position < 0:
            raise ValueError(f"the window of output ({i}, {j}) holds nothing but padding")
        y[n, c, i, j] = best
        argmax[n, c, i, j] = best_position
    return y, argmax


def avg_pool2d(
    x: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Padding = ((0, 0), (0, 0)),
) -> Array:
    """y[n, c, i, j] = (sum of the window, padding counted as zeros) / (KH * KW), always.

    The window is the one of ``max_pool2d``.
    x (N, C, H, W) -> y (N, C, OH, OW), OH = floor((top + H + bottom - KH) / sh) + 1 and OW alike.
    """
    x = _float64(x)
    n_images, n_channels, height, width = x.shape
    (top, bottom), (left, right) = padding
    out_height = _output_size(height, kernel[0], stride[0], top, bottom)
    out_width = _output_size(width, kernel[1], stride[1], left, right)
    y = np.zeros((n_images, n_channels, out_height, out_width))
    for n, c, i, j in np.ndindex(y.shape):
        total = 0.0
        for p in range(kernel[0]):
            for q in range(kernel[1]):
                row = i * stride[0] + p - top
                column = j * stride[1] + q - left
                if 0 <= row < height and 0 <= column < width:
                    total += float(x[n, c, row, column])
        y[n, c, i, j] = total / (kernel[0] * kernel[1])
    return y


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def _sign(label: Any) -> float:
    """A binary label 0 or 1 as y = -1 or +1."""
    assert label == 0 or label == 1, label
    return 1.0 if label == 1 else -1.0


def softmax_cross_entropy(scores: npt.ArrayLike, labels: npt.ArrayLike, label_smoothing: float = 0.0) -> float:
    """Mean over n of -sum over c of t[n, c] * log_softmax(scores)[n, c].

    t[n, c] = (1 - e) * [c == labels[n]] + e / C, with e = label_smoothing.
    scores (N, C), labels (N,) integers in 0 .. C - 1 -> float.
    """
    log_probs = log_softmax(scores)
    classes = np.asarray(labels)
    n_rows, n_classes = log_probs.shape
    assert classes.shape == (n_rows,), (classes.shape, log_probs.shape)
    total = 0.0
    for n in range(n_rows):
        for c in range(n_classes):
            target = label_smoothing / n_classes
            if c == int(classes[n]):
                target += 1.0 - label_smoothing
            if target != 0.0:  # 0 * log(0) counts as 0
                total -= target * float(log_probs[n, c])
    return total / n_rows


def nll(log_probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean over n of -log_probs[n, labels[n]]. log_probs (N, C), labels (N,) -> float."""
    log_probs = _float64(log_probs)
    classes = np.asarray(labels)
    n_rows = log_probs.shape[0]
    assert classes.shape == (n_rows,), (classes.shape, log_probs.shape)
    total = 0.0
    for n in range(n_rows):
        total -= float(log_probs[n, int(classes[n])])
    return total / n_rows


def logistic(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean over n of log(1 + exp(-y[n] * scores[n])), y = +1 for label 1 and -1 for label 0.

    Stable: with z = -y * s, log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)).
    scores (N,), labels (N,) of 0 and 1 -> float.
    """
    scores = _float64(scores)
    classes = np.asarray(labels)
    (n_rows,) = scores.shape
    assert classes.shape == (n_rows,), (classes.shape, scores.shape)
    total = 0.0
    for n in range(n_rows):
        z = -_sign(classes[n]) * float(scores[n])
        total += max(z, 0.0) + math.log1p(math.exp(-abs(z)))
    return total / n_rows


def hinge(scores: npt.ArrayLike, labels: npt.ArrayLike, margin: float = 1.0) -> float:
    """Mean over n of max(0, margin - y[n] * scores[n]), y = +1 for label 1 and -1 for label 0.

    scores (N,), labels (N,) of 0 and 1 -> float.
    """
    scores = _float64(scores)
    classes = np.asarray(labels)
    (n_rows,) = scores.shape
    assert classes.shape == (n_rows,), (classes.shape, scores.shape)
    total = 0.0
    for n in range(n_rows):
        total += max(0.0, margin - _sign(classes[n]) * float(scores[n]))
    return total / n_rows


def multiclass_hinge(scores: npt.ArrayLike, labels: npt.ArrayLike, margin: float = 1.0) -> float:
    """Mean over n of the sum over j != y of max(0, s[n, j] - s[n, y] + margin), y = labels[n].

    The sum is not divided by the number of classes.
    scores (N, C), labels (N,) integers in 0 .. C - 1 -> float.
    """
    scores = _float64(scores)
    classes = np.asarray(labels)
    n_rows, n_classes = scores.shape
    assert classes.shape == (n_rows,), (classes.shape, scores.shape)
    total = 0.0
    for n in range(n_rows):
        correct = int(classes[n])
        for j in range(n_classes):
            if j != correct:
                total += max(0.0, float(scores[n, j]) - float(scores[n, correct]) + margin)
    return total / n_rows


def mean_squared_error(prediction: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Mean over all elements of (prediction - target)^2. Two arrays of one shape -> float."""
    prediction, target = _float64(prediction), _float64(target)
    assert prediction.shape == target.shape, (prediction.shape, target.shape)
    total = 0.0
    for index in np.ndindex(prediction.shape):
        difference = float(prediction[index]) - float(target[index])
        total += difference * difference
    return total / prediction.size


# --------------------------------------------------------------------------------------------------
# Optimisers: one step on 1-D arrays. The state is {} before the first step; neither it nor the
# arrays passed in are modified.
# --------------------------------------------------------------------------------------------------


def sgd(
    values: npt.ArrayLike,
    grads: npt.ArrayLike,
    state: State,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, State]:
    """Gradient descent, optionally with (Nesterov) momentum and an L2 penalty.

    g = grad + weight_decay * value
    velocity = g in the first step, momentum * velocity + g afterwards   (if momentum != 0)
    step = g without momentum, velocity with it, g + momentum * velocity with Nesterov's
    value = value - lr * step

    values, grads (P,) -> (new values (P,), {"velocity": (P,)}, or {} without momentum).
    """
    values, grads = _float64(values), _float64(grads)
    new_values, velocities = np.zeros(values.shape), np.zeros(values.shape)
    for i in range(len(values)):
        gradient = float(grads[i]) + weight_decay * float(values[i])
        step = gradient
        if momentum != 0.0:
            velocity = gradient
            if "velocity" in state:
                velocity = momentum * float(state["velocity"][i]) + gradient
            velocities[i] = velocity
            step = gradient + momentum * velocity if nesterov else velocity
        new_values[i] = float(values[i]) - lr * step
    return new_values, ({"velocity": velocities} if momentum != 0.0 else {})


def adam(
    values: npt.ArrayLike,
    grads: npt.ArrayLike,
    state: State,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, State]:
    """Adam; the weight decay is an L2 penalty, added to the gradient. In step t = 1, 2, ...:

    g = grad + weight_decay * value
    m = beta1 * m + (1 - beta1) * g,    v = beta2 * v + (1 - beta2) * g^2    (both from 0)
    value = value - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    values, grads (P,) -> (new values (P,), {"t": int, "m": (P,), "v": (P,)}).
    """
    values, grads = _float64(values), _float64(grads)
    t = state.get("t", 0) + 1
    new_values = np.zeros(values.shape)
    first, second = np.zeros(values.shape), np.zeros(values.shape)
    for i in range(len(values)):
        gradient = float(grads[i]) + weight_decay * float(values[i])
        old_m = float(state["m"][i]) if "m" in state else 0.0
        old_v = float(state["v"][i]) if "v" in state else 0.0
        m = beta1 * old_m + (1.0 - beta1) * gradient
        v = beta2 * old_v + (1.0 - beta2) * gradient * gradient
        corrected_m = m / (1.0 - beta1**t)
        corrected_v = v / (1.0 - beta2**t)
        new_values[i] = float(values[i]) - lr * corrected_m / (math.sqrt(corrected_v) + eps)
        first[i], second[i] = m, v
    return new_values, {"t": t, "m": first, "v": second}


def adamw(
    values: npt.ArrayLike,
    grads: npt.ArrayLike,
    state: State,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Array, State]:
    """Adam with decoupled weight decay: the decay shrinks the value, the gradient never sees it.

    In step t = 1, 2, ...:
    m = beta1 * m + (1 - beta1) * grad,    v = beta2 * v + (1 - beta2) * grad^2    (both from 0)
    value = value - lr * weight_decay * value
                  - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    values, grads (P,) -> (new values (P,), {"t": int, "m": (P,), "v": (P,)}).
    """
    values, grads = _float64(values), _float64(grads)
    t = state.get("t", 0) + 1
    new_values = np.zeros(values.shape)
    first, second = np.zeros(values.shape), np.zeros(values.shape)
    for i in range(len(values)):
        value, gradient = float(values[i]), float(grads[i])
        old_m = float(state["m"][i]) if "m" in state else 0.0
        old_v = float(state["v"][i]) if "v" in state else 0.0
        m = beta1 * old_m + (1.0 - beta1) * gradient
        v = beta2 * old_v + (1.0 - beta2) * gradient * gradient
        corrected_m = m / (1.0 - beta1**t)
        corrected_v = v / (1.0 - beta2**t)
        decayed = value - lr * weight_decay * value
        new_values[i] = decayed - lr * corrected_m / (math.sqrt(corrected_v) + eps)
        first[i], second[i] = m, v
    return new_values, {"t": t, "m": first, "v": second}


def rmsprop(
    values: npt.ArrayLike,
    grads: npt.ArrayLike,
    state: State,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, State]:
    """RMSProp, neither centred nor with momentum; eps is added outside the root.

    g = grad + weight_decay * value
    v = alpha * v + (1 - alpha) * g^2    (from 0)
    value = value - lr * g / (sqrt(v) + eps)

    values, grads (P,) -> (new values (P,), {"v": (P,)}).
    """
    values, grads = _float64(values), _float64(grads)
    new_values, squares = np.zeros(values.shape), np.zeros(values.shape)
    for i in range(len(values)):
        gradient = float(grads[i]) + weight_decay * float(values[i])
        old_v = float(state["v"][i]) if "v" in state else 0.0
        v = alpha * old_v + (1.0 - alpha) * gradient * gradient
        new_values[i] = float(values[i]) - lr * gradient / (math.sqrt(v) + eps)
        squares[i] = v
    return new_values, {"v": squares}


def adagrad(
    values: npt.ArrayLike,
    grads: npt.ArrayLike,
    state: State,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> tuple[Array, State]:
    """AdaGrad; eps is added outside the root, the learning rate does not decay by itself.

    g = grad + weight_decay * value
    total = total + g^2    (from 0)
    value = value - lr * g / (sqrt(total) + eps)

    values, grads (P,) -> (new values (P,), {"total": (P,)}).
    """
    values, grads = _float64(values), _float64(grads)
    new_values, totals = np.zeros(values.shape), np.zeros(values.shape)
    for i in range(len(values)):
        gradient = float(grads[i]) + weight_decay * float(values[i])
        old_total = float(state["total"][i]) if "total" in state else 0.0
        total = old_total + gradient * gradient
        new_values[i] = float(values[i]) - lr * gradient / (math.sqrt(total) + eps)
        totals[i] = total
    return new_values, {"total": totals}
