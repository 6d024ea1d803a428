"""Shapes, axes and indices: what fits, which axes are meant, and what broadcasting adds up."""

import numpy as np

from ..arguments import LARGEST, array, shown, whole
from ..arguments import shape as sizes_of


def require_broadcast(what: str, a: np.ndarray, b: np.ndarray) -> None:
    """ValueError unless NumPy's rules of broadcasting fit the shapes to each other."""
    if a.shape != b.shape and any(
        m != n and m != 1 and n != 1 for m, n in zip(a.shape[::-1], b.shape[::-1], strict=False)
    ):
        rule = "counted from the last axis, two sizes must be equal, or one of them 1"
        raise ValueError(f"{what}: inputs a {a.shape} and b {b.shape} don't broadcast: {rule}")


def sum_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an array of `shape` that was broadcast to the gradient's shape.

    Each of its elements was used several times, and the gradients of its uses add up: the sum over the axes that
    broadcasting has added in front, and over those that it has stretched from 1.
    """
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = [added + k for k, size in enumerate(shape) if size == 1 and gradient.shape[added + k] != 1]
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)


def summed(x: np.ndarray, axis: int | tuple[int, ...] | None, op: str = "Sum") -> tuple[int, ...]:
    """The axes that `axis` means."""
    if axis is None:
        return tuple(range(x.ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(one_axis(f"{op}: axis", k, x.ndim) for k in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{op}: axis must not name one of the axes twice, got {shown(axis)}")
    return axes


def one_axis(what: str, axis: int, ndim: int) -> int:
    """`axis` of an x with `ndim` axes, counted from the first; negative ones are counted from the end."""
    axis = whole(what, axis, -LARGEST)
    if not -ndim <= axis < ndim:
        raise ValueError(f"{what} must be one of the {ndim} axes of x, got {axis}")
    return axis % ndim


def as_shape(op: str, shape: int | tuple[int, ...], least: int = 0) -> tuple[int, ...]:
    """`shape` as a tuple; a single number is that of a vector."""
    return sizes_of(f"{op}: shape", shape if isinstance(shape, (tuple, list)) else (shape,), least)


class BadIndex(ValueError, IndexError):
    """An index that the array does not have: a bad value as any other, and what Python's `[ ]` is expected to raise."""


def require_index(part) -> None:
    """TypeError for what is no index of one axis or of some: a masked array, text, floats."""
    if part is None or part is ... or isinstance(part, (int, slice)):
        return
    chosen = array("Select: index", part, "biuf")
    if chosen.dtype.kind == "f" and chosen.size:  # an empty list is of floats
        raise TypeError(f"Select: index must consist of whole numbers, slices or truth values, got {shown(part)}")


def less_largest(x: np.ndarray, axis: int) -> np.ndarray:
    """x less its largest elements along `axis`."""
    result = np.empty(x.shape, x.dtype)  # before anything is computed: that there is no memory for it is soon seen
    return np.subtract(x, x.max(axis=axis, keepdims=True, initial=-np.inf), out=result)
