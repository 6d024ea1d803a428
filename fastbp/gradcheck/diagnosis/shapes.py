"""Causes seen in the shape, or in the right numbers at the wrong places."""

from collections.abc import Iterator
from itertools import combinations, permutations, product

import numpy as np

from .evidence import Cause, Evidence, axis_names, close


def empty(e: Evidence) -> Iterator[Cause]:
    if e.given.size == 0 and e.right.size:
        message = f"the gradient is empty: its shape is {np.shape(e.gradients[e.name])[1:]}, not {e.tensor.shape}"
        yield Cause("empty", message, "a slice whose end is not after its start: pad:-pad is empty when pad is 0")


def rearranged(e: Evidence) -> Iterator[Cause]:
    """The right numbers in another order or shape: the first rule that fits."""
    if e.given.size == 0:
        return
    rules = (reshaped,) if e.same_shape else (reshaped, not_summed, summed_too_far, cropped)
    yield from next((causes for rule in rules if (causes := list(rule(e)))), [])


def reshaped(e: Evidence) -> Iterator[Cause]:
    """The right numbers, of the right or the wrong shape, in another order or another shape."""
    given, shape, K = e.given, e.tensor.shape, len(e.douts)
    if given.size != e.right.size:
        return
    got = given.shape[1:]
    if got != shape and e.corrects(given.reshape(e.right.shape)):
        message = f"the numbers are right, the shape {got} is not: it must be {shape}"
        yield Cause("not-reshaped", message, f"give the gradient the shape of {e.name}: .reshape({e.name}.shape)")
        return
    for order in _orders(len(got)):
        moved = given.transpose(0, *(axis + 1 for axis in order))
        if moved.shape == e.right.shape and e.corrects(moved):
            if len(got) == 2:
                yield Cause(
                    "transposed",
                    "the gradient is transposed",
                    "exchange the two factors of the matrix product, or use .T",
                )
            else:
                names = axis_names(len(shape))
                moves = [f"{names[order[a]]} and {names[a]}" for a in range(len(shape)) if order[a] > a]
                message = f"the axes of the gradient are in the wrong order: {', '.join(moves)} are exchanged"
                yield Cause("axes-swapped", message, "look at each transpose, and at the order of the indices in loops")
            return
    for order in _orders(len(got)):
        if e.corrects(given.transpose(0, *(axis + 1 for axis in order)).reshape(e.right.shape)):
            yield _wrong_reshape(order)
            return
    for order in _orders(len(shape)):
        middle = given.reshape(K, *(shape[axis] for axis in order))
        if e.corrects(middle.transpose(0, *(axis + 1 for axis in np.argsort(order)))):
            yield _wrong_reshape(order)
            return


def _wrong_reshape(order: tuple[int, ...]) -> Cause:
    message = "the numbers are right but reshaped in the wrong order of axes"
    return Cause(
        "wrong-reshape",
        message,
        f"reshape keeps the order in memory: transpose{order} (or its inverse) has to come before it",
    )


def _orders(ndim: int) -> Iterator[tuple[int, ...]]:
    if 2 <= ndim <= 5:
        yield from (order for order in permutations(range(ndim)) if order != tuple(range(ndim)))


def not_summed(e: Evidence) -> Iterator[Cause]:
    """Too many axes: summing or averaging over some gives the right gradient."""
    given = e.given
    for count in range(1, given.ndim):
        for axes in combinations(range(1, given.ndim), count):
            length = np.prod([given.shape[axis] for axis in axes])
            total = given.sum(axis=axes)
            if total.size != e.right.size:
                continue
            for value, verb in ((total, "sum"), (total / length, "average")):
                if e.corrects(value.reshape(e.right.shape)):
                    over = ", ".join(str(axis - 1) for axis in axes)
                    batch = ", the batch," if axes == (1,) and given.ndim > 2 else ""
                    missing = f"is not summed over axis {over}{batch} as {e.tensor.shape} needs"
                    message = f"the gradient of shape {given.shape[1:]} {missing}"
                    yield Cause(
                        "not-summed",
                        message,
                        f"what is used several times gets the sum of its gradients: {verb} over axis {over}",
                    )
                    return


def summed_too_far(e: Evidence) -> Iterator[Cause]:
    if not e.measured.all():
        return
    axes_of = range(1, e.right.ndim)
    for count in range(1, e.right.ndim):
        for axes in combinations(axes_of, count):
            for keep in (False, True):
                if e.explains_in_shape(e.right.sum(axis=axes, keepdims=keep)):
                    over = ", ".join(str(axis - 1) for axis in axes)
                    though = f"though {e.name} has one number for each place along it"
                    message = f"the gradient is summed over axis {over} {though}"
                    yield Cause("summed-too-far", message, "sum only over axes along which the tensor was repeated")
                    return


def cropped(e: Evidence) -> Iterator[Cause]:
    """A frame of padding too many, or rows or columns too few."""
    given, right = e.given, e.right
    if given.ndim != right.ndim:
        return
    more = [g - r for g, r in zip(given.shape, right.shape, strict=True)]
    if all(m >= 0 for m in more):
        for start in product(*(range(m + 1) for m in more)):
            window = tuple(slice(s, s + size) for s, size in zip(start, right.shape, strict=True))
            if e.corrects(given[window]):
                extra = f"{given.shape[1:]} instead of {right.shape[1:]}"
                message = f"the padding is not cut off, or not all of it: the gradient is {extra}"
                yield Cause(
                    "padding-not-cropped",
                    message,
                    "cut as many rows and columns as were padded: dx = dx_padded[:, :, pad:-pad, pad:-pad]",
                )
                return
    if all(m <= 0 for m in more):
        for start in product(*(range(-m + 1) for m in more)):
            window = tuple(slice(s, s + size) for s, size in zip(start, given.shape, strict=True))
            part, here, allowed = right[window], e.measured[window], e.allowed[e.name][window]
            if np.any(part[here]) and np.all(close(given, part, allowed)[here]):
                message = f"rows or columns are missing: the gradient is {given.shape[1:]} instead of {right.shape[1:]}"
                yield Cause("cropped-too-far", message, "cut exactly as many rows and columns as were padded")
                return


def moved(e: Evidence) -> Iterator[Cause]:
    """Every slice along one axis is right but stands at another index: reversed, shifted or exchanged."""
    if not e.same_shape:
        return
    names = axis_names(e.tensor.ndim)
    for axis in range(e.tensor.ndim):
        order = _slice_order(e, axis + 1)
        if order is None:
            continue
        name, size = names[axis], len(order)
        if order == list(range(size))[::-1] and (size > 2 or (e.tensor.ndim == 4 and axis >= 2)):
            yield _flipped(e, (axis,))
        else:
            turns = any(order == [(i - by) % size for i in range(size)] for by in (1, -1)) and name in ("row", "column")
            message = f"the {name}s of the gradient are in the wrong order: {order}"
            yield Cause("shifted" if turns else "exchanged", message, f"look at the index of the {name}")
        return
    for axes in combinations(range(e.tensor.ndim), 2):
        if e.corrects(np.flip(e.given, [axis + 1 for axis in axes])):
            yield _flipped(e, axes)
            return


def _flipped(e: Evidence, axes: tuple[int, ...]) -> Cause:
    names = axis_names(e.tensor.ndim)
    what = " and ".join(f"{names[axis]}s" for axis in axes)
    if e.tensor.ndim == 4 and all(axis >= 2 for axis in axes):
        return Cause(
            "kernel-flipped",
            f"the gradient is turned round: its {what} are in reverse order",
            "a filter is turned by 180° that should not be, or is not where it should be",
        )
    return Cause(
        "reversed", f"the {what} of the gradient are in reverse order", "look for [::-1] or a loop that runs backwards"
    )


def _slice_order(e: Evidence, axis: int) -> list[int] | None:
    """order[i] = the slice of the right gradient that stands at i; None if one stands nowhere, or each at its own."""
    size = e.right.shape[axis]
    if not 2 <= size <= 64:
        return None
    given, right, allowed, here = (np.moveaxis(a, axis, 0) for a in (e.given, e.right, e.allowed[e.name], e.measured))
    order = []
    for i in range(size):
        if not np.any(given[i]):
            return None
        # slices are told apart by what they hold, so two places must not both fit
        fits = [j for j in range(size) if here[j].any() and np.all(close(given[i], right[j], allowed[j])[here[j]])]
        if len(fits) != 1:
            return None
        order.append(fits[0])
    return order if sorted(order) == list(range(size)) and order != list(range(size)) else None


def shifted(e: Evidence) -> Iterator[Cause]:
    """The gradient stands one or two places off along one axis, or along rows and columns, whatever the border is."""
    if not e.same_shape:
        return
    ndim, names = e.tensor.ndim, axis_names(e.tensor.ndim)
    choices = [{axis: by} for by in (1, -1, 2, -2) for axis in range(ndim)]
    if ndim == 4:
        choices += [{2: by, 3: also} for by in (1, -1, 2, -2) for also in (by, -by)]
    for by in choices:
        to, fro = [slice(None)] * (ndim + 1), [slice(None)] * (ndim + 1)
        for axis, step in by.items():
            to[axis + 1] = slice(step, None) if step > 0 else slice(None, step)
            fro[axis + 1] = slice(None, -step) if step > 0 else slice(-step, None)
        to, fro = tuple(to), tuple(fro)
        here = e.measured[fro]
        right, allowed = e.right[fro], e.allowed[e.name][fro]
        distinct = len(np.unique(np.round(right[here], 9))) >= 3
        if distinct and np.all(close(e.given[to], right, allowed)[here]):
            where = " and ".join(
                f"{abs(step)} {names[axis]}{'s' if abs(step) > 1 else ''}" for axis, step in by.items()
            )
            message = f"the gradient is shifted by {where}"
            yield Cause(
                "shifted",
                message,
                "off by one: look at start and end of each range and slice, and at the crop of the padding",
            )
            return
