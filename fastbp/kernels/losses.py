"""Losses of a batch and their gradients: scores, dscores (N, C) or (N,) · values (N,) the loss of each sample.

The value of a batch is the mean of `values`; `scale` is what each sample's gradient is multiplied by, 1/N for that
mean. Labels of C classes are int64 in [0, C); binary labels have been brought to −1 or +1 in the scores' dtype.
"""

import numpy as np

from .activations import sigmoid
from .jit import kernel


@kernel
def mean(values):
    """Σ values / N in float64"""
    total = 0.0
    for n in range(values.size):
        total += values[n]
    return total / values.size


@kernel
def first_outside(labels, classes):
    """The index of the first label outside [0, classes), or −1"""
    for n in range(labels.size):
        if labels[n] < 0 or labels[n] >= classes:
            return n
    return -1


@kernel
def softmax_cross_entropy(scores, labels, smoothing, dscores):
    """Returns 1/N Σ_n (log Σ_c exp s[c] − Σ_c q[c] s[c]);   dscores[n, c] = 1/N · (softmax(s)[c] − q[c])

    with s = scores[n] and q = (1 − smoothing) · onehot(label) + smoothing / C, which sums to 1. So each row can be
    shifted by its maximum m: the value is log Σ exp(s − m) + Σ_c q[c] (m − s[c]), in which nothing overflows or
    cancels, and which is not below 0. A label outside [0, C) makes the value −1. Each exponential is taken once, for
    both results; it is the C library's, for there are too few of them in a training step for vectors to pay."""
    (N, C), number = scores.shape, scores.dtype.type
    hit, miss, scale = number(1) - number(smoothing), number(smoothing / C), number(1 / N)
    value = 0.0
    for n in range(N):
        row, out, label = scores[n], dscores[n], labels[n]
        if not 0 <= label < C:
            return -1.0
        largest, total = row[0], number(0)
        for c in range(1, C):
            if row[c] > largest:
                largest = row[c]
        for c in range(C):
            out[c] = np.exp(row[c] - largest)
            total += out[c]
        missing = hit * (largest - row[label])
        if smoothing > 0:
            for c in range(C):
                missing += miss * (largest - row[c])
        value += np.log(total) + missing
        for c in range(C):
            out[c] = scale * (out[c] / total - miss)
        out[label] -= scale * hit
    return value / N


@kernel
def softmax_cross_entropy_step(scores, labels, dscores, numbers):
    """`softmax_cross_entropy` as a bound call, without a result: numbers = (smoothing, value)

    ValueError for a label outside [0, C)"""
    numbers[1] = softmax_cross_entropy(scores, labels, numbers[0], dscores)
    if numbers[1] < 0:
        raise ValueError("a label is not a class")


@kernel
def nll_forward(log_probs, labels, values):
    """values[n] = −log_probs[n, label]"""
    for n in range(log_probs.shape[0]):
        values[n] = -log_probs[n, labels[n]]


@kernel
def nll_backward(labels, scale, dlog_probs):
    """dlog_probs[n, label] = −scale, 0 elsewhere"""
    dlog_probs[:] = 0
    for n in range(dlog_probs.shape[0]):
        dlog_probs[n, labels[n]] = -scale


@kernel
def logistic_forward(scores, signs, values):
    """values[n] = log(1 + exp(−t s)), t = ±1, as max(−t s, 0) + log(1 + exp(−|s|))"""
    zero = scores.dtype.type(0)
    for n in range(scores.size):
        margin = signs[n] * scores[n]
        values[n] = (zero if margin >= 0 else -margin) + np.log1p(np.exp(-abs(margin)))


@kernel
def logistic_backward(scores, signs, scale, dscores):
    """dscores[n] = −scale · t σ(−t s)"""
    for n in range(scores.size):
        dscores[n] = -scores.dtype.type(scale) * signs[n] * sigmoid(-signs[n] * scores[n])


@kernel
def hinge_forward(scores, signs, margin, values):
    """values[n] = max(0, margin − t s), t = ±1"""
    zero = scores.dtype.type(0)
    for n in range(scores.size):
        short = scores.dtype.type(margin) - signs[n] * scores[n]
        values[n] = zero if short <= 0 else short


@kernel
def hinge_backward(scores, signs, margin, scale, dscores):
    """dscores[n] = −scale · t where margin − t s > 0, else 0: the subgradient at the kink is 0"""
    zero = scores.dtype.type(0)
    for n in range(scores.size):
        short = scores.dtype.type(margin) - signs[n] * scores[n]
        dscores[n] = zero if short <= 0 else -scores.dtype.type(scale) * signs[n]


@kernel
def multiclass_hinge_forward(scores, labels, margin, values):
    """values[n] = Σ_{c ≠ label} max(0, s[c] − s[label] + margin)"""
    for n in range(scores.shape[0]):
        total = scores.dtype.type(0)
        least = scores[n, labels[n]] - scores.dtype.type(margin)
        for c in range(scores.shape[1]):
            over = scores[n, c] - least
            if c != labels[n] and not over <= 0:
                total += over
        values[n] = total


@kernel
def multiclass_hinge_backward(scores, labels, margin, scale, dscores):
    """dscores[n, c] = scale where c ≠ label and s[c] − s[label] + margin > 0; dscores[n, label] = −their sum"""
    zero = scores.dtype.type(0)
    for n in range(scores.shape[0]):
        violations = 0
        least = scores[n, labels[n]] - scores.dtype.type(margin)
        for c in range(scores.shape[1]):
            violated = c != labels[n] and not scores[n, c] - least <= 0
            violations += violated
            dscores[n, c] = scores.dtype.type(scale) if violated else zero
        dscores[n, labels[n]] = -scores.dtype.type(scale) * scores.dtype.type(violations)


@kernel
def squared_error_forward(prediction, target, values):
    """values[i] = (prediction[i] − target[i])², all arrays flat"""
    for i in range(prediction.size):
        values[i] = (prediction[i] - target[i]) ** 2


@kernel
def squared_error_step(prediction, target, dprediction, numbers):
    """numbers[1] = 1/K Σ_i (prediction[i] − target[i])², and `squared_error_backward`

    ValueError where a target is NaN"""
    K, total = prediction.size, 0.0
    scale = prediction.dtype.type(2 * (1 / K))
    for i in range(K):
        error = prediction[i] - target[i]
        dprediction[i] = scale * error
        total += error * error
    numbers[1] = total / K
    if total != total:
        for i in range(K):
            if target[i] != target[i]:
                raise ValueError("a target is NaN")


@kernel
def squared_error_backward(prediction, target, scale, dprediction):
    """dprediction[i] = 2 · scale · (prediction[i] − target[i])"""
    for i in range(prediction.size):
        dprediction[i] = prediction.dtype.type(2 * scale) * (prediction[i] - target[i])
