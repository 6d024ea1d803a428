"""Causes that any layer can have: signs, factors, dout, another tensor's gradient."""

from collections.abc import Iterator

import numpy as np

from .evidence import Cause, Evidence, axis_names, close, number

ZERO_HINT = "is the array ever filled, with something that is not zero itself, and does what fills it reach the result?"


def zero(e: Evidence) -> Iterator[Cause]:
    if e.given.size and not np.any(e.given) and np.any((np.abs(e.right) > e.allowed[e.name]) & e.measured):
        yield Cause("zero", "the gradient is zero everywhere", ZERO_HINT)


def should_be_zero(e: Evidence) -> Iterator[Cause]:
    if e.same_shape and e.measured.any() and np.all(close(e.right, np.zeros(()), e.allowed[e.name])[e.measured]):
        hint = "which outputs change when this input does? here none"
        yield Cause("should-be-zero", f"the gradient with respect to {e.name} should be zero everywhere here", hint)


def wrong_sign(e: Evidence) -> Iterator[Cause]:
    if e.same_shape and e.corrects(-e.given):
        yield Cause("wrong-sign", "the gradient has the wrong sign", "a minus is missing, or there is one too many")


def constant_factor(e: Evidence) -> Iterator[Cause]:
    """One number times the right gradient, other than −1."""
    factor = _factor(e)
    if factor is None or abs(factor + 1) < 1e-4 or abs(factor - 1) < 1e-4:
        return
    size, sign = abs(factor), " and of the wrong sign" if factor < 0 else ""
    called = names_of(e, size)
    if not called and np.count_nonzero(e.right[e.measured]) < 2:
        return
    if size > 1:
        message = f"the gradient is {number(size)} times too large{sign}{called}"
    else:
        message = f"the gradient is {number(1 / size)} times too small{sign}{called}"
    if "batch" in called:
        hint = "is a sum taken for a mean, or a mean for a sum? Divide by N exactly where the forward pass does"
    elif called:
        hint = "a factor is missing, or there once too often: compare with the forward pass"
    else:
        hint = "look for a constant: in the formula, or in the options"
    yield Cause("constant-factor", message, hint)


def _factor(e: Evidence) -> float | None:
    if not e.same_shape:
        return None
    right, given = e.right[e.measured], e.given[e.measured]
    square = float(right @ right)
    factor = float(given @ right) / square if square > 0 else 0.0
    if factor == 0 or not np.isfinite(factor):
        return None
    # compared on both sides, so that neither a tiny nor a huge factor makes the test easy
    right_scaled = e.explains(e.right * factor, factor) or np.count_nonzero(right) == 1
    return factor if right_scaled and e.corrects(e.given / factor, 1 / factor if abs(factor) < 1 else 1.0) else None


def sizes(e: Evidence) -> list[tuple[str, float]]:
    """Numbers above 1 that a student may forget or repeat, with their names."""
    x, y = next(iter(e.tensors.values())), e.output
    found: list[tuple[str, float]] = []
    if x.ndim:
        found.append(("the batch size", x.shape[0]))
    if e.is_loss:
        found += [("the number of classes", x.shape[1]), ("the number of scores", x.size)] if x.ndim > 1 else []
    elif y.ndim == 4 and x.ndim == 4:
        found += [
            ("the number of channels", x.shape[1]),
            ("the number of output channels", y.shape[1]),
            ("height · width", x.shape[2] * x.shape[3]),
            ("height · width of the output", y.shape[2] * y.shape[3]),
            ("batch size · height · width", y.shape[0] * y.shape[2] * y.shape[3]),
            ("batch size · height · width", x.shape[0] * x.shape[2] * x.shape[3]),
        ]
    elif y.ndim >= 2:
        found += [
            ("the number of inputs", x.size // max(1, x.shape[0])),
            ("the number of outputs", y.size // max(1, y.shape[0])),
        ]
    others = [(name, t) for name, t in e.tensors.items() if t is not x]
    found += [(f"{name}'s number of elements", t.size) for name, t in others]
    found += [(f"{name}'s rows · columns", t.shape[2] * t.shape[3]) for name, t in others if t.ndim == 4]
    if {"pool_height", "pool_width"} <= options(e).keys():
        found.append(("the window's size", options(e)["pool_height"] * options(e)["pool_width"]))
    for name, value in options(e).items():
        found.append((name, value))
        found.append((f"1 − {name}", 1 - value))
    found += [(f"{name} − 1", value - 1) for name, value in found if value > 2 and value == int(value)]
    found += [(f"({name[:-4]}) / ({name})", (value + 1) / value) for name, value in found if name.endswith(" − 1")]
    return [(name, max(value, 1 / value)) for name, value in found if value > 0]


def options(e: Evidence) -> dict[str, float]:
    """The finite numbers among the other arguments, also those inside dictionaries."""
    found: dict[str, float] = {}
    for name, value in e.others.items():
        inside = value.items() if isinstance(value, dict) else [(name, value)]
        for key, item in inside:
            if isinstance(item, (int, float, np.number)) and not isinstance(item, bool) and np.isfinite(item):
                found[str(key)] = float(item)
    return found


def option_arrays(e: Evidence) -> dict[str, np.ndarray]:
    """The arrays of numbers among the other arguments, also those inside dictionaries."""
    found: dict[str, np.ndarray] = {}
    for name, value in e.others.items():
        inside = value.items() if isinstance(value, dict) else [(name, value)]
        found |= {str(key): item for key, item in inside if isinstance(item, np.ndarray) and item.dtype.kind in "fiub"}
    return found


def names_of(e: Evidence, size: float) -> str:
    """What a factor of `size`, or its inverse, may stand for: " (the batch size)", or nothing."""
    size = max(size, 1 / size)
    named = dict.fromkeys(name for name, value in sizes(e) if value > 1 and abs(value - size) <= 1e-5 * size)
    return f" ({' or '.join(list(named)[:2])})" if named else ""


def power_of_itself(e: Evidence) -> Iterator[Cause]:
    """The right factor to the wrong power: 1/f where f belongs."""
    if e.same_shape and e.explains(1 / e.right, 1 / e.right**2) and not e.corrects(-e.given):
        yield Cause(
            "divided", "the gradient is 1 divided by the right one", "a division stands where a multiplication belongs"
        )


def not_times_dout(e: Evidence) -> Iterator[Cause]:
    """The same for every cotangent though the right one is not."""
    if len(e.douts) < 2 or e.given.size == 0 or not np.any(e.given):
        return
    allowed = np.max(e.allowed[e.name], where=e.measured, initial=0.0)
    if np.all(close(e.given, e.given[:1], 0.0)) and not np.all(close(e.right, e.right[:1], allowed)[e.measured]):
        message = "the gradient does not depend on dout: it is the same for every dout"
        yield Cause("not-times-dout", message, "the chain rule: multiply the layer's own derivative by dout")


def accumulates(e: Evidence) -> Iterator[Cause]:
    """Each call adds to what the calls before it gave."""
    if len(e.douts) < 2 or not e.same_shape:
        return
    change = np.full(e.right.shape, np.nan)
    change[1:] = np.diff(e.given, axis=0)
    later = e.measured.copy()
    later[0] = False
    allowed = np.cumsum(np.where(e.measured, e.allowed[e.name], 0.0), axis=0)
    if np.any(e.right[later]) and np.all(close(change, e.right, allowed)[later]):
        message = "each call of backward adds its gradient to those of the calls before"
        yield Cause("accumulates", message, "make a new array of zeros in every call; += into one that is kept adds up")


def wrong_tensor(e: Evidence) -> Iterator[Cause]:
    """Another tensor's gradient: dw for dx, or all of them in another order."""
    see = f"see which formula d{e.name} is computed by and which name is returned"
    for other, numeric in e.numeric.items():
        if other == e.name or e.given.shape != numeric.shape:
            continue
        if not _is_gradient_of(e, e.name, other):
            if numeric.ndim == 5 and _is_gradient_of(e, e.name, other, turned=True):
                turned = f"the gradient with respect to {other}, its rows and columns in reverse order"
                yield Cause("wrong-tensor", f"this is {turned}, not to {e.name}", see)
            continue
        exchanged = any(_is_gradient_of(e, third, e.name) for third in e.gradients if third != e.name)
        if exchanged:
            where = f"that of {other} stands where that of {e.name} belongs"
            message = f"the gradients are returned in the wrong order: {where}"
            yield Cause("wrong-order", message, "return the gradients in the order of the forward function's arguments")
        else:
            yield Cause("wrong-tensor", f"this is the gradient with respect to {other}, not to {e.name}", see)


def _is_gradient_of(e: Evidence, name: str, other: str, turned: bool = False) -> bool:
    """Did backward give other's gradient, as it is or turned by 180°, for name's?"""
    given, right = np.asarray(e.gradients[name]), e.numeric[other]
    given = np.flip(given, (-2, -1)) if turned else given
    if given.shape != right.shape or given.dtype.kind not in "fiub":
        return False
    here = np.isfinite(right) & np.isfinite(e.allowed[other])
    return bool(np.any(right[here]) and np.all(close(given.astype(np.float64), right, e.allowed[other])[here]))


def factor_by_element(e: Evidence) -> Iterator[Cause]:
    """The right gradient times (or divided by) something known that differs from element to element."""
    if not e.same_shape:
        return
    with np.errstate(all="ignore"):
        for name, array in known_arrays(e):
            for power, words in (
                (1, f"{name} too often"),
                (-1, f"divided by {name} too often, or not multiplied by it"),
                (2, f"{name}² too often"),
                (-2, f"divided by {name}² too often"),
                (0.5, f"√({name}) too often"),
                (-0.5, f"divided by √({name}) too often"),
            ):
                factor = array**power
                for sign in (1, -1):
                    if e.explains(sign * e.right * factor, factor) and not np.all(factor == factor.flat[0]):
                        turned = " and the wrong sign" if sign < 0 else ""
                        message = f"each element is the right one times a factor: {words}{turned}"
                        yield Cause(
                            "factor-by-element",
                            message,
                            f"compare the places of {name} in your formula with the derivative",
                        )
                        return


def known_arrays(e: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays that a formula may hold, shaped to go with a (K, *shape) gradient."""
    shape = e.tensor.shape
    arrays = {**e.tensors, "out": np.asarray(e.output), **option_arrays(e)}
    for name, array in arrays.items():
        array = np.asarray(array, np.float64)
        if array.size > 1:
            yield from ((name, a) for a in fitted(array, shape))
    if e.douts.shape[1:] == shape and len(e.douts) > 1:
        yield "dout", e.douts


def fitted(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """`array` as it may be broadcast to `shape`: as it is, or a vector along any one axis."""
    try:
        np.broadcast_to(array, shape)
        yield array
    except ValueError:
        pass
    if array.ndim == 1:
        for axis in range(len(shape) - 1):
            if shape[axis] == array.size:
                yield array.reshape(-1, *(1,) * (len(shape) - 1 - axis))


def factor_by_feature(e: Evidence) -> Iterator[Cause]:
    """One factor, or a factor and a number to add, for each index along one axis."""
    if not e.same_shape:
        return
    names = axis_names(e.tensor.ndim)
    for axis, name in enumerate(names, 1):
        axes = tuple(a for a in range(e.right.ndim) if a != axis)
        if np.count_nonzero(e.right[e.measured]) < 3 * e.right.shape[axis]:
            continue
        n = np.where(e.measured, e.right, 0.0)
        g = np.where(e.measured, e.given, 0.0)
        count = np.maximum(e.measured.sum(axes, keepdims=True), 1)
        with np.errstate(all="ignore"):
            factor = (g * n).sum(axes, keepdims=True) / (n * n).sum(axes, keepdims=True)
            if e.explains(factor * e.right, factor):
                message = f"the gradient of each {name} is the right one times a factor of its own"
                hint = f"a factor that depends on the {name} only: gamma, 1/std, a weight"
                yield Cause("factor-by-element", f"{message}, here {_some(factor)}", hint)
                return
            n_mean, g_mean = n.sum(axes, keepdims=True) / count, g.sum(axes, keepdims=True) / count
            centred = np.where(e.measured, n - n_mean, 0.0)
            slope = (centred * g).sum(axes, keepdims=True) / (centred * centred).sum(axes, keepdims=True)
            if e.explains(slope * e.right + g_mean - slope * n_mean, 1 + np.abs(slope)):
                message = f"to the gradient of each {name} a number is added that does not depend on dout"
                yield Cause("number-added", message, "is there a + or − where a product belongs?")
                return


def _some(factors: np.ndarray) -> str:
    return ", ".join(number(f) for f in factors.flat[:4]) + (" …" if factors.size > 4 else "")
