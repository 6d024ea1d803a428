"""As many multiply–adds as a core can make: vectors that stay in registers."""

from .emitter import I64, emits

CHAINS = 12  # independent sums: more than the 8 to 10 multiply–adds that a core has under way at once


@emits
def multiply_adds(e, x, count):
    """x[v·L + i] ← x[0]·x[v·L + i] + x[1], `count` times, for v < CHAINS and i < L; x[0] and x[1] as they were"""
    first, second = (e.repeat(e.number_at(x, I64(k))) for k in range(2))
    places = [I64(v * e.lanes) for v in range(CHAINS)]
    values = [e.load(x, place) for place in places]
    sums = e.loop(count, values, lambda _, values: [e.multiply_add(first, value, second) for value in values])
    for value, place in zip(sums, places, strict=True):
        e.store(value, x, place)
