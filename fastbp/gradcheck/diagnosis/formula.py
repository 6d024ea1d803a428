"""A right gradient as a short formula."""

from dataclasses import dataclass, field
from types import CodeType

import numpy as np

Names = dict[str, object]


@dataclass(frozen=True)
class Formula:
    """A formula that gives the right gradient, and what its names stand for: `gradients` (K, …) differ with dout."""

    source: str
    names: Names
    gradients: dict[str, np.ndarray] = field(default_factory=dict)

    def value(self, douts: np.ndarray, code: CodeType | None = None) -> np.ndarray | None:
        """(K, …) with another formula's code, or its own; None where it cannot be computed."""
        code = code or compile(self.source, "<formula>", "exec")
        results = [scope["result"] for scope in self._computed(douts, code)]
        return np.array(results, np.float64) if results else None

    def values(self, douts: np.ndarray) -> dict[str, np.ndarray]:
        """All that the formula computes on the way to its result, by name, (K, …) each."""
        found = self._computed(douts, compile(self.source, "<formula>", "exec"))
        known = self.names.keys() | self.gradients.keys() | {"dout", "result", "__builtins__"}
        names = [name for name in found[0] if name not in known]
        return {name: np.array([scope[name] for scope in found], np.float64) for name in names}

    def _computed(self, douts: np.ndarray, code: CodeType) -> list[dict]:
        """For each dout all names and their values; nothing where they cannot be computed."""
        others = [{name: array[k] for name, array in self.gradients.items()} for k in range(len(douts))]
        scopes = [{**self.names, **other, "dout": dout} for other, dout in zip(others, douts, strict=True)]
        try:
            for scope in scopes:
                exec(code, scope)  # a formula of this package, or a slip in it; never anything from outside
        except (NameError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
            return []
        return scopes


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
