"""Processes to share work among: any executor of concurrent.futures, and by default a pool that ends when it is told to."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process


@contextlib.contextmanager
def pool(jobs: int, given: Executor | None = None, setup: Callable[[], None] | None = None) -> Iterator[Executor | None]:
    """The executor that was given, or `jobs` new processes, each of which calls `setup` first; None where one job at a time will
    do: that one needs no other process.

    The processes are spawned, not forked: the caller's threads and locks are not in them. When the block ends with an exception,
    Ctrl-C among them, they are ended at once, by SIGTERM.
    """
    if given is not None:
        yield given
    elif jobs <= 1:
        yield None
    else:
        others = set(active_children())
        executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(setup,))
        try:
            yield executor
        except BaseException:  # what is under way may take hours yet
            for worker in set(active_children()) - others:
                worker.terminate()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _begin(setup: Callable[[], None] | None) -> None:
    """In a worker: Ctrl-C reaches the whole group, and the parent then ends the workers, who clear up first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # where nobody ends it any more
    if setup is not None:
        setup()
