"""Kernels under guard pages: arrays that end, or begin, exactly at a page that nobody may touch.

A kernel that reads or writes one number too far then crashes; and what it gives is compared with what it gives in
ordinary memory, bit for bit. Two ways, which take turns:

- each call of a kernel by itself: every array that it is given is copied between guard pages, at the end of its room
  and at its beginning, and what is in them afterwards is compared with the call itself. Parts of a buffer are guarded
  on their own.
- whole training steps, in which every buffer of the network, the plan and the optimiser is made between guard pages, as
  programs on one thread or on two.

In both, the memory that a kernel asks for inside comes from here too, filled with NaN and −1 at the end of its room,
with large numbers at its beginning: who reads what nobody has written shows it.
"""

import contextlib
import ctypes
import mmap
import sys
import types
import weakref
from collections.abc import Iterator

import llvmlite.binding as llvm
import numpy as np
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.runtime import _nrt_python, rtsys

import fastbp
import fastbp.engine.gradients
import fastbp.plan
from fastbp.engine import program
from fastbp.engine.threads import run

from .made import Made, digest, draw_network, draw_optimizer, of_network
from .trials import Lost, Trial

PAGE = mmap.PAGESIZE
JUNK = {True: 0xFF, False: 0x55}  # of fresh memory, by whether it is at the end of its room
POOLED = 64  # rooms of a size that are kept

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Memory:
    """Rooms between guard pages. `at_end` says which end of its room an array lies at; the other has what is left of a
    page."""

    def __init__(self):
        self.at_end = True
        self._free: dict[int, list[int]] = {}  # by pages, the addresses of rooms
        self._taken: dict[int, tuple[int, int]] = {}  # by the address given out, the room and its pages

    def take(self, size: int) -> int:
        """The address of `size` bytes, full of junk."""
        pages = max(1, -(-size // PAGE))
        free = self._free.setdefault(pages, [])
        room = free.pop() if free else self._room(pages)
        address = room + pages * PAGE - size if self.at_end else room
        ctypes.memset(address, JUNK[self.at_end], size)
        while address in self._taken:  # of no bytes
            address += 1
        self._taken[address] = room, pages
        return address

    def give_back(self, address: int) -> None:
        room, pages = self._taken.pop(address)
        if len(self._free[pages]) < POOLED:
            self._free[pages].append(room)
        else:
            libc.munmap(room - PAGE, (pages + 2) * PAGE)

    def array(self, shape, dtype, fill: int | None = None) -> np.ndarray:
        """A new array, C-contiguous, that gives its room back when nothing refers to it any more."""
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        address = self.take(size)
        buffer = (ctypes.c_char * size).from_address(address)
        weakref.finalize(buffer, self.give_back, address).atexit = False
        if fill is not None:
            ctypes.memset(address, fill, size)
        return np.ndarray(shape, dtype, buffer)

    @staticmethod
    def _room(pages: int) -> int:
        access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        whole = libc.mmap(None, (pages + 2) * PAGE, access, kind, -1, 0)
        if whole in (None, ctypes.c_void_p(-1).value):
            raise MemoryError("mmap")
        for guard in (whole, whole + (pages + 1) * PAGE):
            if libc.mprotect(guard, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        return whole + PAGE


memory = Memory()

# -- what kernels ask for inside ---------------------------------------------------------------------------------------

_manage = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(memory.give_back)
_kept: list = []  # functions that compiled code holds the addresses of


def guard_allocations() -> None:
    """From now on kernels that this process compiles or loads get their memory from here: none may be there yet."""
    if _kept:
        return
    rtsys.initialize(cpu_target.target_context)
    get_api = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p))(_nrt_python.c_helpers["get_api"])
    manage = _manage(get_api()[2])  # see numba/core/runtime/nrt_external.h

    def allocate(size: int, align: int) -> int:
        return manage(memory.take(size), ctypes.cast(_release, ctypes.c_void_p))

    allocator = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)(allocate)
    _kept.append(allocator)
    for name in ("NRT_MemInfo_alloc_aligned", "NRT_MemInfo_alloc_safe_aligned"):
        llvm.add_symbol(name, ctypes.cast(allocator, ctypes.c_void_p).value)


# -- each call of a kernel by itself -----------------------------------------------------------------------------------


class Calls:
    """Guards every call of a kernel from Python in its block, and counts the guarded runs, two for each."""

    def __init__(self, trial: Trial):
        self.trial, self.original, self.programs = trial, CPUDispatcher.__call__, program.programs

    def __enter__(self) -> "Calls":
        def call(dispatcher, *arguments, **named):
            return self.call(dispatcher, *arguments) if not named else self.original(dispatcher, *arguments, **named)

        CPUDispatcher.__call__ = call
        for module in (fastbp.plan, fastbp.engine.gradients):  # their calls one by one
            module.programs = lambda sections: [call for section in sections for part in section for call in part]
        return self

    def __exit__(self, *exception) -> None:
        CPUDispatcher.__call__ = self.original
        for module in (fastbp.plan, fastbp.engine.gradients):
            module.programs = self.programs

    def call(self, dispatcher, *arguments):
        arrays = list(arrays_of(arguments))
        if not arrays or not dispatcher.py_func.__module__.startswith("fastbp.kernels."):
            return self.original(dispatcher, *arguments)
        name, results = dispatcher.py_func.__name__, []
        self.trial.note(f"{name}: {', '.join(f'{array.dtype} {array.shape}' for array in arrays)}")
        regions = Regions(arrays)
        for memory.at_end in (True, False):
            self.trial.tried += 1
            copies = regions.copies()
            value = self.original(dispatcher, *replaced(arguments, iter(copies)))
            results.append((bits_of(value), [copy.tobytes() for copy in copies]))
        value = self.original(dispatcher, *arguments)
        results.append((bits_of(value), [array.tobytes() for array in arrays]))
        for k, where in enumerate(("at the end of its room", "at the beginning of its room")):
            if results[k] != results[2]:
                which = [i for i, (a, b) in enumerate(zip(results[k][1], results[2][1], strict=True)) if a != b]
                shapes = [(array.dtype.str, array.shape) for array in arrays]
                raise Lost(f"{name} {where}: other bits in arrays {which} of {shapes}")
        return value


class Regions:
    """Arrays as stretches of memory: those that overlap stay so in a copy."""

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays
        self.stretches: list[list[int]] = []
        for first, last in sorted(bounds(array) for array in arrays if array.size):
            if self.stretches and first < self.stretches[-1][1]:
                self.stretches[-1][1] = max(last, self.stretches[-1][1])
            else:
                self.stretches.append([first, last])

    def copies(self) -> list[np.ndarray]:
        rooms = []
        for first, last in self.stretches:
            rooms.append(memory.array(last - first, np.uint8))
            ctypes.memmove(rooms[-1].ctypes.data, first, last - first)
        made = []
        for array in self.arrays:
            if not array.size:
                made.append(memory.array(array.shape, array.dtype))
            for (first, last), room in zip(self.stretches, rooms, strict=True) if array.size else ():
                if first <= bounds(array)[0] < last:
                    offset = array.ctypes.data - first
                    made.append(np.ndarray(array.shape, array.dtype, room, offset, array.strides))
                    break
            made[-1].flags.writeable = array.flags.writeable
        return made


def bounds(array: np.ndarray) -> tuple[int, int]:
    """The addresses of its first byte and behind its last one."""
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    low = array.ctypes.data + sum(step for step in steps if step < 0)
    return low, array.ctypes.data + sum(step for step in steps if step > 0) + array.itemsize


def arrays_of(value) -> Iterator[np.ndarray]:
    """The arrays among arguments, also in tuples."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from arrays_of(item)


def replaced(value, arrays: Iterator[np.ndarray]):
    """The arguments with other arrays in the same places."""
    if isinstance(value, np.ndarray):
        return next(arrays)
    return tuple(replaced(item, arrays) for item in value) if isinstance(value, tuple) else value


def bits_of(value):
    return repr(value) if value is None or isinstance(value, (bool, int, tuple)) else np.asarray(value).tobytes()


# -- whole steps -------------------------------------------------------------------------------------------------------


class GuardedNumpy(types.ModuleType):
    """NumPy whose new arrays lie between guard pages, for the modules of fastbp that are not compiled."""

    def __init__(self):
        super().__init__("numpy")

    def __getattr__(self, name: str):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype=np.float64):
        return memory.array(shape, dtype)

    @staticmethod
    def zeros(shape, dtype=np.float64):
        return memory.array(shape, dtype, 0)

    def empty_like(self, array):
        return self.empty(array.shape, array.dtype)

    def zeros_like(self, array):
        return self.zeros(array.shape, array.dtype)


@contextlib.contextmanager
def guarded_buffers(trial: Trial) -> Iterator[None]:
    """All that fastbp allocates in the block lies between guard pages; the kernel runs of its programs are counted."""
    changed = []

    def put(module, name, value):
        changed.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def counted(call):
        trial.tried += len(call.calls) if isinstance(call, program.Program) else 1
        run(call)

    numpy = GuardedNumpy()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "fastbp":
            continue
        if hasattr(module, "aligned"):
            put(module, "aligned", numpy.zeros)
        of_kernels = name.startswith(("fastbp.kernels.", "fastbp.engine.program", "fastbp.engine.probe"))
        if getattr(module, "np", None) is np and not of_kernels:
            put(module, "np", numpy)
    for module in (fastbp.plan, fastbp.engine.gradients):
        put(module, "run", counted)
    try:
        yield
    finally:
        for module, name, value in reversed(changed):
            setattr(module, name, value)


# -- the trials --------------------------------------------------------------------------------------------------------


def trial(trial: Trial) -> None:
    guard_allocations()
    if trial.number % 4 == 3:
        whole_steps(trial)
    else:
        one_by_one(trial)


def one_by_one(trial: Trial) -> None:
    """A drawn network's layers and loss, called on their own, and some training steps and predictions."""
    rng = trial.rng
    made = draw_network(rng)
    fastbp.set_num_threads(1)
    with Calls(trial):
        train(rng, made, steps=2)  # first, for who looks at gradients is given them from then on
        use_layers(rng, made)


def whole_steps(trial: Trial) -> None:
    """The same training in ordinary memory and in guarded memory."""
    rng, seed, results = trial.rng, int(trial.rng.integers(2**32)), []
    threads = int(rng.integers(1, 3))
    trial.note(f"whole steps, {threads} threads")
    for guarded in (False, True, True):
        again = np.random.default_rng(seed)
        fastbp.set_num_threads(threads)
        with guarded_buffers(trial) if guarded else contextlib.nullcontext():
            made = draw_network(again)
            losses = train(again, made, steps=4, data=(lambda a: guarded_copy(a)) if guarded else np.array)
            results.append(digest(losses, of_network(made.network), made.network.gradient_vector))
        memory.at_end = not memory.at_end
    fastbp.set_num_threads(1)
    trial.expect(len(set(results)) == 1, f"whole steps on {threads} threads: other bits in guarded memory")


def guarded_copy(array: np.ndarray) -> np.ndarray:
    made = memory.array(array.shape, array.dtype)
    made[...] = array
    return made


def draw_size(rng) -> int:
    """Of a batch: small ones above all, and the odd one of no samples."""
    return int(rng.choice([0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64]))


def laid_out(rng, array: np.ndarray) -> np.ndarray:
    """The array as people have them: as it is, read-only, every second of a longer one, or axes in another order."""
    kind = rng.integers(5)
    if kind == 0:
        array = array.copy()
        array.flags.writeable = False
    elif kind == 1:
        longer = np.repeat(array, 2, axis=0)
        array = longer[::2]
    elif kind == 2 and array.ndim > 1:
        array = np.asfortranarray(array)
    return array


def use_layers(rng, made: Made) -> None:
    """Each layer forward and back, in training and evaluation; the loss likewise."""
    training, size = rng.random() < 0.7, draw_size(rng)
    norm = any(isinstance(layer, (fastbp.BatchNorm1d, fastbp.BatchNorm2d)) for layer in made.network.layers)
    size = max(size, 1) if norm and training else size
    x, targets = made.batch(rng, size)
    outputs = []
    for layer in made.network.layers:
        out = np.empty((size, *layer.output_shape(x.shape[1:])), x.dtype) if rng.random() < 0.5 else None
        x = layer.forward(laid_out(rng, x), training, out)
        outputs.append(x)
    if size:
        made.loss.forward(x, laid_out(rng, targets))
        made.loss.backward()
    dout = rng.normal(size=x.shape).astype(x.dtype)
    for layer in reversed(made.network.layers):
        dout = layer.backward(laid_out(rng, dout))


def train(rng, made: Made, steps: int, data=np.array) -> list[float]:
    """Some steps on batches of two sizes, and predictions."""
    trainer, losses = fastbp.Trainer(made.network, made.loss, draw_optimizer(rng)), []
    sizes = [max(draw_size(rng), 1) for _ in range(2)]
    asked = rng.random() < 0.3
    for step in range(steps):
        x, targets = (data(array) for array in made.batch(rng, sizes[step % 2]))
        losses.append(trainer.step(x, targets))
        if asked:
            made.network.gradient_vector  # noqa: B018 -- every step fills it from now on
        losses.append(fastbp.evaluate(made.network, made.loss, (x, targets), batch_size=sizes[0]).loss)
    return losses
