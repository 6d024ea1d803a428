"""Every layer with drawn arguments and input, and the oracle's definition of its output."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import naive
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import fastbp
from fastbp.layers import Layer


@dataclass
class Case:
    """A layer, float64, and an input for it; `shape` is the input's without the batch."""

    layer: Layer
    x: np.ndarray

    def __repr__(self):  # what hypothesis prints for a failing example
        return f"{self.layer!r} at x of shape {self.x.shape}:\n{self.x!r}"


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of order 1, no two within 1/(4·size) of each other or 0, in random order: away from kinks and ties."""
    size = math.prod(shape)
    steps = np.arange(size) - size / 2 + rng.uniform(0.25, 0.75, size)
    return rng.permutation(steps * (4 / max(size, 4))).reshape(shape)


def dims(least: int = 1, most: int = 4):
    return st.integers(least, most)


SAMPLES = dims()


@st.composite
def linear(draw):
    D, F = draw(dims()), draw(dims())
    return fastbp.Linear(D, F, bias=draw(st.booleans())), (D,)


def anywhere(make: Callable[..., Layer], *arguments):
    """A layer for inputs of any shape."""

    @st.composite
    def case(draw):
        return make(*(draw(a) for a in arguments)), tuple(draw(st.lists(dims(), min_size=0, max_size=3)))

    return case()


@st.composite
def rowwise(draw, make):
    return make(), (draw(dims(1, 6)),)


@st.composite
def batch_norm_1d(draw):
    C = draw(dims())
    layer = fastbp.BatchNorm1d(
        C, eps=draw(st.sampled_from([1e-5, 1e-2])), momentum=draw(st.sampled_from([0.1, 0.0, 1.0]))
    )
    return layer, draw(st.sampled_from([(C,), (C, draw(dims()))]))


@st.composite
def batch_norm_2d(draw):
    C = draw(dims())
    return fastbp.BatchNorm2d(C), (C, draw(dims()), draw(dims()))


pairs = st.one_of(dims(1, 3), st.tuples(dims(1, 3), dims(1, 3)))


@st.composite
def conv2d(draw):
    C, F = draw(dims(1, 3)), draw(dims(1, 3))
    padding = draw(st.one_of(dims(0, 2), st.tuples(dims(0, 3), dims(0, 3)), st.sampled_from(["valid", "same", "full"])))
    layer = fastbp.Conv2d(C, F, draw(pairs), stride=draw(pairs), padding=padding, bias=draw(st.booleans()))
    shape = (C, draw(dims(1, 6)), draw(dims(1, 6)))
    return layer, fitting(layer, shape)


@st.composite
def conv2d_large(draw):
    """Maps large enough for the kernels that shift rows: few channels, since the oracle is slow."""
    C, F = draw(dims(1, 2)), draw(dims(1, 2))
    padding = draw(st.one_of(st.tuples(dims(0, 2), dims(0, 2)), st.sampled_from(["same", "full"])))
    layer = fastbp.Conv2d(C, F, draw(pairs), padding=padding, bias=draw(st.booleans()))
    return layer, fitting(layer, (C, draw(dims(10, 12)), draw(dims(10, 13))))


@st.composite
def conv2d_winograd(draw):
    """3×3 filters on small maps with channels enough for Winograd's kernels."""
    padding = draw(st.tuples(dims(0, 2), dims(0, 2)))
    layer = fastbp.Conv2d(draw(dims(8, 9)), draw(dims(16, 17)), 3, padding=padding, bias=draw(st.booleans()))
    layer.winograd_tile = draw(st.sampled_from([2, 4]))
    return layer, fitting(layer, (layer.in_channels, draw(dims(1, 5)), draw(dims(1, 5))))


@st.composite
def pool(draw, make):
    window = draw(pairs)
    KH, KW = window if isinstance(window, tuple) else (window, window)
    padding = draw(st.tuples(dims(0, KH - 1), dims(0, KW - 1)))
    layer = make(window, stride=draw(st.one_of(st.none(), pairs)), padding=padding)
    return layer, fitting(layer, (draw(dims(1, 3)), draw(dims(1, 7)), draw(dims(1, 7))))


def fitting(layer, shape):
    try:
        layer.output_shape(shape)
    except ValueError:
        assume(False)
    return shape


FAMILIES = {
    "Linear": linear(),
    "ReLU": anywhere(fastbp.ReLU),
    "LeakyReLU": anywhere(fastbp.LeakyReLU, st.sampled_from([0.01, 0.3, 1.5])),
    "Sigmoid": anywhere(fastbp.Sigmoid),
    "Tanh": anywhere(fastbp.Tanh),
    "GELU": anywhere(fastbp.GELU, st.sampled_from(["none", "tanh"])),
    "SiLU": anywhere(fastbp.SiLU),
    "Scale": anywhere(fastbp.Scale, st.sampled_from([0.3, -2.0]), st.booleans()),
    "Softmax": rowwise(fastbp.Softmax),
    "LogSoftmax": rowwise(fastbp.LogSoftmax),
    "Dropout": anywhere(fastbp.Dropout, st.sampled_from([0.0, 0.2, 0.7])),
    "BatchNorm1d": batch_norm_1d(),
    "BatchNorm2d": batch_norm_2d(),
    "Conv2d": st.one_of(conv2d(), conv2d_large(), conv2d_winograd()),
    "MaxPool2d": pool(fastbp.MaxPool2d),
    "AvgPool2d": pool(fastbp.AvgPool2d),
    "Flatten": anywhere(fastbp.Flatten),
    "Identity": anywhere(fastbp.Identity),
}


@st.composite
def cases(draw, family: str, batch=SAMPLES):
    """A Case of the family, with parameters and running statistics that are none of 0 and 1."""
    layer, shape = draw(FAMILIES[family])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layer.astype(np.float64)
    for parameter in layer.parameters:
        parameter.value = values(rng, parameter.shape)
    for name in ("running_mean", "running_var"):
        if name in layer.state:
            layer.state[name][:] = rng.uniform(0.5, 2.0, layer.state[name].shape)
    return Case(layer, values(rng, (draw(batch), *shape)))


def oracle(layer: Layer, x: np.ndarray, training: bool, y: np.ndarray) -> np.ndarray:
    """What tests/naive.py says the layer's output is; y, the layer's own, only tells which elements dropout kept."""
    name = type(layer).__name__
    if name == "Linear":
        return naive.linear(x, layer.weight.value, layer.bias.value if layer.bias else None)
    if name == "LeakyReLU":
        return naive.leaky_relu(x, layer.negative_slope)
    if name == "Scale":
        return naive.scale(x, float(layer.weight.value[0]) if layer.learned else layer.factor)
    if name == "GELU":
        return naive.gelu(x, layer.approximate)
    if name in ("ReLU", "Sigmoid", "Tanh", "SiLU", "Softmax", "LogSoftmax"):
        return getattr(naive, {"LogSoftmax": "log_softmax"}.get(name, name.lower()))(x)
    if name == "Dropout":
        return naive.dropout(x, y != 0, layer.rate) if training else x
    if name.startswith("BatchNorm"):
        gamma, beta = layer.gamma.value, layer.beta.value
        if training:
            return naive.batch_norm_training(x, gamma, beta, layer.eps)[0]
        return naive.batch_norm_evaluation(
            x, gamma, beta, layer.state["running_mean"], layer.state["running_var"], layer.eps
        )
    if name == "Conv2d":
        padding = [layer.padding] * 2 if isinstance(layer.padding, str) else layer.padding
        axes = zip(x.shape[2:], layer.kernel_size, layer.stride, padding, strict=True)
        around = tuple(naive.conv2d_padding(*axis) for axis in axes)
        return naive.conv2d(x, layer.weight.value, layer.bias.value if layer.bias else None, layer.stride, around)
    if name.endswith("Pool2d"):
        around = tuple((p, p) for p in layer.padding)
        if name == "MaxPool2d":
            return naive.max_pool2d(x, layer.kernel_size, layer.stride, around)[0]
        return naive.avg_pool2d(x, layer.kernel_size, layer.stride, around)
    if name == "Flatten":
        return np.array([list(sample.ravel()) for sample in x]).reshape(len(x), -1)
    assert name == "Identity"
    return x
