"""Batch normalisation of each channel over the batch: x, y, dout, dx (N, C, M), M = 1 for features, H·W for images.

    y = gamma · x̂ + beta,   x̂ = (x − mean) · inv_std,   inv_std = 1 / √(var + eps)

gamma, beta, dgamma, dbeta, mean, var, inv_std (C,). In training mean and var (biased: divided by N·M) are the batch's
own and depend on x; in evaluation they are constants.

With `relu` a ReLU follows: y is max(y, 0), and dout counts where y > 0. Backward computes y's sign from x anew: that
is faster than reading y from memory.

Vectors run along what lies together in memory. Planes of SHORT numbers or more are taken one by one, sample after
sample: what is a sum over the batch is left for each sample and channel, (N, C), and put together by
`gather_statistics` and `reduce.sum_parts`. So the results don't depend on how a batch is cut.

Shorter planes, features above all, are taken in tiles: some channels side by side, a vector of sums along them for all
samples, and each channel's constants repeated for its pixels. Such kernels do the channels (first, last) and leave the
others alone; what they write for a channel doesn't depend on which others they do.

Arrays are read flat under unsigned indices, which Numba doesn't test for being negative (those tests keep loops from
becoming vectors); to slice x[n, c] would take longer than a small map does.
"""

import numpy as np

from .jit import kernel

# Tuning figures: bench/NOTES.md
SHORT = 32  # pixels of a channel below which channels lie side by side in a vector
TILE = 128  # numbers of a sample in a tile
BLOCK = 32  # samples whose tile stays in the first cache


@kernel
def together(M):
    """The channels of a tile"""
    return max(1, TILE // max(M, 1))


# -- mean and variance -------------------------------------------------------------------------------------------------


@kernel
def plane_statistics(x, means, squares):
    """means[n, c] = Σ_m x / M,   squares[n, c] = Σ_m (x − means[n, c])²

    The second sum reads the plane from the cache: E[x²] − E[x]² would lose all digits where the mean is large."""
    (N, C, M), X, zero = x.shape, x.reshape(-1), x.dtype.type(0)
    for n in range(N):
        for c in range(C):
            at, total, about = np.uint64((n * C + c) * M), zero, zero
            for m in range(M):
                total += X[at + np.uint64(m)]
            middle = total / x.dtype.type(M)
            for m in range(M):
                about += (X[at + np.uint64(m)] - middle) * (X[at + np.uint64(m)] - middle)
            means[n, c] = middle
            squares[n, c] = about


@kernel
def gather_statistics(means, squares, M, mean, inv_std, running, settings):
    """mean, inv_std and the running statistics from those of the planes, all of M numbers (Chan, Golub, LeVeque 1983)

    running = (running_mean, running_var), settings = (eps, momentum)"""
    (N, C), number, about = means.shape, means.dtype.type, np.zeros(means.shape[1], means.dtype)
    mean[:] = 0
    for n in range(N):
        share, weight = number(1 / (n + 1)), number(M * (n / (n + 1)))
        for c in range(C):
            apart = means[n, c] - mean[c]
            mean[c] += apart * share
            about[c] += squares[n, c] + apart * apart * weight
    for c in range(C):
        settle(c, about[c], N * M, mean, inv_std, running, settings)


@kernel
def settle(c, about, count, mean, inv_std, running, settings):
    """inv_std[c] from `about` = Σ (x − mean[c])² over `count` numbers, and the running statistics:
    running ← running + momentum · (batch − running), with the variance divided by count − 1 (by 1 where that is 0)"""
    number, (running_mean, running_var) = mean.dtype.type, running
    eps, momentum = number(settings[0]), number(settings[1])
    inv_std[c] = number(1) / np.sqrt(about / number(count) + eps)
    running_mean[c] += momentum * (mean[c] - running_mean[c])
    running_var[c] += momentum * (about / number(max(count - 1, 1)) - running_var[c])


@kernel
def batch_norm_statistics(x, mean, inv_std, running, settings, channels):
    """mean[c] = Σ_{n,m} x / (N·M),   var[c] = Σ_{n,m} (x − mean[c])² / (N·M), for short planes, and the running ones

    Each pixel of a channel has its own mean over a block of samples and squares about it, the second time from the
    cache. Blocks are put together as planes are above, and at last the pixels."""
    (N, C, M), number, X, (first, last) = x.shape, x.dtype.type, x.reshape(-1), channels
    tile = np.empty((4, together(M) * M), x.dtype)
    sums, middles, centres, about = tile[0], tile[1], tile[2], tile[3]
    for start in range(first, last, together(M)):
        end = min(start + together(M), last)
        wide = (end - start) * M
        centres[:wide] = 0
        about[:wide] = 0
        for n0 in range(0, N, BLOCK):
            n1 = min(n0 + BLOCK, N)
            sums[:wide] = 0
            for n in range(n0, n1):
                row = X[(n * C + start) * M : (n * C + end) * M]
                for j in range(wide):
                    sums[j] += row[j]
            share, weight = number((n1 - n0) / n1), number((n1 - n0) * (n0 / n1))
            for j in range(wide):
                middles[j] = sums[j] / number(n1 - n0)
                apart = middles[j] - centres[j]
                centres[j] += apart * share
                about[j] += apart * apart * weight
            for n in range(n0, n1):
                row = X[(n * C + start) * M : (n * C + end) * M]
                for j in range(wide):
                    about[j] += (row[j] - middles[j]) * (row[j] - middles[j])
        for c in range(start, end):
            total, squares, at = number(0), number(0), (c - start) * M
            for j in range(at, at + M):
                total += centres[j]
            middle = total / number(M)
            for j in range(at, at + M):
                squares += about[j] + (centres[j] - middle) * (centres[j] - middle) * number(N)
            mean[c] = middle
            settle(c, squares, N * M, mean, inv_std, running, settings)


@kernel
def batch_norm_running(running_mean, running_var, mean, inv_std, settings):
    """mean = running_mean, inv_std = 1 / √(running_var + eps),   settings = (eps, momentum)"""
    eps = settings[0]
    for c in range(mean.size):
        mean[c] = running_mean[c]
        inv_std[c] = 1 / np.sqrt(running_var[c] + eps)


@kernel
def fold(w, b, affine, running, settings, new_w, new_b):
    """new_w[f] = w[f] · scale,   new_b[f] = (b[f] − running_mean[f]) · scale + beta[f],
    scale = gamma[f] / √(running_var[f] + eps)

    w, new_w (F, …) · b (F,) or None · affine = (gamma, beta), running = (running_mean, running_var)"""
    (F, K), (gamma, beta), (running_mean, running_var), number = w.shape, affine, running, w.dtype.type
    for f in range(F):
        scale = number(gamma[f] / np.sqrt(running_var[f] + settings[0]))
        row, new = w[f], new_w[f]
        for k in range(K):
            new[k] = row[k] * scale
        bias = number(0) if b is None else b[f]
        new_b[f] = (bias - running_mean[f]) * scale + beta[f]


# -- forward -----------------------------------------------------------------------------------------------------------


@kernel
def spread_affine(start, end, M, affine, batch, tile):
    """tile = the mean, gamma · inv_std and beta of channels start ≤ c < end, each once for every pixel

    affine = (gamma, beta), batch = (mean, inv_std)"""
    (gamma, beta), (mean, inv_std) = affine, batch
    middles, scales, shifts = tile[0], tile[1], tile[2]
    if M == 1:  # a loop of vectors
        for j in range(end - start):
            middles[j] = mean[start + j]
            scales[j] = gamma[start + j] * inv_std[start + j]
            shifts[j] = beta[start + j]
        return
    for c in range(start, end):
        for j in range((c - start) * M, (c - start + 1) * M):
            middles[j] = mean[c]
            scales[j] = gamma[c] * inv_std[c]
            shifts[j] = beta[c]


@kernel
def batch_norm_forward(x, affine, batch, y, channels, relu):
    """y = gamma · (x − mean) · inv_std + beta, or the larger of that and 0

    affine = (gamma, beta), batch = (mean, inv_std)"""
    (N, C, M), (first, last), (gamma, beta), (mean, inv_std) = x.shape, channels, affine, batch
    X, Y = x.reshape(-1), y.reshape(-1)
    least = x.dtype.type(0) if relu else x.dtype.type(-np.inf)  # one loop for both
    if M >= SHORT:
        for n in range(N):
            for c in range(first, last):
                at, middle, scale, shift = np.uint64((n * C + c) * M), mean[c], gamma[c] * inv_std[c], beta[c]
                for m in range(M):
                    value = (X[at + np.uint64(m)] - middle) * scale + shift
                    Y[at + np.uint64(m)] = least if value <= least else value
        return
    tile = np.empty((3, together(M) * M), x.dtype)
    middles, scales, shifts = tile[0], tile[1], tile[2]
    for start in range(first, last, together(M)):
        end = min(start + together(M), last)
        spread_affine(start, end, M, affine, batch, tile)
        for n in range(N):
            row, out = X[(n * C + start) * M : (n * C + end) * M], Y[(n * C + start) * M : (n * C + end) * M]
            for j in range(row.size):
                value = (row[j] - middles[j]) * scales[j] + shifts[j]
                out[j] = least if value <= least else value


# -- backward ----------------------------------------------------------------------------------------------------------


@kernel
def plane_sums(dout, x, affine, batch, with_x, alone, relu):
    """with_x[n, c] = Σ_m dout · x̂,   alone[n, c] = Σ_m dout: each plane's share of dgamma and of dbeta"""
    (N, C, M), (gamma, beta), (mean, inv_std), zero = x.shape, affine, batch, x.dtype.type(0)
    X, G = x.reshape(-1), dout.reshape(-1)
    for n in range(N):
        for c in range(C):
            at, middle, scale, shift = np.uint64((n * C + c) * M), mean[c], gamma[c] * inv_std[c], beta[c]
            total, weighted = zero, zero
            for m in range(M):
                apart, g = X[at + np.uint64(m)] - middle, G[at + np.uint64(m)]
                g = zero if relu & (apart * scale + shift <= zero) else g
                weighted += g * apart
                total += g
            with_x[n, c] = weighted * inv_std[c]
            alone[n, c] = total


@kernel
def batch_norm_backward_parameters(dout, x, affine, batch, sums, channels, relu):
    """dgamma[c] = Σ_{n,m} dout · x̂,   dbeta[c] = Σ_{n,m} dout, for short planes; sums = (dgamma, dbeta)"""
    (N, C, M), (first, last), (dgamma, dbeta), zero = x.shape, channels, sums, x.dtype.type(0)
    X, G, tile = x.reshape(-1), dout.reshape(-1), np.empty((5, together(M) * M), x.dtype)
    middles, scales, shifts = tile[0], tile[1], tile[2]
    weighted, totals = tile[3], tile[4]
    for start in range(first, last, together(M)):
        end = min(start + together(M), last)
        spread_affine(start, end, M, affine, batch, tile)
        weighted[:] = 0
        totals[:] = 0
        for n in range(N):
            row, above = X[(n * C + start) * M : (n * C + end) * M], G[(n * C + start) * M : (n * C + end) * M]
            for j in range(row.size):
                apart = row[j] - middles[j]
                g = zero if relu & (apart * scales[j] + shifts[j] <= zero) else above[j]
                weighted[j] += g * apart
                totals[j] += g
        for c in range(start, end):
            with_x, alone = zero, zero
            for j in range((c - start) * M, (c - start + 1) * M):
                with_x += weighted[j]
                alone += totals[j]
            dgamma[c] = with_x * batch[1][c]
            dbeta[c] = alone


@kernel
def batch_norm_backward_training(dout, x, affine, batch, sums, dx, channels, relu):
    """dx = gamma · inv_std · (dout − (dbeta + x̂ · dgamma) / count): mean and variance move with x

    affine = (gamma, beta), batch = (mean, inv_std), sums = (dgamma, dbeta, count), count = the numbers of a channel in
    the whole batch"""
    (N, C, M), (first, last), zero, number = x.shape, channels, x.dtype.type(0), x.dtype.type
    (gamma, beta), (mean, inv_std), (dgamma, dbeta, count) = affine, batch, sums
    X, G, DX = x.reshape(-1), dout.reshape(-1), dx.reshape(-1)
    if M >= SHORT:
        for n in range(N):
            for c in range(first, last):
                at, middle, scale, shift = np.uint64((n * C + c) * M), mean[c], gamma[c] * inv_std[c], beta[c]
                alone, with_x = dbeta[c] / number(count), dgamma[c] * inv_std[c] / number(count)
                for m in range(M):
                    apart, g = X[at + np.uint64(m)] - middle, G[at + np.uint64(m)]
                    g = zero if relu & (apart * scale + shift <= zero) else g
                    DX[at + np.uint64(m)] = scale * (g - alone - apart * with_x)
        return
    tile = np.empty((5, together(M) * M), x.dtype)
    middles, scales, shifts = tile[0], tile[1], tile[2]
    weighted, totals = tile[3], tile[4]
    for start in range(first, last, together(M)):
        end = min(start + together(M), last)
        spread_affine(start, end, M, affine, batch, tile)
        for c in range(start, end):
            for j in range((c - start) * M, (c - start + 1) * M):
                weighted[j] = dgamma[c] * inv_std[c] / number(count)
                totals[j] = dbeta[c] / number(count)
        for n in range(N):
            row, above = X[(n * C + start) * M : (n * C + end) * M], G[(n * C + start) * M : (n * C + end) * M]
            out = DX[(n * C + start) * M : (n * C + end) * M]
            for j in range(row.size):
                apart = row[j] - middles[j]
                g = zero if relu & (apart * scales[j] + shifts[j] <= zero) else above[j]
                out[j] = scales[j] * (g - totals[j] - apart * weighted[j])


@kernel
def batch_norm_backward_evaluation(dout, y, gamma, inv_std, dx, relu):
    """dx = gamma · inv_std · dout: mean and variance are constants"""
    (N, C, M), zero = dx.shape, dx.dtype.type(0)
    Y, G, DX = y.reshape(-1), dout.reshape(-1), dx.reshape(-1)
    for n in range(N):
        for c in range(C):
            at, scale = np.uint64((n * C + c) * M), gamma[c] * inv_std[c]
            for m in range(M):
                g = zero if relu & (Y[at + np.uint64(m)] <= zero) else G[at + np.uint64(m)]
                DX[at + np.uint64(m)] = scale * g
