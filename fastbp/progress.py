"""Progress of training: a tqdm bar where somebody watches, a line an epoch where it goes to a file."""

import sys
import time
import warnings

COMPILED = 2.0  # seconds that a first step takes only if kernels were compiled in it


class Progress:
    """Shows `epochs` epochs of `batches` steps each on standard error; a context manager, so that a bar is always closed."""

    def __init__(self, epochs: int, batches: int, shown: bool):
        self.epochs, self.batches = epochs, batches
        watched = shown and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        self.lines, self.bars = shown and not watched, watched
        self.epoch, self.bar, self.first = 0, None, shown

    def __enter__(self) -> "Progress":
        if self.bars and self.epochs:
            self._new_bar()
            self.bar.set_postfix_str("first step: compiling kernels if they are not in the cache")
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception) -> None:
        if self.bar is not None:
            self.bar.close()

    def _new_bar(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm's advice to install ipywidgets; its text bar does
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.batches, desc=f"epoch {self.epoch + 1}/{self.epochs}", unit="batch", dynamic_ncols=True)

    def step(self, loss: float) -> None:
        """One more batch, of this loss."""
        if self.first:
            self.first = False
            seconds = time.perf_counter() - self.start
            if self.lines and seconds > COMPILED:
                print(f"first step: {seconds:.1f} s, most of it compiling kernels", file=sys.stderr, flush=True)
        if self.bars:
            if self.bar is None:
                self._new_bar()
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update()

    def epoch_ended(self, history) -> None:
        """The history has one more epoch."""
        self.epoch += 1
        text = f"loss {history.train_loss[-1]:.4f}"
        if history.train_accuracy:
            text += f", accuracy {history.train_accuracy[-1]:.2%}"
        if history.validation_loss:
            text += f"; validation loss {history.validation_loss[-1]:.4f}"
        if history.validation_accuracy:
            text += f", accuracy {history.validation_accuracy[-1]:.2%}"
        if self.bars:
            self.bar.set_postfix_str(text)
            self.bar.close()
            self.bar = None
        elif self.lines:
            print(f"epoch {self.epoch}/{self.epochs}: {text} ({history.seconds[-1]:.1f} s)", file=sys.stderr, flush=True)
