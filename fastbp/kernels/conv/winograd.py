"""Convolution of 3×3 filters with stride 1 by Winograd's minimal filtering, for many channels.

x (N, C, H, W) input · w (F, C, 3, 3) filters · b (F,) bias or None · y, dout (N, F, OH, OW) output

A map is cut into tiles of m×m outputs, each of which sees n×n inputs d, n = m + 2. With the matrices of
simd/toom_cook.py

    Y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ d B)]A

takes n² products for the 9m² of the definition: 16 for 36 where m = 2, 36 for 144 where m = 4. Each of the n² points is
then a matrix product over the channels, for the row of every tile t

    V = Bᵀ d B     U = G w Gᵀ     M[t, f] = Σ_c V[t, c] U[c, f]          Y  = Aᵀ M A
    dM = A dY Aᵀ                 dV[t, c] = Σ_f dM[t, f] U[c, f]         dd = B dV Bᵀ, added up where tiles overlap
                                 dU[c, f] = Σ_t V[t, c] dM[t, f]         dw = Gᵀ dU G

so the gradients are the adjoint steps in reverse order, and the one transform U of the filters serves both ways.

Transforms work on vectors of channels. An image is transposed to `pixels`, H·W rows of C numbers, and one row more,
which stands for all pixels outside: tables say where each tile finds its n² inputs, and whether a pixel lies on the
border or beyond costs nothing. `maps` is the same for outputs. Chunks of tiles come in order, so an image that several
of them share is transposed at its first tile alone. Rows are whole panels of 16 channels; those beyond C or
F belong to nobody. Tiles of all images are numbered through, and at most ROWS of them are transformed and multiplied at
a time.

The product of each point is taken panel by panel of 16 columns, which stays in the first cache while all rows pass it.
For dV it is a panel of Uᵀ: there is a copy of U for each way.

The sums in y and dx are taken in an order that depends on the image alone: a slice of a batch gives the bits of the
whole.
"""

import numpy as np

from .. import simd
from ..buffers import empty, zeros
from ..jit import kernel, separate_kernel
from ..matmul import transpose

ROWS = 96  # the best of five sizes in most passes: bench/NOTES.md
PANEL = simd.PANEL
STEP = 12  # rows of the tiles of `panel_product`, or of two


@kernel
def panels(C):
    """The panels that hold C channels"""
    return -(-C // PANEL)


@kernel
def filter_size(C, F):
    """The numbers of each point's filters: panels (F / 16, C, 16), and one row to keep points off each other's cache
    lines"""
    return panels(F) * C * PANEL + PANEL


@kernel
def stride(C):
    """The numbers from one row of C channels to the next: whole panels, and one more, lest rows lie a power of two
    apart"""
    return (panels(C) + 1) * PANEL


@separate_kernel
def tiles(m, side, before, size, output, row):
    """table[t, i, j]: where tile t's pixel (i, j) begins among the rows of an image of that size, t over m×m outputs"""
    (H, W), TW = size, -(-output[1] // m)
    T = -(-output[0] // m) * TW
    table = np.empty(T * side * side, np.int64)
    for t in range(T):
        for i in range(side):
            h = t // TW * m + i - before[0]
            for j in range(side):
                w = t % TW * m + j - before[1]
                inside = 0 <= h < H and 0 <= w < W
                table[(t * side + i) * side + j] = (h * W + w if inside else H * W) * row
    return table


@kernel
def chunk(N, T):
    """How many of N·T tiles to take at a time: at most ROWS, about as many each time, whole tiles of `panel_product`"""
    return max(1, min(N * T, -(-N * T // max(1, -(-N * T // ROWS)) // STEP) * STEP))


# -- between images and points -----------------------------------------------------------------------------------------


@separate_kernel
def images_to_points(x, m, pixels, table, v, span):
    """Row r of v's points = Bᵀ d B for tiles first ≤ r < last, span = (first, last, rows of v)"""
    (C, H, W), side, (first, last, R) = x.shape[1:], m + 2, span
    T, row = table.size // (side * side), stride(C)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            transpose(x[n].reshape(-1), H * W, pixels, row, C, H * W)
        count = (row - PANEL) // simd.lanes(x)
        simd.image_to_points(m, pixels, 0, table, t * side * side, v, (r - first) * row, R * row + PANEL, count)


@separate_kernel
def maps_to_points(dout, m, maps, table, dm, span, filters):
    """Row r of dm's points = A dY Aᵀ, for the maps of `filters` = (first, last)"""
    (OH, OW), (first, last, R), F = dout.shape[2:], span, filters[1] - filters[0]
    T, row = table.size // (m * m), stride(F)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            transpose(dout[n, filters[0] : filters[1]].reshape(-1), OH * OW, maps, row, F, OH * OW)
        count = (row - PANEL) // simd.lanes(dout)
        simd.map_to_points(m, maps, 0, table, t * m * m, dm, (r - first) * row, R * row + PANEL, count)


@separate_kernel
def points_to_maps(p, m, maps, table, b, y, span):
    """y = b + Aᵀ M A"""
    (F, OH, OW), (first, last, R) = y.shape[1:], span
    T, row = table.size // (m * m), stride(F)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            for i in range(OH * OW):
                pixel = maps[i * row : i * row + F]
                for f in range(F):
                    pixel[f] = 0 if b is None else b[f]
        count = (row - PANEL) // simd.lanes(y)
        simd.points_to_map(m, p, (r - first) * row, R * row + PANEL, maps, 0, table, t * m * m, count)
        if t == T - 1:
            transpose(maps, row, y[n].reshape(-1), OH * OW, OH * OW, F)


@separate_kernel
def points_to_images(dv, m, pixels, table, dx, span):
    """dx = Σ B dV Bᵀ"""
    (C, H, W), side, (first, last, R) = dx.shape[1:], m + 2, span
    T, row = table.size // (side * side), stride(C)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            pixels[:] = 0
        count = (row - PANEL) // simd.lanes(dx)
        simd.points_to_image(m, dv, (r - first) * row, R * row + PANEL, pixels, 0, table, t * side * side, count)
        if t == T - 1:
            transpose(pixels, row, dx[n].reshape(-1), H * W, H * W, C)


@separate_kernel
def multiply_panels(a, in_a, b, in_b, c, in_c, sizes, add):
    """c[m, n] = Σ_k a[m, k] b[k, n], + c with `add`, for whole panels of columns n, sizes = (M, K, panels)

    in_a = (a0, am, ak), in_b = (b0, bk, bp) and in_c = (c0, cm, cp) say where they begin, and how far apart their rows,
    columns and panels are."""
    (a0, am, ak), (b0, bk, bp), (c0, cm, cp), (M, K, panels) = in_a, in_b, in_c, sizes
    simd.panel_product(a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, M, panels, add)


# -- the passes --------------------------------------------------------------------------------------------------------


@kernel
def winograd_filters(w, u):
    """u[q, f / 16, c, f % 16] = (G w Gᵀ)_q, u (n², filter_size): 16 points for tiles of 2×2 outputs, 36 for 4×4"""
    (F, C), m = w.shape[:2], 2 if u.shape[0] == 16 else 4
    taps, weights = np.empty(9, np.int64), np.zeros(9 * C * PANEL, w.dtype)
    for k in range(9):
        taps[k] = k * PANEL
    for f in range(0, F, PANEL):
        transpose(w[f : f + PANEL].reshape(-1), 9 * C, weights, PANEL, min(PANEL, F - f), 9 * C)
        for c in range(C):
            to, count = f * C + c * PANEL, PANEL // simd.lanes(w)
            simd.filter_to_points(m, weights, 9 * c * PANEL, taps, 0, u.reshape(-1), to, u.shape[1], count)


@kernel
def turn_filters(u, turned, sizes):
    """turned[q, c / 16, f, c % 16] = (G w Gᵀ)_q, as u with channels and filters exchanged, for the products that lead
    back to dx; sizes = (F, C)"""
    F, C = sizes
    for q in range(len(u)):
        source, target = u[q], turned[q]
        for c in range(0, C, PANEL):
            for f in range(0, F, PANEL):
                columns, rows = min(PANEL, F - f), min(PANEL, C - c)
                transpose(source[f * C + c * PANEL :], PANEL, target[c * F + f * PANEL :], PANEL, rows, columns)


@kernel
def winograd_forward(x, u, b, y, before):
    """y = b + w ⋆ x"""
    (N, C, H, W), (F, OH, OW), m = x.shape, y.shape[1:], 2 if u.shape[0] == 16 else 4
    in_x = tiles(m, m + 2, before, (H, W), (OH, OW), stride(C))
    in_y = tiles(m, m, (0, 0), (OH, OW), (OH, OW), stride(F))
    T = in_y.size // (m * m)
    R = chunk(N, T)
    pixels, maps = zeros((H * W + 1) * stride(C), x), zeros((OH * OW + 1) * stride(F), x)
    v, p = empty(len(u) * (R * stride(C) + PANEL), x), empty(len(u) * (R * stride(F) + PANEL), x)
    for first in range(0, N * T, R):
        last = min(first + R, N * T)
        images_to_points(x, m, pixels, in_x, v, (first, last, R))
        for q in range(len(u)):
            in_v, in_p = (q * (R * stride(C) + PANEL), stride(C), 1), (q * (R * stride(F) + PANEL), stride(F), PANEL)
            in_u, sizes = (q * u.shape[1], PANEL, C * PANEL), (last - first, C, panels(F))
            multiply_panels(v, in_v, u.reshape(-1), in_u, p, in_p, sizes, False)
        points_to_maps(p, m, maps, in_y, b, y, (first, last, R))


@kernel
def winograd_backward_input(dout, turned, dx, before):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (p, q, i, j) whose tap reads (h, w)"""
    (N, F, OH, OW), (C, H, W), m = dout.shape, dx.shape[1:], 2 if turned.shape[0] == 16 else 4
    in_x = tiles(m, m + 2, before, (H, W), (OH, OW), stride(C))
    in_y = tiles(m, m, (0, 0), (OH, OW), (OH, OW), stride(F))
    T = in_y.size // (m * m)
    R = chunk(N, T)
    pixels, maps = zeros((H * W + 1) * stride(C), dx), zeros((OH * OW + 1) * stride(F), dx)
    dv, dm = empty(len(turned) * (R * stride(C) + PANEL), dx), empty(len(turned) * (R * stride(F) + PANEL), dx)
    for first in range(0, N * T, R):
        last = min(first + R, N * T)
        maps_to_points(dout, m, maps, in_y, dm, (first, last, R), (0, F))
        for q in range(len(turned)):
            in_dm, in_dv = (q * (R * stride(F) + PANEL), stride(F), 1), (q * (R * stride(C) + PANEL), stride(C), PANEL)
            in_u, sizes = (q * turned.shape[1], PANEL, F * PANEL), (last - first, F, panels(C))
            multiply_panels(dm, in_dm, turned.reshape(-1), in_u, dv, in_dv, sizes, False)
        points_to_images(dv, m, pixels, in_x, dx, (first, last, R))


@kernel
def winograd_backward_weight(dout, x, dw, before, m, filter):
    """dw[f, c, p, q] = Σ_{n,i,j} dout[n, filter + f, i, j] · x[n, c, i + p − top, j + q − left]

    dw holds some or all filters, `filter` is the number of its first one."""
    (N, C, H, W), (OH, OW), F = x.shape, dout.shape[2:], dw.shape[0]
    in_x = tiles(m, m + 2, before, (H, W), (OH, OW), stride(C))
    in_y = tiles(m, m, (0, 0), (OH, OW), (OH, OW), stride(F))
    T, Q = in_y.size // (m * m), (m + 2) * (m + 2)
    R = chunk(N, T)
    pixels, maps = zeros((H * W + 1) * stride(C), x), zeros((OH * OW + 1) * stride(F), x)
    v, dm = empty(Q * (R * stride(C) + PANEL), x), empty(Q * (R * stride(F) + PANEL), x)
    du = empty(Q * filter_size(C, F), x)
    for first in range(0, N * T, R):
        last = min(first + R, N * T)
        images_to_points(x, m, pixels, in_x, v, (first, last, R))
        maps_to_points(dout, m, maps, in_y, dm, (first, last, R), (filter, filter + F))
        for q in range(Q):
            in_v, in_dm = (q * (R * stride(C) + PANEL), 1, stride(C)), (q * (R * stride(F) + PANEL), stride(F), PANEL)
            in_du, sizes = (q * filter_size(C, F), PANEL, C * PANEL), (C, last - first, panels(F))
            multiply_panels(v, in_v, dm, in_dm, du, in_du, sizes, first > 0)
    if N == 0:
        du[:] = 0
    taps, weights = np.empty(9, np.int64), np.empty(9 * C * PANEL, x.dtype)
    for k in range(9):
        taps[k] = k * PANEL
    for f in range(0, F, PANEL):
        weights[:] = 0
        for c in range(C):
            simd.points_to_filter(m, du, f * C + c * PANEL, filter_size(C, F), weights, 9 * c * PANEL, taps, 0,
                                  PANEL // simd.lanes(x))  # fmt: skip
        transpose(weights, PANEL, dw[f : f + PANEL].reshape(-1), 9 * C, 9 * C, min(PANEL, F - f))
