"""Pooling over windows: x, dx (N, C, H, W) · y, dout (N, C, OH, OW).

The window of output (i, j) starts at row i·sh − ph and column j·sw − pw of the input and spans KH×KW pixels, where
`window` is (KH, KW), `stride` (sh, sw) and `padding` (ph, pw). Pixels outside the input never win a maximum and count
as zeros in an average. Rows and columns that no window reaches get gradient 0.

All is done by vectors of a row's windows. So that a tap of neighbouring windows lies in neighbouring places, a row with
its padding is split into `phases`: column v = w + pw lies in phase v % sw at place v // sw. Tap q of window j is then
number j + q // sw of phase q % sw.

An average is a sum over the window's rows, of all columns, and then over its columns.
"""

import numpy as np

from . import simd
from .buffers import empty, zeros
from .jit import kernel

ROOM = 24 << 10  # bytes of split rows: they stay in the first cache


@kernel
def length_of_phase(x, W, OW, KW, stride, padding):
    """Room for a phase of a row, so that whole vectors can be read and written: see simd.pool_row and split_row

    It is a whole number of vectors, so that they lie in cache lines of their own."""
    L = simd.lanes(x)
    read = max(OW, L) + (KW - 1) // stride
    written = (padding + stride - 1) // stride + (W + stride * L - 1) // (stride * L) * L
    return (max(read, written) + L - 1) // L * L


@kernel
def places_of_columns(W, stride, padding, phase):
    """Where column w lies in a split row"""
    places = np.empty(W, np.int64)
    for w in range(W):
        places[w] = (w + padding) % stride * phase + (w + padding) // stride
    return places


@kernel
def split(x, start, size, rows, to, places, stride, fill):
    """size = (count, W, row): so many rows of W numbers of x, from `start` on, into split rows, `row` long, of which
    the first begins at `to`; `fill` is what lies around them"""
    count, W, row = size
    for h in range(count):
        line, target = start + h * W, to + h * row
        if stride == 1:
            simd.copy_row(x, line, rows, target + places[0], W, x.dtype.type(0))
        elif stride == 2 and W > 1:
            simd.split_row(x, line, rows, target + places[0], target + places[1], W, fill)
        else:
            for w in range(W):
                rows[np.uint64(target + places[w])] = x[np.uint64(line + w)]


@kernel
def max_pool2d_forward(x, y, argmax, window, stride, padding):
    """y = the window's maximum; argmax (N, C, OH, OW) int32 = h·W + w of the first one in row-major order

    A NaN in the window is its maximum, and the last one counts."""
    (H, W), (OH, OW), (KH, KW), (SH, SW) = x.shape[2:], y.shape[2:], window, stride
    (PH, PW), X, Y, numbers = padding, x.reshape(-1), y.reshape(-1), argmax.reshape(-1)
    phase, nothing = length_of_phase(x, W, OW, KW, SW, PW), x.dtype.type(-np.inf)
    row, places = SW * phase, places_of_columns(W, SW, PW, phase)
    band = min(OH, max(0, ROOM // (x.itemsize * row) - KH) // SH + 1)  # rows of y for which rows lie split at a time
    rows = empty(((band - 1) * SH + KH) * row, x)
    rows[:] = nothing
    starts, steps = np.empty(KH * KW, np.int64), np.empty(KH * KW, np.int32)
    for t in range(KH * KW):
        p, q = t // KW, t % KW
        starts[t], steps[t] = p * row + q % SW * phase + q // SW, p * W + q
    for m in range(x.shape[0] * x.shape[1]):
        for begin in range(0, OH, band):
            end, top = min(begin + band, OH), begin * SH - PH
            first, last = max(top, 0), min((end - 1) * SH - PH + KH, H)
            split(X, (m * H + first) * W, (last - first, W, row), rows, (first - top) * row, places, SW, nothing)
            for i in range(begin, end):
                h0 = i * SH - PH
                first, last = max(-h0, 0), min(KH, H - h0)  # rows of the window that lie in the image
                simd.pool_row(
                    rows, (h0 - top) * row, starts, steps, first * KW, (last - first) * KW, Y, numbers,
                    (m * OH + i) * OW, h0 * W - PW, (h0 + first) * W, SW, OW
                )  # fmt: skip


@kernel
def max_pool_pairs_forward(x, y, argmax):
    """The same for windows of 2×2 with stride 2, without padding"""
    (H, W), (OH, OW) = x.shape[2:], y.shape[2:]
    pixels, maxima, numbers = x.reshape(-1), y.reshape(-1), argmax.reshape(-1)
    for m in range(x.shape[0] * x.shape[1]):
        for i in range(OH):
            top = m * H * W + 2 * i * W
            simd.pool_pairs(pixels, top, top + W, maxima, numbers, (m * OH + i) * OW, 2 * i * W, W, OW)


@kernel
def max_pool2d_backward(dout, argmax, dx):
    """dx[n, c, argmax[n, c, i, j]] = Σ dout[n, c, i, j], 0 elsewhere"""
    P, OP = dx.shape[2] * dx.shape[3], dout.shape[2] * dout.shape[3]
    G, AT, DX = dout.reshape(-1), argmax.reshape(-1), dx.reshape(-1)
    for m in range(dx.shape[0] * dx.shape[1]):
        plane, out = np.uint64(m * P), np.uint64(m * OP)
        for t in range(P):
            DX[plane + np.uint64(t)] = 0
        for t in range(OP):
            DX[plane + np.uint64(AT[out + np.uint64(t)])] += G[out + np.uint64(t)]


@kernel
def avg_pool2d_forward(x, y, window, stride, padding):
    """y = (Σ of the window) / (KH·KW), padding counted as zeros"""
    (H, W), (OH, OW), (KH, KW), (SH, SW) = x.shape[2:], y.shape[2:], window, stride
    (PH, PW), X, Y, zero = padding, x.reshape(-1), y.reshape(-1), x.dtype.type(0)
    share, phase = x.dtype.type(1 / (KH * KW)), length_of_phase(x, W, OW, KW, SW, PW)
    if window == (H, W) and padding == (0, 0):  # a map's average
        for m in range(Y.size):
            total = zero
            for t in range(H * W):
                total += X[np.uint64(m * H * W) + np.uint64(t)]
            Y[m] = share * total
        return
    row, places = SW * phase, places_of_columns(W, SW, PW, phase)
    band = min(OH, max(1, ROOM // (x.itemsize * (W + row))))  # rows of y that are done at a time
    sums, rows = empty(band * W, x), zeros(band * row, x)
    down, across = np.arange(KH) * W, np.empty(KW, np.int64)
    for q in range(KW):
        across[q] = q % SW * phase + q // SW
    for m in range(x.shape[0] * x.shape[1]):
        for begin in range(0, OH, band):
            count = min(band, OH - begin)
            for i in range(count):
                h0 = (begin + i) * SH - PH
                first, last = max(-h0, 0), min(KH, H - h0)
                simd.sum_taps(X, (m * H + h0) * W, down, first, last - first, share, sums, i * W, W)
            split(sums, 0, (count, W, row), rows, 0, places, SW, zero)
            for i in range(count):
                out = (m * OH + begin + i) * OW
                simd.sum_taps(rows, i * row, across, 0, KW, x.dtype.type(1), Y, out, OW)


@kernel
def avg_pool_pairs_forward(x, y):
    """The same for windows of 2×2 with stride 2, without padding"""
    (H, W), (OH, OW), X, Y = x.shape[2:], y.shape[2:], x.reshape(-1), y.reshape(-1)
    for m in range(x.shape[0] * x.shape[1]):
        for i in range(OH):
            top = m * H * W + 2 * i * W
            simd.sum_pairs(X, top, top + W, x.dtype.type(0.25), Y, (m * OH + i) * OW, OW)


@kernel
def avg_pool2d_backward(dout, dx, window, stride, padding):
    """dx[n, c, h, w] = Σ dout[n, c, i, j] / (KH·KW) over the windows that hold (h, w)

    Row after row of dx: `sums` over the windows' rows that hold it; then each phase of a split row is a sum of those,
    shifted by a tap each, or where windows don't overlap one of those. A row in the same windows as the one before is
    equal to it."""
    (H, W), (OH, OW), (KH, KW), (SH, SW) = dx.shape[2:], dout.shape[2:], window, stride
    (PH, PW), G, DX, zero = padding, dout.reshape(-1), dx.reshape(-1), dx.dtype.type(0)
    share, L = dx.dtype.type(1 / (KH * KW)), simd.lanes(dx)
    if window == (H, W) and padding == (0, 0):
        for m in range(G.size):
            g = share * G[m]
            for t in range(H * W):
                DX[np.uint64(m * H * W) + np.uint64(t)] = g
        return
    wide, around = (W + PW + SW - 1) // SW, (KW - 1) // SW + 1  # numbers of a phase; zeros before and after the sums
    phase = max(wide, L) + L
    places, row = places_of_columns(W, SW, PW, phase), zeros(SW * phase, dx)
    sums, down, across = zeros(around + max(wide, OW), dx), np.arange(OH) * OW, -np.arange(around)
    apart = KW <= SW and SW > 2
    if apart:  # where in `sums` a column's gradient is, or a zero
        for w in range(W):
            places[w] = around + (w + PW) // SW if (w + PW) % SW < KW else 0
    for m in range(dx.shape[0] * dx.shape[1]):
        held = (-1, -1)  # the windows' rows that hold the row before
        for h in range(H):
            first, last = max(0, (h + PH - KH) // SH + 1), min(OH - 1, (h + PH) // SH)
            to, same, held = (m * H + h) * W, h > 0 and held == (first, last), (first, last)
            if same:
                simd.copy_row(DX, to - W, DX, to, W, zero)
                continue
            simd.sum_taps(G, m * OH * OW, down, first, max(0, last + 1 - first), share, sums, around, OW)
            for s in range(0 if apart else SW):
                taps = max(0, (KW - s + SW - 1) // SW)
                simd.sum_taps(sums, around, across, 0, taps, dx.dtype.type(1), row, s * phase, wide)
            if SW == 1:
                simd.copy_row(row, PW, DX, to, W, zero)
            elif SW == 2 and W > 1:
                simd.join_row(row, places[0], places[1], DX, to, W)
            else:
                source = sums if apart else row
                for w in range(W):
                    DX[np.uint64(to + w)] = source[np.uint64(places[w])]


@kernel
def avg_pool_pairs_backward(dout, dx):
    """The same for windows of 2×2 with stride 2, without padding"""
    (H, W), (OH, OW), G, DX = dx.shape[2:], dout.shape[2:], dout.reshape(-1), dx.reshape(-1)
    share, zero = dx.dtype.type(0.25), dx.dtype.type(0)
    for m in range(dx.shape[0] * dx.shape[1]):
        for i in range(OH):
            top = (m * H + 2 * i) * W
            simd.spread_pairs(G, (m * OH + i) * OW, share, DX, top, top + W, OW)
            if W > 2 * OW:
                DX[np.uint64(top + W - 1)] = DX[np.uint64(top + 2 * W - 1)] = zero
        for w in range(2 * OH * W, H * W):
            DX[np.uint64(m * H * W + w)] = zero
