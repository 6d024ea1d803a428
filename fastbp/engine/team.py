"""How several threads do the sections of a program, without Python in between.

A program (program.py) is one table of 64-bit words:

    word 0 · sections   1 · place of the first record that failed, or 0   2, 3 · places of two tables of parts
    from word 8 on for each section 16 words, two cache lines:   0, 1 · first part, end   8 · parts that are done
    then the tables of parts: where each part's records begin, and the end; and whether it is taken; then the records

Each thread goes through the sections in their order. In a section it takes parts until none is left, beginning with its
own share, which is the same in each section and each step, so that it finds in its core's cache what it wrote there.
Then it waits until the other threads have done theirs. Words are changed by one indivisible operation, by which a
thread also sees all that was written before the other's.

The threads meet in a team's state, another table of words. The caller opens the door of a program and counts the
generation up; helpers that see it come in, and the caller waits until the last has left. A helper watches the
generation for some time, so that it is there at once for the next program of a training step, and for the next step:
to wake it takes longer than a small section. Then it goes to sleep.
"""

import os
import platform

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernels.jit import kernel
from .program import (
    DONE,
    FAILED,
    FIRST,
    HEADER,
    LAST,
    PARTS,
    SECTION,
    SECTIONS,
    TAKEN,
    WORD,
    end_flushing,
    flush_denormals,
    run_calls,
)

STATE = 64  # words of a team's state, counters in cache lines of their own:
TABLE, LIMIT = 0, 1  # the program's address; how many helpers it takes
DOOR, OPEN = 8, 1 << 32  # OPEN while helpers may come in, and how many are inside
GENERATION, SLEEPING, STARTED, ENDED = 16, 24, 32, 40  # programs so far; helpers asleep, and all; 1 when they shall go
WATCH = 10_000  # looks before a helper goes to sleep
LOOKS = 500  # before a thread that waits for others gives its core away
PAUSE = {  # by processor: LLVM's function for a core that waits in a loop, and its argument
    **dict.fromkeys(("x86_64", "AMD64"), ("llvm.x86.sse2.pause", [])),
    **dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.isb", [15])),
}
YIELDS = hasattr(os, "sched_yield")
sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _pointer(builder, arguments):
    table, place = arguments[:2]
    return builder.gep(builder.inttoptr(table, WORD.as_pointer()), [place])


@intrinsic
def load(typingctx, table, place):
    """table[place], as it is in memory now"""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments), "seq_cst", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store(typingctx, table, place, value):
    """table[place] ← value"""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _pointer(builder, arguments), "seq_cst", 8)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), codegen


@intrinsic
def add(typingctx, table, place, value):
    """table[place] ← table[place] + value; what it was before"""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments), arguments[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, table, place, old, new):
    """table[place] ← new if it is old; whether it was"""

    def codegen(context, builder, signature, arguments):
        pair = builder.cmpxchg(_pointer(builder, arguments), arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tells the core that this is a loop that waits"""

    def codegen(context, builder, signature, arguments):
        if platform.machine() in PAUSE:
            name, given = PAUSE[platform.machine()]
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32) for _ in given])
            builder.call(builder.module.declare_intrinsic(name, fnty=kind), [ir.IntType(32)(value) for value in given])
        return context.get_dummy_value()

    return types.none(), codegen


@kernel
def wait(looks):
    """A moment, and `looks` + 1; the core is given away when it has taken long."""
    pause()
    if YIELDS and looks >= LOOKS:
        sched_yield()
    return looks + 1


@kernel
def do_sections(table, thread, threads):
    """What each thread does with a program: parts of each section while there are any; then it waits for the others.

    A section of fewer parts than threads is left to the first threads: what the caller alone computes with, it alone
    updates."""
    parts, taken, control = load(table, PARTS), load(table, TAKEN), flush_denormals()
    for s in range(load(table, SECTIONS)):
        section = HEADER + s * SECTION
        first, looks = load(table, section + FIRST), 0
        count = load(table, section + LAST) - first
        for i in range(count if thread < count else 0):
            part = first + (thread * count // threads + i) % count
            if load(table, taken + part) != 0 or not exchange(table, taken + part, 0, 1):
                continue
            if load(table, FAILED) == 0:
                end = load(table, parts + part + 1)
                at = run_calls(table, load(table, parts + part), end)
                if at < end:
                    store(table, FAILED, at)
            add(table, section + DONE, 1)
        while load(table, section + DONE) < count:
            looks = wait(looks)
    end_flushing(control)


@kernel
def begin(state, table, helpers):
    """Open the door of a program to up to so many helpers; how many of them must be woken"""
    store(table, FAILED, 0)
    for s in range(load(table, SECTIONS)):
        section = HEADER + s * SECTION
        store(table, section + DONE, 0)
        for part in range(load(table, section + FIRST), load(table, section + LAST)):
            store(table, load(table, TAKEN) + part, 0)
    store(state, TABLE, table)
    store(state, LIMIT, helpers)
    store(state, DOOR, OPEN)
    add(state, GENERATION, 1)
    while True:
        asleep = load(state, SLEEPING)
        wanted = min(asleep, helpers - (load(state, STARTED) - asleep))
        if wanted <= 0:
            return 0
        if exchange(state, SLEEPING, asleep, asleep - wanted):
            return wanted


@kernel
def finish(state):
    """Close the door, and return when no helper is inside any more"""
    looks = 0
    if load(state, DOOR) >= OPEN:
        add(state, DOOR, -OPEN)
    while load(state, DOOR) != 0:
        looks = wait(looks)


@kernel
def help_out(state, seen, helper):
    """Take part in each program that comes; the generation, when none has come for some time and it is time to sleep

    `helper` is its number, from 0, and `seen` the last generation that it knows of. When it returns, the helper counts
    as asleep, and who begins a program may wake it."""
    looks = 0
    while load(state, ENDED) == 0:
        generation = load(state, GENERATION)
        if generation != seen:
            seen, looks, door = generation, 0, load(state, DOOR)
            while door >= OPEN and door - OPEN < load(state, LIMIT):
                if exchange(state, DOOR, door, door + 1):
                    limit = load(state, LIMIT)
                    do_sections(load(state, TABLE), 1 + helper % limit, 1 + limit)
                    add(state, DOOR, -1)
                    break
                door = load(state, DOOR)
        elif looks < WATCH:
            pause()
            looks += 1
        else:
            add(state, SLEEPING, 1)
            if load(state, GENERATION) == seen and load(state, ENDED) == 0:
                break
            while True:  # a program has come in between: awake again, or else counted among those to be woken
                asleep = load(state, SLEEPING)
                if asleep == 0:
                    return seen
                if exchange(state, SLEEPING, asleep, asleep - 1):
                    break
            looks = 0
    return seen
