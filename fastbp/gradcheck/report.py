"""What a gradient check found, tensor by tensor."""

import math
from dataclasses import dataclass, field


class GradientError(AssertionError):
    """A gradient is not the derivative of its function; the message is the report."""


@dataclass(frozen=True)
class TensorCheck:
    """One tensor's gradient against finite differences.

    `checked` of `size` elements were compared; `kinks` of them lie on a kink of the function, where the one-sided slopes
    differ and any value between them is right. `index`, `analytic`, `numeric` and `error` are those of the worst element:

        error = |analytic − numeric| / (max(|analytic|, |numeric|) + rounding / tolerance)

    the relative error, except for elements so small that the difference is mostly rounding. `failures` counts the elements
    whose error is above the tolerance. With `problem` set, nothing could be compared.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    checked: int = 0
    kinks: int = 0
    failures: int = 0
    index: tuple[int, ...] = ()
    analytic: float = math.nan
    numeric: float = math.nan
    error: float = 0.0
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.failures and not self.problem


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`: `passed`, `tensors`, and the whole as a table with `print(report)`."""

    subject: str
    tolerance: float
    seed: int
    tensors: tuple[TensorCheck, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(tensor.passed for tensor in self.tensors)

    def raise_if_failed(self) -> None:
        """GradientError with the table, if any gradient is wrong."""
        if not self.passed:
            raise GradientError("\n" + str(self))

    def __str__(self) -> str:
        head = ("", "gradient of", "shape", "checked", "worst at", "analytic", "numeric", "error")
        rows = [head]
        for t in self.tensors:
            checked = f"{t.checked}" if t.checked == t.size else f"{t.checked} of {t.size}"
            checked += f" ({t.kinks} at a kink)" if t.kinks else ""
            row = ["ok" if t.passed else "WRONG", t.name, str(t.shape), checked]
            if t.problem:
                row += [t.problem, "", "", ""]
            elif t.checked == 0:
                row += ["", "", "", ""]
            else:
                row += [str(t.index), f"{t.analytic:.6g}", f"{t.numeric:.6g}", f"{t.error:.1e}"]
            rows.append(tuple(row))
        widths = [max(len(row[c]) for row in rows if c < 4 or not self._is_problem(row)) for c in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        wrong = sum(not t.passed for t in self.tensors)
        verdict = f"{wrong} of {len(self.tensors)} gradients WRONG" if wrong else f"all {len(self.tensors)} gradients ok"
        kind = f"central differences in float64, random cotangent (seed {self.seed}), tolerance {self.tolerance:g}"
        return "\n".join([f"{self.subject}: {kind}", lines[0], "-" * max(map(len, lines)), *lines[1:], verdict])

    @staticmethod
    def _is_problem(row: tuple[str, ...]) -> bool:
        return row[0] == "WRONG" and row[5] == ""
