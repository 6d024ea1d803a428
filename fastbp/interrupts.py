"""Ctrl-C and SIGTERM as the command `fastbp` takes them: both end it with status 130 and without a traceback.

Importing the package takes most of the command's first second. So in its process, imported first, this module has the signals end
it at once; `interruptible` makes KeyboardInterrupts of them for the time in which there is something to keep.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

STATUS = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _is_command() -> bool:
    """Is this process `python -m fastbp`, or the script `fastbp`? Its worker processes are not: they have its sys.argv alone."""
    said = sys.orig_argv[-len(sys.argv) :][:1]  # the module or script, as the interpreter was told
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module to run
        return said in (["fastbp"], ["-mfastbp"])
    return bool(said) and said == sys.argv[:1] and os.path.basename(said[0]) == "fastbp"


def _end(*_) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"fastbp: interrupted\n")
    os._exit(STATUS)


def _take(handler) -> dict:
    """Give the signals this handler; those that had another before. What is ignored, as in a shell's background job, stays so."""
    taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in taken}


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """In the block a signal raises KeyboardInterrupt, and sets the event given: a library may make another exception of it."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield came
        return

    def interrupt(*_) -> None:
        came.set()
        raise KeyboardInterrupt

    def unraisable(about) -> None:
        if about.exc_type is not KeyboardInterrupt:
            hook(about)
        else:  # raised in a finaliser, say, where nobody can catch it: once more, a moment later
            again = threading.Timer(0.05, _thread.interrupt_main)
            again.daemon = True
            again.start()

    hook, before = sys.unraisablehook, {}
    try:
        sys.unraisablehook = unraisable
        before = _take(interrupt)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


if _is_command():
    for number in range(3):  # a standard stream that is closed: the next file opened would get its number, and what is printed
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    _take(_end)
