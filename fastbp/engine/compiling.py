"""The kernels that a program needs, compiled before its first pass, by two processes where many are not in the cache.

Numba compiles one function at a time in a process, so another thread would be no help. Another process begins at the
list's end and leaves what it has made in the cache on the disk, where this one, coming from the beginning, finds it.
Any number of processes that need the same kernels share the work in this way: each leaves out what another is just
compiling (see Claims in kernels/claims.py), and waits for it when nothing else is left to do.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from ..kernels.cache import cache_folder
from ..kernels.claims import claims
from ..kernels.jit import KernelCache
from ..kernels.numba_inside import Dispatcher
from .program import argument_types, dispatcher

HELPED = 4  # kernels to compile, from which on a second process is worth the time that it takes to start
HELPER = "helper"  # the claim of a process that has one
CHILD = """
import pickle, sys
sys.path[:], work = pickle.load(sys.stdin.buffer)
from fastbp.engine.compiling import compile_named
compile_named(work)
"""

Kernels = dict[tuple[Dispatcher, tuple], None]  # an ordered set


def compile_kernels(calls: Iterable[Callable], helped: bool) -> None:
    """Compile the kernels of these bound calls, or load them from the disk: `helped` by another process where there are
    many to compile. That one is ended with the last kernel, so it takes no time from a step."""
    kernels: Kernels = {(function, argument_types(call)): None for call in calls if (function := dispatcher(call))}
    missing = {kernel: None for kernel in kernels if not is_compiled(*kernel)}
    with helper(missing) if helped and len(missing) >= HELPED else contextlib.nullcontext():
        for function, types in compile_unclaimed(kernels):
            function.compile(types)  # waits until the other process has done with it


def compile_unclaimed(kernels: Iterable[tuple[Dispatcher, tuple]]) -> list[tuple[Dispatcher, tuple]]:
    """Compile what no other process is compiling; the kernels that are left."""
    left = []
    for function, types in kernels:
        if not is_compiled(function, types) and function._cache.claimed_elsewhere(types):
            left.append((function, types))
        else:
            function.compile(types)
    return left


def is_compiled(function: Dispatcher, types: tuple) -> bool:
    """Is this kernel in this process or on the disk? Also True for one that is not kept on the disk."""
    return types in function.overloads or not isinstance(function._cache, KernelCache) or function._cache.holds(types)


@contextlib.contextmanager
def helper(kernels: Kernels) -> Iterator[None]:
    """Another process that compiles these kernels, the last one first, while the block lasts.

    There is none where what it makes can't be kept, or where another process has one already: of four that start at
    once, one gets help."""
    folder = cache_folder()
    if folder is None or not claims(folder).possible or not claims(folder).take(HELPER):
        yield
        return
    try:
        with other_process(kernels, folder):
            yield
    finally:
        claims(folder).release(HELPER)


@contextlib.contextmanager
def other_process(kernels: Kernels, folder: Path) -> Iterator[None]:
    """It, if it can be started."""
    named = []
    for function, types in kernels:
        name = function.__module__, function.__qualname__
        named.append((*name, function is not getattr(import_module(name[0]), name[1]), types))
    with tempfile.TemporaryFile() as work, contextlib.ExitStack() as stack:
        if sys.executable and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError):
                pickle.dump(([str(path) for path in sys.path], named[::-1]), work)
                work.seek(0)
                options = {"stdin": work, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                # this process's folder, whatever it was set to
                options["env"] = {**os.environ, "FASTBP_CACHE_DIR": str(folder.parent)}
                options["creationflags"] = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would open one
                started = stack.enter_context(subprocess.Popen([sys.executable, "-P", "-c", CHILD], **options))
                stack.callback(started.kill)
        yield


def compile_named(work: list[tuple[str, str, bool, tuple]]) -> None:
    """In the other process: (module, name, whether it is the callee of a Separate, argument types) of each kernel."""
    functions = [(getattr(import_module(module), name), callee, types) for module, name, callee, types in work]
    compile_unclaimed((function.callee if callee else function, types) for function, callee, types in functions)
