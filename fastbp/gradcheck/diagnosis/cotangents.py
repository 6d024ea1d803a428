"""Slips in how dout is used, for every layer whose right gradient is known as a function of dout."""

from collections.abc import Callable, Iterator
from itertools import combinations, permutations

import numpy as np

from .evidence import Cause, Evidence, axis_names
from .formula import fit
from .formulas import recognised
from .window_sums import windows


def backwards(e: Evidence) -> list[Callable[[np.ndarray], np.ndarray | None]]:
    """The gradient as a function of dout (K, *y.shape): that of the first formula, or windows, known to give it."""
    found = [lambda douts, f=formula: fit(f.value(douts), e.right.shape) for formula in recognised(e)]
    return (found or [lambda douts, w=w: w.value(douts, w.other) for w in windows(e)])[:1]


def dout_left_out(e: Evidence) -> Iterator[Cause]:
    """A loop that leaves parts of dout out, or = for +=."""
    yield from _first(e, _loops)


def dout_rearranged(e: Evidence) -> Iterator[Cause]:
    """dout with its axes, or the indices along one, in another order."""
    yield from _first(e, _orders)


def _first(e: Evidence, slips: Callable) -> Iterator[Cause]:
    if e.is_loss or not e.same_shape or e.is_right:  # a right gradient leaves out what makes no difference, too
        return
    for backward in backwards(e):
        for name, message, hint, douts in slips(e):
            if e.explains(backward(douts)):
                yield Cause(name, message, hint)
                return


def _loops(e: Evidence) -> Iterator[tuple[str, str, str, np.ndarray]]:
    hint = "look at the range of each loop: range(n) runs from 0 to n − 1"
    names = axis_names(e.output.ndim)
    for axis, name in enumerate(names, 1):
        n, of = e.douts.shape[axis], f"{name} of dout"
        for kept, text in (
            (slice(0, n - 1), f"the last {of} is"),
            (slice(1, n), f"the first {of} is"),
            (slice(0, n, 2), f"every second {of} is"),
            (slice(1, n, 2), f"every second {of} is"),
            (slice(1, n - 1), f"the first and the last {of} are"),
            (slice(0, max(0, n - 2)), f"the last two {name}s of dout are"),
            (slice(2, n), f"the first two {name}s of dout are"),
        ):
            yield "loop-range", f"{text} left out", hint, _keep(e.douts, {axis: kept})
        for m in range(2, n - 2):
            yield "loop-range", f"only the first {m} {name}s of dout count", hint, _keep(e.douts, {axis: slice(0, m)})
    for count in range(1, len(names) + 1):
        for axes in combinations(range(1, e.douts.ndim), count):
            which = ", ".join(names[axis - 1] for axis in axes)
            last = _keep(e.douts, {axis: slice(e.douts.shape[axis] - 1, None) for axis in axes})
            message = f"what is added up is overwritten: only the last {which} stays"
            yield "overwritten", message, "use += where several samples or windows add up", last
            first = _keep(e.douts, {axis: slice(0, 1) for axis in axes})
            yield (
                "loop-range",
                f"only the first {which} counts",
                "does the loop run to its end? Is the return inside it?",
                first,
            )


def _keep(douts: np.ndarray, kept: dict[int, slice]) -> np.ndarray:
    """dout with zeros outside of the kept indices."""
    chosen, result = tuple(kept.get(axis, slice(None)) for axis in range(douts.ndim)), np.zeros_like(douts)
    result[chosen] = douts[chosen]
    return result


def _orders(e: Evidence) -> Iterator[tuple[str, str, str, np.ndarray]]:
    hint = "look at each transpose and reshape of dout: they must be those of the forward pass"
    shape, ndim = e.douts.shape, e.output.ndim
    for order in permutations(range(1, ndim + 1)) if 2 <= ndim <= 4 else ():
        turned = e.douts.transpose(0, *order)
        if order != tuple(range(1, ndim + 1)):
            yield (
                "axes-swapped",
                f"dout is transposed by {tuple(a - 1 for a in order)} and reshaped, which mixes its axes",
                hint,
                turned.reshape(shape),
            )
        if ndim == 4 and order != (1, 3, 4, 2):
            # the way of spatial batch norm: to (N·H·W, C) and back
            N, C, H, W = shape[1:]
            back = turned.reshape(-1, N, H, W, C).transpose(0, 1, 4, 2, 3)
            transposed = f"dout.transpose{tuple(a - 1 for a in order)} before the reshape"
            message = f"{transposed} does not put the channels last in order"
            yield "axes-swapped", message, hint, back
    for axis, name in enumerate(axis_names(ndim), 1):
        for by in (1, -1):
            yield (
                "exchanged",
                f"the {name}s of dout are off by one",
                "look at the indices of dout",
                np.roll(e.douts, by, axis),
            )
            border = np.roll(e.douts, by, axis)
            border[(slice(None),) * axis + (0 if by > 0 else -1,)] = 0
            yield "exchanged", f"the {name}s of dout are off by one", "look at the indices of dout", border
        if shape[axis] > 1:
            yield (
                "dout-flipped",
                f"the {name}s of dout are in reverse order",
                "dout stays as it is",
                np.flip(e.douts, axis),
            )
            for index, which in ((0, "first"), (-1, "last")):
                fixed = np.broadcast_to(np.take(e.douts, [index], axis), shape)
                yield (
                    "index-fixed",
                    f"the {which} {name} of dout is used for all",
                    "an index of dout does not run",
                    fixed,
                )
