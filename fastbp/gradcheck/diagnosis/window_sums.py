"""Convolution and pooling: the windows, filters, strides and padding of (N, C, H, W) images.

Every such gradient is linear in dout and linear in one other array (the filters, the padded
image, the mask of the maxima).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from .evidence import Evidence
from .general import options

LARGEST = 500_000  # products of dout and the other array; of a larger convolution too few formulas could be tried

Place = Callable[[int], int]  # the first row, or column, of window i in the padded image
WindowSlip = tuple[str, str, str, np.ndarray | None]  # a cause's name, message and hint, and what the gradient then is


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


def scatter(shape, parts: np.ndarray, place, kernel) -> np.ndarray | None:
    """Sum of parts (K, N, C, OH, OW, HH, WW) at their windows in (K, *shape)."""
    (OH, OW), total = parts.shape[3:5], np.zeros((len(parts), *shape))
    rows, columns = _rows(place[0], OH, shape[2], kernel[0]), _rows(place[1], OW, shape[3], kernel[1])
    if rows is None or columns is None:
        return None
    for p, q in product(range(kernel[0]), range(kernel[1])):
        np.add.at(total, (slice(None), slice(None), slice(None), rows[:, None] + p, columns + q), parts[..., p, q])
    return total


def gather(image: np.ndarray, OH: int, OW: int, place, kernel) -> np.ndarray | None:
    """(N, C, OH, OW, HH, WW) of (N, C, H, W)"""
    rows, columns = _rows(place[0], OH, image.shape[2], kernel[0]), _rows(place[1], OW, image.shape[3], kernel[1])
    if rows is None or columns is None:
        return None
    r = rows[:, None, None, None] + np.arange(kernel[0])[:, None]
    c = columns[None, :, None, None] + np.arange(kernel[1])
    return image[:, :, r, c]


def crop(image: np.ndarray, pad: int) -> np.ndarray:
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
        for stride, pad in _fitting(x.shape[2:], kernel, y.shape[2:], range(max(kernel) + 2), options(e)):
            yield convolution(x_name, x, w_name, w, "input" if e.name == x_name else "filters", stride, pad)


def convolution(x_name: str, x: np.ndarray, w_name: str, w: np.ndarray, kind: str, stride: int, pad: int) -> Windows:
    """The gradient of a convolution with respect to its "input" x or its "filters" w."""
    kernel, padded = w.shape[2:], np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))

    def to_input(dout, w, place):
        total = scatter(padded.shape, np.einsum("knfij,fcpq->kncijpq", dout, w), place, kernel)
        return total if total is None else crop(total, pad)

    def to_filters(dout, image, place):
        parts = gather(image, *dout.shape[3:], place, kernel)
        return None if parts is None else np.einsum("knfij,ncijpq->kfcpq", dout, parts)

    called, other, apply = (w_name, w, to_input) if kind == "input" else (x_name, padded, to_filters)
    return Windows(kind, called, other, padded.shape, kernel, stride, pad, apply)


def _pools(e: Evidence, y: np.ndarray) -> Iterator[Windows]:
    x = e.tensor
    if x.shape[:2] != y.shape[:2]:
        return
    given = options(e)
    known = {"pool_height", "pool_width"} <= given.keys()
    kernels = [(int(given["pool_height"]), int(given["pool_width"]))] if known else []
    kernels += [(k, k) for k in range(2, 5)] + [(k, m) for k in range(1, 5) for m in range(1, 5) if k != m]
    for kernel in dict.fromkeys(kernels):
        if y.size * kernel[0] * kernel[1] * len(e.douts) > LARGEST or max(kernel) > min(x.shape[2:]) + 2:
            continue
        for stride, pad in _fitting(x.shape[2:], kernel, y.shape[2:], range(max(kernel) // 2 + 1), given):
            padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
            parts = gather(padded, *y.shape[2:], (lambda i, s=stride: i * s,) * 2, kernel)
            if parts is None:
                continue

            def spread(dout, mask, place, shape=padded.shape, kernel=kernel, pad=pad):
                total = scatter(shape, dout[..., None, None] * mask, place, kernel)
                return total if total is None else crop(total, pad)

            if np.array_equal(parts.max(axis=(4, 5)), y):
                yield Windows(
                    "pool",
                    "the mask of the maxima",
                    one_of(parts, np.argmax),
                    padded.shape,
                    kernel,
                    stride,
                    pad,
                    spread,
                )
            finite = np.where(np.isfinite(parts), parts, 0.0)
            if np.allclose(finite.mean(axis=(4, 5)), y):
                even = np.full(parts.shape, 1 / (kernel[0] * kernel[1]))
                yield Windows("pool", "1/window size", even, padded.shape, kernel, stride, pad, spread)


def one_of(parts: np.ndarray, choose: Callable) -> np.ndarray:
    """1 at the element of each window that `choose` names, 0 elsewhere."""
    flat = parts.reshape(*parts.shape[:4], -1)
    chosen = np.arange(flat.shape[-1]) == np.expand_dims(choose(flat, axis=-1), -1)
    return chosen.astype(np.float64).reshape(parts.shape)


def wrong_places(s: int) -> Iterator[tuple[str, Place]]:
    """Where window i may be taken to start, with stride s."""
    places: list[tuple[str, Place]] = [
        ("i", lambda i: i),
        ("i · stride + 1", lambda i: i * s + 1),
        ("i · stride − 1", lambda i: i * s - 1),
        ("0", lambda i: 0),
        ("stride", lambda i: s),
        ("i + stride", lambda i: i + s),
        ("i − stride", lambda i: i - s),
        ("stride − i", lambda i: s - i),
        ("i / stride", lambda i: i / s),
        ("i // stride", lambda i: i // s),
        ("i ** stride", lambda i: i**s),
        ("−i · stride", lambda i: -i * s),
        ("i + 1", lambda i: i + 1),
        *((f"i · {t}", lambda i, t=t: i * t) for t in (s - 1, s + 1, 2 * s) if t > 1),
    ]
    usual = [i * s for i in range(3)]
    yield from ((text, place) for text, place in places if [place(i) for i in range(3)] != usual)
