"""e to a number that is not positive, and the normal distribution, as sums and products: loops over them become vector
code, which a call of the C library keeps them from being.

    x = n log 2 + r,   n whole, |r| ≤ log 2 / 2:        eˣ = 2ⁿ (1 + p),   p = eʳ − 1 = r + r²/2! + r³/3! + …

Thirteen terms leave less than a rounding error of float64, seven less than one of float32.

The upper tail 1 − Φ(a) = erfc(z) / 2, z = a / √2 ≥ 0, is e^(−z²) / (1 + 2z) times a function that hardly changes: a
polynomial in t = (z − 3) / (z + 3), which is between −1 and 1 for any z.
"""

import math

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly

from .jit import ordered_kernel
from .simd import power_of_two

LOG_2, PER_LOG_2 = math.log(2), 1 / math.log(2)
TERMS = tuple(1 / math.factorial(k) for k in range(13, 0, -1))
MORE, FEWER = TERMS[:6], TERMS[6:]  # the first are for float64 alone

# (1 + 2z) e^(z²) erfc(z) in Chebyshev's polynomials of t, by interpolation at 48 points in 60 decimal digits
TAIL = (
    1.17756257419656, 0.005353904539615676, -0.09377550342284209, 0.05436652555744322, -0.018976596707845208,
    0.004453426061462712, -0.0006335531710553147, 1.7661719523171593e-05, 1.2841532864056671e-05,
    -2.0072285659059913e-06, -1.807522790414837e-07, 7.549828343825093e-08, 1.885668523838603e-09,
    -2.699519049798364e-09, -1.460079119939105e-11, 1.0361607445969489e-10, 1.475715976623473e-12,
    -4.277340064396911e-12, -2.07922492859798e-13, 1.8134502003176963e-13, 1.973425574544739e-14,
    -7.287943737592673e-15, -1.5169878690228116e-15, 2.3514112258781403e-16,
)  # fmt: skip
TAIL_64, TAIL_32 = (tuple(map(float, cheb2poly(TAIL[:count])[::-1])) for count in (24, 12))
MIDDLE, FAR = 3.0, 40.0  # from a = 40 on the tail is 0 in both types
PER_ROOT_2, PER_ROOT_2_PI = math.sqrt(1 / 2), 1 / math.sqrt(2 * math.pi)


@ordered_kernel
def is_float64(x):
    """Is x of this type, not of float32? Known when the kernel is compiled"""
    return type(x)(1e-300) > type(x)(0)


@ordered_kernel
def exponential(x):
    """(eˣ, 1 − eˣ) for x ≤ 0, both to full precision: (1 − 2ⁿ) − 2ⁿ p keeps its digits where x is near 0

    eˣ is 0 where it is below the normal numbers of x's type; NaN for NaN"""
    number = type(x)
    zero, one = number(0), number(1)
    low = number(-708) if is_float64(x) else number(-87)
    inside = low if x < low else x
    n = np.floor(inside * number(PER_LOG_2) + number(0.5))
    r = inside - n * number(LOG_2)
    p = zero
    if is_float64(x):
        for term in MORE:
            p = (p + number(term)) * r
    for term in FEWER:
        p = (p + number(term)) * r
    power = zero if x < low else power_of_two(n)
    return power + power * p, (one - power) - power * p


@ordered_kernel
def normal(x):
    """(Φ(x), φ(x)) of the standard normal distribution: the probability of what is below x, and its derivative"""
    number = type(x)
    zero, one, half = number(0), number(1), number(0.5)
    a = number(FAR) if abs(x) > number(FAR) else abs(x)
    z = a * number(PER_ROOT_2)
    e, _ = exponential(-half * (a * a))
    t, p = (z - number(MIDDLE)) / (z + number(MIDDLE)), zero
    if is_float64(x):
        for term in TAIL_64:
            p = p * t + number(term)
    else:
        for term in TAIL_32:
            p = p * t + number(term)
    tail = half * (e * p / (one + z + z))
    return one - tail if x >= zero else tail, e * number(PER_ROOT_2_PI)
