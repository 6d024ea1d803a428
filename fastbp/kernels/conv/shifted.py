"""Convolution with pixels in the lanes: a tap of a row of outputs is a row of pixels, so the image is never unfolded.

An image is laid out in planes, one for each row and each column of a stride: plane (a, b) has its pixels (sh·i + a,
sw·j + b), with zeros around. There tap (p, q) of the outputs (i, j), j = 0, 1, …, reads neighbours, in plane (p mod sh,
q mod sw) from pixel (i + p // sh, q // sw) on. An image that needs no zeros, with stride 1, is such a plane itself.

Rows of outputs that fill their vectors well go straight to y, vector by vector, of which the last ends with the row.
Shorter ones are taken together: pixels are numbered t = i·row + j over all rows, and outputs in the last columns, which
mix two rows, are computed and left out.

    y[f, t] = b[f] + Σ_k w[f, k] x[at[k] + t]      dw[f, k] = Σ_t dout[f, t] x[at[k] + t]

dx is such a sum too, for each of the sh·sw planes that the image is laid out in: over dout with zeros around and the
filters' taps that read that plane.
"""

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import add_inner_product_at
from .filters import wide_row
from .padding import activated, padded_bias, put, put_planes, take, take_phase
from .plans import vectors

TOGETHER = 96  # vectors of outputs from as many images as that takes: the tiles of a few are not full


@kernel
def planes_of(kernel_size, stride):
    """(A, Q), how many planes there are along each axis"""
    return min(kernel_size[0], stride[0]), min(kernel_size[1], stride[1])


@kernel
def rows_of_planes(output_size, kernel_size, stride):
    """(rows, row): the size of a plane, which holds all that the windows see"""
    rows = output_size[0] + (kernel_size[0] - 1) // stride[0]
    return rows, output_size[1] + (kernel_size[1] - 1) // stride[1]


@separate_kernel
def taps_in_planes(table, C, kernel_size, stride, sizes, in_w):
    """table[2k], table[2k + 1] for k = (c, p, q): k·in_w, and where the tap of output 0 lies in the planes (C, A, Q,
    rows, row), sizes = (A, Q, rows, row)

    With Q = KW there is a plane for each column of a filter, else one for each of the stride's."""
    (KH, KW), (sh, sw), (A, Q, rows, row) = kernel_size, stride, sizes
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                k, plane, right = (c * KH + p) * KW + q, q % Q, 0 if sw < Q else q // sw
                table[2 * k] = k * in_w
                table[2 * k + 1] = ((((c * A + p % sh) * Q + plane) * rows) + p // sh) * row + right


@kernel
def aliased(numbers, like):
    """Whether planes of so many numbers lie in the same lines of the first cache"""
    return numbers * like.itemsize % 4096 == 0


@kernel
def is_inside(image_size, output_size, kernel_size, before):
    """Whether the windows of stride 1 see only pixels"""
    ends = output_size[0] + kernel_size[0] - 1 <= image_size[0] and output_size[1] + kernel_size[1] - 1 <= image_size[1]
    return ends and before[0] == 0 and before[1] == 0


vectors_of = kernel(vectors)  # in kernels


@kernel
def add_places(table, first, direct, lines, starts, L):
    """table[2v], table[2v + 1] for the vectors of a map from v = first on: where each begins among the pixels and the
    outputs; lines = (OH, OW, row), starts = (in the pixels, in the outputs)"""
    (OH, OW, row), (start, to) = lines, starts
    v = 2 * first
    if not direct:
        for t in range(0, (OH - 1) * row + OW, L):
            table[v], table[v + 1] = start + t, to + t
            v += 2
        return
    for i in range(OH):
        for j in range(0, OW, L):
            column = min(j, OW - L)
            table[v], table[v + 1] = start + i * row + column, to + i * OW + column
            v += 2


@separate_kernel
def product_by_pixels(w, x, taps, bias, places, y, ym, rows):
    """y[m·ym + to + l] = bias[m] + Σ_{k<K} w[m + table[2k]] · x[from + l + table[2k + 1]] for m < rows: see
    `pixels_in_lanes`; taps = (table, K), places = (pairs of from and to, their count)"""
    (taps, K), (places, count) = taps, places
    high = simd.pixel_rows(y)
    for m in range(0, rows, high):
        simd.pixels_in_lanes(w, m, x, taps, K, bias, places, count, y, m * ym, ym, min(high, rows - m))


@kernel
def shifted_forward(x, turned, b, y, after, kernel_size, stride, before):
    """y = b + w ⋆ x, for the filters `turned` as filters.py has them, and its activation, after = (out, kind, numbers),
    which may go to y"""
    out, kind, numbers = after
    (N, C, H, W), (F, OH, OW), (KH, KW), L = x.shape, y.shape[1:], kernel_size, simd.lanes(x)
    K, (sh, sw), (A, Q) = C * KH * KW, stride, planes_of(kernel_size, stride)
    inside = sh == 1 and sw == 1 and is_inside((H, W), (OH, OW), kernel_size, before) and not aliased(H * W, x)
    rows, row = (H, W) if inside else rows_of_planes((OH, OW), kernel_size, stride)
    rows += aliased(rows * row, x)
    size, pixels = C * A * Q * rows * row, OH * OW
    if KH == KW == 1 and row == OW:  # all rows are one
        OH, OW = 1, pixels
    vectors, direct = vectors_of(OH, OW, row, L)
    inside, size_out = inside and direct, pixels if direct else vectors * L
    group = max(1, min(N, TOGETHER // max(vectors, 1)))
    image = x.reshape(-1) if inside else zeros(group * size + L, x)
    wide = empty(0 if direct else group * F * size_out, x)
    table, places = np.empty(2 * K, np.int64), np.empty(2 * group * vectors, np.int64)
    taps_in_planes(table, C, kernel_size, stride, (A, Q, rows, row), wide_row(F))
    for g in range(group):
        add_places(places, g * vectors, direct, (OH, OW, row), (g * size, g * F * size_out), L)
    bias, filters = padded_bias(b, wide_row(F), x), turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        if inside:
            image = x[first:].reshape(-1)
        else:
            for g in range(count):
                put_planes(x[first + g], image[g * size :], (stride, before), (A, Q), rows, row)
        target = y[first:].reshape(-1) if direct else wide
        product_by_pixels(filters, image, (table, K), bias, (places, count * vectors), target, size_out, F)
        if not direct:
            for g in range(count):
                take(wide[g * F * size_out :], size_out, row, y[first + g], None)
        activated(y[first : first + count], out[first : first + count], kind, numbers)


@separate_kernel
def taps_of_phase(table, F, kernel_size, stride, phase, sizes):
    """How many taps read plane `phase` = (a, b) of the images, and table[2k], table[2k + 1] for k = (f, p, q) of them:
    where they lie among the filters as filters.py turns them, and in dout beside the pixel; sizes = (row of filters,
    QH, QW)"""
    (KH, KW), (sh, sw), (a, b), (row, QH, QW) = kernel_size, stride, phase, sizes
    k = 0
    for f in range(F):
        for p in range(a, KH, sh):
            for q in range(b, KW, sw):
                table[2 * k] = ((f * KH + p) * KW + q) * row
                table[2 * k + 1] = (f * QH - p // sh) * QW - q // sw
                k += 1
    return k


@kernel
def dout_around(image_size, output_size, kernel_size, stride, before):
    """(BH, BW, QH, QW): how many zeros come before dout's maps, and their size with all zeros that are read"""
    BH, BW = (kernel_size[0] - 1) // stride[0], (kernel_size[1] - 1) // stride[1]
    QH = BH + max(output_size[0], (image_size[0] - 1 + before[0]) // stride[0] + 1)
    return BH, BW, QH, BW + max(output_size[1], (image_size[1] - 1 + before[1]) // stride[1] + 1)


@kernel
def phase_of(size, before, stride, phase):
    """(first, count, place): the first pixel of an axis that lies in that plane, how many there are, and where the
    first lies in the plane"""
    place = max(before - phase + stride - 1, 0) // stride
    first = stride * place + phase - before
    return first, max((size - first + stride - 1) // stride, 0), place


@kernel
def shifted_backward_input(dout, turned, dx, kernel_size, stride, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)"""
    (N, F, OH, OW), (C, H, W), (sh, sw), L = dout.shape, dx.shape[1:], stride, simd.lanes(dx)
    BH, BW, QH, QW = dout_around((H, W), (OH, OW), kernel_size, stride, before)
    one = sh == 1 and sw == 1
    inside = one and BH == 0 and BW == 0 and QH == OH and QW == OW and not aliased(OH * OW, dx)
    flat = one and W == QW  # all rows are one
    QH += aliased(QH * QW, dx)
    size = F * QH * QW
    lines = (1, H * W) if flat else (-(-H // sh), -(-W // sw))  # of the largest plane
    vectors, direct = vectors_of(*lines, QW, L)
    if not one:  # they go to every second pixel or so
        vectors, direct = -(-((lines[0] - 1) * QW + lines[1]) // L), False
    inside, numbers = inside and direct, H * W if direct else vectors * L
    group = max(1, min(N, TOGETHER // max(vectors, 1)))
    around = dout.reshape(-1) if inside else zeros(group * size + 2 * L, dx)
    wide, bias = empty(0 if direct else group * C * numbers, dx), zeros(wide_row(C), dx)
    table, places = np.empty(2 * turned.shape[0], np.int64), np.empty(2 * group * vectors, np.int64)
    filters = turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        if inside:
            around = dout[first:].reshape(-1)
        else:
            for g in range(count):
                put(dout[first + g], around, g * size + BH * QW + BW, QH, QW)
        out = dx[first:].reshape(-1) if direct else wide
        for a in range(sh):
            for b in range(sw):
                h0, rows, top = phase_of(H, before[0], sh, a)
                w0, columns, left = phase_of(W, before[1], sw, b)
                if rows == 0 or columns == 0:
                    continue
                K = taps_of_phase(table, F, kernel_size, stride, (a, b), (wide_row(C), QH, QW))
                if flat:
                    rows, columns = 1, H * W
                each = rows * -(-columns // L) if direct else -(-((rows - 1) * QW + columns) // L)
                for g in range(count):
                    start = g * size + (top + BH) * QW + left + BW
                    add_places(places, g * each, direct, (rows, columns, QW), (start, g * C * numbers), L)
                product_by_pixels(filters, around, (table, K), bias, (places, count * each), out, numbers, C)
                if not direct:
                    for g in range(count):
                        take_phase(wide[g * C * numbers :], numbers, QW, dx[first + g], (h0, w0), stride)


@kernel
def aligned_rows(width, KW, sw, L):
    """(planes, row): how many planes there are along a row, and how long their rows are, for `width` outputs

    One for each column of the stride, whose rows hold the pixels more that the last outputs need; or, where it saves a
    tenth of the products, one for each column of a filter in rows of whole vectors. Then each tap reads a row from its
    beginning, and fewer outputs are left out."""
    whole, long = (width + L - 1) // L * L, width + (KW - 1) // sw
    return (KW, whole) if 10 * whole < 9 * long else (min(KW, sw), long)


@kernel
def shifted_backward_weight(dout, x, dw, stride, before, filter):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]

    dw holds some or all filters, `filter` is the number of its first one. The vectors run along the sums."""
    (N, _, OH, OW), (F, C, KH, KW) = dout.shape, dw.shape
    K, A, (rows, _) = C * KH * KW, min(KH, stride[0]), rows_of_planes((OH, OW), (KH, KW), stride)
    Q, row = aligned_rows(OW, KW, stride[1], simd.lanes(x))
    T = (OH - 1) * row + OW
    table, image, wide = np.empty(2 * K, np.int64), zeros(C * A * Q * rows * row, x), zeros(F * OH * row, x)
    taps_in_planes(table, C, (KH, KW), stride, (A, Q, rows, row), 0)
    in_x = table[1::2].copy()
    dw[:] = 0
    for n in range(N):
        put_planes(x[n], image, (stride, before), (A, Q), rows, row)
        put(dout[n, filter : filter + F], wide, 0, OH, row)
        add_inner_product_at(wide, (0, OH * row), image, in_x, dw.reshape(-1), (F, K, T))
