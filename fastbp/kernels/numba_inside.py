"""What fastbp takes from Numba's inside. All of it may be another in another version of Numba.

The rest of the package keeps to what Numba and llvmlite document: njit, typeof, types, config, intrinsics and the IR
builder with Numba's cgutils. Here stand

- how compiled code takes its arguments, so that a program (engine/program.py) can call kernels without Python in
  between;
- how one kernel calls another by a symbol of the process (Separate in jit.py);
- how compiled code becomes bytes and code again, to be kept on the disk;
- what else decides about the code that is made: the processor and Numba's settings.

The first two are tried once in each process, at first use (PROGRAMS of engine/program.py, SYMBOLS of jit.py). Where
something is missing, or is not as it was, a warning says so, and fastbp does without: slower, with the same results.
The third: kernels are not kept.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from llvmlite import binding
from numba.core import types

MISSING: list[str] = []  # what calls need and is not there

try:
    from numba.core import cgutils
    from numba.core.callconv import RETCODE_NONE
    from numba.core.compiler_lock import global_compiler_lock as compiler_lock
except ImportError as error:
    MISSING.append(str(error))
    compiler_lock = threading.RLock()

try:
    from numba.core.caching import CompileResultCacheImpl
    from numba.core.runtime import rtsys
    from numba.core.serialize import dumps
except ImportError as error:
    CompileResultCacheImpl, NOT_KEPT = None, str(error)
else:
    NOT_KEPT = ""

_any = numba.njit(lambda: None)

if numba.config.DISABLE_JIT:

    class Dispatcher:
        """Nothing is one: `njit` gives the plain function back."""

else:
    Dispatcher = type(_any)  # what `njit` makes


# -- calls -------------------------------------------------------------------------------------------------------------


class Code(NamedTuple):
    """A compiled function: where it is, the kinds of words it takes, and what it returns where all went well."""

    address: int
    words: list[str]
    fine: int


def code(function, argument_types: tuple) -> Code:
    """The compiled `function`, which returns nothing.

    Numba's functions have the form `status f(result *, exception **, word, word, …)`."""
    function.compile(argument_types)
    compiled = function.overloads[argument_types]
    if compiled.signature.return_type != types.none:
        returned = compiled.signature.return_type
        raise TypeError(f"{function.__name__} returns {returned}: nothing in a program would take it")
    kind = compiled.target_context.call_conv.get_function_type(types.none, argument_types)
    result, exception, *arguments = kind.args
    if str(kind.return_type) != "i32" or not (result.is_pointer and exception.is_pointer):
        raise TypeError(f"compiled functions are of another form: {kind}")
    words = ["i64" if argument.is_pointer else str(argument) for argument in arguments]
    return Code(address(compiled), words, RETCODE_NONE.constant)


def address(compiled) -> int:
    """Where the code of a compile result is."""
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def words(value) -> list[int]:
    """An argument as the words that compiled code takes it in."""
    if isinstance(value, tuple):
        return [word for item in value for word in words(item)]
    if value is None:
        return [0]
    if isinstance(value, np.ndarray):  # not owned by the callee: no reference count, no parent
        return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    return np.frombuffer(np.asarray(value).tobytes().ljust(8, b"\0"), np.uint64).tolist()  # as it will lie in memory


def flat_words(context, builder, kinds: tuple, values: list) -> list:
    """The words of `values` as Numba itself makes them, in code that is being compiled."""
    return list(context.get_arg_packer(kinds).as_arguments(builder, values))


# -- calls of one kernel by another ------------------------------------------------------------------------------------


def call_symbol(context, builder, symbol: str, signature, arguments):
    """Code for a call of the compiled function that the process knows as `symbol`; its error becomes the caller's."""
    convention = context.call_conv
    kind = convention.get_function_type(signature.return_type, signature.args)
    function = cgutils.get_or_insert_function(builder.module, kind, symbol)
    status, result = convention.call_function(builder, function, signature.return_type, signature.args, arguments)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result


def type_of_function(function) -> types.Type:
    """The type, in compiled code, of an intrinsic or of a compiled function."""
    return _any.typingctx.resolve_value_type(function)


# -- compiled code as bytes --------------------------------------------------------------------------------------------


@functools.cache
def can_keep() -> bool:
    """Can compiled code become bytes? A warning says so if not, once."""
    if NOT_KEPT:
        not_kept(NOT_KEPT)
    return not NOT_KEPT


def not_kept(trouble: str) -> None:
    """Warn that kernels are lost when the process ends."""
    message = (
        f"fastbp can't keep compiled kernels with Numba {numba.__version__} ({trouble}): each process compiles them."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def to_bytes(compiled, needed) -> bytes | None:
    """A compile result, with `needed`, as bytes; None for code that can't be kept."""
    if compiled.library.has_dynamic_globals:
        return None
    try:
        return dumps((needed, _format().reduce(compiled)))
    except RuntimeError as error:
        if "no compiled object" not in str(error):
            raise
        # Ctrl-C came while LLVM handed the object over, where Python drops exceptions
        raise KeyboardInterrupt from error


def from_bytes(reduced, context):
    """The compile result again, from what `to_bytes` has pickled beside `needed`."""
    # Not context.refresh(), which Numba's cache calls: that imports all that might be compiled, SciPy's linear algebra
    # too, which takes longer than all else in the first step where nothing is compiled.
    rtsys.initialize(context)
    return _format().rebuild(context, reduced)


def _format():
    """Used for its reduce() and rebuild() alone: its constructor looks for one of Numba's own folders."""
    return CompileResultCacheImpl.__new__(CompileResultCacheImpl)


def text(compiled) -> str:
    """The LLVM code of a compile result."""
    return compiled.library.get_llvm_str()


# -- what else decides about the code ----------------------------------------------------------------------------------


def processor(context=None) -> tuple[str, str, str]:
    """The kind of machine, the processor's name and its features, for which code is made."""
    try:
        return (context or _any.targetctx).codegen().magic_tuple()
    except AttributeError:
        return binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


HARMLESS = {  # settings that don't change the code; a name with * stands for all that begin so
    # Numba's own caches
    *("CACHE_DIR", "CACHE_LOCATOR_CLASSES", "FUNCTION_CACHE_SIZE", "DEBUG_CACHE"),
    # the machine's and the scheduler's
    *("NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "THREADING_LAYER*"),
    # messages
    *("COLOR_SCHEME", "SHOW_HELP", "DEVELOPER_MODE", "DISABLE_PERFORMANCE_WARNINGS", "ALWAYS_WARN_UNINIT_VAR"),
    # reports
    *("DUMP_*", "HIGHLIGHT_DUMPS", "ANNOTATE", "HTML", "TRACE", "CHROME_TRACE", "DEBUG_TYPEINFER", "LLVM_PASS_TIMINGS"),
    # other devices and programs
    *("CUDA*", "DISABLE_CUDA", "ENABLE_CUDASIM", "FORCE_CUDA_CC", "GDB_BINARY"),
}
_whole = frozenset(name for name in HARMLESS if not name.endswith("*"))
_begins = tuple(name[:-1] for name in HARMLESS if name.endswith("*"))
# how many there were when they were last asked for, their values, and these as text
_last: tuple[int, dict, str] = (0, {}, "")


def settings(anew: bool = False) -> str:
    """Numba's settings as they are now, but for the HARMLESS ones, from its configuration file, the environment or the
    program.

    Numba looks at the file and the environment again before it compiles, and so does `anew`."""
    global _last
    if anew:
        numba.config.reload_config()
    now, (count, before, told) = vars(numba.config), _last
    if len(now) != count or any(now.get(name) != value for name, value in before.items()):
        names = sorted(name for name in now if name.isupper() and name not in _whole and not name.startswith(_begins))
        before = {name: now[name] for name in names}
        plain = (int, float, str, tuple, list, type(None))  # others could show an address, another one in each process
        shown = ((name, value if isinstance(value, plain) else type(value).__name__) for name, value in before.items())
        told = repr(list(shown))
        _last = len(now), before, told
    return told


FIRST_SETTINGS = settings()  # some count when Numba makes its code generator, which `njit` has just done


# -- may it be used? ---------------------------------------------------------------------------------------------------


class Trial:
    """A part of Numba's inside that is tried once in each process, at first use, by a `function`. That gives what is
    not as it should be, or ""; also what it raises is trouble. A warning then says what fastbp does `instead`."""

    def __init__(self, function: Callable[[], str], instead: str):
        self.function, self.instead, self.state = function, instead, "not tried"  # then "trying", "passed" or "failed"

    @property
    def failed(self) -> bool:
        """Has it been tried, without success?"""
        return self.state == "failed"

    def passed(self) -> bool:
        """Can it be relied on? Tried now, if it has not been. False where the JIT is off."""
        if self.state in ("passed", "failed") or numba.config.DISABLE_JIT:
            return self.state == "passed"
        with compiler_lock:
            if self.state != "not tried":  # this thread is trying, or another has
                return not self.failed
            self.state, trouble = "trying", "; ".join(MISSING)
            try:
                trouble = trouble or self.function()
            except Exception as error:
                trouble = f"{type(error).__name__}: {error}"
            except BaseException:  # Ctrl-C
                self.state = "not tried"
                raise
            self.state = "failed" if trouble else "passed"
        if trouble:
            version, first = numba.__version__, trouble.splitlines()[0]
            message = (
                f"fastbp does not know the inside of Numba {version} ({first}). {self.instead}; results are the same."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return not trouble
