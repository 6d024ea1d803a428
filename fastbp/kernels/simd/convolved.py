"""Tiles of convolutions: with bias and pooling in their epilogue, and of the weights' gradients."""

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, Emitter, emits, known_when_compiled, vector_bytes
from .maxima import maximum, put
from .tile import (
    PANEL,
    accumulate,
    add_to,
    bodies,
    each_two_vectors,
    most,
    numbers_at,
    overlapping,
    smallest_that_holds,
    vectors_at,
)

# -- with bias and pooling ---------------------------------------------------------------------------------------------
#
# A window's four pixels stay in registers until one is left. Their sums lie in the same lane of four vectors, so the
# maximum needs no shuffle, and nothing is written but the maxima and their numbers. Lanes are filters or windows, two
# ways to fill vectors: 16 filters, or a row of 14 windows.

WINDOWS = 5, 4, 2, 1  # of the smaller tiles; 5 are a row of LeNet's second pooling
PIXELS = 4  # of a window

pixel_filters = known_when_compiled(lambda context, dtype: most(context, PIXELS))  # of the largest tile


def pooled(e, sums, width, start, bias, arrays, where, mask=None):
    """The epilogue of a window's four pixels: bias + the first maximum, and its number from `start` on"""
    best, number, _ = maximum(e, sums, width)
    put(e, e.add(best, bias), e.builder.add(number, start), *arrays, where, mask)


@emits
def windows_by_filters(e, a, a0, width, ak, b, b0, bk, bp, K, bias, y, argmax, out, step, first, windows, panels):
    """y[out + j·step + f] = bias[f] + the maximum of s[0, 0], s[0, 1], s[1, 0], s[1, 1] for windows j < windows

    where s[r, q] = Σ_{k<K} a[a0 + r·width + 2j + q + ak[k]] · b[b0 + p·bp + k·bk + l], f = p·PANEL + l, p < panels, l <
    PANEL, and argmax likewise = first + 2j + r·width + q of the first maximum. A NaN is a maximum, and stays NaN.

    Tiles may overlap: what is computed twice is stored twice."""

    def down(in_row, of_row):
        V = len(in_row)

        def body(W, start):
            top = e.at(a0, (start, I64(2)))
            low = e.at(top, width)

            def operands(k):
                tap = e.number_at(ak, k)
                rows = [e.at(row, tap) for row in (top, low)]
                pixels = [e.at(row, I64(2 * j + q)) for j in range(W) for row in rows for q in range(2)]
                return numbers_at(e, a, pixels), vectors_at(e, b, in_row, (k, bk))

            sums = accumulate(e, K, operands, [e.zero()] * (PIXELS * W * V))
            for j in range(W):
                window = e.at(start, I64(j))
                number = e.repeat(e.builder.trunc(e.at(first, (window, I64(2))), I32))
                for v, place in enumerate(of_row):
                    four = [sums[(PIXELS * j + pixel) * V + v] for pixel in range(PIXELS)]
                    pooled(e, four, width, number, e.load(bias, place), (y, argmax), e.at(out, (window, step), place))

        sizes = bodies(most(e.context, PIXELS * V), *WINDOWS)
        overlapping(e, sizes, windows, PIXELS * V, body)

    each_two_vectors(e, panels, (b0, bp), I64(PANEL), down)


@emits
def windows_by_pixels(e, w, w0, wf, x, low, at, K, bias, y, argmax, out, step, first, width, windows, filters):
    """y[out + f·step + j] = bias[f] + the maximum of s[0, 0], s[0, 1], s[1, 0], s[1, 1] for f < filters, j <
    windows

    where s[r, q] = Σ_{k<K} w[w0 + f·wf + k] · x[at[q·K + k] + r·low + j], and argmax likewise = first + 2j + r·width +
    q of the first maximum. A NaN is a maximum, and stays NaN. x must reach a vector beyond the last window."""
    b, L = e.builder, I64(e.lanes)

    def body(MR, j, left):
        lines = e.indices(MR, filters, 1)
        in_w = [e.at(w0, (f, wf)) for f in lines]

        def operands(k):
            columns = [e.at(e.number_at(at, place), j) for place in (k, e.at(k, K))]
            return numbers_at(e, w, in_w, k), vectors_at(e, x, [*columns, *(e.at(column, low) for column in columns)])

        sums = accumulate(e, K, operands, [e.zero()] * (PIXELS * MR))
        start = e.repeat(b.trunc(e.at(first, (j, I64(2))), I32))
        start = b.add(start, ir.Constant(start.type, list(range(0, 2 * e.lanes, 2))))
        mask = e.first(left)
        for m, f in enumerate(lines):
            four, of_filter = sums[PIXELS * m : PIXELS * m + PIXELS], e.repeat(e.number_at(bias, f))
            pooled(e, four, width, start, of_filter, (y, argmax), e.at(out, (f, step), j), mask)

    def across(MR, _):
        vectors = b.sdiv(b.add(windows, I64(e.lanes - 1)), L)
        with cgutils.for_range(b, vectors, intp=I64) as loop:
            j = b.mul(loop.index, L)
            body(MR, j, b.sub(windows, j))

    smallest_that_holds(e, bodies(most(e.context, PIXELS), 4, 2), filters, across)


# -- gradients of the weights ------------------------------------------------------------------------------------------

# Lanes of add_weighted_rows at most: patches of 5 or 7 pixels fill half of AVX-512's 16, which lie in two cache lines
SPARSE_LANES = 8
# Rows of a tile, whose vectors they are: one number at a time goes with all of them. 7 is for 7×7 filters of one
# channel
SPARSE, SMALLER_SPARSE = 18, (15, 12, 9, 7, 6, 3)
SPARSE_STEP = 3


def most_lanes(context, dtype):
    return min(SPARSE_LANES, vector_bytes(context) * 8 // dtype.bitwidth)


def most_sparse(context, dtype):
    return min(most(context, 1), SPARSE)


sparse_lanes = known_when_compiled(most_lanes)  # the numbers in a row of add_weighted_rows
sparse_rows = known_when_compiled(most_sparse)  # the most rows that it takes


@emits
def add_weighted_rows(e, numbers, places, first, count, x, offsets, r0, c, c0, to, rows):
    """c[c0 + to[r] + j] += Σ_s numbers[s] · x[places[s] + offsets[r] + j] for j < sparse_lanes, r0 ≤ r < r0 + rows

    with at most sparse_rows of them, and s running over `count` entries from `first` on; places may be int32 or int64.
    x and c must reach sparse_lanes − 1 numbers beyond the last place."""
    e = Emitter(e.context, e.builder, e.dtype, most_lanes(e.context, e.dtype))

    def body(R, fewer):
        lines = [e.at(r0, r) for r in e.indices(R, rows, R - fewer - 1)]
        starts = [e.number_at(offsets, line) for line in lines]

        def operands(i):
            s = e.at(first, i)
            place = e.builder.sext(e.number_at(places, s), I64)
            return numbers_at(e, numbers, [s]), vectors_at(e, x, starts, place)

        sums = accumulate(e, count, operands, [e.zero()] * R)
        add_to(e, sums, c, [e.at(c0, e.number_at(to, line)) for line in lines])

    sizes = bodies(most_sparse(e.context, e.dtype), *SMALLER_SPARSE)
    smallest_that_holds(e, sizes, rows, body)
