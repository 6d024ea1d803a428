"""Convolution of any stride with channels in the lanes: each output is a row of sums, one for each filter.

Pixels are single numbers, so they may lie anywhere: tables say where, and the image is never unfolded.

    forward   pixels × filters,  summed over the taps of the filters
    dx        pixels × channels, summed over filters and taps, for each of the sh·sw phases of a pixel to the stride
    dw        taps × filters,    summed over the pixels of all images

Taps that see only zeros around an image, or around dout, are left out: pixels that see the same taps are a class with a
table of its own. For a filter of 5×5 on a map of 7×7 it is every third product, for dx of 12×12 pixels from a map of
8×8 more than every second. For dw the taps (p, q) of all channels are a class, which sees some of the pixels.

Rows of pixels with their channels are transposed to maps of channels, and dout to such rows.
"""

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose
from .filters import wide_row
from .padding import activated, padded_bias, put


@separate_kernel
def product_by_channels(x, places, terms, w, first, along, y, C):
    """y[to + c] = first[along·to + c] + Σ_{k<K} x[from + table[2k + 1]] · w[table[2k] + c] for c < C: see
    `channels_in_lanes`; places = (pairs of from and to, their count), terms = (table, K)"""
    (places, count), (terms, K) = places, terms
    simd.channels_in_lanes(x, places, count, terms, K, w, first, along, y, -(-C // simd.lanes(y)))


@kernel
def sums_of_pixels(source, plan, count, filters, bias, maps, C):
    """The rows of channels of all pixels of `count` samples"""
    classes, terms, places = plan
    for n in range(len(classes)):
        k, m, pixels = 2 * classes[n, 0], 2 * classes[n, 2], count * classes[n, 3]
        product_by_channels(source, (places[m:], pixels), (terms[k:], classes[n, 1]), filters, bias, 0, maps, C)


@kernel
def tabled_forward(x, turned, b, y, after, tables, images, size):
    """y = b + w ⋆ x, for the filters `turned` as filters.py has them, and its activation, after = (out, kind, numbers),
    which may go to y; by `forward_plan`"""
    out, kind, numbers = after
    (N, C, H, W), F, row, pixels = x.shape, y.shape[1], wide_row(y.shape[1]), y.shape[2] * y.shape[3]
    image = x.reshape(-1) if size == (H, W) else empty(min(images, N) * C * size[0] * W, x)
    maps, bias, filters = empty(min(images, N) * pixels * row, x), padded_bias(b, row, x), turned.reshape(-1)
    for first in range(0, N, images):
        count = min(images, N - first)
        if size == (H, W):
            image = x[first:].reshape(-1)
        else:
            for n in range(count):
                put(x[first + n], image, n * C * size[0] * W, size[0], W)
        sums_of_pixels(image, tables, count, filters, bias, maps, F)
        for n in range(count):
            transpose(maps[n * pixels * row :], row, y[first + n].reshape(-1), pixels, pixels, F)
        activated(y[first : first + count], out[first : first + count], kind, numbers)


@kernel
def tabled_backward_input(dout, turned, dx, tables, images, size):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w); by
    `input_plan`"""
    (N, F, OH, OW), C, row, pixels = dout.shape, dx.shape[1], wide_row(dx.shape[1]), dx.shape[2] * dx.shape[3]
    around = dout.reshape(-1) if size == (OH, OW) else empty(min(images, N) * F * size[0] * OW, dx)
    maps, none, filters = empty(min(images, N) * pixels * row, dx), zeros(row, dx), turned.reshape(-1)
    for first in range(0, N, images):
        count = min(images, N - first)
        if size == (OH, OW):
            around = dout[first:].reshape(-1)
        else:
            for n in range(count):
                put(dout[first + n], around, n * F * size[0] * OW, size[0], OW)
        sums_of_pixels(around, tables, count, filters, none, maps, C)
        for n in range(count):
            transpose(maps[n * pixels * row :], row, dx[first + n].reshape(-1), pixels, pixels, C)


@kernel
def tabled_backward_weight(dout, x, dw, filter, tables, images, size, begin):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]; by `weight_plan`

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, _, OH, OW), (F, C, KH, KW), (H, W), (PH, PW) = dout.shape, dw.shape, x.shape[2:], size
    K, pixels, row, inside = C * KH * KW, OH * OW, wide_row(dw.shape[0]), PH == H and PW == W
    group, (classes, terms, places) = min(images, max(N, 1)), tables
    image = x.reshape(-1) if inside else zeros(group * C * PH * PW, x)
    maps, sums = zeros(group * pixels * row, x), zeros(K * row, x)
    for first in range(0, N, images):
        count = min(images, N - first)
        if inside:
            image = x[first:].reshape(-1)
        for n in range(count):
            if not inside:
                put(x[first + n], image, n * C * PH * PW + begin, PH, PW)
            maps_of_image = dout[first + n, filter : filter + F].reshape(-1)
            transpose(maps_of_image, pixels, maps[n * pixels * row :], row, F, pixels)
        for n in range(len(classes)):
            at, to, total = 2 * classes[n, 0], 2 * classes[n, 2], count * classes[n, 1]
            where, what = (places[to:], classes[n, 3]), (terms[at:], total)
            product_by_channels(image, where, what, maps, sums, 1, sums, F)
    transpose(sums, row, dw.reshape(-1), K, K, F)
