"""Checks of constructor arguments that several layers share."""

import operator


def whole(what: str, value, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, got {value!r}") from None
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{what} must be an int of at least {least}, got {value!r}")
    return number


def pair(what: str, value, least: int = 1) -> tuple[int, int]:
    """An int for both axes, or a (vertical, horizontal) pair of ints."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be an int or a pair of ints, got {value!r}")
        return whole(what, value[0], least), whole(what, value[1], least)
    number = whole(what, value, least)
    return number, number
