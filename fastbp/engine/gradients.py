"""A network's gradients, which a training step leaves open as long as nobody looks at them."""

import threading
import weakref
from collections.abc import Callable

import numpy as np

from ..memory import aligned
from .program import programs
from .threads import run

Calls = list[Callable[[], None]]


class Gradients:
    """The flat vector of all gradients, (P,).

    An update needs each number of a gradient once. For a linear layer's weights and a small batch, to write them to
    memory and read them again takes a third of the step (bench/NOTES.md). So a step of SGD updates the weights from the
    registers that hold the sums, and leaves their gradients open. `ask` computes them from what the step has left in
    its buffers, and from then on every step writes them: whoever has the vector, or a view of it, has asked, and finds
    the last step's gradients there. The updates are the same, bit for bit.

    `array` the vector as kernels write it · `kept` whether every step is to fill it · `frozen` a method that is called
    when a parameter is frozen, or trained again
    """

    def __init__(self, size: int, dtype: np.dtype, frozen: Callable[[], None] | None = None):
        self.array, self.kept = aligned(size, dtype), False
        self._frozen = (lambda: None) if frozen is None else weakref.WeakMethod(frozen)
        self._open: list[Calls] | None = None  # what would complete the array
        self._engine: Callable = lambda: None  # whose lock guards the buffers that they read
        self._stepping: int | None = None  # the thread that makes a step just now

    def ask(self) -> np.ndarray:
        """The array, complete now and after every step to come; as it is, for a layer that writes to it in a step."""
        if self._stepping == threading.get_ident():
            return self.array
        self.kept = True
        self.complete()
        return self.array

    def forget(self) -> None:
        """Steps to come may leave gradients open again: nobody uses the array any more."""
        self.kept = False

    def changed(self) -> None:
        """A parameter was frozen, or is trained again."""
        if frozen := self._frozen():
            frozen()

    def complete(self) -> None:
        """Compute what is open."""
        if self._open is None:
            return
        engine = self._engine()
        if engine is None:
            self._complete()
            return
        with engine.lock:
            self._complete()

    def _complete(self) -> None:
        if self._open is not None:  # another thread may have been faster
            parts, self._open = self._open, None
            for call in programs([parts]):
                run(call)

    def begin(self) -> None:
        """A step begins, and buffers change: what was open is lost, and NaN if asked for before the step's end."""
        self._stepping = threading.get_ident()
        if self._open is not None:
            self._open = [[self._forget]]

    def _forget(self) -> None:
        self.array[:] = np.nan

    def end(self, engine, parts: list[Calls]) -> None:
        """A step of this engine has ended: the array is complete, or is after these calls, in parts to make at once."""
        self._open, self._engine = parts or None, weakref.ref(engine)

    def step_over(self) -> None:
        """The step is over, also where it has ended with an error."""
        self._stepping = None
