"""What a gradient check found, tensor by tensor: as text, as HTML in a notebook, as JSON, as a figure."""

import html
import math
from dataclasses import asdict, dataclass, field

import numpy as np

from .diagnosis import Cause
from .properties import Property

NOT_CHECKED, OK, KINK = range(3)
BELOW_NOISE, MISMATCH, NOT_FINITE = range(3, 6)
VERDICTS = ("not checked", "ok", "kink", "below noise", "mismatch", "not finite")


class GradientError(AssertionError):
    """A gradient is not the derivative of its function; the message is the report."""


@dataclass(frozen=True)
class TensorCheck:
    """One tensor's gradient against finite differences.

    `checked` of `size` elements were compared; `counts` has how many got which verdict, `kinks` those on a kink of the
    function, where the one-sided slopes differ and any value between them is right. `index`, `analytic`, `numeric` and
    `error` are those of the worst element:

        error = |analytic − numeric| / (max(|analytic|, |numeric|) + estimate / tolerance)

    the relative error, except where the estimate of the numeric derivative's own error is not small beside it.
    `failures` counts the elements that are a mismatch or not finite. With `problem` set, nothing could be compared;
    with `directions`, so many random directions were, and no single elements.

    `causes` are the likely mistakes, best first, empty where nothing fits. `verdicts` (shape of the tensor), `given`
    the gradients, `measured` the finite differences and `estimate` of their error, (K, *shape) for K cotangents.
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
    directions: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    causes: tuple[Cause, ...] = ()
    verdicts: np.ndarray | None = field(default=None, repr=False, compare=False)
    given: np.ndarray | None = field(default=None, repr=False, compare=False)
    measured: np.ndarray | None = field(default=None, repr=False, compare=False)
    estimate: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name, array, given, measured, estimate, verdicts, tolerance) -> "TensorCheck":
        """From the verdict of every element (NOT_CHECKED … NOT_FINITE) and the arrays it was made from."""
        counts = {
            VERDICTS[v]: int(n) for v, n in enumerate(np.bincount(verdicts.ravel(), minlength=len(VERDICTS))) if n
        }
        failures = counts.get("mismatch", 0) + counts.get("not finite", 0)
        with np.errstate(all="ignore"):
            off = np.abs(given - measured)
            error = off / (np.maximum(np.abs(given), np.abs(measured)) + estimate / tolerance)
        error = np.where(off == 0, 0.0, np.where(np.isnan(error), np.inf, error))
        bad = verdicts >= MISMATCH
        error[:, ~bad if failures else (verdicts == NOT_CHECKED) | (verdicts == KINK)] = -1.0
        worst = {}
        if error.size and error.max() >= 0:
            at = tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
            values = {"analytic": given, "numeric": measured, "error": error}
            worst = {"index": at[1:]} | {name: float(array[at]) for name, array in values.items()}
            if not np.isfinite(given[at]) or not np.isfinite(measured[at]):
                worst["error"] = math.nan
        return cls(
            name, array.shape, array.size, int((verdicts > NOT_CHECKED).sum()), counts.get("kink", 0), failures,
            counts=counts, verdicts=verdicts, given=given, measured=measured, estimate=estimate, **worst,
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        return not self.failures and not self.problem

    def explanations(self, most: int) -> list[str]:
        """The likely causes in words, each with what to look at; that there is none is said too."""
        causes = [f"{c.message}. {c.hint[:1].upper()}{c.hint[1:]}".rstrip(". ") for c in self.causes[:most]]
        return causes or [self.problem or "cause not recognised"]

    @property
    def summary(self) -> str:
        """How many elements got which verdict: "12: 10 ok, 2 kink"."""
        if self.directions:
            return f"{self.directions} directions"
        if self.size and not self.checked:
            return "no gradient given"
        shown = f"{self.checked}" if self.checked == self.size else f"{self.checked} of {self.size}"
        words = {"kink": "at a kink"}
        rest = [f"{n} {words.get(v, v)}" for v, n in self.counts.items() if v not in ("ok", "not checked")]
        return shown + (f" ({', '.join(rest)})" if rest else "")


@dataclass
class GradientReport:
    """The result of `check_gradients`: `passed`, `tensors`, `properties`, and the whole as a table with
    `print(report)`.

    `skipped` names the parameters that are frozen, which have no gradient to check.
    `smallest`, after a failure, is a small case that fails in the same way (`fastbp.gradcheck.smallest.SmallestCase`),
    or None.
    """

    subject: str
    tolerance: float
    seed: int
    mode: str = "full"
    tensors: tuple[TensorCheck, ...] = ()
    properties: tuple[Property, ...] = ()
    smallest: object | None = None
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(tensor.passed for tensor in self.tensors) and all(p.passed or p.warning for p in self.properties)

    @property
    def counts(self) -> dict[str, int]:
        """How many elements of all tensors got which verdict."""
        return {v: n for v in VERDICTS if (n := sum(t.counts.get(v, 0) for t in self.tensors))}

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The likely mistakes of all the tensors that failed, each once."""
        return tuple({cause.name: cause for tensor in self.tensors for cause in reversed(tensor.causes)}.values())

    def raise_if_failed(self) -> None:
        """GradientError with the table, if any gradient is wrong."""
        if not self.passed:
            raise GradientError("\n" + str(self))

    # -- text ---------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        rows = [HEAD, *(_row(t) for t in self.tensors)]
        widths = [max(len(row[c]) for row in rows if c < len(row) - (len(row) < len(HEAD))) for c in range(len(HEAD))]
        # -- the last cell of a short row, a problem in words, may stick out
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
        ]
        text = [f"{self.subject}: {self._kind()}", lines[0], "-" * max(map(len, lines)), *lines[1:], self._verdict()]
        text += [f"{'note' if p.warning else 'WRONG'}: {p.message}" for p in self.properties if not p.passed]
        for tensor in self.tensors:
            if not tensor.passed:
                text += [f"{tensor.name}: {cause}" for cause in tensor.explanations(3)]
        if self.skipped:
            text.append(f"skipped, since frozen: {', '.join(self.skipped)}")
        if self.smallest is not None:
            text += ["", str(self.smallest)]
        return "\n".join(text)

    def _kind(self) -> str:
        return f"finite differences in float64, random cotangents (seed {self.seed}), tolerance {self.tolerance:g}"

    def _verdict(self) -> str:
        undecided = [
            t.name for t in self.tensors if t.size and t.counts.get("below noise", 0) == t.checked > 0 and t.given.any()
        ]
        note = f"; nothing was decided for {', '.join(undecided)}: below the noise of rounding" if undecided else ""
        wrong = sum(not t.passed for t in self.tensors)
        verdict = (
            f"{wrong} of {len(self.tensors)} gradients WRONG" if wrong else f"all {len(self.tensors)} gradients ok"
        )
        held = sum(p.passed for p in self.properties)
        return verdict + note + (f"; {held} of {len(self.properties)} properties hold" if self.properties else "")

    # -- HTML, JSON, figure -------------------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""
        e = html.escape
        head = "".join(f"<th style='text-align:left'>{e(cell)}</th>" for cell in HEAD)
        body = []
        for tensor in self.tensors:
            row = _row(tensor)
            cells = "".join(f"<td style='text-align:left'>{e(cell)}</td>" for cell in row[1:])
            colour = "#1a7f37" if tensor.passed else "#cf222e"
            body.append(f"<tr><td style='color:{colour};font-weight:bold'>{e(row[0])}</td>{cells}</tr>")
        notes = str(self).split("\n")[len(self.tensors) + 3 :]
        return (
            f"<div><p><b>{e(self.subject)}</b>: {e(self._kind())}</p><table><tr>{head}</tr>{''.join(body)}</table>"
            f"<pre style='white-space:pre-wrap'>{e(chr(10).join(notes))}</pre></div>"
        )

    def to_dict(self) -> dict:
        """Everything but the arrays, of kinds that `json.dumps` takes; what is not finite is a word."""
        tensors = []
        for t in self.tensors:
            plain = ("name", "passed", "size", "checked", "failures", "problem", "directions", "counts")
            entry = {name: getattr(t, name) for name in plain}
            entry |= {"shape": list(t.shape), "index": list(t.index), "causes": [asdict(c) for c in t.causes]}
            entry |= {name: _number(getattr(t, name)) for name in ("analytic", "numeric", "error")}
            tensors.append(entry)
        return {
            "subject": self.subject, "passed": self.passed, "mode": self.mode, "tolerance": self.tolerance,
            "seed": self.seed, "counts": self.counts, "tensors": tensors, "skipped": list(self.skipped),
            "properties": [asdict(p) for p in self.properties],
            "smallest": None if self.smallest is None else self.smallest.to_dict(),
        }  # fmt: skip

    def figure(self):
        """A matplotlib figure of where in each tensor the error sits."""
        from ..plotting import gradient_errors

        return gradient_errors(self)


HEAD = ("", "gradient of", "shape", "checked", "worst at", "analytic", "numeric", "error")


def _row(t: TensorCheck) -> tuple[str, ...]:
    row = ("ok" if t.passed else "WRONG", t.name, str(t.shape))
    if t.problem:
        return (*row, t.problem)
    row = (*row, t.summary)
    if not t.checked or t.error < 0 or not t.index and math.isnan(t.analytic):
        return row
    return (*row, str(t.index), f"{t.analytic:.6g}", f"{t.numeric:.6g}", f"{t.error:.1e}")


def _number(value: float):
    return value if math.isfinite(value) else str(value)
