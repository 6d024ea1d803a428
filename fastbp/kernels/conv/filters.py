"""The filters as register tiles read them: for each tap a row of numbers, of filters forward and of channels backward.

w (F, C, KH, KW) · forward (C·KH·KW, wide(F)) · backward (F·KH·KW, wide(C)), 0 beyond F and C
"""

from ..jit import kernel
from ..matmul import transpose
from .plans import wide

wide_row = kernel(wide)  # in kernels


@kernel
def filters_forward(w, turned):
    """turned[c, p, q, f] = w[f, c, p, q]"""
    F, K = w.shape[0], turned.shape[0]
    transpose(w.reshape(-1), K, turned.reshape(-1), turned.shape[1], F, K)


@kernel
def filters_backward(w, turned):
    """turned[f, p, q, c] = w[f, c, p, q]"""
    (F, C, KH, KW), row, numbers, rows = w.shape, turned.shape[1], w.reshape(-1), turned.reshape(-1)
    for f in range(F):
        transpose(numbers[f * C * KH * KW :], KH * KW, rows[f * KH * KW * row :], row, C, KH * KW)
