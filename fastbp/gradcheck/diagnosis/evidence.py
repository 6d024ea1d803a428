"""What the rules look at, and what they say."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# A candidate may be off by SLACK · allowed, since it is made of measured numbers, and by ROUNDING of its size.
SLACK, ROUNDING = 2.0, 1e-7


@dataclass(frozen=True)
class Cause:
    """One explanation of a wrong gradient."""

    name: str
    message: str
    hint: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """One wrong gradient and all that a rule may look at.

    name       the tensor whose gradient is wrong, a key of `tensors`
    tensors    every floating-point input by name, in the order of the gradients
    others     the other arguments by name: labels, options, dictionaries of options
    output     y
    douts      (K, *y.shape) random cotangents; for a loss K = 1 and douts is ones of shape (1,)
    gradients  what backward gave, by name, (K, *the shape it has)
    numeric    finite differences by name, (K, *tensor.shape); NaN where not measured
    allowed    (K, *tensor.shape), the largest |analytic − numeric| that is still right
    """

    name: str
    tensors: dict[str, np.ndarray]
    others: dict[str, object]
    output: np.ndarray
    douts: np.ndarray
    gradients: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    allowed: dict[str, np.ndarray]

    @cached_property
    def given(self) -> np.ndarray:
        """What backward gave for `name`, (K, …). Of a kind that is not numbers: no elements."""
        given = np.asarray(self.gradients[self.name])
        return given.astype(np.float64) if given.dtype.kind in "fiub" else np.zeros((len(self.douts), 0))

    @property
    def right(self) -> np.ndarray:
        """What it should be, (K, *shape), NaN where not measured."""
        return self.numeric[self.name]

    @property
    def tensor(self) -> np.ndarray:
        return self.tensors[self.name]

    @cached_property
    def measured(self) -> np.ndarray:
        return np.isfinite(self.right) & np.isfinite(self.allowed[self.name])

    @property
    def same_shape(self) -> bool:
        return self.given.shape == self.right.shape

    @property
    def is_right(self) -> bool:
        """Is there nothing to explain, as far as measured?"""
        if not self.same_shape or not self.measured.any():
            return False
        return bool(np.all(close(self.given, self.right, self.allowed[self.name])[self.measured]))

    @property
    def is_loss(self) -> bool:
        return np.size(self.output) == 1 and len(self.douts) == 1

    def corrects(self, changed: np.ndarray, scale: np.ndarray | float = 1.0) -> bool:
        """Is `changed`, made of what backward gave, the right gradient? The change magnifies errors by `scale`."""
        return self._agree(changed, self.right, scale, at_least=1)

    def explains(self, formula: np.ndarray, scale: np.ndarray | float = 1.0) -> bool:
        """Is `formula`, made of anything but what backward gave, what backward gave?"""
        return self.same_shape and self._agree(formula, self.given, scale, at_least=2)

    def _agree(self, one, other, scale, at_least: int) -> bool:
        shape = self.right.shape
        try:
            one = np.broadcast_to(one, shape)
        except ValueError:
            return False
        here = self.measured
        # zeros agree with zeros whatever the cause: enough elements must be something else
        if np.count_nonzero(((one != 0) | (other != 0) | (self.right != 0)) & here) < at_least or not np.any(
            one[here] != 0
        ):
            return False
        allowed = np.broadcast_to(self.allowed[self.name] * np.abs(scale), shape)[here]
        return bool(np.all(close(one[here], other[here], allowed)))

    def explains_in_shape(self, formula: np.ndarray) -> bool:
        """`explains` for a gradient of the wrong shape, whose elements have no allowed error of their own."""
        if formula.shape != self.given.shape or not np.any(formula):
            return False
        allowed = np.max(self.allowed[self.name], where=self.measured, initial=0.0)
        return bool(np.all(close(formula, self.given, allowed)))


def close(one: np.ndarray, other: np.ndarray, allowed: np.ndarray | float) -> np.ndarray:
    """Element by element, is |one − other| within what is allowed? Infinities and NaNs agree with their like."""
    finite = np.isfinite(one) & np.isfinite(other)
    near = np.abs(one - other) <= SLACK * allowed + ROUNDING * np.maximum(np.abs(one), np.abs(other))
    return (finite & near) | (one == other) | (np.isnan(one) & np.isnan(other))


Rule = Callable[[Evidence], Iterable[Cause]]


def axis_names(ndim: int) -> tuple[str, ...]:
    """What a student calls the axes of an array with the batch first."""
    return {
        1: ("element",),
        2: ("sample", "feature"),
        3: ("sample", "channel", "position"),
        4: ("sample", "channel", "row", "column"),
    }.get(ndim, tuple(f"index along axis {axis}" for axis in range(ndim)))


def number(value: float) -> str:
    return f"{value:.6g}"
