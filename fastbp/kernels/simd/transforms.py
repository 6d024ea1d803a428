"""Straight-line code for Winograd's transforms, the transpose of channels into lanes, the product in between."""

from llvmlite import ir
from numba.core import cgutils

from .emitter import I64, emits, known_when_compiled, registers
from .toom_cook import GRADIENTS, INPUTS, WEIGHTS

PANEL = 16  # columns of a panel of `panel_product`: two vectors of 8, or a whole number of any other processor's
# By registers, and vectors in a row, the rows of its tiles: 6 × 2 sums, 2 vectors of b, a number of a fill 15 of 16
HEIGHTS = {16: {2: (6, 4, 2, 1)}, 32: {2: (12, 4, 1), 1: (12, 4, 1)}}
LATENCY = 8  # sums that a processor needs for its multiply–adds not to wait for each other


def weighted_sum(e, weights, vectors):
    """Σ weights[k] · vectors[k], terms of weight 0 left out"""
    b, total = e.builder, None
    for weight, vector in sorted(zip(weights, vectors, strict=True), key=lambda term: abs(term[0]) != 1):
        if weight == 0:
            continue
        factor = ir.Constant(e.vector, [float(weight)] * e.lanes)
        if total is None:
            total = vector if weight == 1 else b.fmul(factor, vector)
        elif abs(weight) == 1:
            total = b.fadd(total, vector) if weight == 1 else b.fsub(total, vector)
        else:
            total = e.multiply_add(factor, vector, total)
    return total


def evaluate(e, matrix, vectors):
    """matrix · vectors. The rows of the points ±a are E ± O, with the even powers of a in E and the odd ones in O."""
    b, results = e.builder, [weighted_sum(e, matrix[0], vectors)]
    for plus, minus in zip(matrix[1:-1:2], matrix[2:-1:2], strict=True):
        even, odd = (weighted_sum(e, half, vectors) for half in ((plus + minus) / 2, (plus - minus) / 2))
        results += [b.fadd(even, odd), b.fsub(even, odd)]
    return [*results, weighted_sum(e, matrix[-1], vectors)]


def interpolate(e, matrix, vectors):
    """matrixᵀ · vectors: the vectors of the points ±a are added and subtracted first."""
    b, terms, rows = e.builder, [vectors[0]], [matrix[0]]
    for k in range(1, len(vectors) - 1, 2):
        terms += [b.fadd(*vectors[k : k + 2]), b.fsub(*vectors[k : k + 2])]
        rows += [(matrix[k] + matrix[k + 1]) / 2, (matrix[k] - matrix[k + 1]) / 2]
    rows, terms = [*rows, matrix[-1]], [*terms, vectors[-1]]
    return [weighted_sum(e, [row[i] for row in rows], terms) for i in range(matrix.shape[1])]


def both_axes(e, step, matrix, side, rows, read, write):
    """`step` applied to each of `side` columns of vectors read(i, k), then to each of the `rows` rows of that, for
    write(i, row)

    More than four columns or rows are a loop: they don't fit into the registers, and would take long to compile."""
    b = e.builder
    block = b.bitcast(cgutils.alloca_once(b, ir.ArrayType(e.vector, rows * side)), e.vector.as_pointer())

    def column(k):
        for i, vector in enumerate(step(e, matrix, [read(I64(i), k) for i in range(side)])):
            b.store(vector, b.gep(block, [e.at(k, I64(i * side))]))

    def row(i):
        first = b.mul(i, I64(side))
        write(i, step(e, matrix, [b.load(b.gep(block, [e.at(first, I64(k))])) for k in range(side)]))

    for count, body in ((side, column), (rows, row)):
        if count > 4:
            e.loop(I64(count), [], lambda i, _, body=body: body(i) or [])
            continue
        for i in range(count):
            body(I64(i))


def to_points(choices):
    """points[p0 + q·step + j] = (X d Xᵀ)_q, d_k = pixels[at + table[t0 + k] + j], for j < count·L and q < n²

    X = choices[m] has n rows; d is a square of as many vectors as X has columns, each at its own offset."""

    @emits
    def transform(e, m, pixels, at, table, t0, points, p0, step, count):
        builder = e.builder

        def body(matrix):
            n, side = matrix.shape
            with cgutils.for_range(builder, count, intp=I64) as loop:
                j = builder.mul(loop.index, I64(e.lanes))

                def read(i, k, j=j):
                    return e.load(pixels, e.at(at, e.number_at(table, e.at(t0, (i, I64(side)), k)), j))

                def write(i, row, j=j):
                    first = e.at(p0, (builder.mul(i, I64(n)), step), j)
                    for k, vector in enumerate(row):
                        e.store(vector, points, e.at(first, (I64(k), step)))

                both_axes(e, evaluate, matrix, side, n, read, write)

        for size, matrix in choices.items():
            with builder.if_then(builder.icmp_signed("==", m, I64(size))):
                body(matrix)

    return transform


def from_points(choices):
    """pixels[at + table[t0 + k] + j] += (Xᵀ d X)_k, d_q = points[p0 + q·step + j]: the adjoint of `to_points`

    With two equal offsets, which only pixels that nobody reads have, one of the sums may be lost."""

    @emits
    def transform(e, m, points, p0, step, pixels, at, table, t0, count):
        builder = e.builder

        def body(matrix):
            n, side = matrix.shape
            with cgutils.for_range(builder, count, intp=I64) as loop:
                j = builder.mul(loop.index, I64(e.lanes))

                def read(i, k, j=j):
                    return e.load(points, e.at(p0, (e.at((i, I64(n)), k), step), j))

                def write(i, row, j=j):
                    first = e.at(t0, (i, I64(side)))
                    for k, vector in enumerate(row):
                        where = e.at(at, e.number_at(table, e.at(first, I64(k))), j)
                        e.store(builder.fadd(e.load(pixels, where), vector), pixels, where)

                both_axes(e, interpolate, matrix, n, side, read, write)

        for size, matrix in choices.items():
            with builder.if_then(builder.icmp_signed("==", m, I64(size))):
                body(matrix)

    return transform


image_to_points, map_to_points, filter_to_points = to_points(INPUTS), to_points(GRADIENTS), to_points(WEIGHTS)
points_to_image, points_to_map, points_to_filter = from_points(INPUTS), from_points(GRADIENTS), from_points(WEIGHTS)


@emits
def transpose(e, source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + j·ts + i] = source[s0 + i·ss + j] for i < rows ≤ L, j < columns ≤ L, by log L rounds of exchanges"""
    builder = e.builder
    L = e.lanes

    def first_if(i, count, across):
        """The mask of the first `across` lanes in the rows before `count`, of none in the others"""
        return e.first(builder.select(builder.icmp_signed("<", I64(i), count), across, I64(0)))

    def body(whole):
        def vector(i):
            return e.load(source, e.at(s0, (I64(i), ss)), None if whole else first_if(i, rows, columns))

        vectors = [vector(i) for i in range(L)]
        half = L // 2
        while half:  # the squares of `half` rows and lanes off the diagonal change places
            low = [lane if not lane & half else L + lane - half for lane in range(L)]
            high = [lane + half if not lane & half else L + lane for lane in range(L)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), L), order) for order in (low, high))
            for i in range(L):
                if not i & half:
                    pair = vectors[i], vectors[i + half]
                    vectors[i] = builder.shuffle_vector(*pair, low)
                    vectors[i + half] = builder.shuffle_vector(*pair, high)
            half //= 2
        for j, vector in enumerate(vectors):
            e.store(vector, target, e.at(t0, (I64(j), ts)), None if whole else first_if(j, columns, rows))

    whole = builder.and_(*(builder.icmp_signed("==", count, I64(L)) for count in (rows, columns)))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            body(True)
        with otherwise:
            body(False)


@emits
def panel_product(e, a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, rows, panels, add):
    """c[c0 + m·cm + p·cp + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + p·bp + k·bk + n] for m < rows, p < panels and n <
    PANEL, + c with `add`

    As `outer`, for any number of rows and of whole panels of columns: no masks."""
    builder = e.builder

    def down(NV, in_row, of_row):
        done = I64(0)
        for MR in HEIGHTS[e.registers][NV]:
            tiles = builder.sdiv(builder.sub(rows, done), I64(MR))
            with cgutils.for_range(builder, tiles, intp=I64) as loop:
                first = e.at(done, (loop.index, I64(MR)))
                lines = [builder.add(first, I64(m)) for m in range(MR)]
                places = [e.at(c0, (line, cm), n) for line in lines for n in of_row]
                zeros = [e.zero()] * len(places)
                sums = e.when(add, zeros, lambda _, places=places: [e.load(c, place) for place in places])
                in_a = [e.at(a0, (line, am)) for line in lines]

                def along_a(k, in_a=in_a):
                    return [e.at(start, (k, ak)) for start in in_a]

                for total, place in zip(products(e, a, along_a, b, in_row, bk, K, sums), places, strict=True):
                    e.store(total, c, place)
            done = e.at(done, (tiles, I64(MR)))

    each_row_of_vectors(e, panels, (b0, bp), cp, down)


# By registers and vectors, the taps of a tile
TAPS = {16: {2: (6, 5, 4, 3, 1)}, 32: {2: (8, 7, 5, 3, 1), 1: (8, 5, 3, 1)}}
most_taps = known_when_compiled(lambda context, dtype: TAPS[registers(context)][2][0])


@emits
def add_tap_products(e, a, a0, width, b, bk, bp, rows, columns, c, c0, cm, taps, panels):
    """c[c0 + q·cm + f] += Σ_{i<rows, j<columns} a[a0 + q + i·width + j] · b[p·bp + (i·columns + j)·bk + l] for q <
    taps, where f = p·PANEL + l, p < panels, l < PANEL: the gradients of neighbouring taps, with filters in the lanes.
    taps ≤ most_taps"""
    builder = e.builder

    def down(NV, in_row, of_row):
        heights = TAPS[e.registers][NV]
        for MR, fewer in zip(heights, (*heights[1:], 0), strict=True):
            fits = [builder.icmp_signed(sign, taps, I64(bound)) for sign, bound in (("<=", MR), (">", fewer))]
            with builder.if_then(builder.and_(*fits)):
                lines = e.indices(MR, taps, MR - fewer)

                def row(i, sums, lines=lines):
                    start = e.at(a0, (i, width))
                    first = e.at((builder.mul(i, columns), bk))
                    places = [e.at(first, place) for place in in_row]

                    def along_a(j):
                        return [e.at(start, j, q) for q in lines]

                    return products(e, a, along_a, b, places, bk, columns, sums)

                sums = e.loop(rows, [e.zero()] * (MR * NV), row)
                places = [e.at(c0, (line, cm), n) for line in lines for n in of_row]
                before = [e.load(c, place) for place in places]
                for total, place, value in zip(sums, places, before, strict=True):
                    e.store(e.add(total, value), c, place)

    each_row_of_vectors(e, panels, (I64(0), bp), I64(PANEL), down)


def products(e, A, along_a, B, in_row, bk, K, sums):
    """sums[m, v] + Σ_k A[along_a(k)[m]] · B[in_row[v] + k·bk], a vector for each m and v"""

    def step(k, sums):
        vectors = [e.load(B, e.at(n, (k, bk))) for n in in_row]
        sums, results = iter(sums), []
        for place in along_a(k):
            number = e.repeat(e.number_at(A, place))
            results += [e.multiply_add(number, vector, next(sums)) for vector in vectors]
        return results

    return e.loop(K, sums, step)


def each_row_of_vectors(e, panels, in_b, cp, down):
    """down(NV, in_row, of_row) for two vectors of the panels' columns at a time, and for one that is left; in_b = (b0,
    bp), in_row and of_row say where the vectors lie in b and from the beginning of a row of c"""
    builder, each, (b0, bp) = e.builder, PANEL // e.lanes, in_b
    count = builder.mul(panels, I64(each))

    def some(first, NV):
        places = [builder.add(first, I64(v)) for v in range(NV)]
        in_row, of_row = (
            [e.at((builder.sdiv(v, I64(each)), apart), (builder.srem(v, I64(each)), I64(e.lanes))) for v in places]
            for apart in (bp, cp)
        )
        down(NV, [e.at(b0, place) for place in in_row], of_row)

    with cgutils.for_range(builder, builder.sdiv(count, I64(2)), intp=I64) as pair:
        some(builder.mul(pair.index, I64(2)), 2)
    if each == 1:
        with builder.if_then(builder.icmp_signed("==", builder.srem(count, I64(2)), I64(1))):
            some(builder.sub(count, I64(1)), 1)
