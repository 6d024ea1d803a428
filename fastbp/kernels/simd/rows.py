"""Rows that are too short for the loops that LLVM makes of Numba's: 22 numbers as two vectors and six numbers one by
one."""

from numba.core import cgutils, types
from numba.extending import intrinsic

from .emitter import I64, Emitter


@intrinsic
def copy_row(typingctx, x, start, y, to, columns, add):
    """y[to + j] = x[start + j] + add for j < columns, both numbered as they lie in memory; y is not x"""
    i64 = types.int64
    signature = types.void(x, i64, y, i64, i64, x.dtype)

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        X, Y = (e.data(signature.args[i], arguments[i]) for i in (0, 2))
        _, start, _, to, columns, add = arguments
        add = e.repeat(add)

        def step(j, left):
            mask = left and e.first(left)
            e.store(e.add(e.load(X, e.at(start, j), mask), add), Y, e.at(to, j), mask)

        each_vector(e, columns, step)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_row_and_zeros(typingctx, x, start, y, to, columns):
    """y[to + j] = x[start + j] for j < columns, then 0 up to a whole number of vectors; y is not x"""
    i64 = types.int64
    signature = types.void(x, i64, y, i64, i64)

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        X, Y = (e.data(signature.args[i], arguments[i]) for i in (0, 2))
        _, start, _, to, columns = arguments
        vectors = builder.sdiv(builder.add(columns, I64(e.lanes - 1)), I64(e.lanes))
        with cgutils.for_range(builder, vectors, intp=I64) as loop:
            j = builder.mul(loop.index, I64(e.lanes))
            e.store(e.load(X, e.at(start, j), e.first(builder.sub(columns, j))), Y, e.at(to, j))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def split_row(typingctx, x, start, y, evens, odds, columns):
    """y[evens + j] = x[start + 2j] and y[odds + j] = x[start + 2j + 1] for a row's `columns` numbers, then 0 up to
    whole vectors"""
    i64 = types.int64
    signature = types.void(x, i64, y, i64, i64, i64)

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        X, Y = (e.data(signature.args[i], arguments[i]) for i in (0, 2))
        _, start, _, evens, odds, columns = arguments
        pairs = builder.sdiv(builder.add(columns, I64(2 * e.lanes - 1)), I64(2 * e.lanes))
        with cgutils.for_range(builder, pairs, intp=I64) as loop:
            j = builder.mul(loop.index, I64(e.lanes))
            left = builder.sub(columns, builder.mul(j, I64(2)))
            halves = I64(0), I64(e.lanes)
            pair = [e.load(X, e.at(start, (j, I64(2)), half), e.first(builder.sub(left, half))) for half in halves]
            for to, kind in ((evens, 0), (odds, 1)):
                e.store(e.shuffle(*pair, range(kind, 2 * e.lanes, 2)), Y, e.at(to, j))
        return context.get_dummy_value()

    return signature, codegen


def each_vector(e, columns, step):
    """step(j, None) for vectors of columns from j on, the last of which ends with the last column and does some of them
    again; step(0, columns) where there are fewer columns than lanes, under a mask. Masked stores are slow on AMD's
    processors."""
    builder, L = e.builder, I64(e.lanes)
    with builder.if_else(builder.icmp_signed(">=", columns, L)) as (wide, narrow):
        with wide:
            last = builder.sub(columns, L)
            count = builder.sdiv(builder.add(columns, I64(e.lanes - 1)), L)
            with cgutils.for_range(builder, count, intp=I64) as loop:
                j = builder.mul(loop.index, L)
                step(builder.select(builder.icmp_signed("<", j, last), j, last), None)
        with narrow, builder.if_then(builder.icmp_signed(">", columns, I64(0))):
            step(I64(0), columns)
