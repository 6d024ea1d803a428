"""A training step as one program: forward, loss, backward and update. The one module here that knows losses and
optimisers."""

import math
import operator
import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from ..losses import Loss
from ..optimizers import Optimizer, Stretch
from ..parameters import Parameter
from .engine import Batch, bound
from .gradients import Gradients
from .sections import Parts, Piece
from .threads import run


class Trained(Protocol):
    """What a step asks of a network: its vectors of parameters and of gradients, and the parameters by name."""

    parameter_vector: np.ndarray
    gradients: Gradients
    named_parameters: dict[str, Parameter]


def training_step(batch: Batch, loss: Loss, optimizer: Optimizer, network: Trained) -> "TrainingStep":
    """The step of this batch with this loss and optimiser: the last one again, if it was made for them."""
    step = batch.step
    if step is None or step.loss is not loss or step.optimizer is not optimizer:
        step = batch.step = TrainingStep(batch, loss, optimizer, network)
    return step


class TrainingStep:
    """Steps with a batch's arrays, one loss and one optimiser: `step(targets)` for what is in the batch's x.

    A loss, or an optimiser's step, that is more than one kernel is one call among the others.
    """

    def __init__(self, batch: Batch, loss: Loss, optimizer: Optimizer, network: Trained):
        self.batch = weakref.ref(batch)  # which has this step
        self.loss, self.optimizer = loss, optimizer
        self.values, self.gradients = network.parameter_vector, network.gradients
        self.stretches = optimizer.attach(network)
        self.loss_call = loss.step_call(batch.y, batch.dout) or LossCall(loss, batch.y, batch.dout)
        self.program: list[Callable[[], None]] = []
        # What the program is bound to: are gradients kept, may parts be updated apart, and the optimiser's vectors
        self.kept = self.by_parts = None
        self.vectors: list[np.ndarray] = []
        left = [[call for piece in pieces if self._descends(piece) for call in piece.calls] for pieces in batch.ranges]
        # What completes the gradients that an update with `descend` leaves open
        self.left_open = [calls for calls in left if calls]

    def __call__(self, targets: np.ndarray) -> float:
        """Make the step; the loss before the update."""
        self.gradients.begin()
        try:
            return self._made(targets)
        finally:
            self.gradients.step_over()

    def _made(self, targets: np.ndarray) -> float:
        optimizer, gradients = self.optimizer, self.gradients
        # an optimiser with a step of its own needs the whole gradient
        by_parts = getattr(optimizer.step, "__func__", None) is Optimizer.step
        kept = gradients.kept or not optimizer.descends
        self.loss_call.begin(targets)
        vectors = optimizer.begin(self.values, gradients.array) if by_parts else []
        at = -1
        try:
            same = kept is self.kept and by_parts is self.by_parts
            if not same or not all(map(operator.is_, self.vectors, vectors)):
                self._bind(kept, by_parts, vectors)
            for at, call in enumerate(self.program):  # noqa: B007 -- where it ends counts
                run(call)
        except BaseException as error:
            # Nothing was updated yet, but by an optimiser's own step, and where Ctrl-C comes in the last call
            if isinstance(error, Exception) or at < len(self.program) - 1:
                optimizer.steps -= by_parts
            if isinstance(error, ValueError) and not isinstance(self.loss_call, LossCall):
                self.loss.check(self.batch().y, targets)
            raise
        gradients.end(self.batch().engine(), [] if kept else self.left_open)
        return self.loss_call.value

    def _bind(self, kept: bool, by_parts: bool, vectors: list[np.ndarray]) -> None:
        """Make the program."""
        update = self._update((self.values, self.gradients.array, *vectors), kept, by_parts)
        batch, loss = self.batch(), [[self.loss_call.call]]
        self.program = bound([*batch.schedule.forward, loss, *batch.training_sections, *update])
        self.kept, self.by_parts, self.vectors = kept, by_parts, vectors

    def _update(self, vectors: tuple, kept: bool, by_parts: bool) -> list[Parts]:
        """The gradients that backward leaves open, and the optimiser's update, range by range."""
        if not by_parts:
            return [self.batch().completing(), [[partial(self._step_apart, *vectors)]]]
        return [[self._update_range(pieces, vectors, kept) for pieces in self.batch().ranges]]

    def _update_range(self, pieces: list[Piece], vectors: tuple, kept: bool) -> list[Callable[[], None]]:
        """The calls for neighbouring pieces. Unless gradients are kept, pieces that can descend do both at once."""
        calls, first = [], pieces[0].first
        for piece in pieces:
            if kept or not self._descends(piece):
                calls += piece.calls
                continue
            calls += self._updates(first, piece.first, vectors)
            ((_, _, optimizer),) = self._within(piece.first, piece.last)
            calls += piece.descend(*(vector[piece.first : piece.last] for vector in vectors), optimizer.numbers)
            first = piece.last
        return calls + self._updates(first, pieces[-1].last, vectors)

    def _updates(self, first: int, last: int, vectors: tuple) -> list[Callable[[], None]]:
        """The optimiser's updates between two places of the vectors, a call for each of its groups in turn."""
        within = self._within(first, last)
        return [optimizer.update_call(*(vector[a:b] for vector in vectors)) for a, b, optimizer in within]

    def _within(self, first: int, last: int) -> list[Stretch]:
        """What of the optimiser's stretches lies between two places of the vectors."""
        cut = [Stretch(max(a, first), min(b, last), optimizer) for a, b, optimizer in self.stretches]
        return [stretch for stretch in cut if stretch.first < stretch.last]

    def _descends(self, piece: Piece) -> bool:
        """Can its update be made with its gradients? It is one call, with one optimiser's numbers."""
        if piece.descend is None:
            return False
        within = self._within(piece.first, piece.last)
        return len(within) == 1 and (within[0].first, within[0].last) == (piece.first, piece.last)

    def _step_apart(self, values: np.ndarray, grads: np.ndarray) -> None:
        """The step of an optimiser that has one of its own; frozen parameters have their values back after it."""
        kept, at = [], 0
        for first, last, _ in [*self.stretches, Stretch(values.size, values.size, self.optimizer)]:
            kept += [(slice(at, first), values[at:first].copy())] if at < first else []
            at = last
        self.optimizer.step(values, grads)
        for part, before in kept:
            values[part] = before


class LossCall:
    """A loss that is more than one kernel call, as a call among the others."""

    def __init__(self, loss: Loss, scores: np.ndarray, dscores: np.ndarray):
        self.loss, self.scores, self.dscores = loss, scores, dscores
        self.value, self.targets = math.nan, None
        self.call = partial(self.make)

    def begin(self, targets: np.ndarray) -> None:
        """Take the targets of the step to come."""
        self.targets = targets

    def make(self) -> None:
        """The loss, and the gradient of the scores."""
        self.value = self.loss.step(self.scores, self.targets, self.dscores)
