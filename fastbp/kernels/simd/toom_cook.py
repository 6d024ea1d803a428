"""The matrices of minimal filtering, from points at which polynomials are evaluated (Toom and Cook).

A tile (m, r, s) is m outputs, an axis, of a filter of r taps with stride s. For s = 1 they are the product of two
polynomials, read backwards: a transposed multiplication. It is done at n = m + r − 1 points a_0, a_1 … and ∞, one
product each, in the place of m·r. Along one axis

    y = Aᵀ[(G w) ⊙ (Bᵀ d)]    Aᵀ[i, j] = a_jⁱ    G[j, k] = a_jᵏ / Π_{i≠j} (a_j − a_i)
                              Bᵀ[j] = the coefficients of Π_{i≠j} (x − a_i)

for m outputs y, r weights w and n inputs d; the point ∞ has the rows (0 … 0 1) in A and G, and Π_i (x − a_i) in Bᵀ.

With a stride, the taps p, p + s, p + 2s … read the inputs of these numbers alone, and on them they are a filter of
stride 1, for each p < s. The matrices of the s filters stand one below the other, their columns s apart:
n = s(m − 1) + r points for as many inputs, 2m + 1 for the 3m of three taps and stride 2.

Rounding grows with the powers of the points. ±3/4 and ±3/2 give a largest error of 1e-6 to 3e-6 of the largest y in
float32 for the tiles with six points, where the customary ±1 and ±2 give 5e-6 to 1.4e-5, at the same speed; the others
give 2e-7 to 8e-7. (32 to 512 channels. Gradients of filters: 2e-6 to 4e-6, and 5e-7 to 1e-6.)
"""

import numpy as np

# finite points, by the number of all; 0, then ± pairs, which share half their work
POINTS = {2: (0.0,), 3: (1.0, -1.0), 4: (0.0, 1.0, -1.0), 6: (0.0, 0.75, -0.75, 1.5, -1.5)}
TILES = (2, 3, 1), (4, 3, 1), (3, 2, 1), (2, 5, 1), (2, 3, 2), (2, 4, 2), (2, 5, 2)


def polynomials(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`matrices` for stride 1"""
    n = m + r - 1
    points = np.array(POINTS[n])
    B, A, G = np.zeros((n, n)), np.zeros((n, m)), np.zeros((n, r))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        B[j, : n - 1] = np.poly(others)[::-1] if n > 2 else 1
        A[j] = point ** np.arange(m)
        G[j] = point ** np.arange(r) / np.prod(point - others)
    B[n - 1] = np.poly(points)[::-1]
    A[n - 1, m - 1] = G[n - 1, r - 1] = 1
    return B, A, G


def matrices(m: int, r: int, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Bᵀ (n, n), A (n, m), G (n, r)), float64: from inputs, gradients of outputs and weights to the points"""
    n, row = s * (m - 1) + r, 0
    B, A, G = np.zeros((n, n)), np.zeros((n, m)), np.zeros((n, r))
    for p in range(min(r, s)):
        b, a, g = polynomials(m, len(range(p, r, s)))
        rows = slice(row, row + len(b))
        B[rows, p::s], A[rows], G[rows, p::s] = b, a, g
        row += len(b)
    return B, A, G


INPUTS, GRADIENTS, WEIGHTS = ({tile: matrices(*tile)[which] for tile in TILES} for which in range(3))
