"""Convolution, bias, ReLU and 2×2 max pooling in one tile: a window's four pixels stay in registers until one is left.

The sums of a window's pixels lie in the same lane of four accumulators, so the maximum needs no shuffle and nothing is
written but the maxima and their numbers. Lanes are filters or windows, two ways to fill vectors: 16 filters, or a row
of 14 windows.
"""

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, emits, known_when_compiled, registers
from .maxima import biased_and_cut, maximum, put
from .transforms import LATENCY, PANEL, each_row_of_vectors, products

# By registers and vectors of filters: the windows of a tile
BY_FILTERS = {16: {2: (1,)}, 32: {2: (3, 2, 1), 1: (6, 5, 4, 1)}}
BY_PIXELS = {16: (3, 2, 1), 32: (6, 4, 2)}  # by registers: the filters of a tile

pixel_filters = known_when_compiled(lambda context, dtype: BY_PIXELS[registers(context)][0])  # of the largest tile


@emits
def windows_by_filters(e, a, a0, width, ak, b, b0, bk, bp, K, bias, y, argmax, out, step, first, windows, panels):
    """y[out + j·step + f] = max(0, bias[f] + the maximum of s[0, 0], s[0, 1], s[1, 0], s[1, 1]) for windows j <
    windows, where s[r, q] = Σ_{k<K} a[a0 + r·width + 2j + q + ak[k]] · b[b0 + p·bp + k·bk + l], f = p·PANEL + l, p <
    panels, l < PANEL, and argmax likewise = first + 2j + r·width + q of the first maximum. A NaN is a maximum, and
    stays NaN.

    Tiles may overlap: what is computed twice is stored twice. So there is one size for all, that with the least to
    do."""
    builder = e.builder

    def down(NV, in_row, of_row):
        def tile(W, start):
            body(W, NV, start, in_row, of_row)

        overlapping(e, windows, BY_FILTERS[e.registers][NV], 4 * NV, tile)

    def body(W, NV, start, in_row, of_row):
        top = e.at(a0, (start, I64(2)))
        low = e.at(top, width)

        def pixels(k):
            tap = e.number_at(ak, k)
            rows = [e.at(row, tap) for row in (top, low)]
            return [e.at(row, I64(2 * j + q)) for j in range(W) for row in rows for q in range(2)]

        sums = products(e, a, pixels, b, in_row, bk, K, [e.zero()] * (4 * W * NV))
        for j in range(W):
            window = e.at(start, I64(j))
            for v, place in enumerate(of_row):
                best, number, _ = maximum(e, [sums[(4 * j + pixel) * NV + v] for pixel in range(4)], width)
                number = builder.add(number, e.repeat(builder.trunc(e.at(first, (window, I64(2))), I32)))
                best = biased_and_cut(e, best, e.load(bias, place))
                put(e, best, number, y, argmax, e.at(out, (window, step), place), None)

    each_row_of_vectors(e, panels, (b0, bp), I64(PANEL), down)


def overlapping(e, count, sizes, cost, body):
    """body(size, start) for tiles of one size that together hold `count` things, the last of which ends with them: of
    the sizes, the largest first, that with the least to do. A tile of s things has s·cost sums."""
    b, best, chosen, choices = e.builder, I64(1 << 40), I64(0), []
    for size in sizes:
        tiles = b.sdiv(b.add(count, I64(size - 1)), I64(size))
        work = b.mul(tiles, I64(max(size * cost, LATENCY)))
        better = b.and_(b.icmp_signed("<", work, best), b.icmp_signed(">=", count, I64(size)))
        best, chosen = b.select(better, work, best), b.select(better, I64(size), chosen)
        choices.append((size, tiles))
    for size, tiles in choices:
        with b.if_then(b.icmp_signed("==", chosen, I64(size))):
            last = b.sub(count, I64(size))
            with cgutils.for_range(b, tiles, intp=I64) as loop:
                body(size, e.least(b.mul(loop.index, I64(size)), last))


@emits
def windows_by_pixels(e, w, w0, wf, x, low, at, K, bias, y, argmax, out, step, first, width, windows, filters):
    """y[out + f·step + j] = max(0, bias[f] + the maximum of s[0, 0], s[0, 1], s[1, 0], s[1, 1]) for f < filters, j <
    windows, where s[r, q] = Σ_{k<K} w[w0 + f·wf + k] · x[at[q·K + k] + r·low + j], and argmax likewise = first + 2j +
    r·width + q of the first maximum. A NaN is a maximum, and stays NaN. x must reach a vector beyond the last
    window."""
    builder = e.builder

    def body(MR, j, left):
        lines = e.indices(MR, filters, 1)
        in_w = [e.at(w0, (f, wf)) for f in lines]

        def taken(k, sums):
            columns = [e.at(e.number_at(at, place), j) for place in (k, e.at(k, K))]
            places = [e.at(column, *row) for row in ((), (low,)) for column in columns]
            results = list(sums)

            def multiply(number, f, vector, pixel):
                results[4 * f + pixel] = e.multiply_add(number, vector, results[4 * f + pixel])

            def number(f):
                return e.repeat(e.number_at(w, e.at(in_w[f], k)))

            if MR > 3:  # whichever is fewer stays in registers: the vectors, or the numbers
                vectors = [e.load(x, place) for place in places]
                for f in range(MR):
                    value = number(f)
                    for pixel, vector in enumerate(vectors):
                        multiply(value, f, vector, pixel)
                return results
            numbers = [number(f) for f in range(MR)]
            for pixel, place in enumerate(places):
                vector = e.load(x, place)
                for f, value in enumerate(numbers):
                    multiply(value, f, vector, pixel)
            return results

        sums = e.loop(K, [e.zero()] * (4 * MR), taken)
        start = e.repeat(builder.trunc(e.at(first, (j, I64(2))), I32))
        start = builder.add(start, ir.Constant(start.type, list(range(0, 2 * e.lanes, 2))))
        mask = e.first(left)
        for m, f in enumerate(lines):
            best, number, _ = maximum(e, sums[4 * m : 4 * m + 4], width)
            best = biased_and_cut(e, best, e.repeat(e.number_at(bias, f)))
            put(e, best, builder.add(number, start), y, argmax, e.at(out, (f, step), j), mask)

    heights, L = BY_PIXELS[e.registers], I64(e.lanes)
    for MR, fewer in zip(heights, (*heights[1:], 0), strict=True):
        fits = [builder.icmp_signed(sign, filters, I64(bound)) for sign, bound in (("<=", MR), (">", fewer))]
        vectors = builder.sdiv(builder.add(windows, I64(e.lanes - 1)), L)
        with builder.if_then(builder.and_(*fits)), cgutils.for_range(builder, vectors, intp=I64) as loop:
            j = builder.mul(loop.index, L)
            body(MR, j, builder.sub(windows, j))
