"""Convolution and pooling gone wrong: one of the two arrays, where the windows lie, or how they are put together."""

from collections.abc import Iterator
from itertools import combinations, permutations, product

import numpy as np

from .evidence import Cause, Evidence
from .pool_slips import pool_masks, pool_positions
from .window_sums import Windows, WindowSlip, crop, scatter, windows, wrong_places


def window_slips(e: Evidence) -> Iterator[Cause]:
    """The first of the slips below that gives what backward gave."""
    for w in windows(e):
        with np.errstate(all="ignore"):
            for family in (
                _operators,
                _flipped_kernel,
                pool_masks,
                _overwritten,
                _filter_loops,
                _crops,
                _places,
                pool_positions,
                _turned_dout,
                _arrangements,
            ):
                for name, message, hint, candidate in family(e, w):
                    if candidate is None:
                        continue
                    if e.explains(candidate) or (not e.same_shape and e.explains_in_shape(candidate)):
                        yield Cause(name, message, hint)
                        return


def _operators(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    dout, other, called = e.douts, w.other, w.called
    ones, one = np.ones_like(other), np.ones_like(dout)
    alone = w.value(dout, ones)
    without = w.value(one, other)
    if w.kind != "pool":
        yield (
            "factor-missing",
            f"the gradient does not contain {called}: only dout is added up",
            f"multiply dout by {called}",
            alone,
        )
    yield (
        "not-times-dout",
        f"the gradient does not depend on dout: only {called} is added up",
        "multiply by dout",
        without,
    )
    for signs, text in (((1, 1), f"dout + {called}"), ((1, -1), f"dout − {called}"), ((-1, 1), f"{called} − dout")):
        yield (
            "dout-added",
            f"the gradient adds up {text} instead of dout · {called}",
            "the chain rule multiplies",
            signs[0] * alone + signs[1] * without,
        )
    yield (
        "divided",
        f"the gradient adds up dout / {called} instead of dout · {called}",
        "the chain rule multiplies",
        w.value(dout, 1 / other),
    )
    yield (
        "divided",
        f"the gradient adds up {called} / dout instead of dout · {called}",
        "the chain rule multiplies",
        w.value(1 / dout, other),
    )
    yield "dout-twice", "the gradient is multiplied by dout twice", "dout is a factor once", w.value(dout**2, other)
    yield "wrong-operand", f"{called} is used twice", f"{called} is a factor once", w.value(dout, other**2)
    known = {**e.tensors, **{f"d{name}": np.asarray(g) for name, g in e.gradients.items() if name != e.name}}
    for name, array in known.items():
        value = _in_place(w, name, array, dout) if name != called else None
        yield "wrong-operand", f"{name} stands where {called} belongs", f"{called} is the other factor", value
    y = np.broadcast_to(e.output, dout.shape)
    yield (
        "wrong-operand",
        "the output stands where dout belongs",
        "the chain rule multiplies by dout",
        w.value(y, other),
    )


def _in_place(w: Windows, name: str, array: np.ndarray, dout: np.ndarray) -> np.ndarray | None:
    """The gradient with another array, or one for each cotangent, where the filters or the image belong."""
    pads = ((0, 0), (0, 0), *((w.pad, w.pad),) * 2) if w.kind == "filters" else ((0, 0),) * 4
    if array.ndim not in (4, 5) or array.dtype.kind != "f" or w.kind == "pool":
        return None
    each = [np.pad(a, pads) for a in (array if array.ndim == 5 else [array] * len(dout))]
    if len(each) != len(dout) or each[0].shape != w.other.shape:
        return None
    values = [w.value(dout[k : k + 1], a) for k, a in enumerate(each)]
    return np.concatenate(values)


def _flipped_kernel(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    if w.kind == "pool":
        return
    for axes, which in (((2, 3), "rows and columns"), ((2,), "rows"), ((3,), "columns")):
        hint = (
            "dx is the full correlation of dout with the filters turned by 180°; "
            "written as a loop over windows nothing is turned"
        )
        if w.kind == "input":
            yield (
                "kernel-flipped",
                f"the filters are turned round ({which})",
                hint,
                w.value(e.douts, np.flip(w.other, axes)),
            )
        else:
            yield (
                "kernel-flipped",
                f"the gradient is turned round ({which})",
                "dw is the plain correlation of x with dout",
                np.flip(w.value(e.douts, w.other), [a + 1 for a in axes]),
            )
            flipped = np.flip(w.other, axes)
            yield (
                "kernel-flipped",
                f"the image is turned round ({which})",
                "dw is the plain correlation of x with dout",
                w.value(e.douts, flipped),
            )


def _overwritten(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """= in place of +=: what is written last stays."""
    if w.kind == "filters":
        return
    message, hint = "where windows overlap the gradient is overwritten, not added up", "use += where windows overlap"
    dout, OH, OW = e.douts, *e.output.shape[2:]
    (HH, WW), s = w.kernel, w.stride
    rows, columns = np.arange(OH) * s, np.arange(OW) * s
    for last_row, last_column in ((max, max), (min, min)):
        # the window whose contribution stays at each row and column of the padded image
        rows_at = [[i for i in range(OH) if rows[i] <= h < rows[i] + HH] for h in range(w.padded[2])]
        columns_at = [[j for j in range(OW) if columns[j] <= v < columns[j] + WW] for v in range(w.padded[3])]
        owner_row = [last_row(of, default=-1) for of in rows_at]
        owner_column = [last_column(of, default=-1) for of in columns_at]
        for filters in (dout, _only(dout, {2: -1}), _only(dout, {2: 0})) if w.kind == "input" else (dout,):
            total = _owned(e, w, filters, w.other, owner_row, owner_column)
            yield "overwritten", message, hint, total


def _owned(e: Evidence, w: Windows, dout, other, owner_row, owner_column) -> np.ndarray:
    """The gradient with the contribution of one window only at each place."""
    if w.kind == "input":
        parts = np.einsum("knfij,fcpq->kncijpq", dout, other)
    else:
        parts = dout[..., None, None] * other
    total = np.zeros((len(dout), *w.padded))
    for h, i in enumerate(owner_row):
        for v, j in enumerate(owner_column):
            if i >= 0 and j >= 0:
                total[..., h, v] = parts[:, :, :, i, j, h - i * w.stride, v - j * w.stride]
    return crop(total, w.pad)


def _turned_dout(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    for axes, which in (((3, 4), "rows and columns"), ((3,), "rows"), ((4,), "columns")):
        value = w.value(np.flip(e.douts, axes), w.other)
        yield "dout-flipped", f"dout is turned round ({which})", "dout stays as it is", value


def _only(dout: np.ndarray, keep: dict[int, int]) -> np.ndarray:
    """dout with zeros except at one index along each of the given axes."""
    kept = np.zeros_like(dout)
    one = {axis: slice(index, index + 1 or None) for axis, index in keep.items()}
    chosen = tuple(one.get(axis, slice(None)) for axis in range(dout.ndim))
    kept[chosen] = dout[chosen]
    return kept


def _filter_loops(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """A loop over the filters' own rows, columns or channels leaves some out."""
    if w.kind != "input":
        return
    for axis, name in ((2, "row"), (3, "column"), (1, "channel")):
        for index, which in ((0, "first"), (-1, "last")):
            kept = w.other.copy()
            kept[(slice(None),) * axis + (index,)] = 0
            hint = "look at the range of each loop: range(n) runs from 0 to n − 1"
            yield "loop-range", f"the {which} {name} of the filters is left out", hint, w.value(e.douts, kept)


def _places(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """The windows start at the wrong places: rows, columns or both."""
    s = w.stride
    hint = f"window i starts at i · stride in the padded image; here the stride is {s}"
    for text, place in wrong_places(s):
        for axes, which in (((place, place), "row and column"), ((place, None), "row"), ((None, place), "column")):
            name = "stride-ignored" if text == "i" else "wrong-window"
            yield name, f"window i starts at {which} {text}, not at i · stride", hint, w.value(e.douts, w.other, *axes)
    exchanged = w.value(e.douts.swapaxes(3, 4), w.other) if e.douts.shape[3] == e.douts.shape[4] else None
    yield "axes-swapped", "rows and columns of the windows are exchanged", hint, exchanged


def _crops(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """The padding cut off at the wrong place, or not at all."""
    if w.kind == "filters" or w.pad == 0:
        return
    name, hint = "padding-crop", f"the padding is {w.pad}: dx = dx_padded[:, :, pad:-pad, pad:-pad]"
    if w.kind == "input":
        parts = np.einsum("knfij,fcpq->kncijpq", e.douts, w.other)
    else:
        parts = e.douts[..., None, None] * w.other
    full = scatter(w.padded, parts, (lambda i: i * w.stride,) * 2, w.kernel)
    H, W = e.tensor.shape[2:]
    yield "padding-not-cropped", "the padding is not cut off", hint, full
    for top, left in product(range(2 * w.pad + 1), repeat=2):
        if (top, left) != (w.pad, w.pad):
            message = f"the padding is cut off at the wrong place: {top} rows above and {left} columns at the left"
            yield name, message, hint, full[..., top : top + H, left : left + W]
    for one, two in combinations(range(4), 2):
        cut = full[(slice(None), *(slice(w.pad, -w.pad) if axis in (one, two) else slice(None) for axis in range(4)))]
        yield "padding-crop", f"the padding is cut off axes {one} and {two}, it lies at axes 2 and 3", hint, cut
    yield (
        "padding-crop",
        "height and width are exchanged where the padding is cut off",
        hint,
        full[..., w.pad : w.pad + W, w.pad : w.pad + H],
    )
    for (top, bottom), (left, right) in product(product(range(2 * w.pad + 1), repeat=2), repeat=2):
        message = f"cut off are {top} and {bottom} rows, {left} and {right} columns of padding"
        yield name, message, hint, full[..., top : full.shape[-2] - bottom, left : full.shape[-1] - right]


def _arrangements(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """One of the two arrays with its axes exchanged, or the indices along one in another order."""
    hint = "see which index is which: samples, filters or channels, rows, columns"
    for which, array, first in (("dout", e.douts, 1), (w.called, w.other, 0)):
        axes = range(first, array.ndim)
        for order in permutations(axes):
            if list(order) == list(axes):
                continue
            turned = array.transpose(*range(first), *order)
            for rearranged in ([turned] if turned.shape == array.shape else []) + [turned.reshape(array.shape)]:
                value = w.value(rearranged, w.other) if which == "dout" else w.value(e.douts, rearranged)
                yield "axes-swapped", f"the axes of {which} are in the wrong order", hint, value
        for flipped in (axes_ for count in (2, 3) for axes_ in combinations(axes, count)):
            turned = np.flip(array, flipped)
            value = w.value(turned, w.other) if which == "dout" else w.value(e.douts, turned)
            yield (
                "reversed",
                f"{which} is in reverse order along the axes {tuple(a - first for a in flipped)}",
                hint,
                value,
            )
        for axis in axes:
            for rearranged in (np.roll(array, 1, axis), np.roll(array, -1, axis), np.flip(array, axis)):
                value = w.value(rearranged, w.other) if which == "dout" else w.value(e.douts, rearranged)
                yield (
                    "exchanged",
                    f"the indices along axis {axis - first} of {which} are in the wrong order",
                    hint,
                    value,
                )
            for index in (0, -1):
                same = np.repeat(np.take(array, [index], axis), array.shape[axis], axis)
                value = w.value(same, w.other) if which == "dout" else w.value(e.douts, same)
                yield (
                    "index-fixed",
                    f"along axis {axis - first} of {which} the {'first' if index == 0 else 'last'} is used for all",
                    hint,
                    value,
                )
