"""Checks of arguments that several functions of this room share."""

import contextlib

import numpy as np

from ..arguments import array
from ..losses import Loss


def expect(who: str, name: str, value, kind: type) -> None:
    """TypeError unless `value` is of that kind; for the class itself it says to make an object of it."""
    if not isinstance(value, kind):
        hint = isinstance(value, type) and issubclass(value, kind)
        got = f"the class {value.__name__}; make one: {value.__name__}()" if hint else type(value).__name__
        raise TypeError(f"{who}: expected {name} to be a {kind.__name__}, got {got}")


def x_and_targets(name: str, data) -> tuple[np.ndarray, np.ndarray]:
    """The two of a pair (x, targets), as arrays of one length."""
    try:
        x, targets = data
    except Exception:  # also of an iterator of the user's own
        raise TypeError(f"{name} must be a pair (x, targets), got {type(data).__name__}") from None
    x, targets = array(f"{name}: x", x, "biufcO"), array(f"{name}: targets", targets, "biufcO")
    if x.ndim == 0 or targets.ndim == 0 or len(x) != len(targets):
        raise ValueError(f"{name}: x {x.shape} and targets {targets.shape} differ in length")
    return x, targets


def is_ours(loss: Loss) -> bool:
    """Is it one of the package's losses? One of the user's own may take other targets."""
    return type(loss).forward.__module__.startswith("fastbp.")


@contextlib.contextmanager
def named(what: str):
    """A block whose errors say what they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{what}: {error}") from None
