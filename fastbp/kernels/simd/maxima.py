"""Maxima of pooling windows, a vector of windows at a time."""

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, emits
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
def pool_row(e, x, at, starts, steps, begin, taps, y, argmax, out, corner, least, stride, columns):
    """y[out + j] = the first maximum of x[at + starts[t] + j] for begin ≤ t < begin + taps, j < columns

    and argmax[out + j] its number, corner + j·stride + steps[t]. A NaN is a maximum, the last one wins. Where all are
    −∞ the number is the first tap's, but at least `least`. x must reach a vector beyond each tap's first place, and its
    numbers outside the windows' image are −∞. steps and argmax are int32; y is not x."""
    b = e.builder
    kind, nothing = ir.VectorType(I32, e.lanes), e.repeat(ir.Constant(e.number, float("-inf")))
    apart = b.mul(ir.Constant(kind, list(range(e.lanes))), e.repeat(b.trunc(stride, I32)))

    def step(j, left):
        start = b.add(apart, e.repeat(b.trunc(e.at(corner, (j, stride)), I32)))
        low = e.repeat(b.trunc(least, I32))
        first = b.add(start, e.repeat(e.number_at(steps, begin)))
        first = b.select(b.icmp_signed("<", first, low), low, first)

        def tap(t, values):
            (best, number), t = values, e.at(t, begin)
            value = e.load(x, e.at(at, e.number_at(starts, t), j))
            take = b.or_(b.fcmp_ordered(">", value, best), b.fcmp_unordered("uno", value, value))
            here = b.add(start, e.repeat(e.number_at(steps, t)))
            return [b.select(take, value, best), b.select(take, here, number)]

        best, number = e.loop(taps, [nothing, first], tap)
        put(e, best, number, y, argmax, e.at(out, j), left and e.first(left))

    each_vector(e, columns, step)


@emits
def pool_normalised(e, x, top, low, affine, y, chosen, argmax, out, first, width, columns):
    """`pool_pairs` of (x − middle) · scale + shift, affine = (middle, scale, shift, least), with max(least, maximum) in
    y[out + j] and the maximum's x in chosen[out + j]"""
    builder = e.builder
    middle, scale, shift, least = (e.repeat(number) for number in cgutils.unpack_tuple(builder, affine, 4))

    def step(j, columns_left):
        def normalised(pixels):
            return e.multiply_add(builder.fsub(pixels, middle), scale, shift)

        best, number, at_maximum = first_maximum(e, x, (top, low), width, j, columns_left, normalised)
        best = builder.select(builder.fcmp_ordered("<=", best, least), least, best)
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
