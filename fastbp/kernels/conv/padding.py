"""What the ways to convolve share: images with zeros around them, where their taps lie, and the sums of the bias."""

import numpy as np

from .. import simd
from ..activations import NONE, activate
from ..buffers import zeros
from ..jit import kernel, separate_kernel


@separate_kernel
def put(image, wide, start, rows, row):
    """wide[start + c·rows·row + h·row + j] = image[c, h, j]: (C, H, W) into channels of `rows` rows, `row` long"""
    (C, H, W), zero = image.shape, image.dtype.type(0)
    for c in range(C):
        for h in range(H):
            simd.copy_row(image, (c * H + h) * W, wide, start + (c * rows + h) * row, W, zero)


@separate_kernel
def put_planes(image, wide, geometry, planes, rows, row):
    """wide[c, a, q, i, j] = image[c, sh·i + a − top, sw·j + q − left] where that is a pixel; else it stays

    wide (C, A, Q, rows, row), planes = (A, Q), geometry = (stride, before)"""
    (C, H, W), zero, pixels = image.shape, image.dtype.type(0), image.reshape(-1)
    ((sh, sw), (top, left)), (A, Q) = geometry, planes
    for q in range(Q):
        first = max(left - q + sw - 1, 0) // sw
        column = sw * first + q - left
        count = min((W - column + sw - 1) // sw, row - first)
        for line in range(C * A):
            c, a = line // A, line % A
            for i in range(max(top - a + sh - 1, 0) // sh, min((H + top - a + sh - 1) // sh, rows)):
                start, to = (c * H + sh * i + a - top) * W + column, ((line * Q + q) * rows + i) * row + first
                if sw == 1:
                    simd.copy_row(image, start, wide, to, count, zero)
                elif sw == 2:
                    simd.copy_even(image, start, wide, to, count)
                else:
                    for j in range(count):
                        wide[to + j] = pixels[start + sw * j]


@separate_kernel
def take(wide, size, row, maps, b):
    """maps[f, i, j] = wide[f·size + i·row + j] + b[f]"""
    F, OH, OW = maps.shape
    for f in range(F):
        bias = maps.dtype.type(0) if b is None else b[f]
        for i in range(OH):
            simd.copy_row(wide, f * size + i * row, maps, (f * OH + i) * OW, OW, bias)


@separate_kernel
def take_phase(wide, size, row, maps, first, stride):
    """maps[c, h0 + sh·i, w0 + sw·j] = wide[c·size + i·row + j] for first = (h0, w0), up to the maps' ends"""
    (C, H, W), (h0, w0), (sh, sw), pixels = maps.shape, first, stride, maps.reshape(-1)
    count = max((W - w0 + sw - 1) // sw, 0)
    for c in range(C):
        for i in range((H - h0 + sh - 1) // sh):
            start, to = np.uint64(c * size + i * row), np.uint64((c * H + h0 + sh * i) * W + w0)
            for j in range(count):
                pixels[to + np.uint64(sw * j)] = wide[start + np.uint64(j)]


@separate_kernel
def taps(at, C, kernel_size, padded, first, step):
    """at[(c, p, q)] = first + c·step + p·PW + q for padded = (PH, PW)"""
    (KH, KW), PW = kernel_size, padded[1]
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                at[(c * KH + p) * KW + q] = first + c * step + p * PW + q


@kernel
def activated(y, out, kind, numbers):
    """out = the activation of y, for some samples that lie in the cache, where there is one"""
    if kind != NONE:
        activate(y.reshape(-1), out.reshape(-1), kind, numbers)


@kernel
def padded_bias(b, size, like):
    """b, or 0 where it is None, in a vector of that size, 0 beyond"""
    bias = zeros(size, like)
    if b is not None:
        for f in range(b.size):
            bias[f] = b[f]
    return bias


@kernel
def conv2d_backward_bias(dout, db):
    """db[f] = Σ_{n,i,j} dout[n, f, i, j]"""
    (N, F), P, numbers = dout.shape[:2], dout.shape[2] * dout.shape[3], dout.reshape(-1)
    db[:] = 0
    for n in range(N):
        for f in range(F):  # numbered through: an array made of each map takes longer than to sum it
            total, start = dout.dtype.type(0), np.uint64((n * F + f) * P)
            for t in range(P):
                total += numbers[start + np.uint64(t)]
            db[f] += total
