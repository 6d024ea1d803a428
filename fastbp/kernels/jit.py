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
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from numba.core import serialize
from numba.core.caching import CompileResultCacheImpl, NullCache
from numba.core.dispatcher import Dispatcher

KERNEL_FOLDER = Path(__file__).parent
FOLDER_PREFIX = "fastbp-kernels-"
FOLDERS_KEPT = 8
# -- one folder an edit or upgrade; older ones are removed when a new one is made

FAST_MATH = {"reassoc", "contract", "nsz"}
# -- not nnan, not ninf: a NaN that comes in must go out. Not arcp, not afn: no approximate division or functions.


def kernel(function: Callable) -> Callable:
    """Compile `function` on its first call with the flags and the cache of this module.

    Only functions in `fastbp/kernels/` are cached on disk: the cache's key covers no other file.
    """
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)(function)
    source = Path(function.__code__.co_filename)
    if isinstance(compiled, Dispatcher) and source.parent == KERNEL_FOLDER:  # a plain function where the JIT is off
        compiled._cache = KernelCache(f"{source.stem}.{function.__qualname__}")
    return compiled


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
    """

    def __init__(self, name: str):
        self._name = name
        self._format = CompileResultCacheImpl.__new__(CompileResultCacheImpl)
        # -- used for its reduce() and rebuild() alone; its constructor looks for one of Numba's own folders

    def _path(self, signature, codegen) -> Path | None:
        folder = cache_folder()
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:20]
        return folder and folder / f"{self._name}-{key}.nbc"

    def load_overload(self, sig, target_context):
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        try:
            return path and self._format.rebuild(target_context, pickle.loads(path.read_bytes()))
        except Exception:  # absent, or damaged in a way that only unpickling can tell: compile again
            return None

    def save_overload(self, sig, data):
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
                temporary = file.name
                file.write(serialize.dumps(self._format.reduce(data)))
            os.replace(temporary, path)
        except OSError:  # the disk is full or the folder gone: the kernel is compiled, the run goes on
            if temporary:
                try:
                    os.unlink(temporary)
                except OSError:
                    pass
