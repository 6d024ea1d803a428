"""Ctrl-C and SIGTERM as the command `fastbp` takes them: both end it with status 130 and without a traceback.

Importing the package takes most of the command's first second. So in its process this module, which is imported first
and imports little itself, has the signals end it at once. `Interruptible` makes KeyboardInterrupts of them for the time
in which there is something to keep.
"""

import _signal as signal  # the module signal only puts enums around it, and takes ten times as long to import
import atexit
import os
import sys

STATUS = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptible:
    """A block in which a signal raises KeyboardInterrupt, and sets `Interruptible.came`.

    Libraries make another exception of a KeyboardInterrupt that comes while they are imported, or drop it. So whoever
    catches an Exception and goes on calls `check`.
    """

    came = False

    def __init__(self):
        self._before, self._again = {}, None

    def __enter__(self) -> "Interruptible":
        import threading

        Interruptible.came = False
        if threading.current_thread() is threading.main_thread():  # signals are handled there alone
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self._before = _take(self._interrupt)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
            sys.unraisablehook = self._hook
        if self._again is not None:
            self._again.cancel()

    @staticmethod
    def check() -> None:
        """KeyboardInterrupt, if a signal came in the block."""
        if Interruptible.came:
            raise KeyboardInterrupt

    @staticmethod
    def _interrupt(*_) -> None:
        Interruptible.came = True
        raise KeyboardInterrupt

    def _unraisable(self, about) -> None:
        if about.exc_type is not KeyboardInterrupt:
            return self._hook(about)
        import _thread
        import threading

        # raised where nobody can catch it, in a finaliser say: once more, a moment later
        self._again = threading.Timer(0.05, _thread.interrupt_main)
        self._again.daemon = True
        self._again.start()


def _take(handler) -> dict:
    """Give the signals this handler; returns those that they had.

    A signal that is ignored, as in a shell's background job, stays ignored.
    """
    taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in taken}


def _is_command() -> bool:
    """Is this process `python -m fastbp`, or the script `fastbp`?

    Its workers are not, though they have its sys.argv: what the interpreter was told differs.
    """
    said = sys.orig_argv[-len(sys.argv) :][:1]  # the module or script, as the interpreter was told
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module to run
        return said in (["fastbp"], ["-mfastbp"])
    return bool(said) and said == sys.argv[:1] and os.path.basename(said[0]) == "fastbp"


def _end(*_) -> None:
    try:
        os.write(2, b"fastbp: interrupted\n")
    finally:
        os._exit(STATUS)


if _is_command():
    for number in range(3):  # else the next file opened takes a closed stream's number, and gets what is printed
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    _take(_end)
    atexit.register(_take, signal.SIG_IGN)  # called last: all is done then, and Python takes its handlers away
