"""Convolution of any stride with channels in the lanes: each output is a row of sums, one for each filter.

Pixels are single numbers, so they may lie anywhere: tables say where, and the image is never unfolded.

    forward   pixels × filters,  summed over the taps of the filters
    dx        pixels × channels, summed over filters and taps, for each of the sh·sw phases of a pixel to the stride
    dw        taps × filters,    summed over the pixels of all images

Taps that see only zeros around an image, or around dout, are left out: pixels that see the same taps are taken
together, with a table of their own. For a filter of 5×5 on a map of 7×7 it is every third product, for dx of 12×12
pixels from a map of 8×8 more than every second.

Rows of pixels with their channels are transposed to maps of channels, and dout to such rows.
"""

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose
from .filters import wide_row
from .padding import activated, padded_bias, put
from .shifted import phase_of

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


# -- forward and dx ----------------------------------------------------------------------------------------------------


@kernel
def axis_of(adjoint, sizes, kernel, stride, before, phase):
    """(points, taps, places) along an axis: which points there are, (count, position, step, sign), of which point i and
    tap k see position + i·step + k·sign; which taps, (count, first, step); where the points lie, (first, step)

    The points are outputs or, for the adjoint, the pixels of a phase; sizes = (of the image, of the output)."""
    if not adjoint:
        return (sizes[1], -before, stride, 1), (kernel, 0, 1), (0, 1)
    first, count, place = phase_of(sizes[0], before, stride, phase)
    return (count, place, 1, -1), (max(kernel - phase + stride - 1, 0) // stride, phase, stride), (first, stride)


@separate_kernel
def runs_of(points, taps, size):
    """(runs, 4): the first point of each run that sees the same taps, how many points, the first tap, and the one after
    the last, for positions below `size`"""
    (count, position, step, sign), runs, n = points, np.empty((max(points[0], 0), 4), np.int64), 0
    for i in range(count):
        at = position + i * step
        low, high = (max(-at, 0), min(size - at, taps)) if sign > 0 else (max(at - size + 1, 0), min(at + 1, taps))
        high = max(low, high)
        if n > 0 and runs[n - 1, 2] == low and runs[n - 1, 3] == high:
            runs[n - 1, 1] += 1
            continue
        runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = i, 1, low, high
        n += 1
    return runs[:n]


@kernel
def terms_of(rows, columns):
    """The pairs of taps that all pairs of runs see"""
    return (rows[:, 3] - rows[:, 2]).sum() * (columns[:, 3] - columns[:, 2]).sum()


@separate_kernel
def plan(adjoint, images, maps, sizes, kernel_size, geometry, row):
    """(classes, table, places) for `images` samples: of each class of pixels that see the same taps, where its table
    begins, how many terms it has, where its places begin, and how many there are in a sample

    maps = (C, SH, SW), what is read; sizes = (of the image, of the output); geometry = (stride, before)"""
    (C, SH, SW), (KH, KW), ((sh, sw), (top, left)) = maps, kernel_size, geometry
    heights, widths = (sizes[0][0], sizes[1][0]), (sizes[0][1], sizes[1][1])
    wide, pixels = (widths[0], heights[0] * widths[0]) if adjoint else (widths[1], heights[1] * widths[1])
    phases, terms, count = (sh, sw) if adjoint else (1, 1), 0, 0
    for a in range(phases[0]):
        points, taps, _ = axis_of(adjoint, heights, KH, sh, top, a)
        rows = runs_of(points, taps[0], SH)
        for b in range(phases[1]):
            points, taps, _ = axis_of(adjoint, widths, KW, sw, left, b)
            columns = runs_of(points, taps[0], SW)
            terms, count = terms + terms_of(rows, columns), count + len(rows) * len(columns)
    classes, table = np.empty((count, 4), np.int64), np.empty(2 * C * terms, np.int64)
    places, k, m, n = np.empty(2 * images * pixels, np.int64), 0, 0, 0
    for a in range(phases[0]):
        points_down, taps_down, down = axis_of(adjoint, heights, KH, sh, top, a)
        for b in range(phases[1]):
            points_across, taps_across, across = axis_of(adjoint, widths, KW, sw, left, b)
            for run in runs_of(points_down, taps_down[0], SH):
                for other in runs_of(points_across, taps_across[0], SW):
                    first, start = k, m
                    for c in range(C):
                        for p in range(run[2], run[3]):
                            for q in range(other[2], other[3]):
                                tap = (c * KH + taps_down[1] + p * taps_down[2]) * KW
                                table[2 * k] = (tap + taps_across[1] + q * taps_across[2]) * row
                                table[2 * k + 1] = (c * SH + p * points_down[3]) * SW + q * points_across[3]
                                k += 1
                    for g in range(images):
                        for i in range(run[0], run[0] + run[1]):
                            for j in range(other[0], other[0] + other[1]):
                                seen = g * C * SH * SW + (points_down[1] + i * points_down[2]) * SW
                                places[2 * m] = seen + points_across[1] + j * points_across[2]
                                pixel = (down[0] + i * down[1]) * wide + across[0] + j * across[1]
                                places[2 * m + 1] = (g * pixels + pixel) * row
                                m += 1
                    classes[n, 0], classes[n, 1] = first, k - first
                    classes[n, 2], classes[n, 3] = start, run[1] * other[1]
                    n += 1
    return classes, table, places


@kernel
def sums_of_classes(source, planned, count, filters, bias, maps, C):
    """The rows of channels of all pixels of `count` samples"""
    classes, table, places = planned
    for n in range(len(classes)):
        at = places[2 * classes[n, 2] :]
        product_by_channels(
            source, at, count * classes[n, 3], table[2 * classes[n, 0] :], classes[n, 1], filters, bias, 0, maps, C
        )


@kernel
def tabled_forward(x, turned, b, y, out, kind, numbers, kernel_size, stride, before):
    """y = b + w ⋆ x, for the filters `turned` as filters.py has them, and out, the activation of that kind of
    y, which may be y"""
    (N, C, H, W), (F, OH, OW), row, pixels = x.shape, y.shape[1:], wide_row(y.shape[1]), y.shape[2] * y.shape[3]
    group = images_together(N, pixels)
    planned = plan(False, group, (C, H, W), ((H, W), (OH, OW)), kernel_size, (stride, before), row)
    maps, bias, filters = empty(group * pixels * row, x), padded_bias(b, row, x), turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        sums_of_classes(x[first:].reshape(-1), planned, count, filters, bias, maps, F)
        for g in range(count):
            transpose(maps[g * pixels * row :], row, y[first + g].reshape(-1), pixels, pixels, F)
        activated(y[first : first + count], out[first : first + count], kind, numbers)


@kernel
def tabled_backward_input(dout, turned, dx, kernel_size, stride, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)"""
    (N, F, OH, OW), (C, H, W), row, pixels = dout.shape, dx.shape[1:], wide_row(dx.shape[1]), dx.shape[2] * dx.shape[3]
    group = images_together(N, pixels)
    planned = plan(True, group, (F, OH, OW), ((H, W), (OH, OW)), kernel_size, (stride, before), row)
    maps, none, filters = empty(group * pixels * row, dx), zeros(row, dx), turned.reshape(-1)
    for first in range(0, N, group):
        count = min(group, N - first)
        sums_of_classes(dout[first:].reshape(-1), planned, count, filters, none, maps, C)
        for g in range(count):
            transpose(maps[g * pixels * row :], row, dx[first + g].reshape(-1), pixels, pixels, C)


# -- dw ----------------------------------------------------------------------------------------------------------------


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
