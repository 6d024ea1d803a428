"""Processes to share work among: any executor of concurrent.futures, and by default a pool that ends when it is told to."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process


@contextlib.contextmanager
def pool(jobs: int, given: Executor | None = None) -> Iterator[Executor | None]:
    """The executor that was given, or `jobs` new processes; None where one job at a time will do: that needs no other process.

    The processes are spawned, not forked: the caller's threads and locks are not in them. When the block ends with an exception,
    Ctrl-C among them, they are ended at once, by SIGTERM.
    """
    if given is not None:
        yield given
    elif jobs <= 1:
        yield None
    else:
        others = set(active_children())
        executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
        try:
            with _interrupts_held_back():  # in the workers for good: Ctrl-C reaches the whole group, and the parent ends them
                for _ in range(jobs):
                    executor.submit(_begun)
            yield executor
        except BaseException:  # what is under way may take hours yet
            executor.shutdown(wait=False, cancel_futures=True)
            while workers := set(active_children()) - others:  # one that was ended takes the next call, if it has that already
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


def _begin() -> None:
    """In a worker: SIGTERM lets it clear up, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # where nobody ends it any more


def _unraisable(about) -> None:
    """Python shows what is raised where nobody can catch it, as in a finaliser. That the process was told to end is no news."""
    if about.exc_type is not SystemExit:
        sys.__unraisablehook__(about)
