"""The loop over epochs and batches: `fit`."""

import inspect
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..arguments import flag, shown, whole
from ..losses import Loss
from ..network import Sequential
from ..optimizers import Optimizer
from .averages import averaged, leave
from .callbacks import Callback
from .checks import is_ours, named, x_and_targets
from .history import History, Run
from .predicting import Evaluation, evaluate, outputs
from .progress import Progress
from .resume import SavedTraining
from .schedules import Schedule
from .trainer import Trainer

Augmentation = Callable[..., np.ndarray]  # (x, rng), or more by name -> an x of the same shape and dtype
ASKED = ("indices", "epoch", "seed")  # what an augmentation may ask for by name


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

    Every epoch visits all of `train` in a new random order, drawn from `seed` and the epoch's number alone; the last,
    smaller batch is trained on too. `callbacks` are Callback objects, schedules among them, and plain functions of the
    run. Training ends early when a callback asks for it, and when the loss is no longer finite: then a warning says so,
    and where in `train` a value is not finite, if that is why.
    `progress` shows a bar in a terminal or notebook, and prints a line an epoch to standard error elsewhere.

    `test` is measured after every epoch, as `validation` is, and nothing is decided by it. `augment` is called with
    each training batch, `augment(x, rng)`, and gives an x of the same shape and dtype; of several, each gets what the
    one before gave. The generator `rng` depends on `seed` and the epoch's number alone. An augmentation that has
    parameters of these names gets more: `indices` (N,), which samples of `train` the batch holds, `epoch`, the number
    of epochs that have ended, and `seed`.

    With EMA or Lookahead among the callbacks, what is measured after an epoch are the averaged weights.

    `resume` names a file that holds the state of training after each epoch. Where the file is there at the start,
    training goes on from it and ends with the same bits as without the interruption, and with the same History but for
    the seconds. A training that has ended gives its history at once, and goes on if `epochs` is larger now. A
    callback's `on_train_begin` and `on_train_end` are called each time. What a callback keeps must be in its
    `state_dict`, what a layer keeps in `state`. ValueError, and nothing changed, for the file of another training:
    other layers, loss, settings of the optimiser, shapes of data, `batch_size` or `seed`, or callbacks or augmentation
    of other kinds or settings (see Callback).

    Same network seed, data, `seed` and machine: the same parameters, bit for bit, on any number of threads.
    """
    trainer = Trainer(network, loss, optimizer)
    given = {"train": train, "validation": validation, "test": test}
    splits = {name: x_and_targets(name, pair) for name, pair in given.items() if pair is not None or name == "train"}
    batch_size, epochs = whole("fit: batch_size", batch_size), whole("fit: epochs", epochs, 0)
    seed = whole("fit: seed", seed, 0)
    callbacks, progress = _check_callbacks(callbacks), flag("fit: progress", progress)
    for name, pair in splits.items():
        _check_data(name, network, loss, *pair)
    augment = _check_augment(augment, splits["train"][0])
    count = math.ceil(len(splits["train"][0]) / batch_size)
    run, saved = Run(network, loss, optimizer, History(), epochs, "validation" in splits, batches=count), None
    if resume is not None:
        shapes = {name: f"x {x.shape}, targets {targets.shape}" for name, (x, targets) in splits.items()}
        same = {**shapes, "batch_size": batch_size, "seed": seed, "augment": [_name(change) for change in augment]}
        saved = SavedTraining(resume, run, callbacks, augment, same)
    _tell(callbacks, "on_train_begin", run)
    base_lr = optimizer.lr
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
                with averaged(callbacks):
                    others = {name: pair for name, pair in splits.items() if name != "train"}
                    measured |= {name: evaluate(network, loss, pair) for name, pair in others.items()}
                    run.history.add(measured, time.perf_counter() - start, optimizer.lr)
                    run.epoch += 1
                    bar.epoch_ended(run.history)
                    _tell(callbacks, "on_epoch_end", run)
                if saved:
                    saved.write()
    finally:
        optimizer.lr = base_lr
    leave(callbacks)
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
        asked = {"indices": np.arange(len(given)), "epoch": 0, "seed": 0}
        y = change(given.copy(), np.random.default_rng(0), **{name: asked[name] for name in _asked(change)})
        if not isinstance(y, np.ndarray) or (y.shape, y.dtype) != (given.shape, given.dtype):
            got = f"{y.dtype} {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
            raise ValueError(f"fit: augment: {_name(change)} made {got} of a batch {given.dtype} {given.shape}")
    return augment


def _asked(change: Augmentation) -> list[str]:
    """What more than x and rng an augmentation takes by name."""
    try:
        parameters = inspect.signature(change).parameters
    except (TypeError, ValueError):  # a function that does not tell
        return []
    return [name for name in ASKED if name in parameters]


def _name(change: Augmentation) -> str:
    return getattr(change, "__name__", type(change).__name__)


def _check_data(name: str, network: Sequential, loss: Loss, x: np.ndarray, targets: np.ndarray) -> None:
    """Errors that would end a training in its middle come first: one sample goes through, all targets are checked."""
    if len(x) == 0:
        raise ValueError(f"fit: {name} holds no samples")
    with named(f"fit: {name}"):
        scores = outputs(network, x[:1])
        if is_ours(loss):
            loss.check(np.broadcast_to(scores, (len(x), *scores.shape[1:])), targets)


def _batches(x, targets, batch_size: int, augment: list[Augmentation], seed: list[int]) -> Iterator[tuple]:
    """The mini-batches of an epoch, in the order and with the changes that its seed gives."""
    order = np.random.default_rng(seed).permutation(len(x))
    rng = np.random.default_rng([*seed, 1])  # one for the epoch: making one takes as long as a step of a small batch
    asked = [(change, _asked(change)) for change in augment]
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        batch, more = x[chosen], {"indices": chosen, "epoch": seed[1], "seed": seed[0]}
        for change, names in asked:
            batch = change(batch, rng, **{name: more[name] for name in names})
        yield batch, targets[chosen]


def _epoch(run: Run, trainer: Trainer, batches, count: int, callbacks, base_lr: float, bar: Progress) -> Evaluation:
    """Train on the `count` batches; the means over them."""
    schedules = [callback for callback in callbacks if isinstance(callback, Schedule)]
    told = [callback for callback in callbacks if isinstance(callback, Callback) and _is_told_of_batches(callback)]
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


def _is_told_of_batches(callback: Callback) -> bool:
    """Does it define `on_batch_end`, in its class or as a function set on the object?"""
    return getattr(callback.on_batch_end, "__func__", callback.on_batch_end) is not Callback.on_batch_end


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
    inexact = values.dtype.kind in "fc"
    bad = [i for i, sample in enumerate(values) if not np.isfinite(sample).all()] if inexact else []
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
