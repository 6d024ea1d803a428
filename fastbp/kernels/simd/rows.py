"""Rows that are too short for the loops that LLVM makes of Numba's: 22 numbers are two vectors and six one by one."""

from numba.core import cgutils

from .emitter import I64, emits


@emits
def copy_row(e, x, start, y, to, columns, add):
    """y[to + j] = x[start + j] + add for j < columns, both numbered as they lie in memory; y is not x"""
    add = e.repeat(add)

    def step(j, left):
        mask = left and e.first(left)
        e.store(e.add(e.load(x, e.at(start, j), mask), add), y, e.at(to, j), mask)

    each_vector(e, columns, step)


@emits
def copy_row_and_zeros(e, x, start, y, to, columns):
    """y[to + j] = x[start + j] for j < columns, then 0 up to a whole number of vectors; y is not x"""
    builder = e.builder
    vectors = builder.sdiv(builder.add(columns, I64(e.lanes - 1)), I64(e.lanes))
    with cgutils.for_range(builder, vectors, intp=I64) as loop:
        j = builder.mul(loop.index, I64(e.lanes))
        e.store(e.load(x, e.at(start, j), e.first(builder.sub(columns, j))), y, e.at(to, j))


@emits
def split_row(e, x, start, y, evens, odds, columns, fill):
    """y[evens + j] = x[start + 2j], y[odds + j] = x[start + 2j + 1] for `columns` numbers, and `fill` up to whole
    vectors"""
    builder, fill = e.builder, e.repeat(fill)
    pairs = builder.sdiv(builder.add(columns, I64(2 * e.lanes - 1)), I64(2 * e.lanes))
    with cgutils.for_range(builder, pairs, intp=I64) as loop:
        j = builder.mul(loop.index, I64(e.lanes))
        left = builder.sub(columns, builder.mul(j, I64(2)))
        pair = []
        for half in (I64(0), I64(e.lanes)):
            mask = e.first(builder.sub(left, half))
            pair.append(builder.select(mask, e.load(x, e.at(start, (j, I64(2)), half), mask), fill))
        for to, kind in ((evens, 0), (odds, 1)):
            e.store(e.shuffle(*pair, range(kind, 2 * e.lanes, 2)), y, e.at(to, j))


@emits
def join_row(e, x, evens, odds, y, to, columns):
    """y[to + 2j] = x[evens + j], y[to + 2j + 1] = x[odds + j] for `columns` numbers

    x must reach a vector beyond the last number's place."""
    builder, L = e.builder, I64(e.lanes)
    pairs = builder.sdiv(builder.add(columns, I64(2 * e.lanes - 1)), I64(2 * e.lanes))
    with cgutils.for_range(builder, pairs, intp=I64) as loop:
        j = builder.mul(loop.index, L)
        pair = [e.load(x, e.at(start, j)) for start in (evens, odds)]
        store_joined(e, pair, y, (e.at(to, (j, I64(2))),), builder.sub(columns, builder.mul(j, I64(2))))


def store_joined(e, pair, y, places, left):
    """Two vectors' numbers in turn, two vectors of them, to y at each of the places; `left` of them, or all for None"""

    def both(masks):
        for half, mask in enumerate(masks):
            lanes = [i // 2 + half * e.lanes // 2 + i % 2 * e.lanes for i in range(e.lanes)]
            for place in places:
                e.store(e.shuffle(*pair, lanes), y, e.at(place, I64(half * e.lanes)), mask)

    if left is None:
        both((None, None))
        return
    with e.builder.if_else(e.builder.icmp_signed(">=", left, I64(2 * e.lanes))) as (whole, part):
        with whole:
            both((None, None))
        with part:
            both([e.first(e.builder.sub(left, I64(half * e.lanes))) for half in range(2)])


@emits
def copy_even(e, x, start, y, to, columns):
    """y[to + j] = x[start + 2j] for j < columns; y is not x"""
    builder = e.builder
    vectors = builder.sdiv(builder.add(columns, I64(e.lanes - 1)), I64(e.lanes))
    with cgutils.for_range(builder, vectors, intp=I64) as loop:
        j = builder.mul(loop.index, I64(e.lanes))
        left = builder.sub(columns, j)
        seen = builder.sub(builder.mul(left, I64(2)), I64(1))
        halves = I64(0), I64(e.lanes)
        pair = [e.load(x, e.at(start, (j, I64(2)), half), e.first(builder.sub(seen, half))) for half in halves]
        e.store(e.shuffle(*pair, range(0, 2 * e.lanes, 2)), y, e.at(to, j), e.first(left))


def each_vector(e, columns, step):
    """step(j, None) for vectors of columns from j on, of which the last one ends with the last column and does some of
    them again; step(0, columns), under a mask, where there are fewer columns than lanes. Masked stores are slow on
    AMD's processors."""
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
