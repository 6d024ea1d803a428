"""A submission in a process of its own: the side that trusts nothing.

The child runs `child.py`, which closes itself in (`isolation.py`) and answers one message a call (`messages.py`) over
two pipes. Every read and write here has a deadline, every length a limit, and whatever the child sends that is no
proper answer is a SubmissionError and ends the child.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import messages
from .child_process import ChildProcess
from .limits import KINDS, MESSAGE, Limits, SubmissionError


class Handle(messages.Handle):
    """A value that stays in the child, e.g. a cache. It is gone when the child is."""

    __slots__ = ("child",)

    def __init__(self, number: int, child: ChildProcess):
        super().__init__(number)
        self.child = child

    def __del__(self):
        self.child.released.append(self.number)


class Sandbox:
    """A submission in a child process. A call sends one message and reads one.

    `path` is a Python file, or a folder with one (named by `main` if it has several at its top); it is copied, symbolic
    links left out, into a temporary folder, which is the child's working folder and the only place where it can write.

    The child is started when it is needed, and again after a call that ended it; `restart` ends it, so
    that what one item of an assignment did to the process (a patched numpy, an alarm set) cannot reach the
    next. Use as a context manager.

    After a call, `calls_inside` counts the submission's own functions that ran during it, the called one left out, and
    `arguments_after` has the arguments as the call left them: the same object where it is unchanged, a new one where an
    array, dict or list was changed. What cannot cross in a changed dict is a messages.Opaque.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "submission.py"
    ...     _ = file.write_text("def double(x):\\n    return 2 * x, x\\n")
    ...     with Sandbox(file) as sandbox:
    ...         print(sandbox.functions)
    ...         print(sandbox.call("double", np.arange(3.0), keep=(1,))[0])
    {'double': ['x']}
    [0. 2. 4.]
    """

    _layers = ("landlock", "seccomp", "audit")

    def __init__(self, path: Path | str, limits: Limits = Limits(), main: str | None = None):
        if os.name != "posix":
            raise RuntimeError("Sandbox: submissions can be run on Linux and macOS only")
        self.path, self.limits, self.main = Path(path), limits, main
        if not self.path.exists():
            raise FileNotFoundError(f"Sandbox: no such file or folder: {self.path}")
        self.calls_inside: Counter[str] = Counter()
        self.arguments_after: list = []
        self._child: ChildProcess | None = None
        self._failure: tuple[str, str] | None = None
        self._functions: dict[str, list[str]] = {}
        self._printed = ""

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove its folder."""
        if self._child is not None:
            self._printed = self.printed
            self._child.end()
            self._child = None

    def restart(self) -> None:
        """End the child; the next call starts another. Its handles are gone."""
        self.close()

    @property
    def functions(self) -> dict[str, list[str]]:
        """The submission's public functions and their parameters' names."""
        if not self._functions:
            self._start()
        return self._functions

    @property
    def notes(self) -> list[str]:
        """What of the isolation could not be had on this system, as sentences."""
        try:
            self._start()
        except SubmissionError:
            pass
        return list(self._notes)

    _notes: Sequence[str] = ()

    @property
    def printed(self) -> str:
        """The first part of what the submission printed, in all its processes."""
        return (self._printed + (self._child.printed if self._child is not None else ""))[: self.limits.output_bytes]

    def holds(self, handle: Handle) -> bool:
        """Whether the child that the handle's value is in is still there."""
        return self._child is not None and handle.child is self._child and self._child.waits()

    def call(self, name: str, *arguments, keep: Sequence[int] = (), strided: bool = False):
        """The value of the submission's function: arrays, numbers, bool, None, strings; tuples, lists, dicts of them.

        `keep` names positions of the result, a tuple, that stay in the child and come back as a Handle, which may be an
        argument of later calls: `out, cache = sandbox.call("relu_forward", x, keep=(1,))`. `strided` makes the arrays
        in the child not contiguous. Before every call the generators of NumPy and of Python are put back to the state
        that they had at the start: the same arguments, the same mask.

        SubmissionError for whatever the submission does wrong; messages.MessageError (a ValueError) for an argument
        that can't be sent.
        """
        self.calls_inside, self.arguments_after = Counter(), list(arguments)
        self._start()
        child = self._child
        message = messages.Writer(sys.maxsize)
        message.write("call")
        message.write(name)
        message.write(tuple(keep) or None)
        message.write(strided or None)
        message.write(len(arguments))
        for argument in arguments:
            message.write(argument)
        if any(getattr(handle, "child", None) is not child for handle in message.handles):
            raise SubmissionError("value", f"{name} could not be called: the process that held its cache has ended")
        message.write(child.take_released() or None)
        value, inside, changed = self._ask(child, message, name, 3)
        if changed:
            self.arguments_after = [changed.get(i, argument) for i, argument in enumerate(arguments)]
        if inside:
            self.calls_inside.update(inside)
        return value

    def _start(self) -> None:
        """A child that has read the submission and waits for a message."""
        if self._child is not None and not self._child.waits():
            self.close()  # it ended, or wrote, after its last answer
        if self._child is not None:
            return
        if self._failure is not None:
            raise SubmissionError(*self._failure)
        try:
            self._child = child = ChildProcess(self.path, self.main, self.limits, self._layers)
            self._notes = child.notes
            message = messages.Writer(sys.maxsize)
            message.write("import")
            (functions,) = self._ask(child, message, "the import of the submission", 1)
            self._functions = functions
        except SubmissionError as error:
            self._failure = (error.kind, error.message)
            self.close()
            raise

    def _ask(self, child: ChildProcess, message: messages.Writer, what: str, count: int) -> list:
        """Send the message; the so many values of the answer. Whatever is wrong with it is the submission's doing."""
        try:
            reader = messages.Reader(
                child.exchange(message, self.limits.seconds, what), lambda number: Handle(number, child)
            )
            well = reader.read()
            values = [reader.read() for _ in range(count if well is True else 2)]
            reader.end()
            _check(well, values)
        except (messages.MessageError, MemoryError) as error:
            self.close()
            raise SubmissionError("protocol", f"{what}: the answer could not be read ({error})") from None
        except BaseException:  # KeyboardInterrupt too: the child is in the middle of something
            self.close()
            raise
        if well is not True:
            if well is None:
                self.close()  # a thread of the submission still runs there
            kind, text = values
            raise SubmissionError(kind, text[:MESSAGE])
        return values


def _check(well: object, values: list) -> None:
    """MessageError unless the values are of the right types.

    They are a failure's kind and message; or the functions; or a call's value, the counts and what was changed.
    """
    if well is not True:
        kind, text = values
        good = isinstance(kind, str) and kind in KINDS and isinstance(text, str)
    elif len(values) == 1:
        (functions,) = values
        good = isinstance(functions, dict) and all(isinstance(names, list) for names in functions.values())
        good = good and all(isinstance(name, str) for names in (functions, *functions.values()) for name in names)
    else:
        _, inside, changed = values
        good = inside is None or isinstance(inside, dict) and all(isinstance(times, int) for times in inside.values())
        good = good and (changed is None or isinstance(changed, dict))
    if not good:
        raise messages.MessageError("of the wrong types")
