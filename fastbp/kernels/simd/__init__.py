"""Register tiles: the vector code under matrix products and convolutions. This folder is the one place that emits it.

A processor adds and multiplies vectors of L numbers (8 float32 on AVX2), two vectors at a time, but can load only about
as many from its cache. A plain loop for c[m, n] = Σ_k a[m, k] b[k, n] loads two operands for every product, so it waits
for loads. A tile keeps a small block of c in registers for the whole sum over k, and uses everything it loads several
times:

                     b[k, n : n+L]   b[k, n+L : n+2L]   b[k, n+2L : n+3L]      3 loads
        a[m,   k] →  c00             c01                c02
        a[m+1, k] →  c10             c11                c12                    4 loads, each number
        a[m+2, k] →  c20             c21                c22                    repeated L times
        a[m+3, k] →  c30             c31                c32

Twelve of the sixteen AVX2 registers hold c, three hold the row of b and one the number of a: 12 multiply–adds for 7
loads. Only when k is through is c written to memory. AVX-512 has 32 registers: there c has eight rows, 24 multiply–adds
for 11 loads. tile.py has the one inner loop and the rule for the sizes; the tiles differ in where they read, and in
what becomes of their sums.

- `outer`: the tile above; vectors run along n. Rows of b are `bk` apart, or anywhere: it takes tables of offsets too.
- `dot`: c[m, n] = Σ_k a[m, k] b[n, k], both contiguous along k: the vectors run along the sum, and the accumulators,
  three rows of four or four of six, are added up at the end. It takes a table for the rows of b.
- `sum_rows` is `outer` for one row of c, by rows of b; `pack` copies the columns of b that a tile reads.
  `outer_descend` and `sum_rows_descend` do not write the sums, a gradient's, but make SGD's update with them from the
  registers.
- `pool_row` takes the maxima of a row of windows, a vector of windows at a time, `pool_pairs` those of 2×2 windows side
  by side, `pool_normalised` those of a normalised
  map after ReLU; `sum_taps` sums rows that lie anywhere, `sum_pairs` 2×2 windows, whose gradients `spread_pairs`
  writes; `add_weighted_rows` sums rows that lie anywhere, each with its own factor: the gradients that only
  some pixels have.
- `windows_by_filters` and `windows_by_pixels` are a convolution with bias and pooling, filters or windows in the
  lanes.
- `pixels_in_lanes` and `channels_in_lanes` are a convolution of any geometry: tables say where its operands lie.
- `copy_row` copies a row, and adds a number to it; `copy_row_and_zeros` fills up its last vector; `split_row` copies
  the even and the odd columns apart, `join_row` together again, `copy_even` every second number. `power_of_two` makes
  2ⁿ of n.
- `multiply_adds` does nothing else, for the machine's peak.
- `to_columns` and `from_columns` transpose four columns, of few features and many samples.
- `image_to_points` and its five relatives are the transforms of Winograd's convolution and their adjoints, on vectors
  of channels; `panel_product` multiplies at one of its points, `transpose` turns images to channels last and back.

Each is an intrinsic: a function that Numba calls to emit LLVM code in the place of the call. Arrays are passed whole,
with offsets in elements, so they stay alive. A tile may have fewer rows and columns than the largest. Vectors at the
end of a row are loaded and stored under a mask: nothing outside an array is read. Sizes are run-time numbers, so there
is one compiled tile for each dtype, not one for each shape.

The number of lanes follows from the instruction set that Numba compiles for, 64-byte vectors with AVX-512, 32 with AVX,
else 16, and the size of the tiles from its registers: 32 with AVX-512 and on 64-bit Arm, else 16. `fmuladd` becomes one
instruction where there is one, and a multiply and an add elsewhere (`fma` would call a library).
"""

from numba import config

from .convolved import SPARSE_STEP
from .tile import PANEL

if config.DISABLE_JIT:  # an intrinsic exists only in compiled code
    from .plain import (
        add_weighted_rows,
        channels_in_lanes,
        copy_even,
        copy_row,
        copy_row_and_zeros,
        dot,
        dot_columns,
        dot_rows,
        filter_to_points,
        from_columns,
        image_to_points,
        join_row,
        lanes,
        lanes_of,
        map_to_points,
        multiply_adds,
        outer,
        outer_descend,
        outer_rows,
        pack,
        panel_product,
        pixel_filters,
        pixel_rows,
        pixels_in_lanes,
        points_to_filter,
        points_to_image,
        points_to_map,
        pool_normalised,
        pool_pairs,
        pool_row,
        power_of_two,
        rows_at_once,
        sparse_lanes,
        sparse_rows,
        split_row,
        spread_pairs,
        sum_pairs,
        sum_rows,
        sum_rows_descend,
        sum_taps,
        to_columns,
        transpose,
        windows_by_filters,
        windows_by_pixels,
    )
else:
    from .averages import spread_pairs, sum_pairs, sum_taps
    from .convolved import (
        add_weighted_rows,
        pixel_filters,
        sparse_lanes,
        sparse_rows,
        windows_by_filters,
        windows_by_pixels,
    )
    from .dot import dot, dot_columns, dot_rows
    from .emitter import lanes, lanes_of
    from .maxima import pool_normalised, pool_pairs, pool_row
    from .peak import multiply_adds
    from .placed import channels_in_lanes, pixel_rows, pixels_in_lanes
    from .powers import power_of_two
    from .products import outer, outer_descend, outer_rows, pack, panel_product, sum_rows, sum_rows_descend
    from .quads import from_columns, rows_at_once, to_columns
    from .rows import copy_even, copy_row, copy_row_and_zeros, join_row, split_row
    from .transforms import (
        filter_to_points,
        image_to_points,
        map_to_points,
        points_to_filter,
        points_to_image,
        points_to_map,
        transpose,
    )

__all__ = [
    "PANEL", "SPARSE_STEP", "add_weighted_rows", "channels_in_lanes", "copy_even", "copy_row", "copy_row_and_zeros",
    "dot", "dot_columns", "dot_rows", "filter_to_points", "from_columns", "image_to_points", "join_row", "lanes",
    "lanes_of", "map_to_points", "multiply_adds", "outer", "outer_descend", "outer_rows", "pack", "panel_product",
    "pixel_filters", "pixel_rows", "pixels_in_lanes", "points_to_filter", "points_to_image", "points_to_map",
    "pool_normalised", "pool_pairs", "pool_row", "power_of_two", "rows_at_once", "sparse_lanes", "sparse_rows",
    "split_row", "spread_pairs", "sum_pairs", "sum_rows", "sum_rows_descend", "sum_taps", "to_columns", "transpose",
    "windows_by_filters", "windows_by_pixels",
]  # fmt: skip
