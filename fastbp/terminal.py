"""Standard error, for bars and lines: whether somebody watches it, and writing that never fails.

It may be None (pythonw), closed, or any object that a host program has put there. Nothing of that may end a training.
"""

import contextlib
import sys


def watched() -> bool:
    """Does standard error go to a terminal that somebody may watch?"""
    try:
        return bool(sys.stderr.isatty())
    except Exception:  # None, closed, or an object without isatty
        return False


class Terminal:
    """Standard error for a tqdm bar: what can't be written is left out.

    Where a write raises in tqdm's `refresh`, tqdm keeps the lock that all bars of the process share, and the next bar
    in another thread would wait for ever.
    """

    def __init__(self):
        self.stream = sys.stderr

    def write(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self.stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(Exception):
            self.stream.flush()

    def __getattr__(self, name: str):  # fileno, encoding, …: what tqdm asks for the width and the signs
        return getattr(self.stream, name)

    def __eq__(self, other) -> bool:  # tqdm clears the bars of the stream that it writes to
        return self.stream is getattr(other, "stream", other)

    __hash__ = None


def shows_bars() -> bool:
    """Is there a terminal, or a notebook, in which a bar can be shown?"""
    return watched() or (sys.stderr is not None and "ipykernel" in sys.modules)


def tell(line: str) -> None:
    """A line on standard error, above a bar where there is one; nothing where it can't be written."""
    with contextlib.suppress(Exception):
        if shows_bars():
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
