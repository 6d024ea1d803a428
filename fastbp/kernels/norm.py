"""Batch normalisation of each channel over the batch: x, y, dout, dx (N, C, M), M = 1 for features, H·W for images.

    y = gamma · x̂ + beta,   x̂ = (x − mean) · inv_std,   inv_std = 1 / √(var + eps)

gamma, beta, dgamma, dbeta, mean, var, inv_std (C,). In training mean and var (biased: divided by N·M) are the batch's
own and depend on x; in evaluation they are constants.

Every kernel does the channels (first, last) and leaves the others alone; what it writes for a channel doesn't depend on
which others it does. With `relu` a ReLU follows: y is max(y, 0), and dout counts where y > 0. Without it y is not read
by backward.

Arrays are read flat under unsigned indices, which Numba doesn't test for being negative (those tests keep loops from
becoming vectors); to slice x[n, c] would take longer than a small map does.
"""

import numpy as np

from .jit import kernel


@kernel
def batch_norm_statistics(x, mean, inv_std, running_mean, running_var, settings, channels):
    """mean[c] = Σ_{n,m} x / (N·M),   var[c] = Σ_{n,m} (x − mean[c])² / (N·M),   settings = (eps, momentum)
    running ← running + momentum · (batch − running), with the variance divided by N·M − 1 (by 1 where that is 0)

    E[x²] − E[x]² would lose all digits where the mean is large. So each row (n, c) has its own mean and squares about
    it, the second time from the cache, and these are put together (Chan, Golub, LeVeque 1983): x is read from memory
    once."""
    (N, C, M), number, squares, X = x.shape, x.dtype.type, np.zeros(x.shape[1], x.dtype), x.reshape(-1)
    eps, momentum = number(settings[0]), number(settings[1])
    first, last = channels
    mean[first:last] = 0
    for n in range(N):
        share, weight = number(1 / (n + 1)), number(M * (n / (n + 1)))
        for c in range(first, last):
            at, total, about = np.uint64((n * C + c) * M), number(0), number(0)
            for m in range(M):
                total += X[at + np.uint64(m)]
            middle = total / number(M)
            for m in range(M):
                about += (X[at + np.uint64(m)] - middle) * (X[at + np.uint64(m)] - middle)
            apart = middle - mean[c]
            mean[c] += apart * share
            squares[c] += about + apart * apart * weight
    for c in range(first, last):
        inv_std[c] = number(1) / np.sqrt(squares[c] / number(N * M) + eps)
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (squares[c] / number(max(N * M - 1, 1)) - running_var[c])


@kernel
def batch_norm_running(running_mean, running_var, mean, inv_std, settings):
    """mean = running_mean, inv_std = 1 / √(running_var + eps),   settings = (eps, momentum)"""
    eps = settings[0]
    for c in range(mean.size):
        mean[c] = running_mean[c]
        inv_std[c] = 1 / np.sqrt(running_var[c] + eps)


@kernel
def batch_norm_forward(x, gamma, beta, mean, inv_std, y, channels, relu):
    """y = gamma · (x − mean) · inv_std + beta, or the larger of that and 0"""
    N, C, M = x.shape
    zero, X, Y = x.dtype.type(0), x.reshape(-1), y.reshape(-1)
    for n in range(N):
        for c in range(channels[0], channels[1]):
            at, middle, scale, shift = np.uint64((n * C + c) * M), mean[c], gamma[c] * inv_std[c], beta[c]
            if relu:
                for m in range(M):
                    value = (X[at + np.uint64(m)] - middle) * scale + shift
                    Y[at + np.uint64(m)] = zero if value <= zero else value
            else:
                for m in range(M):
                    Y[at + np.uint64(m)] = (X[at + np.uint64(m)] - middle) * scale + shift


@kernel
def batch_norm_backward_parameters(dout, x, y, batch, dgamma, dbeta, channels, relu):
    """dgamma[c] = Σ_{n,m} dout · x̂,   dbeta[c] = Σ_{n,m} dout,   batch = (mean, inv_std)"""
    N, C, M = x.shape
    (mean, inv_std), (first, last), zero = batch, channels, x.dtype.type(0)
    X, Y, G = x.reshape(-1), y.reshape(-1), dout.reshape(-1)
    dgamma[first:last] = 0
    dbeta[first:last] = 0
    for n in range(N):
        for c in range(first, last):
            at, middle = np.uint64((n * C + c) * M), mean[c]
            with_x, alone = zero, zero
            if relu:
                for m in range(M):
                    g = zero if Y[at + np.uint64(m)] <= zero else G[at + np.uint64(m)]
                    with_x += g * (X[at + np.uint64(m)] - middle)
                    alone += g
            else:
                for m in range(M):
                    with_x += G[at + np.uint64(m)] * (X[at + np.uint64(m)] - middle)
                    alone += G[at + np.uint64(m)]
            dgamma[c] += with_x * inv_std[c]
            dbeta[c] += alone


@kernel
def batch_norm_backward_training(dout, x, y, batch, parameters, dx, channels, relu):
    """dx = gamma · inv_std · (dout − (dbeta + x̂ · dgamma) / (N·M)): mean and variance move with x

    batch = (mean, inv_std), parameters = (gamma, dgamma, dbeta)"""
    N, C, M = x.shape
    (mean, inv_std), (gamma, dgamma, dbeta), zero, count = batch, parameters, x.dtype.type(0), x.dtype.type(N * M)
    X, Y, G, DX = x.reshape(-1), y.reshape(-1), dout.reshape(-1), dx.reshape(-1)
    for n in range(N):
        for c in range(channels[0], channels[1]):
            at = np.uint64((n * C + c) * M)
            middle, scale = mean[c], gamma[c] * inv_std[c]
            alone, with_x = dbeta[c] / count, dgamma[c] * inv_std[c] / count
            if relu:
                for m in range(M):
                    g = zero if Y[at + np.uint64(m)] <= zero else G[at + np.uint64(m)]
                    DX[at + np.uint64(m)] = scale * (g - alone - (X[at + np.uint64(m)] - middle) * with_x)
            else:
                for m in range(M):
                    g = G[at + np.uint64(m)]
                    DX[at + np.uint64(m)] = scale * (g - alone - (X[at + np.uint64(m)] - middle) * with_x)


@kernel
def batch_norm_backward_evaluation(dout, y, gamma, inv_std, dx, channels, relu):
    """dx = gamma · inv_std · dout: mean and variance are constants"""
    N, C, M = dx.shape
    zero, Y, G, DX = dx.dtype.type(0), y.reshape(-1), dout.reshape(-1), dx.reshape(-1)
    for n in range(N):
        for c in range(channels[0], channels[1]):
            at, scale = np.uint64((n * C + c) * M), gamma[c] * inv_std[c]
            if relu:
                for m in range(M):
                    DX[at + np.uint64(m)] = scale * (zero if Y[at + np.uint64(m)] <= zero else G[at + np.uint64(m)])
            else:
                for m in range(M):
                    DX[at + np.uint64(m)] = scale * G[at + np.uint64(m)]
