"""Batch normalisation of each channel over the batch: x, y, dout, dx (N, C, M), M = 1 for features, H·W for images.

    y = gamma · x̂ + beta,   x̂ = (x − mean) · inv_std,   inv_std = 1 / √(var + eps)

gamma, beta, dgamma, dbeta, mean, var, inv_std (C,). In training mean and var (biased: divided by N·M) are the batch's own
and depend on x; in evaluation they are constants. mean and var are found in two passes over x, since
E[x²] − E[x]² loses all digits where the mean is large.
"""

import numpy as np

from .jit import kernel


@kernel
def batch_norm_statistics(x, mean, var):
    """mean[c] = Σ_{n,m} x / (N·M),   var[c] = Σ_{n,m} (x − mean[c])² / (N·M)"""
    N, C, M = x.shape
    zero = x.dtype.type(0)
    mean[:] = 0
    for n in range(N):
        for c in range(C):
            total = zero
            for m in range(M):
                total += x[n, c, m]
            mean[c] += total
    mean /= x.dtype.type(N * M)
    var[:] = 0
    for n in range(N):
        for c in range(C):
            total = zero
            for m in range(M):
                total += (x[n, c, m] - mean[c]) ** 2
            var[c] += total
    var /= x.dtype.type(N * M)


@kernel
def batch_norm_inv_std(var, inv_std, eps):
    """inv_std = 1 / √(var + eps)"""
    for c in range(var.size):
        inv_std[c] = 1 / np.sqrt(var[c] + eps)


@kernel
def batch_norm_forward(x, gamma, beta, mean, inv_std, y):
    """y = gamma · (x − mean) · inv_std + beta"""
    N, C, M = x.shape
    for n in range(N):
        for c in range(C):
            scale = gamma[c] * inv_std[c]
            for m in range(M):
                y[n, c, m] = (x[n, c, m] - mean[c]) * scale + beta[c]


@kernel
def batch_norm_backward_parameters(dout, x, mean, inv_std, dgamma, dbeta):
    """dgamma[c] = Σ_{n,m} dout · x̂,   dbeta[c] = Σ_{n,m} dout"""
    N, C, M = x.shape
    zero = x.dtype.type(0)
    dgamma[:] = 0
    dbeta[:] = 0
    for n in range(N):
        for c in range(C):
            with_x, alone = zero, zero
            for m in range(M):
                with_x += dout[n, c, m] * (x[n, c, m] - mean[c])
                alone += dout[n, c, m]
            dgamma[c] += with_x * inv_std[c]
            dbeta[c] += alone


@kernel
def batch_norm_backward_training(dout, x, gamma, mean, inv_std, dgamma, dbeta, dx):
    """dx = gamma · inv_std · (dout − (dbeta + x̂ · dgamma) / (N·M)): mean and variance move with x"""
    N, C, M = x.shape
    for n in range(N):
        for c in range(C):
            scale = gamma[c] * inv_std[c]
            through_mean = dbeta[c] / x.dtype.type(N * M)
            through_var = dgamma[c] * inv_std[c] / x.dtype.type(N * M)
            for m in range(M):
                dx[n, c, m] = scale * (dout[n, c, m] - through_mean - (x[n, c, m] - mean[c]) * through_var)


@kernel
def batch_norm_backward_evaluation(dout, gamma, inv_std, dx):
    """dx = gamma · inv_std · dout: mean and variance are constants"""
    N, C, M = dx.shape
    for n in range(N):
        for c in range(C):
            scale = gamma[c] * inv_std[c]
            for m in range(M):
                dx[n, c, m] = scale * dout[n, c, m]
