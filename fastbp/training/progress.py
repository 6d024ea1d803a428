"""The progress of a training on standard error: a bar where somebody watches, a line an epoch where it is a file."""

import contextlib
import sys
import time
import warnings

from ..terminal import Terminal, shows_bars, tell, watched

COMPILED = 2.0  # seconds that a first step takes only if kernels were compiled in it


class Progress:
    """Shows `epochs` epochs of `batches` steps each on standard error; `epoch` of them have ended before.

    There is a bar for the epoch under way where somebody watches, and a line for each epoch that has ended. It is a
    context manager, so that a bar is always closed.
    """

    def __init__(self, epochs: int, batches: int, shown: bool, epoch: int = 0):
        self.epochs, self.batches = epochs, batches
        shown = shown and sys.stderr is not None
        self.bars = shown and shows_bars()
        self.lines = shown and not self.bars
        self.epoch, self.bar, self.first = epoch, None, shown

    def __enter__(self) -> "Progress":
        if self.bars and self.epoch < self.epochs:
            with contextlib.suppress(Exception):  # a stream that fails costs the bar, not the training
                self._new_bar()
                self.bar.set_postfix_str("first step: compiling kernels if they are not in the cache")
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception) -> None:
        self._close_bar()

    def _new_bar(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm's advice to install ipywidgets; its text bar does
            from tqdm.auto import tqdm
        name = f"epoch {self.epoch + 1}/{self.epochs}"
        file = Terminal() if watched() else None  # None: a notebook's widgets
        self.bar = tqdm(total=self.batches, desc=name, unit="batch", dynamic_ncols=True, leave=False, file=file)

    def _close_bar(self) -> None:
        if self.bar is not None:
            with contextlib.suppress(Exception):
                self.bar.close()
            self.bar = None

    def step(self, loss: float) -> None:
        """One more batch, of this loss."""
        if self.first:
            self.first = False
            seconds = time.perf_counter() - self.start
            if self.lines and seconds > COMPILED:
                tell(f"first step: {seconds:.1f} s, most of it compiling kernels")
        if self.bars:
            with contextlib.suppress(Exception):
                if self.bar is None:
                    self._new_bar()
                self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                self.bar.update()

    def epoch_ended(self, history) -> None:
        """The history has one more epoch."""
        self.epoch += 1
        self._close_bar()
        if self.bars or self.lines:
            train, validation = (_figures(history, split) for split in ("train", "validation"))
            text = f"loss {train}" + (f", validation loss {validation}" if validation else "")
            tell(f"epoch {self.epoch}/{self.epochs}: {text}, {history.seconds[-1]:.1f} s")


def _figures(history, split: str) -> str:
    """The last epoch's loss, with the accuracy behind it where there is one: 0.2614 (91.35%)."""
    losses, accuracies = getattr(history, f"{split}_loss"), getattr(history, f"{split}_accuracy")
    return (f"{losses[-1]:.4f}" if losses else "") + (f" ({accuracies[-1]:.2%})" if accuracies else "")
