"""Tiles of matrix products: `outer` and `dot`, with and without tables of offsets."""

import contextlib
import functools

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, emits, known_when_compiled, registers

VECTORS = 3  # columns of the largest tile of `outer`
OUTER = {16: (4, 2), 32: (8, 4)}  # by the processor's registers, the rows of its bodies
DOT = {16: ((3, 2, 1), (4, 2)), 32: ((4, 2, 1), (6, 4, 2))}  # rows and columns of the bodies of `dot`
FOUR = 4


outer_rows = known_when_compiled(lambda context, dtype: OUTER[registers(context)][0])  # of the largest tile
dot_rows = known_when_compiled(lambda context, dtype: DOT[registers(context)][0][0])
dot_columns = known_when_compiled(lambda context, dtype: DOT[registers(context)][1][0])


def emit_outer(e, A, B, in_a, in_b, K, in_c, rows, columns, ahead, begin, end, during=None):
    """The bodies of `outer` for sums over k < K of a[a0 + m·am + along_a(k)] · b[along_b(k) + n], in_a = (a0, am,
    along_a) and in_b = along_b, for m < rows and n < columns ≤ 3 vectors, which belong at c0 + m·cm + n, in_c = (c0,
    cm).

    `begin(places)` gives the sums' first values, for places (offset, mask). `end(sums, places, there)` does what is to
    be done with a row's sums; `there` is None, or whether it is a row of its own and not the last row again (see
    Emitter.indices). `during(offsets)`, where it is given, is done for the vectors of two rows at a time, with some of
    the sums' terms in between.

    There are six bodies, for two numbers of rows and three vectors, two or one, whose last is masked; three vectors
    that are not whole are two and one. One for each size would take much longer to compile."""
    builder, (a0, am, along_a), (c0, cm) = e.builder, in_a, in_c

    def body(MR, n, masks, fewer):
        lines = e.indices(MR, rows, MR - fewer)
        starts = [e.at(a0, (m, am)) for m in lines]
        places = [e.at(c0, (m, cm), n, I64(v * e.lanes)) for m in lines for v in range(len(masks))]
        places = list(zip(places, masks * MR, strict=True))

        def step(k, sums):
            in_row, from_b = along_a(k), e.at(in_b(k), n)
            vectors = [e.load(B, e.at(from_b, I64(v * e.lanes)), mask) for v, mask in enumerate(masks)]
            for v in range(VECTORS) if ahead and len(masks) == VECTORS else ():
                e.fetch(B, e.at(from_b, I64((VECTORS + v) * e.lanes)), write=False)
            sums, results = iter(sums), []
            for first in starts:  # one number at a time: there are no more registers
                number = e.repeat(e.number_at(A, e.at(first, in_row)))
                results += [e.multiply_add(number, vector, next(sums)) for vector in vectors]
            return results

        V = len(masks)

        def some_terms(i, sums):
            with builder.if_then(builder.icmp_signed("<", i, I64(MR // 2))):
                for m in (e.at((i, I64(2)), I64(j)) for j in range(2)):
                    during([e.at(c0, (m, cm), n, I64(v * e.lanes)) for v in range(V)])
            stretch = builder.sdiv(e.at(K, I64(MR - 1)), I64(MR))
            first = builder.mul(i, stretch)
            return e.loop(e.least(stretch, builder.sub(K, first)), sums, lambda k, sums: step(e.at(first, k), sums))

        sums = e.loop(I64(MR), begin(places), some_terms) if during else e.loop(K, begin(places), step)
        for m in range(MR):
            there = None if m < fewer else builder.icmp_signed("<", I64(m), rows)
            end(sums[m * V : (m + 1) * V], places[m * V : (m + 1) * V], there)

    def across(MR, fewer):
        one, two, three = (I64(v * e.lanes) for v in (1, 2, 3))
        with builder.if_else(builder.icmp_signed("==", columns, three)) as (whole, part):
            with whole:
                body(MR, I64(0), [None] * VECTORS, fewer)
            with part:
                some, most = (builder.icmp_signed(">", columns, count) for count in (one, two))
                with builder.if_then(some):
                    body(MR, I64(0), [None, e.first(builder.sub(columns, one))], fewer)
                with builder.if_then(builder.or_(builder.not_(some), most)):
                    n = builder.select(most, two, I64(0))
                    body(MR, n, [e.first(builder.sub(columns, n))], fewer)

    large, small = OUTER[e.registers]
    with builder.if_else(builder.icmp_signed(">", rows, I64(small))) as (many, few):
        with many:
            across(large, small)
        with few:
            across(small, 0)


def outer_tile(tables: bool):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + k·bk + n] for m < rows, n < columns ≤ 3 vectors

    and + c with `add`.

    With `tables`, ak and bk are int64 arrays of offsets: a[a0 + m·am + ak[k]] and b[b0 + bk[k] + n]."""

    @emits
    def tile(e, a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add):
        builder = e.builder
        # Whether the next tile's columns of b are asked for, lest it wait where b is not copied: smaller tiles have no
        # time for it
        ahead = not tables and e.registers == 32

        def along(x, k):
            return e.number_at(x, k) if tables else builder.mul(k, x)

        def begin(places):
            sums = e.when(add, [e.zero()] * len(places), lambda _: [e.load(c, *place) for place in places])
            # the next tile's, where c is too large for the cache
            for place, _ in places:
                e.fetch(c, e.at(place, I64(VECTORS * e.lanes)))
            return sums

        def end(sums, places, there):
            for total, place in zip(sums, places, strict=True):
                e.store(total, c, *place)

        in_a, in_b = (a0, am, lambda k: along(ak, k)), lambda k: e.at(b0, along(bk, k))
        emit_outer(e, a, b, in_a, in_b, K, (c0, cm), rows, columns, ahead, begin, end)

    return tile


def descend(e, C, V, numbers, gradient, place, mask):
    """SGD's update of a vector of c and one of the velocity, by sgd_update's operations

    numbers = (−lr, momentum, weight_decay, nesterov), the last a truth value"""
    down, momentum, weight_decay, nesterov = numbers
    value, velocity = e.load(C, place, mask), e.load(V, place, mask)
    gradient = e.multiply_add(weight_decay, value, gradient)
    velocity = e.multiply_add(momentum, velocity, gradient)
    change = e.builder.select(nesterov, e.multiply_add(momentum, velocity, gradient), velocity)
    e.store(velocity, V, place, mask)
    e.store(e.multiply_add(down, change, value), C, place, mask)


def numbers_of(e, numbers):
    """`descend`'s, from the tuple that a kernel passes"""
    *floats, nesterov = (e.builder.extract_value(numbers, i) for i in range(4))
    return [*map(e.repeat, floats), e.builder.fcmp_ordered(">", nesterov, ir.Constant(nesterov.type, 0))]


@emits
def outer_descend(e, a, a0, am, ak, b, b0, bk, K, c, velocity, c0, cm, rows, columns, numbers):
    """`outer`, whose sums are a gradient that is not kept: SGD's update of c and velocity at its places (`descend`)"""
    builder = e.builder
    numbers = numbers_of(e, numbers)
    # Whether c's and velocity's cache lines are asked for two rows at a time: the 48 of a large tile are slow at once
    many = e.registers == 32

    def fetch(offsets):
        for offset in offsets:
            e.fetch(c, offset)
            e.fetch(velocity, offset)

    def begin(places):
        if not many:
            fetch(offset for offset, _ in places)
        return [e.zero()] * len(places)

    def end(sums, places, there):
        with builder.if_then(there) if there else contextlib.nullcontext():
            for gradient, place in zip(sums, places, strict=True):
                descend(e, c, velocity, numbers, gradient, *place)

    in_a, in_b = (a0, am, lambda k: builder.mul(k, ak)), lambda k: e.at(b0, (k, bk))
    emit_outer(e, a, b, in_a, in_b, K, (c0, cm), rows, columns, many, begin, end, fetch if many else None)


@emits
def sum_rows_descend(e, a, a0, ak, rows, b, b0, bk, c, velocity, c0, columns, numbers):
    """The same for one row of c and up to four rows of b"""
    builder = e.builder
    numbers = numbers_of(e, numbers)

    for R in range(FOUR + 1):
        with builder.if_then(builder.icmp_signed("==", rows, I64(R))):
            factors = [e.repeat(e.number_at(a, e.at(a0, (I64(k), ak)))) for k in range(R)]
            in_b = [e.at(b0, (I64(k), bk)) for k in range(R)]

            def step(n, mask, factors=factors, in_b=in_b):
                total = e.zero()
                for start, factor in zip(in_b, factors, strict=True):
                    total = e.multiply_add(factor, e.load(b, e.at(start, n), mask), total)
                descend(e, c, velocity, numbers, total, e.at(c0, n), mask)

            whole = builder.sdiv(columns, I64(e.lanes))
            done = builder.mul(whole, I64(e.lanes))
            with cgutils.for_range(builder, whole, intp=I64) as loop:
                step(builder.mul(loop.index, I64(e.lanes)), None)
            with builder.if_then(builder.icmp_signed("<", done, columns)):
                step(done, e.first(builder.sub(columns, done)))


def dot_tile(tables: bool):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k] · b[b0 + n·bn + k] for m < rows and n < columns, + c with `add`

    With `tables`, bn is an int64 array of offsets and b0 the place in it: b[bn[b0 + n] + k]. There are bodies for some
    rows and columns only: with fewer than eight sums the multiply–adds wait for each other, so one too many is nearly
    free."""

    @emits
    def tile(e, a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add):
        builder = e.builder
        whole = builder.sdiv(K, I64(e.lanes))
        done = builder.mul(whole, I64(e.lanes))

        def body(MR, NC, fewer_rows, fewer_columns):
            along, across = e.indices(MR, rows, MR - fewer_rows), e.indices(NC, columns, NC - fewer_columns)
            in_a, starts = ([e.at(first, (m, apart)) for m in along] for first, apart in ((a0, am), (c0, cm)))
            in_b = [e.number_at(bn, e.at(b0, n)) if tables else e.at(b0, (n, bn)) for n in across]

            def step(k, sums, mask=None):
                values, totals = [e.load(a, e.at(first, k), mask) for first in in_a], list(sums)
                for n, first in enumerate(in_b):  # one vector at a time: there are no more registers
                    vector = e.load(b, e.at(first, k), mask)
                    for m, value in enumerate(values):
                        totals[m * NC + n] = e.multiply_add(value, vector, totals[m * NC + n])
                return totals

            sums = e.loop(whole, [e.zero()] * (MR * NC), lambda i, sums: step(builder.mul(i, I64(e.lanes)), sums))
            rest = builder.sub(K, done)
            sums = e.when(builder.icmp_signed(">", rest, I64(0)), sums, lambda sums: step(done, sums, e.first(rest)))
            fours = [range(n, min(n + FOUR, NC)) for n in range(0, NC, FOUR)]
            totals = [(m, group, e.sums(*(sums[m * NC + n] for n in group), *[e.zero()] * (FOUR - len(group))))
                      for m in range(MR) for group in fours]  # fmt: skip

            def put(values, places):
                """All are read before the first is written, for there may be equal places."""
                places = [builder.bitcast(builder.gep(c, [place]), value.type.as_pointer())
                          for value, place in zip(values, places, strict=True)]  # fmt: skip
                before = []
                for place in places:
                    before.append(builder.load(place))
                    before[-1].align = e.align
                for value, old, place in zip(values, before, places, strict=True):
                    value = e.add(value, builder.select(add, old, ir.Constant(value.type, None)))
                    builder.store(value, place).align = e.align

            with builder.if_else(builder.icmp_signed("==", columns, I64(NC))) as (whole_rows, numbers):
                with whole_rows:
                    put([e.shuffle(total, total, range(len(group))) for _, group, total in totals],
                        [e.at(starts[m], I64(group[0])) for m, group, _ in totals])  # fmt: skip
                with numbers:
                    single = [(m, n, total, n - group[0]) for m, group, total in totals for n in group]
                    put([builder.extract_element(total, I32(lane)) for _, _, total, lane in single],
                        [e.at(starts[m], across[n]) for m, n, _, _ in single])  # fmt: skip

        heights, widths = DOT[e.registers]
        for MR, fewer_rows in zip(heights, (*heights[1:], 0), strict=True):
            for NC, fewer_columns in zip(widths, (*widths[1:], 0), strict=True):
                fits = [builder.icmp_signed(sign, number, I64(bound))
                        for number, most, least in ((rows, MR, fewer_rows), (columns, NC, fewer_columns))
                        for sign, bound in (("<=", most), (">", least))]  # fmt: skip
                with builder.if_then(functools.reduce(builder.and_, fits)):
                    body(MR, NC, fewer_rows, fewer_columns)

    return tile


@emits
def pack(e, b, b0, bk, K, panel, p0, columns):
    """panel[p0 + k·3L + n] = b[b0 + k·bk + n] for k < K, n < columns ≤ 3L, three vectors of L numbers, and 0 beyond

    Numba's loop over 24 numbers takes them one by one: LLVM unrolls it to 32."""
    builder = e.builder
    masks = [e.first(builder.sub(columns, I64(v * e.lanes))) for v in range(VECTORS)]
    with cgutils.for_range(builder, K, intp=I64) as loop:
        for v, mask in enumerate(masks):
            vector = e.load(b, e.at(b0, (loop.index, bk), I64(v * e.lanes)), mask)
            e.store(vector, panel, e.at(p0, (loop.index, I64(VECTORS * e.lanes)), I64(v * e.lanes)))


@emits
def sum_rows(e, a, a0, ak, rows, b, b0, bk, c, c0, columns):
    """c[c0 + n] = Σ_{k<rows} a[a0 + k·ak] · b[b0 + k·bk + n] for n < columns, in `outer`'s order, by fours"""
    builder = e.builder
    whole = builder.sdiv(columns, I64(e.lanes))
    done = builder.mul(whole, I64(e.lanes))

    def body(first, R):
        lines = [e.at(first, I64(k)) for k in range(R)]
        numbers = [e.repeat(e.number_at(a, e.at(a0, (k, ak)))) for k in lines]
        in_b, begun = [e.at(b0, (k, bk)) for k in lines], builder.icmp_signed(">", first, I64(0))

        def step(n, mask):
            total = builder.select(begun, e.load(c, e.at(c0, n), mask), e.zero())
            for start, number in zip(in_b, numbers, strict=True):
                total = e.multiply_add(number, e.load(b, e.at(start, n), mask), total)
            e.store(total, c, e.at(c0, n), mask)

        with cgutils.for_range(builder, whole, intp=I64) as loop:
            step(builder.mul(loop.index, I64(e.lanes)), None)
        with builder.if_then(builder.icmp_signed("<", done, columns)):
            step(done, e.first(builder.sub(columns, done)))

    fours = builder.sdiv(rows, I64(FOUR))
    taken = builder.mul(fours, I64(FOUR))
    with cgutils.for_range(builder, fours, intp=I64) as loop:
        body(builder.mul(loop.index, I64(FOUR)), FOUR)
    with cgutils.for_range(builder, builder.sub(rows, taken), intp=I64) as loop:
        body(e.at(taken, loop.index), 1)


outer, outer_at = outer_tile(tables=False), outer_tile(tables=True)
dot, dot_at = dot_tile(tables=False), dot_tile(tables=True)
