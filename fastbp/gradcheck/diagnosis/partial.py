"""Last resorts: what is wrong is not known, but where."""

from collections.abc import Iterator

import numpy as np

from .evidence import Cause, Evidence, axis_names, close


def not_finite(e: Evidence) -> Iterator[Cause]:
    """NaN or infinity, and at which inputs."""
    if e.given.size == 0 or np.all(np.isfinite(e.given)):
        return
    nan = bool(np.any(np.isnan(e.given)))
    what = "NaN" if nan else "infinite"
    count = int(np.sum(np.any(~np.isfinite(e.given), axis=0)))
    message = f"the gradient is {what} at {count} of {e.given[0].size} elements"
    hint = "a division by zero, 0 · ∞, or the logarithm of zero"
    if e.same_shape:
        bad, x = np.any(~np.isfinite(e.given), axis=0), e.tensor
        if count < x.size:
            message += _where(bad, x)
        if np.max(np.abs(x)) > 300:
            hint = (
                "exp overflows beyond 709: subtract the largest score of each sample before exp, or use the stable form"
            )
            message += ", with scores as large as " + f"{np.max(np.abs(x)):.4g}"
            yield Cause("not-shifted", message, hint)
            return
    yield Cause("not-finite", message, hint)


def wrong_shape(e: Evidence) -> Iterator[Cause]:
    """Of the wrong shape, and the numbers do not say why."""
    if not e.same_shape:
        message = f"the gradient has shape {e.given.shape[1:]}, {e.name} has {e.tensor.shape}"
        yield Cause(
            "wrong-shape", message, f"the gradient with respect to {e.name} has one number for each of {e.name}"
        )


def _where(bad: np.ndarray, x: np.ndarray) -> str:
    if np.all(x[bad] == 0) and not np.any(x[~bad] == 0):
        return ": where the input is 0"
    if np.all(x[bad] <= 0) and np.all(x[~bad] > 0):
        return ": where the input is not positive"
    if np.all(x[bad] > 0) and np.all(x[~bad] <= 0):
        return ": where the input is positive"
    place = describe(bad)
    return f": {place}" if place else ""


def unfilled(e: Evidence) -> Iterator[Cause]:
    """Right, but for the first or last index along an axis, or every second, which are zero."""
    wrong, known, right = _parts(e)
    if right and np.all(e.given[:, wrong] == 0):
        place = describe(wrong, known)
        if "first" in place or "last" in place or "every second" in place:
            message = f"the gradient is zero {place}, right elsewhere: a loop or slice leaves them out"
            yield Cause("loop-range", message, "look at the range of each loop: range(n) runs from 0 to n − 1")


def partly_wrong(e: Evidence) -> Iterator[Cause]:
    """Right in one part, wrong in another that can be described."""
    wrong, known, right = _parts(e)
    if not right:
        return
    zero = " and zero there" if np.all(e.given[:, wrong] == 0) else ""
    count, place, x = f"{int(wrong.sum())} of {int(known.sum())} elements", describe(wrong, known), e.tensor
    if not place and np.all(x[wrong] > 0) and np.all(x[known & ~wrong] <= 0):
        place = "where the input is positive"
    elif not place and np.all(x[wrong] <= 0) and np.all(x[known & ~wrong] > 0):
        place = "where the input is not positive"
    if place:
        yield Cause(
            "partly-wrong",
            f"the gradient is wrong{zero} only {place} ({count})",
            "what do the formula or the loops do differently there?",
        )
    elif wrong.sum() * 2 <= known.sum():
        yield Cause(
            "partly-wrong",
            f"the gradient is wrong{zero} at {count}, right at the others",
            "what do these elements have in common?",
        )


def _parts(e: Evidence) -> tuple[np.ndarray, np.ndarray, bool]:
    """(wrong, measured, is any element right that is not just zero as it should be?)"""
    if not e.same_shape:
        return np.zeros(0, bool), np.zeros(0, bool), False
    right = np.all(close(e.given, e.right, e.allowed[e.name]) | ~e.measured, axis=0)
    known = np.any(e.measured, axis=0)
    return ~right & known, known, bool(np.any(right & np.any((e.right != 0) & e.measured, axis=0)))


def describe(wrong: np.ndarray, known: np.ndarray | None = None) -> str:
    """The set of indices in words, such as "in the last row" and "at the border"; "" if it has no short name."""
    known = np.ones(wrong.shape, bool) if known is None else known
    names = axis_names(wrong.ndim)
    if not wrong.any() or np.array_equal(wrong, known):
        return ""
    for axis, name in enumerate(names):
        size = wrong.shape[axis]
        places = [i for i in range(size) if np.any(np.take(wrong, i, axis))]
        filled = np.zeros(wrong.shape, bool)
        filled[(slice(None),) * axis + (places,)] = True
        if len(places) < size and np.array_equal(filled & known, wrong):
            return f"in {_indices(places, size, name)}"
    if wrong.ndim == 4:
        border = np.ones(wrong.shape, bool)
        border[:, :, 1:-1, 1:-1] = False
        if np.array_equal(border & known, wrong):
            return "at the border, in the first and last rows and columns"
        if np.array_equal(~border & known, wrong):
            return "in the interior, away from the border"
    # a box: one range along several axes
    box, words = np.ones(wrong.shape, bool), []
    for axis, name in enumerate(names):
        places = [i for i in range(wrong.shape[axis]) if np.any(np.take(wrong, i, axis))]
        if len(places) < wrong.shape[axis]:
            inside = np.zeros(wrong.shape, bool)
            inside[(slice(None),) * axis + (places,)] = True
            box &= inside
            words.append(_indices(places, wrong.shape[axis], name))
    if words and np.array_equal(box & known, wrong):
        return "in " + " of ".join(reversed(words))
    outside = describe(known & ~wrong, known) if known.sum() < 2 * wrong.sum() else ""
    return f"outside of what is {outside}" if outside.startswith("in ") else ""


def _indices(places: list[int], size: int, name: str) -> str:
    if places == [size - 1]:
        return f"the last {name}"
    if places == [0]:
        return f"the first {name}"
    if places == [0, size - 1]:
        return f"the first and the last {name}"
    if len(places) > 1 and places == list(range(places[0], size)):
        return f"the last {len(places)} {name}s"
    if len(places) > 1 and places == list(range(len(places))):
        return f"the first {len(places)} {name}s"
    if len(places) > 1 and places in (list(range(0, size, 2)), list(range(1, size, 2))):
        return f"every second {name}"
    return f"{name} {', '.join(map(str, places))}" if len(places) < 6 else f"{len(places)} of {size} {name}s"
