"""Is Numba's inside as programs take it to be? A small kernel tells, before others rely on it.

See Trial in kernels/numba_inside.py.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernels.jit import kernel
from ..kernels.numba_inside import code, flat_words

WORD = ir.IntType(64)
OWNED = {0, 1}  # words of an array that say who owns it: 0 in a program


@intrinsic
def write_words(typingctx, target, matrix, nothing, pair, number, flag):
    """The words that the other arguments are to compiled code, written to the address `target`; returns their number"""

    def codegen(context, builder, signature, arguments):
        found = flat_words(context, builder, signature.args[1:], arguments[1:])
        place = builder.inttoptr(arguments[0], WORD.as_pointer())
        for i, value in enumerate(found):
            if isinstance(value.type, ir.PointerType):
                value = builder.ptrtoint(value, WORD)
            elif isinstance(value.type, (ir.FloatType, ir.DoubleType)):
                value = builder.bitcast(value, ir.IntType(32 if isinstance(value.type, ir.FloatType) else 64))
            value = value if value.type.width == 64 else builder.zext(value, WORD)
            builder.store(value, builder.gep(place, [WORD(i)]))
        return WORD(len(found))

    return types.int64(types.int64, matrix, nothing, pair, number, flag), codegen


@kernel
def probe(seen, results, matrix, nothing, pair, number, flag):
    """seen ← the words of the arguments that follow `results`, and results ← what follows from these; pair[0] > 0"""
    if pair[0] <= 0:
        raise ValueError("wanted")
    results[0] = write_words(seen.ctypes.data, matrix, nothing, pair, number, flag)
    results[1], results[2] = matrix[1, 2] * pair[0] + pair[1], number
    results[3], results[4] = 1 if flag else 2, 1 if nothing is None else 2


def trouble_with_programs(Program: type, argument_types: Callable) -> str:
    """What is not as it should be where programs call kernels; "" if all is well. The arguments are program.py's.

    Nothing is called in fastbp's way before Numba's own call has shown that the words are right."""
    whole = np.arange(48.0).reshape(6, 8)
    seen, results = np.full(16, -1), np.zeros(5)
    matrix = whole[1:4:2, ::3]  # neither contiguous nor of one stride
    wanted = [14.0, float(whole[3, 6]) * 3 + 0.25, 1.5, 1.0, 1.0]
    good, bad = (partial(probe, seen, results, matrix, None, (k, 0.25), np.float32(1.5), True) for k in (3, -3))
    program = Program([[[good, bad]]])
    first, second = program.calls
    record = program.table[first:second]
    taken = record[2 + 2 * 7 :].tolist()  # behind the record's head and two arrays of one axis
    if len(code(probe, argument_types(good)).words) != record.size - 2:
        return "compiled code takes another number of words"
    good()
    if results.tolist() != wanted:
        return f"a kernel gives {results.tolist()} instead of {wanted}"
    theirs = [0 if i in OWNED else word for i, word in enumerate(seen[: len(taken)].tolist())]
    if theirs != taken or (seen[len(taken) :] != -1).any():
        return "compiled code takes its arguments as other words"
    seen[:], results[:] = -1, 0
    try:
        program()
    except ValueError:  # of the second call
        same = results.tolist() == wanted and seen[: len(taken)].tolist() == taken
        return "" if same else "a program's call has other results"
    return "a kernel's error is not seen"
