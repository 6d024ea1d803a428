"""Convolution of any stride with channels in the lanes: each output is a row of sums, one for each filter.

Pixels are single numbers, so they may lie anywhere: tables say where, and the image is never unfolded. It is copied
with zeros around, unless the windows see only pixels.

    forward   pixels × filters,  summed over the taps of the filters
    dx        pixels × channels, summed over filters and taps, for each of the sh·sw phases of a pixel to the stride
    dw        taps × filters,    summed over the pixels of all images

Rows of pixels with their channels are transposed to maps of channels, and dout to such rows.
"""

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose
from .filters import wide_row
from .padding import padded_bias, put
from .shifted import dout_around, phase_of, taps_of_phase

TOGETHER = 256  # pixels from as many images as that takes: the last tile of a few is not full


@kernel
def padded_size(image_size, output_size, kernel_size, stride, before):
    """(PH, PW) of the padded image: it holds the image and all windows"""
    PH = max((output_size[0] - 1) * stride[0] + kernel_size[0], before[0] + image_size[0])
    PW = max((output_size[1] - 1) * stride[1] + kernel_size[1], before[1] + image_size[1])
    return PH, PW


@separate_kernel
def taps_in_image(table, at, C, kernel_size, padded, step):
    """table[2k + at] = where tap k = (c, p, q) of the first output lies in the image, table[2k + 1 − at] = k·step"""
    (KH, KW), (PH, PW) = kernel_size, padded
    for c in range(C):
        for p in range(KH):
            for q in range(KW):
                k = (c * KH + p) * KW + q
                table[2 * k + at], table[2 * k + 1 - at] = (c * PH + p) * PW + q, k * step


@separate_kernel
def pixels_in_image(table, at, sizes, output_size, stride, step):
    """table[2t + at] = where the window of pixel t = (n, i, j) begins, table[2t + 1 − at] = t·step, for sizes =
    (images, numbers of each, PW)"""
    (OH, OW), (sh, sw), (images, size, PW), t = output_size, stride, sizes, 0
    for n in range(images):
        for i in range(OH):
            for j in range(OW):
                table[2 * t + at], table[2 * t + 1 - at] = n * size + i * sh * PW + j * sw, t * step
                t += 1


@separate_kernel
def product_by_channels(x, places, count, taps, K, w, first, along, y, C):
    """y[to + c] = first[along·to + c] + Σ_{k<K} x[from + taps[2k + 1]] · w[taps[2k] + c] for c < C: see
    `channels_in_lanes`"""
    simd.channels_in_lanes(x, places, count, taps, K, w, first, along, y, -(-C // simd.lanes(y)))


@kernel
def images_together(N, pixels):
    """How many of N images are taken at a time"""
    return max(1, min(N, TOGETHER // max(pixels, 1)))


@kernel
def tabled_forward(x, turned, b, y, kernel_size, stride, before):
    """y = b + w ⋆ x, for the filters `turned` as filters.py has them"""
    (N, C, H, W), (F, OH, OW), (KH, KW) = x.shape, y.shape[1:], kernel_size
    K, row, pixels, (PH, PW) = (
        C * KH * KW,
        wide_row(F),
        OH * OW,
        padded_size((H, W), (OH, OW), (KH, KW), stride, before),
    )
    group, size, inside = images_together(N, pixels), C * PH * PW, PH == H and PW == W
    table, places = np.empty(2 * K, np.int64), np.empty(2 * group * pixels, np.int64)
    taps_in_image(table, 1, C, (KH, KW), (PH, PW), row)
    pixels_in_image(places, 0, (group, size, PW), (OH, OW), stride, row)
    image = x.reshape(-1) if inside else zeros(group * size, x)
    maps, bias, filters = empty(group * pixels * row, x), padded_bias(b, row, x), turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        if inside:
            image = x[first:].reshape(-1)
        else:
            for g in range(count):
                put(x[first + g], image, g * size + before[0] * PW + before[1], PH, PW)
        product_by_channels(image, places, count * pixels, table, K, filters, bias, 0, maps, F)
        for g in range(count):
            transpose(maps[g * pixels * row :], row, y[first + g].reshape(-1), pixels, pixels, F)


@kernel
def tabled_backward_input(dout, turned, dx, kernel_size, stride, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)"""
    (N, F, OH, OW), (C, H, W), (sh, sw), row = dout.shape, dx.shape[1:], stride, wide_row(dx.shape[1])
    BH, BW, QH, QW = dout_around((H, W), (OH, OW), kernel_size, stride, before)
    group, size, pixels = images_together(N, H * W), F * QH * QW, H * W
    table, places = np.empty(2 * turned.shape[0], np.int64), np.empty(2 * group * pixels, np.int64)
    inside = BH == 0 and BW == 0 and QH == OH and QW == OW
    around = dout.reshape(-1) if inside else zeros(group * size, dx)
    maps, none, filters = empty(group * pixels * row, dx), zeros(row, dx), turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        if inside:
            around = dout[first:].reshape(-1)
        else:
            for g in range(count):
                put(dout[first + g], around, g * size + BH * QW + BW, QH, QW)
        for a in range(sh):
            for b in range(sw):
                m, K = 0, taps_of_phase(table, F, kernel_size, stride, (a, b), (row, QH, QW))
                h0, rows, top = phase_of(H, before[0], sh, a)
                w0, columns, left = phase_of(W, before[1], sw, b)
                for g in range(count):
                    for i in range(rows):
                        for j in range(columns):
                            places[2 * m] = g * size + (top + i + BH) * QW + left + j + BW
                            places[2 * m + 1] = (g * pixels + (h0 + i * sh) * W + w0 + j * sw) * row
                            m += 1
                product_by_channels(around, places, m, table, K, filters, none, 0, maps, C)
        for g in range(count):
            transpose(maps[g * pixels * row :], row, dx[first + g].reshape(-1), pixels, pixels, C)


@kernel
def tabled_backward_weight(dout, x, dw, stride, before, filter):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, _, OH, OW), (F, C, KH, KW), (H, W), row = dout.shape, dw.shape, x.shape[2:], wide_row(dw.shape[0])
    K, pixels, (PH, PW) = C * KH * KW, OH * OW, padded_size((H, W), (OH, OW), (KH, KW), stride, before)
    group, size, inside = images_together(N, pixels), C * PH * PW, PH == H and PW == W
    table, places = np.empty(2 * group * pixels, np.int64), np.empty(2 * K, np.int64)
    taps_in_image(places, 0, C, (KH, KW), (PH, PW), row)
    pixels_in_image(table, 1, (group, size, PW), (OH, OW), stride, row)
    image = x.reshape(-1) if inside else zeros(group * size, x)
    maps, sums = zeros(group * pixels * row, x), zeros(K * row, x)
    for first in range(0, N, group):
        count = min(group, N - first)
        if inside:
            image = x[first:].reshape(-1)
        for g in range(count):
            if not inside:
                put(x[first + g], image, g * size + before[0] * PW + before[1], PH, PW)
            maps_of_image = dout[first + g, filter : filter + F].reshape(-1)
            transpose(maps_of_image, pixels, maps[g * pixels * row :], row, F, pixels)
        product_by_channels(image, places, K, table, count * pixels, maps, sums, 1, sums, F)
    transpose(sums, row, dw.reshape(-1), K, K, F)
