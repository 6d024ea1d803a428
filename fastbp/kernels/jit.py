"""The one place that knows compiler flags, and how compiled kernels are kept and found again.

`kernel` is the decorator of every compiled function of the package. It compiles lazily, releases the GIL, divides
as IEEE 754 does, and lets the compiler reorder sums and fuse multiply–adds; it never lets it assume that no value
is NaN or infinite.

Compiled code is kept in a folder of the user's (cache.py). The argument types, the processor and Numba's settings are
part of each file's name. When the folder can't be written, or a file in it is damaged, kernels are compiled again in
each process and nothing else changes.
"""

import functools
import hashlib
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
from numba.extending import intrinsic, typeof_impl

from .cache import cache_folder, read, room_of, write
from .claims import claims
from .numba_inside import (
    FIRST_SETTINGS,
    Dispatcher,
    Trial,
    address,
    call_symbol,
    can_keep,
    from_bytes,
    not_kept,
    processor,
    settings,
    text,
    to_bytes,
    type_of_function,
)

FAST_MATH = {"reassoc", "contract", "nsz"}
# -- not nnan, not ninf: a NaN that comes in must go out. Not arcp, not afn: no approximate division or functions.


def kernel(function: Callable, callee: bool = False, ordered: bool = False) -> Callable:
    """Compile `function` on its first call with the flags and the cache of this module.

    Compiled code is kept on the disk for functions that stand in a room of this package: they may use what stands in
    `kernels/` and in their own room, for the cache's keys cover nothing else. A `callee` can be called by other
    kernels, not from Python: the wrapper for that is a twelfth of what there is to compile. The sums of an `ordered`
    one are taken as they are written, where that keeps digits.
    """
    flags = FAST_MATH - {"reassoc"} if ordered else FAST_MATH
    compiled = numba.njit(
        nogil=True, error_model="numpy", fastmath=flags, no_cfunc_wrapper=True, no_cpython_wrapper=callee
    )(function)
    room = room_of(Path(function.__code__.co_filename))
    if room and isinstance(compiled, Dispatcher):  # where the JIT is off it is a plain function
        name = f"{room.module}.{function.__qualname__}{'.callee' if callee else ''}"
        compiled._cache = KernelCache(name, room.source_hash)
        compiled.compile = functools.partial(compiled._cache.compile, compiled)
    return compiled


ordered_kernel = functools.partial(kernel, ordered=True)


class Separate:
    """A kernel that other kernels call and don't contain.

    Numba compiles a called function anew into every caller. For matrix products, which hold all variants of their
    tiles, that was half of the compiling: 24 instead of 12 s for a convolutional network's first step. A separate
    kernel is compiled once for its types and stays a call, by a symbol of the process; callers that come from the disk
    see to it that it is there.
    """

    named: dict[str, "Separate"] = {}
    symbols: dict[str, tuple[str, tuple]] = {}  # symbol → the kernel's name and its argument types

    def __init__(self, function: Callable):
        self.dispatcher, self.callee = kernel(function), kernel(function, callee=True)

        def define(typingctx, *types):
            return self._type(types)

        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        define.__signature__ = inspect.Signature([context, *inspect.signature(function).parameters.values()])
        define.__name__ = function.__name__
        self.intrinsic = intrinsic(define)
        self.key = f"{function.__module__}.{function.__qualname__}"
        Separate.named[self.key] = self
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        return self.dispatcher(*args)

    def ready(self, types: tuple) -> tuple[str, object]:
        """The symbol for these argument types, known to the process, and the compiled function's signature."""
        self.callee.compile(types)
        result = self.callee.overloads[types]
        symbol = f"fastbp.{self.key}.{hashlib.sha256(repr(types).encode()).hexdigest()[:16]}"
        if symbol not in Separate.symbols:
            llvmlite.binding.add_symbol(symbol, address(result))
            Separate.symbols[symbol] = self.key, types
        return symbol, result.signature

    def _type(self, types: tuple):
        symbol, signature = self.ready(types)

        def codegen(context, builder, signature, arguments):
            return call_symbol(context, builder, symbol, signature, arguments)

        return signature, codegen


@typeof_impl.register(Separate)
def _type_of_separate(separate: Separate, purpose) -> numba.types.Type:
    """To a kernel that calls it: the call by a symbol, or a compiled function as any other where that can't be relied
    on."""
    return type_of_function(separate.intrinsic if SYMBOLS.passed() else separate.dispatcher)


def separate_kernel(function: Callable) -> Callable:
    """`kernel` for a function that is large and called by several: see Separate."""
    if numba.config.DISABLE_JIT:
        return kernel(function)
    return Separate(function)


class KernelCache:
    """Numba's cache of one function, kept as one file for each signature, processor and setting of Numba (see
    cache.py).

    Numba's own keeps an index beside the numbered data files; two processes that first compile two signatures
    at once can leave an index entry that names the other's code. A file whose name is its whole key has no index.
    `compiled` counts the kernels that this process had to compile.
    """

    compiled = 0
    cache_path = None

    def __init__(self, name: str, source_hash: str = ""):
        self._name, self._source_hash = name, source_hash
        self._claimed: dict[object, Path] = {}

    def path(self, signature) -> Path | None:
        """The file of the kernel for these argument types, as Numba would compile it now; None where none can be
        kept."""
        folder = cache_folder() if can_keep() else None
        what = signature, processor(), settings(), FIRST_SETTINGS, SYMBOLS.failed, self._source_hash
        return folder and folder / f"{self._name}-{hashlib.sha256(repr(what).encode()).hexdigest()[:20]}.nbc"

    def holds(self, signature) -> bool:
        """Is there a file for this signature?"""
        path = self.path(signature)
        return path is not None and path.is_file()

    def claimed_elsewhere(self, signature) -> bool:
        """Is another process compiling this kernel?"""
        path = self.path(signature)
        return path is not None and claims(path.parent).taken(path.name)

    def compile(self, function: Dispatcher, signature):
        """What `function.compile` was: no claim outlasts it, whatever happens."""
        try:
            return type(function).compile(function, signature)
        finally:
            self._release(signature)

    def _release(self, signature) -> None:
        path = self._claimed.pop(signature, None)
        if path is not None:
            claims(path.parent).release(path.name)

    # what Numba calls

    def load_overload(self, sig, target_context):
        path = self.path(sig)
        if path is None:
            return None
        found = self._load(path, target_context)
        if found is None:  # it must be compiled: in a way that can be relied on, and with the settings as they will be
            SYMBOLS.passed()
            settings(anew=True)
            path = self.path(sig)
            claims(path.parent).wait(path.name)
            self._claimed[sig] = path
            found = self._load(path, target_context)  # another process may have compiled it in the meantime
        return found

    def _load(self, path: Path, target_context):
        content = read(path)
        if content is None:
            return None
        try:
            needed, reduced = pickle.loads(content)
            for key, types in needed:
                Separate.named[key].ready(types)
            return from_bytes(reduced, target_context)
        except Exception:  # made by another version of what is not in the folder's name: compile again
            return None

    def save_overload(self, sig, data):
        KernelCache.compiled += 1
        path = self.path(sig)
        if path is None:
            return
        try:
            needed = [Separate.symbols[name] for name in set(re.findall(r"@(fastbp\.[\w.]+)", text(data)))]
            content = to_bytes(data, needed)
            if content is not None:
                write(path, content)
        except OSError:  # the disk is full or the folder gone: the kernel is compiled, the run goes on
            claims(path.parent).give_up()
        except (AttributeError, TypeError, pickle.PicklingError) as error:  # the inside of another version of Numba
            not_kept(f"{type(error).__name__}: {error}")

    def flush(self):
        pass

    enable = disable = flush


# -- may kernels be called by symbols? ---------------------------------------------------------------------------------


@separate_kernel
def weighted(matrix, pair):
    """matrix[1, 2] · pair[0] + pair[1]; pair[0] > 0"""
    if pair[0] <= 0:
        raise ValueError("wanted")
    return matrix[1, 2] * pair[0] + pair[1]


@kernel
def twice_weighted(matrix, pair):
    """Twice that"""
    return 2 * weighted(matrix, pair)


def trouble_with_symbols() -> str:
    """What is not as it should be where a kernel calls another that it does not contain; "" if all is well."""
    matrix = np.arange(6.0).reshape(2, 3)
    result = twice_weighted(matrix, (3, 0.25))
    if result != 30.5:
        return f"a kernel gives {result} instead of 30.5"
    try:
        twice_weighted(matrix, (-3, 0.25))
    except ValueError:
        return ""
    return "a kernel's error is not seen"


SYMBOLS = Trial(trouble_with_symbols, "Kernels contain the kernels that they call: compiling takes longer")
