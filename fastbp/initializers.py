"""How parameters get their first values.

An initialiser draws a weight from its shape and its fans, the number of inputs that one output sums over (`fan_in`) and
the number of outputs that one input reaches (`fan_out`): D and F for a linear layer, C·KH·KW and F·KH·KW for a
convolution. Numbers are drawn in float64 and rounded, so a float32 and a float64 network of one seed start alike.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Initializer:
    """Base class: `weight` is the subclass's formula, biases start at zero unless `bias` says otherwise."""

    def weight(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
        """A float64 array of `shape`."""
        raise TypeError(f"{type(self).__name__} does not say how to draw a weight")

    def bias(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        """A float64 array of `shape`."""
        return np.zeros(shape)


class HeNormal(Initializer):
    """Normal with variance 2 / fan_in, which keeps the variance through ReLU (He et al. 2015)."""

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, math.sqrt(2 / fan_in), shape)


class HeUniform(Initializer):
    """Uniform in ±√(6 / fan_in): the variance of `HeNormal`."""

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) * math.sqrt(6 / fan_in)


class GlorotNormal(Initializer):
    """Normal with variance 2 / (fan_in + fan_out), for tanh and the sigmoid (Glorot and Bengio 2010)."""

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, math.sqrt(2 / (fan_in + fan_out)), shape)


class GlorotUniform(Initializer):
    """Uniform in ±√(6 / (fan_in + fan_out)): the variance of `GlorotNormal`."""

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) * math.sqrt(6 / (fan_in + fan_out))


class PyTorchDefault(Initializer):
    """Weight and bias uniform in ±1 / √fan_in, as PyTorch's Linear and Conv2d start."""

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.uniform(-1.0, 1.0, shape) / math.sqrt(fan_in)

    def bias(self, rng, shape, fan_in):
        return rng.uniform(-1.0, 1.0, shape) / math.sqrt(fan_in)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every weight equal to `value`."""

    value: float = 0.0

    def weight(self, rng, shape, fan_in, fan_out):
        return np.full(shape, float(self.value))


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self):
        if not (self.std >= 0 and math.isfinite(self.std)):
            raise ValueError(f"Normal: std must be 0 or above, got {self.std}")

    def weight(self, rng, shape, fan_in, fan_out):
        return rng.normal(0.0, self.std, shape)


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
    if isinstance(init, Initializer):
        return init
    if isinstance(init, str) and init in BY_NAME:
        return BY_NAME[init]
    raise ValueError(f"unknown initialiser {init!r}: expected an Initializer or one of {', '.join(BY_NAME)}")
