"""The tile: a block of sums that stay in registers while their terms run by. One inner loop is under all products.

A tile has M × V sums, for M numbers and V vectors: at each step of `accumulate` every number is broadcast, and
multiplied and added with every vector. What a product is about is said around it: where the numbers and the vectors
lie, by address functions, and what becomes of the sums, by epilogues.

How large a tile may be follows from the processor's registers alone: see `most`. What is left of a matrix beside the
large tiles is done by smaller ones (`bodies`), few of them, since each is code to be compiled.
"""

from functools import partial

from llvmlite import ir
from numba.core import cgutils

from .emitter import I64, registers

PANEL = 16  # columns of a panel: two vectors of 8, or a whole number of any other processor's
LATENCY = 8  # sums that a processor needs for its multiply–adds not to wait for each other


def most(context, vectors: int) -> int:
    """The most rows of a tile of so many vectors: its sums fill three quarters of the registers.

    The rest holds the vectors, or the numbers if these are fewer, and one of the others: 4 × 3 sums of 16 registers, 3
    vectors, a number."""
    return registers(context) * 3 // 4 // vectors


def bodies(largest: int, *smaller: int) -> tuple[int, ...]:
    """The sizes for which there is code: the largest, and those below it."""
    return (largest, *(size for size in smaller if size < largest))


def add_products(e, numbers, vectors, sums):
    """sums[m, v] + numbers[m] · vectors[v], of functions that load them

    Those of the fewer kind stay in registers, the others pass by. Vectors are all loaded before they are used: LLVM
    moves each load to where there is a register for it. With loads in between, it finds too few for 128-bit vectors."""
    totals, V = list(sums), len(vectors)
    if len(numbers) < V:
        held = [e.repeat(number()) for number in numbers]
        for v, value in enumerate([vector() for vector in vectors]):
            for m, number in enumerate(held):
                totals[m * V + v] = e.multiply_add(number, value, totals[m * V + v])
        return totals
    held = [vector() for vector in vectors]
    for m, number in enumerate(numbers):
        value = e.repeat(number())
        for v, vector in enumerate(held):
            totals[m * V + v] = e.multiply_add(value, vector, totals[m * V + v])
    return totals


def accumulate(e, K, operands, sums):
    """sums[m, v] + Σ_{k<K} numbers[m] · vectors[v] for (numbers, vectors) = operands(k), functions that load them"""
    return e.loop(K, sums, lambda k, sums: add_products(e, *operands(k), sums))


def numbers_at(e, array, places, *terms):
    """Functions that load the numbers at each of the places plus the terms"""

    def load(place):
        return e.number_at(array, e.at(place, *terms))

    return [partial(load, place) for place in places]


def vectors_at(e, array, places, *terms, masks=None):
    """Functions that load the vectors from there on"""

    def load(place, mask):
        return e.load(array, e.at(place, *terms), mask)

    return [partial(load, place, mask) for place, mask in zip(places, masks or [None] * len(places), strict=True)]


# -- which tile --------------------------------------------------------------------------------------------------------


def that_hold(e, sizes, count):
    """(size, fewer, condition) for each size: whether it is the smallest that holds `count` rows, which are then more
    than `fewer`"""
    b = e.builder
    for size, fewer in zip(sizes, (*sizes[1:], 0), strict=True):
        yield size, fewer, b.and_(b.icmp_signed("<=", count, I64(size)), b.icmp_signed(">", count, I64(fewer)))


def smallest_that_holds(e, sizes, count, body):
    """body(size, fewer) for the smallest size that holds `count` rows: see `that_hold`."""
    for size, fewer, condition in that_hold(e, sizes, count):
        with e.builder.if_then(condition):
            body(size, fewer)


def one_after_the_other(e, sizes, count, body):
    """body(size, first) for tiles that hold `count` rows without overlap: as many of each size as are left room for."""
    b, done = e.builder, I64(0)
    for size in sizes:
        tiles = b.sdiv(b.sub(count, done), I64(size))
        with cgutils.for_range(b, tiles, intp=I64) as loop:
            body(size, e.at(done, (loop.index, I64(size))))
        done = e.at(done, (tiles, I64(size)))


def overlapping(e, sizes, count, cost, body):
    """body(size, first) for tiles of one size that together hold `count` rows, the last of which ends with them

    What two tiles have in common is computed twice. Of the sizes that are not above `count` that with the least to do
    is taken; a tile of s rows has s·cost sums."""
    b, best, chosen, choices = e.builder, I64(1 << 40), I64(0), []
    for size in sizes:
        tiles = b.sdiv(b.add(count, I64(size - 1)), I64(size))
        work = b.mul(tiles, I64(max(size * cost, LATENCY)))
        better = b.and_(b.icmp_signed("<", work, best), b.icmp_signed(">=", count, I64(size)))
        best, chosen = b.select(better, work, best), b.select(better, I64(size), chosen)
        choices.append((size, tiles))
    for size, tiles in choices:
        with b.if_then(b.icmp_signed("==", chosen, I64(size))):
            last = b.sub(count, I64(size))
            with cgutils.for_range(b, tiles, intp=I64) as loop:
                body(size, e.least(b.mul(loop.index, I64(size)), last))


def each_two_vectors(e, panels, in_b, cp, body):
    """body(in_row, of_row) for two vectors of the panels' columns at a time, and for one that is left: where they lie
    in b, of which in_b = (start, distance of panels), and from the beginning of a row of c, whose panels are `cp`
    apart"""
    b, each, (b0, bp) = e.builder, PANEL // e.lanes, in_b
    count = b.mul(panels, I64(each))

    def some(first, V):
        places = [b.add(first, I64(v)) for v in range(V)]
        in_row, of_row = (
            [e.at((b.sdiv(v, I64(each)), apart), (b.srem(v, I64(each)), I64(e.lanes))) for v in places]
            for apart in (bp, cp)
        )
        body([e.at(b0, place) for place in in_row], of_row)

    with cgutils.for_range(b, b.sdiv(count, I64(2)), intp=I64) as pair:
        some(b.mul(pair.index, I64(2)), 2)
    if each == 1:
        with b.if_then(b.icmp_signed("==", b.srem(count, I64(2)), I64(1))):
            some(b.sub(count, I64(1)), 1)


# -- epilogues ---------------------------------------------------------------------------------------------------------


def store(e, sums, array, places):
    """The sums to their places (offset, mask)"""
    for total, place in zip(sums, places, strict=True):
        e.store(total, array, *place)


def add_to(e, sums, array, offsets):
    """The sums added to what is at the offsets. All is read before the first is written: there may be equal offsets."""
    before = [e.load(array, offset) for offset in offsets]
    for total, offset, value in zip(sums, offsets, before, strict=True):
        e.store(e.add(total, value), array, offset)


def descend(e, values, velocities, numbers, gradient, place):
    """SGD's update of a vector of values and one of velocities at a place (offset, mask), by sgd_update's operations

    numbers = (−lr, momentum, weight_decay, nesterov), the last a truth value"""
    down, momentum, weight_decay, nesterov = numbers
    value, velocity = e.load(values, *place), e.load(velocities, *place)
    gradient = e.multiply_add(weight_decay, value, gradient)
    velocity = e.multiply_add(momentum, velocity, gradient)
    change = e.builder.select(nesterov, e.multiply_add(momentum, velocity, gradient), velocity)
    e.store(velocity, velocities, *place)
    e.store(e.multiply_add(down, change, value), values, *place)


def numbers_of(e, numbers):
    """`descend`'s, from the tuple that a kernel passes"""
    *floats, nesterov = (e.builder.extract_value(numbers, i) for i in range(4))
    return [*map(e.repeat, floats), e.builder.fcmp_ordered(">", nesterov, ir.Constant(nesterov.type, 0))]
