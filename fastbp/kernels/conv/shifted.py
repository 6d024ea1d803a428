"""Convolution of stride 1 by shifted rows: the image is never unfolded.

One image at a time is padded to (C, PH, PW) and its pixels are numbered t = i·PW + j. Then tap k = (c, p, q) of output
t reads pixel t + at[k], at[k] = c·PH·PW + p·PW + q, for every t: each tap is a contiguous vector. Outputs in the last
KW − 1 columns of a row mix two rows; they are computed and left out. Where these would be many, there are several
copies of the image: see `aligned_rows`.

    y[f, t] = Σ_k w[f, k] x[at[k] + t]      dw[f, k] = Σ_t dout[f, t] x[at[k] + t]
    dx[c, t] = Σ_{f,p,q} w[f, c, p, q] dout[f, t − p·PW − q]
"""

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import add_inner_product_at, outer_product_at, transpose
from .padding import put, put_copies, take, taps


@kernel
def aligned_rows(width, KW, L):
    """(copies, row): how many copies of the image there are, and how long their rows are, for `width` outputs

    One image, whose rows hold the KW − 1 pixels more that the last outputs need; or, where it saves a tenth of the
    products, KW copies in rows of whole vectors, copy q from pixel q of each row on. Then tap (p, q) reads copy q, and
    fewer outputs are left out."""
    whole, long = (width + L - 1) // L * L, width + KW - 1
    return (KW, whole) if 10 * whole < 9 * long else (1, long)


@separate_kernel
def taps_of_copies(at, C, kernel_size, copies, rows, row):
    """at[(c, p, q)], where that tap of output 0 lies in wide (C, copies, rows, row)"""
    KH, KW = kernel_size
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                copy, right = (q, 0) if copies > 1 else (0, q)
                at[(c * KH + p) * KW + q] = ((c * copies + copy) * rows + p) * row + right


@separate_kernel
def adjoint_taps(F, K, kernel_size, padded):
    """(in_w, in_dout, margin, size) for dx[c, t] = Σ_{f,p,q} w[f, c, p, q] dout[f, t − p·PW − q], K = C·KH·KW

    dout's maps lie in rows of PW numbers with zeros around: `size` numbers a map, `margin` of them before its first
    pixel. Then w is read at in_w[(f, p, q)] + c·KH·KW and dout at in_dout[(f, p, q)] + t."""
    (KH, KW), (PH, PW) = kernel_size, padded
    margin = (KH - 1) * PW + KW - 1
    size = margin + PH * PW
    in_w, in_dout = np.empty(F * KH * KW, np.int64), np.empty(F * KH * KW, np.int64)
    taps(in_w, F, kernel_size, kernel_size, 0, K)
    taps(in_dout, F, kernel_size, padded, 0, 0)
    for f in range(F):
        for k in range(f * KH * KW, (f + 1) * KH * KW):
            in_dout[k] = f * size + margin - in_dout[k]
    return in_w, in_dout, margin, size


@kernel
def shifted_forward(x, w, b, y, before):
    """y = b + w ⋆ x"""
    (N, C), (F, OH, OW), (KH, KW), K = x.shape[:2], y.shape[1:], w.shape[2:], w.size // w.shape[0]
    PH, (copies, row) = OH + KH - 1, aligned_rows(OW, KW, simd.lanes(x))
    T = OH * row if copies > 1 else (OH - 1) * row + OW
    in_w, in_x, image = np.empty(K, np.int64), np.empty(K, np.int64), empty(C * copies * PH * row, x)
    wide = empty(F * T, x)
    taps_of_copies(in_x, C, (KH, KW), copies, PH, row)
    for k in range(K):
        in_w[k] = k
    image[:] = 0
    for n in range(N):
        put_copies(x[n], image, before, copies, PH, row)
        outer_product_at(w.reshape(-1), (K, in_w), image, (0, in_x), wide, (F, T, K))
        take(wide, T, row, y[n], b)


@kernel
def shifted_backward_input(dout, w, dx, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)

    Without padding this is the full convolution of dout with the filters."""
    (N, F, OH, OW), (C, H, W), (KH, KW), K = dout.shape, dx.shape[1:], w.shape[2:], w.size // w.shape[0]
    PH, PW = OH + KH - 1, OW + KW - 1
    in_w, in_dout, margin, size = adjoint_taps(F, K, (KH, KW), (PH, PW))
    T = (H - 1) * PW + W
    around, wide = empty(F * size, dout), empty(C * T, dout)
    around[:] = 0
    for n in range(N):
        for f in range(F):
            put(dout[n, f : f + 1], around, f * size + margin, OH, PW)
        start = before[0] * PW + before[1]
        outer_product_at(w.reshape(-1), (KH * KW, in_w), around, (start, in_dout), wide, (C, T, F * KH * KW))
        take(wide, T, PW, dx[n], None)


@kernel
def shifted_backward_weight(dout, x, dw, before, filter):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i + p − top, j + q − left]

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, _, OH, OW), (F, C, KH, KW) = dout.shape, dw.shape
    K = C * KH * KW
    PH, (copies, row) = OH + KH - 1, aligned_rows(OW, KW, simd.lanes(x))
    T = OH * row if copies > 1 else (OH - 1) * row + OW
    in_x, image, wide = np.empty(K, np.int64), empty(C * copies * PH * row, x), empty(F * OH * row, x)
    taps_of_copies(in_x, C, (KH, KW), copies, PH, row)
    dw[:] = 0
    image[:] = 0
    wide[:] = 0
    for n in range(N):
        put_copies(x[n], image, before, copies, PH, row)
        put(dout[n, filter : filter + F], wide, 0, OH, row)
        add_inner_product_at(wide, (0, OH * row), image, in_x, dw.reshape(-1), (F, K, T))


@kernel
def shifted_backward_weight_by_filters(dout, x, dw, before, filter):
    """`shifted_backward_weight` with the vectors along filters: no sums over the lanes, and no pixel is left out"""
    (N, _, OH, OW), (F, C, KH, KW) = dout.shape, dw.shape
    K = C * KH * KW
    PH, PW, panels = OH + KH - 1, OW + KW - 1, (F + simd.PANEL - 1) // simd.PANEL
    wide, pieces = panels * simd.PANEL, (KW + simd.most_taps(x) - 1) // simd.most_taps(x)
    step = (KW + pieces - 1) // pieces
    image, pixels, sums = zeros(C * PH * PW, x), zeros(OH * OW * wide, x), zeros(K * wide, x)
    for n in range(N):
        put_copies(x[n], image, before, 1, PH, PW)
        transpose(dout[n, filter : filter + F].reshape(-1), OH * OW, pixels, wide, F, OH * OW)
        for k in range(C * KH):
            for q in range(0, KW, step):
                start, to = (k // KH * PH + k % KH) * PW + q, (k * KW + q) * wide
                simd.add_tap_products(
                    image, start, PW, pixels, wide, simd.PANEL, OH, OW, sums, to, wide, min(step, KW - q), panels
                )
    transpose(sums, wide, dw.reshape(-1), K, K, F)
