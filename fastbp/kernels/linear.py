"""Fully connected layer: y = x Wᵀ + b.

x (N, D) input · w (F, D) weight · b (F,) bias or None · y, dout (N, F) output and its gradient · summed: the rows of
dout that count in db, all or none
"""

from .activations import NONE, activate
from .jit import kernel
from .matmul import inner_product, one_block, outer_product
from .optimizers import sgd_update

AT_ONCE = 2048  # numbers of y that stay in the first cache


@kernel
def linear_forward(x, w, b, z, y, kind, numbers, features):
    """z[n, f] = Σ_d x[n, d] w[f, d] + b[f] and y = `activate` of z, which may be z itself, for f in features = (first,
    last)

    NaN stays NaN. Both have the same bits whatever features are taken together."""
    (N, D), F, (first, last) = x.shape, y.shape[1], features
    inner_product(x.reshape(-1), w.reshape(-1)[first * D :], z.reshape(-1)[first:], (N, last - first, D), F)
    together = max(1, AT_ONCE // max(F, 1)) if first == 0 and last == F else 1  # rows, if they lie one after the other
    for n0 in range(0, N, together):
        n1 = min(n0 + together, N)
        if b is not None:
            for n in range(n0, n1):
                row, bias = z[n, first:last], b[first:last]
                for f in range(row.size):
                    row[f] += bias[f]
        if kind != NONE:
            some = slice(n0 * F + first, (n1 - 1) * F + last)
            activate(z.reshape(-1)[some], y.reshape(-1)[some], kind, numbers)


@kernel
def linear_backward_input(dout, w, dx, columns, features):
    """dx[n, d] = Σ_f dout[n, f] w[f, d] for d in columns and f in features, both (first, last)

    The same bits whatever columns are taken together."""
    (N, F), D, (left, right), (first, last) = dout.shape, w.shape[1], columns, features
    in_dout, in_w = (dout.reshape(-1)[first:], (F, 1)), (w.reshape(-1)[first * D + left :], (D, 1))
    outer_product(*in_dout, *in_w, dx.reshape(-1)[left:], D, (N, right - left, last - first), None)


@kernel
def linear_backward_parameters(dout, summed, x, dw, db, rows):
    """dw[f, d] = Σ_n dout[n, f] x[n, d] for f in rows = (first, last), and db[f] = Σ_n summed[n, f] for all f

    db may be None. dw has the same bits whatever rows are taken together."""
    (N, F), D, (first, last) = dout.shape, x.shape[1], rows
    in_dout, sizes = (dout.reshape(-1)[first:], (1, F)), (last - first, D, N)
    outer_product(*in_dout, x.reshape(-1), (D, 1), dw.reshape(-1)[first * D :], D, sizes, None)
    if db is not None:
        sum_samples(summed, db)


@kernel
def linear_descend(dout, summed, x, values, grads, velocity, settings, rows):
    """`sgd_update` of w[f, d] for f in rows = (first, last), and of b where it follows in the flat `values`

    The gradients are those of `linear_backward_parameters`. w's are not kept: `grads` holds anything in their place."""
    (N, F), D, (first, last) = dout.shape, x.shape[1], rows
    size, number = (last - first) * D, values.dtype.type
    in_dout, in_x, sizes = (dout.reshape(-1)[first:], (1, F)), (x.reshape(-1), (D, 1)), (last - first, D, N)
    if one_block(values) >= N:
        numbers = number(-settings[0]), number(settings[1]), number(settings[2]), number(settings[3])
        outer_product(*in_dout, *in_x, values, D, sizes, (velocity, numbers))
    else:
        outer_product(*in_dout, *in_x, grads, D, sizes, None)
        sgd_update(values[:size], grads[:size], velocity[:size], settings)
    if values.size > size:
        sum_samples(summed, grads[size:])
        sgd_update(values[size:], grads[size:], velocity[size:], settings)


@kernel
def sum_samples(dout, db):
    """db[f] = Σ_n dout[n, f]"""
    db[:] = 0
    for n in range(dout.shape[0]):
        row = dout[n]
        for f in range(db.size):
            db[f] += row[f]
