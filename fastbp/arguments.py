"""Checks of arguments, shared by every room: each gives the value as the code wants it, or an error that names the
argument.

`what` names the argument as the message shall: "Conv2d: stride". A wrong kind of value is a TypeError, a wrong value a
ValueError.
"""

import contextlib
import inspect
import itertools
import math
import numbers
import operator
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # of the whole numbers that kernels count with
LARGEST_FLOAT = sys.float_info.max
AXES = 32  # of an array, at most


def shown(value, width: int = 80) -> str:
    """`value` for a message: its repr on one line, cut where it is long; its kind alone where the repr fails."""
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


def pair(what: str, value, least: int = 1, most: int = LARGEST) -> tuple[int, int]:
    """An int for both axes, or a (vertical, horizontal) pair of ints."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be an int or a pair of ints, got {shown(value)}")
        return whole(what, value[0], least, most), whole(what, value[1], least, most)
    both = whole(what, value, least, most)
    return both, both


def shape(what: str, value, least: int = 0, most: int = LARGEST, most_sizes: int = AXES) -> tuple[int, ...]:
    """`value` as a tuple of ints of at least `least` and at most `most`, the sizes of an array's axes."""
    if type(value) is tuple and len(value) <= most_sizes:  # of an array, which is seen in each training step
        for size in value:
            if type(size) is not int or not least <= size <= most:
                break
        else:
            return value
    try:
        if isinstance(value, (str, bytes, dict, set)) or not isinstance(value, Iterable):
            raise TypeError
        sizes = list(itertools.islice(value, most_sizes + 1))
    except Exception:
        raise TypeError(f"{what} must be a tuple of ints, got {shown(value)}") from None
    if len(sizes) > most_sizes:
        raise ValueError(f"{what} must have at most {most_sizes} sizes, got {shown(value)}")
    return tuple(whole(what, size, least, most) for size in sizes)


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
    if type(value) is np.ndarray and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_, np.timedelta64)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    except Exception:  # of a method of the value's own
        raise TypeError(f"{what} must be a number, got {shown(value)}") from None
    fits = math.isfinite(result) and (least is None or result >= least) and (above is None or result > above)
    if not fits or (most is not None and result > most) or (below is not None and result >= below):
        raise ValueError(f"{what} must be {_limits(least, most, above, below)}, got {shown(value)}")
    return result


def _limits(least: float | None, most: float | None, above: float | None, below: float | None) -> str:
    """What a number must be, in words or as an interval."""
    low, high = least if above is None else above, most if below is None else below
    if high is not None:
        low = -math.inf if low is None else low
        return f"in {'(' if least is None else '['}{low:g}, {high:g}{']' if below is None else ')'}"
    if low is None:
        return "a finite number"
    if low == 0:
        return "a finite number, 0 or above" if above is None else "positive and finite"
    return f"a finite number {'of at least' if above is None else 'above'} {low:g}"


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

    An int would be a file descriptor to `open`, which would close it: so it is refused, and so are bytes.
    """
    try:
        if not isinstance(value, (str, os.PathLike)) or not isinstance(name := os.fspath(value), str):
            raise TypeError
    except Exception:
        raise TypeError(f"{what} must be a str or an os.PathLike, got {shown(value)}") from None
    try:
        if not name or b"\0" in os.fsencode(name):
            raise ValueError
    except ValueError:  # also of characters that no file name has
        raise ValueError(f"{what} must be the name of a file, got {shown(name)}") from None
    return name


def array(what: str, value, kinds: str = "biufc") -> np.ndarray:
    """`value` as a plain array of numbers, of the dtype kinds given: b bool, i int, u unsigned int, f float, c complex.

    Lists of numbers become arrays.
    """
    unmasked(what, value)
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
    names: set[str] = set()
    for kind in type(thing).__mro__:  # a subclass may have a constructor of its own, and hand the rest to its base's
        with contextlib.suppress(TypeError, ValueError):  # a class without a signature
            names |= set(inspect.signature(kind).parameters)
    return {name: value for name, value in getattr(thing, "__dict__", {}).items() if name in names}


def _is_masked(value) -> bool:
    return isinstance(value, np.ma.MaskedArray)


def unmasked(what: str, value) -> None:
    """TypeError for a masked array, since no kernel sees its mask, and for np.matrix, since it multiplies otherwise."""
    if isinstance(value, np.ma.MaskedArray) or (type(value) in (list, tuple) and any(map(_is_masked, value))):
        instead = f"{what.rpartition(' ')[2]}.filled(…)"
        raise TypeError(f"{what} is a masked array, whose mask would be lost: pass {instead} instead")
    if isinstance(value, np.matrix):
        raise TypeError(f"{what} is a np.matrix: pass np.asarray({what.rpartition(' ')[2]}) instead")


def converted(what: str, value, dtype: np.dtype) -> np.ndarray:
    """`value` as an array of `dtype`, by a copy if need be. A float may be rounded.

    ValueError for numbers that `dtype` does not have, TypeError for complex ones and for text.
    """
    given = array(what, value, "biuf")
    if given.dtype == dtype:
        return given
    with np.errstate(all="ignore"):
        result = given.astype(dtype)
        same = np.isfinite(result) | ~np.isfinite(given) if dtype.kind == "f" else result == given
    if not same.all():
        raise ValueError(f"{what} holds numbers that {dtype} has not, {given[~same].flat[0].item()!r} among them")
    return result


def writable(array: np.ndarray) -> np.ndarray:
    """`array`, or a copy where it is read-only."""
    return array if array.flags.writeable else np.array(array, subok=not isinstance(array, np.memmap))


def owned(attributes: dict[str, Any]) -> dict[str, Any]:
    """An object's attributes as it takes them over from a pickle.

    Arrays that came back read-only, from a memory map or another process's buffers, are copied.
    """
    return {name: writable(value) if isinstance(value, np.ndarray) else value for name, value in attributes.items()}


class Setting:
    """How an attribute of a Checked class is checked: by one of the functions above, with limits.

    A `fixed` one is set once, since other things have been made for its value.
    """

    def __init__(self, check: Callable, *, fixed: bool = False, **limits):
        self.check, self.fixed, self.limits = check, fixed, limits
        low = math.nextafter(limits["above"], math.inf) if "above" in limits else limits.get("least", -LARGEST_FLOAT)
        high = math.nextafter(limits["below"], -math.inf) if "below" in limits else limits.get("most", LARGEST_FLOAT)
        # floats from low to high need no further check
        self.low, self.high = (low, high) if check is number else (math.inf, -math.inf)

    def checked(self, owner, name: str, value) -> Any:
        """`value` as the attribute `name` of `owner`."""
        what = f"{type(owner).__name__}: {name}"
        if self.fixed and hasattr(owner, name):
            raise AttributeError(f"{what} can't be set once the object is made: make a new one")
        return self.check(what, value, **self.limits)


class Checked:
    """Base of classes with attributes that are checked whenever they are set, in the constructor and later.

    `rate = Setting(number, least=0, below=1)` in the class's body declares one.
    """

    _settings_by_name: dict[str, Setting] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}
        cls._settings_by_name = {**cls._settings_by_name, **own}
        for name in own:
            delattr(cls, name)  # reading an attribute takes longer where the class has one of that name too

    def __setattr__(self, name: str, value) -> None:
        setting = self._settings_by_name.get(name)
        # a float within the limits needs no more: a schedule sets the learning rate before every step
        if setting is not None and not (type(value) is float and setting.low <= value <= setting.high):
            value = setting.checked(self, name, value)
        object.__setattr__(self, name, value)
