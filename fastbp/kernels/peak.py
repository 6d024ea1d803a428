"""The limits of the machine that kernels are measured against: multiply–adds in registers, and numbers from memory."""

from . import simd
from .jit import kernel


@kernel
def multiply_adds(x, count):
    """x[i] ← x[0]·x[i] + x[1], `count` times, in registers; x holds at least 12 vectors. Returns how many were made"""
    simd.multiply_adds(x, count)
    return count * 12 * simd.lanes(x)


@kernel
def triad(a, b, c):
    """a = b + c / 2, flat arrays: two are read, one is written"""
    half = a.dtype.type(0.5)
    for i in range(a.size):
        a[i] = b[i] + half * c[i]
