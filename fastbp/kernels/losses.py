"""Losses of a batch and their gradients: scores, dscores (N, C) or (N,) · values (N,) the loss of each sample.

The value of a batch is the mean of `values`; `scale` is what each sample's gradient is multiplied by, 1/N for that mean.
Labels of C classes are int64 in [0, C); binary labels have been brought to −1 or +1 in the scores' dtype.
"""

import numpy as np

from .activations import sigmoid
from .jit import kernel
from .softmax import log_sum_exp


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
def softmax_cross_entropy_forward(scores, labels, smoothing, values):
    """values[n] = Σ_c q[c] (log Σ_k exp s[k] − s[c]),   q = (1 − smoothing) · onehot(label) + smoothing / C

    q sums to 1, so this is the log-sum-exp less the expected score."""
    C = scores.shape[1]
    hit, miss = scores.dtype.type(1 - smoothing), scores.dtype.type(smoothing / C)
    for n in range(scores.shape[0]):
        expected = hit * scores[n, labels[n]]
        if smoothing > 0:
            for c in range(C):
                expected += miss * scores[n, c]
        values[n] = log_sum_exp(scores[n]) - expected


@kernel
def softmax_cross_entropy_backward(scores, labels, smoothing, scale, dscores):
    """dscores[n, c] = scale · (softmax(s)[c] − q[c])"""
    C = scores.shape[1]
    one = scores.dtype.type(1)
    hit, miss = one - scores.dtype.type(smoothing), scores.dtype.type(smoothing / C)
    for n in range(scores.shape[0]):
        log_sum = log_sum_exp(scores[n])
        for c in range(C):
            dscores[n, c] = np.exp(scores[n, c] - log_sum) - miss
        dscores[n, labels[n]] -= hit
        for c in range(C):
            dscores[n, c] *= scores.dtype.type(scale)


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
def squared_error_backward(prediction, target, scale, dprediction):
    """dprediction[i] = 2 · scale · (prediction[i] − target[i])"""
    for i in range(prediction.size):
        dprediction[i] = prediction.dtype.type(2 * scale) * (prediction[i] - target[i])
