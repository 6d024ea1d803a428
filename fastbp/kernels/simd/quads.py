"""The transpose of four columns, or of four rows: what lies in fours is put together to vectors, and taken apart."""

from llvmlite import ir

from .emitter import I64, Emitter, emits, known_when_compiled, vector_bytes

FOUR = 4

# rows that are transposed at once: the numbers of a vector, four at least
rows_at_once = known_when_compiled(lambda context, dtype: max(FOUR, vector_bytes(context) * 8 // dtype.bitwidth))


def exchanged(e, vectors):
    """Four vectors of fours, whose numbers (vector g, four r, place c) go to (vector c, four r, place g)"""
    for half in (2, 1):
        low = [lane if not lane & half else e.lanes + lane - half for lane in range(e.lanes)]
        high = [lane + half if not lane & half else e.lanes + lane for lane in range(e.lanes)]
        for i in range(FOUR):
            if not i & half:
                a, b = vectors[i], vectors[i + half]
                vectors[i], vectors[i + half] = e.shuffle(a, b, low), e.shuffle(a, b, high)
    return vectors


def both(e, whole, rows, columns, body):
    """body(four, mask, some) where all is there, for which the last is None, and where it is not: an emitter for fours,
    the mask of row i's four, how many columns there are"""
    b, four = e.builder, Emitter(e.context, e.builder, e.dtype, FOUR)
    none = ir.Constant(ir.VectorType(ir.IntType(1), FOUR), [0] * FOUR)
    with b.if_else(whole) as (then, otherwise):
        with then:
            body(four, lambda i: None, None)
        with otherwise:
            some = four.first(columns)
            body(four, lambda i: b.select(b.icmp_signed("<", I64(i), rows), some, none), columns)


def wide(e):
    """An emitter for vectors of a whole number of fours"""
    return Emitter(e.context, e.builder, e.dtype, max(e.lanes, FOUR))


@emits
def to_columns(e, source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + j·ts + i] = source[s0 + i·ss + j] for i < rows ≤ rows_at_once, j < columns ≤ 4"""
    e, b = wide(e), e.builder
    whole = b.and_(b.icmp_signed("==", rows, I64(e.lanes)), b.icmp_signed("==", columns, I64(FOUR)))

    def body(four, mask, some):
        vectors = []
        for g in range(FOUR):
            fours = [four.load(source, e.at(s0, (I64(i), ss)), mask(i)) for i in range(g, e.lanes, FOUR)]
            while len(fours) > 1:  # neighbours together, until one vector holds all
                width = fours[0].type.count
                fours = [e.shuffle(x, y, range(2 * width)) for x, y in zip(fours[::2], fours[1::2], strict=True)]
            vectors += fours
        for j, vector in enumerate(exchanged(e, vectors)):
            to = e.at(t0, (I64(j), ts))
            if some is None:
                e.store(vector, target, to)
                continue
            with b.if_then(b.icmp_signed("<", I64(j), some)):
                e.store(vector, target, to, e.first(rows))

    both(e, whole, rows, columns, body)


@emits
def from_columns(e, source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + i·ts + j] = source[s0 + j·ss + i] for i < rows ≤ rows_at_once, j < columns ≤ 4"""
    e, b = wide(e), e.builder
    whole = b.and_(b.icmp_signed("==", rows, I64(e.lanes)), b.icmp_signed("==", columns, I64(FOUR)))

    def body(four, mask, some):
        vectors = []
        for j in range(FOUR):
            lanes = None if some is None else e.first(b.select(b.icmp_signed("<", I64(j), some), rows, I64(0)))
            vectors.append(e.load(source, e.at(s0, (I64(j), ss)), lanes))
        for g, vector in enumerate(exchanged(e, vectors)):
            for r in range(e.lanes // FOUR):
                i = FOUR * r + g
                part = e.shuffle(vector, vector, range(FOUR * r, FOUR * r + FOUR))
                four.store(part, target, e.at(t0, (I64(i), ts)), mask(i))

    both(e, whole, rows, columns, body)
