"""Matrix products on register tiles, and the transpose. All arrays are flat.

The tiles are as fast as BLAS at large batches and faster at small ones (bench/NOTES.md), and don't start threads of
their own.

Each number of c is one sum over k whose order follows from K and the dtype alone, and for a bᵀ from a's rows and the
distance of c's (`turned`). So a product may be cut into columns of c, and a b and aᵀ b into rows, for threads or
otherwise, and no bit changes. Blocks, copies and the order of the tiles are free to follow M and N.
"""

from . import simd
from .buffers import LINE, empty
from .jit import kernel, separate_kernel

# Tuning figures: bench/NOTES.md
ALIASED = 1024  # bytes: rows that lie a multiple of this apart push each other out of the first cache
PACKED_FROM = 64  # rows of c from which copying the columns of b pays
ALIASED_FROM = 16  # and from which it pays where the rows of b are aliased
BLOCK = 24 << 10  # bytes of a panel of b, which stays in the first cache while a tile's rows pass it
FEW = 4  # rows of b that stay in registers while a row of c is written
GROUP = 16  # panels that are copied together, to read b and write c in long runs
# Rows of a from which a bᵀ is done as a b is, on panels of bᵀ, where a vector fills a cache line, as with AVX-512:
# there the sums across the lanes, with which a tile of `dot` ends, take long. Sums are LONG where they take little
# beside the rest, so that copying b pays from more rows on; rows of c with FEW_COLUMNS leave lanes idle
TURNED_FROM, LONG, LONG_FROM = 48, 768, 96
FEW_COLUMNS, SHORT = 16, 48
DOT_BLOCK = 1024  # numbers of a row for a dot product: a tile's 3 + 4 rows fit into the first cache
DOT_ROWS = 60  # rows of a that stay in the second cache


@kernel
def equal_blocks(K, most, step):
    """The size of the blocks that K is cut into, a multiple of `step`: as equal as can be, for a small block is slow"""
    blocks = max(1, (K + most - 1) // most)
    return max(step, ((K + blocks - 1) // blocks + step - 1) // step * step)


@kernel
def one_block(c):
    """The terms of a sum for which `outer_product` goes to each number of c once"""
    return BLOCK // (3 * simd.lanes(c) * c.itemsize)


@separate_kernel
def copy_panels(b, start, in_b, sizes, panels):
    """panels[p·K·3L + k·3L + n − p·3L] = b[start + k·bk + n·bn] for k < K and n < N, in_b = (bk, bn), one of the two 1,
    and sizes = (K, N): the columns of b in panels p of three vectors of L numbers, each as a tile reads it

    A kernel of its own, for both kinds of `outer_product` take 0.3 s less to compile without it."""
    (bk, bn), (K, N), L = in_b, sizes, simd.lanes(b)
    wide = 3 * L
    for n in range(0, N, wide):
        if bn == 1:
            simd.pack(b, start + n, bk, K, panels, n * K, min(wide, N - n))
            continue
        for i in range(n, min(n + wide, N), L):
            for k in range(0, K, L):
                to = n * K + k * wide + i - n
                simd.transpose(b, start + k + i * bn, bn, panels, to, wide, min(L, N - i), min(L, K - k))


@separate_kernel
def outer_product(a, in_a, b, in_b, c, cm, sizes, descent):
    """c[m·cm + n] = Σ_{k<K} a[m·am + k·ak] · b[k·bk + n·bn], in_a = (am, ak), in_b = (bk, bn), sizes = (M, N, K)

    The vectors run along n. So c = a b for in_a = (K, 1) and in_b = (N, 1), c = aᵀ b for in_a = (1, M), c = a bᵀ for
    in_b = (1, K). The columns of b that a tile reads for all rows of a are copied to a panel where that pays. The rows
    of a that a tile reads for all panels are copied too, where each of their numbers lies in a cache line of its own.

    Or, with descent = (velocity, numbers), SGD's update of c and of its velocity, where that sum is the gradient: see
    `descend` in simd/products.py. K is at most `one_block` then."""
    (M, N, K), (am, ak), (bk, bn), L = sizes, in_a, in_b, simd.lanes(c)
    if descent is not None:
        velocity, numbers = descent
        if bn == 1 and K <= FEW:
            for m in range(M):
                simd.sum_rows_descend(a, m * am, ak, K, b, 0, bk, c, velocity, m * cm, N, numbers)
            return
    elif bn == 1 and K > 0 and (M == 1 or K <= FEW):  # b is read once, or c written: by rows, as they lie in memory
        for m in range(M):
            simd.sum_rows(a, m * am, ak, K, b, 0, bk, c, m * cm, N)
        return
    wide, high, size = 3 * L, simd.outer_rows(c), equal_blocks(K, one_block(c), L)
    least = ALIASED_FROM if bk * b.itemsize % ALIASED == 0 else PACKED_FROM
    packed = least <= M or bn > 1
    gathered = packed and high > 4 and (am == 1 or am * a.itemsize % ALIASED == 0)
    group = GROUP * wide if packed else wide
    panels, lines = empty(group * size if packed else 0, c), empty(high * (size + L) if gathered else 0, c)
    for k in range(0, max(K, 1), size):
        count = min(size, K - k)
        for first in range(0, N, group):
            last = min(first + group, N)
            right, start_b, along_b, across_b = b, k * bk + first, bk, 1  # where bn is 1: else it is packed
            if packed:
                copy_panels(b, k * bk + first * bn, (bk, bn), (count, last - first), panels)
                right, start_b, along_b, across_b = panels, 0, wide, count
            for m in range(0, M, high):
                rows = min(high, M - m)
                left, start_a, down_a, along_a = a, m * am + k * ak, am, ak
                if gathered and am == 1:
                    for i in range(count):
                        simd.copy_row_and_zeros(a, start_a + i * ak, lines, i * high, rows)
                    left, start_a, along_a = lines, 0, high
                elif gathered:
                    for i in range(rows):
                        simd.copy_row_and_zeros(a, start_a + i * am, lines, i * (size + L), count)
                    left, start_a, down_a = lines, 0, size + L
                for n in range(first, last, wide):
                    from_b, to, there = start_b + (n - first) * across_b, m * cm + n, (rows, min(wide, N - n))
                    if descent is None:
                        simd.outer(
                            left, start_a, down_a, along_a, right, from_b, along_b, count, c, to, cm, *there, k > 0
                        )
                    else:
                        in_left, in_right = (left, start_a, down_a, along_a), (right, from_b, along_b)
                        simd.outer_descend(*in_left, *in_right, count, c, velocity, to, cm, *there, numbers)


@kernel
def turned(M, K, cm):
    """Is a bᵀ done as a b is? By the distance of c's rows, which is the same for all parts of the columns"""
    return (TURNED_FROM if K < LONG else LONG_FROM) <= M and (cm >= FEW_COLUMNS or K < SHORT)


@separate_kernel
def inner_product(a, b, c, sizes, cm):
    """c[m·cm + n] = Σ_{k<K} a[m, k] · b[n, k], sizes = (M, N, K): c = a bᵀ, the vectors run along k

    Rows of a that are aliased and taken in blocks are copied, to lie together."""
    (M, N, K), high, wide, L = sizes, simd.dot_rows(c), simd.dot_columns(c), simd.lanes(c)
    if L * c.itemsize == LINE and turned(M, K, cm):
        outer_product(a, (K, 1), b, (1, K), c, cm, sizes, None)
        return
    size = equal_blocks(K, DOT_BLOCK, L)
    group = max(N, 1) if high < M else wide  # few rows of a: read each row of b to its end
    packed = high < M and size < K and K * a.itemsize % ALIASED == 0
    panel = empty(min(M, DOT_ROWS) * size if packed else 0, a)
    for m0 in range(0, M, DOT_ROWS):
        m1 = min(m0 + DOT_ROWS, M)
        for first in range(0, N, group):
            for k in range(0, max(K, 1), size):
                count = min(size, K - k)
                source, start, am = a, m0 * K + k, K
                if packed:
                    for m in range(m1 - m0):
                        row, copy = a[start + m * K : start + m * K + count], panel[m * count : (m + 1) * count]
                        for j in range(count):
                            copy[j] = row[j]
                    source, start, am = panel, 0, count
                for n in range(first, min(first + group, N), wide):
                    for m in range(m0, m1, high):
                        in_a, rows, columns = start + (m - m0) * am, min(high, m1 - m), min(wide, N - n)
                        simd.dot(source, in_a, am, b, n * K + k, K, count, c, m * cm + n, cm, rows, columns, k > 0)


@separate_kernel
def add_inner_product_at(a, in_a, b, bn, c, sizes):
    """c[m, n] += Σ_{k<K} a[a0 + m·am + k] · b[bn[n] + k], sizes = (M, N, K), in_a = (a0, am), bn a table of offsets"""
    (a0, am), (M, N, K), high, wide = in_a, sizes, simd.dot_rows(c), simd.dot_columns(c)
    for n in range(0, N, wide):
        for m in range(0, M, high):
            simd.dot(a, a0 + m * am, am, b, n, bn, K, c, m * N + n, N, min(high, M - m), min(wide, N - n), True)


@separate_kernel
def transpose(source, ss, target, ts, rows, columns):
    """target[j·ts + i] = source[i·ss + j] for i < rows, j < columns, in blocks of whole cache lines on both sides"""
    L = simd.lanes(source)
    for i0 in range(0, rows, simd.PANEL):
        for j0 in range(0, columns, simd.PANEL):
            for i in range(i0, min(i0 + simd.PANEL, rows), L):
                for j in range(j0, min(j0 + simd.PANEL, columns), L):
                    simd.transpose(
                        source, i * ss + j, ss, target, j * ts + i, ts, min(L, rows - i), min(L, columns - j)
                    )
