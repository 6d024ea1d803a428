"""Convolution of stride 1, bias, ReLU and 2×2 max pooling in one pass; the convolution's output never reaches memory.

x (N, C, H, W) input · w (F, C, KH, KW), b (F,) or None · y, dout (N, F, OH // 2, OW // 2) · argmax int32 like y

    y[n, f, i, j] = max(0, b[f] + max over the window of (w ⋆ x)[n, f])

The convolution is that of shifted rows in conv2d.py, with pixels numbered t = i·PW + j; argmax holds the t of each
window's first maximum. Bias and ReLU come after the maximum, which they don't change.

Only one of the four pixels of a window has a gradient, and none where ReLU is flat. So with (t, g) running over the pixels that
have one,

    dw[f, c, p, q] = Σ g · x[t + at[c, p, q]]       a quarter or less of the dense sum's products
    db[f] = Σ g
"""

import numpy as np

from . import simd
from .conv2d import adjoint_taps, put, take, taps
from .jit import kernel, separate_kernel
from .matmul import outer_product_at


@kernel
def conv_relu_pool_forward(x, w, b, y, argmax, before, output_size):
    """y and argmax, for the convolution's output_size = (OH, OW)"""
    (N, C), F, (KH, KW), K, (OH, OW) = x.shape[:2], w.shape[0], w.shape[2:], w.size // w.shape[0], output_size
    (rows, columns), PH, PW = y.shape[2:], OH + KH - 1, OW + KW - 1
    T = (2 * rows - 1) * PW + 2 * columns
    in_w, in_x, image, wide = np.empty(K, np.int64), np.empty(K, np.int64), np.empty(C * PH * PW, x.dtype), np.empty(4 * T, x.dtype)
    taps(in_x, C, (KH, KW), (PH, PW), 0, PH * PW)
    for k in range(K):
        in_w[k] = k
    image[:] = 0
    maxima, numbers = y.reshape(-1), argmax.reshape(-1)
    for n in range(N):
        put(x[n], image, before[0] * PW + before[1], PH, PW)
        for f in range(F):
            if f % 4 == 0:  # four filters at a time: their maps stay in the first cache until they are pooled
                outer_product_at(w[f : f + 4].reshape(-1), (K, in_w), image, (0, in_x), wide, (min(4, F - f), T, K))
            for i in range(rows):
                top, out = f % 4 * T + 2 * i * PW, ((n * F + f) * rows + i) * columns
                simd.pool_pairs(wide, top, top + PW, maxima, numbers, out, 2 * i * PW, PW, columns)
            bias, zero = x.dtype.type(0) if b is None else b[f], x.dtype.type(0)
            pooled = y[n, f].reshape(-1)
            for t in range(pooled.size):
                value = pooled[t] + bias
                pooled[t] = zero if value <= zero else value


@kernel
def conv_relu_pool_backward_parameters(dout, x, y, argmax, dw, db, before, output_size):
    """dw and db (or None)"""
    (N, C), (F, _, KH, KW), (OH, OW), L = x.shape[:2], dw.shape, output_size, simd.lanes(dw)
    PH, PW, vectors = OH + KH - 1, OW + KW - 1, (KW + L - 1) // L
    R, image = C * KH * vectors, np.empty(C * PH * PW + vectors * L, x.dtype)
    rows, sums = np.empty(R, np.int64), np.empty(F * R * L, x.dtype)
    for c in range(C):
        for p in range(KH):
            for v in range(vectors):
                rows[(c * KH + p) * vectors + v] = c * PH * PW + p * PW + v * L
    image[:] = 0
    sums[:] = 0
    windows = y.shape[2] * y.shape[3]
    gradients, places = np.empty(windows, x.dtype), np.empty(windows, np.int64)
    step = (R + simd.SPARSE_ROWS - 1) // simd.SPARSE_ROWS
    step = (R + step - 1) // step
    if db is not None:
        db[:] = 0
    for n in range(N):
        put(x[n], image, before[0] * PW + before[1], PH, PW)
        for f in range(F):
            count = live(dout[n, f].reshape(-1), y[n, f].reshape(-1), argmax[n, f].reshape(-1), gradients, places)
            for r in range(0, R, step):
                c0 = (f * R + r) * L
                simd.add_weighted_rows(gradients, places, count, image, rows, r, sums, c0, min(step, R - r))
            if db is not None:
                for s in range(count):
                    db[f] += gradients[s]
    for f in range(F):
        for r in range(C * KH):
            for q in range(KW):
                dw[f, r // KH, r % KH, q] = sums[(f * R + r * vectors) * L + q]


@separate_kernel
def live(dout, y, argmax, gradients, places):
    """The windows that pass a gradient: their dout and their pixel, one after the other; returns how many

    There is no branch to mispredict: an entry that doesn't count is overwritten by the next."""
    count = 0
    for s in range(dout.size):
        gradients[count] = dout[s]
        places[count] = argmax[s]
        count += not y[s] <= 0
    return count


@kernel
def conv_relu_pool_backward_input(dout, y, argmax, w, dx, before, output_size):
    """dx, as `shifted_backward_input` computes it from the convolution's gradient, put in place pixel by pixel"""
    (N, C, H, W), F, (KH, KW), K, (OH, OW) = dx.shape, w.shape[0], w.shape[2:], w.size // w.shape[0], output_size
    PH, PW = OH + KH - 1, OW + KW - 1
    in_w, in_dout, margin, size = adjoint_taps(F, K, (KH, KW), (PH, PW))
    T = (H - 1) * PW + W
    around, wide = np.empty(F * size, dout.dtype), np.empty(C * T, dout.dtype)
    for n in range(N):
        around[:] = 0
        for f in range(F):
            gradients, values, places = dout[n, f].reshape(-1), y[n, f].reshape(-1), argmax[n, f].reshape(-1)
            for s in range(values.size):
                around[f * size + margin + places[s]] = dout.dtype.type(0) if values[s] <= 0 else gradients[s]
        start = before[0] * PW + before[1]
        outer_product_at(w.reshape(-1), (KH * KW, in_w), around, (start, in_dout), wide, (C, T, F * KH * KW))
        take(wide, T, PW, dx[n], None)
