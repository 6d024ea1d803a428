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

import math
from typing import NamedTuple

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose
from .filters import wide, wide_row
from .padding import activated, padded_bias, put

ROOM = 1 << 17  # numbers in the rows of pixels, or of sums, that are made at a time: they stay in the second cache
TOGETHER = 8  # images at least, where there is room: a class of few pixels must fill a tile
CLASSES_FROM = 8  # channels from which the taps of a class fill a tile
ALIASED = 512  # numbers: maps that lie a multiple of this apart share few lines of the first cache
WORTH = 0.95  # of all products of dw, below which classes of taps are worth their tables


# -- tables ------------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What is summed where for a group of `images` samples, or fewer.

    classes (n, 4): for each class where its terms begin in `terms`, how many there are, where its sums begin in
    `places`, and how many there are; forward and for dx there are so many sums for each sample, for dw so many terms.
    Pairs in terms: where a term lies among the filters, or in the rows of dout, and in the image, or in dout, beside
    the sum's place. Pairs in places: where a sum sees the image from, and where it belongs. `size` is that of the maps
    that are seen, with zeros around them or not."""

    classes: np.ndarray
    terms: np.ndarray
    places: np.ndarray
    images: int
    size: tuple[int, int]


def images_together(numbers: int) -> int:
    """How many images are taken at a time, for the numbers in the rows of pixels of one"""
    return max(1, min(TOGETHER, ROOM // max(numbers, 1)))


def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of both in turn, flat"""
    return np.stack(np.broadcast_arrays(first, second), axis=-1).reshape(-1)


def on_axes(*ranges) -> list[np.ndarray]:
    """Each of the ranges along an axis of its own"""
    return np.ix_(*(np.asarray(numbers, np.int64) for numbers in ranges))


def rows_of_plane(C: int, size: tuple[int, int]) -> int:
    """The rows of a map with which those of C channels do not push each other out of the first cache: one more than it
    has, where needed"""
    return size[0] + (C >= CLASSES_FROM and math.prod(size) % ALIASED == 0)


def plan_of(classes: list[tuple], images: int, size: tuple) -> Plan:
    """Of classes (terms, how many, places, how many)"""
    lists, begins = [[np.empty(0, np.int64)], [np.empty(0, np.int64)]], [0, 0]
    table = np.empty((len(classes), 4), np.int64)
    for row, (terms, K, places, count) in zip(table, classes, strict=True):
        row[:] = begins[0], K, begins[1], count
        for side, numbers in enumerate((terms, places)):
            lists[side].append(numbers)
            begins[side] += numbers.size // 2
    return Plan(table, *map(np.concatenate, lists), images, size)


def runs(positions: np.ndarray, sign: int, taps: int, size: int) -> list[tuple]:
    """(points, taps) of runs of points that see the same taps: point i and tap k see position positions[i] + sign·k,
    which must be one of `size`"""
    seen = positions[:, None] + sign * np.arange(taps)
    seen = (seen >= 0) & (seen < size)
    cuts = np.flatnonzero((seen[1:] != seen[:-1]).any(1)) + 1
    return [(points, np.flatnonzero(seen[points[0]])) for points in np.split(np.arange(len(seen)), cuts) if points.size]


def forward_plan(C: int, F: int, image: tuple, output: tuple, kernel: tuple, stride: tuple, before: tuple) -> Plan:
    """y = w ⋆ x, from images (C, *image)"""
    (H, W), (OH, OW), (KH, KW), row = image, output, kernel, wide(F)
    images, classes, S = images_together(OH * OW * row), [], rows_of_plane(C, image)
    down, across = (np.arange(output[k]) * stride[k] - before[k] for k in range(2))
    for i, p in runs(down, 1, KH, H):
        for j, q in runs(across, 1, KW, W):
            channels, ps, qs = on_axes(range(C), p, q)
            terms = pairs(((channels * KH + ps) * KW + qs) * row, (channels * S + ps) * W + qs)
            n, rows, columns = on_axes(range(images), i, j)
            places = pairs((n * C * S + down[rows]) * W + across[columns], ((n * OH + rows) * OW + columns) * row)
            classes.append((terms, terms.size // 2, places, i.size * j.size))
    return plan_of(classes, images, (S, W))


def input_plan(C: int, F: int, image: tuple, output: tuple, kernel: tuple, stride: tuple, before: tuple) -> Plan:
    """dx, from maps (F, *output)"""
    (H, W), OW, (KH, KW), row = image, output[1], kernel, wide(C)
    images, classes, S = images_together(H * W * row), [], rows_of_plane(F, output)
    axes: list[list] = [[], []]
    for k, axis in enumerate(axes):  # of each phase the pixels, and what of dout they see
        places = np.arange(image[k]) + before[k]
        for phase in range(stride[k]):
            pixels = np.flatnonzero(places % stride[k] == phase)
            taps = np.arange(phase, kernel[k], stride[k])
            found = runs(places[pixels] // stride[k], -1, taps.size, output[k])
            axis.extend(
                (pixels[points], places[pixels[points]] // stride[k], seen, taps[seen]) for points, seen in found
            )
    for h, i, down, p in axes[0]:
        for w, j, across, q in axes[1]:
            filters, ps, qs = on_axes(range(F), p, q)
            _, shift_down, shift_across = on_axes(range(F), down, across)
            terms = pairs(((filters * KH + ps) * KW + qs) * row, (filters * S - shift_down) * OW - shift_across)
            n, rows, columns = on_axes(range(images), h, w)
            _, from_row, from_column = on_axes(range(images), i, j)
            places = pairs((n * F * S + from_row) * OW + from_column, ((n * H + rows) * W + columns) * row)
            classes.append((terms, terms.size // 2, places, h.size * w.size))
    return plan_of(classes, images, (S, OW))


def weight_plan(C: int, F: int, image: tuple, output: tuple, kernel: tuple, stride: tuple, before: tuple) -> Plan:
    """dw, from images (C, *image), or from images with zeros around: see `padded_size`"""
    (OH, OW), (KH, KW), row = output, kernel, wide(F)
    images = images_together(OH * OW * row)
    windows = [np.arange(output[k])[:, None] * stride[k] - before[k] + np.arange(kernel[k]) for k in range(2)]
    seen = [(window >= 0) & (window < size) for window, size in zip(windows, image, strict=True)]
    together = not apart(C, seen[0].sum() * seen[1].sum(), seen[0].size * seen[1].size)
    (H, W), (top, left) = (padded_size(image, output, kernel, stride, before), before) if together else (image, (0, 0))
    H = rows_of_plane(C, (H, W))
    groups = [(range(KH), range(KW))] if together else [([p], [q]) for p, q in np.ndindex(KH, KW)]
    classes = []
    for p, q in groups:
        i, j = (range(output[k]) if together else np.flatnonzero(seen[k][:, (p, q)[k][0]]) for k in range(2))
        n, rows, columns = on_axes(range(images), i, j)
        begins = (n * C * H + rows * stride[0] + top - before[0]) * W + columns * stride[1] + left - before[1]
        channels, ps, qs = on_axes(range(C), p, q)
        places = pairs((channels * H + ps) * W + qs, ((channels * KH + ps) * KW + qs) * row)
        classes.append(
            (pairs(((n * OH + rows) * OW + columns) * row, begins), len(i) * len(j), places, places.size // 2)
        )
    return plan_of(classes, images, (H, W))


def apart(C: int, seen: int, products: int) -> bool:
    """Whether the taps of dw are classes, for so many pairs of taps and outputs that see pixels, of all"""
    return C >= CLASSES_FROM and seen < WORTH * products


def padded_size(image: tuple, output: tuple, kernel: tuple, stride: tuple, before: tuple) -> tuple:
    """(PH, PW) of an image with zeros around: it holds the image and all windows"""
    return tuple(max((output[k] - 1) * stride[k] + kernel[k], before[k] + image[k]) for k in range(2))


# -- kernels -----------------------------------------------------------------------------------------------------------


@separate_kernel
def product_by_channels(x, places, count, terms, K, w, first, along, y, C):
    """y[to + c] = first[along·to + c] + Σ_{k<K} x[from + terms[2k + 1]] · w[terms[2k] + c] for c < C: see
    `channels_in_lanes`"""
    simd.channels_in_lanes(x, places, count, terms, K, w, first, along, y, -(-C // simd.lanes(y)))


@kernel
def sums_of_pixels(source, plan, count, filters, bias, maps, C):
    """The rows of channels of all pixels of `count` samples"""
    classes, terms, places = plan
    for n in range(len(classes)):
        k, m, pixels = 2 * classes[n, 0], 2 * classes[n, 2], count * classes[n, 3]
        product_by_channels(source, places[m:], pixels, terms[k:], classes[n, 1], filters, bias, 0, maps, C)


@kernel
def tabled_forward(x, turned, b, y, out, kind, numbers, classes, terms, places, images, size):
    """y = b + w ⋆ x, for the filters `turned` as filters.py has them, and out, the activation of that kind of y, which
    may be y; by `forward_plan`"""
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
        sums_of_pixels(image, (classes, terms, places), count, filters, bias, maps, F)
        for n in range(count):
            transpose(maps[n * pixels * row :], row, y[first + n].reshape(-1), pixels, pixels, F)
        activated(y[first : first + count], out[first : first + count], kind, numbers)


@kernel
def tabled_backward_input(dout, turned, dx, classes, terms, places, images, size):
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
        sums_of_pixels(around, (classes, terms, places), count, filters, none, maps, C)
        for n in range(count):
            transpose(maps[n * pixels * row :], row, dx[first + n].reshape(-1), pixels, pixels, C)


@kernel
def tabled_backward_weight(dout, x, dw, before, filter, classes, terms, places, images, size):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i·sh + p − top, j·sw + q − left]; by `weight_plan`

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, _, OH, OW), (F, C, KH, KW), (H, W), (PH, PW) = dout.shape, dw.shape, x.shape[2:], size
    K, pixels, row, inside = C * KH * KW, OH * OW, wide_row(dw.shape[0]), PH == H and PW == W
    group = min(images, max(N, 1))
    image = x.reshape(-1) if inside else zeros(group * C * PH * PW, x)
    maps, sums = zeros(group * pixels * row, x), zeros(K * row, x)
    for first in range(0, N, images):
        count = min(images, N - first)
        if inside:
            image = x[first:].reshape(-1)
        for n in range(count):
            if not inside:
                put(x[first + n], image, n * C * PH * PW + before[0] * PW + before[1], PH, PW)
            maps_of_image = dout[first + n, filter : filter + F].reshape(-1)
            transpose(maps_of_image, pixels, maps[n * pixels * row :], row, F, pixels)
        for n in range(len(classes)):
            at, to, total = 2 * classes[n, 0], 2 * classes[n, 2], count * classes[n, 1]
            product_by_channels(image, places[to:], classes[n, 3], terms[at:], total, maps, sums, 1, sums, F)
    transpose(sums, row, dw.reshape(-1), K, K, F)
