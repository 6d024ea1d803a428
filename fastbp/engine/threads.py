"""The threads that share the work of a training step.

Programs of kernels release the interpreter's lock. They come as sections of parts that may be done in any order: the
threads take one part after the other until none is left. What a part computes does not depend on which thread takes it,
so results do not depend on the number of threads. No thread is started before there is work for two.
"""

import atexit
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from ..arguments import whole
from ..memory import aligned
from . import team
from .program import FAILED, Program


def usable_cores() -> int:
    """The processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


core_of_this_thread = getattr(ctypes.CDLL(None), "sched_getcpu", None) if os.name == "posix" else None


class Team:
    """The caller of a program and its helpers, threads that wait for the next one (see team.py).

    One caller at a time has the helpers; another does its program alone."""

    def __init__(self):
        self.state, self.lock = aligned(team.STATE, np.dtype(np.int64)), threading.Lock()
        self.address, self.calls, self.helpers = self.state.ctypes.data, SimpleQueue(), []

    def run(self, program: Program, helpers: int) -> None:
        """The program on the caller's thread and up to so many others. When it returns, with an error or Ctrl-C as
        well, nobody writes to the caller's arrays any more."""
        while len(self.helpers) < helpers:
            self.state[team.STARTED] += 1
            number = len(self.helpers)
            helper = threading.Thread(target=self._help, args=[number], name=f"fastbp-{number + 1}", daemon=True)
            self.helpers.append(helper)
            helper.start()
        try:
            if asleep := team.begin(self.address, program.address, helpers):
                self._keep_apart()
                for _ in range(asleep):
                    self.calls.put(None)
            team.do_sections(program.address, 0, helpers + 1)
        finally:
            team.finish(self.address)
        if failed := int(program.table[FAILED]):
            program.fail(failed)

    def _keep_apart(self) -> None:
        """Keep the helpers off the caller's core: Linux may put a thread beside the one that wakes it, though another
        core has nothing to do, and leave it there for milliseconds."""
        if core_of_this_thread is None or not hasattr(os, "sched_setaffinity"):
            return
        if others := os.sched_getaffinity(0) - {core_of_this_thread()}:
            for helper in self.helpers:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(helper.native_id, others)

    def _help(self, number: int) -> None:
        seen = 0
        while not self.state[team.ENDED]:
            seen = team.help_out(self.address, seen, number)
            self.calls.get()

    def end(self) -> None:
        """No thread may be in compiled code when the interpreter takes it down."""
        self.state[team.ENDED] = 1
        for _ in self.helpers:
            self.calls.put(None)
        for helper in self.helpers:
            helper.join(1)


_team, _threads = Team(), usable_cores()


def set_num_threads(threads: int) -> None:
    """Use up to so many threads from the next step on, in this process. Results do not depend on it, bit for bit."""
    global _threads
    _threads = whole("set_num_threads: threads", threads)


def get_num_threads() -> int:
    """How many threads a training step may use: by default as many as the process may use cores."""
    return _threads


def run(call: Callable[[], None]) -> None:
    """Make a call, a program's with the threads that may be used."""
    helpers = min(_threads, call.parts) - 1 if isinstance(call, Program) else 0
    if helpers < 1 or not _team.lock.acquire(blocking=False):
        call()
        return
    try:
        _team.run(call, helpers)
    finally:
        _team.lock.release()


@atexit.register
def _at_exit() -> None:
    _team.end()


def _after_fork() -> None:
    global _team
    _team = Team()  # a forked process has none of the threads, and perhaps a program that will never end


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
