"""The matrices of minimal filtering, F(m×m, 3×3), from points at which polynomials are evaluated (Toom and Cook).

m outputs of a filter of 3 are the product of two polynomials, read backwards: a transposed multiplication. It is done
at the n = m + 2 points a_0 … a_m and ∞, one product each, in the place of 3m. Along one axis

    y = Aᵀ[(G w) ⊙ (Bᵀ d)]    Aᵀ[i, j] = a_jⁱ    G[j, k] = a_jᵏ / Π_{i≠j} (a_j − a_i)
                              Bᵀ[j] = the coefficients of Π_{i≠j} (x − a_i)

for m outputs y, 3 weights w and n inputs d; the point ∞ has the rows (0 … 0 1) in A and G, and Π_i (x − a_i) in Bᵀ.

Rounding grows with the powers of the points. For m = 4, ±3/4 and ±3/2 give a largest error of 1.4e-6 to 3.4e-6 of the
largest result in float32, where the customary ±1 and ±2 give 5e-6 to 1.4e-5, at the same speed.
"""

import numpy as np

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}  # 0 first, then ± pairs, which share half their work


def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Bᵀ (n, n), A (n, m), G (n, 3)), float64: from inputs, gradients of outputs and weights to the points"""
    points, n = np.array(POINTS[m]), m + 2
    B, A, G = np.zeros((n, n)), np.zeros((n, m)), np.zeros((n, 3))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        B[j, : n - 1] = np.poly(others)[::-1]
        A[j] = point ** np.arange(m)
        G[j] = point ** np.arange(3) / np.prod(point - others)
    B[n - 1] = np.poly(points)[::-1]
    A[n - 1, m - 1] = G[n - 1, 2] = 1
    return B, A, G


INPUTS, GRADIENTS, WEIGHTS = ({m: matrices(m)[which] for m in POINTS} for which in range(3))
