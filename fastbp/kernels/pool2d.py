"""Pooling over windows: x, dx (N, C, H, W) · y, dout (N, C, OH, OW).

The window of output (i, j) starts at row i·sh − ph and column j·sw − pw of the input and spans KH×KW pixels, where
`window` is (KH, KW), `stride` (sh, sw) and `padding` (ph, pw). Pixels outside the input never win a maximum and count
as zeros in an average. Rows and columns that no window reaches get gradient 0.

Averages are taken tap by tap, tap (p, q) of all outputs of a row at once; for the maximum it does not pay. Arrays are
read flat under unsigned indices, which Numba doesn't test for being negative.
"""

import numpy as np

from . import simd
from .jit import kernel


@kernel
def columns(q, W, OW, stride, padding):
    """(first, last, w): tap q of a row's outputs first ≤ j < last lies in the image, that of the first in column w"""
    first = min(max(0, -((q - padding) // stride)), OW)
    last = max(first, min(OW, (W - 1 + padding - q) // stride + 1))
    return first, last, first * stride + q - padding


@kernel
def max_pool2d_forward(x, y, argmax, window, stride, padding):
    """y = the window's maximum; argmax (N, C, OH, OW) int32 = h·W + w of the first one in row-major order

    A NaN in the window is its maximum."""
    H, W = x.shape[2:]
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(y.shape[2]):
                h0 = i * stride[0] - padding[0]
                for j in range(y.shape[3]):
                    w0 = j * stride[1] - padding[1]
                    at = max(h0, 0) * W + max(w0, 0)
                    best = x[n, c, max(h0, 0), max(w0, 0)]
                    for h in range(max(h0, 0), min(h0 + window[0], H)):
                        for w in range(max(w0, 0), min(w0 + window[1], W)):
                            value = x[n, c, h, w]
                            if value > best or value != value:
                                best = value
                                at = h * W + w
                    y[n, c, i, j] = best
                    argmax[n, c, i, j] = at


@kernel
def max_pool_pairs_forward(x, y, argmax):
    """The same for windows of 2×2 with stride 2, without padding, by vectors of windows"""
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
    (H, W), (OH, OW), X, Y = x.shape[2:], y.shape[2:], x.reshape(-1), y.reshape(-1)
    share, step = x.dtype.type(1 / (window[0] * window[1])), np.uint64(stride[1])
    for m in range(x.shape[0] * x.shape[1]):
        for i in range(OH):
            h0, out = i * stride[0] - padding[0], np.uint64((m * OH + i) * OW)
            for j in range(OW):
                Y[out + np.uint64(j)] = 0
            for h in range(max(h0, 0), min(h0 + window[0], H)):
                for q in range(window[1]):
                    first, last, w = columns(q, W, OW, stride[1], padding[1])
                    pixel, place = np.uint64((m * H + h) * W + w), out + np.uint64(first)
                    for j in range(last - first):
                        Y[place + np.uint64(j)] += X[pixel + np.uint64(j) * step]
            for j in range(OW):
                Y[out + np.uint64(j)] *= share


@kernel
def avg_pool2d_backward(dout, dx, window, stride, padding):
    """dx[n, c, h, w] = Σ dout[n, c, i, j] / (KH·KW) over the windows that hold (h, w)"""
    (H, W), (OH, OW), G, DX = dx.shape[2:], dout.shape[2:], dout.reshape(-1), dx.reshape(-1)
    share, step = dx.dtype.type(1 / (window[0] * window[1])), np.uint64(stride[1])
    for m in range(dx.shape[0] * dx.shape[1]):
        for t in range(H * W):
            DX[np.uint64(m * H * W) + np.uint64(t)] = 0
        for i in range(OH):
            h0, out = i * stride[0] - padding[0], np.uint64((m * OH + i) * OW)
            for h in range(max(h0, 0), min(h0 + window[0], H)):
                for q in range(window[1]):
                    first, last, w = columns(q, W, OW, stride[1], padding[1])
                    pixel, place = np.uint64((m * H + h) * W + w), out + np.uint64(first)
                    for j in range(last - first):
                        DX[pixel + np.uint64(j) * step] += share * G[place + np.uint64(j)]
