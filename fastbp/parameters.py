"""Arrays that belong to layers and optimisers: learned ones with their gradients, and state."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from .arguments import LARGEST, array, converted, flag, function, owned, shown, text
from .arguments import shape as shape_of
from .dtypes import float_dtype


class Parameter:
    """A learned array and its gradient: `value`, `grad` (both `shape`, one dtype) and `name`.

    The values are drawn when they are first needed: with its network's seed where the layer has been put
    into a network, with seed 0 where it stands alone. Assigning to `value` or `grad` copies into the
    existing array, so a network's flat vectors stay in step.

    A network that is trained fills its gradients from the first time that one is asked for: see Sequential.

    `requires_grad`, True at first, as in PyTorch: set to False it freezes the parameter. Its gradient is not computed
    and stays 0, and training leaves its values as they are, weight decay and momentum included. It may be set at any
    time; files keep it.
    """

    _fresh = False  # drawn by a network, and nobody has had the values since: another network may draw them anew
    _requires_grad = True

    def __init__(self, name: str, shape: tuple[int, ...], draw: Callable[[np.random.Generator], np.ndarray]):
        self.name, self.shape, self.dtype = (
            text("Parameter: name", name),
            shape_of(f"{name}: shape", shape),
            np.dtype(np.float32),
        )
        if 8 * self.size > LARGEST:
            raise ValueError(f"{name}: shape {self.shape} is larger than any array")
        function(f"{name}: draw", draw, "a function of a np.random.Generator")
        self._draw, self._value, self._grad, self._gradients = draw, None, None, None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def value(self) -> np.ndarray:
        if self._value is None:
            try:
                values, grads = np.empty(self.size, self.dtype), np.zeros(self.size, self.dtype)
            except MemoryError:
                raise MemoryError(
                    f"{self.name}: no memory for two arrays of shape {self.shape}, {self.dtype}"
                ) from None
            self.place(values, grads, np.random.default_rng(0))
        self._fresh = False
        return self._value

    @value.setter
    def value(self, array) -> None:
        self.value[...] = self._checked("value", array)

    @property
    def grad(self) -> np.ndarray:
        if self._gradients is not None:
            self._gradients.ask()
        return self.grad_array

    @property
    def grad_array(self) -> np.ndarray:
        """`grad` for kernels that write it: nobody has asked for what is in it."""
        if self._value is None:
            self.value  # noqa: B018 -- draws the values and makes both arrays
        return self._grad

    @grad.setter
    def grad(self, array) -> None:
        self.grad[...] = self._checked("grad", array)

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        value = flag(f"{self.name}: requires_grad", value)
        if value is self._requires_grad:
            return
        self._complete()
        self._requires_grad = value
        if not value and self._grad is not None:
            self._grad[...] = 0
        if self._gradients is not None:
            self._gradients.changed()

    def _checked(self, what: str, array) -> np.ndarray:
        """`array`, if it can be this parameter's `what`."""
        array = converted(f"{self.name}: {what}", array, self.dtype)
        if array.shape != self.shape:
            raise ValueError(f"{self.name}: expected an array of shape {self.shape}, got {array.shape} for its {what}")
        return array

    def place(self, values: np.ndarray, grads: np.ndarray, rng: np.random.Generator, gradients=None) -> None:
        """Move to the flat arrays `values` and `grads` (both (size,)), drawing with `rng` what has no values yet.

        `gradients` is the network's Gradients that `grads` is a part of."""
        self._complete()
        self._fresh = self._fresh or self._value is None
        values[:] = np.ravel(self._checked("first value", self._draw(rng)) if self._value is None else self._value)
        grads[:] = 0 if self._grad is None else self._grad.ravel()
        self.dtype = values.dtype
        self._value, self._grad, self._gradients = values.reshape(self.shape), grads.reshape(self.shape), gradients

    def forget_draw(self) -> None:
        """Values that a network has drawn and that nobody has had are drawn anew by the network that takes this one
        in."""
        if self._fresh and self._draw is not None:
            self._value = self._grad = self._gradients = None

    def keep_draw(self) -> None:
        """From now on the values are somebody's."""
        self._fresh = False

    def _complete(self) -> None:
        if self._gradients is not None:
            self._gradients.complete()

    def astype(self, dtype) -> None:
        """Change the dtype; values that are not drawn yet stay so."""
        self.dtype = dtype = float_dtype(dtype)
        if self._value is not None:
            with np.errstate(over="ignore"):  # what float32 has not becomes infinite
                self._value, self._grad = self._value.astype(dtype), self._grad.astype(dtype)

    def __getstate__(self) -> dict:
        """For copies and pickles: with values drawn, without the function that draws them."""
        if self._value is None:
            self.value  # noqa: B018 -- draws them
        self._complete()
        return {**self.__dict__, "_draw": None, "_gradients": None, "_fresh": False}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype})"


def any_trained(parameters: Iterable[Parameter]) -> bool:
    """Is there one among them that is not frozen?"""
    return any(parameter.requires_grad for parameter in parameters)


class HasParameters:
    """What layers and networks have in common: `parameters`, which can be frozen together."""

    parameters: list[Parameter]

    def requires_grad_(self, value: bool = True):
        """Set `requires_grad` of all parameters, also of layers inside, and return the layer: False freezes it.

        >>> import fastbp
        >>> fastbp.Linear(4, 3).requires_grad_(False).weight.requires_grad
        False
        """
        value = flag(f"{type(self).__name__}.requires_grad_: value", value)
        for parameter in self.parameters:
            parameter.requires_grad = value
        return self


class State(dict):
    """Arrays by name. Assigning to a name, or updating, copies into its array, so whatever holds the array stays in
    step.

    What can't be such an array is a TypeError or a ValueError, and nothing has changed."""

    def __init__(self, *arrays, **named):
        self.update(*arrays, **named)

    def __setitem__(self, name: str, value) -> None:
        self.update({name: value})

    def update(self, *arrays, **named) -> None:
        try:
            given = dict(*arrays, **named)
        except Exception:
            raise TypeError(f"state must be a dict of arrays by name, got {', '.join(map(shown, arrays))}") from None
        for name, value in [(name, self._checked(name, value)) for name, value in given.items()]:
            if name in self:
                self[name][...] = value
            else:
                super().__setitem__(name, value)

    def _checked(self, name: str, value) -> np.ndarray:
        what, held = f"state: {text('state: a name', name)}", self.get(name)
        if held is None:
            return np.require(array(what, value), requirements="CAW")
        value = converted(what, value, held.dtype)
        try:
            return np.broadcast_to(value, held.shape)
        except ValueError:
            raise ValueError(f"{what} must be an array of shape {held.shape}, got {value.shape}") from None

    def __ior__(self, arrays) -> "State":
        self.update(arrays)
        return self
