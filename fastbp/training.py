"""Training: one step, the loop over it, and what a trained network says about data."""

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .callbacks import Callback
from .files import written_atomically
from .kernels.jit import KernelCache
from .layers import LogSoftmax, Sigmoid, Softmax
from .layers.checks import whole
from .losses import Loss
from .network import Sequential
from .optimizers import Optimizer
from .progress import Progress
from .schedules import Schedule


class Trainer:
    """One training step at a time.

    >>> import fastbp
    >>> network = fastbp.Sequential(fastbp.Linear(4, 3))
    >>> trainer = Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1))
    >>> x, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
    >>> trainer.step(x, labels) > trainer.step(x, labels)
    True
    """

    def __init__(self, network: Sequential, loss: Loss, optimizer: Optimizer):
        for name, value, kind in (("network", network, Sequential), ("loss", loss, Loss), ("optimizer", optimizer, Optimizer)):
            if not isinstance(value, kind):
                hint = "()" if isinstance(value, type) and issubclass(value, kind) else ""
                got = f"the class {value.__name__}; make one: {value.__name__}{hint}" if hint else type(value).__name__
                raise TypeError(f"Trainer: expected {name} to be a {kind.__name__}, got {got}")
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.scores: np.ndarray | None = None

    def step(self, x: np.ndarray, targets: np.ndarray) -> float:
        """Forward, loss, backward and one update for the batch x (N, …); the loss before the update.

        The network's output for the batch stays in `scores`. The step is computed by the network's plan, so the layers keep
        nothing for a `network.backward` afterwards.
        """
        network, loss = self.network, self.loss
        plan = network.plan(network.check(x).shape[1:])
        with plan.lock:
            batch = plan.batch(len(x), training=True)
            batch.x[...] = x
            batch.forward()
            value = loss.step(batch.y, targets, batch.dout)
            batch.backward()
            batch.update(self.optimizer, network.parameter_vector, network.gradient_vector)
            self.scores = batch.y.copy()
        return value


def warmup(network: Sequential, loss: Loss, optimizer: Optimizer, batch: tuple[np.ndarray, np.ndarray]) -> int:
    """Compile the kernels that training on batches like this one needs, or load them from the disk; return how many were compiled.

    Otherwise the first step does it. `batch` is a pair (x, targets); copies of the network and the optimiser make a step and a
    prediction with it, so nothing that is given changes.

    >>> import fastbp
    >>> network, batch = fastbp.Sequential(fastbp.Linear(4, 3)), (np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]))
    >>> _ = fastbp.warmup(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), batch)
    >>> fastbp.warmup(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), batch)
    0
    """
    before, (x, targets) = KernelCache.compiled, _pair("batch", batch)
    trainer = Trainer(copy.deepcopy(network), copy.deepcopy(loss), copy.deepcopy(optimizer))
    trainer.step(x, targets)
    evaluate(trainer.network, trainer.loss, (x, targets))
    return KernelCache.compiled - before


@dataclass
class History:
    """What `fit` measured, one number an epoch in each list.

    `train_loss` and `train_accuracy` are means over the epoch's batches as they were trained on (in training mode, while the
    parameters moved); `validation_loss` and `validation_accuracy` are measured at the epoch's end in evaluation
    mode, and empty without validation data. Accuracies are fractions, empty for a loss that is not a classifier's. `seconds`
    is the time of the epoch's training and validation, `lr` the learning rate of its last step. `stop_reason` says why
    training ended before `epochs`, or is empty.
    """

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    stop_reason: str = ""

    def __len__(self) -> int:
        return len(self.train_loss)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The history as JSON text, also written to `path` if given. A loss that is not finite becomes null."""
        lists = {k: [v if math.isfinite(v) else None for v in values] for k, values in vars(self).items() if k != "stop_reason"}
        text = json.dumps({"epochs": len(self), **lists, "stop_reason": self.stop_reason}, indent=2) + "\n"
        if path is not None:
            with written_atomically(path) as file:
                file.write(text.encode())
        return text

    def plot(self):
        """A matplotlib Figure of loss and accuracy against the epoch; `figure.savefig("curves.png")` writes it."""
        from .plotting import curves

        return curves(self)

    def require(self, figure: str, who: str, run: "Run") -> None:
        """ValueError where this run will not measure `figure`."""
        if figure.startswith("validation") and not run.validated:
            raise ValueError(f"{who} monitors {figure}: give fit(validation=…)")
        if figure.endswith("accuracy") and type(run.loss).correct is Loss.correct:
            raise ValueError(f"{who} monitors {figure}: {type(run.loss).__name__} has no accuracy")


@dataclass
class Run:
    """A training under way, as callbacks see it."""

    network: Sequential
    loss: Loss
    optimizer: Optimizer
    history: History
    epochs: int
    validated: bool
    epoch: int = 0

    def stop(self, reason: str) -> None:
        """End training after this epoch."""
        self.history.stop_reason = self.history.stop_reason or reason


def fit(
    network: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    callbacks: Iterable[Callback | Callable] = (),
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train on (x, targets) pairs in mini-batches; return the history.

    Every epoch visits all of `train` in a new random order, drawn from `seed` and the epoch's number alone; the last, smaller
    batch is trained on too. `callbacks` are Callback objects, schedules among them, and plain functions of the
    run. Training ends early when a callback asks for it or the loss is no longer finite (a warning says so).
    `progress` shows a bar in a terminal or notebook, and prints a line an epoch to standard error elsewhere.

    Same network seed, data, `seed` and machine: the same parameters, bit for bit, on any number of threads.
    """
    trainer = Trainer(network, loss, optimizer)
    x, targets = _pair("train", train)
    validation = None if validation is None else _pair("validation", validation)
    batch_size, epochs, seed = whole("fit: batch_size", batch_size), whole("fit: epochs", epochs, 0), whole("fit: seed", seed, 0)
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks must be a list, got {callbacks!r}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not (isinstance(callback, Callback) or callable(callback)) or isinstance(callback, type):
            raise TypeError(f"fit: callbacks must be Callback objects or functions, got {callback!r}")
    _check_data("train", network, loss, x, targets)
    if validation is not None:
        _check_data("validation", network, loss, *validation)
    schedules = [callback for callback in callbacks if isinstance(callback, Schedule)]
    run = Run(network, loss, optimizer, History(), epochs, validation is not None)
    _tell(callbacks, "on_train_begin", run)
    base_lr = optimizer.lr
    try:
        with Progress(epochs, math.ceil(len(x) / batch_size), progress) as bar:
            while run.epoch < epochs and not run.history.stop_reason:
                _epoch(run, trainer, x, targets, batch_size, schedules, base_lr, seed, bar, validation)
                run.epoch += 1
                bar.epoch_ended(run.history)
                _tell(callbacks, "on_epoch_end", run)
    finally:
        optimizer.lr = base_lr
    _tell(callbacks, "on_train_end", run)
    return run.history


def _check_data(name: str, network: Sequential, loss: Loss, x: np.ndarray, targets: np.ndarray) -> None:
    """Errors that would come up in the middle of training come up before it: one sample goes through, all targets are checked."""
    if len(x) == 0:
        raise ValueError(f"fit: {name} holds no samples")
    try:
        scores = outputs(network, x[:1])
        if type(loss).forward.__module__ == Loss.__module__:  # a loss of the user's own may take other targets
            loss.check(np.broadcast_to(scores, (len(x), *scores.shape[1:])), targets)
    except (TypeError, ValueError) as error:
        raise type(error)(f"fit: {name}: {error}") from None


def _epoch(run, trainer, x, targets, batch_size, schedules, base_lr, seed, bar, validation) -> None:
    start = time.perf_counter()
    order = np.random.default_rng([seed, run.epoch]).permutation(len(x))
    batches = math.ceil(len(x) / batch_size)
    total_loss, total_correct, seen = 0.0, 0, 0
    for batch in range(batches):
        chosen = order[batch * batch_size : (batch + 1) * batch_size]
        if schedules:
            now = run.epoch + batch / batches
            trainer.optimizer.lr = base_lr * math.prod(schedule.factor(now) for schedule in schedules)
        value = trainer.step(x[chosen], targets[chosen])
        total_loss += value * len(chosen)
        seen += len(chosen)
        correct = trainer.loss.correct(trainer.scores, targets[chosen])
        total_correct = None if correct is None else total_correct + correct
        bar.step(value)
        if not math.isfinite(value):
            run.stop(f"the loss is {value} in epoch {run.epoch + 1}")
            warnings.warn(f"fit: {run.history.stop_reason}; training ends here. A lower learning rate may help.", stacklevel=3)
            break
    history = run.history
    history.train_loss.append(total_loss / seen)
    if total_correct is not None:
        history.train_accuracy.append(total_correct / seen)
    if validation is not None:
        measured = evaluate(trainer.network, trainer.loss, validation)
        history.validation_loss.append(measured.loss)
        if measured.accuracy is not None:
            history.validation_accuracy.append(measured.accuracy)
    history.seconds.append(time.perf_counter() - start)
    history.lr.append(trainer.optimizer.lr)


def _tell(callbacks, event: str, run: Run) -> None:
    for callback in callbacks:
        if isinstance(callback, Callback):
            getattr(callback, event)(run)
        elif event == "on_epoch_end":
            callback(run)


def _pair(name: str, data) -> tuple[np.ndarray, np.ndarray]:
    try:
        x, targets = data
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (x, targets), got {type(data).__name__}") from None
    x, targets = np.asarray(x), np.asarray(targets)
    if x.ndim == 0 or targets.ndim == 0 or len(x) != len(targets):
        raise ValueError(f"{name}: x {x.shape} and targets {targets.shape} differ in length")
    return x, targets


class Evaluation(NamedTuple):
    """Mean loss, and the fraction classified rightly (None for a loss that is not a classifier's)."""

    loss: float
    accuracy: float | None


def evaluate(network: Sequential, loss: Loss, data: tuple[np.ndarray, np.ndarray], batch_size: int = 256) -> Evaluation:
    """The loss and accuracy of the network on (x, targets), in evaluation mode."""
    x, targets = _pair("data", data)
    batch_size = whole("evaluate: batch_size", batch_size)
    if len(x) == 0:
        raise ValueError("evaluate: the mean over no samples is not defined")
    total_loss, correct = 0.0, 0
    for start in range(0, len(x), batch_size):
        batch = targets[start : start + batch_size]
        scores = outputs(network, x[start : start + batch_size], batch_size)
        total_loss += loss.forward(scores, batch) * len(batch)
        right = loss.correct(scores, batch)
        correct = None if right is None else correct + right
    return Evaluation(total_loss / len(x), None if correct is None else correct / len(x))


def outputs(network: Sequential, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The network's output for x (N, …) in evaluation mode, computed in batches."""
    batch_size = whole("batch_size", batch_size)
    plan = network.plan(network.check(x).shape[1:])
    y = np.empty((len(x), *network.output_shape(x.shape[1:])), x.dtype)
    for start in range(0, len(x), batch_size):
        with plan.lock:
            y[start : start + batch_size] = plan.forward(x[start : start + batch_size])
    return y


def predict(network: Sequential, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The decided class of each sample of x (N, …): int64 (N,).

    For outputs (N, C) with C of at least 2 the largest; for one output a sample, 1 where it is positive (above one half, if the
    network ends in Sigmoid), else 0.
    """
    y = outputs(network, x, batch_size)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    _one_output(y)
    return (y.reshape(-1) > (0.5 if isinstance(network.layers[-1], Sigmoid) else 0)).astype(np.int64)


def predict_proba(network: Sequential, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The probability of each class, (N, C), or of class 1 for one output a sample, (N,).

    Outputs are taken as what the network's last layer says they are: probabilities after Softmax or Sigmoid, their logarithms
    after LogSoftmax, scores for softmax or for the sigmoid otherwise. A network trained with a hinge loss has
    scores that are no log-odds: these numbers are then a ranking, not probabilities.
    """
    y, last = outputs(network, x, batch_size), network.layers[-1]
    if y.ndim == 2 and y.shape[1] > 1:
        if isinstance(last, Softmax):
            return y
        return np.exp(y) if isinstance(last, LogSoftmax) else Softmax().forward(y)
    _one_output(y)
    y = y.reshape(-1)
    return y if isinstance(last, Sigmoid) else Sigmoid().forward(y)


def _one_output(y: np.ndarray) -> None:
    if y.ndim > 2 or y.shape[1:] not in ((), (1,)):
        raise ValueError(f"expected a network with outputs (N, C), (N, 1) or (N,), got {y.shape}")
