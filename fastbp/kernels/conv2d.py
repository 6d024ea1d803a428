"""Two-dimensional convolution of deep learning: the cross-correlation of the input with each filter.

x (N, C, H, W) input · w (F, C, KH, KW) filters · b (F,) bias or None · y, dout (N, F, OH, OW) output

    y[n, f, i, j] = b[f] + Σ_{c,p,q} w[f, c, p, q] · x[n, c, i·sh + p − top, j·sw + q − left]

`stride` is (sh, sw); `before` is (top, left), the zeros put before the first row and column. How many follow the last is
implied by OH and OW. There are two ways, `shifted` and `unfolded`; the layer chooses.

Shifted rows, for stride 1: one image at a time is padded to (C, PH, PW) and its pixels are numbered t = i·PW + j. Then tap
k = (c, p, q) of output t reads pixel t + at[k], at[k] = c·PH·PW + p·PW + q, for every t: the image is never unfolded, and each
tap is a contiguous vector. Outputs in the last KW − 1 columns of a row mix two rows; they are computed and left out. Where these
would be many, there are several copies of the image: see `aligned_rows`.

    y[f, t] = Σ_k w[f, k] x[at[k] + t]      dw[f, k] = Σ_t dout[f, t] x[at[k] + t]
    dx[c, t] = Σ_{f,p,q} w[f, c, p, q] dout[f, t − p·PW − q]

Unfolded, for any stride: the row of `patches` (n·OH·OW, C·KH·KW) for an output of n images holds the inputs that its window sees.
So the layer is a linear one whose samples are the patches: with y and dout as `maps` (n·OH·OW, F),

    y = patches wᵀ        dw = doutᵀ patches        dx = dout w, folded back onto the images
"""

import numpy as np

from . import simd
from .buffers import empty, zeros
from .jit import kernel, separate_kernel
from .matmul import add_inner_product_at, inner_product, outer_product, outer_product_at, transpose

SHIFTED_FROM = (
    100  # pixels of an output map from which rows are shifted; the sums over t of 8×8 maps are too short for the tiles
)
PATCHES = 384  # at a time, from as many images as that takes: at most 3.5 MB for 256 channels and 3×3 filters


# -- shifted rows ------------------------------------------------------------------------------------------------------


@separate_kernel
def put(image, wide, start, rows, row):
    """wide[start + c·rows·row + h·row + j] = image[c, h, j]: (C, H, W) into rows `row` long, `rows` of them to a channel"""
    (C, H, W), zero = image.shape, image.dtype.type(0)
    for c in range(C):
        for h in range(H):
            simd.copy_row(image, (c * H + h) * W, wide, start + (c * rows + h) * row, W, zero)


@kernel
def aligned_rows(width, KW, L):
    """(copies, row): the length of a row of pixels for `width` outputs, and how many copies of the image lie in such rows

    One image, whose rows hold the KW − 1 pixels more that the last outputs need; or, where it saves a tenth of the products, KW
    copies in rows of whole vectors, copy q from pixel q of each row on. Then tap (p, q) reads copy q, and fewer outputs are left
    out: 16 images of 28×28 and 32 filters of 7×7 take 0.33 ms forward and as long for the weights' gradient, else 0.41 and 0.40."""
    whole, long = (width + L - 1) // L * L, width + KW - 1
    return (KW, whole) if 10 * whole < 9 * long else (1, long)


@separate_kernel
def put_copies(image, wide, before, copies, rows, row):
    """wide[c, q, h + top, j + left − q] = image[c, h, j] for q < copies, wide (C, copies, rows, row), before = (top, left)"""
    (C, H, W), (top, left), zero = image.shape, before, image.dtype.type(0)
    for c in range(C):
        for q in range(copies):
            first = max(left - q, 0)
            count = max(min(left - q + W, row) - first, 0)
            for h in range(H):
                to = ((c * copies + q) * rows + top + h) * row + first
                simd.copy_row(image, (c * H + h) * W + first + q - left, wide, to, count, zero)


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
def taps(at, C, kernel_size, padded, first, step):
    """at[(c, p, q)] = first + c·step + p·PW + q for padded = (PH, PW)"""
    (KH, KW), PW = kernel_size, padded[1]
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                at[(c * KH + p) * KW + q] = first + c * step + p * PW + q


@separate_kernel
def adjoint_taps(F, K, kernel_size, padded):
    """(in_w, in_dout, margin, size) for dx[c, t] = Σ_{f,p,q} w[f, c, p, q] dout[f, t − p·PW − q], K = C·KH·KW

    dout's maps lie in rows of PW numbers with zeros around: `size` numbers a map, `margin` of them before its first pixel.
    Then w is read at in_w[(f, p, q)] + c·KH·KW and dout at in_dout[(f, p, q)] + t."""
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


@separate_kernel
def take(wide, size, row, maps, b):
    """maps[f, i, j] = wide[f·size + i·row + j] + b[f]"""
    F, OH, OW = maps.shape
    for f in range(F):
        bias = maps.dtype.type(0) if b is None else b[f]
        for i in range(OH):
            simd.copy_row(wide, f * size + i * row, maps, (f * OH + i) * OW, OW, bias)


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
def filters_in_lanes(w):
    """The filters (F, C, KH, KW) as panels (F / PANEL, C·KH·KW, PANEL), 0 beyond F"""
    F, K = w.shape[0], w.size // w.shape[0]
    weights = zeros((F + simd.PANEL - 1) // simd.PANEL * simd.PANEL * K, w)
    for f in range(0, F, simd.PANEL):
        transpose(w[f : f + simd.PANEL].reshape(-1), K, weights[f * K :], simd.PANEL, min(simd.PANEL, F - f), K)
    return weights


@kernel
def padded_bias(b, size, like):
    """b, or 0 where it is None, in a vector of that size, 0 beyond"""
    bias = zeros(size, like)
    if b is not None:
        for f in range(b.size):
            bias[f] = b[f]
    return bias


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
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i + p − top, j + q − left], dw of some or all filters"""
    (N, _, OH, OW), C, F, (KH, KW), K = dout.shape, x.shape[1], dw.shape[0], dw.shape[2:], dw.size // dw.shape[0]
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
    """`shifted_backward_weight` with the vectors along filters: no sum over the lanes at the end, and no pixel that is left out"""
    (N, _, OH, OW), C, F, (KH, KW), K = dout.shape, x.shape[1], dw.shape[0], dw.shape[2:], dw.size // dw.shape[0]
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


# -- unfolded ----------------------------------------------------------------------------------------------------------


@kernel
def padded_size(image_size, output_size, kernel_size, stride, before):
    """(PH, PW) of the padded image: it holds the image and all windows"""
    PH = max((output_size[0] - 1) * stride[0] + kernel_size[0], before[0] + image_size[0])
    PW = max((output_size[1] - 1) * stride[1] + kernel_size[1], before[1] + image_size[1])
    return PH, PW


@separate_kernel
def unfold(image, at, row, stride, output_size, patches):
    """patches[(i, j), k] = image[i·sh·row + j·sw + at[k]] for a padded image with rows `row` long and the table of its taps

    It is a gather, 0.4 to 0.7 ns a number; copies of the few neighbours that a row of a filter has took 18 on maps of 2×2."""
    for i in range(output_size[0]):
        for j in range(output_size[1]):
            start, place = np.uint64(i * stride[0] * row + j * stride[1]), np.uint64((i * output_size[1] + j) * at.size)
            for k in range(at.size):
                patches[place + np.uint64(k)] = image[start + np.uint64(at[k])]


@separate_kernel
def fold(patches, at, row, stride, output_size, image):
    """image[i·sh·row + j·sw + at[k]] = Σ patches[(i, j), k]: the adjoint of `unfold`"""
    image[:] = 0
    for i in range(output_size[0]):
        for j in range(output_size[1]):
            start, place = np.uint64(i * stride[0] * row + j * stride[1]), np.uint64((i * output_size[1] + j) * at.size)
            for k in range(at.size):
                image[start + np.uint64(at[k])] += patches[place + np.uint64(k)]


@separate_kernel
def to_rows(dout, maps, filter, F):
    """maps[(n, i, j), f] = dout[n, filter + f, i, j] for f < F"""
    N, P, G = dout.shape[0], dout.shape[2] * dout.shape[3], dout.reshape(-1)
    for n in range(N):
        for f in range(F):
            start, place = np.uint64((n * dout.shape[1] + filter + f) * P), np.uint64(n * P * F + f)
            for t in range(P):
                maps[place + np.uint64(t * F)] = G[start + np.uint64(t)]


@kernel
def unfolded_forward(x, w, b, y, stride, before):
    """y = b + w ⋆ x"""
    (N, F, OH, OW), C, (KH, KW), K = y.shape, x.shape[1], w.shape[2:], w.size // w.shape[0]
    (PH, PW), P, Y = padded_size(x.shape[2:], (OH, OW), (KH, KW), stride, before), OH * OW, y.reshape(-1)
    group = max(1, min(N, PATCHES // P))
    at, image = np.empty(K, np.int64), np.zeros(C * PH * PW, x.dtype)
    patches, maps = empty(group * P * K, x), empty(group * P * F, x)
    taps(at, C, (KH, KW), (PH, PW), 0, PH * PW)
    for first in range(0, N, group):
        last = min(first + group, N)
        for n in range(first, last):
            put(x[n], image, before[0] * PW + before[1], PH, PW)
            unfold(image, at, PW, stride, (OH, OW), patches[(n - first) * P * K :])
        inner_product(patches, w.reshape(-1), maps, ((last - first) * P, F, K), F)
        for n in range(first, last):
            for f in range(F):
                out, start = np.uint64((n * F + f) * P), np.uint64((n - first) * P * F + f)
                bias = x.dtype.type(0) if b is None else b[f]
                for t in range(P):
                    Y[out + np.uint64(t)] = maps[start + np.uint64(t * F)] + bias


@kernel
def unfolded_backward_input(dout, w, dx, stride, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)"""
    (N, F, OH, OW), C, (KH, KW), K = dout.shape, dx.shape[1], w.shape[2:], w.size // w.shape[0]
    (PH, PW), P = padded_size(dx.shape[2:], (OH, OW), (KH, KW), stride, before), OH * OW
    group = max(1, min(N, PATCHES // P))
    at, image = np.empty(K, np.int64), np.empty(C * PH * PW, dx.dtype)
    patches, maps = empty(group * P * K, dx), empty(group * P * F, dx)
    taps(at, C, (KH, KW), (PH, PW), 0, PH * PW)
    for first in range(0, N, group):
        last = min(first + group, N)
        to_rows(dout[first:last], maps, 0, F)
        outer_product(maps, (F, 1), w.reshape(-1), (K, 1), patches, K, ((last - first) * P, K, F), None)
        for n in range(first, last):
            fold(patches[(n - first) * P * K :], at, PW, stride, (OH, OW), image)
            take(image[before[0] * PW + before[1] :], PH * PW, PW, dx[n], None)


@kernel
def unfolded_backward_weight(dout, x, dw, stride, before, filter):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left], dw of some or all filters"""
    (N, _, OH, OW), C, F, (KH, KW), sums = dout.shape, x.shape[1], dw.shape[0], dw.shape[2:], dw.reshape(-1)
    K = C * KH * KW
    (PH, PW), P = padded_size(x.shape[2:], (OH, OW), (KH, KW), stride, before), OH * OW
    group = max(1, min(N, PATCHES // P))
    at, image, part = (
        np.empty(K, np.int64),
        np.zeros(C * PH * PW, x.dtype),
        np.empty(F * K if group < N else 0, x.dtype),
    )
    patches, maps = empty(group * P * K, x), empty(group * P * F, x)
    taps(at, C, (KH, KW), (PH, PW), 0, PH * PW)
    sums[:] = 0
    for first in range(0, N, group):
        last = min(first + group, N)
        to_rows(dout[first:last], maps, filter, F)
        for n in range(first, last):
            put(x[n], image, before[0] * PW + before[1], PH, PW)
            unfold(image, at, PW, stride, (OH, OW), patches[(n - first) * P * K :])
        if first == 0:
            outer_product(maps, (1, F), patches, (K, 1), sums, K, (F, K, (last - first) * P), None)
            continue
        outer_product(maps, (1, F), patches, (K, 1), part, K, (F, K, (last - first) * P), None)
        for k in range(sums.size):
            sums[k] += part[k]


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
