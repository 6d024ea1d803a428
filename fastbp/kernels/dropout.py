"""Dropout with a counter-based generator: whether an element is kept is a function of (key, its index) alone.

So a mask need not be stored, does not depend on threads or batch slices, and comes back when the same key is used again.
The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014): the state
key + (index + 1) · γ through a 64-bit finaliser.
"""

import numpy as np

from .jit import kernel

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@kernel
def random_bits(key, index):
    """64 random bits, the same for the same (key, index): both uint64"""
    z = key + (index + np.uint64(1)) * GAMMA
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@kernel
def next_key(key, step, pass_key):
    """step ← step + 1; pass_key[0] = the key of that training pass, from the layer's key: key, step () · pass_key (1,)"""
    step[()] += 1
    pass_key[0] = random_bits(key[()], np.uint64(step[()]))


@kernel
def dropout_forward(x, y, key, first, rate):
    """y[i] = x[i] / (1 − rate) where element first + i is kept, else 0; it is dropped with probability `rate`

    x, y (n,), key (1,); `first` is the index of x[0] in the whole batch. The derivative has the same mask and scale, so the
    backward pass is this kernel applied to dout."""
    scale = x.dtype.type(1 / (1 - rate))
    threshold = np.uint64(rate * 2.0**53)
    zero = x.dtype.type(0)
    for i in range(x.size):
        kept = random_bits(key[0], np.uint64(first + i)) >> np.uint64(11) >= threshold
        y[i] = x[i] * scale if kept else zero
