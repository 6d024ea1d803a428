"""e to a number that is not positive, as sums and products: loops over it become vector code, which a call of the C
library's exponential keeps them from being.

    x = n log 2 + r,   n whole, |r| ≤ log 2 / 2:        eˣ = 2ⁿ (1 + p),   p = eʳ − 1 = r + r²/2! + r³/3! + …

Thirteen terms leave less than a rounding error of float64.
"""

import math

import numpy as np

from .jit import ordered_kernel
from .simd import power_of_two

LOG_2, PER_LOG_2 = math.log(2), 1 / math.log(2)
TERMS = tuple(1 / math.factorial(k) for k in range(13, 0, -1))


@ordered_kernel
def exponential(x):
    """(eˣ, 1 − eˣ) for x ≤ 0, both to full precision: (1 − 2ⁿ) − 2ⁿ p keeps its digits where x is near 0

    eˣ is 0 where it is below the normal numbers of x's type; NaN for NaN"""
    number = type(x)
    zero, one = number(0), number(1)
    low = number(-708) if number(1e-300) > zero else number(-87)  # float64, in which 1e-300 is not 0, or float32
    inside = low if x < low else x
    n = np.floor(inside * number(PER_LOG_2) + number(0.5))
    r = inside - n * number(LOG_2)
    p = zero
    for term in TERMS:
        p = (p + number(term)) * r
    power = zero if x < low else power_of_two(n)
    return power + power * p, (one - power) - power * p
