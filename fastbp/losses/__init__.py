"""Losses: a number to minimise from scores and targets, and its gradient with respect to the scores.

    value = loss.forward(scores, targets)
    dscores = loss.backward()

The value is the mean over the batch and `dscores` the gradient of exactly that value. An empty batch has no mean:
ValueError. Targets are checked before any kernel runs: shape, kind, range, NaN (in a training step, the range of each
label where it is used). Scores are float32 or float64, (N, C) for C classes.
"""

from functools import partial

import numpy as np

from ..arguments import Setting, converted, number
from ..dtypes import FLOATS
from ..kernels import losses
from ..kernels.activations import sigmoid_forward
from ..kernels.softmax import softmax_forward
from .loss import Loss

__all__ = [
    "BinaryLoss", "ClassLoss", "HingeLoss", "LogisticLoss", "Loss", "MeanSquaredError", "MulticlassHinge", "NLLLoss",
    "SoftmaxCrossEntropy",
]  # fmt: skip


class ClassLoss(Loss):
    """Losses of scores (N, C) and integer labels (N,) in [0, C)."""

    task = "classification"

    def _check_shape(self, scores):
        if scores.ndim != 2:
            self._fail(ValueError, f"expected scores (N, C), got {scores.shape}")

    def _check_targets(self, scores, labels):
        labels = self._targets(labels)
        if labels.shape != scores.shape[:1]:
            hint = "; for one-hot rows pass targets.argmax(axis=1)" if labels.shape == scores.shape else ""
            wanted = f"expected labels {scores.shape[:1]} for scores {scores.shape}"
            self._fail(ValueError, f"{wanted}, got {labels.shape}{hint}")
        if labels.dtype.kind not in "iu":
            nan = " with NaN" if labels.dtype.kind == "f" and np.isnan(labels).any() else ""
            self._fail(TypeError, f"expected integer labels, got {labels.dtype}{nan}")
        checked = labels if labels.dtype == np.int64 and labels.flags.carray else np.require(labels, np.int64, "CAW")
        outside = losses.first_outside(checked, scores.shape[1])
        if outside >= 0:
            wanted = f"labels must be in [0, {scores.shape[1]})"
            self._fail(ValueError, f"{wanted}, got {labels[outside]}, for scores {scores.shape}")
        return checked

    def predict(self, scores):
        plain = type(scores) is np.ndarray and scores.dtype in FLOATS and scores.flags.carray
        if not (plain and scores.ndim == 2 and scores.size):
            scores = self._dense(self._check_scores(scores, empty=True))
            if scores.shape[1] == 0:
                self._fail(ValueError, f"expected scores (N, C) with C of at least 1, got {scores.shape}")
        return scores.argmax(axis=1)

    def correct(self, scores, targets):
        decided = self.predict(scores)
        if not (type(targets) is np.ndarray and targets.dtype.kind in "iu" and targets.shape == decided.shape):
            targets = self._check_targets(scores, targets)
        return int((decided == targets).sum())


class SoftmaxCrossEntropy(ClassLoss):
    """Cross-entropy of softmax(scores) with the labels, mean over the batch.

    scores s (N, C) · labels y (N,) integers

        L = 1/N Σₙ Σ_c q[n, c] · (log Σ_k exp s[n, k] − s[n, c])
        dscores[n, c] = (softmax(s[n])[c] − q[n, c]) / N

    with q = onehot(y), or (1 − ε) · onehot(y) + ε / C for label_smoothing ε in [0, 1]. Each row is shifted by its
    maximum: scores of ±10⁴ are as exact as any.
    """

    label_smoothing = Setting(number, least=0, most=1)

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def _mean(self, scores, labels):
        dscores = np.empty_like(scores)  # from the same exponentials
        self._cache = (dscores, labels)
        return float(losses.softmax_cross_entropy(scores, labels, self.label_smoothing, dscores))

    def _backward(self, kept, labels, dscores):
        np.copyto(dscores, kept)

    def step(self, scores, targets, out):
        if type(self) is not SoftmaxCrossEntropy:  # a subclass may compute something else
            return super().step(scores, targets, out)
        arrays = type(scores) is type(targets) is type(out) is np.ndarray
        typed = arrays and targets.dtype == np.int64 and scores.dtype is out.dtype and scores.dtype in FLOATS
        dense = typed and scores.flags.carray and targets.flags.carray and out.flags.carray
        shaped = dense and scores.shape == out.shape and targets.shape == scores.shape[:1] and scores.ndim == 2
        if shaped and scores.size:
            value = losses.softmax_cross_entropy(scores, targets, self.label_smoothing, out)
            if value >= 0 or value != value:  # otherwise a label is not a class, which `check` says better
                return float(value)
        scores, labels = self.check(scores, targets)
        scores = self._dense(scores)
        return float(losses.softmax_cross_entropy(scores, labels, self.label_smoothing, self._buffer(out, scores)))

    def step_call(self, scores, out):
        if type(self) is not SoftmaxCrossEntropy or scores.ndim != 2 or scores.size == 0:
            return None
        labels, numbers = np.zeros(len(scores), np.int64), np.zeros(2)
        call = partial(losses.softmax_cross_entropy_step, scores, labels, out, numbers)
        return StepCall(self, scores, labels, numbers, call)

    def probabilities(self, scores):
        scores = self._dense(self._check_scores(scores, empty=True))
        out = np.empty_like(scores)
        softmax_forward(scores, out)
        return out


class StepCall:
    """A loss's `step` for scores and a gradient that stay where they are, as one call of a kernel.

    `begin(targets)`, then `call()`; `value` is the loss then. `call` raises a ValueError where a target is wrong in
    itself, and `loss.check` says it better. numbers = (label smoothing, value)
    """

    def __init__(self, loss: Loss, scores: np.ndarray, targets: np.ndarray, numbers: np.ndarray, call: partial):
        self.loss, self.scores, self.targets = loss, scores, targets
        self.numbers, self.call = numbers, call

    def begin(self, targets: np.ndarray) -> None:
        held = self.targets
        plain = type(targets) is np.ndarray and targets.dtype == held.dtype and targets.shape == held.shape
        held[...] = targets if plain else self.loss.check(self.scores, targets)[1]
        self.numbers[0] = getattr(self.loss, "label_smoothing", 0)

    @property
    def value(self) -> float:
        return float(self.numbers[1])


class NLLLoss(ClassLoss):
    """Negative log-likelihood of the labels, mean over the batch, for log-probabilities as LogSoftmax gives them.

    log_probs (N, C) · labels y (N,) integers

        L = −1/N Σₙ log_probs[n, y[n]]        dlog_probs[n, c] = −1/N where c = y[n], else 0
    """

    def _forward(self, log_probs, labels, values):
        losses.nll_forward(log_probs, labels, values)

    def _backward(self, log_probs, labels, dlog_probs):
        losses.nll_backward(labels, 1 / len(log_probs), dlog_probs)

    def probabilities(self, scores):
        with np.errstate(over="ignore"):
            return np.exp(self._dense(self._check_scores(scores, empty=True)))


class MulticlassHinge(ClassLoss):
    """Multi-class hinge loss (Weston and Watkins): the sum over the wrong classes, mean over the batch.

    scores s (N, C) · labels y (N,) integers

        L = 1/N Σₙ Σ_{c ≠ y} max(0, s[n, c] − s[n, y] + margin)
        dscores[n, c] = 1/N where c ≠ y violates the margin; dscores[n, y] = −(number of violations)/N

    The subgradient at the kink is 0.
    """

    margin = Setting(number)

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def _forward(self, scores, labels, values):
        losses.multiclass_hinge_forward(scores, labels, self.margin, values)

    def _backward(self, scores, labels, dscores):
        losses.multiclass_hinge_backward(scores, labels, self.margin, 1 / len(scores), dscores)


class BinaryLoss(Loss):
    """Losses of one score a sample, (N,) or (N, 1), and labels (N,) or (N, 1), all in {0, 1} or all in {−1, +1}.

    t = +1 for label 1 and −1 for label 0 or −1. A positive score decides for 1.
    """

    task = "classification"

    def _check_shape(self, scores):
        if scores.ndim not in (1, 2) or scores.shape[1:] not in ((), (1,)):
            self._fail(ValueError, f"expected scores (N,) or (N, 1), got {scores.shape}")

    def _check_targets(self, scores, labels):
        labels = self._targets(labels)
        if labels.shape not in (scores.shape[:1], (len(scores), 1)):
            self._fail(ValueError, f"expected labels {scores.shape[:1]} for scores {scores.shape}, got {labels.shape}")
        if labels.dtype.kind not in "biuf":
            self._fail(TypeError, f"expected labels 0/1 or -1/+1, got {labels.dtype}")
        one = labels == 1
        if not ((one | (labels == 0)).all() or (one | (labels == -1)).all()):
            self._fail(ValueError, f"expected labels all 0/1 or all -1/+1, got {np.unique(labels)[:5]}")
        return np.where(one.reshape(-1), scores.dtype.type(1), scores.dtype.type(-1))

    def predict(self, scores):
        return (self._dense(self._check_scores(scores, empty=True)).reshape(-1) > 0).astype(np.int64)

    def correct(self, scores, targets):
        decided = self.predict(scores)
        if not (type(targets) is np.ndarray and targets.dtype.kind in "biuf" and targets.shape == decided.shape):
            targets = self._check_targets(scores, targets)
        return int((decided == (targets == 1)).sum())


class LogisticLoss(BinaryLoss):
    """Logistic loss of binary labels, mean over the batch: the negative log-likelihood of σ(s).

    scores s (N,) or (N, 1) · labels (N,) 0/1 or −1/+1, brought to t = ±1

        L = 1/N Σₙ log(1 + exp(−t s))        dscores = −t σ(−t s) / N

    Computed as max(−t s, 0) + log(1 + exp(−|s|)): no score overflows.
    """

    def _forward(self, scores, signs, values):
        losses.logistic_forward(scores.reshape(-1), signs, values)

    def _backward(self, scores, signs, dscores):
        losses.logistic_backward(scores.reshape(-1), signs, 1 / len(scores), dscores.reshape(-1))

    def probabilities(self, scores):
        scores = self._dense(self._check_scores(scores, empty=True))
        out = np.empty(len(scores), scores.dtype)
        sigmoid_forward(scores.reshape(-1), out)
        return out


class HingeLoss(BinaryLoss):
    """Hinge loss of binary labels, mean over the batch: the linear support vector machine's.

    scores s (N,) or (N, 1) · labels (N,) 0/1 or −1/+1, brought to t = ±1

        L = 1/N Σₙ max(0, margin − t s)        dscores = −t / N where margin − t s > 0, else 0

    The subgradient at the kink is 0.
    """

    margin = Setting(number)

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def _forward(self, scores, signs, values):
        losses.hinge_forward(scores.reshape(-1), signs, self.margin, values)

    def _backward(self, scores, signs, dscores):
        losses.hinge_backward(scores.reshape(-1), signs, self.margin, 1 / len(scores), dscores.reshape(-1))


class MeanSquaredError(Loss):
    """Squared error, mean over all elements (so over the outputs as well as over the batch, as in PyTorch).

    prediction p and target t of one shape, K elements:   L = 1/K Σ (p − t)²        dp = 2 (p − t) / K

    Shapes must agree exactly: (N, 1) against (N,) is an error, not a broadcast to (N, N).
    """

    task = "regression"

    def _check_shape(self, prediction):
        if prediction.ndim == 0:
            self._fail(ValueError, "expected scores (N, …), the predictions, got a single number")

    def _count(self, prediction):
        return prediction.size

    def _check_targets(self, prediction, target):
        target = self._targets(target)
        if target.shape != prediction.shape:
            self._fail(ValueError, f"expected targets {prediction.shape}, got {target.shape}: the scores' shape")
        if target.dtype.kind not in "biuf":
            self._fail(TypeError, f"expected real targets, got {target.dtype}")
        target = np.require(converted("MeanSquaredError: targets", target, prediction.dtype), requirements="CAW")
        if np.isnan(target).any():
            self._fail(ValueError, "targets hold NaN")
        return target

    def step_call(self, scores, out):
        if type(self) is not MeanSquaredError or scores.ndim == 0 or scores.size == 0:
            return None
        targets, numbers = np.zeros_like(scores), np.zeros(2)
        flat = (array.reshape(-1) for array in (scores, targets, out))
        return StepCall(self, scores, targets, numbers, partial(losses.squared_error_step, *flat, numbers))

    def _forward(self, prediction, target, values):
        losses.squared_error_forward(prediction.reshape(-1), target.reshape(-1), values)

    def _backward(self, prediction, target, dprediction):
        flat = prediction.reshape(-1), target.reshape(-1)
        losses.squared_error_backward(*flat, 1 / target.size, dprediction.reshape(-1))
