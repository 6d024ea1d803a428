"""Matrix products whose vectors run along the sums: `dot`, for rows of a and rows of b as they lie in memory."""

import math

from llvmlite import ir

from .emitter import I32, I64, emits, known_when_compiled
from .tile import bodies, most, that_hold

FOUR = 4  # vectors whose sums across the lanes are taken together


def square(context) -> tuple[int, int]:
    """(rows, columns) of the largest tile, which has no vectors that run along: it is as square as can be"""
    rows = math.isqrt(most(context, 1))
    return rows, most(context, rows)


dot_rows = known_when_compiled(lambda context, dtype: square(context)[0])
dot_columns = known_when_compiled(lambda context, dtype: square(context)[1])


@emits
def dot(e, a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k] · b[b0 + n·bn + k] for m < rows and n < columns, + c with `add`

    bn may be a table, an int64 array, and b0 the place in it: b[bn[b0 + n] + k]. There are bodies for some rows and
    columns only: with fewer than eight sums the multiply–adds wait for each other, so one too many is nearly free."""
    builder = e.builder
    whole = builder.sdiv(K, I64(e.lanes))
    done = builder.mul(whole, I64(e.lanes))

    def body(MR, NC, fewer_rows, fewer_columns):
        along, across = e.indices(MR, rows, MR - fewer_rows), e.indices(NC, columns, NC - fewer_columns)
        in_a, starts = ([e.at(first, (m, apart)) for m in along] for first, apart in ((a0, am), (c0, cm)))
        in_b = [e.number_at(bn, e.at(b0, n)) if bn.type.is_pointer else e.at(b0, (n, bn)) for n in across]

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

    highest, widest = square(e.context)
    for MR, fewer_rows, high in that_hold(e, bodies(highest, 2, 1), rows):
        for NC, fewer_columns, wide in that_hold(e, bodies(widest, 4, 2), columns):
            with builder.if_then(builder.and_(high, wide)):
                body(MR, NC, fewer_rows, fewer_columns)
