"""Training: one step, the loop over it, and what a trained network says about data."""

import contextlib
import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .arguments import array, flag, shown, whole
from .callbacks import Callback
from .engine.step import training_step
from .files import written_atomically
from .kernels.jit import KernelCache
from .layers import LogSoftmax, Sigmoid, Softmax
from .losses import Loss
from .network import Sequential
from .optimizers import Optimizer
from .progress import Progress
from .resume import SavedTraining
from .schedules import Schedule

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # (x, rng) -> an x of the same shape and dtype


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
        for name, value, kind in (
            ("network", network, Sequential),
            ("loss", loss, Loss),
            ("optimizer", optimizer, Optimizer),
        ):
            _expect("Trainer", name, value, kind)
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.scores: np.ndarray | None = None

    def step(self, x: np.ndarray, targets: np.ndarray) -> float:
        """Forward, loss, backward and one update for the batch x (N, …); the loss before the update.

        The network's output for the batch stays in `scores`. The step is computed by the network's engine, so the layers keep
        nothing for a `network.backward` afterwards. The network's `task` becomes the loss's, where that says one.
        """
        network, loss = self.network, self.loss
        engine = network.engine(network.check(x).shape[1:])
        if type(targets) is not np.ndarray or targets.shape[:1] != x.shape[:1] or not len(x):
            targets = self._accept(x, targets)
        with engine.lock:
            batch = engine.batch(len(x), training=True)
            batch.x[...] = x
            value = training_step(batch, loss, self.optimizer, network.parameter_vector, network.gradients)(targets)
            self.scores = batch.y.copy()
        if loss.task != network.task and loss.task is not None:
            network.task = loss.task
        return float(value)  # a loss of one's own may give a NumPy number

    def _accept(self, x: np.ndarray, targets):
        """The targets of a batch, if they can be; a loss of the user's own may take others than arrays."""
        if len(x) == 0:
            raise ValueError(f"Trainer.step: x holds no samples: the mean of an empty batch {x.shape} is not defined")
        if _is_ours(self.loss):
            targets = array("Trainer.step: targets", targets)
            if targets.shape[:1] != x.shape[:1]:
                raise ValueError(f"Trainer.step: x {x.shape} and targets {targets.shape} differ in length")
        return targets


def _is_ours(loss: Loss) -> bool:
    """Is it one of the package's losses? One of the user's own may take other targets."""
    return type(loss).forward.__module__ == Loss.__module__


def _expect(who: str, name: str, value, kind: type) -> None:
    if not isinstance(value, kind):
        hint = isinstance(value, type) and issubclass(value, kind)
        got = f"the class {value.__name__}; make one: {value.__name__}()" if hint else type(value).__name__
        raise TypeError(f"{who}: expected {name} to be a {kind.__name__}, got {got}")


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
    before, (x, targets) = KernelCache.compiled, _pair("warmup: batch", batch)
    Trainer(network, loss, optimizer)  # for its checks, before anything is copied
    trainer = Trainer(copy.deepcopy(network), copy.deepcopy(loss), copy.deepcopy(optimizer))
    with _named("warmup: batch"):
        trainer.step(x, targets)
    evaluate(trainer.network, trainer.loss, (x, targets))
    return KernelCache.compiled - before


@dataclass
class History:
    """What `fit` measured, one number an epoch in each list.

    `train_loss` and `train_accuracy` are means over the epoch's batches as they were trained on (in training mode, while the
    parameters moved); `validation_…` and `test_…` are measured at the epoch's end in evaluation
    mode, and empty without such data. Accuracies are fractions, empty for a loss that is not a classifier's. `seconds`
    is the time of the epoch's training and measuring, `lr` the learning rate of its last step. `stop_reason` says why
    training ended before `epochs`, or is empty.
    """

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    stop_reason: str = ""

    def __len__(self) -> int:
        return len(self.train_loss)

    def add(self, measured: dict[str, "Evaluation"], seconds: float, lr: float) -> None:
        """One more epoch: what was measured on "train", "validation" and "test", as far as they are there."""
        for name, (loss, accuracy) in measured.items():
            getattr(self, f"{name}_loss").append(loss)
            if accuracy is not None:
                getattr(self, f"{name}_accuracy").append(accuracy)
        self.seconds.append(seconds)
        self.lr.append(lr)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The history as JSON text, also written to `path` if given. A loss that is not finite becomes null."""
        lists = {
            k: [v if math.isfinite(v) else None for v in values]
            for k, values in vars(self).items()
            if k != "stop_reason"
        }
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
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    augment: Augmentation | Sequence[Augmentation] | None = None,
    resume: str | os.PathLike | None = None,
) -> History:
    """Train on (x, targets) pairs in mini-batches; return the history.

    Every epoch visits all of `train` in a new random order, drawn from `seed` and the epoch's number alone; the last, smaller
    batch is trained on too. `callbacks` are Callback objects, schedules among them, and plain functions of the
    run. Training ends early when a callback asks for it or the loss is no longer finite: a warning says so, and where in `train`
    there is a value that is not finite, if that is why.
    `progress` shows a bar in a terminal or notebook, and prints a line an epoch to standard error elsewhere.

    `test` is measured after every epoch, as `validation` is, and nothing is decided by it. `augment` is called with each training
    batch, `augment(x, rng)`, and gives an x of the same shape and dtype; of several the one gets what the one before gave. Its
    generator depends on `seed` and the epoch's number alone.

    `resume` names a file that holds the state of training after each epoch. Where it is there at the start, training
    goes on from it and ends with the same bits as without the interruption, in the same History but for the seconds; a training
    that has ended gives its history at once, and goes on if `epochs` is larger now. A callback's `on_train_begin` and
    `on_train_end` are called each time. What a callback keeps must be in its `state_dict`, what a layer keeps in `state`.
    ValueError, and nothing changed, for the file of another training: other layers, loss, settings of the optimiser, shapes of
    data, `batch_size`, `seed`, callbacks or augmentation of other kinds or settings (see Callback).

    Same network seed, data, `seed` and machine: the same parameters, bit for bit, on any number of threads.
    """
    trainer = Trainer(network, loss, optimizer)
    given = {"train": train, "validation": validation, "test": test}
    splits = {name: _pair(name, pair) for name, pair in given.items() if pair is not None or name == "train"}
    batch_size, epochs, seed = (
        whole("fit: batch_size", batch_size),
        whole("fit: epochs", epochs, 0),
        whole("fit: seed", seed, 0),
    )
    callbacks, progress = _check_callbacks(callbacks), flag("fit: progress", progress)
    for name, pair in splits.items():
        _check_data(name, network, loss, *pair)
    augment = _check_augment(augment, splits["train"][0])
    run, saved = Run(network, loss, optimizer, History(), epochs, "validation" in splits), None
    if resume is not None:
        shapes = {name: f"x {x.shape}, targets {targets.shape}" for name, (x, targets) in splits.items()}
        same = {**shapes, "batch_size": batch_size, "seed": seed, "augment": [_name(change) for change in augment]}
        saved = SavedTraining(resume, run, callbacks, augment, same)
    _tell(callbacks, "on_train_begin", run)
    base_lr, count = optimizer.lr, math.ceil(len(splits["train"][0]) / batch_size)
    try:
        if saved:
            saved.restore()
        if run.epoch:  # a training that went on, perhaps one that has ended
            network.task = loss.task or network.task
        with Progress(epochs, count, progress, run.epoch) as bar:
            while run.epoch < epochs and not run.history.stop_reason:
                start = time.perf_counter()
                batches = _batches(*splits["train"], batch_size, augment, [seed, run.epoch])
                measured = {"train": _epoch(run, trainer, batches, count, callbacks, base_lr, bar)}
                if not math.isfinite(value := measured["train"].loss):
                    _end_not_finite(run, value, *splits["train"], bool(augment))
                measured |= {name: evaluate(network, loss, pair) for name, pair in splits.items() if name != "train"}
                run.history.add(measured, time.perf_counter() - start, optimizer.lr)
                run.epoch += 1
                bar.epoch_ended(run.history)
                _tell(callbacks, "on_epoch_end", run)
                if saved:
                    saved.write()
    finally:
        optimizer.lr = base_lr
    _tell(callbacks, "on_train_end", run)
    return run.history


def _check_callbacks(callbacks) -> list[Callback | Callable]:
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks must be a list, got {shown(callbacks)}")
    try:
        callbacks = list(callbacks)
    except Exception:
        raise TypeError(f"fit: callbacks must be a list, got {shown(callbacks)}") from None
    for callback in callbacks:
        if not (isinstance(callback, Callback) or callable(callback)) or isinstance(callback, type):
            raise TypeError(f"fit: callbacks must be Callback objects or functions, got {shown(callback)}")
    return callbacks


def _check_augment(augment, x: np.ndarray) -> list[Augmentation]:
    """The augmentations as a list, each tried on two samples."""
    augment = [] if augment is None else list(augment) if isinstance(augment, (list, tuple)) else [augment]
    for change in augment:
        if not callable(change) or isinstance(change, type):
            wanted = "a function of (x, rng), an object like RandomFlip() or a list"
            raise TypeError(f"fit: augment must be {wanted}, got {shown(change)}")
        given = x[:2]
        y = change(given.copy(), np.random.default_rng(0))
        if not isinstance(y, np.ndarray) or (y.shape, y.dtype) != (given.shape, given.dtype):
            got = f"{y.dtype} {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
            raise ValueError(f"fit: augment: {_name(change)} made {got} of a batch {given.dtype} {given.shape}")
    return augment


def _name(change: Augmentation) -> str:
    return getattr(change, "__name__", type(change).__name__)


def _check_data(name: str, network: Sequential, loss: Loss, x: np.ndarray, targets: np.ndarray) -> None:
    """Errors that would come up in the middle of training come up before it: one sample goes through, all targets are checked."""
    if len(x) == 0:
        raise ValueError(f"fit: {name} holds no samples")
    with _named(f"fit: {name}"):
        scores = outputs(network, x[:1])
        if _is_ours(loss):
            loss.check(np.broadcast_to(scores, (len(x), *scores.shape[1:])), targets)


@contextlib.contextmanager
def _named(what: str):
    """Errors that say what they are of."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{what}: {error}") from None


def _batches(
    x, targets, batch_size: int, augment: list[Augmentation], seed: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The mini-batches of an epoch, in the order and with the changes that its seed gives."""
    order = np.random.default_rng(seed).permutation(len(x))
    rng = np.random.default_rng(
        [*seed, 1]
    )  # one for the epoch: to make one takes 20 µs, a step of a small batch little more
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        batch = x[chosen]
        for change in augment:
            batch = change(batch, rng)
        yield batch, targets[chosen]


def _epoch(run: Run, trainer: Trainer, batches, count: int, callbacks, base_lr: float, bar: Progress) -> "Evaluation":
    """Train on the `count` batches; the means over them."""
    schedules = [callback for callback in callbacks if isinstance(callback, Schedule)]
    told = [c for c in callbacks if isinstance(c, Callback) and getattr(c.on_batch_end, "__func__", c.on_batch_end) is not Callback.on_batch_end]
    total_loss, total_correct, seen = 0.0, 0, 0
    for batch, (x, targets) in enumerate(batches):
        if schedules:
            now = run.epoch + batch / count
            trainer.optimizer.lr = base_lr * math.prod(schedule.factor(now) for schedule in schedules)
        value = trainer.step(x, targets)
        total_loss += value * len(x)
        seen += len(x)
        correct = trainer.loss.correct(trainer.scores, targets)
        total_correct = None if correct is None else total_correct + correct
        bar.step(value)
        for callback in told:
            callback.on_batch_end(run, value)
        if not math.isfinite(value):
            break  # `fit` says why
    return Evaluation(total_loss / seen, None if total_correct is None else total_correct / seen)


def _end_not_finite(run: Run, value: float, x: np.ndarray, targets: np.ndarray, augmented: bool) -> None:
    """End the training, since its loss is no longer finite, and say why, where the data tell."""
    reason, hint = f"the loss is {value} in epoch {run.epoch + 1}", ""
    found = [where for name, values in (("x", x), ("targets", targets)) if (where := _not_finite(name, values))]
    if found:
        reason += f": train's {' and '.join(found)}"
    else:
        hint = " A lower learning rate may help"
        hint += ", or the augmentation makes numbers that are not finite." if augmented else "."
    run.stop(reason)
    warnings.warn(f"fit: {reason}; training ends here.{hint}", stacklevel=3)


def _not_finite(name: str, values: np.ndarray) -> str:
    """Where the first value is that is not finite, and how many samples have one; empty where there is none."""
    bad = (
        [] if values.dtype.kind not in "fc" else [i for i, sample in enumerate(values) if not np.isfinite(sample).all()]
    )
    if not bad:
        return ""
    inside = np.argwhere(~np.isfinite(values[bad[0]]))
    place = (bad[0], *map(int, inside[0]))
    count = f"{len(bad)} of {len(values)} samples hold such values"
    return f"{name}[{', '.join(map(str, place))}] is {values[place]} ({count})"


def _tell(callbacks, event: str, run: Run) -> None:
    for callback in callbacks:
        if isinstance(callback, Callback):
            getattr(callback, event)(run)
        elif event == "on_epoch_end":
            callback(run)


def _pair(name: str, data) -> tuple[np.ndarray, np.ndarray]:
    try:
        x, targets = data
    except Exception:  # also of an iterator of the user's own
        raise TypeError(f"{name} must be a pair (x, targets), got {type(data).__name__}") from None
    x, targets = array(f"{name}: x", x, "biufcO"), array(f"{name}: targets", targets, "biufcO")
    if x.ndim == 0 or targets.ndim == 0 or len(x) != len(targets):
        raise ValueError(f"{name}: x {x.shape} and targets {targets.shape} differ in length")
    return x, targets


class Evaluation(NamedTuple):
    """Mean loss, and the fraction classified rightly (None for a loss that is not a classifier's)."""

    loss: float
    accuracy: float | None


def evaluate(network: Sequential, loss: Loss, data: tuple[np.ndarray, np.ndarray], batch_size: int = 256) -> Evaluation:
    """The loss and accuracy of the network on (x, targets), in evaluation mode."""
    _expect("evaluate", "network", network, Sequential)
    _expect("evaluate", "loss", loss, Loss)
    x, targets = _pair("data", data)
    batch_size = whole("evaluate: batch_size", batch_size)
    if len(x) == 0:
        raise ValueError("evaluate: the mean over no samples is not defined")
    total_loss, correct = 0.0, 0
    with _named("evaluate: data" if _is_ours(loss) else "evaluate: loss"):
        for start in range(0, len(x), batch_size):
            batch = targets[start : start + batch_size]
            scores = outputs(network, x[start : start + batch_size], batch_size)
            total_loss += float(loss.forward(scores, batch)) * len(batch)
            right = loss.correct(scores, batch)
            correct = None if right is None else correct + right
    return Evaluation(total_loss / len(x), None if correct is None else correct / len(x))


def outputs(network: Sequential, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The network's raw output for x (N, …) in evaluation mode, computed in batches: (N, …) of the network's dtype."""
    _expect("outputs", "network", network, Sequential)
    batch_size = whole("outputs: batch_size", batch_size)
    engine = network.engine(network.check(x).shape[1:])
    y = np.empty((len(x), *network.output_shape(x.shape[1:])), x.dtype)
    for start in range(0, len(x), batch_size):
        with engine.lock:
            y[start : start + batch_size] = engine.forward(x[start : start + batch_size])
    return y


def predict(network: Sequential, x: np.ndarray, batch_size: int = 256, *, loss: Loss | None = None) -> np.ndarray:
    """What the network says of each sample of x (N, …): the decided class, int64 (N,), or the numbers of a regression, (N, …).

    Which of the two is known from, in this order:
    - `loss`, if it is given: its own `predict` decides; MeanSquaredError gives the outputs as they are
    - `network.task`: that of the loss that the network was last trained with (fit, Trainer); files keep it
    - the last layer: Softmax, LogSoftmax, and Sigmoid with one output, make a classifier
    Otherwise the outputs are taken for scores of classes, and a UserWarning says so: give `loss`, set `network.task`, or call
    `fastbp.outputs`.

    Classes: for outputs (N, C) with C of at least 2 the largest; for one output a sample, 1 where it is positive (above one
    half, if the network ends in Sigmoid), else 0.

    >>> import fastbp
    >>> network, x = fastbp.Sequential(fastbp.Linear(2, 1)), np.eye(2, dtype=np.float32)
    >>> _ = fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.0)).step(x, x[:, :1])
    >>> np.array_equal(fastbp.predict(network, x), network.forward(x))
    True
    """
    y = outputs(network, x, batch_size)
    if loss is not None:
        _expect("predict", "loss", loss, Loss)
        with _named("predict: loss"):
            return y if loss.task == "regression" else loss.predict(y)
    if network.task == "regression":
        return y
    last = network.layers[-1]
    one = _one_output(y)
    if network.task is None and not isinstance(last, (Softmax, LogSoftmax)) and not (one and isinstance(last, Sigmoid)):
        what = "a score for class 1" if one else f"scores of {y.shape[1]} classes"
        warnings.warn(
            f"predict: nothing says what this network's outputs are, so they are taken for {what}: give loss=…, or set "
            "network.task; fastbp.outputs gives the numbers themselves",
            stacklevel=2,
        )
    if not one:
        return y.argmax(axis=1)
    return (y.reshape(-1) > (0.5 if isinstance(last, Sigmoid) else 0)).astype(np.int64)


def predict_proba(network: Sequential, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The probability of each class, (N, C), or of class 1 for one output a sample, (N,).

    Outputs are taken as what the network's last layer says they are: probabilities after Softmax or Sigmoid, their logarithms
    after LogSoftmax, scores for softmax or for the sigmoid otherwise. A network trained with a hinge loss has
    scores that are no log-odds: these numbers are then a ranking, not probabilities. ValueError for a network trained for
    regression (`network.task`), which has no classes.
    """
    y, last = outputs(network, x, batch_size), network.layers[-1]
    if network.task == "regression":
        raise ValueError(
            "predict_proba: the network was trained for regression, so it gives no probabilities; use fastbp.outputs"
        )
    if not _one_output(y):
        if isinstance(last, Softmax):
            return y
        return np.exp(y) if isinstance(last, LogSoftmax) else Softmax().forward(y)
    y = y.reshape(-1)
    return y if isinstance(last, Sigmoid) else Sigmoid().forward(y)


def _one_output(y: np.ndarray) -> bool:
    """Is it one output a sample, or several? ValueError where it is neither."""
    if y.ndim == 2 and y.shape[1] > 1:
        return False
    if y.ndim > 2 or y.shape[1:] not in ((), (1,)):
        raise ValueError(f"expected a network with outputs (N, C), (N, 1) or (N,), got {y.shape}")
    return True
