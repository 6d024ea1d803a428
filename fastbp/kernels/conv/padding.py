"""What the ways to convolve share: images with zeros around them, where their taps lie, and the sums of the bias."""

from .. import simd
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
def put_copies(image, wide, before, copies, rows, row):
    """wide[c, q, h + top, j + left − q] = image[c, h, j] for q < copies

    wide (C, copies, rows, row), before = (top, left)"""
    (C, H, W), (top, left), zero = image.shape, before, image.dtype.type(0)
    for c in range(C):
        for q in range(copies):
            first = max(left - q, 0)
            count = max(min(left - q + W, row) - first, 0)
            for h in range(H):
                to = ((c * copies + q) * rows + top + h) * row + first
                simd.copy_row(image, (c * H + h) * W + first + q - left, wide, to, count, zero)


@separate_kernel
def take(wide, size, row, maps, b):
    """maps[f, i, j] = wide[f·size + i·row + j] + b[f]"""
    F, OH, OW = maps.shape
    for f in range(F):
        bias = maps.dtype.type(0) if b is None else b[f]
        for i in range(OH):
            simd.copy_row(wide, f * size + i * row, maps, (f * OH + i) * OW, OW, bias)


@separate_kernel
def taps(at, C, kernel_size, padded, first, step):
    """at[(c, p, q)] = first + c·step + p·PW + q for padded = (PH, PW)"""
    (KH, KW), PW = kernel_size, padded[1]
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                at[(c * KH + p) * KW + q] = first + c * step + p * PW + q


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
    db[:] = 0
    for n in range(dout.shape[0]):
        for f in range(dout.shape[1]):
            row, total = dout[n, f].reshape(-1), dout.dtype.type(0)
            for t in range(row.size):  # row.sum() would add one by one: 5 times as long
                total += row[t]
            db[f] += total
