"""Checks of arguments, shared by every room: each gives the value as the code wants it, or an error that names the argument.

`what` names the argument as the message shall: "Conv2d: stride". A wrong kind of value is a TypeError, a wrong value a ValueError.
"""

import inspect
import math
import numbers
import operator
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # of the whole numbers that kernels count with


def shown(value, width: int = 80) -> str:
    """`value` for a message: its repr, cut where it is long, on one line; the kind alone of a value without a usable repr."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array {value.dtype} {value.shape}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of the user's own
        return f"a {type(value).__name__}"
    return text if len(text) <= width else f"{text[: width - 2]} …"


def whole(what: str, value, least: int = 1, most: int = LARGEST) -> int:
    """`value` as an int of at least `least` and at most `most`."""
    try:
        result = operator.index(value)
    except Exception:  # also an __index__ of the user's own
        raise TypeError(f"{what} must be an int, got {shown(value)}") from None
    if isinstance(value, bool) or not least <= result <= most:
        limits = f"of at most {most}" if result > most else f"of at least {least}"
        raise ValueError(f"{what} must be an int {limits}, got {shown(value)}")
    return result


def pair(what: str, value, least: int = 1) -> tuple[int, int]:
    """An int for both axes, or a (vertical, horizontal) pair of ints."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be an int or a pair of ints, got {shown(value)}")
        return whole(what, value[0], least), whole(what, value[1], least)
    both = whole(what, value, least)
    return both, both


def shape(what: str, value, least: int = 0) -> tuple[int, ...]:
    """`value` as a tuple of ints of at least `least`, the sizes of an array's axes."""
    if isinstance(value, (str, bytes, dict, set)) or not isinstance(value, Iterable):
        raise TypeError(f"{what} must be a tuple of ints, got {shown(value)}")
    return tuple(whole(what, size, least) for size in value)


def number(
    what: str,
    value,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a finite float: a Python or NumPy real number, no bool, no text, within the limits that are given."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    limits = [
        (least, "at least", operator.ge),
        (above, "above", operator.gt),
        (most, "at most", operator.le),
        (below, "below", operator.lt),
    ]
    given = [(limit, words, holds) for limit, words, holds in limits if limit is not None]
    if not math.isfinite(result) or not all(holds(result, limit) for limit, _, holds in given):
        wanted = " and ".join(f"{words} {limit:g}" for limit, words, _ in given)
        raise ValueError(f"{what} must be a finite number{f', {wanted}' if wanted else ''}, got {shown(value)}")
    return result


def flag(what: str, value) -> bool:
    """`value` as a bool: True or False, also NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def choice(what: str, value, options: Iterable) -> Any:
    """`value`, if it is one of `options`."""
    options = list(options)
    if any(type(value) is type(option) and value == option for option in options):
        return value
    listed = ", ".join(map(repr, options))
    kind = ValueError if any(isinstance(value, type(option)) for option in options) else TypeError
    raise kind(f"{what} must be one of {listed}, got {shown(value)}")


def text(what: str, value) -> str:
    """`value`, if it is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, got {shown(value)}")
    return value


def instance(what: str, value, kind: type | tuple[type, ...], wanted: str = "") -> Any:
    """`value`, if it is an instance of `kind`; `wanted` names the kind where its own name does not say enough."""
    if not isinstance(value, kind):
        names = wanted or " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        if isinstance(value, type):
            raise TypeError(f"{what} must be a {names}, got the class {value.__name__}: make an object of it")
        raise TypeError(f"{what} must be a {names}, got {shown(value)}")
    return value


def function(what: str, value, wanted: str = "a function") -> Any:
    """`value`, if it can be called and is no class."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{what} must be {wanted}, got {shown(value)}")
    return value


def path(what: str, value) -> str:
    """`value` as the name of a file: a str or an os.PathLike of one.

    An int is a file descriptor to `open`, which would close it: so it is refused, and so are bytes."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(name := os.fspath(value), str):
        raise TypeError(f"{what} must be a str or an os.PathLike, got {shown(value)}")
    if not name or "\0" in name:
        raise ValueError(f"{what} must be the name of a file, got {shown(name)}")
    return name


def array(what: str, value, kinds: str = "biufc") -> np.ndarray:
    """`value` as a plain array of numbers, of the dtype kinds given: b bool, i int, u unsigned int, f float, c complex.

    Lists of numbers become arrays. A masked array is refused, since no kernel sees its mask, and so is np.matrix, whose
    products and axes are not an array's."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, whose mask would be lost: pass {what.rpartition(' ')[2]}.filled(…) instead")
    if isinstance(value, np.matrix):
        raise TypeError(f"{what} is a np.matrix: pass np.asarray({what.rpartition(' ')[2]}) instead")
    if isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{what} must be an array of numbers, got {shown(value)}")
    try:
        result = np.asarray(value)
    except Exception:
        raise TypeError(f"{what} must be an array of numbers, got {shown(value)}") from None
    if result.dtype.kind not in kinds:
        raise TypeError(f"{what} must be an array of numbers, got dtype {result.dtype}")
    return result


def kept(thing) -> dict[str, Any]:
    """The arguments of an object's constructor, as far as it keeps them in attributes of the same names."""
    try:
        names = inspect.signature(type(thing)).parameters
    except (TypeError, ValueError):  # a class without a signature
        return {}
    return {name: value for name, value in getattr(thing, "__dict__", {}).items() if name in names}
