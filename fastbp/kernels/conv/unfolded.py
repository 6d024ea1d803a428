"""Convolution of any stride by unfolding the images into patches.

The row of `patches` (n·OH·OW, C·KH·KW) for an output of n images holds the inputs that its window sees. So the layer is
a linear one whose samples are the patches: with y and dout as `maps` (n·OH·OW, F),

    y = patches wᵀ        dw = doutᵀ patches        dx = dout w, folded back onto the images
"""

import numpy as np

from ..buffers import empty
from ..jit import kernel, separate_kernel
from ..matmul import inner_product, outer_product
from .padding import put, take, taps

PATCHES = 384  # at a time, from as many images as that takes: at most 3.5 MB for 256 channels and 3×3 filters


@kernel
def padded_size(image_size, output_size, kernel_size, stride, before):
    """(PH, PW) of the padded image: it holds the image and all windows"""
    PH = max((output_size[0] - 1) * stride[0] + kernel_size[0], before[0] + image_size[0])
    PW = max((output_size[1] - 1) * stride[1] + kernel_size[1], before[1] + image_size[1])
    return PH, PW


@separate_kernel
def unfold(image, at, row, stride, output_size, patches):
    """patches[(i, j), k] = image[i·sh·row + j·sw + at[k]] for a padded image with rows `row` long and the table of its
    taps

    It is a gather: faster than to copy the few neighbours that a row of a filter has."""
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
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, _, OH, OW), (F, C, KH, KW) = dout.shape, dw.shape
    K, sums = C * KH * KW, dw.reshape(-1)
    (PH, PW), P = padded_size(x.shape[2:], (OH, OW), (KH, KW), stride, before), OH * OW
    group = max(1, min(N, PATCHES // P))
    at, image = np.empty(K, np.int64), np.zeros(C * PH * PW, x.dtype)
    part = np.empty(F * K if group < N else 0, x.dtype)
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
