"""Maximum pooling gone wrong: what is chosen in a window, and where it is put."""

from collections.abc import Iterator

import numpy as np

from .evidence import Cause, Evidence, close
from .formula import Formula
from .slips import slips
from .window_sums import Windows, WindowSlip, gather, one_of, windows, wrong_places


def pool_masks(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    if w.kind != "pool":
        return
    x = np.pad(e.tensor, ((0, 0), (0, 0), (w.pad, w.pad), (w.pad, w.pad)), constant_values=-np.inf)
    parts = gather(x, *e.output.shape[2:], (lambda i: i * w.stride,) * 2, w.kernel)
    ones, size, dout = np.ones_like(w.other), w.kernel[0] * w.kernel[1], e.douts
    hint = "dout goes to the one element that was the maximum"

    if not np.all(w.other == 1 / size):
        yield (
            "pool-spread",
            "dout goes to all elements of the window, not only to the maximum",
            hint,
            w.value(dout, ones),
        )
        yield (
            "pool-averaged",
            "dout is spread evenly over the window: that is average pooling",
            hint,
            w.value(dout, ones / size),
        )
        yield (
            "mask-inverted",
            "dout goes to all elements of the window but the maximum",
            hint,
            w.value(dout, ones - w.other),
        )
        yield "pool-minimum", "dout goes to the minimum of the window", hint, w.value(dout, one_of(parts, np.argmin))
        yield (
            "factor-too-many",
            "dout is multiplied by the maximum too",
            "the derivative of the maximum with respect to it is 1",
            w.value(dout, w.other * np.where(np.isfinite(parts), parts, 0)),
        )
        for text, compare in ((">", np.greater), ("<", np.less)):
            yield (
                "wrong-comparison",
                f"dout goes where x {text} 0, not to the maximum",
                hint,
                w.value(dout, compare(parts, 0).astype(float)),
            )
        flat = w.other.reshape(*w.other.shape[:4], -1)
        for by in (1, -1):
            yield (
                "pool-neighbour",
                "dout goes to the maximum's neighbour in the window",
                "off by one in the position of the maximum",
                w.value(dout, np.roll(flat, by, axis=-1).reshape(w.other.shape)),
            )
        at, of = np.arange(flat.shape[-1]), np.argmax(flat, axis=-1)[..., None]
        for text, mask in (("≥", of >= at), ("≤", of <= at), (">", of > at), ("<", of < at)):
            message = f"dout goes to every element for which the place of the maximum is {text} its own, not = its own"
            yield "wrong-comparison", message, hint, w.value(dout, mask.astype(float).reshape(w.other.shape))
        for axis, what in ((4, "row"), (5, "column")):
            for by in (1, -1):
                yield (
                    "pool-neighbour",
                    f"dout goes to the {what} next to the maximum's",
                    "off by one in the position of the maximum",
                    w.value(dout, np.roll(w.other, by, axis=axis)),
                )
        if w.kernel[0] == w.kernel[1]:
            yield (
                "pool-neighbour",
                "row and column of the maximum are exchanged",
                "np.unravel_index gives (row, column)",
                w.value(dout, w.other.swapaxes(4, 5)),
            )
    else:
        yield (
            "constant-factor",
            "not divided by the window's size",
            "the average divides by the window's size",
            w.value(dout, ones),
        )


def pool_positions(e: Evidence, w: Windows) -> Iterator[WindowSlip]:
    """The maximum is sought in the wrong window, or its gradient put at the wrong place."""
    if w.kind != "pool" or w.pad or np.all(w.other == w.other.flat[0]):
        return
    s = w.stride
    N, C, OH, OW = e.output.shape
    position = np.argmax(w.other.reshape(N, C, OH, OW, -1), axis=-1)
    own = np.arange(OH)[:, None] * s, np.arange(OW) * s
    inside = position // w.kernel[1], position % w.kernel[1]
    right_place = tuple(o + r for o, r in zip(own, inside, strict=True))
    hint = "the maximum of window i lies at i · stride + its position inside the window"
    message = "where several windows share a maximum only the last counts: what is added up is overwritten"
    yield "overwritten", message, "use += where windows overlap", _put(e, right_place, add=False)
    negative = tuple(o + r for o, r in zip(own, (-position // w.kernel[1], -position % w.kernel[1]), strict=True))
    yield "wrong-sign-inside", "the maximum's place in its window is negative", hint, _put(e, negative)
    index = np.broadcast_to(np.arange(OH)[:, None], (OH, OW)), np.broadcast_to(np.arange(OW), (OH, OW))
    for axis, (i, place) in enumerate((("i", "row"), ("j", "column"))):
        for slip in slips(f"result = {i} * stride + {place}", (i, "stride", place)):
            value = Formula("", {i: index[axis], "stride": s, place: inside[axis]}).value(e.douts[:1], slip.code)
            if value is None:
                continue
            targets = list(right_place)
            targets[axis] = value[0]
            message = f"the {place} that dout goes to is `{slip.line}`; right is `{slip.was}`"
            yield "wrong-window", message, hint, _put(e, targets)

    def usual(i):
        return i * s

    for text, place in wrong_places(s):
        for axes, which in (
            ((place, place), "row and column"),
            ((place, usual), "row"),
            ((usual, place), "column"),
        ):
            parts = gather(e.tensor, OH, OW, axes, w.kernel)
            if parts is not None:
                message = f"the maximum is sought in the window that starts at {which} {text}, not at i · stride"
                yield "wrong-window", message, hint, w.value(e.douts, one_of(parts, np.argmax))
    for axis, (i, what) in enumerate((("i", "row"), ("j", "column"))):
        names = {i: np.arange((OH, OW)[axis]), "stride": s, "size": w.kernel[axis]}
        first, last = f"result = {i} * stride", f"result = {i} * stride + size"
        for slip in (*slips(first + " + 0", tuple(names)), *slips(last + " + 0", tuple(names))):
            bounds = [Formula(source, names).value(e.douts[:1])[0] for source in (first, last)]
            value = Formula("", names).value(e.douts[:1], slip.code)
            if value is None or value.shape[1:] not in ((), bounds[0].shape):
                continue
            bounds["size" in slip.was] = np.broadcast_to(value[0], bounds[0].shape)
            which = "end" if "size" in slip.was else "start"
            line, was = slip.line.replace(" + 0", ""), slip.was.removesuffix(" + 0")
            message = f"the window's {which} ({what}) is `{line}`; right is `{was}`"
            yield "wrong-window", message, hint, _maxima(e, w, axis, *bounds)


def _put(e: Evidence, targets, add: bool = True) -> np.ndarray | None:
    """dout (K, N, C, OH, OW) added up, or written, at rows and columns of the input."""
    total = np.zeros(e.right.shape)
    rows, columns = (np.broadcast_to(t, e.output.shape) for t in targets)
    if not all(np.all(np.isfinite(t) & (t == np.floor(t))) for t in (rows, columns)):
        return None
    n, c = np.arange(e.output.shape[0])[:, None, None, None], np.arange(e.output.shape[1])[:, None, None]
    try:
        where = rows.astype(int), columns.astype(int)
        if add:
            np.add.at(total, (slice(None), n, c, *where), e.douts)
            return total
        for i, j in np.ndindex(*e.output.shape[2:]):
            total[:, n[..., 0, 0], c[..., 0, 0], where[0][..., i, j], where[1][..., i, j]] = e.douts[..., i, j]
    except IndexError:
        return None
    return total


def _maxima(e: Evidence, w: Windows, axis: int, first: np.ndarray, last: np.ndarray) -> np.ndarray | None:
    """The gradient with the maximum of window i sought from first[i] to last[i] along one axis."""
    if not all(np.all(np.isfinite(bound) & (bound == np.floor(bound))) for bound in (first, last)):
        return None
    rows, columns = np.zeros(e.output.shape), np.zeros(e.output.shape)
    for i, j in np.ndindex(*e.output.shape[2:]):
        bounds = [slice(i * w.stride, i * w.stride + w.kernel[0]), slice(j * w.stride, j * w.stride + w.kernel[1])]
        bounds[axis] = slice(int(first[(i, j)[axis]]), int(last[(i, j)[axis]]))
        window = e.tensor[:, :, *bounds]
        if window.size == 0:
            return None
        position = np.argmax(window.reshape(*window.shape[:2], -1), axis=-1)
        rows[:, :, i, j] = i * w.stride + position // window.shape[3]
        columns[:, :, i, j] = j * w.stride + position % window.shape[3]
    return _put(e, (rows, columns))


def wrong_elements(e: Evidence) -> Iterator[Cause]:
    """Maximum pooling whose gradient is right at some elements and at others is not that of the maxima."""
    for w in windows(e):
        if (
            w.kind != "pool"
            or not e.same_shape
            or np.all(w.other == w.other.flat[0])
            or not np.all(np.isfinite(e.given))
        ):
            continue
        right = close(e.given, e.right, e.allowed[e.name])
        if np.any(right & (e.right != 0) & e.measured):
            gets = int(np.sum(np.any((e.right == 0) & (e.given != 0), axis=0)))
            misses = int(np.sum(np.any((e.right != 0) & (e.given == 0), axis=0)))
            counts = f"{misses} of them get nothing, {gets} other elements get something"
            hint = "where does each window start and end, and where in it is its maximum?"
            yield Cause("wrong-window", f"dout does not go to the maxima of the windows: {counts}", hint)
