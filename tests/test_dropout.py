"""Dropout's generator: known values, and statistics within five standard deviations for fixed keys."""

import itertools

import numpy as np
import pytest

import fastbp
from fastbp.kernels.dropout import dropout_forward, element_bits, next_key, random_bits

KEYS = [0, 1, 2**32, 2**63, 0x0123456789ABCDEF]
SIGMAS = 5  # a probability of 6e-7 for each comparison; there are some 5000


def kept(key, size, rate, first=0, dtype=np.float32):
    """The mask of elements first ≤ i < first + size."""
    y = np.empty(size, dtype)
    dropout_forward(np.ones(size, dtype), y, np.array([key], np.uint64), first, np.array([rate]))
    return y != 0


def correlation(a, b):
    """The correlation of two masks, in standard deviations of that of independent ones."""
    return abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size)


def triple32(z, high):
    """Wellons' function, of integers or arrays of uint64; `high` is what fastbp adds
    before the second multiplication."""
    z = (z ^ z >> 17) * 0xED5AD4BB % 2**32
    z = ((z ^ z >> 11) + high) * 0xAC4C1B51 % 2**32
    z = (z ^ z >> 15) * 0x31848BAB % 2**32
    return z ^ z >> 14


def test_keys_are_of_splitmix64():
    """The published sequence for the seed 1234567 (Vigna's reference implementation)."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [int(random_bits(np.uint64(1234567), np.uint64(i))) for i in range(5)] == expected


def test_the_mask_is_what_the_formulas_say():
    rng = np.random.default_rng(0)
    for index, low, high in rng.integers(0, 2**32, (100, 3)).tolist():
        expected = triple32((index + low) % 2**32, high)
        assert int(element_bits(np.uint32(index), np.uint32(low), np.uint32(high))) == expected
    key, first = 0xFEDCBA9876543210, 5 * 2**32 - 7  # across the end of a block
    for rate in (0.0, 0.3, 0.999):
        expected = []
        for i in range(first, first + 20):
            of_block = int(random_bits(np.uint64(key), np.uint64(i >> 32)))
            expected.append(triple32((i + of_block) % 2**32, of_block >> 32) >= int(rate * 2**32))
        assert kept(key, 20, rate, first).tolist() == expected == kept(key, 20, rate, first, np.float64).tolist()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("key", KEYS)
def test_the_rate_is_right(rate, key):
    size = 1_000_000
    assert abs(kept(key, size, rate).mean() - (1 - rate)) < SIGMAS * np.sqrt(rate * (1 - rate) / size)


def test_the_smallest_and_largest_rates():
    assert kept(1, 100_000, 0.0).all() and kept(1, 100_000, 1e-10).all()
    assert not kept(1, 100_000, 1 - 2**-32).any()
    size = 2**24
    assert 0 < (~kept(1, size, 2**-22)).sum() < 20  # 4 are expected


def test_every_bit_and_every_pair_of_neighbours_is_as_likely():
    bits = triple32(np.arange(2_000_000, dtype=np.uint64) + 12345, 0x9ABCDEF0)
    ones = [(bits >> k & 1).mean() for k in range(32)]
    assert np.abs(np.array(ones) - 0.5).max() < SIGMAS * 0.5 / np.sqrt(bits.size)
    for shift in (24, 12, 0):  # the highest, middle and lowest eight bits of two neighbours
        byte = (bits >> shift & 255).astype(np.int64)
        counts = np.bincount(byte[::2] * 256 + byte[1::2], minlength=65536)
        expected = bits.size / 2 / 65536
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_squared - 65535) < SIGMAS * np.sqrt(2 * 65535)


def test_every_bit_of_the_index_changes_half_of_the_bits():
    z = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint64)
    for high in (0, 0x9ABCDEF0):
        for k in range(32):
            changed = triple32(z, high) ^ triple32(z ^ 1 << k, high)
            share = np.array([(changed >> bit & 1).mean() for bit in range(32)])
            assert np.abs(share - 0.5).max() < SIGMAS * 0.5 / np.sqrt(z.size)


def test_keys_that_share_a_word_have_masks_of_their_own():
    words = np.random.default_rng(0).integers(0, 2**32, 12, np.uint64).tolist()
    index = np.arange(200_000, dtype=np.uint64)
    shared_low = [triple32((index + words[0]) % 2**32, high) >= 2**31 for high in words]
    shared_high = [triple32((index + low) % 2**32, words[0]) >= 2**31 for low in words]
    for masks in (shared_low, shared_high):
        for a, b in itertools.combinations(masks, 2):
            assert correlation(a, b) < SIGMAS


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_neighbouring_elements_are_independent(rate):
    for key in KEYS:
        mask = kept(key, 500_000, rate)
        for lag in (1, 2, 3, 4, 7, 8, 9, 16, 32, 100, 256, 1024, 3872, 2**15, 2**16, 2**17):
            assert correlation(mask[lag:], mask[:-lag]) < SIGMAS


def test_successive_steps_and_layers_are_independent():
    """Steps 1 to 12 of a network's three dropout layers; the masks are also compared one and eight elements apart."""
    network = fastbp.Sequential(*(fastbp.Dropout(0.5) for _ in range(3)), seed=1)
    masks = []
    for layer in network.layers:
        key, step, of_pass = layer.state["key"], np.zeros((), np.int64), np.zeros(1, np.uint64)
        for _ in range(12):
            next_key(key, step, of_pass)
            masks.append(kept(of_pass[0], 100_000, 0.5))
    for a, b in itertools.combinations(masks, 2):
        for lag in (0, 1, 8):
            assert correlation(a[lag:], b[: b.size - lag]) < SIGMAS
    together = np.mean(masks, axis=0)  # no element is kept more often than chance allows
    assert abs(together.var() * len(masks) - 0.25) < SIGMAS * 0.25 * np.sqrt(2 / together.size)


def test_masks_of_three_steps_are_independent_together():
    """Pairs could be independent and one mask still follow from two others."""
    masks = [2.0 * kept(random_bits(np.uint64(7), np.uint64(k)), 200_000, 0.5) - 1 for k in range(10)]
    for a, b, c in itertools.combinations(masks, 3):
        assert abs((a * b * c).mean()) * np.sqrt(a.size) < SIGMAS


def test_blocks_of_two_to_the_32_elements_have_masks_of_their_own():
    size = 200_000
    masks = [kept(3, size, 0.5, block * 2**32) for block in range(5)]
    for a, b in itertools.combinations(masks, 2):
        assert correlation(a, b) < SIGMAS
    whole = kept(3, 100, 0.5, 2**33 - 60)
    assert np.array_equal(whole[:60], kept(3, 60, 0.5, 2**33 - 60)) and np.array_equal(whole[60:], masks[2][:40])
