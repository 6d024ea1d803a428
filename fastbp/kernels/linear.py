"""Fully connected layer: y = x Wᵀ + b.

x (N, D) input · w (F, D) weight · b (F,) bias or None · y, dout (N, F) output and its gradient

The three products are matrix products, handed to BLAS.
"""

import numpy as np

from .jit import kernel


@kernel
def linear_forward(x, w, b, y):
    """y[n, f] = Σ_d x[n, d] w[f, d] + b[f]"""
    if x.shape[0] > 0:
        np.dot(x, w.T, y)
    if b is not None:
        for n in range(y.shape[0]):
            for f in range(y.shape[1]):
                y[n, f] += b[f]


@kernel
def linear_backward_input(dout, w, dx):
    """dx[n, d] = Σ_f dout[n, f] w[f, d]"""
    if dx.shape[0] > 0:
        np.dot(dout, w, dx)


@kernel
def linear_backward_weight(dout, x, dw):
    """dw[f, d] = Σ_n dout[n, f] x[n, d]"""
    if x.shape[0] > 0:
        np.dot(dout.T, x, dw)
    else:
        dw[:] = 0


@kernel
def linear_backward_bias(dout, db):
    """db[f] = Σ_n dout[n, f]"""
    db[:] = 0
    for n in range(dout.shape[0]):
        for f in range(dout.shape[1]):
            db[f] += dout[n, f]
