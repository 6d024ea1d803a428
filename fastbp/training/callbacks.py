"""Callbacks of `fit`: early stopping, checkpoints, running losses, and the base class of your own.

A plain function works too: it is called with the run at the end of every epoch.
"""

import math
import os

import numpy as np

from .. import arguments
from ..arguments import LARGEST, flag, number, text, whole
from ..terminal import tell

FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


class Callback:
    """Base class: methods that `fit` calls with its `Run`.

    A run has `network`, `loss`, `optimizer`, `history`, `epoch` (how many have ended) and `epochs`, and
    `run.stop(reason)` ends training after this epoch.
    """

    def on_train_begin(self, run) -> None: ...

    def on_batch_end(self, run, loss: float) -> None:
        """Called after every step with the batch's loss; a callback that does not define it costs a step nothing."""

    def on_epoch_end(self, run) -> None: ...

    def on_train_end(self, run) -> None:
        """Called when training has ended by itself or by `stop`, not after an exception."""

    def settings(self) -> dict:
        """What must be the same when a training goes on (`fit(resume=…)`): numbers, texts and lists of them by name."""
        return {}

    def state_dict(self) -> dict[str, np.ndarray]:
        """What `fit(resume=…)` has to keep of this callback after an epoch: numbers and arrays by name."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` gave, now as arrays; called after `on_train_begin` where a training goes on."""


def _check_monitor(who: str, monitor) -> None:
    if text(f"{who}: monitor", monitor) not in FIGURES:
        raise ValueError(f"{who}: monitor must be one of {', '.join(FIGURES)}, got {monitor!r}")


class EarlyStopping(Callback):
    """Stop when a figure of the history stops improving. Give one of two rules, or both:

    - `patience`: stop after so many epochs in a row without a new best of `monitor`; the best epoch's parameters and
      state are put back when training ends, but not after an exception or Ctrl-C.
    - `tolerance`: the plateau rule, stop when |previous − current| < tolerance for `monitor`.

    `monitor` is "train_loss", "train_accuracy", "validation_loss" or "validation_accuracy"; a loss is better when
    lower, an accuracy when higher.
    """

    def __init__(self, monitor: str = "validation_loss", patience: int | None = None, tolerance: float | None = None):
        _check_monitor("EarlyStopping", monitor)
        if patience is None and tolerance is None:
            raise ValueError("EarlyStopping: give patience=…, tolerance=… or both")
        if patience is not None and (patience := whole("EarlyStopping: patience", patience, -LARGEST)) < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        if tolerance is not None and not (tolerance := number("EarlyStopping: tolerance", tolerance)) > 0:
            raise ValueError(f"EarlyStopping: tolerance must be positive, got {tolerance}")
        self.monitor, self.patience, self.tolerance = monitor, patience, tolerance

    def on_train_begin(self, run):
        run.history.require(self.monitor, "EarlyStopping", run)
        self.best, self.best_epoch, self.best_state, self.previous = -math.inf, run.epoch, None, math.inf

    def on_epoch_end(self, run):
        figure = getattr(run.history, self.monitor)[-1]
        if self.tolerance is not None and abs(self.previous - figure) < self.tolerance:
            run.stop(f"{self.monitor} moved by less than {self.tolerance:g}")
        self.previous = figure
        if self.patience is None:
            return
        score = figure if self.monitor.endswith("accuracy") else -figure
        if score > self.best:
            self.best, self.best_epoch, self.best_state = score, run.epoch, run.network.state_dict()
        elif run.epoch - self.best_epoch >= self.patience:
            run.stop(f"{self.monitor} has not improved for {self.patience} epochs")

    def on_train_end(self, run):
        if self.best_state is not None:
            run.network.load_state_dict(self.best_state)
            self.best_state = None

    def settings(self):
        return {"monitor": self.monitor, "patience": self.patience, "tolerance": self.tolerance}

    def state_dict(self):
        figures = {"best": self.best, "best_epoch": self.best_epoch, "previous": self.previous}
        return figures | {f"network.{name}": array for name, array in (self.best_state or {}).items()}

    def load_state_dict(self, state):
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.previous = float(state["previous"])
        best = {name.removeprefix("network."): array for name, array in state.items() if name.startswith("network.")}
        self.best_state = best or None


class Checkpoint(Callback):
    """Save the network to `path` at the end of every epoch with a finite loss, or only at a new best of `monitor`.

    Beside EarlyStopping, give both the same monitor to keep the epoch that it goes back to.

    The file is replaced whole: an interruption at any moment leaves the last complete one.
    `saved_epoch` is its epoch, or None.
    """

    def __init__(self, path: str | os.PathLike, monitor: str | None = None):
        if monitor is not None:
            _check_monitor("Checkpoint", monitor)
        self.path, self.monitor = arguments.path("Checkpoint: path", path), monitor
        self.saved_epoch: int | None = None

    def on_train_begin(self, run):
        self.best, self.saved_epoch = -math.inf, None
        if self.monitor:
            run.history.require(self.monitor, "Checkpoint", run)

    def on_epoch_end(self, run):
        if self.monitor:
            figure = getattr(run.history, self.monitor)[-1]
            score = figure if self.monitor.endswith("accuracy") else -figure
            if not score > self.best:
                return
            self.best = score
        elif not math.isfinite(run.history.train_loss[-1]):
            return  # the last good network stays
        run.network.save(self.path)
        self.saved_epoch = run.epoch

    def settings(self):
        return {"monitor": self.monitor}  # the file may be another

    def state_dict(self):
        return {"best": self.best, "saved_epoch": self.saved_epoch or 0}

    def load_state_dict(self, state):
        self.best, self.saved_epoch = float(state["best"]), int(state["saved_epoch"]) or None


class RunningLoss(Callback):
    """The mean training loss of every `every` mini-batches within an epoch; what is left at an epoch's end is left out.

    `losses` is a list of (epoch, batch, mean): the mean over the `every` batches that end with this one, both counted
    from 1. `show` also prints each to standard error: [10, 12000] loss 0.902
    """

    def __init__(self, every: int = 2000, show: bool = False):
        self.every, self.show = whole("RunningLoss: every", every), flag("RunningLoss: show", show)
        self.losses: list[tuple[int, int, float]] = []

    def on_train_begin(self, run):
        self.losses, self.batch, self.total = [], 0, 0.0

    def on_batch_end(self, run, loss):
        self.batch += 1
        self.total += loss
        if self.batch % self.every == 0:
            self.losses.append((run.epoch + 1, self.batch, self.total / self.every))
            self.total = 0.0
            if self.show:
                tell("[{}, {}] loss {:.3f}".format(*self.losses[-1]))

    def on_epoch_end(self, run):
        self.batch, self.total = 0, 0.0

    def settings(self):
        return {"every": self.every}

    def state_dict(self):
        return {"losses": np.array(self.losses, np.float64).reshape(-1, 3)}

    def load_state_dict(self, state):
        self.losses = [(int(epoch), int(batch), float(mean)) for epoch, batch, mean in state["losses"]]
