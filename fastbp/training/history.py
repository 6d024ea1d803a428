"""What a training measured, epoch by epoch, and the training under way as callbacks see it."""

import json
import math
import os
from dataclasses import dataclass, field

from ..files import written_atomically
from ..losses import Loss
from ..network import Sequential
from ..optimizers import Optimizer
from .predicting import Evaluation


@dataclass
class History:
    """What `fit` measured, one number an epoch in each list.

    `train_loss` and `train_accuracy` are means over the epoch's batches as they were trained on (in training mode,
    while the parameters moved); `validation_…` and `test_…` are measured at the epoch's end in evaluation mode, and
    empty without such data. Accuracies are fractions, empty for a loss that is not a classifier's. `seconds` is the
    time of the epoch's training and measuring, `lr` the learning rate of its last step. `stop_reason` says why training
    ended before `epochs`, or is empty.
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

    def add(self, measured: dict[str, Evaluation], seconds: float, lr: float) -> None:
        """One more epoch: what was measured on "train", "validation" and "test", as far as they are there."""
        for name, (loss, accuracy) in measured.items():
            getattr(self, f"{name}_loss").append(loss)
            if accuracy is not None:
                getattr(self, f"{name}_accuracy").append(accuracy)
        self.seconds.append(seconds)
        self.lr.append(lr)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The history as JSON text, also written to `path` if given. A loss that is not finite becomes null."""
        record: dict[str, object] = {"epochs": len(self)}
        for name, values in vars(self).items():
            record[name] = values if name == "stop_reason" else [v if math.isfinite(v) else None for v in values]
        text = json.dumps(record, indent=2) + "\n"
        if path is not None:
            with written_atomically(path) as file:
                file.write(text.encode())
        return text

    def plot(self):
        """A matplotlib Figure of loss and accuracy against the epoch; `figure.savefig("curves.png")` writes it."""
        from ..plotting import curves

        return curves(self)

    def require(self, figure: str, who: str, run: "Run") -> None:
        """ValueError where this run will not measure `figure`."""
        if figure.startswith("validation") and not run.validated:
            raise ValueError(f"{who} monitors {figure}: give fit(validation=…)")
        if figure.endswith("accuracy") and type(run.loss).correct is Loss.correct:
            raise ValueError(f"{who} monitors {figure}: {type(run.loss).__name__} has no accuracy")


@dataclass
class Run:
    """A training under way, as callbacks see it: `epoch` of `epochs` have ended, each of `batches` steps."""

    network: Sequential
    loss: Loss
    optimizer: Optimizer
    history: History
    epochs: int
    validated: bool
    epoch: int = 0
    batches: int = 1

    def stop(self, reason: str) -> None:
        """End training after this epoch."""
        self.history.stop_reason = self.history.stop_reason or reason
