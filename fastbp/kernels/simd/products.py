"""Matrix products whose vectors run along the columns: `outer`, also with SGD's update, by rows, and by panels."""

import contextlib

from numba.core import cgutils

from .emitter import I64, emits, known_when_compiled
from .tile import (
    accumulate,
    add_products,
    bodies,
    descend,
    each_two_vectors,
    most,
    numbers_at,
    numbers_of,
    one_after_the_other,
    smallest_that_holds,
    store,
    vectors_at,
)

VECTORS = 3  # columns of the largest tile of `outer`
FOUR = 4  # rows that are summed at once
PANEL_ROWS = 12  # of a tile of `panel_product` at most, also where one vector of columns would leave room for more

outer_rows = known_when_compiled(lambda context, dtype: most(context, VECTORS))  # of the largest tile


def along(e, x, k):
    """k·x, or x[k] where x is a table"""
    return e.number_at(x, k) if x.type.is_pointer else e.builder.mul(k, x)


def outer_tiles(e, A, B, in_a, in_b, K, in_c, sizes, ahead, begin, end, during=None):
    """The bodies of `outer` for sums over k < K of a[a0 + m·am + along(ak, k)] · b[b0 + along(bk, k) + n], in_a = (a0,
    am, ak), in_b = (b0, bk), which belong at c0 + m·cm + n, in_c = (c0, cm), for sizes = (rows, columns ≤ 3 vectors)

    `begin(places)` gives the sums' first values, for places (offset, mask). `end(sums, places, there)` does what is to
    be done with a row's sums; `there` is None, or whether it is a row of its own and not the last row again (see
    Emitter.indices). `during(offsets)`, where it is given, is done for the vectors of two rows at a time, with some of
    the sums' terms in between.

    There are six bodies, for two numbers of rows and three vectors, two or one, whose last is masked; three vectors
    that are not whole are two and one. One for each size would take much longer to compile."""
    b, (a0, am, ak), (b0, bk) = e.builder, in_a, in_b
    (c0, cm), (rows, columns) = in_c, sizes
    one, two, three = (I64(v * e.lanes) for v in (1, 2, 3))

    def body(MR, fewer, n, masks):
        lines, V = e.indices(MR, rows, MR - fewer), len(masks)
        starts = [e.at(a0, (m, am)) for m in lines]
        places = [(e.at(c0, (m, cm), n, I64(v * e.lanes)), masks[v]) for m in lines for v in range(V)]

        def operands(k):
            in_a, from_b = along(e, ak, k), e.at(b0, along(e, bk, k), n)
            in_row = [I64(v * e.lanes) for v in range(V)]
            held = [load() for load in vectors_at(e, B, in_row, from_b, masks=masks)]
            for v in range(VECTORS) if ahead and V == VECTORS else ():
                e.fetch(B, e.at(from_b, I64((VECTORS + v) * e.lanes)), write=False)
            return numbers_at(e, A, starts, in_a), [lambda value=value: value for value in held]

        def some_terms(i, sums):
            with b.if_then(b.icmp_signed("<", i, I64(MR // 2))):
                for m in (e.at((i, I64(2)), I64(j)) for j in range(2)):
                    during([e.at(c0, (m, cm), n, I64(v * e.lanes)) for v in range(V)])
            stretch = b.sdiv(e.at(K, I64(MR - 1)), I64(MR))
            first = b.mul(i, stretch)
            return accumulate(e, e.least(stretch, b.sub(K, first)), lambda k: operands(e.at(first, k)), sums)

        zeros = begin(places)
        sums = e.loop(I64(MR), zeros, some_terms) if during else accumulate(e, K, operands, zeros)
        for m in range(MR):
            there = None if m < fewer else b.icmp_signed("<", I64(m), rows)
            end(sums[m * V : (m + 1) * V], places[m * V : (m + 1) * V], there)

    def across(MR, fewer):
        with b.if_else(b.icmp_signed("==", columns, three)) as (whole, part):
            with whole:
                body(MR, fewer, I64(0), [None] * VECTORS)
            with part:
                some, wide = (b.icmp_signed(">", columns, count) for count in (one, two))
                with b.if_then(some):
                    body(MR, fewer, I64(0), [None, e.first(b.sub(columns, one))])
                with b.if_then(b.or_(b.not_(some), wide)):
                    n = b.select(wide, two, I64(0))
                    body(MR, fewer, n, [e.first(b.sub(columns, n))])

    large = most(e.context, VECTORS)
    smallest_that_holds(e, bodies(large, large // 2), rows, across)


@emits
def outer(e, a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + k·bk + n] for m < rows, n < columns ≤ 3 vectors

    and + c with `add`. ak and bk may be tables, int64 arrays: a[a0 + m·am + ak[k]] and b[b0 + bk[k] + n]."""
    # Whether the next tile's columns of b are asked for, lest it wait where b is not copied: smaller tiles have no time
    # for it
    ahead = not bk.type.is_pointer and e.registers == 32

    def begin(places):
        sums = e.when(add, [e.zero()] * len(places), lambda _: [e.load(c, *place) for place in places])
        for place, _ in places:  # the next tile's, where c is too large for the cache
            e.fetch(c, e.at(place, I64(VECTORS * e.lanes)))
        return sums

    def end(sums, places, there):
        store(e, sums, c, places)

    outer_tiles(e, a, b, (a0, am, ak), (b0, bk), K, (c0, cm), (rows, columns), ahead, begin, end)


@emits
def outer_descend(e, a, a0, am, ak, b, b0, bk, K, c, velocity, c0, cm, rows, columns, numbers):
    """`outer`, whose sums are a gradient that is not kept: SGD's update of c and velocity at its places (`descend`)"""
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
        with e.builder.if_then(there) if there else contextlib.nullcontext():
            for gradient, place in zip(sums, places, strict=True):
                descend(e, c, velocity, numbers, gradient, place)

    in_a, in_b, during = (a0, am, ak), (b0, bk), fetch if many else None
    outer_tiles(e, a, b, in_a, in_b, K, (c0, cm), (rows, columns), many, begin, end, during)


def summed_rows(e, a, starts, b, in_b, columns, begin, end):
    """end(n, mask, begin(n, mask) + Σ_k a[starts[k]] · b[in_b[k] + n]) for vectors from column n on"""
    builder, numbers = e.builder, [e.number_at(a, start) for start in starts]

    def step(n, mask):
        total = [begin(n, mask)]
        for number, start in zip(numbers, in_b, strict=True):
            total = add_products(e, [lambda number=number: number], vectors_at(e, b, [start], n, masks=[mask]), total)
        end(n, mask, *total)

    whole = builder.sdiv(columns, I64(e.lanes))
    done = builder.mul(whole, I64(e.lanes))
    with cgutils.for_range(builder, whole, intp=I64) as loop:
        step(builder.mul(loop.index, I64(e.lanes)), None)
    with builder.if_then(builder.icmp_signed("<", done, columns)):
        step(done, e.first(builder.sub(columns, done)))


@emits
def sum_rows(e, a, a0, ak, rows, b, b0, bk, c, c0, columns):
    """c[c0 + n] = Σ_{k<rows} a[a0 + k·ak] · b[b0 + k·bk + n] for n < columns, in `outer`'s order, by fours"""

    def body(R, first):
        lines, begun = [e.at(first, I64(k)) for k in range(R)], e.builder.icmp_signed(">", first, I64(0))
        starts, in_b = ([e.at(start, (k, apart)) for k in lines] for start, apart in ((a0, ak), (b0, bk)))

        def begin(n, mask):
            return e.builder.select(begun, e.load(c, e.at(c0, n), mask), e.zero())

        def end(n, mask, total):
            e.store(total, c, e.at(c0, n), mask)

        summed_rows(e, a, starts, b, in_b, columns, begin, end)

    one_after_the_other(e, (FOUR, 1), rows, body)


@emits
def sum_rows_descend(e, a, a0, ak, rows, b, b0, bk, c, velocity, c0, columns, numbers):
    """`outer_descend` for one row of c and up to four rows of b"""
    numbers = numbers_of(e, numbers)
    for R in range(FOUR + 1):
        with e.builder.if_then(e.builder.icmp_signed("==", rows, I64(R))):
            starts, in_b = ([e.at(start, (I64(k), apart)) for k in range(R)] for start, apart in ((a0, ak), (b0, bk)))

            def end(n, mask, total):
                descend(e, c, velocity, numbers, total, (e.at(c0, n), mask))

            summed_rows(e, a, starts, b, in_b, columns, lambda n, mask: e.zero(), end)


@emits
def pack(e, b, b0, bk, K, panel, p0, columns):
    """panel[p0 + k·3L + n] = b[b0 + k·bk + n] for k < K, n < columns ≤ 3L, three vectors of L numbers, and 0 beyond

    Numba's loop over 24 numbers takes them one by one: LLVM unrolls it to 32."""
    masks = [e.first(e.builder.sub(columns, I64(v * e.lanes))) for v in range(VECTORS)]
    with cgutils.for_range(e.builder, K, intp=I64) as loop:
        for v, mask in enumerate(masks):
            vector = e.load(b, e.at(b0, (loop.index, bk), I64(v * e.lanes)), mask)
            e.store(vector, panel, e.at(p0, (loop.index, I64(VECTORS * e.lanes)), I64(v * e.lanes)))


@emits
def panel_product(e, a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, rows, panels, add):
    """c[c0 + m·cm + p·cp + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + p·bp + k·bk + n] for m < rows, p < panels and n <
    PANEL, + c with `add`

    As `outer`, for any number of rows and of whole panels of columns: no masks."""

    def down(in_row, of_row):
        def body(MR, first):
            lines = [e.builder.add(first, I64(m)) for m in range(MR)]
            places = [e.at(c0, (line, cm), n) for line in lines for n in of_row]
            sums = e.when(add, [e.zero()] * len(places), lambda _: [e.load(c, place) for place in places])
            in_a = [e.at(a0, (line, am)) for line in lines]

            def operands(k):
                return numbers_at(e, a, in_a, (k, ak)), vectors_at(e, b, in_row, (k, bk))

            store(e, accumulate(e, K, operands, sums), c, [(place, None) for place in places])

        one_after_the_other(e, bodies(min(most(e.context, len(in_row)), PANEL_ROWS), 4, 2, 1), rows, body)

    each_two_vectors(e, panels, (b0, bp), cp, down)
