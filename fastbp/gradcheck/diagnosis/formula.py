"""A right gradient as a short formula."""

from dataclasses import dataclass, field
from types import CodeType

import numpy as np

Names = dict[str, object]


@dataclass(frozen=True)
class Formula:
    """A formula that gives the right gradient, with what its names stand for; `gradients` (K, …) those that differ with dout."""

    source: str
    names: Names
    gradients: dict[str, np.ndarray] = field(default_factory=dict)

    def value(self, douts: np.ndarray, code: CodeType | None = None) -> np.ndarray | None:
        """(K, …) with another formula's code, or its own; None where it cannot be computed."""
        return self.values(douts, code).get("result")

    def values(self, douts: np.ndarray, code: CodeType | None = None) -> dict[str, np.ndarray]:
        """All that the formula computes, by name, (K, …) each; nothing where it cannot be computed."""
        found, code = [], code or compile(self.source, "<formula>", "exec")
        for k, dout in enumerate(douts):
            scope = {**self.names, **{name: array[k] for name, array in self.gradients.items()}, "dout": dout}
            known = scope.copy()
            try:
                exec(code, scope)  # a formula of this package, or a slip in it; never anything from outside
                new = scope.keys() - known.keys() - {"__builtins__"}
                found.append({name: np.array(scope[name], np.float64) for name in new})
            except (NameError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
                return {}
        return {name: np.stack([values[name] for values in found]) for name in found[0]}


def fit(value: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """`value` (K, …) in the tensor's shape, if it has as many elements."""
    if value is not None and value.size == np.prod(shape):
        return value.reshape(shape)
    return value


def sums(axes: tuple[int, ...]) -> Names:
    """sum, mean and max over `axes`, sum and mean over the others."""

    def over(function, chosen):
        def total(z):
            z = np.asarray(z)
            return function(z, axis=tuple(a for a in range(z.ndim) if (a in axes) == chosen), keepdims=True)

        return total

    return {
        "sum": over(np.sum, True),
        "mean": over(np.mean, True),
        "max": over(np.max, True),
        "sum_all": np.sum,
        "mean_all": np.mean,
        "sum_other": over(np.sum, False),
        "mean_other": over(np.mean, False),
    }
