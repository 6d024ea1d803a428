"""Fully connected layer: y = x Wᵀ + b.

x (N, D) input · w (F, D) weight · b (F,) bias or None · y, dout (N, F) output and its gradient
"""

from .jit import kernel
from .matmul import inner_product, outer_product


@kernel
def linear_forward(x, w, b, y):
    """y[n, f] = Σ_d x[n, d] w[f, d] + b[f]"""
    inner_product(x.reshape(-1), w.reshape(-1), y.reshape(-1), (x.shape[0], w.shape[0], x.shape[1]))
    if b is not None:
        for n in range(y.shape[0]):
            for f in range(y.shape[1]):
                y[n, f] += b[f]


@kernel
def linear_backward_input(dout, w, dx):
    """dx[n, d] = Σ_f dout[n, f] w[f, d]"""
    (N, F), D = dout.shape, w.shape[1]
    outer_product(dout.reshape(-1), (F, 1), w.reshape(-1), dx.reshape(-1), (N, D, F))


@kernel
def linear_backward_weight(dout, x, dw, rows):
    """dw[f, d] = Σ_n dout[n, f] x[n, d] for rows f of [first, last)"""
    (N, F), D, (first, last) = dout.shape, x.shape[1], rows
    outer_product(dout.reshape(-1)[first:], (1, F), x.reshape(-1), dw.reshape(-1)[first * D :], (last - first, D, N))


@kernel
def linear_backward_bias(dout, db, rows):
    """db[f] = Σ_n dout[n, f] for f in [first, last)"""
    db[rows[0] : rows[1]] = 0
    for n in range(dout.shape[0]):
        for f in range(rows[0], rows[1]):
            db[f] += dout[n, f]
