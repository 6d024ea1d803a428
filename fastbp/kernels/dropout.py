"""Dropout with a counter-based generator: whether an element is kept is a function of (key, its index) alone.

So a mask need not be stored, does not depend on threads or batch slices, and comes back when the same key is used
again.

Keys come from SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014): the state
key + (index + 1) · γ through a 64-bit finaliser. AVX2 has no 64-bit multiplication, so an element's bits are made of
32-bit words, eight elements at a time: the low word of its index and a word of the key through `triple32` (Wellons:
hash-prospector, 2018: found by search for the least bias), with the key's other word added before the second of its
three multiplications. The high word of the index selects the key.
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
    """step ← step + 1; pass_key[0] = that training pass's key, from the layer's: key, step () · pass_key (1,)"""
    step[()] += 1
    pass_key[0] = random_bits(key[()], np.uint64(step[()]))


@kernel
def element_bits(index, low, high):
    """32 random bits for the words of a key and an element's index in its block: all uint32

    Numba widens every result to 64 bits; cut back at once, LLVM computes it in 32."""
    z = np.uint32(index + low)
    z = np.uint32((z ^ (z >> np.uint32(17))) * np.uint32(0xED5AD4BB))
    z = np.uint32((z ^ (z >> np.uint32(11))) + high)
    z = np.uint32(z * np.uint32(0xAC4C1B51))
    z = np.uint32((z ^ (z >> np.uint32(15))) * np.uint32(0x31848BAB))
    return np.uint32(z ^ (z >> np.uint32(14)))


@kernel
def dropout_forward(x, y, key, first, numbers):
    """y[i] = x[i] / (1 − rate) where element first + i is kept, else 0 · x[i]

    x, y (n,), key (1,), numbers = (rate,); `first` is the index of x[0] in the whole batch. An element is dropped with
    probability ⌊rate · 2³²⌋ / 2³². Each block of 2³² elements has a key of its own. The derivative has the same mask
    and scale, so the backward pass is this kernel applied to dout."""
    rate = numbers[0]
    scale, threshold = x.dtype.type(1 / (1 - rate)), np.uint32(np.uint64(rate * 2.0**32))
    start = 0
    while start < x.size:
        block, index = (first + start) >> 32, (first + start) & 0xFFFFFFFF
        here = x[start : start + 2**32 - index]
        there, of_block = y[start : start + here.size], random_bits(key[0], np.uint64(block))
        low, high = np.uint32(np.uint32(index) + np.uint32(of_block)), np.uint32(of_block >> np.uint64(32))
        for i in range(here.size):
            value, dropped = here[i] * scale, here[i] - here[i]  # +0, and NaN for NaN and infinity
            there[i] = value if element_bits(np.uint32(i), low, high) >= threshold else dropped
        start += here.size
