"""One training step at a time, and the kernels for it made ready before the first."""

import copy

import numpy as np

from ..arguments import array
from ..engine.step import training_step
from ..kernels.jit import KernelCache
from ..losses import Loss
from ..network import Sequential
from ..optimizers import Optimizer
from .checks import expect, is_ours, named, x_and_targets
from .predicting import evaluate


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
        expect("Trainer", "network", network, Sequential)
        expect("Trainer", "loss", loss, Loss)
        expect("Trainer", "optimizer", optimizer, Optimizer)
        if network.network is not None:
            raise ValueError("Trainer: network is a part of another network: train that one, or a copy.deepcopy of it")
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.scores: np.ndarray | None = None

    def step(self, x: np.ndarray, targets: np.ndarray) -> float:
        """Forward, loss, backward and one update for the batch x (N, …); the loss before the update.

        The network's output for the batch stays in `scores`. The step is computed by the network's engine, so the
        layers keep nothing for a `network.backward` afterwards. The network's `task` becomes the loss's, where that
        says one.
        """
        network, loss = self.network, self.loss
        engine = network.engine(network.check(x).shape[1:])
        if type(targets) is not np.ndarray or targets.shape[:1] != x.shape[:1] or not len(x):
            targets = self._accept(x, targets)
        with engine.lock:
            batch = engine.batch(len(x), training=True)
            batch.x[...] = x
            step = training_step(batch, loss, self.optimizer, network)
            value = step(targets)
            self.scores = batch.y.copy()
        if loss.task != network.task and loss.task is not None:
            network.task = loss.task
        return float(value)  # a loss of the user's own may give a NumPy number

    def _accept(self, x: np.ndarray, targets):
        """The targets of a batch, if they can be; a loss of the user's own may take others than arrays."""
        if len(x) == 0:
            raise ValueError(f"Trainer.step: x holds no samples: the mean of an empty batch {x.shape} is not defined")
        if is_ours(self.loss):
            targets = array("Trainer.step: targets", targets)
            if targets.shape[:1] != x.shape[:1]:
                raise ValueError(f"Trainer.step: x {x.shape} and targets {targets.shape} differ in length")
        return targets


def warmup(network: Sequential, loss: Loss, optimizer: Optimizer, batch: tuple[np.ndarray, np.ndarray]) -> int:
    """Compile the kernels for training on batches like this one, or load them from the disk.

    Returns how many were compiled. Without this the first step does it. `batch` is a pair (x, targets); copies of the
    network and the optimiser make a step and a prediction with it, so nothing that is given changes.

    >>> import fastbp
    >>> network, batch = fastbp.Sequential(fastbp.Linear(4, 3)), (np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]))
    >>> _ = fastbp.warmup(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), batch)
    >>> fastbp.warmup(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), batch)
    0
    """
    before, (x, targets) = KernelCache.compiled, x_and_targets("warmup: batch", batch)
    Trainer(network, loss, optimizer)  # for its checks, before anything is copied
    trainer = Trainer(copy.deepcopy(network), copy.deepcopy(loss), copy.deepcopy(optimizer))
    with named("warmup: batch"):
        trainer.step(x, targets)
    evaluate(trainer.network, trainer.loss, (x, targets))
    return KernelCache.compiled - before
