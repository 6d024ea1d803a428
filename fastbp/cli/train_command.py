"""`fastbp train`."""

import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import datasets
from ..interrupts import STATUS, Interruptible
from ..losses import SoftmaxCrossEntropy
from ..network import Sequential
from ..optimizers import Optimizer
from ..terminal import tell
from ..training import evaluate, fit, predict
from ..training.callbacks import Checkpoint
from ..training.resume import seconds_spent
from .choices import EPOCHS, OPTIMIZERS, load_data, new_network
from .predict_command import class_table
from .streams import Failure, flush
from .train_folder import Folder, Refused, training_folder

RESUME = "fit: resume: "  # before what fit says of the state that it goes on from


def train(options) -> int:
    """Train a new network, or go on with a training, in a folder of its own."""
    network, loss = new_network(options), SoftmaxCrossEntropy()
    kind, more, default_lr = OPTIMIZERS[options.optimizer]
    optimizer = kind(lr=options.lr or default_lr, weight_decay=options.weight_decay, **more)
    names = ("data", "model", "seed", "dtype", "batch_size", "optimizer", "weight_decay")
    settings = {name.replace("_", "-"): getattr(options, name) for name in names} | {"lr": optimizer.lr}
    stem, default = f"fastbp-{options.data}-{options.model}", EPOCHS[options.data]
    try:
        with training_folder(options.output, stem, settings, options.epochs, default, options.resume) as folder:
            return _train_in(folder, options, network, loss, optimizer)
    except Refused as refused:
        raise Failure(str(refused), code=2) from None


def _train_in(folder: Folder, options, network: Sequential, loss: SoftmaxCrossEntropy, optimizer: Optimizer) -> int:
    data = load_data(options.data, options.data_dir, network.dtype)
    train, validation = datasets.split(data.train, (0.9, 0.1), seed=options.seed)
    network.metadata = {"data": data.name, "classes": list(data.classes), "input_shape": list(data.input_shape)}
    checkpoint = Checkpoint(folder.network)

    def record(run) -> None:
        run.history.to_json(folder.history)
        Interruptible.check()

    try:
        sizes = [len(part.y) for part in (train, validation, data.test)]
        print("{}: {} images to train on, {} for validation, {} for the test".format(data.name, *sizes))
        print(network.summary(data.input_shape))
        print(f"{optimizer}, batch size {options.batch_size}, results go to {folder.path}{os.sep}")
        if options.resume and (folder.done or not folder.state.exists()):  # else it is damaged, as `fit` will say
            print(_whence(folder))
        flush()
        started = time.perf_counter() - seconds_spent(folder.state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a loss that is not finite is reported below
            history = fit(
                network, loss, optimizer, train, validation, epochs=folder.epochs, batch_size=options.batch_size,
                callbacks=[checkpoint, record], seed=options.seed, resume=folder.state,
            )  # fmt: skip
        seconds = time.perf_counter() - started
        if history.stop_reason:
            raise Failure(f"{history.stop_reason}; a lower --lr may help. {_kept(checkpoint)}")
        if not folder.network.exists():  # removed since its training ended
            network.save(folder.network)

        history.to_json(folder.history)
        predicted = predict(network, data.test.x)
        accuracy = evaluate(network, loss, data.test).accuracy
        title = f"{options.model} on {data.name}: test accuracy {accuracy:.2%}"
        drawn = _draw(folder, history, data, predicted, title)
        print(class_table(predicted, data.test.y, data.classes))
        print(f"test accuracy {accuracy:.2%} after {len(history)} epochs in {seconds:.1f} s")
        *others, last = [folder.network, folder.history, *[folder.figure] * drawn]
        print(f"wrote {', '.join(map(str, others))} and {last}")
        return 0
    except KeyboardInterrupt:
        if checkpoint.saved_epoch:
            tell(f"fastbp: the same command goes on from there with --resume --output {folder.path}")
        raise Failure(f"interrupted. {_kept(checkpoint)}", STATUS) from None
    except ValueError as error:
        if not str(error).startswith(RESUME):
            raise
        damaged = "damaged" in str(error)
        raise Failure(str(error).removeprefix(RESUME), 1 if damaged else 2) from None


def _whence(folder: Folder) -> str:
    """Where a training that was to go on begins."""
    if not folder.done:
        return f"{folder.path} holds no epoch of it yet: it begins at the beginning"
    if folder.done == folder.epochs:
        return f"the training in {folder.path} had ended after epoch {folder.done}; --epochs takes it further"
    return f"the training in {folder.path} goes on after epoch {folder.done}"


def _kept(checkpoint: Checkpoint) -> str:
    """What an interrupted training leaves."""
    if not os.path.exists(checkpoint.path):
        return "No epoch had ended: nothing is saved"
    epoch = f" after epoch {checkpoint.saved_epoch}" if checkpoint.saved_epoch else ""
    return f"{checkpoint.path} holds the network{epoch}"


def _draw(folder: Folder, history, data: datasets.Dataset, predicted: np.ndarray, title: str) -> bool:
    """Curves and 30 predictions: up to 10 wrong ones, then right ones, both in the order of the test set.

    False, and a line that says why, where no figure can be drawn: the training itself has ended well.
    """
    wrong = np.flatnonzero(predicted != data.test.y)[:10]
    right = np.flatnonzero(predicted == data.test.y)[: 30 - len(wrong)]
    shown = np.concatenate([wrong, right])
    try:
        with _home_of_matplotlib(folder.path):
            from .. import plotting

            images, labels = data.test.x[shown], data.test.y[shown]
            sheet = plotting.training_sheet(history, images, predicted[shown], labels, data.classes, title)
            plotting.save(sheet, folder.figure)
    except Exception as error:
        Interruptible.check()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        tell(f"fastbp: warning: {folder.figure} could not be drawn: {why}")
        return False
    return True


@contextlib.contextmanager
def _home_of_matplotlib(folder: Path) -> Iterator[None]:
    """matplotlib wants a folder of its own; where it can make none at home, it gets one for the time of the drawing."""
    home = os.path.expanduser("~")
    if "MPLCONFIGDIR" in os.environ or os.path.isabs(home) and os.access(home, os.W_OK):
        yield
        return
    try:
        scratch = tempfile.TemporaryDirectory(prefix="fastbp-")
    except OSError:  # nowhere to put temporary files
        scratch = tempfile.TemporaryDirectory(prefix=".matplotlib.", dir=folder)
    with scratch as name:
        os.environ["MPLCONFIGDIR"] = name
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
