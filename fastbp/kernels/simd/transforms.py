"""Straight-line code for Winograd's transforms, and the transpose that puts channels into lanes."""

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .emitter import I64, emits
from .toom_cook import GRADIENTS, INPUTS, WEIGHTS


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
    return e.zero() if total is None else total


def paired(matrix):
    """The rows of a matrix, as ((i, j), …) and (i, …): pairs that differ at most in signs, and the others

    Those of the points ±a are E ± O, with the even powers of a in E and the odd ones in O."""
    pairs, single, left = [], [], [*range(len(matrix))]
    while left:
        i = left.pop(0)
        j = next((j for j in left if (abs(matrix[i]) == abs(matrix[j])).all()), None)
        if j is None:
            single.append(i)
        else:
            left.remove(j)
            pairs.append((i, j))
    return pairs, single


def halves(matrix, i, j):
    """Half the sum and half the difference of two rows"""
    return (matrix[i] + matrix[j]) / 2, (matrix[i] - matrix[j]) / 2


def evaluate(e, matrix, vectors):
    """matrix · vectors. What two rows have in common is summed once."""
    b, (pairs, single), results = e.builder, paired(matrix), [None] * len(matrix)
    for i in single:
        results[i] = weighted_sum(e, matrix[i], vectors)
    for i, j in pairs:
        even, odd = (weighted_sum(e, half, vectors) for half in halves(matrix, i, j))
        results[i], results[j] = b.fadd(even, odd), b.fsub(even, odd)
    return results


def interpolate(e, matrix, vectors):
    """matrixᵀ · vectors: those of two rows that differ in signs are added and subtracted first."""
    b, (pairs, single) = e.builder, paired(matrix)
    rows, terms = [matrix[i] for i in single], [vectors[i] for i in single]
    for i, j in pairs:
        rows += halves(matrix, i, j)
        terms += [b.fadd(vectors[i], vectors[j]), b.fsub(vectors[i], vectors[j])]
    return [weighted_sum(e, [row[k] for row in rows], terms) for k in range(matrix.shape[1])]


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


def for_tile(e, tile, choices, body):
    """body(choices[tile]), for a tile (m, r, s) that is known at run time; tiles of the same matrix share the code"""
    b, groups = e.builder, []
    given = [b.extract_value(tile, k) for k in range(3)]
    for each, matrix in choices.items():
        same = next((tiles for known, tiles in groups if np.array_equal(known, matrix)), None)
        if same is None:
            groups.append((matrix, [each]))
        else:
            same.append(each)
    for matrix, tiles in groups:
        condition = None
        for each in tiles:
            equal = [b.icmp_signed("==", value, I64(number)) for value, number in zip(given, each, strict=True)]
            found = b.and_(b.and_(*equal[:2]), equal[2])
            condition = found if condition is None else b.or_(condition, found)
        with b.if_then(condition):
            body(matrix)


def to_points(choices):
    """points[p0 + q·step + j] = (X d Xᵀ)_q, d_k = pixels[at + table[t0 + k] + j], for j < count·L and q < n²

    X = choices[tile] has n rows; d is a square of as many vectors as X has columns, each at its own offset."""

    @emits
    def transform(e, tile, pixels, at, table, t0, points, p0, step, count):
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

        for_tile(e, tile, choices, body)

    return transform


def transform_back(e, tile, choices, points, p0, step, table, t0, count, put):
    """put(j, offset, vector) for all (Xᵀ d X)_k, d_q = points[p0 + q·step + j] for j < count·L, offset = table[t0 + k]:
    the adjoint of `to_points`, X = choices[tile]"""
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
                    put(j, e.number_at(table, e.at(first, I64(k))), vector)

            both_axes(e, interpolate, matrix, n, side, read, write)

    for_tile(e, tile, choices, body)


@emits
def points_to_image(e, tile, points, p0, step, pixels, at, table, t0, count):
    """pixels[at + table[t0 + k] + j] += (B d Bᵀ)_k, d_q = points[p0 + q·step + j], for j < count·L: see transform_back

    With two equal offsets, which only pixels that nobody reads have, one of the sums may be lost."""

    def put(j, offset, vector):
        where = e.at(at, offset, j)
        e.store(e.builder.fadd(e.load(pixels, where), vector), pixels, where)

    transform_back(e, tile, INPUTS, points, p0, step, table, t0, count, put)


def stored_from_points(choices):
    """pixels[at + table[t0 + k] + j] = bias[j] + (Xᵀ d X)_k, for j < count·L: see transform_back"""

    @emits
    def transform(e, tile, points, p0, step, pixels, at, table, t0, count, bias):
        def put(j, offset, vector):
            e.store(e.builder.fadd(e.load(bias, j), vector), pixels, e.at(at, offset, j))

        transform_back(e, tile, choices, points, p0, step, table, t0, count, put)

    return transform


image_to_points, map_to_points, filter_to_points = to_points(INPUTS), to_points(GRADIENTS), to_points(WEIGHTS)
points_to_map, points_to_filter = stored_from_points(GRADIENTS), stored_from_points(WEIGHTS)


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
