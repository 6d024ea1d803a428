"""Convolution of two dimensions: one file a way to compute it, and `ways.py`, which chooses among them.

In all of them it is the cross-correlation of deep learning:

x (N, C, H, W) input · w (F, C, KH, KW) filters · b (F,) bias or None · y, dout (N, F, OH, OW) output

    y[n, f, i, j] = b[f] + Σ_{c,p,q} w[f, c, p, q] · x[n, c, i·sh + p − top, j·sw + q − left]

`stride` is (sh, sw); `before` is (top, left), the zeros put before the first row and column. How many follow the last
is implied by OH and OW.
"""
