"""A convolution or linear layer and the batch norm after it, which are one layer in evaluation."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..engine.neighbours import merges
from ..kernels import norm
from .base import Layer, Parameter
from .conv import Conv2d
from .linear import Linear
from .norm import BatchNorm, BatchNorm1d, BatchNorm2d

SAMPLES = 32  # whose normalisation takes as long as to make new weights: bench/NOTES.md


@merges(Linear, BatchNorm1d)
@merges(Conv2d, BatchNorm2d)
def folded(layer: Linear | Conv2d, after: BatchNorm, shape: tuple[int, ...], dtype: np.dtype) -> Layer | None:
    """The layer that both are: w' ⋆ x + b' = gamma · (w ⋆ x + b − mean) / √(var + eps) + beta, with

        w'[f] = w[f] · scale[f],   b'[f] = (b[f] − mean[f]) · scale[f] + beta[f],   scale = gamma / √(var + eps)

    None where it has so many weights, beside its outputs, that to normalise these is faster. The new weights are
    computed before each pass: parameters and running statistics, which are the layers' own, may have changed."""
    if layer.weight.size > SAMPLES * math.prod(layer.output_shape(shape)):
        return None
    made = copy.copy(layer)
    weight = Parameter("weight", layer.weight.shape, lambda rng: np.zeros(layer.weight.shape))
    bias = Parameter("bias", after.gamma.shape, lambda rng: np.zeros(after.gamma.shape))
    for parameter in (weight, bias):
        parameter.astype(dtype)
    made.__dict__.update(weight=weight, bias=bias, parameters=[weight, bias])
    made.before_pass = partial(new_weights, layer, after, made)
    return made


def new_weights(layer: Linear | Conv2d, after: BatchNorm, made: Linear | Conv2d) -> Iterator[Callable[[], None]]:
    """The calls that compute w' and b', after those that make the layer's own anew: it may be two layers itself."""
    yield from layer.before_pass()
    w, b = flat_filters(layer.weight), layer.bias and layer.bias.value
    running = after.state["running_mean"], after.state["running_var"]
    affine = after.gamma.value, after.beta.value
    yield partial(norm.fold, w, b, affine, running, after.numbers, flat_filters(made.weight), made.bias.value)


def flat_filters(weight: Parameter) -> np.ndarray:
    """(F, weights of a filter): a view"""
    return weight.value.reshape(len(weight.value), -1)
