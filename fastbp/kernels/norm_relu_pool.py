"""Batch normalisation, a ReLU or none, and 2×2 max pooling in one pass: neither normalised maps nor their gradients
reach memory.

x, dx (N, C, H, W) · y, dout, chosen (N, C, H // 2, W // 2) · argmax int32 like y · mean, inv_std, … as in norm.py

    y = the maximum of each window of gamma · x̂ + beta, or with `relu` of that and 0,   x̂ = (x − mean) · inv_std

chosen holds each window's x at its first maximum, argmax that pixel's number h·W + w. No other pixel has a gradient
from above, and none where ReLU is flat, so with g = dout, or with `relu` 0 where y is not positive,

    dgamma[c] = Σ g · x̂(chosen),   dbeta[c] = Σ g       over the windows, a quarter of the pixels
    dx = gamma · inv_std · (g at argmax − (dbeta + x̂ · dgamma) / (N·H·W))

dgamma and dbeta are those of `norm.plane_sums` for the windows' x.
"""

import numpy as np

from . import simd
from .jit import kernel


@kernel
def norm_relu_pool_forward(x, gamma, beta, batch, y, chosen, argmax, relu):
    """y, chosen and argmax; batch = (mean, inv_std)"""
    (N, C, H, W), (OH, OW), (mean, inv_std) = x.shape, y.shape[2:], batch
    pixels, maxima, at_maxima, numbers = x.reshape(-1), y.reshape(-1), chosen.reshape(-1), argmax.reshape(-1)
    least = x.dtype.type(0) if relu else x.dtype.type(-np.inf)
    for n in range(N):
        for c in range(C):
            affine, m = (mean[c], gamma[c] * inv_std[c], beta[c], least), n * C + c
            for i in range(OH):
                top, out = (m * H + 2 * i) * W, (m * OH + i) * OW
                simd.pool_normalised(pixels, top, top + W, affine, maxima, at_maxima, numbers, out, 2 * i * W, W, OW)


@kernel
def norm_relu_pool_backward_input(dout, x, pooled, batch, parameters, count, dx, relu):
    """dx; pooled = (y, argmax), batch = (mean, inv_std), parameters = (gamma, dgamma, dbeta), count = the numbers of a
    channel in the whole batch, or 0 where mean and variance don't move with x

    A plane is written as if no window had a gradient, which is a loop of vectors, and the windows' gradients are added
    to it while it is in the first cache."""
    (N, C, H, W), (y, argmax), (mean, inv_std), (gamma, dgamma, dbeta) = x.shape, pooled, batch, parameters
    M, zero, all_numbers = y.shape[2] * y.shape[3], x.dtype.type(0), x.dtype.type(count)
    X, DX = x.reshape(-1), dx.reshape(-1)
    Y, G, AT = y.reshape(-1), dout.reshape(-1), argmax.reshape(-1)
    for n in range(N):
        for c in range(C):
            plane, start, scale = (n * C + c) * H * W, (n * C + c) * M, gamma[c] * inv_std[c]
            pixels, out = X[plane : plane + H * W], DX[plane : plane + H * W]
            if count > 0:
                slope = -scale * dgamma[c] * inv_std[c] / all_numbers
                middle, shift = mean[c], -scale * dbeta[c] / all_numbers
                for m in range(H * W):
                    out[m] = (pixels[m] - middle) * slope + shift
            else:
                for m in range(H * W):
                    out[m] = zero
            source, above, numbers = G[start : start + M], Y[start : start + M], AT[start : start + M]
            for m in range(M):  # without a branch, which would be mispredicted
                g = scale * source[m]
                out[np.uint64(numbers[m])] += zero if relu & (above[m] <= zero) else g
