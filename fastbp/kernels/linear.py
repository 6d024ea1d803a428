"""Fully connected layer: y = x Wᵀ + b.

x (N, D) input · w (F, D) weight · b (F,) bias or None · y, dout (N, F) output and its gradient
"""

from .jit import kernel
from .matmul import inner_product, outer_product


@kernel
def linear_forward(x, w, b, y, relu):
    """y[n, f] = Σ_d x[n, d] w[f, d] + b[f], or with `relu` the larger of that and 0; NaN stays NaN"""
    zero = y.dtype.type(0)
    inner_product(x.reshape(-1), w.reshape(-1), y.reshape(-1), (x.shape[0], w.shape[0], x.shape[1]))
    for n in range(y.shape[0]):
        row = y[n]
        if b is not None:
            for f in range(row.size):
                row[f] += b[f]
        if relu:
            for f in range(row.size):
                row[f] = zero if row[f] <= zero else row[f]


@kernel
def linear_backward_input(dout, w, dx):
    """dx[n, d] = Σ_f dout[n, f] w[f, d]"""
    (N, F), D = dout.shape, w.shape[1]
    outer_product(dout.reshape(-1), (F, 1), w.reshape(-1), dx.reshape(-1), (N, D, F))


@kernel
def linear_backward_parameters(dout, x, dw, db, rows):
    """dw[f, d] = Σ_n dout[n, f] x[n, d] for f in rows = (first, last), and db[f] = Σ_n dout[n, f] for all f, or db None

    dw has the same bits whatever rows are taken together."""
    (N, F), D, (first, last) = dout.shape, x.shape[1], rows
    outer_product(dout.reshape(-1)[first:], (1, F), x.reshape(-1), dw.reshape(-1)[first * D :], (last - first, D, N))
    if db is not None:
        db[:] = 0
        for n in range(N):
            row = dout[n]
            for f in range(F):
                db[f] += row[f]
