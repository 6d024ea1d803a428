"""What a loss is: checked scores and targets, the mean over the batch, and its gradient."""

from typing import Any

import numpy as np

from ..arguments import Checked, array, owned, shown, unmasked
from ..dtypes import FLOATS
from ..kernels import losses


class Loss(Checked):
    """Base class. A loss of your own defines `forward(scores, targets)` and `backward()`, as in `fastbp.losses`.

    The package's own define `_check_shape` of the scores, `_check_targets`, which returns what the kernels need,
    `_forward` and `_backward`.

    `predict(scores)` and `probabilities(scores)` say what the scores mean as decisions and as probabilities,
    `correct(scores, targets)` counts the right ones. Where the loss has no such meaning, the first two are a TypeError
    and the last gives None.

    `task` is what a network trained with it does: "classification" or "regression"; None where the loss does not say.
    """

    task: str | None = None

    def __init__(self):
        self._cache = None

    def forward(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The loss of the batch; keeps what `backward` needs by reference."""
        scores, targets = self.check(scores, targets)
        return self._mean(self._dense(scores), targets)

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

    def step_call(self, scores: np.ndarray, out: np.ndarray) -> Any:
        """`step` for these arrays as one kernel call of a training step; None where it is more than that."""
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

    def _mean(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The loss of scores and targets that have been checked; what `backward` needs goes into the cache."""
        self._cache = (scores, targets)
        values = np.empty(self._count(scores), scores.dtype)
        self._forward(scores, targets, values)
        return float(losses.mean(values))

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
        alike = isinstance(out, np.ndarray) and out.shape == scores.shape and out.dtype == scores.dtype
        if type(out) is np.ndarray and alike and out.flags.carray:
            return out
        unmasked(f"{type(self).__name__}: out", out)
        if not (alike and out.flags.carray):
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
