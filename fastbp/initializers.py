"""How parameters get their first values.

An initialiser draws a weight from its shape and its fans, the number of inputs that one output sums over (`fan_in`) and
the number of outputs that one input reaches (`fan_out`): D and F for a linear layer, C·KH·KW and F·KH·KW for a
convolution. Numbers are drawn in float64 and rounded, so a float32 and a float64 network of one seed start alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arguments import LARGEST, instance, number, shown, whole
from .arguments import shape as shape_of


@dataclass(frozen=True)
class Initializer:
    """Base class: `weight` is the subclass's formula, biases start at zero unless `bias` says otherwise.

    The package's define `_weight` and `_bias`, after a check of the arguments."""

    def weight(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
        """A float64 array of `shape`."""
        return self._drawn(self._weight, rng, shape, whole("weight: fan_in", fan_in), whole("weight: fan_out", fan_out))

    def bias(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        """A float64 array of `shape`."""
        return self._drawn(self._bias, rng, shape, whole("bias: fan_in", fan_in))

    def _drawn(self, draw: Callable, rng: np.random.Generator, shape: tuple[int, ...], *fans: int) -> np.ndarray:
        """What `draw` gives for arguments that have been checked."""
        sizes = shape_of("shape", shape)
        if 8 * math.prod(sizes) > LARGEST:
            raise ValueError(f"shape {sizes} is larger than any array")
        try:
            return draw(instance("rng", rng, np.random.Generator), sizes, *fans)
        except MemoryError:
            raise MemoryError(f"no memory for float64 numbers of shape {sizes}") from None

    def _weight(self, rng, shape, fan_in, fan_out):
        raise TypeError(f"{type(self).__name__} does not say how to draw a weight")

    def _bias(self, rng, shape, fan_in):
        return np.zeros(shape)


class HeNormal(Initializer):
    """Normal with variance 2 / fan_in, which keeps the variance through ReLU (He et al. 2015)."""

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, math.sqrt(2 / fan_in), shape)


class HeUniform(Initializer):
    """Uniform in ±√(6 / fan_in): the variance of `HeNormal`."""

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) * math.sqrt(6 / fan_in)


class GlorotNormal(Initializer):
    """Normal with variance 2 / (fan_in + fan_out), for tanh and the sigmoid (Glorot and Bengio 2010)."""

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, math.sqrt(2 / (fan_in + fan_out)), shape)


class GlorotUniform(Initializer):
    """Uniform in ±√(6 / (fan_in + fan_out)): the variance of `GlorotNormal`."""

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) * math.sqrt(6 / (fan_in + fan_out))


class PyTorchDefault(Initializer):
    """Weight and bias uniform in ±1 / √fan_in, as PyTorch's Linear and Conv2d start."""

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) / math.sqrt(fan_in)

    def _bias(self, rng, shape, fan_in):
        return rng.uniform(-1.0, 1.0, shape) / math.sqrt(fan_in)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every weight equal to `value`."""

    value: float = 0.0

    def __post_init__(self):
        number("Constant: value", self.value)

    def _weight(self, rng, shape, fan_in, fan_out):
        return np.full(shape, float(self.value))


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self):
        number("Normal: std", self.std, least=0)

    def _weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, float(self.std), shape)


BY_NAME = {
    "he_normal": HeNormal(),
    "he_uniform": HeUniform(),
    "glorot_normal": GlorotNormal(),
    "glorot_uniform": GlorotUniform(),
    "pytorch": PyTorchDefault(),
    "zeros": Constant(0.0),
    "normal": Normal(),
}


def get(init: str | Initializer) -> Initializer:
    """The initialiser of that name, or the initialiser itself.

    >>> get("he_normal")
    HeNormal()
    """
    init = known("init", init)
    return BY_NAME[init] if isinstance(init, str) else init


def known(what: str, init) -> "str | Initializer":
    """`init`, if it is an Initializer or the name of one."""
    if isinstance(init, Initializer) or (isinstance(init, str) and init in BY_NAME):
        return init
    kind = ValueError if isinstance(init, str) else TypeError
    raise kind(f"{what}: unknown initialiser {shown(init)}: expected an Initializer or one of {', '.join(BY_NAME)}")
