"""Convolution of stride 1, bias and 2×2 max pooling in one pass; the convolution's output never reaches memory.

x (N, C, H, W) input · w (F, C, KH, KW), b (F,) or None · y, dout (N, F, OH // 2, OW // 2) · argmax int32 like y

    y[n, f, i, j] = b[f] + max over the window of (w ⋆ x)[n, f]

Pixels are numbered t = i·PW + j in the image with its padding, as in shifted.py; argmax holds the t of each window's
first maximum. Forward the four pixels of a window are summed in the same lane of four vectors, whose lanes are the
windows of a row or the filters of a panel, with the same bits: `Pooled` chooses. The bias comes after the maximum,
which it doesn't change.

Only one of the four pixels of a window has a gradient, and none where an activation that follows is flat. So with
(t, g) running over the pixels that have one,

    dw[f, c, p, q] = Σ g · x[t + at[c, p, q]]       a quarter or less of the dense sum's products
    db[f] = Σ g
"""

from functools import partial

import numpy as np

from .. import simd
from ..buffers import LINE, empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose
from .padding import padded_bias, put_planes, take, taps
from .ways import Calls, Geometry, Winograd

PANEL = simd.PANEL
WIDE, NARROW = 5, 3  # taps in a row from which the one pass is faster, in any layer and in one that reads images
IMAGE = 3  # channels of those, at most
BETTER = 0.75  # lanes along filters for each one along windows, below which the vectors run along filters


class Pooled:
    """The pass for one geometry. As a Way (ways.py) its calls may take a part of the batch each.

    `backward_weight` may not be cut into rows: it goes through a sample's pixels once for all filters."""

    def __init__(self, geometry: Geometry, N: int | None, dtype: np.dtype):
        self.geometry, self.dtype, self.places = geometry, np.dtype(dtype), (geometry.before, geometry.output)

    @classmethod
    def suits(cls, geometry: Geometry, N: int | None) -> bool:
        """Whether one pass can be made and is faster than two: by the geometry, for all batches alike.

        Minimal filtering has fewer products than all windows' maxima have. Where it doesn't pay, rows of wide filters
        fill the vectors of the gradients' tiles; and images have no dx, which narrow rows make slow."""
        width = geometry.kernel[1]
        pays = width >= WIDE or (width >= NARROW and geometry.channels <= IMAGE)
        fits = geometry.stride == (1, 1) and min(geometry.output) >= 2
        return fits and pays and not Winograd.suits(geometry, None)

    @property
    def by_filters(self) -> bool:
        """Whether vectors along filters are filled so much better than along a row's windows that they are faster."""
        F, columns, lanes = self.geometry.filters, self.geometry.output[1] // 2, simd.lanes_of(self.dtype)
        by_filters = -(-F // PANEL) * PANEL / F
        by_windows = -(-columns // lanes) * lanes / columns
        return by_filters < BETTER * by_windows

    @property
    def how(self) -> str:
        """Which way this is, in plain words."""
        lanes = "filters in the lanes" if self.by_filters else "a row's windows in the lanes"
        return f"one pass, register tiles with {lanes}; weight gradient over the pooled pixels alone"

    def forward(self, x, w, b, y, argmax) -> Calls:
        """y = b + the maximum of each window of w ⋆ x"""
        kernel = conv_pool_forward_by_filters if self.by_filters else conv_pool_forward
        yield partial(kernel, x, w, b, y, argmax, *self.places)

    def backward_input(self, dout, argmax, w, dx) -> Calls:
        """dx, through the pixels that have a gradient"""
        yield partial(conv_pool_backward_input, dout, argmax, w, dx, *self.places)

    def backward_weight(self, dout, argmax, x, dw, db) -> Calls:
        """dw and db (or None), likewise"""
        yield partial(conv_pool_backward_parameters, dout, argmax, x, dw, db, *self.places)


@kernel
def row_of_lines(x, OW, KW):
    """The length of a row of pixels for OW outputs: whole cache lines, so that a patch's rows lie in theirs alike"""
    line = LINE // x.itemsize
    return (OW + KW - 1 + line - 1) // line * line


@kernel
def conv_pool_forward(x, w, b, y, argmax, before, output_size):
    """y and argmax, for the convolution's output_size = (OH, OW), with the vectors along a row of windows

    Even and odd columns of the image lie apart, so that neighbouring windows read neighbouring pixels."""
    (N, C, H, W), F, (KH, KW), (OH, OW) = x.shape, w.shape[0], w.shape[2:], output_size
    K, PH, PW, L = C * KH * KW, OH + KH - 1, row_of_lines(x, OW, KW), simd.lanes(x)
    (rows, columns), (top, left) = y.shape[2:], before
    half = max((columns + L - 1) // L * L + KW // 2, (left + 1) // 2 + (W + 2 * L - 1) // (2 * L) * L)
    half = (half + L - 1) // L * L  # a row's pixels of one kind, all that is read and written by vectors
    at, split, bias = np.empty(2 * K, np.int64), zeros(2 * C * PH * half + L, x), padded_bias(b, F, x)
    for q in range(2):
        for k in range(K):
            c, p, column = k // (KH * KW), k // KW % KH, q + k % KW
            at[q * K + k] = ((2 * c + column % 2) * PH + p) * half + column // 2
    weights, images, maxima, numbers = w.reshape(-1), x.reshape(-1), y.reshape(-1), argmax.reshape(-1)
    for n in range(N):
        for c in range(C):
            even = (2 * c + left % 2) * PH * half + left // 2  # where the image's column 0 lies in a row, and column 1
            odd = (2 * c + (left + 1) % 2) * PH * half + (left + 1) // 2
            for h in range(H):
                to = (top + h) * half
                simd.split_row(images, ((n * C + c) * H + h) * W, split, even + to, odd + to, W, x.dtype.type(0))
        for i in range(rows):
            start = split[2 * i * half :]
            for f in range(0, F, simd.pixel_filters(x)):
                out, filters = ((n * F + f) * rows + i) * columns, min(simd.pixel_filters(x), F - f)
                simd.windows_by_pixels(weights, f * K, K, start, half, at, K, bias[f:], maxima, numbers, out,
                                       rows * columns, 2 * i * PW, PW, columns, filters)  # fmt: skip


@kernel
def filters_in_lanes(w):
    """The filters (F, C, KH, KW) as panels (F / PANEL, C·KH·KW, PANEL), 0 beyond F"""
    F, K = w.shape[0], w.size // w.shape[0]
    weights = zeros((F + simd.PANEL - 1) // simd.PANEL * simd.PANEL * K, w)
    for f in range(0, F, simd.PANEL):
        transpose(w[f : f + simd.PANEL].reshape(-1), K, weights[f * K :], simd.PANEL, min(simd.PANEL, F - f), K)
    return weights


@kernel
def conv_pool_forward_by_filters(x, w, b, y, argmax, before, output_size):
    """`conv_pool_forward` with the vectors along filters: those of a panel lie together for each tap"""
    (N, C), F, (KH, KW), (OH, OW) = x.shape[:2], w.shape[0], w.shape[2:], output_size
    K, PH, PW, panel = C * KH * KW, OH + KH - 1, row_of_lines(x, OW, KW), PANEL
    rows, columns = y.shape[2:]
    windows, panels = rows * columns, (F + panel - 1) // panel
    wide = panels * panel
    in_x, image, bias = np.empty(K, np.int64), zeros(C * PH * PW, x), padded_bias(b, wide, x)
    weights, maxima, numbers = filters_in_lanes(w), empty(windows * wide, x), np.empty(windows * wide, np.int32)
    taps(in_x, C, (KH, KW), (PH, PW), 0, PH * PW)
    for n in range(N):
        put_planes(x[n], image, ((1, 1), before), (1, 1), PH, PW)
        for i in range(rows):
            pixel, out = 2 * i * PW, i * columns * wide
            simd.windows_by_filters(image, pixel, PW, in_x, weights, 0, panel, K * panel, K, bias, maxima, numbers, out,
                                    wide, pixel, columns, panels)  # fmt: skip
        transpose(maxima, wide, y[n].reshape(-1), windows, windows, F)
        transpose(numbers, wide, argmax[n].reshape(-1), windows, windows, F)


@kernel
def conv_pool_backward_parameters(dout, argmax, x, dw, db, before, output_size):
    """dw and db (or None)

    Windows without a gradient take part with g = 0: to leave them out takes longer than it saves where half of them
    have one. A second copy of the image, shifted by half a cache line, is read where a row of a patch would lie across
    two lines."""
    (N, C), (F, _, KH, KW), (OH, OW), L = x.shape[:2], dw.shape, output_size, simd.sparse_lanes(dw)
    PH, PW, vectors, line = OH + KH - 1, row_of_lines(x, OW, KW), (KW + L - 1) // L, LINE // x.itemsize
    R, size = C * KH * vectors, (C * PH * PW + vectors * L + line - 1) // line * line
    image = zeros(2 * size + 2 * line, x)
    copy = size + line // 2
    rows, to, sums = np.empty(R, np.int64), np.empty(R, np.int64), np.empty(F * R * L, x.dtype)
    for r in range(R):
        rows[r], to[r] = row_of_patch(r, (KH, vectors, L), (PH, PW)), r * L
    sums[:] = 0
    windows, zero = dout.shape[2] * dout.shape[3], x.dtype.type(0)
    places = np.empty(windows, np.int32)
    groups, whole = -(-R // simd.sparse_rows(dw)), simd.SPARSE_STEP
    step = -(-R // (groups * whole)) * whole  # equal groups of rows, or nearly: 15 = 9 + 6, for which there are bodies
    douts, pixels = dout.reshape(-1), argmax.reshape(-1)
    if db is not None:
        db[:] = 0
    for n in range(N):
        put_planes(x[n], image, ((1, 1), before), (1, 1), PH, PW)
        put_planes(x[n], image[copy:], ((1, 1), before), (1, 1), PH, PW)
        for f in range(F):
            first = (n * F + f) * windows
            gradients = douts[first : first + windows]
            for s in range(windows):
                pixel = pixels[first + s]
                places[s] = pixel + (copy if pixel & (line - 1) > line - L else 0)
            for r in range(0, R, step):
                simd.add_weighted_rows(
                    gradients, places, 0, windows, image, rows, r, sums, f * R * L, to, min(step, R - r)
                )
            if db is not None:
                total = zero  # summed up in db itself, its order would depend on where in memory db lies
                for s in range(windows):
                    total += gradients[s]
                db[f] += total
    for r in range(F * C * KH):
        simd.copy_row(sums, r * vectors * L, dw, r * KW, KW, zero)


@kernel
def conv_pool_backward_input(dout, argmax, w, dx, before, output_size):
    """dx[n, c, i + p − top, j + q − left] = Σ_{f, p, q} g · w[f, c, p, q] over the pixels (i, j) that have a gradient g

    A window's pixels that have one, a pixel for each filter at most, are four neighbours: together they reach a patch
    of (KH + 1)×(KW + 1) inputs. A patch is summed over the filters in registers, from filters that are shifted to each
    of the four places, with zeros around, and is added to the image once."""
    (N, C), F, (KH, KW), (OH, OW) = dx.shape[:2], w.shape[0], w.shape[2:], output_size
    PH, PW, L = OH + KH - 1, row_of_lines(dx, OW, KW), simd.sparse_lanes(dx)
    V, windows, columns = KW // L + 1, dout.shape[2] * dout.shape[3], dout.shape[3]
    R = (KH + 1) * V  # rows of a channel's patch
    most = simd.sparse_rows(dx)
    together = max(1, most // R)  # channels that are summed at once lie together, for all filters, in the second cache
    step = together * (KH + 2) * V * L
    offsets, to = np.empty(C * R, np.int64), np.empty(C * R, np.int64)
    for r in range(C * R):
        c = r // R
        offsets[r] = c // together * 2 * F * step + (c % together * (KH + 2) * V + r % R) * L
        to[r] = row_of_patch(r, (KH + 1, V, L), (PH, PW))
    # A filter lies there twice, from column 0 on and from column 1 on, with a row of zeros above and below: who starts
    # a row higher has it one row lower
    shifted, weights = zeros(-(-C // together) * 2 * F * step + LINE, dx), w.reshape(-1)
    for f in range(F):
        for c in range(C):
            for k in range(2 * KH):
                side, p = k // KH, k % KH
                row = (2 * f + side) * step + offsets[c * R] + (p + 1) * V * L + side
                simd.copy_row_and_zeros(weights, ((f * C + c) * KH + p) * KW, shifted, row, KW)
    image = empty(C * PH * PW + V * L, dx)
    gradients, places = np.empty(F * windows, dx.dtype), np.empty(F * windows, np.int64)
    begins = np.empty(windows + 1, np.int64)
    for n in range(N):
        live_filters(dout[n], argmax[n], PW, (step, V * L), (gradients, places, begins))
        image[:] = 0
        for block in range(0, C * R, together * R):
            for r in range(block, min(block + together * R, C * R), most):
                rows = min(most, block + together * R - r, C * R - r)
                for s in range(windows):
                    corner, first, count = s // columns * 2 * PW + s % columns * 2, begins[s], begins[s + 1] - begins[s]
                    simd.add_weighted_rows(
                        gradients, places, first, count, shifted, offsets, r, image, corner, to, rows
                    )
        take(image[before[0] * PW + before[1] :], PH * PW, PW, dx[n], None)


@separate_kernel
def live_filters(dout, argmax, PW, sizes, out):
    """For each window the filters that have a gradient: their dout, and where their copy for the pixel begins, for
    sizes = (a copy, a row of it); out = (gradients, places, begins), of which window s has those from begins[s] to
    begins[s + 1]"""
    (gradients, places, begins), (F, rows, columns), (copy, row) = out, dout.shape, sizes
    count = 0
    for i in range(rows):
        for j in range(columns):
            begins[i * columns + j] = count
            corner = 2 * i * PW + 2 * j
            for f in range(F):  # without a branch to mispredict: an entry that doesn't count is overwritten by the next
                apart = argmax[f, i, j] - corner
                gradients[count] = dout[f, i, j]
                places[count] = (2 * f + apart) * copy + row if apart < 2 else (2 * f + apart - PW) * copy
                count += dout[f, i, j] != 0
    begins[rows * columns] = count


@kernel
def row_of_patch(r, patch, padded):
    """Where row r = (c, p, v) of a patch = (rows, vectors, lanes) lies in an image of padded = (PH, PW) pixels"""
    rows, vectors, L = patch
    return (r // (rows * vectors) * padded[0] + r // vectors % rows) * padded[1] + r % vectors * L
