"""Several kernel calls in a row as one.

A call from Python to a compiled function takes some time before any work is done: each argument's type is looked up,
each array is taken apart. The calls of a step are bound to arrays that stay, so this can be done once. A `Program`
keeps a record of 64-bit words for each call: the record's length, the address of the kernel's entry and the arguments
as the kernel takes them (an array is its address, its shape and its strides). `run_calls` goes through the records
without coming back to Python, and without its lock.
"""

import functools
from collections.abc import Callable
from functools import partial

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..kernels.jit import Separate, kernel
from ..kernels.numba_inside import Dispatcher, Trial, code, compiler_lock, processor, words
from ..memory import aligned
from .probe import trouble_with_programs

WORD, STATUS = ir.IntType(64), ir.IntType(32)
WORDS = WORD.as_pointer()
ENTRY = ir.FunctionType(STATUS, [WORDS])

SECTIONS, FAILED, PARTS, TAKEN = 0, 1, 2, 3  # places in a table, of HEADER words before its sections
HEADER = 8
FIRST, LAST, DONE = 0, 1, 8  # places in a section, of SECTION words
SECTION = 16


@intrinsic
def word(typingctx, table, place):
    """The word at that place of the table at that address"""

    def codegen(context, builder, signature, arguments):
        return builder.load(builder.gep(builder.inttoptr(arguments[0], WORDS), [arguments[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def enter(typingctx, table, place):
    """The entry whose address is at that place, called with the address of the next word; not 0 if it failed"""

    def codegen(context, builder, signature, arguments):
        at = builder.gep(builder.inttoptr(arguments[0], WORDS), [arguments[1]])
        entry = builder.inttoptr(builder.load(at), ENTRY.as_pointer())
        return builder.sext(builder.call(entry, [builder.gep(at, [WORD(1)])]), WORD)

    return types.int64(types.int64, types.int64), codegen


FLUSH = 1 << 15 | 1 << 6  # of x86's control register: results, and operands, below the smallest normal number are 0


@intrinsic
def exchange_control(typingctx, control):
    """The control register's value, which is then `control`, or has FLUSH set for −1; 0 on processors other than x86"""

    def codegen(context, builder, signature, arguments):
        if not processor(context)[0].startswith(("x86", "i686")):
            return WORD(0)
        place = cgutils.alloca_once(builder, STATUS)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        names = "llvm.x86.sse.stmxcsr", "llvm.x86.sse.ldmxcsr"
        store, load = (cgutils.get_or_insert_function(builder.module, kind, name) for name in names)
        address = builder.bitcast(place, kind.args[0])
        builder.call(store, [address])
        before = builder.load(place)
        given = builder.icmp_signed(">=", arguments[0], WORD(0))
        control = builder.select(given, builder.trunc(arguments[0], STATUS), builder.or_(before, STATUS(FLUSH)))
        builder.store(control, place)
        builder.call(load, [address])
        return builder.zext(before, WORD)

    return types.int64(types.int64), codegen


@kernel
def flush_denormals():
    """From now on this thread takes numbers below 1.2e-38 (float64: 2.2e-308) for 0; returns what `end_flushing` needs

    Velocities, which shrink by the momentum where a unit is dead, end there and stay, and on Intel's processors each
    operation with such a number takes 150 cycles."""
    return exchange_control(-1)


@kernel
def end_flushing(before):
    """As it was"""
    exchange_control(before)


@kernel
def run_calls(table, at, end):
    """Make the calls of a table's records from `at` to `end`; the place of the first that failed, or the end"""
    while at < end:
        if enter(table, at + 1) != 0:
            return at
        at += word(table, at)
    return at


@kernel
def run_all(table, first, end):
    """`run_calls` without denormal numbers"""
    before = flush_denormals()
    at = run_calls(table, first, end)
    end_flushing(before)
    return at


@functools.cache
def engine():
    """Where entries are compiled: as they stand, for there is nothing in them to make faster."""
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def entry(function: Dispatcher, argument_types: tuple) -> int:
    """The address of a function that calls `function`, which returns nothing, with a record's arguments."""
    with compiler_lock:  # two threads that ask at once would both compile it, under one name
        return _entry(function, argument_types)


@functools.cache
def _entry(function: Dispatcher, argument_types: tuple) -> int:
    kernel, kinds, fine = code(function, argument_types)
    name, loads, arguments = f"fastbp.entry.{kernel:x}", [], ["ptr %result", "ptr %exception"]
    for i, kind in enumerate(kinds):
        loads += [f"%at{i} = getelementptr i64, ptr %words, i64 {i}", f"%word{i} = load {kind}, ptr %at{i}"]
        arguments.append(f"{kind} %word{i}")
    # as text: llvmlite's builder would take twice as long
    lines = [
        f"define i32 @{name}(ptr %words) {{",
        "%result = alloca ptr",
        "%exception = alloca ptr",
        *loads,
        f"%status = call i32 inttoptr (i64 {kernel} to ptr)({', '.join(arguments)})",
        f"%fine = icmp eq i32 %status, {fine}",
        "%failed = select i1 %fine, i32 0, i32 %status",
        "ret i32 %failed }",
    ]
    engine().add_module(llvm.parse_assembly("\n".join(lines)))
    engine().finalize_object()
    return engine().get_function_address(name)


class Program:
    """Kernel calls, bound to arrays, made by one call: sections one after the other, of parts that may be made at once.

    `table` is the program as the compiled code reads it (see team.py), `address` where it lies, `parts` the most of a
    section. An error is that of the call that failed.
    """

    def __init__(self, sections: list[list[list[partial]]]):
        self.calls: dict[int, partial] = {}  # by the place of their record
        self.parts = max(map(len, sections))
        count = sum(map(len, sections))
        places = HEADER + len(sections) * SECTION
        taken = places + count + 1
        first = at = taken + count
        starts, records, heads = [], [], []
        for parts in sections:
            heads += [len(starts), len(starts) + len(parts), *[0] * (SECTION - 2)]
            for calls in parts:
                starts.append(at)
                for call in calls:
                    function = dispatcher(call)
                    address = entry(function, argument_types(call))
                    arguments = [word for argument in call.args for word in words(argument)]
                    self.calls[at] = call
                    records += [2 + len(arguments), address, *arguments]
                    at = first + len(records)
        header = [len(sections), 0, places, taken, *[0] * (HEADER - 4)]
        filled = np.array([*header, *heads, *starts, at, *[0] * count, *records], np.uint64).view(np.int64)
        self.table = aligned(filled.size, filled.dtype)
        self.table[:] = filled
        self.address, self.first, self.end = self.table.ctypes.data, first, at

    def __call__(self) -> None:
        """All calls, on this thread."""
        failed = run_all(self.address, self.first, self.end)
        if failed < self.end:
            self.fail(failed)

    def fail(self, place: int) -> None:
        """Raise the error of the record at that place: its call is made again, for its exception."""
        self.calls[place]()
        raise RuntimeError(f"{self.calls[place]} failed")


def dispatcher(call: Callable) -> Dispatcher | None:
    """The compiled function that a bound call makes, if it is one and all its arguments are in place."""
    if not isinstance(call, partial) or call.keywords:
        return None
    function = call.func
    if isinstance(function, Separate):
        function = function.callee if PROGRAMS.passed() else function.dispatcher
    return function if isinstance(function, Dispatcher) else None


def argument_types(call: partial) -> tuple:
    """The types of a bound call's arguments, by which its kernel is compiled."""
    return tuple(map(type_of, call.args))


array_types: dict[tuple, types.Array] = {}  # by all that Numba looks at


def type_of(value) -> types.Type:
    """What `numba.typeof` says, which takes long for the thousands of arguments of a large network's calls."""
    if isinstance(value, tuple):
        return tuple_type(tuple(map(type_of, value)))
    if not isinstance(value, np.ndarray):
        return typeof(value)
    key = value.dtype, value.ndim, value.flags.num
    if key not in array_types:
        array_types[key] = typeof(value)
    return array_types[key]


tuple_type = functools.cache(types.BaseTuple.from_types)


def programs(sections: list[list[list[Callable[[], None]]]]) -> list[Callable[[], None]]:
    """The same calls in the same order, those of kernels that follow each other as one Program.

    A section that has another call among its own is broken up, and its calls are made one after the other. So are all
    where Numba's inside is not known."""
    if not PROGRAMS.passed():
        return [call for section in sections for part in section for call in part]
    made: list[Callable[[], None]] = []
    run: list[list[list[partial]]] = []
    for section in sections:
        if all(dispatcher(call) for part in section for call in part):
            run += [section] if any(section) else []
            continue
        for call in (call for part in section for call in part):
            if dispatcher(call):
                run.append([[call]])
                continue
            made += [Program(run), call] if run else [call]
            run = []
    return [*made, Program(run)] if run else made


PROGRAMS = Trial(
    partial(trouble_with_programs, Program, argument_types),
    "Kernels are called one by one from Python: steps of small networks take longer",
)
