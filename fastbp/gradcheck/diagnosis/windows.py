"""Convolution and pooling: the windows, filters, strides and padding of (N, C, H, W) images.

Every such gradient is linear in dout and linear in one other array (the filters, the padded image, the mask of the maxima).
Each slip changes one of the two, where the windows lie, or how they are put together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations, product

import numpy as np

from .evidence import Cause, Evidence, close
from .formulas import Formula
from .general import options
from .slips import slips

LARGEST = 500_000
# -- products of dout and the other array; beyond, a convolution is too large to try many formulas on


Place = Callable[[int], int]
# -- the first row, or column, of window i in the padded image


@dataclass(frozen=True, eq=False)
class Windows:
    """gradient = apply(dout, other, (place of rows, place of columns))"""

    kind: str  # "input", "filters" or "pool"
    called: str  # what a student calls `other`
    other: np.ndarray
    padded: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: int
    pad: int
    apply: Callable[..., np.ndarray]

    def value(
        self, dout: np.ndarray, other: np.ndarray, rows: Place | None = None, columns: Place | None = None
    ) -> np.ndarray | None:
        """(K, …) of dout (K, N, F, OH, OW); None if a window does not fit."""

        def usual(i):
            return i * self.stride

        return self.apply(dout, other, (rows or usual, columns or usual))


def _rows(place, count, size, kernel) -> np.ndarray | None:
    """The first row of each window; None if one does not fit."""
    rows = np.array([place(i) for i in range(count)])
    return rows.astype(int) if np.all((rows >= -size) & (rows + kernel <= size) & (rows == np.floor(rows))) else None


def _scatter(shape, parts: np.ndarray, place, kernel) -> np.ndarray | None:
    """Sum of parts (K, N, C, OH, OW, HH, WW) at their windows in (K, *shape)."""
    (OH, OW), total = parts.shape[3:5], np.zeros((len(parts), *shape))
    rows, columns = _rows(place[0], OH, shape[2], kernel[0]), _rows(place[1], OW, shape[3], kernel[1])
    if rows is None or columns is None:
        return None
    for p, q in product(range(kernel[0]), range(kernel[1])):
        np.add.at(total, (slice(None), slice(None), slice(None), rows[:, None] + p, columns + q), parts[..., p, q])
    return total


def _gather(image: np.ndarray, OH: int, OW: int, place, kernel) -> np.ndarray | None:
    """(N, C, OH, OW, HH, WW) of (N, C, H, W)"""
    rows, columns = _rows(place[0], OH, image.shape[2], kernel[0]), _rows(place[1], OW, image.shape[3], kernel[1])
    if rows is None or columns is None:
        return None
    r = rows[:, None, None, None] + np.arange(kernel[0])[:, None]
    c = columns[None, :, None, None] + np.arange(kernel[1])
    return image[:, :, r, c]


def _crop(image: np.ndarray, pad: int) -> np.ndarray:
    return image[..., pad : image.shape[-2] - pad, pad : image.shape[-1] - pad]


@lru_cache(maxsize=8)
def windows(e: Evidence) -> tuple[Windows, ...]:
    """The convolution or pooling that gives the numeric gradient, if one does."""
    y = np.asarray(e.output)
    if e.is_loss or y.ndim != 4 or e.tensor.ndim != 4 or y.size == 0:
        return ()
    for found in (*_convolutions(e, y), *_pools(e, y)):
        value = found.value(e.douts, found.other)
        if value is not None and e.corrects(value):
            return (found,)
    return ()


def _fitting(
    size: tuple[int, int], kernel: tuple[int, int], out: tuple[int, int], pads: range, options_: dict
) -> list[tuple[int, int]]:
    """(stride, pad) that turn size into out, those in the options first."""
    found = []
    for stride, pad in product(range(1, max(kernel) + 3), pads):
        if all((n + 2 * pad - k) // stride + 1 == o for n, k, o in zip(size, kernel, out, strict=True)):
            found.append((stride, pad))
    given = (options_.get("stride"), options_.get("pad", options_.get("padding", 0)))
    return sorted(found, key=lambda pair: (pair != given, pair[1], pair[0]))


def _convolutions(e: Evidence, y: np.ndarray) -> Iterator[Windows]:
    images = [(n, t) for n, t in e.tensors.items() if t.ndim == 4]
    for (x_name, x), (w_name, w) in permutations(images, 2):
        if e.name not in (x_name, w_name) or x.shape[1] != w.shape[1] or len(x) != len(y) or len(w) != y.shape[1]:
            continue
        kernel = w.shape[2:]
        if y.size * w[0].size * len(e.douts) > LARGEST:
            continue
        for stride, pad in _fitting(x.shape[2:], kernel, y.shape[2:], range(max(kernel)), options(e)):
            yield convolution(x_name, x, w_name, w, "input" if e.name == x_name else "filters", stride, pad)


def convolution(x_name: str, x: np.ndarray, w_name: str, w: np.ndarray, kind: str, stride: int, pad: int) -> Windows:
    """The gradient of a convolution with respect to its "input" x or its "filters" w."""
    kernel, padded = w.shape[2:], np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))

    def to_input(dout, w, place):
        total = _scatter(padded.shape, np.einsum("knfij,fcpq->kncijpq", dout, w), place, kernel)
        return total if total is None else _crop(total, pad)

    def to_filters(dout, image, place):
        parts = _gather(image, *dout.shape[3:], place, kernel)
        return None if parts is None else np.einsum("knfij,ncijpq->kfcpq", dout, parts)

    called, other, apply = (w_name, w, to_input) if kind == "input" else (x_name, padded, to_filters)
    return Windows(kind, called, other, padded.shape, kernel, stride, pad, apply)


def _pools(e: Evidence, y: np.ndarray) -> Iterator[Windows]:
    x = e.tensor
    if x.shape[:2] != y.shape[:2]:
        return
    given = options(e)
    kernels = [(int(given["pool_height"]), int(given["pool_width"]))] if {"pool_height", "pool_width"} <= given.keys() else []
    kernels += [(k, k) for k in range(2, 5)] + [(k, m) for k in range(1, 5) for m in range(1, 5) if k != m]
    for kernel in dict.fromkeys(kernels):
        if y.size * kernel[0] * kernel[1] * len(e.douts) > LARGEST or max(kernel) > min(x.shape[2:]) + 2:
            continue
        for stride, pad in _fitting(x.shape[2:], kernel, y.shape[2:], range(max(kernel) // 2 + 1), given):
            padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
            parts = _gather(padded, *y.shape[2:], (lambda i, s=stride: i * s,) * 2, kernel)
            if parts is None:
                continue

            def spread(dout, mask, place, shape=padded.shape, kernel=kernel, pad=pad):
                total = _scatter(shape, dout[..., None, None] * mask, place, kernel)
                return total if total is None else _crop(total, pad)

            if np.array_equal(parts.max(axis=(4, 5)), y):
                yield Windows("pool", "the mask of the maxima", one_of(parts, np.argmax), padded.shape, kernel, stride, pad, spread)
            finite = np.where(np.isfinite(parts), parts, 0.0)
            if np.allclose(finite.mean(axis=(4, 5)), y):
                even = np.full(parts.shape, 1 / (kernel[0] * kernel[1]))
                yield Windows("pool", "1/window size", even, padded.shape, kernel, stride, pad, spread)


def one_of(parts: np.ndarray, choose: Callable) -> np.ndarray:
    """1 at the element of each window that `choose` names, 0 elsewhere."""
    flat = parts.reshape(*parts.shape[:4], -1)
    return (np.arange(flat.shape[-1]) == np.expand_dims(choose(flat, axis=-1), -1)).astype(np.float64).reshape(parts.shape)


# -- the slips: (name, message, hint, candidate) -------------------------------------------------------------------------

Slip = tuple[str, str, str, np.ndarray | None]


def window_slips(e: Evidence) -> Iterator[Cause]:
    """The first of the slips below that gives what backward gave."""
    for w in windows(e):
        with np.errstate(all="ignore"):
            for family in (
                _operators,
                _kernel,
                _pool_masks,
                _overwritten,
                _filter_loops,
                _crops,
                _places,
                _options,
                _pool_positions,
                _arrangements,
            ):
                for name, message, hint, candidate in family(e, w):
                    if candidate is None:
                        continue
                    if e.explains(candidate) or (not e.same_shape and e.explains_in_shape(candidate)):
                        yield Cause(name, message, hint)
                        return


def _operators(e: Evidence, w: Windows) -> Iterator[Slip]:
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
    yield "not-times-dout", f"the gradient does not depend on dout: only {called} is added up", "multiply by dout", without
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
    y = np.broadcast_to(e.output, dout.shape)
    yield "wrong-operand", "the output stands where dout belongs", "the chain rule multiplies by dout", w.value(y, other)


def _kernel(e: Evidence, w: Windows) -> Iterator[Slip]:
    if w.kind == "pool":
        return
    for axes, which in (((2, 3), "rows and columns"), ((2,), "rows"), ((3,), "columns")):
        hint = (
            "dx is the full correlation of dout with the filters turned by 180°; written as a loop over windows nothing is turned"
        )
        if w.kind == "input":
            yield "kernel-flipped", f"the filters are turned round ({which})", hint, w.value(e.douts, np.flip(w.other, axes))
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
        turned = np.flip(e.douts, [a + 1 for a in axes])
        yield "dout-flipped", f"dout is turned round ({which})", "dout stays as it is", w.value(turned, w.other)


def _pool_masks(e: Evidence, w: Windows) -> Iterator[Slip]:
    if w.kind != "pool":
        return
    x = np.pad(e.tensor, ((0, 0), (0, 0), (w.pad, w.pad), (w.pad, w.pad)), constant_values=-np.inf)
    parts = _gather(x, *e.output.shape[2:], (lambda i: i * w.stride,) * 2, w.kernel)
    ones, size, dout = np.ones_like(w.other), w.kernel[0] * w.kernel[1], e.douts
    hint = "dout goes to the one element that was the maximum"

    def last(flat, axis):
        return flat.shape[-1] - 1 - np.argmax(flat[..., ::-1], axis=axis)

    all_maxima = (parts == parts.max(axis=(4, 5), keepdims=True)).astype(float)
    if not np.all(w.other == 1 / size):
        yield "pool-spread", "dout goes to all elements of the window, not only to the maximum", hint, w.value(dout, ones)
        yield "pool-averaged", "dout is spread evenly over the window: that is average pooling", hint, w.value(dout, ones / size)
        yield "mask-inverted", "dout goes to all elements of the window but the maximum", hint, w.value(dout, ones - w.other)
        yield (
            "pool-last-maximum",
            "where a window has several maxima, dout goes to the last, not the first",
            "argmax gives the first",
            w.value(dout, one_of(parts, last)),
        )
        yield (
            "pool-all-maxima",
            "where a window has several maxima, each gets dout",
            "argmax gives the first",
            w.value(dout, all_maxima),
        )
        shared = all_maxima / all_maxima.sum(axis=(4, 5), keepdims=True)
        yield (
            "pool-all-maxima",
            "where a window has several maxima, they share dout",
            "argmax gives the first",
            w.value(dout, shared),
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
        yield "constant-factor", "not divided by the window's size", "the average divides by the window's size", w.value(dout, ones)


def _overwritten(e: Evidence, w: Windows) -> Iterator[Slip]:
    """= in place of +=: what is written last stays."""
    if w.kind == "filters":
        return
    message, hint = "where windows overlap the gradient is overwritten, not added up", "use += where windows overlap"
    dout, OH, OW = e.douts, *e.output.shape[2:]
    (HH, WW), s = w.kernel, w.stride
    rows, columns = np.arange(OH) * s, np.arange(OW) * s
    for last_row, last_column in ((max, max), (min, min)):
        # the window whose contribution stays at each row and column of the padded image
        owner_row = [last_row((i for i in range(OH) if rows[i] <= h < rows[i] + HH), default=-1) for h in range(w.padded[2])]
        owner_column = [
            last_column((j for j in range(OW) if columns[j] <= v < columns[j] + WW), default=-1) for v in range(w.padded[3])
        ]
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
    return _crop(total, w.pad)


def _only(dout: np.ndarray, keep: dict[int, int]) -> np.ndarray:
    """dout with zeros except at one index along each of the given axes."""
    kept = np.zeros_like(dout)
    chosen = tuple(slice(keep[axis], keep[axis] + 1 or None) if axis in keep else slice(None) for axis in range(dout.ndim))
    kept[chosen] = dout[chosen]
    return kept


def _filter_loops(e: Evidence, w: Windows) -> Iterator[Slip]:
    """A loop over the filters' own rows, columns or channels leaves some out."""
    if w.kind != "input":
        return
    for axis, name in ((2, "row"), (3, "column"), (1, "channel")):
        for index, which in ((0, "first"), (-1, "last")):
            kept = w.other.copy()
            kept[(slice(None),) * axis + (index,)] = 0
            hint = "look at the range of each loop: range(n) runs from 0 to n − 1"
            yield "loop-range", f"the {which} {name} of the filters is left out", hint, w.value(e.douts, kept)


def _places(e: Evidence, w: Windows) -> Iterator[Slip]:
    """The windows start at the wrong places: rows, columns or both."""
    s = w.stride
    hint = f"window i starts at i · stride in the padded image; here the stride is {s}"
    for text, place in _wrong_places(s):
        for axes, which in (((place, place), "row and column"), ((place, None), "row"), ((None, place), "column")):
            name = "stride-ignored" if text == "i" else "wrong-window"
            yield name, f"window i starts at {which} {text}, not at i · stride", hint, w.value(e.douts, w.other, *axes)
    exchanged = w.value(e.douts.swapaxes(3, 4), w.other) if e.douts.shape[3] == e.douts.shape[4] else None
    yield "axes-swapped", "rows and columns of the windows are exchanged", hint, exchanged


def _wrong_places(s: int) -> Iterator[tuple[str, Place]]:
    """Where window i may be taken to start, with stride s."""
    places: list[tuple[str, Place]] = [
        ("i", lambda i: i), ("i · stride + 1", lambda i: i * s + 1), ("i · stride − 1", lambda i: i * s - 1), ("0", lambda i: 0),
        ("stride", lambda i: s), ("i + stride", lambda i: i + s), ("i − stride", lambda i: i - s), ("stride − i", lambda i: s - i),
        ("i / stride", lambda i: i / s), ("i // stride", lambda i: i // s), ("i ** stride", lambda i: i**s),
        ("−i · stride", lambda i: -i * s),
        ("i + 1", lambda i: i + 1), *((f"i · {t}", lambda i, t=t: i * t) for t in (s - 1, s + 1, 2 * s) if t > 1),
    ]  # fmt: skip
    usual = [i * s for i in range(3)]
    yield from ((text, place) for text, place in places if [place(i) for i in range(3)] != usual)


def _options(e: Evidence, w: Windows) -> Iterator[Slip]:
    """A convolution with another stride or padding."""
    if w.kind == "pool":
        return
    found = [name for name, t in e.tensors.items() if t.ndim == 4]
    x_name, w_name = (e.name, w.called) if w.kind == "input" else (w.called, e.name)
    if len(found) != 2:
        return
    for stride, pad in ((w.pad, w.stride), (w.stride, 0), (w.stride, w.pad + 1), (w.stride, w.pad - 1), (1, w.pad), (1, 0)):
        if stride < 1 or pad < 0 or (stride, pad) == (w.stride, w.pad):
            continue
        other = convolution(x_name, e.tensors[x_name], w_name, e.tensors[w_name], w.kind, stride, pad)
        message = f"the gradient is that of stride {stride} and padding {pad}, the output has {w.stride} and {w.pad}"
        yield "wrong-padding", message, "stride and padding have to be those of the forward pass", other.value(e.douts, other.other)


def _pool_positions(e: Evidence, w: Windows) -> Iterator[Slip]:
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
    index = np.broadcast_to(np.arange(OH)[:, None], (OH, OW)), np.broadcast_to(np.arange(OW), (OH, OW))
    for axis, (i, place) in enumerate((("i", "row"), ("j", "column"))):
        for slip in slips(f"result = {i} * stride + {place}", (i, "stride", place)):
            value = Formula("pool", "", {i: index[axis], "stride": s, place: inside[axis]}).value(e.douts[:1], slip.code)
            if value is None:
                continue
            targets = list(right_place)
            targets[axis] = value[0]
            message = f"the {place} that dout goes to is `{slip.line}`; right is `{slip.was}`"
            yield "wrong-window", message, hint, _put(e, targets)
    image = e.tensor
    for text, place in _wrong_places(s):
        for axes, which in (
            ((place, place), "row and column"),
            ((place, usual := lambda i: i * s), "row"),
            ((usual, place), "column"),
        ):
            parts = _gather(image, OH, OW, axes, w.kernel)
            if parts is not None:
                message = f"the maximum is sought in the window that starts at {which} {text}, not at i · stride"
                yield "wrong-window", message, hint, w.value(e.douts, one_of(parts, np.argmax))
    for axis, (i, what) in enumerate((("i", "row"), ("j", "column"))):
        names = {i: np.arange((OH, OW)[axis]), "stride": s, "size": w.kernel[axis]}
        first, last = f"result = {i} * stride", f"result = {i} * stride + size"
        for slip in (*slips(first + " + 0", tuple(names)), *slips(last + " + 0", tuple(names))):
            bounds = [Formula("pool", source, names).value(e.douts[:1])[0] for source in (first, last)]
            value = Formula("pool", "", names).value(e.douts[:1], slip.code)
            if value is None or value.shape[1:] not in ((), bounds[0].shape):
                continue
            bounds["size" in slip.was] = np.broadcast_to(value[0], bounds[0].shape)
            which = "end" if "size" in slip.was else "start"
            message = (
                f"the window's {which} ({what}) is `{slip.line.replace(' + 0', '')}`; right is `{slip.was.removesuffix(' + 0')}`"
            )
            yield "wrong-window", message, hint, _maxima(e, w, axis, *bounds)


def _put(e: Evidence, targets) -> np.ndarray | None:
    """dout (K, N, C, OH, OW) added up at rows and columns of the input."""
    total = np.zeros(e.right.shape)
    rows, columns = (np.broadcast_to(t, e.output.shape) for t in targets)
    if not all(np.all(np.isfinite(t) & (t == np.floor(t))) for t in (rows, columns)):
        return None
    n, c = np.arange(e.output.shape[0])[:, None, None, None], np.arange(e.output.shape[1])[:, None, None]
    try:
        np.add.at(total, (slice(None), n, c, rows.astype(int), columns.astype(int)), e.douts)
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


def _crops(e: Evidence, w: Windows) -> Iterator[Slip]:
    """The padding cut off at the wrong place, or not at all."""
    if w.kind == "filters" or w.pad == 0:
        return
    name, hint = "padding-crop", f"the padding is {w.pad}: dx = dx_padded[:, :, pad:-pad, pad:-pad]"
    if w.kind == "input":
        parts = np.einsum("knfij,fcpq->kncijpq", e.douts, w.other)
    else:
        parts = e.douts[..., None, None] * w.other
    full = _scatter(w.padded, parts, (lambda i: i * w.stride,) * 2, w.kernel)
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


def _arrangements(e: Evidence, w: Windows) -> Iterator[Slip]:
    """One of the two arrays with its axes exchanged, or with its filters, channels, rows or columns in another order."""
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
            yield "reversed", f"{which} is in reverse order along the axes {tuple(a - first for a in flipped)}", hint, value
        for axis in axes:
            for rearranged in (np.roll(array, 1, axis), np.roll(array, -1, axis), np.flip(array, axis)):
                value = w.value(rearranged, w.other) if which == "dout" else w.value(e.douts, rearranged)
                yield "exchanged", f"the indices along axis {axis - first} of {which} are in the wrong order", hint, value
            for index in (0, -1):
                same = np.repeat(np.take(array, [index], axis), array.shape[axis], axis)
                value = w.value(same, w.other) if which == "dout" else w.value(e.douts, same)
                yield (
                    "index-fixed",
                    f"along axis {axis - first} of {which} the {'first' if index == 0 else 'last'} is used for all",
                    hint,
                    value,
                )


def wrong_elements(e: Evidence) -> Iterator[Cause]:
    """Maximum pooling whose gradient is right at some elements and at others is not that of the maxima."""
    for w in windows(e):
        if w.kind != "pool" or not e.same_shape or np.all(w.other == w.other.flat[0]) or not np.all(np.isfinite(e.given)):
            continue
        right = close(e.given, e.right, e.allowed[e.name])
        if np.any(right & (e.right != 0) & e.measured):
            gets = int(np.sum(np.any((e.right == 0) & (e.given != 0), axis=0)))
            misses = int(np.sum(np.any((e.right != 0) & (e.given == 0), axis=0)))
            message = (
                f"dout does not go to the maxima of the windows: {misses} of them get nothing, {gets} other elements get something"
            )
            yield Cause("wrong-window", message, "where does each window start and end, and where in it is its maximum?")
