"""The engine of a network for one input shape, and what it has made for each size of batch."""

import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from ..memory import aligned
from ..parameters import Parameter
from .compiling import compile_kernels
from .gradients import Gradients
from .graph import LayerLike, opened
from .machine import USUAL, Machine
from .neighbours import merged, told
from .ops import Setting, lowered
from .partition import partition
from .program import programs
from .sections import Parts, Piece, Schedule
from .threads import get_num_threads, run

BATCHES_KEPT = 6  # sizes of batches: training, validation and test, and the smaller last batch of each

ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Engine:
    """Forward, backward and training steps of a layer or network, for inputs (N, *input_shape).

    `print(engine)` shows by which op each layer is computed. The results are those of the layers one by one, to
    rounding. Parameters, gradients and state are the layers' own; what backward needs is kept by the engine, not by the
    layers. Only one thread at a time may use it: hold `lock`.
    """

    def __init__(
        self,
        layer: LayerLike,
        input_shape: tuple[int, ...],
        gradients: Gradients,
        places: dict[Parameter, int],
        machine: Machine = USUAL,
    ):
        self.input_shape, self.machine = tuple(input_shape), machine
        self.gradient_vector, self.places = gradients.array, places
        self._gradients = weakref.ref(gradients)
        self.lock = threading.RLock()  # a loss or an optimiser may make predictions in the middle of a step
        self.last: Batch | None = None
        self.batches: dict[tuple[int, bool], Batch] = {}
        self.graph = opened(layer, self.input_shape)  # ValueError where the shape does not fit
        self.output_shape = self.graph.y.shape  # of a sample
        ENGINES.add(self)

    def batch(self, N: int, training: bool) -> "Batch":
        """The arrays and calls for batches of N samples; kept for the last few sizes."""
        batch = self.batches.get((N, training))
        if batch is None:
            batch = Batch(self, Setting(N, self.gradient_vector.dtype, training))
            if len(self.batches) >= BATCHES_KEPT:
                self.batches.pop(next(iter(self.batches)))
            self.batches[N, training] = batch
        self.last = batch
        return batch

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The output for a batch x (N, *input_shape), in a buffer that the next pass overwrites."""
        if np.shape(x)[1:] != self.input_shape:
            raise ValueError(f"engine: expected input (N, {', '.join(map(str, self.input_shape))}), got {np.shape(x)}")
        batch = self.batch(len(x), training)
        if training and (gradients := self._gradients()):
            gradients.complete()
        np.copyto(batch.x, x)
        batch.run("forward", lambda: batch.schedule.forward)
        return batch.y

    def backward(self, dout: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Fill all gradients from the last forward pass, which must have been in training mode, for dout of y's shape.

        The gradient of its input is returned in a buffer. With `need_dx=False`, as in training, it is not computed, and
        None is returned.
        """
        batch = self.last
        if batch is None or not batch.setting.training:
            raise RuntimeError("engine: backward called before a forward pass in training mode")
        if np.shape(dout) != batch.y.shape:
            raise ValueError(f"engine: expected dout {batch.y.shape}, got {np.shape(dout)}")
        np.copyto(batch.dout, dout)
        batch.run(("backward", need_dx), lambda: [*batch.backward(need_dx), batch.completing()])
        return batch.schedule.dx if need_dx else None

    def __str__(self) -> str:
        """A line for each op, as in training on batches of 64: the paths of its layers, the layers, its name, how it
        computes and why so."""
        ops = lowered(self.graph.again(), Setting(64, self.gradient_vector.dtype, True), self.places)
        rows = [(", ".join(op.paths), " + ".join(map(repr, op.layers)), f"{type(op).__name__}: {op.how}") for op in ops]
        paths, layers = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
        return "\n".join(f"{path:<{paths}}  {names:<{layers}}  {how}".rstrip() for path, names, how in rows)


class Batch:
    """The arrays for one size of batch, and programs bound to them. A program is sections of calls, of kernels or
    others.

    `x`, `y` the input and output, (N, …) · `dout` the gradient of y, in training
    """

    def __init__(self, engine: Engine, setting: Setting):
        self.engine, self.setting, self.machine = weakref.ref(engine), setting, engine.machine
        graph = merged(engine.graph.again(), setting)
        ops = told(lowered(graph, setting, engine.places), graph)
        plan, vector = partition(ops, setting, self.machine), engine.gradient_vector
        self.schedule = Schedule(ops, (graph.x, graph.y), setting, plan, engine.places, vector)
        self.x, self.y = graph.x.array, graph.y.array
        self.dout = aligned(self.y.shape, setting.dtype) if setting.training else None
        self.training_sections = self.schedule.backward(self.dout, need_dx=False) if setting.training else []
        self.step: Callable | None = None  # the last TrainingStep that was made for this batch
        self._ranges: list[list[Piece]] | None = None
        self._programs: dict = {}

    def run(self, name, sections: Callable[[], list[Parts]]) -> None:
        """Run the program of this name, which is bound the first time."""
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = bound(sections())
        for call in program:
            run(call)

    def backward(self, need_dx: bool) -> list[Parts]:
        """The sections of the way back."""
        return self.schedule.backward(self.dout, need_dx) if need_dx else self.training_sections

    @property
    def ranges(self) -> list[list[Piece]]:
        """The flat vector of gradients in ranges of pieces."""
        if self._ranges is None:
            self._ranges = self.schedule.ranges(self.machine)
        return self._ranges

    def completing(self) -> Parts:
        """The calls that complete the gradients of each range, which `backward` leaves open."""
        return [[call for piece in pieces for call in piece.calls] for pieces in self.ranges]


def bound(sections: list[Parts]) -> list[Callable[[], None]]:
    """Programs that make the calls of these sections; kernels that they need are compiled."""
    calls = (call for section in sections for part in section for call in part)
    compile_kernels(calls, helped=get_num_threads() > 1)
    return programs(sections)


def _after_fork() -> None:
    """A forked process has none of the threads that may have held an engine."""
    for engine in ENGINES:
        engine.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
