"""Fully connected layers on blocks of samples that lie in columns: x (D, samples), y (F, samples).

With few features and many samples, samples fill the vectors, and what goes into a layer and comes out of it for a block
of samples stays in the first caches until the next layer, or the way back, takes it from there.

x, z, y, d are flat arrays of one block, whose rows, one for each feature, are `step` apart; a kernel does its work for
the samples first ≤ n < last of it: block = (step, first, last).
"""

from . import simd
from .activations import NONE, activate, times_slope
from .jit import kernel
from .matmul import add_inner_product_at, outer_product


@kernel
def to_columns(x, columns, D, block):
    """columns[d, n] = x[n − first, d] for x (samples, D), flat"""
    (step, first, last), most = block, simd.rows_at_once(x)
    for n in range(first, last, most):
        for d in range(0, D, 4):
            some = min(most, last - n), min(4, D - d)
            simd.to_columns(x, (n - first) * D + d, D, columns, d * step + n, step, *some)


@kernel
def from_columns(columns, y, F, block):
    """y[n − first, f] = columns[f, n] for y (samples, F), flat"""
    (step, first, last), most = block, simd.rows_at_once(y)
    for n in range(first, last, most):
        for f in range(0, F, 4):
            some = min(most, last - n), min(4, F - f)
            simd.from_columns(columns, f * step + n, step, y, (n - first) * F + f, F, *some)


@kernel
def columns_forward(w, b, x, z, y, kind, numbers, block):
    """z[f, n] = Σ_d w[f, d] x[d, n] + b[f] and y = `activate` of z, which may be z itself"""
    (F, D), (step, first, last) = w.shape, block
    outer_product(w.reshape(-1), (D, 1), x[first:], (step, 1), z[first:], step, (F, last - first, D), None)
    if b is not None:
        for f in range(F):
            row, bias = z[f * step + first : f * step + last], b[f]
            for n in range(row.size):
                row[n] += bias
    if kind == NONE:
        return
    rows = 1 if last - first == step else F  # a whole block in one go
    for r in range(rows):
        some = slice(r * step + first, (r + F // rows - 1) * step + last)
        activate(z[some], y[some], kind, numbers)


@kernel
def columns_backward(w, x, d, into, db, at, after, block):
    """d ← d · the derivative of the activation: then dw += d xᵀ and db[f] += Σ_n d[f, n]; at[k] = k · step

    into = (dw, anew), and db, which are 0 before if begun anew; after = (kept, kind, numbers), what tells the
    derivative"""
    (dw, anew), (kept, kind, numbers) = into, after
    (F, D), (step, first, last) = w.shape, block
    if kind != NONE:
        rows = 1 if last - first == step else F
        for r in range(rows):
            some = slice(r * step + first, (r + F // rows - 1) * step + last)
            times_slope(kept[some], d[some], kind, numbers)
    if anew:
        dw[:] = 0
    add_inner_product_at(d, (first, step), x[first:], at, dw.reshape(-1), (F, D, last - first))
    if db is not None:
        if anew:
            db[:] = 0
        for f in range(F):
            row, total = d[f * step + first : f * step + last], d.dtype.type(0)
            for n in range(row.size):
                total += row[n]
            db[f] += total


@kernel
def columns_backward_input(w, d, dx, block):
    """dx[k, n] = Σ_f w[f, k] d[f, n]"""
    (F, D), (step, first, last) = w.shape, block
    outer_product(w.reshape(-1), (1, D), d[first:], (step, 1), dx[first:], step, (D, last - first, F), None)
