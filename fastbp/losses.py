"""Losses: a number to minimise from scores and targets, and its gradient with respect to the scores.

    value = loss.forward(scores, targets)
    dscores = loss.backward()

The value is the mean over the batch and `dscores` the gradient of exactly that value. An empty batch has no mean: ValueError.
Targets are checked before any kernel runs: shape, kind, range, NaN (in a training step, each label's range where it is used).
Scores are float32 or float64, (N, C) for C classes.
"""

from functools import partial

import numpy as np

from .arguments import Checked, Setting, array, converted, number, owned, shown, unmasked
from .dtypes import FLOATS
from .kernels import losses
from .kernels.activations import sigmoid_forward
from .kernels.softmax import softmax_forward


class Loss(Checked):
    """Base class. A loss of your own defines `forward(scores, targets)` and `backward()`, as above.

    The package's define `_check_shape` of the scores, `_check_targets`, which returns what the kernels need, `_forward` and
    `_backward`.

    `predict(scores)` and `probabilities(scores)` say what the scores mean as decisions and as probabilities,
    `correct(scores, targets)` counts the right ones; all three are None or a TypeError where the loss has no such meaning.

    `task` says what a network trained with it gives: "classification" or "regression", None where the loss does not say.
    """

    task: str | None = None

    def __init__(self):
        self._cache = None

    def forward(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The loss of the batch; keeps what `backward` needs by reference."""
        scores, targets = self.check(scores, targets)
        scores = self._dense(scores)
        self._cache = (scores, targets)
        values = np.empty(self._count(scores), scores.dtype)
        self._forward(scores, targets, values)
        return float(losses.mean(values))

    def check(self, scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and the targets as kernels want them; TypeError or ValueError if the loss can't take them."""
        scores = self._check_scores(scores)
        return scores, self._check_targets(scores, targets)

    def backward(self, out: np.ndarray | None = None) -> np.ndarray:
        """The gradient of the last `forward`'s value with respect to its scores, in their shape and dtype."""
        if self._cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward called before forward")
        scores, targets = self._cache
        dscores = np.empty_like(scores) if out is None else self._buffer(out, scores)
        if out is not None and np.may_share_memory(out, scores):
            self._fail(ValueError, "out overlaps the scores")
        self._backward(scores, targets, dscores)
        return dscores

    def step(self, scores: np.ndarray, targets: np.ndarray, out: np.ndarray) -> float:
        """The loss of the batch, and its gradient in `out`, an array like the scores: what training calls."""
        value = self.forward(scores, targets)
        dscores = self.backward()
        out = self._buffer(out, scores)
        if np.shape(dscores) != out.shape:
            self._fail(ValueError, f"backward gave {np.shape(dscores)} for scores {out.shape}")
        np.copyto(out, dscores)
        return value if type(value) is float else self._number(value)

    def step_call(self, scores: np.ndarray, out: np.ndarray) -> "StepCall | None":
        """`step` for these arrays as one kernel call, which a plan makes among its own; None where it is more than that."""
        return None

    def predict(self, scores: np.ndarray) -> np.ndarray:
        """The decided labels (N,)."""
        raise TypeError(f"{type(self).__name__} has no classes to predict")

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """The probability of each class, or of the positive one."""
        raise TypeError(f"{type(self).__name__} does not give probabilities")

    def correct(self, scores: np.ndarray, targets: np.ndarray) -> int | None:
        """How many samples are classified rightly; None where the loss is not a classifier's."""
        return None

    def _count(self, scores: np.ndarray) -> int:
        """How many values the mean is over."""
        return len(scores)

    def _number(self, value) -> float:
        """What a `forward` of the user's own gave, also a NumPy number, as a float."""
        try:
            return float(value)
        except Exception:
            self._fail(TypeError, f"forward gave {shown(value)}, expected a number")

    def _buffer(self, out: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`out`, if the gradient with respect to the scores can be written there."""
        if type(out) is np.ndarray and out.shape == scores.shape and out.dtype == scores.dtype and out.flags.carray:
            return out
        unmasked(f"{type(self).__name__}: out", out)
        if (
            not isinstance(out, np.ndarray)
            or out.shape != scores.shape
            or out.dtype != scores.dtype
            or not out.flags.carray
        ):
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else shown(out)
            wanted = f"a C-contiguous, writable {scores.dtype} array {scores.shape}"
            self._fail(ValueError, f"expected out to be {wanted}, like the scores, got {got}")
        return out

    def _fail(self, kind: type[Exception], message: str):
        raise kind(f"{type(self).__name__}: {message}")

    def _check_scores(self, scores, empty: bool = False) -> np.ndarray:
        if not isinstance(scores, np.ndarray):
            self._fail(TypeError, f"expected scores to be a NumPy array, got {type(scores).__name__}")
        if type(scores) is not np.ndarray:
            unmasked(f"{type(self).__name__}: scores", scores)
            scores = np.asarray(scores)
        if scores.dtype not in FLOATS:
            self._fail(TypeError, f"expected scores of dtype float32 or float64, got {scores.dtype}")
        self._check_shape(scores)
        if scores.size == 0 and not empty:
            self._fail(ValueError, f"the mean of an empty batch, scores {scores.shape}, is not defined")
        return scores

    def _dense(self, scores: np.ndarray) -> np.ndarray:
        """Scores as a kernel wants them."""
        try:
            return scores if scores.flags.carray else np.require(scores, requirements="CAW")
        except MemoryError:
            raise MemoryError(f"{type(self).__name__}: no memory for a copy of the scores {scores.shape}") from None

    def _check_shape(self, scores: np.ndarray) -> None:
        """A ValueError for scores of a shape that the loss can't take."""

    def _check_targets(self, scores: np.ndarray, targets) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not define forward")

    def _forward(self, scores: np.ndarray, targets: np.ndarray, values: np.ndarray) -> None:
        raise TypeError(f"{type(self).__name__} does not define forward")

    def _backward(self, scores: np.ndarray, targets: np.ndarray, dscores: np.ndarray) -> None:
        raise TypeError(f"{type(self).__name__} does not define backward")

    def _targets(self, targets) -> np.ndarray:
        """`targets` as an array of numbers."""
        return targets if type(targets) is np.ndarray else array(f"{type(self).__name__}: targets", targets)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if not k.startswith("_"))
        return f"{type(self).__name__}({arguments})"


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
            self._fail(
                ValueError, f"expected labels {scores.shape[:1]} for scores {scores.shape}, got {labels.shape}{hint}"
            )
        if labels.dtype.kind not in "iu":
            nan = " with NaN" if labels.dtype.kind == "f" and np.isnan(labels).any() else ""
            self._fail(TypeError, f"expected integer labels, got {labels.dtype}{nan}")
        checked = labels if labels.dtype == np.int64 and labels.flags.carray else np.require(labels, np.int64, "CAW")
        outside = losses.first_outside(checked, scores.shape[1])
        if outside >= 0:
            self._fail(
                ValueError,
                f"labels must be in [0, {scores.shape[1]}), got {labels[outside]}, for scores {scores.shape}",
            )
        return checked

    def predict(self, scores):
        if not (
            type(scores) is np.ndarray
            and scores.ndim == 2
            and scores.dtype in FLOATS
            and scores.flags.carray
            and scores.size
        ):
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

    with q = onehot(y), or (1 − ε) · onehot(y) + ε / C for label_smoothing ε in [0, 1]. Each row is shifted by its maximum:
    scores of ±10⁴ are as exact as any.
    """

    label_smoothing = Setting(number, least=0, most=1)

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, scores, targets):
        scores, labels = self.check(scores, targets)
        scores = self._dense(scores)
        dscores = np.empty_like(scores)  # from the same exponentials
        self._cache = (dscores, labels)
        return float(losses.softmax_cross_entropy(scores, labels, self.label_smoothing, dscores))

    def _backward(self, kept, labels, dscores):
        np.copyto(dscores, kept)

    def step(self, scores, targets, out):
        if type(self) is not SoftmaxCrossEntropy:  # a subclass may compute something else
            return super().step(scores, targets, out)
        plain = (
            type(scores) is type(targets) is type(out) is np.ndarray
            and targets.dtype == np.int64
            and targets.flags.carray
        )
        plain = (
            plain and scores.dtype is out.dtype and scores.dtype in FLOATS and scores.flags.carray and out.flags.carray
        )
        if (
            plain
            and scores.size
            and scores.shape == out.shape
            and targets.shape == scores.shape[:1]
            and scores.ndim == 2
        ):
            value = losses.softmax_cross_entropy(scores, targets, self.label_smoothing, out)
            if value >= 0 or value != value:  # otherwise a label is not a class, which `check` says better
                return float(value)
        scores, labels = self.check(scores, targets)
        scores = self._dense(scores)
        return float(losses.softmax_cross_entropy(scores, labels, self.label_smoothing, self._buffer(out, scores)))

    def step_call(self, scores, out):
        if type(self) is not SoftmaxCrossEntropy or scores.ndim != 2 or scores.size == 0:
            return None
        return StepCall(self, scores, out)

    def probabilities(self, scores):
        scores = self._dense(self._check_scores(scores, empty=True))
        out = np.empty_like(scores)
        softmax_forward(scores, out)
        return out


class StepCall:
    """SoftmaxCrossEntropy.step for scores and a gradient that stay where they are: `begin(targets)`, then `call()`, which raises a
    ValueError where a label is no class, as `loss.check` says better; `value` is the loss then."""

    def __init__(self, loss: SoftmaxCrossEntropy, scores: np.ndarray, out: np.ndarray):
        self.loss, self.scores = loss, scores
        self.labels, self.numbers = np.zeros(len(scores), np.int64), np.zeros(2)
        self.call = partial(losses.softmax_cross_entropy_step, scores, self.labels, out, self.numbers)

    def begin(self, targets: np.ndarray) -> None:
        labels = self.labels
        plain = type(targets) is np.ndarray and targets.dtype == labels.dtype and targets.shape == labels.shape
        labels[...] = targets if plain else self.loss.check(self.scores, targets)[1]
        self.numbers[0] = self.loss.label_smoothing

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

    def _forward(self, prediction, target, values):
        losses.squared_error_forward(prediction.reshape(-1), target.reshape(-1), values)

    def _backward(self, prediction, target, dprediction):
        losses.squared_error_backward(
            prediction.reshape(-1), target.reshape(-1), 1 / target.size, dprediction.reshape(-1)
        )
