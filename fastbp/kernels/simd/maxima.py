"""Vectors of 2×2 pooling windows, and the weight gradient that only the pooled pixels have."""

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, Emitter, emits, known_when_compiled, registers, vector_bytes
from .rows import each_vector


@emits
def pool_pairs(e, x, top, low, y, argmax, out, first, width, columns):
    """y[out + j] = the first maximum of x[top + 2j], x[top + 2j + 1], x[low + 2j], x[low + 2j + 1] for j < columns, and
    argmax[out + j] its number: first + 2j, first + 2j + 1, or `width` more. A NaN is a maximum. y is not x."""

    def step(j, columns_left):
        best, number, _ = first_maximum(e, x, (top, low), width, j, columns_left)
        store_maximum(e, best, y, number, argmax, (out, first, j), columns_left)

    each_vector(e, columns, step)


@emits
def pool_normalised(e, x, top, low, affine, y, chosen, argmax, out, first, width, columns):
    """`pool_pairs` of (x − middle) · scale + shift, affine = (middle, scale, shift), with max(0, maximum) in y[out + j]
    and the maximum's x in chosen[out + j]"""
    builder = e.builder
    middle, scale, shift = (e.repeat(number) for number in cgutils.unpack_tuple(builder, affine, 3))

    def step(j, columns_left):
        def normalised(pixels):
            return e.multiply_add(builder.fsub(pixels, middle), scale, shift)

        best, number, at_maximum = first_maximum(e, x, (top, low), width, j, columns_left, normalised)
        best = builder.select(builder.fcmp_ordered("<=", best, e.zero()), e.zero(), best)
        store_maximum(e, best, y, number, argmax, (out, first, j), columns_left)
        e.store(at_maximum, chosen, e.at(out, j), columns_left and e.first(columns_left))

    each_vector(e, columns, step)


def first_maximum(e, X, rows, width, j, left, function=None):
    """(the maxima of function(x), or of x, in the windows from column j on, their numbers in their windows, their x)

    Even and odd pixels of two vectors are shuffled apart; comparing and choosing is done for all lanes at once, where
    branches on random data would be mispredicted every second time."""
    builder, L = e.builder, e.lanes
    masks = (None, None)
    if left is not None:
        pixels = builder.mul(left, I64(2))
        masks = (e.first(pixels), e.first(builder.sub(pixels, I64(L))))
    candidates = []
    for row in rows:
        pair = [e.load(X, e.at(row, (j, I64(2)), I64(h * L)), mask) for h, mask in enumerate(masks)]
        candidates += [e.shuffle(*pair, range(start, 2 * L, 2)) for start in (0, 1)]
    return maximum(e, candidates, width, function)


def maximum(e, candidates, width, function=None):
    """(the maximum of function(x), or of x, over a window's four pixels x, its number in the window, its x)"""
    builder = e.builder
    steps = [I64(0), I64(1), width, builder.add(width, I64(1))]
    x = candidates[0]
    best, number = function(x) if function else x, e.repeat(I32(0))
    for candidate, step in zip(candidates[1:], steps[1:], strict=True):
        value = function(candidate) if function else candidate
        larger, nan = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
        take = builder.or_(larger, nan)
        best, x = builder.select(take, value, best), builder.select(take, candidate, x)
        number = builder.select(take, e.repeat(builder.trunc(step, I32)), number)
    return best, number, x


def store_maximum(e, best, Y, number, AT, places, left):
    """The maxima into Y, their numbers, counted from `first`, into AT; places = (out, first, j)"""
    builder, (out, first, j) = e.builder, places
    kind = number.type
    start = e.repeat(builder.trunc(e.at(first, (j, I64(2))), I32))
    number = builder.add(builder.add(number, start), ir.Constant(kind, list(range(0, 2 * e.lanes, 2))))
    put(e, best, number, Y, AT, e.at(out, j), left and e.first(left))


def put(e, value, number, Y, AT, where, mask):
    """The values into Y and their int32 numbers into AT, at the same place"""
    builder, kind = e.builder, number.type
    e.store(value, Y, where, mask)
    place = builder.bitcast(builder.gep(AT, [where]), kind.as_pointer())
    if mask is None:
        builder.store(number, place).align = 4
    else:
        function = ir.FunctionType(ir.VoidType(), [kind, place.type, I32, mask.type])
        store = cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.store.v{e.lanes}i32.p0")
        builder.call(store, [number, place, I32(4), mask])


def biased_and_cut(e, value, bias):
    """max(0, value + bias), NaN stays NaN"""
    value = e.add(value, bias)
    return e.builder.select(e.builder.fcmp_ordered("<=", value, e.zero()), e.zero(), value)


# Lanes of add_weighted_rows at most: patches of 5 or 7 pixels fill half of AVX-512's 16, which lie in two cache lines
SPARSE_LANES = 8
# By the processor's registers, the rows of its bodies; 7 is for 7×7 filters of one channel
SPARSE = {16: (3, 6, 7, 9, 12), 32: (6, 7, 9, 12, 15, 18)}
SPARSE_STEP = 3


def most_lanes(context, dtype):
    return min(SPARSE_LANES, vector_bytes(context) * 8 // dtype.bitwidth)


sparse_lanes = known_when_compiled(most_lanes)  # the numbers in a row of add_weighted_rows
sparse_rows = known_when_compiled(lambda context, dtype: SPARSE[registers(context)][-1])  # the most rows that it takes


@emits
def add_weighted_rows(e, numbers, places, first, count, x, offsets, r0, c, c0, to, rows):
    """c[c0 + to[r] + j] += Σ_s numbers[s] · x[places[s] + offsets[r] + j] for j < sparse_lanes, r0 ≤ r < r0 + rows

    with at most sparse_rows of them, and s running over `count` entries from `first` on; places may be int32 or int64.
    One vector of c for each row stays in a register while the sum runs. x and c must reach sparse_lanes − 1 numbers
    beyond the last place."""
    builder, e = e.builder, Emitter(e.context, e.builder, e.dtype, most_lanes(e.context, e.dtype))

    def body(R, least):
        lines = [e.at(r0, r) for r in e.indices(R, rows, R - least)]
        starts = [e.number_at(offsets, line) for line in lines]

        def step(i, sums):
            s = e.at(first, i)
            number, place = e.repeat(e.number_at(numbers, s)), builder.sext(e.number_at(places, s), I64)
            vectors = [e.load(x, e.at(place, start)) for start in starts]
            return [e.multiply_add(number, vector, total) for vector, total in zip(vectors, sums, strict=True)]

        sums = e.loop(count, [e.zero()] * R, step)
        targets = [e.at(c0, e.number_at(to, line)) for line in lines]
        before = [e.load(c, target) for target in targets]
        for total, target, value in zip(sums, targets, before, strict=True):
            e.store(e.add(total, value), c, target)

    bodies = SPARSE[e.registers]
    for low, R in zip((0, *bodies), bodies, strict=False):
        few, many = (builder.icmp_signed("<=", rows, I64(bound)) for bound in (low, R))
        with builder.if_then(builder.and_(many, builder.not_(few))):
            body(R, low + 1)
