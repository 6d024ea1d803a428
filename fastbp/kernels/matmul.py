"""Matrix products on register tiles, and the transpose. All arrays are flat.

Beside BLAS (NumPy's OpenBLAS, one thread, Zen 3, float32, 80 to 90 GFlop/s at a batch of 128) the tiles are 0.9 to 1.1 times as
fast at a batch of 128, 1.1 to 1.3 times at 32, 1.3 to 2.7 times at 4, and even at 1, where both wait for memory. They don't
start threads of their own.

Each number of c is one sum over k whose order follows from K and the dtype alone. So a product may be cut into rows or
columns of c, for threads or otherwise, and no bit changes. Blocks, copies and the order of the tiles are free to follow M and N.
"""

import numpy as np

from . import simd
from .jit import kernel, separate_kernel

ALIASED = 1024  # bytes: rows that lie a multiple of this apart share few places of the first cache and push each other out
PACKED_FROM, ALIASED_FROM = 64, 16  # rows of c from which copying the columns of b pays, and where the rows of b are aliased
BLOCK = 256  # rows of b that a tile takes at a time: 24 KB for its 96 bytes of each stay in the first cache
DOT_BLOCK, DOT_ROWS = 1024, 60  # numbers of a row for a dot product, 3 + 4 rows in the first cache; rows of a in the second


@kernel
def equal_blocks(K, most, step):
    """The size of the blocks that K is cut into, a multiple of `step`: as equal as can be, where 288 = 256 + 32 would be slow"""
    blocks = max(1, (K + most - 1) // most)
    return max(step, ((K + blocks - 1) // blocks + step - 1) // step * step)


@separate_kernel
def outer_product(a, strides, b, c, sizes, rows):
    """c[m·cm + n] = Σ_{k<K} a[m·am + k·ak] · b[k·bk + n], sizes = (M, N, K), strides = (am, ak), rows = (bk, cm)

    The vectors run along n. So c = a b for strides (K, 1) and c = aᵀ b for strides (1, M). The columns of b that a tile reads for
    all rows of a are copied to a panel where that pays (M 128, N 3072, K 512: 80 instead of 52 GFlop/s; M 32, N 784, K 1000: 81,
    uncopied 87). Then two tiles side by side fill whole cache lines of c (dW of 1000 784, batch 128: 89, one by one 84)."""
    (M, N, K), (am, ak), (in_row, cm) = sizes, strides, rows
    if M == 1:  # b is read once: by rows, as it lies in memory, 32 instead of the tile's 5 to 22 GFlop/s
        c[:N] = 0
        simd.add_rows(a, 0, ak, K, b, 0, in_row, c, 0, N)
        return
    wide, size = 3 * simd.lanes(c), equal_blocks(K, BLOCK, 1)
    least = ALIASED_FROM if in_row * b.itemsize % ALIASED == 0 else PACKED_FROM
    packed = least <= M
    group = 2 * wide if packed else wide
    panel = np.empty(group * size if packed else 0, b.dtype)
    for k in range(0, max(K, 1), size):
        count = min(size, K - k)
        for first in range(0, N, group):
            last = min(first + group, N)
            source, start, bk, bn = b, k * in_row + first, in_row, 1
            if packed:
                for n in range(first, last, wide):
                    simd.pack(b, k * in_row + n, in_row, count, panel, (n - first) * count, min(wide, N - n))
                source, start, bk, bn = panel, 0, wide, count
            for m in range(0, M, 4):
                for n in range(first, last, wide):
                    in_a, in_b, in_c = m * am + k * ak, start + (n - first) * bn, m * cm + n
                    simd.outer(a, in_a, am, ak, source, in_b, bk, count, c, in_c, cm, min(4, M - m), min(wide, N - n), k > 0)


@separate_kernel
def inner_product(a, b, c, sizes, cm):
    """c[m·cm + n] = Σ_{k<K} a[m, k] · b[n, k], sizes = (M, N, K): c = a bᵀ, the vectors run along k

    Rows of a that are aliased and taken in blocks are copied, to lie together (128 512, K 3072: 82 instead of 68 GFlop/s)."""
    M, N, K = sizes
    size = equal_blocks(K, DOT_BLOCK, simd.lanes(c))
    group = max(N, 1) if M > 3 else 4  # few rows of a: read each row of b to its end, 31 instead of 27 GFlop/s
    packed = M > 3 and size < K and K * a.itemsize % ALIASED == 0
    panel = np.empty(min(M, DOT_ROWS) * size if packed else 0, a.dtype)
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
                for n in range(first, min(first + group, N), 4):
                    for m in range(m0, m1, 3):
                        in_a, rows, columns = start + (m - m0) * am, min(3, m1 - m), min(4, N - n)
                        simd.dot(source, in_a, am, b, n * K + k, K, count, c, m * cm + n, cm, rows, columns, k > 0)


@separate_kernel
def outer_product_at(a, in_a, b, in_b, c, sizes):
    """c[m, n] = Σ_{k<K} a[m·am + ak[k]] · b[b0 + bk[k] + n], sizes = (M, N, K), in_a = (am, ak), in_b = (b0, bk): ak, bk tables"""
    (am, ak), (b0, bk), (M, N, K), wide = in_a, in_b, sizes, 3 * simd.lanes(c)
    for n in range(0, N, wide):
        for m in range(0, M, 4):
            simd.outer_at(a, m * am, am, ak, b, b0 + n, bk, K, c, m * N + n, N, min(4, M - m), min(wide, N - n), False)


@separate_kernel
def add_inner_product_at(a, in_a, b, bn, c, sizes):
    """c[m, n] += Σ_{k<K} a[a0 + m·am + k] · b[bn[n] + k], sizes = (M, N, K), in_a = (a0, am), bn a table of offsets"""
    (a0, am), (M, N, K) = in_a, sizes
    for n in range(0, N, 4):
        for m in range(0, M, 3):
            simd.dot_at(a, a0 + m * am, am, b, n, bn, K, c, m * N + n, N, min(3, M - m), min(4, N - n), True)


@separate_kernel
def transpose(source, ss, target, ts, rows, columns):
    """target[j·ts + i] = source[i·ss + j] for i < rows, j < columns, in blocks that use whole cache lines on both sides"""
    L = simd.lanes(source)
    for i0 in range(0, rows, simd.PANEL):
        for j0 in range(0, columns, simd.PANEL):
            for i in range(i0, min(i0 + simd.PANEL, rows), L):
                for j in range(j0, min(j0 + simd.PANEL, columns), L):
                    simd.transpose(source, i * ss + j, ss, target, j * ts + i, ts, min(L, rows - i), min(L, columns - j))
