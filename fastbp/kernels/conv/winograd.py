"""Convolution by minimal filtering (Winograd), for many channels: square filters and strides of some sizes.

x (N, C, H, W) input · w (F, C, r, r) filters · b (F,) bias or None · y, dout (N, F, OH, OW) output

A map is cut into tiles of m×m outputs, each of which sees n×n inputs d, n = s(m − 1) + r for stride s. With the
matrices of simd/toom_cook.py, for a tile (m, r, s),

    Y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ d B)]A

takes n² products for the (m·r)² of the definition: 16 for 36 where (m, r, s) = (2, 3, 1), 36 for 144 where it is
(4, 3, 1). Each of the n² points is then a matrix product over the channels, for the row of every tile t

    V = Bᵀ d B     U = G w Gᵀ     M[t, f] = Σ_c V[t, c] U[c, f]          Y  = Aᵀ M A
    dM = A dY Aᵀ                 dV[t, c] = Σ_f dM[t, f] U[c, f]         dd = B dV Bᵀ, added up where tiles overlap
                                 dU[c, f] = Σ_t V[t, c] dM[t, f]         dw = Gᵀ dU G

so the gradients are the adjoint steps in reverse order, and the one transform U of the filters serves both ways, as the
one of dout serves both gradients.

Transforms work on vectors of channels. An image is transposed to `pixels`, H·W rows of C numbers, and one row more,
which stands for all pixels outside: tables say where each tile finds its n² inputs, and whether a pixel lies on the
border or beyond costs nothing. `maps` is the same for outputs. Rows are whole panels of 16 channels; those beyond C or
F belong to nobody. Tiles of all images are numbered through, and at most ROWS of them are transformed and multiplied at
a time, in order: an image that several of these chunks share is transposed at its first tile alone.

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
from .padding import activated, padded_bias

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


@kernel
def side(tile):
    """n, the inputs that a tile sees along an axis"""
    m, r, s = tile
    return s * (m - 1) + r


@separate_kernel
def tiles(square, step, before, size, output, row):
    """table[t, i, j]: where pixel (i, j) of tile t begins among the rows of an image of that size

    square = (m, n): the pixels are n×n, over m×m outputs; the tiles' pixels begin `step` apart."""
    (m, side), (H, W), TW = square, size, -(-output[1] // square[0])
    T = -(-output[0] // m) * TW
    table = np.empty(T * side * side, np.int64)
    for t in range(T):
        for i in range(side):
            h = t // TW * step + i - before[0]
            for j in range(side):
                w = t % TW * step + j - before[1]
                inside = 0 <= h < H and 0 <= w < W
                table[(t * side + i) * side + j] = (h * W + w if inside else H * W) * row
    return table


@kernel
def tables(tile, C, F, before, size, output):
    """`tiles` of inputs, and of outputs"""
    m, _, s = tile
    in_x = tiles((m, side(tile)), m * s, before, size, output, stride(C))
    return in_x, tiles((m, m), m, (0, 0), output, output, stride(F))


@kernel
def chunk(N, T):
    """How many of N·T tiles to take at a time: at most ROWS, about as many each time, whole tiles of `panel_product`"""
    return max(1, min(N * T, -(-N * T // max(1, -(-N * T // ROWS)) // STEP) * STEP))


# -- between images and points -----------------------------------------------------------------------------------------


@separate_kernel
def images_to_points(x, tile, pixels, table, v, span):
    """Row r of v's points = Bᵀ d B for tiles first ≤ r < last, span = (first, last, rows of v)"""
    (C, H, W), square, (first, last, R) = x.shape[1:], side(tile) ** 2, span
    T, row = table.size // square, stride(C)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            transpose(x[n].reshape(-1), H * W, pixels, row, C, H * W)
        count = (row - PANEL) // simd.lanes(x)
        simd.image_to_points(tile, pixels, 0, table, t * square, v, (r - first) * row, R * row + PANEL, count)


@separate_kernel
def maps_to_points(dout, tile, maps, table, dm, span, filters):
    """Row r of dm's points = A dY Aᵀ, for the maps of `filters` = (first, last)"""
    (OH, OW), (first, last, R), F = dout.shape[2:], span, filters[1] - filters[0]
    square = tile[0] ** 2
    T, row = table.size // square, stride(F)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            transpose(dout[n, filters[0] : filters[1]].reshape(-1), OH * OW, maps, row, F, OH * OW)
        count = (row - PANEL) // simd.lanes(dout)
        simd.map_to_points(tile, maps, 0, table, t * square, dm, (r - first) * row, R * row + PANEL, count)


@separate_kernel
def points_to_maps(p, tile, maps, table, bias, y, span, after):
    """y = b + Aᵀ M A, and its activation, after = (out, kind, numbers), which may go to y"""
    (F, OH, OW), (first, last, R), square = y.shape[1:], span, tile[0] ** 2
    T, row = table.size // square, stride(F)
    for r in range(first, last):
        n, t, count = r // T, r % T, (row - PANEL) // simd.lanes(y)
        simd.points_to_map(tile, p, (r - first) * row, R * row + PANEL, maps, 0, table, t * square, count, bias)
        if t == T - 1:
            transpose(maps, row, y[n].reshape(-1), OH * OW, OH * OW, F)
            out, kind, numbers = after
            activated(y[n], out[n], kind, numbers)


@separate_kernel
def points_to_images(dv, tile, pixels, table, dx, span):
    """dx = Σ B dV Bᵀ"""
    (C, H, W), square, (first, last, R) = dx.shape[1:], side(tile) ** 2, span
    T, row = table.size // square, stride(C)
    for r in range(first, last):
        n, t = r // T, r % T
        if t == 0:
            pixels[:] = 0
        count = (row - PANEL) // simd.lanes(dx)
        simd.points_to_image(tile, dv, (r - first) * row, R * row + PANEL, pixels, 0, table, t * square, count)
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
def taps_of(r):
    """Where the taps of a panel of r×r filters lie"""
    taps = np.empty(r * r, np.int64)
    for k in range(r * r):
        taps[k] = k * PANEL
    return taps


@kernel
def winograd_filters(w, u, tile):
    """u[q, f / 16, c, f % 16] = (G w Gᵀ)_q, u (n², filter_size)"""
    (F, C), K = w.shape[:2], w.shape[2] * w.shape[3]
    taps, weights = taps_of(w.shape[2]), zeros(K * C * PANEL, w)
    for f in range(0, F, PANEL):
        transpose(w[f : f + PANEL].reshape(-1), K * C, weights, PANEL, min(PANEL, F - f), K * C)
        for c in range(C):
            to, count = f * C + c * PANEL, PANEL // simd.lanes(w)
            simd.filter_to_points(tile, weights, K * c * PANEL, taps, 0, u.reshape(-1), to, u.shape[1], count)


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
def winograd_forward(x, u, b, y, after, places):
    """y = b + w ⋆ x, and its activation, after = (out, kind, numbers), which may go to y; places = (before, tile)"""
    (N, C, H, W), (F, OH, OW), (before, tile) = x.shape, y.shape[1:], places
    in_x, in_y = tables(tile, C, F, before, (H, W), (OH, OW))
    T = in_y.size // tile[0] ** 2
    R, bias = chunk(N, T), padded_bias(b, stride(F), x)
    pixels, maps = zeros((H * W + 1) * stride(C), x), empty((OH * OW + 1) * stride(F), x)
    v, p = empty(len(u) * (R * stride(C) + PANEL), x), empty(len(u) * (R * stride(F) + PANEL), x)
    for first in range(0, N * T, R):
        last = min(first + R, N * T)
        images_to_points(x, tile, pixels, in_x, v, (first, last, R))
        for q in range(len(u)):
            in_v, in_p = (q * (R * stride(C) + PANEL), stride(C), 1), (q * (R * stride(F) + PANEL), stride(F), PANEL)
            in_u, sizes = (q * u.shape[1], PANEL, C * PANEL), (last - first, C, panels(F))
            multiply_panels(v, in_v, u.reshape(-1), in_u, p, in_p, sizes, False)
        points_to_maps(p, tile, maps, in_y, bias, y, (first, last, R), after)


@kernel
def winograd_backward(dout, x, turned, dx, dw, places, first_filter):
    """dx[n, c, h, w] = Σ w[f, c, p, q] dout[n, f, i, j] over all (f, p, q, i, j) whose tap reads (h, w)
    dw[f, c, p, q] = Σ_{n,i,j} dout[n, f, i, j] · x[n, c, i·s + p − top, j·s + q − left], places = (before, tile)

    dx may be empty, or dw: it is not wanted then. dw may hold some filters from `first_filter` on where there is no
    dx. What is not read, `turned` without dx and x without dw, may be any array of that kind and, x, shape."""
    (N, C, H, W), (F, OH, OW), (before, tile) = x.shape, dout.shape[1:], places
    from_filter, square = 0, side(tile) ** 2
    if len(dx) == 0:
        from_filter, F = first_filter, len(dw)
    in_x, in_y = tables(tile, C, F, before, (H, W), (OH, OW))
    T = in_y.size // tile[0] ** 2
    R = chunk(N, T)
    in_v, in_dm, in_du, in_u = R * stride(C) + PANEL, R * stride(F) + PANEL, filter_size(C, F), turned.shape[1]
    pixels, maps = zeros((H * W + 1) * stride(C), x), zeros((OH * OW + 1) * stride(F), x)
    grads = zeros((H * W + 1) * stride(C) if len(dx) > 0 else 0, x)
    v, dm, du = empty(square * in_v, x), empty(square * in_dm, x), empty(square * in_du if len(dw) > 0 else 0, x)
    for first in range(0, N * T, R):
        last = min(first + R, N * T)
        maps_to_points(dout, tile, maps, in_y, dm, (first, last, R), (from_filter, from_filter + F))
        if len(dw) > 0:
            images_to_points(x, tile, pixels, in_x, v, (first, last, R))
        for q in range(square):
            if len(dw) > 0:
                columns, sizes = (q * in_v, 1, stride(C)), (C, last - first, panels(F))
                rows, to = (q * in_dm, stride(F), PANEL), (q * in_du, PANEL, C * PANEL)
                multiply_panels(v, columns, dm, rows, du, to, sizes, first > 0)
            if len(dx) > 0:  # in V's place, which is not needed any more
                rows, sizes = (q * in_dm, stride(F), 1), (last - first, F, panels(C))
                columns, to = (q * in_u, PANEL, F * PANEL), (q * in_v, stride(C), PANEL)
                multiply_panels(dm, rows, turned.reshape(-1), columns, v, to, sizes, False)
        if len(dx) > 0:
            points_to_images(v, tile, grads, in_x, dx, (first, last, R))
    if len(dw) > 0:
        if N == 0:
            du[:] = 0
        points_to_filters(du, tile, dw)


@separate_kernel
def points_to_filters(du, tile, dw):
    """dw = Gᵀ dU G"""
    (F, C), K = dw.shape[:2], dw.shape[2] * dw.shape[3]
    taps, weights, none = taps_of(dw.shape[2]), empty(K * C * PANEL, du), zeros(PANEL, du)
    step, count = filter_size(C, F), PANEL // simd.lanes(du)
    for f in range(0, F, PANEL):
        for c in range(C):
            simd.points_to_filter(tile, du, f * C + c * PANEL, step, weights, K * c * PANEL, taps, 0, count, none)
        transpose(weights, PANEL, dw[f : f + PANEL].reshape(-1), K * C, K * C, min(PANEL, F - f))
