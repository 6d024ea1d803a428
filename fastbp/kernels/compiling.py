"""The kernels that a plan needs, compiled before its first pass, by two processes where many are not in the cache.

Numba compiles one function at a time in a process, so another thread would be no help. Another process begins at the list's end and
leaves what it has made in the cache on the disk, where this one, coming from the beginning, finds it.
"""

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from numba.core.dispatcher import Dispatcher

from .jit import KernelCache, cache_folder
from .program import argument_types, dispatcher

HELPED = 4  # kernels to compile from which on a second process is worth its start, 1.5 s: 784-1000-10 has 5, 6.8 → 5.2 s
CHILD = """
import pickle, sys
sys.path[:], work = pickle.load(sys.stdin.buffer)
from fastbp.kernels.compiling import compile_named
compile_named(work)
"""

Kernels = dict[tuple[Dispatcher, tuple], None]  # an ordered set


def compile_kernels(calls: Iterable[Callable], helped: bool) -> None:
    """Compile the kernels of these bound calls, or load them from the disk: `helped` by another process where there are many to
    compile. That one is ended with the last kernel, so it takes no time from a step."""
    kernels: Kernels = {(function, argument_types(call)): None for call in calls if (function := dispatcher(call))}
    missing = {kernel: None for kernel in kernels if not is_compiled(*kernel)}
    helped = helped and len(missing) >= HELPED and cache_folder() is not None
    with helper(missing) if helped else contextlib.nullcontext():
        for function, types in kernels:
            function.compile(types)


def is_compiled(function: Dispatcher, types: tuple) -> bool:
    """Is this kernel in this process or on the disk? Also True for one that is not kept on the disk."""
    kept, codegen = function._cache, function.targetctx.codegen()
    return types in function.overloads or not isinstance(kept, KernelCache) or kept.holds(types, codegen)


@contextlib.contextmanager
def helper(kernels: Kernels) -> Iterator[None]:
    """Another process that compiles these kernels, the last one first, while the block lasts; none if it can't be started."""
    named = [(f.__module__, f.__qualname__, f is not getattr(import_module(f.__module__), f.__qualname__), t) for f, t in kernels]
    with tempfile.TemporaryFile() as work, contextlib.ExitStack() as stack:
        if sys.executable and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError):
                pickle.dump(([str(path) for path in sys.path], named[::-1]), work)
                work.seek(0)
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                quiet["creationflags"] = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would open one
                started = stack.enter_context(subprocess.Popen([sys.executable, "-P", "-c", CHILD], stdin=work, **quiet))
                stack.callback(started.kill)
        yield


def compile_named(work: list[tuple[str, str, bool, tuple]]) -> None:
    """In the other process: (module, name, whether it is the callee of a Separate, argument types) of each kernel."""
    for module, name, callee, types in work:
        function = getattr(import_module(module), name)
        (function.callee if callee else function).compile(types)
