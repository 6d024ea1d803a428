"""Sums of pooling windows, and their gradients, a vector of windows at a time."""

from .emitter import I64, emits
from .rows import each_vector, store_joined


@emits
def sum_taps(e, x, at, starts, begin, taps, factor, y, out, columns):
    """y[out + j] = factor · Σ x[at + starts[t] + j] over begin ≤ t < begin + taps, for j < columns; y is not x"""
    factor = e.repeat(factor)

    def step(j, left):
        mask = left and e.first(left)

        def tap(t, sums):
            return [e.add(sums[0], e.load(x, e.at(at, e.number_at(starts, e.at(begin, t)), j), mask))]

        (total,) = e.loop(taps, [e.zero()], tap)
        e.store(e.builder.fmul(total, factor), y, e.at(out, j), mask)

    each_vector(e, columns, step)


@emits
def sum_pairs(e, x, top, low, factor, y, out, columns):
    """y[out + j] = factor · (x[top + 2j] + x[low + 2j] + x[top + 2j + 1] + x[low + 2j + 1]) for j < columns"""
    factor, L = e.repeat(factor), I64(e.lanes)

    def step(j, left):
        pixels = left and e.builder.mul(left, I64(2))
        masks = [left and e.first(pixels), left and e.first(e.builder.sub(pixels, L))]
        pair = []
        for half, mask in enumerate(masks):
            rows = [e.load(x, e.at(row, (j, I64(2)), I64(half * e.lanes)), mask) for row in (top, low)]
            pair.append(e.add(*rows))
        evens, odds = (e.shuffle(*pair, range(first, 2 * e.lanes, 2)) for first in (0, 1))
        e.store(e.builder.fmul(e.add(evens, odds), factor), y, e.at(out, j), left and e.first(left))

    each_vector(e, columns, step)


@emits
def spread_pairs(e, g, start, factor, x, top, low, columns):
    """x[top + 2j], x[top + 2j + 1], x[low + 2j] and x[low + 2j + 1] = factor · g[start + j] for j < columns"""
    factor = e.repeat(factor)

    def step(j, left):
        value = e.builder.fmul(e.load(g, e.at(start, j), left and e.first(left)), factor)
        places = [e.at(row, (j, I64(2))) for row in (top, low)]
        store_joined(e, (value, value), x, places, left and e.builder.mul(left, I64(2)))

    each_vector(e, columns, step)
