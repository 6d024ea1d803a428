"""Networks, data and trainings, drawn; and all that must be the same after something has been survived, as bytes."""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastbp

LARGEST = 20_000  # numbers that a sample may have on its way
INITS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "pytorch")


class Scale(fastbp.Layer):
    """A layer that is not the package's: y = factor · x, with a forward and a backward of its own and state."""

    def __init__(self, factor: float = 2.0):
        super().__init__()
        self.factor = float(factor)
        self.state["passes"] = np.zeros((), np.int64)

    def forward(self, x, training=False, out=None):
        if training:
            self.state["passes"][...] += 1
        return x * x.dtype.type(self.factor)

    def backward(self, dout, need_dx=True, out=None):
        return dout * dout.dtype.type(self.factor)

    def output_shape(self, input_shape):
        return tuple(input_shape)


class Made(NamedTuple):
    """A network, the shape of its samples, a loss for its output, and what draws so many targets."""

    network: fastbp.Sequential
    shape: tuple[int, ...]
    loss: fastbp.Loss
    targets: Callable[[np.random.Generator, int], np.ndarray]

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(size, *self.shape)).astype(self.network.dtype), self.targets(rng, size)


def draw_network(rng: np.random.Generator, own: bool = False) -> Made:
    """Any layers in any order that fits, with a loss for what comes out; `own`: also layers that are not the
    package's."""
    image = rng.random() < 0.65
    start = shape = draw_image(rng) if image else draw_row(rng)
    layers: list[fastbp.Layer] = []
    for _ in range(rng.integers(1, 8)):
        added = draw_layers(rng, shape, own)
        after = shape_after(added, shape)
        if after is not None and math.prod(after) <= LARGEST:
            layers, shape = [*layers, *added], after
    if len(shape) > 1:
        layers.append(fastbp.Flatten())
    head, loss, targets = draw_head(rng, math.prod(shape))
    dtype = np.float64 if rng.random() < 0.3 else np.float32
    settings = {"dtype": dtype, "seed": int(rng.integers(0, 2**32)), "winograd": 2 if rng.random() < 0.3 else 4}
    return Made(fastbp.Sequential(*layers, *head, **settings), start, loss, targets)


def branched(layers: list[fastbp.Layer], shape: tuple[int, ...]) -> fastbp.Layer:
    """A container of these layers: beside the input where that fits, otherwise in a row."""
    after = shape_after(layers, shape)
    if after == shape:
        return fastbp.Residual(*layers)
    if after is not None and after[1:] == shape[1:]:
        return fastbp.Concat(fastbp.Sequential(*layers), fastbp.Identity())
    return fastbp.Sequential(*layers)


def draw_image(rng) -> tuple[int, ...]:
    if rng.random() < 0.15:  # maps that push each other out of the first cache
        return (int(rng.choice([3, 8, 17])), *((16, 32), (32, 16), (32, 32))[rng.integers(3)])
    size = lambda: int(rng.integers(1, 9) if rng.random() < 0.5 else rng.integers(8, 25))  # noqa: E731
    return (int(rng.integers(1, 5)), size(), size())


def draw_row(rng) -> tuple[int, ...]:
    return (int(rng.integers(1, 40)),) if rng.random() < 0.8 else (int(rng.integers(1, 6)), int(rng.integers(1, 9)))


def draw_layers(rng, shape: tuple[int, ...], own: bool) -> list[fastbp.Layer]:
    """One layer, or some that training computes together, for inputs of this shape or for others."""
    kinds = ["act", "act", "dropout", "norm", "identity", "branch", "branch"] + (["own"] if own else [])
    kinds += ["conv", "conv", "conv", "pool", "sandwich"] if len(shape) == 3 else ["linear", "linear", "rows"]
    kind = kinds[rng.integers(len(kinds))]
    if kind == "sandwich":
        first = draw_convolution(rng, shape[0]) if rng.random() < 0.6 else fastbp.BatchNorm2d(shape[0])
        return [first, fastbp.ReLU(), fastbp.MaxPool2d(2)]
    if kind == "branch":
        return [branched(draw_layers(rng, shape, own), shape)]
    if kind == "act":
        leaky = lambda: fastbp.LeakyReLU(float(rng.uniform(0, 1)))  # noqa: E731
        makers = (fastbp.ReLU, fastbp.ReLU, fastbp.Sigmoid, fastbp.Tanh, leaky, fastbp.GELU, fastbp.SiLU)
        return [makers[rng.integers(len(makers))]()]
    if kind == "norm":
        make = fastbp.BatchNorm2d if len(shape) == 3 else fastbp.BatchNorm1d
        return [make(shape[0], eps=float(rng.choice([1e-5, 1e-3])), momentum=float(rng.choice([0.1, 0.0, 1.0])))]
    if kind == "pool":
        window = draw_pair(rng, 1, 4)
        stride = None if rng.random() < 0.5 else draw_pair(rng, 1, 3)
        padding = tuple(int(rng.integers(0, size)) for size in window)
        return [(fastbp.MaxPool2d if rng.random() < 0.6 else fastbp.AvgPool2d)(window, stride, padding)]
    if kind == "linear":
        flat = [] if len(shape) == 1 else [fastbp.Flatten()]
        features = int(rng.integers(1, 50) if rng.random() < 0.85 else rng.integers(200, 400))  # the second: in pieces
        init = INITS[rng.integers(len(INITS))]
        return [*flat, fastbp.Linear(math.prod(shape), features, bias=rng.random() < 0.8, init=init)]
    if kind == "conv":
        return [draw_convolution(rng, shape[0])]
    makers = {"dropout": lambda: fastbp.Dropout(float(rng.choice([0.0, 0.2, 0.5, 0.9]))), "identity": fastbp.Identity}
    makers["rows"] = fastbp.Softmax if rng.random() < 0.5 else fastbp.LogSoftmax
    makers["own"] = lambda: Scale(float(rng.uniform(0.5, 2)))
    return [makers[kind]()]


def draw_convolution(rng, channels: int) -> fastbp.Conv2d:
    """Small ones of any geometry, 3×3 ones with channels enough for Winograd's tiles, and wide ones whose filters fill
    vectors."""
    if rng.random() < 0.1:
        filters, size = int(rng.choice([16, 32])), int(rng.integers(5, 8))
        return fastbp.Conv2d(channels, filters, size, padding=int(rng.integers(0, 3)))
    if rng.random() < 0.3:
        filters, padding = int(rng.integers(8, 21)), int(rng.integers(0, 3))
        return fastbp.Conv2d(channels, filters, 3, padding=padding, bias=rng.random() < 0.8)
    padding = rng.integers(5)
    paddings = (0, int(rng.integers(0, 3)), draw_pair(rng, 0, 3), "same", "full")
    stride = 1 if rng.random() < 0.6 else draw_pair(rng, 1, 3)
    kernel, filters = draw_pair(rng, 1, 6), int(rng.integers(1, 9))
    return fastbp.Conv2d(channels, filters, kernel, stride, paddings[padding], bias=rng.random() < 0.8)


def draw_pair(rng, least: int, below: int) -> tuple[int, int]:
    return int(rng.integers(least, below)), int(rng.integers(least, below))


def shape_after(layers: list[fastbp.Layer], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """None where they don't fit."""
    try:
        for layer in layers:
            shape = layer.output_shape(shape)
        return shape
    except ValueError:
        return None


def draw_head(rng, features: int) -> tuple[list[fastbp.Layer], fastbp.Loss, Callable]:
    """The last layers, a loss, and its targets."""
    classes = int(rng.integers(2, 12))
    labels = lambda rng, n: rng.integers(0, classes, n)  # noqa: E731
    kind = rng.integers(5)
    if kind == 0:
        smoothing = float(rng.choice([0.0, 0.1]))
        return [fastbp.Linear(features, classes)], fastbp.SoftmaxCrossEntropy(label_smoothing=smoothing), labels
    if kind == 1:
        return [fastbp.Linear(features, classes), fastbp.LogSoftmax()], fastbp.NLLLoss(), labels
    if kind == 2:
        return [fastbp.Linear(features, classes)], fastbp.MulticlassHinge(), labels
    if kind == 3:
        loss = fastbp.LogisticLoss() if rng.random() < 0.5 else fastbp.HingeLoss()
        return [fastbp.Linear(features, 1)], loss, lambda rng, n: rng.integers(0, 2, n)
    return [fastbp.Linear(features, classes)], fastbp.MeanSquaredError(), lambda rng, n: rng.normal(size=(n, classes))


def draw_optimizer(rng) -> fastbp.Optimizer:
    decay = float(rng.choice([0.0, 1e-3]))
    makers = (
        lambda: fastbp.SGD(lr=0.01, weight_decay=decay),
        lambda: fastbp.SGD(lr=0.01, momentum=0.9, nesterov=rng.random() < 0.5, weight_decay=decay),
        lambda: fastbp.Adam(lr=0.003, weight_decay=decay),
        lambda: fastbp.AdamW(lr=0.003, weight_decay=decay),
        lambda: fastbp.RMSProp(lr=0.003, weight_decay=decay),
        lambda: fastbp.Adagrad(lr=0.01, weight_decay=decay),
    )
    return makers[rng.integers(len(makers))]()


# -- as bytes ----------------------------------------------------------------------------------------------------------


def digest(*things) -> str:
    """A name for arrays (their dtypes, shapes and bits), and for what else JSON can hold, in dictionaries and lists or
    not."""
    hashed = hashlib.sha256()
    for thing in things:
        if isinstance(thing, dict):
            thing = [item for name in sorted(thing) for item in (name, thing[name])]
        if isinstance(thing, (list, tuple)):
            hashed.update(digest(*thing).encode())
        elif isinstance(thing, (np.ndarray, np.generic)):
            hashed.update(f"{thing.dtype} {np.shape(thing)} ".encode() + np.asarray(thing).tobytes())
        else:
            hashed.update(repr(thing).encode())
        hashed.update(b"\0")
    return hashed.hexdigest()


def of_network(network: fastbp.Sequential) -> str:
    """All that a file of the network must bring back."""
    return digest(repr(network), network.state_dict(), network.metadata, str(network.dtype))


def of_training(network, optimizer, history) -> str:
    """All that must be the same at a training's end."""
    figures = {name: list(values) if isinstance(values, list) else values for name, values in vars(history).items()}
    figures.pop("seconds")
    return digest(of_network(network), optimizer.state, optimizer.steps, optimizer.lr, figures)


def of_archive(path: Path) -> dict[str, str]:
    """A digest of each array of a .npz file, every one of whose checksums is right. ValueError for one that is not
    whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError(f"{archive.testzip()} is damaged")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: digest(arrays[name]) for name in arrays.files}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path.name} is not whole: {error}") from None


def of_history(path: Path) -> dict:
    """A history.json without the seconds. ValueError for one that is not whole."""
    content = json.loads(path.read_text())
    content.pop("seconds")
    return content
