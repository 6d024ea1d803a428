"""What a submission answers: taken apart, compared, and put into words."""

from dataclasses import dataclass

import numpy as np

from .assignment import Arguments
from .sandbox import Handle, SubmissionError

SHOWN = 40  # elements of an array that feedback shows
FLOAT32 = 1e-4  # relative, where the submission answers in float32
WORDS = {  # for the kinds of a SubmissionError
    "raised": "raised an error",
    "timeout": "took too long",
    "crashed": "crashed",
    "exited": "ended the program",
    "memory": "took too much memory",
    "output": "printed too much",
    "protocol": "could not be talked to",
    "value": "returned what can't be graded",
    "import": "failed",
}


@dataclass
class Answer:
    """What the submission gave for a case: the output and the cache that stays with it, or an error."""

    arguments: Arguments
    out: np.ndarray | None = None
    cache: Handle | None = None
    gradients: tuple | None = None  # a loss's
    error: SubmissionError | None = None
    after: Arguments | None = None  # the arguments as the call left them

    @property
    def finite(self) -> bool:
        """Whether there is an output that can be differentiated. One that overflowed is forward's mistake."""
        return self.error is None and bool(np.isfinite(self.out).all())


def gathered(names: list[str], faults: list[str]) -> list[str]:
    """A line for each fault, with the cases that have it.

    >>> gathered(["a", "b", "c"], ["wrong", "", "wrong"]), gathered(["a", "b"], ["bad", "bad"])
    (['a; c: wrong'], ['every case: bad'])
    """
    cases: dict[str, list[str]] = {}
    for name, fault in zip(names, faults, strict=True):
        if fault:
            cases.setdefault(fault, []).append(name)
    every = len(names) if len(names) > 1 else None
    return [f"{'every case' if len(of) == every else '; '.join(of)}: {fault}" for fault, of in cases.items()]


def copied(arguments: Arguments) -> Arguments:
    """Copies of arrays and dictionaries: references write to theirs."""
    out = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            out[name] = value.copy()
        elif isinstance(value, dict):
            out[name] = copied(value)
    return out


def number_array(value, what: str) -> np.ndarray:
    """An array of real numbers, or SubmissionError."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise SubmissionError("value", f"{what} must be an array of numbers, it is {kind(value)}")
    return array


def difference(what: str, got: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """How an array differs from what it should be, in a line, or nothing."""
    if got.shape != expected.shape:
        return f"{what} has shape {got.shape}, expected {expected.shape}"
    if not got.size:
        return ""
    tolerance = max(tolerance, FLOAT32) if got.dtype.itemsize < 8 and got.dtype.kind == "f" else tolerance
    got = got.astype(np.float64)
    if not np.isfinite(got).all() and np.isfinite(expected).all():
        return f"{what} has {int((~np.isfinite(got)).sum())} values that are infinite or NaN"
    with np.errstate(all="ignore"):
        off, largest = np.abs(got - expected), np.max(np.abs(expected))
        wrong = ~(off <= tolerance * np.maximum(np.abs(expected), 1e-3 * largest) + 1e-12)
    if not wrong.any():
        return ""
    little = " (by so little: is something computed in float32?)" if np.max(off) <= 3e-6 * largest else ""
    return f"{what} is wrong at {int(wrong.sum())} of {got.size} elements{little}"


def explain(name: str, error: SubmissionError) -> str:
    """An error of a submission as feedback."""
    return f"{name} {WORDS.get(error.kind, error.kind)}: {error.message}"


def kind(value) -> str:
    """What a value is, in a few words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return {"ndarray": "an array", "NoneType": "None", "Handle": "an object"}.get(name, f"a {name}")


def short(array: np.ndarray) -> str:
    """An array on one line, without its middle if it is long."""
    text = np.array2string(array, precision=6, threshold=SHOWN, separator=", ", max_line_width=10**6)
    return " ".join(text.split())
