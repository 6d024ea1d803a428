"""What figures are given, checked and in the form that is drawn; each error names the argument."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..canvas import Figure, can_set  # before the rest of matplotlib

# isort: split
from matplotlib.figure import FigureBase
from matplotlib.gridspec import SubplotSpec
from numpy.typing import ArrayLike

from ..arguments import array, instance, shown, text
from .style import LINES

FARTHEST = 1e100  # from 0 that can be drawn: matplotlib's axes overflow before floats do
MOST = 1000  # rows, columns, classes or images that a figure can have


def numbers(what: str, values: ArrayLike) -> np.ndarray:
    """An array of real numbers, as float64, with those that no axis reaches made infinite."""
    given = array(what, values, "biuf")
    try:
        with np.errstate(over="ignore"):
            given = given.astype(np.float64, copy=False)
            return np.where(np.abs(given) > FARTHEST, np.copysign(np.inf, given), given)
    except MemoryError:
        raise MemoryError(f"{what}: {shown(given)} needs more memory than there is") from None


def epochs_of(history, name: str) -> np.ndarray:
    """One of the lists of a history, empty if it has none."""
    values = getattr(history, name, None)
    values = numbers(f"curves: history: {name}", [] if values is None else values)
    if values.ndim != 1:
        raise ValueError(f"curves: history: {name} must be a list of numbers, got {values.shape}")
    return values


def seeds_of(name: str, x: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """x (P,) and values (K, P), where (P,) is a single seed."""
    x, values = numbers(f"{name}: x", x), numbers(f"{name}: values", values)
    seeds = np.atleast_2d(values)
    if x.ndim != 1 or seeds.ndim != 2 or seeds.shape[1] != len(x) or not seeds.size:
        got = f"got {x.shape} and {values.shape}"
        raise ValueError(f"{name}: expected x (P,) and values (P,) or (K, P), not empty, {got}")
    return x, seeds


def lines_of(what: str, lines: Mapping, parts: tuple[str, ...]) -> dict[str, Sequence]:
    """What is to be drawn, by the label as it is written: `parts` for each."""
    instance(what, lines, Mapping, f"dictionary of ({', '.join(parts)})")
    if not 1 <= len(lines) <= len(LINES):
        raise ValueError(f"{what}: 1 to {len(LINES)} lines can be told apart, got {len(lines)}")
    for label, given in lines.items():
        if not isinstance(given, (tuple, list, np.ndarray)) or length(given) != len(parts):
            raise TypeError(f"{what}: {shown(label)} must have ({', '.join(parts)}), got {shown(given)}")
    return dict(zip(labels_of(f"{what}: labels", list(lines)), lines.values(), strict=True))


def length(values: Sequence) -> int:
    return 0 if isinstance(values, np.ndarray) and not values.ndim else len(values)


def items(what: str, values: Iterable) -> list:
    """The items of a list, or of anything that has some in an order, as many as can be drawn."""
    try:
        if isinstance(values, (bytes, dict)) or not isinstance(values, Iterable):
            raise TypeError
        items = list(itertools.islice(values, MOST + 1))
    except Exception:  # of an __iter__
        raise TypeError(f"{what} must be a list, got {shown(values)}") from None
    if len(items) > MOST:
        raise ValueError(f"{what}: at most {MOST} can be drawn, got {shown(values)}")
    return items


def labels_of(what: str, values: Iterable) -> list[str]:
    """Each of some settings or names, as it is written."""
    labels = []
    for value in items(what, values):
        try:
            labels.append(str(value))
        except Exception:
            raise TypeError(f"{what}: each must be a str, got {shown(value)}") from None
        _require_settable(f"{what}: each", labels[-1])
    return labels


def texts(who: str, **given: str) -> list[str]:
    """The texts after a check, each under its argument's name."""
    for name, value in given.items():
        _require_settable(f"{who}: {name}", text(f"{who}: {name}", value))
    return list(given.values())


def _require_settable(what: str, value: str) -> None:
    if not can_set(value):
        raise ValueError(f"{what} can't be set as text: write \\$ for a $ that begins no formula; got {shown(value)}")


def require_place(who: str, figure: Figure | None, place: SubplotSpec | None) -> None:
    if figure is not None:
        instance(f"{who}: figure", figure, FigureBase, "matplotlib Figure")
    if place is not None:
        instance(f"{who}: place", place, SubplotSpec)
        if figure is None or getattr(place.get_gridspec(), "figure", None) is not figure:
            raise ValueError(f"{who}: place must be one of the figure's, which has to be given too")


def require_classes(what: str, given: np.ndarray, C: int) -> None:
    if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= C:
        got = f"{given.dtype} from {given.min()} to {given.max()}"
        raise ValueError(f"{what} must be integers from 0 to {C - 1}, got {got}: there are {C} classes")
