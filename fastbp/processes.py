"""Worker processes: any executor of concurrent.futures, or by default new processes that end when they are told to."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process

from .arguments import instance, whole


@contextlib.contextmanager
def pool(jobs: int, given: Executor | None = None) -> Iterator[Executor | None]:
    """The executor that was given, or `jobs` new processes; None for one job at a time, which needs no other process.

    The processes are spawned, not forked: the caller's threads and locks are not in them. When the block ends with an
    exception, Ctrl-C among them, they are ended at once, by SIGTERM.
    """
    jobs = whole("pool: jobs", jobs, 0)
    if given is not None:
        yield instance("pool: given", given, Executor, "an executor of concurrent.futures")
    elif jobs <= 1:
        yield None
    else:
        others = set(active_children())
        executor = _Pool(jobs, mp_context=get_context("spawn"), initializer=_begin)
        try:
            # Held back in the workers for good: Ctrl-C reaches the whole group of processes, and the parent ends them.
            with _interrupts_held_back():
                for _ in range(jobs):
                    executor.submit(_begun)
            yield executor
        except BaseException:  # what is under way may take hours yet
            executor.shutdown(wait=False, cancel_futures=True)
            # Again and again: a worker that was told to end may have its next call already, and goes on with that.
            while workers := set(active_children()) - others:
                for worker in workers:
                    worker.terminate()
                time.sleep(0.1)
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the block has ended; processes that are started in it inherit this and never see one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begun() -> None:
    """The first task of each worker."""


class _Pool(ProcessPoolExecutor):
    """One whose workers know whether they are at work."""

    def submit(self, function: Callable, /, *args, **named) -> Future:
        return super().submit(_work, function, args, named)


_at_work = False


def _work(function: Callable, args: tuple, named: dict):
    global _at_work
    _at_work = True
    try:
        return function(*args, **named)
    finally:
        _at_work = False


def _begin() -> None:
    """In a worker: SIGTERM lets it clear up what it is at, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, _end)
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # where nobody ends it any more


def _end(*_) -> None:
    """End by an exception while at work, otherwise at once.

    Between two calls an exception could leave half a message in the queue that all workers read.
    """
    if _at_work:
        sys.exit(1)
    os._exit(1)


def _unraisable(about) -> None:
    """Show what was raised where nobody can catch it, as in a finaliser, but not that the process was told to end."""
    if about.exc_type is not SystemExit:
        sys.__unraisablehook__(about)
