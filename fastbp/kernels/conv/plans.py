"""What is decided about a direct convolution before any kernel runs: which sums see what, as tables, and how rows of
outputs are taken as vectors.

`forward_plan`, `input_plan` and `weight_plan` make the tables by which tabled.py sums; they are made once for images of
a size.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import simd

ROOM = 1 << 17  # numbers in the rows of pixels, or of sums, that are made at a time: they stay in the second cache
TOGETHER = 8  # images at least, where there is room: a class of few pixels must fill a tile
CLASSES_FROM = 8  # channels from which the taps of a class fill a tile
ALIASED = 512  # numbers: maps that lie a multiple of this apart share few lines of the first cache
WORTH = 0.95  # of all products of dw, below which classes of taps are worth their tables
PANEL = simd.PANEL
DIRECT = 1.25  # vectors of single rows for each one of all rows together, above which the rows are taken together


def wide(C):
    """The numbers from one row of C channels to the next: an odd number of panels, lest rows lie powers of two apart"""
    return (-(-C // PANEL) | 1) * PANEL


def vectors(OH, OW, row, L):
    """(how many vectors hold a map, whether its rows go straight to their place) for `row` pixels from one row to the
    next"""
    along, together = OH * -(-OW // L), -(-((OH - 1) * row + OW) // L)
    straight = OW >= L and along <= DIRECT * together
    return (along if straight else together), straight


class Plan(NamedTuple):
    """What is summed where for a group of `images` samples, or fewer: `tables` = (classes, terms, places), int64.

    classes (n, 4): for each class where its terms begin in `terms`, how many there are, where its sums begin in
    `places`, and how many there are; forward and for dx there are so many sums for each sample, for dw so many terms.
    Pairs in terms: where a term lies among the filters, or in the rows of dout, and in the image, or in dout, beside
    the sum's place. Pairs in places: where a sum sees the image from, and where it belongs. `size` is that of the maps
    that are seen, with zeros around them or not; `begin` is where an image's first pixel lies in such a map."""

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    images: int
    size: tuple[int, int]
    begin: int = 0


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
    return Plan((table, *map(np.concatenate, lists)), images, size)


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
    return plan_of(classes, images, (H, W))._replace(begin=top * W + left)


def apart(C: int, seen: int, products: int) -> bool:
    """Whether the taps of dw are classes, for so many pairs of taps and outputs that see pixels, of all"""
    return C >= CLASSES_FROM and seen < WORTH * products


def padded_size(image: tuple, output: tuple, kernel: tuple, stride: tuple, before: tuple) -> tuple:
    """(PH, PW) of an image with zeros around: it holds the image and all windows"""
    return tuple(max((output[k] - 1) * stride[k] + kernel[k], before[k] + image[k]) for k in range(2))
