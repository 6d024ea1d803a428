"""The filters as register tiles read them: for each tap a row of numbers, of filters forward and of channels backward.

w (F, C, KH, KW) · forward (C·KH·KW, wide(F)) · backward (F·KH·KW, wide(C)), 0 beyond F and C
"""

from .. import simd
from ..jit import kernel
from ..matmul import transpose

PANEL = simd.PANEL


def wide(C):
    """The numbers from one row of C channels to the next: an odd number of panels, lest rows lie powers of two apart"""
    return (-(-C // PANEL) | 1) * PANEL


wide_row = kernel(wide)  # the same in kernels


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
