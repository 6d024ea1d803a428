"""Matrix products on register tiles. All arrays are flat; c is contiguous.

Beside BLAS (NumPy's OpenBLAS, one thread, Zen 3, float32) the tiles are 0.5 to 1.3 times as fast from a batch of 32 on, 1.3 to 3
times at a batch of 4, and about even at 1, where both wait for memory. They don't start threads of their own.
"""

import numpy as np

from . import simd
from .jit import separate_kernel

PACKED_FROM = 8  # rows of c from which copying the columns of b can pay
ALIASED = 1024  # bytes: rows of b that lie a multiple of this apart share few places of the first cache
FAR = 512  # rows of b, each in a page of its own: more than the processor has page addresses at hand
BLOCK = 1024  # numbers of a row of a and b that a dot product takes at a time: 4 + 3 such rows stay in the first cache


@separate_kernel
def sum_of_rows(a, ak, b, c, N, K):
    """c[n] = Σ_{k<K} a[k·ak] · b[k, n], four rows of b at a time from end to end: b is read once, as it lies in memory"""
    c[:N] = 0
    for k in range(0, K - K % 4, 4):
        a0, a1, a2, a3 = a[k * ak], a[(k + 1) * ak], a[(k + 2) * ak], a[(k + 3) * ak]
        b0, b1, b2, b3 = b[k * N : (k + 1) * N], b[(k + 1) * N : (k + 2) * N], b[(k + 2) * N : (k + 3) * N], b[(k + 3) * N :]
        for n in range(N):
            c[n] += a0 * b0[n] + a1 * b1[n] + a2 * b2[n] + a3 * b3[n]
    for k in range(K - K % 4, K):
        number, row = a[k * ak], b[k * N :]
        for n in range(N):
            c[n] += number * row[n]


@separate_kernel
def outer_product(a, strides, b, c, sizes):
    """c[m, n] = Σ_{k<K} a[m·am + k·ak] · b[k, n], sizes = (M, N, K), strides = (am, ak), b (K, N): vectors run along n

    So c = a b for strides (K, 1) and c = aᵀ b for strides (1, M). Where rows of b lie a power of two apart, they share few
    places of the cache and push each other out, and many rows need many page addresses: then the columns that a tile reads
    for all rows of a are copied to a panel first. Elsewhere the copy costs more than it saves."""
    M, N, K = sizes
    am, ak = strides
    if M == 1:
        sum_of_rows(a, ak, b, c, N, K)
        return
    packed = (M >= PACKED_FROM and N * b.itemsize % ALIASED == 0) or (M >= 4 * PACKED_FROM and K >= FAR)
    wide = 3 * simd.lanes(c)
    panel = np.empty(K * wide if packed else 0, b.dtype)
    for n in range(0, N, wide):
        columns = min(wide, N - n)
        source, start, bk = b, n, N
        if packed:
            for k in range(K):
                row, copy = b[k * N + n : k * N + n + columns], panel[k * wide : k * wide + columns]
                for j in range(columns):
                    copy[j] = row[j]
            source, start, bk = panel, 0, wide
        for m in range(0, M, 4):
            simd.outer(a, m * am, am, ak, source, start, bk, K, c, m * N + n, N, min(4, M - m), columns, False)


@separate_kernel
def inner_product(a, b, c, sizes):
    """c[m, n] = Σ_{k<K} a[m, k] · b[n, k], sizes = (M, N, K): c = a bᵀ, the vectors run along k"""
    M, N, K = sizes
    for k in range(0, K, BLOCK):
        for n in range(0, N, 3):
            for m in range(0, M, 4):
                rows, columns = min(4, M - m), min(3, N - n)
                simd.dot(a, m * K + k, K, b, n * K + k, K, min(BLOCK, K - k), c, m * N + n, N, rows, columns, k > 0)


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
    for n in range(0, N, 3):
        for m in range(0, M, 4):
            simd.dot_at(a, a0 + m * am, am, b, n, bn, K, c, m * N + n, N, min(4, M - m), min(3, N - n), True)
