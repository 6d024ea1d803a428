"""How parameters get their first values.

An initialiser draws a weight from its shape and its fans, the number of inputs that one output sums over (`fan_in`) and
the number of outputs that one input reaches (`fan_out`): D and F for a linear layer, C·KH·KW and F·KH·KW for a
convolution. Numbers are drawn in float64 and rounded, so a float32 and a float64 network of one seed start alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arguments import LARGEST, array, instance, number, pair, shown, whole
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


class Whitening(Initializer):
    """Filters that whiten the patches of these images: ± eigenvectors / √(eigenvalue + eps), for a first convolution.

    images (N, C, H, W) · kernel_size an int or a pair · the eigenvectors are those of the patches' second moments
    E[p pᵀ], p (C · KH · KW,), of all patches of all images, by falling eigenvalue: for normalized images nearly the
    covariance. For a weight (F, C, KH, KW) with F even and at most 2 · C · KH · KW: the first F / 2, then the same with
    the other sign. So the outputs for patches of such images are uncorrelated, and of variance 1 but for eps.

    The convolution is usually frozen: `conv.weight.requires_grad = False` (Jordan 2024: 94% on CIFAR-10 in 3.29 seconds
    on a single GPU). TypeError and ValueError for other images, and where a weight is drawn whose shape does not fit.

    >>> from fastbp import Conv2d
    >>> images = np.random.default_rng(0).normal(size=(50, 3, 8, 8))
    >>> Conv2d(3, 24, 2, init=Whitening(images, 2)).weight.value.shape
    (24, 3, 2, 2)
    """

    filters: np.ndarray

    def __init__(self, images: np.ndarray, kernel_size: int | tuple[int, int], eps: float = 5e-4):
        images = array("Whitening: images", images, "biuf")
        kernel_size, eps = pair("Whitening: kernel_size", kernel_size), number("Whitening: eps", eps, above=0)
        fits = images.ndim == 4 and all(k <= size for k, size in zip(kernel_size, images.shape[2:], strict=True))
        if not fits or not images.size:
            raise ValueError(f"Whitening: images must be (N, C, H, W), no smaller than the filter, got {images.shape}")
        C, (KH, KW) = images.shape[1], kernel_size
        moments, count = np.zeros((C * KH * KW,) * 2), 0
        for image in images:  # one at a time: all patches are KH · KW times as large as the images
            windows = np.lib.stride_tricks.sliding_window_view(image, kernel_size, (1, 2))  # (C, OH, OW, KH, KW)
            patches = windows.transpose(1, 2, 0, 3, 4).reshape(-1, C * KH * KW).astype(np.float64)
            moments += patches.T @ patches
            count += len(patches)
        if not np.isfinite(moments).all():
            raise ValueError("Whitening: images must be finite")
        eigenvalues, eigenvectors = np.linalg.eigh(moments / count)
        # a sum of squares is never below 0 but for rounding; eigh gives eigenvalues that rise
        filters = (eigenvectors / np.sqrt(eigenvalues.clip(0) + eps))[:, ::-1].T
        object.__setattr__(self, "filters", np.ascontiguousarray(filters).reshape(-1, C, KH, KW))

    def _weight(self, rng, shape, fan_in, fan_out):
        half = shape[0] // 2 if len(shape) == 4 else 0
        if shape[1:] != self.filters.shape[1:] or shape[0] % 2 or not 0 < half <= len(self.filters):
            wanted = (
                f"({2 * len(self.filters)} or fewer, an even number, {', '.join(map(str, self.filters.shape[1:]))})"
            )
            raise ValueError(f"Whitening: expected a weight of shape {wanted}, got {shape}")
        return np.concatenate([self.filters[:half], -self.filters[:half]])

    def __eq__(self, other) -> bool:
        return type(other) is type(self) and np.array_equal(self.filters, other.filters)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Whitening(…, {self.filters.shape[2:]})"


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
