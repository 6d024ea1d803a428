"""Tiles of a convolution, whose operands lie where tables say: so no geometry is special.

A convolution sums products of filters and pixels over its taps. `taps` says for each tap where it lies among the
filters and in the image, taps[2k] and taps[2k + 1]; `places` says for each output, or vector of outputs, from where in
the image on it is summed and where it belongs, places[2i] and places[2i + 1]. For each tap the filters lie in a row, as
vectors are loaded. The lanes are pixels or channels, whichever fill them better.
"""

from numba.core import cgutils

from .emitter import I64, emits, known_when_compiled
from .tile import accumulate, bodies, most, numbers_at, smallest_that_holds, vectors_at

PIXEL_VECTORS = 3  # of pixels, beside each other in a tile
SMALLER_ROWS = 6, 4, 2  # of filters in the smaller tiles
# Vectors of channels in a tile, and the most rows of pixels: the offsets of more don't fit the registers for addresses
CHANNELS = {32: ((4, 6), (2, 8), (1, 8)), 16: ((2, 6), (1, 8))}

pixel_rows = known_when_compiled(lambda context, dtype: most(context, PIXEL_VECTORS))  # of the largest tile


def pair(e, table, i):
    """table[2i], table[2i + 1]"""
    place = e.at((i, I64(2)))
    return e.number_at(table, place), e.number_at(table, e.at(place, I64(1)))


def lines_of(e, first, size, count):
    """first, first + 1, … up to `size` of them, none beyond count − 1: that one is repeated"""
    return [e.least(e.at(first, I64(i)), e.builder.sub(count, I64(1))) for i in range(size)]


@emits
def pixels_in_lanes(e, w, w0, x, taps, K, bias, places, count, y, y0, ym, rows):
    """y[y0 + m·ym + to + l] = bias[w0 + m] + Σ_{k<K} w[w0 + m + taps[2k]] · x[from + l + taps[2k + 1]]

    for m < rows ≤ pixel_rows, l < lanes, and (from, to) = (places[2v], places[2v + 1]), v < count. w and bias must
    reach pixel_rows numbers from w0 on. Vectors of y may overlap, if what they have in common is equal."""
    b = e.builder

    def body(MR, _):
        with cgutils.for_range(b, tiles(e, count, PIXEL_VECTORS), intp=I64) as loop:
            lines = lines_of(e, b.mul(loop.index, I64(PIXEL_VECTORS)), PIXEL_VECTORS, count)
            starts, ends = zip(*(pair(e, places, line) for line in lines), strict=True)
            numbers = [I64(m) for m in range(MR)]

            def operands(k):
                in_w, in_x = pair(e, taps, k)
                return numbers_at(e, w, numbers, e.at(w0, in_w)), vectors_at(e, x, starts, in_x)

            first = [e.repeat(number()) for number in numbers_at(e, bias, numbers, w0)]
            sums = accumulate(e, K, operands, [value for value in first for _ in lines])
            # The rows beyond the last are stored to its place, before it
            for m in reversed(range(MR)):
                row = e.at(y0, (e.least(numbers[m], b.sub(rows, I64(1))), ym))
                for total, end in zip(sums[m * PIXEL_VECTORS :], ends, strict=False):
                    e.store(total, y, e.at(row, end))

    smallest_that_holds(e, bodies(most(e.context, PIXEL_VECTORS), *SMALLER_ROWS), rows, body)


@emits
def channels_in_lanes(e, x, places, count, taps, K, w, first, along, y, vectors):
    """y[to + l] = first[along·to + l] + Σ_{k<K} x[from + taps[2k + 1]] · w[taps[2k] + l]

    for l < vectors·lanes and (from, to) = (places[2m], places[2m + 1]), m < count; `along` is 1 where `first` is y."""
    b = e.builder

    def across(V, most_rows, l0):
        across_lanes = [e.at(l0, I64(v * e.lanes)) for v in range(V)]

        def rows(MR, start):
            lines = lines_of(e, start, MR, count)
            starts, ends = zip(*(pair(e, places, line) for line in lines), strict=True)
            ends = [e.at(end, lane) for end in ends for lane in across_lanes]
            froms = [e.at((pair(e, places, line)[1], along), lane) for line in lines for lane in across_lanes]

            def operands(k):
                in_w, in_x = pair(e, taps, k)
                return numbers_at(e, x, starts, in_x), vectors_at(e, w, across_lanes, in_w)

            sums = accumulate(e, K, operands, [e.load(first, place) for place in froms])
            for total, end in zip(sums, ends, strict=True):
                e.store(total, y, end)

        whole = b.sdiv(count, I64(most_rows))
        with cgutils.for_range(b, whole, intp=I64) as loop:
            rows(most_rows, b.mul(loop.index, I64(most_rows)))
        done = b.mul(whole, I64(most_rows))
        smallest_that_holds(e, bodies(most_rows, most_rows // 2), b.sub(count, done), lambda MR, _: rows(MR, done))

    done = I64(0)
    for V, most_rows in CHANNELS[e.registers]:
        groups = b.sdiv(b.sub(vectors, done), I64(V))
        with cgutils.for_range(b, groups, intp=I64) as loop:
            across(V, most_rows, b.mul(e.at(done, (loop.index, I64(V))), I64(e.lanes)))
        done = e.at(done, (groups, I64(V)))


def tiles(e, count, size):
    """How many tiles of that size hold `count`."""
    return e.builder.sdiv(e.builder.add(count, I64(size - 1)), I64(size))
