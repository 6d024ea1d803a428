"""The one place that knows compiler flags and the on-disk cache of compiled kernels.

`kernel` is the decorator of every compiled function of the package. It compiles lazily, releases the GIL, divides
as IEEE 754 does, and lets the compiler reorder sums and fuse multiply–adds; it never lets it assume that no value
is NaN or infinite.

Compiled code is kept in a per-user folder, `$FASTBP_CACHE_DIR` or the platform's cache folder, in a sub-folder
named by a hash of every kernel source file and the versions of Numba, llvmlite and Python. Numba's own cache looks only
at the file that holds the function, so an edit to a kernel that is called from another file would leave stale
machine code in use; here any edit leads to another folder. The processor is part of each file's name. When the folder
can't be written, or a file in it is damaged, kernels are compiled again in each process and nothing else changes.
"""

import functools
import hashlib
import inspect
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from numba.core import cgutils, serialize
from numba.core.caching import CompileResultCacheImpl, NullCache
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.core.runtime import rtsys

KERNEL_FOLDER = Path(__file__).parent
FOLDER_PREFIX = "fastbp-kernels-"
FOLDERS_KEPT = 8
# -- one folder an edit or upgrade; older ones are removed when a new one is made

FAST_MATH = {"reassoc", "contract", "nsz"}
# -- not nnan, not ninf: a NaN that comes in must go out. Not arcp, not afn: no approximate division or functions.


def kernel(function: Callable, callee: bool = False, ordered: bool = False) -> Callable:
    """Compile `function` on its first call with the flags and the cache of this module.

    Only functions in `fastbp/kernels/` are cached on disk: the cache's key covers no other file. A `callee` can be called by other
    kernels, not from Python: the wrapper for that is a twelfth of what there is to compile. The sums of an `ordered` one are
    taken as they are written, where that keeps digits.
    """
    flags = FAST_MATH - {"reassoc"} if ordered else FAST_MATH
    compiled = numba.njit(
        nogil=True, error_model="numpy", fastmath=flags, no_cfunc_wrapper=True, no_cpython_wrapper=callee
    )(function)
    source = Path(function.__code__.co_filename)
    if isinstance(compiled, Dispatcher) and source.parent == KERNEL_FOLDER:  # a plain function where the JIT is off
        compiled._cache = KernelCache(f"{source.stem}.{function.__qualname__}{'.callee' if callee else ''}")
    return compiled


ordered_kernel = functools.partial(kernel, ordered=True)


class Separate(_Intrinsic):
    """A kernel that other kernels call and don't contain.

    Numba compiles a called function anew into every caller. For matrix products, which hold all variants of their tiles, that was
    half of the compiling: 24 instead of 12 s for a convolutional network's first step. A separate kernel is compiled once for its
    types and stays a call, by a symbol of the process; callers that come from the disk see to it that it is there.
    """

    named: dict[str, "Separate"] = {}
    symbols: dict[str, tuple[str, tuple]] = {}  # symbol → the kernel's name and its argument types

    def __init__(self, function: Callable):
        self.dispatcher, self.callee = kernel(function), kernel(function, callee=True)

        def define(typingctx, *types):
            return self._type(types)

        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        define.__signature__ = inspect.Signature([context, *inspect.signature(function).parameters.values()])
        super().__init__(function.__name__, define)
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
            llvmlite.binding.add_symbol(symbol, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
            Separate.symbols[symbol] = self.key, types
        return symbol, result.signature

    def _type(self, types: tuple):
        symbol, signature = self.ready(types)

        def codegen(context, builder, signature, arguments):
            convention = context.call_conv
            kind = convention.get_function_type(signature.return_type, signature.args)
            function = cgutils.get_or_insert_function(builder.module, kind, symbol)
            status, result = convention.call_function(builder, function, signature.return_type, signature.args, arguments)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return result

        return signature, codegen


def separate_kernel(function: Callable) -> Callable:
    """`kernel` for a function that is large and called by several: see Separate."""
    if numba.config.DISABLE_JIT:
        return kernel(function)
    separate = Separate(function)
    separate._register()
    return separate


def _source_hash() -> str:
    digest = hashlib.sha256()
    for version in (numba.__version__, llvmlite.__version__, sys.version):
        digest.update(version.encode() + b"\0")
    for path in sorted(KERNEL_FOLDER.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


SOURCE_HASH = _source_hash()
# -- taken at import, when the code that will be compiled is read, not when it is compiled: a file may change in between


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this version's compiled kernels, made if need be; None where none can be written."""
    root = os.environ.get("FASTBP_CACHE_DIR")
    if root is None:
        import platformdirs

        try:
            root = os.path.join(platformdirs.user_cache_dir("fastbp", appauthor=False), "kernels")
        except RuntimeError:  # no home directory, and a user whom the system does not know
            return None
        if not os.path.isabs(root):  # no home directory: '~' was left as it is
            return None
    folder = Path(root).absolute() / f"{FOLDER_PREFIX}{SOURCE_HASH}"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            _remove_old(folder)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except FileExistsError:  # another process made it first
        return folder if os.access(folder, os.W_OK) else None
    except OSError:
        return None


def _remove_old(new: Path) -> None:
    """Keep the newest folders beside `new`. A process that is using a removed one compiles again."""
    folders = list(new.parent.glob(f"{FOLDER_PREFIX}*"))
    folders.sort(key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in folders[FOLDERS_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


class KernelCache(NullCache):
    """Numba's cache of one function, kept as one file for each signature and processor.

    Numba's own keeps an index beside the numbered data files; two processes that first compile two signatures
    at once can leave an index entry that names the other's code. A file whose name is its whole key has no index.
    `compiled` counts the kernels that this process had to compile.
    """

    compiled = 0

    def __init__(self, name: str):
        self._name = name
        self._format = CompileResultCacheImpl.__new__(CompileResultCacheImpl)
        # -- used for its reduce() and rebuild() alone; its constructor looks for one of Numba's own folders

    def _path(self, signature, codegen) -> Path | None:
        folder = cache_folder()
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:20]
        return folder and folder / f"{self._name}-{key}.nbc"

    def holds(self, signature, codegen) -> bool:
        """Is there a file for this signature?"""
        path = self._path(signature, codegen)
        return path is not None and path.is_file()

    def load_overload(self, sig, target_context):
        # Not target_context.refresh(), which Numba's cache calls: that imports all that might be compiled, SciPy's linear algebra
        # too. Where nothing is compiled, the first step takes 0.65 s with it and 0.2 s without.
        rtsys.initialize(target_context)
        path = self._path(sig, target_context.codegen())
        try:
            needed, data = pickle.loads(path.read_bytes())
            for key, types in needed:
                Separate.named[key].ready(types)
            return self._format.rebuild(target_context, data)
        except Exception:  # absent, or damaged in a way that only unpickling can tell: compile again
            return None

    def save_overload(self, sig, data):
        KernelCache.compiled += 1
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        needed = [Separate.symbols[name] for name in set(re.findall(r"@(fastbp\.[\w.]+)", data.library.get_llvm_str()))]
        try:
            reduced = self._format.reduce(data)
        except RuntimeError as error:
            if "no compiled object" not in str(error):
                raise
            raise KeyboardInterrupt from error  # Ctrl-C came while LLVM handed the object over, where Python drops exceptions
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
                temporary = file.name
                file.write(serialize.dumps((needed, reduced)))
            os.replace(temporary, path)
        except OSError:  # the disk is full or the folder gone: the kernel is compiled, the run goes on
            if temporary:
                try:
                    os.unlink(temporary)
                except OSError:
                    pass
