"""The threads that share the work of a training step.

Kernels release the interpreter's lock, so Python's own threads compute at once. Work comes as sections of parts that may be done
in any order: the threads take one part after the other until none is left. What a part computes does not depend on which thread
takes it, so results do not depend on the number of threads. No thread is started before there is work for two.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from .layers.checks import whole

Calls = list[Callable[[], None]]


def usable_cores() -> int:
    """The processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Job:
    """The parts of one section."""

    def __init__(self, parts: list[Calls]):
        self.parts, self.error = deque(parts), None
        self.helpers, self.changed = 0, threading.Condition()

    def work(self) -> None:
        """Do parts until none is left to take."""
        while self.error is None:
            try:
                part = self.parts.popleft()
            except IndexError:
                return
            for call in part:
                call()

    def help(self) -> None:
        """`work` on another thread than the caller's, who gets its error."""
        with self.changed:
            self.helpers += 1
        try:
            self.work()
        except BaseException as error:
            self.error = error
        with self.changed:
            self.helpers -= 1
            self.changed.notify_all()

    def finish(self) -> None:
        """Return when nobody works on a part any more: from here on, none will be taken."""
        self.parts.clear()
        with self.changed:
            while self.helpers:
                self.changed.wait()


class Workers:
    """Threads that wait for jobs; any number of callers may have jobs at once."""

    def __init__(self):
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self.started = 0

    def share(self, parts: list[Calls], threads: int) -> None:
        """Do all parts, on the caller's thread and up to `threads` − 1 others, and return when all are done.

        An error ends it, Ctrl-C as well; then too nobody writes to the caller's arrays any more when it returns."""
        job, helpers = Job(parts), min(threads, len(parts)) - 1
        try:
            while self.started < helpers:
                self.started += 1
                threading.Thread(target=self._work, name=f"fastbp-{self.started}", daemon=True).start()
            for _ in range(helpers):
                self.jobs.put(job)
            job.work()
        finally:
            job.finish()
        if job.error is not None:
            raise job.error

    def _work(self) -> None:
        while True:
            self.jobs.get().help()


_workers, _threads = Workers(), usable_cores()


def set_num_threads(threads: int) -> None:
    """Use up to so many threads from the next step on, in this process. Results do not depend on it, bit for bit."""
    global _threads
    _threads = whole("set_num_threads: threads", threads)


def get_num_threads() -> int:
    """How many threads a training step may use: by default as many as the process may use cores."""
    return _threads


def share(parts: list[Calls]) -> None:
    """Do all parts of a section."""
    if _threads == 1 or len(parts) <= 1:
        for part in parts:
            for call in part:
                call()
    else:
        _workers.share(parts, _threads)


def _after_fork() -> None:
    global _workers
    _workers = Workers()  # a forked process has none of the threads, and perhaps a job that will never end


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
