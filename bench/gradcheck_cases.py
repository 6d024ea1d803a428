"""What the two proofs of the gradient checker check: fastbp's layers, losses and a network, and the NumPy twins, at
drawn inputs.

`check` is the only place that knows how the checker is called.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import fastbp

TWINS = Path(__file__).parent.parent / "tests" / "twins"
# of tame cases: no two axes alike, or a gradient summed over the wrong one might have the right shape
EXTENTS = (2, 3, 4, 5)


class Draw:
    """Sizes and values of one case.

    Tame: sizes of 2 to 5, as different as can be; values of order 1, no two nearer than 1/(4·size), none near 0.
    Wild: sizes from 0 or 1; values of scales 1e-3 … 1e3, zeros, ties, repeated values, values on and beside whole
    numbers, which are kinks of the hinges, and columns that are constant or nearly so.
    """

    def __init__(self, rng: np.random.Generator, wild: bool):
        self.rng, self.wild = rng, wild
        self._unused: list[int] = []

    def size(self, least: int = 0, most: int = 4) -> int:
        if self.wild:
            return int(self.rng.choice([n for n in (0, 1, 1, 2, 2, 3, 3, 4) if least <= n <= most]))
        fitting = [n for n in EXTENTS if least <= n <= most]
        if not any(n in self._unused for n in fitting):
            self._unused += fitting
        chosen = int(self.rng.choice([n for n in self._unused if n in fitting]))
        self._unused.remove(chosen)
        return chosen

    def shape(self, axes: int) -> tuple[int, ...]:
        return tuple(self.size(1) for _ in range(axes))

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def values(self, *shape: int) -> np.ndarray:
        if not self.wild:
            return self._spread(shape)
        kind = self.one_of("normal", "spread", "whole", "beside", "constant", "mixed")
        scale = 10 ** self.rng.uniform(-3, 3)
        if kind == "normal":
            return self.rng.normal(size=shape) * scale
        if kind == "spread":
            return self._spread(shape) * scale
        if kind == "mixed":
            return self.rng.normal(size=shape) * 10 ** self.rng.uniform(-3, 3, shape) * (self.rng.random(shape) < 0.8)
        whole = self.rng.integers(-2, 3, shape).astype(float)
        if kind == "beside":
            return whole + self.rng.choice([-1, 0, 1], shape) * 10 ** self.rng.uniform(-12, -2, shape)
        if kind == "constant":
            columns = np.repeat(self.rng.normal(size=(1, *shape[1:])) * scale, shape[0], axis=0)
            return columns + self.rng.normal(size=shape) * self.one_of(0, 10 ** self.rng.uniform(-12, -2))
        return whole

    def positive(self, *shape: int) -> np.ndarray:
        """Variances."""
        if self.wild:
            return self.rng.uniform(0, 2, shape) * 10 ** self.rng.uniform(-3, 3) * (self.rng.random(shape) < 0.9)
        return self.rng.uniform(0.5, 2, shape)

    def _spread(self, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        steps = np.arange(size) - size / 2 + self.rng.uniform(0.25, 0.75, size)
        return self.rng.permutation(steps * (4 / max(size, 4))).reshape(shape)


# -- the twins' arguments: (floating-point ones, others) by name -------------------------------------------------------

Arguments = tuple[dict[str, np.ndarray], dict[str, object]]


def affine_arguments(draw: Draw) -> Arguments:
    N, shape, M = draw.size(), draw.shape(draw.one_of(1, 2)), draw.size()
    return {"x": draw.values(N, *shape), "w": draw.values(math.prod(shape), M), "b": draw.values(M)}, {}


def any_arguments(draw: Draw) -> Arguments:
    return {"x": draw.values(draw.size(), *draw.shape(draw.one_of(0, 1, 2)))}, {}


def dropout_arguments(draw: Draw) -> Arguments:
    param = {"mode": draw.one_of("train", "test"), "p": draw.one_of(0.3, 0.8), "seed": int(draw.rng.integers(1 << 30))}
    return any_arguments(draw)[0], {"dropout_param": param}


def batchnorm_arguments(draw: Draw, pixels: bool = False) -> Arguments:
    N, C = draw.size(1), draw.size(1)
    shape = (N, C, draw.size(1, 3), draw.size(1, 3)) if pixels else (N, C)
    param = {"mode": draw.one_of("train", "test"), "eps": draw.one_of(1e-5, 1e-2, 0.5)}
    param |= {"running_mean": draw.values(C), "running_var": draw.positive(C)}
    return {"x": draw.values(*shape), "gamma": draw.values(C), "beta": draw.values(C)}, {"bn_param": param}


def spatial_arguments(draw: Draw) -> Arguments:
    return batchnorm_arguments(draw, pixels=True)


def layernorm_arguments(draw: Draw) -> Arguments:
    N, D = draw.size(), draw.size(1)
    tensors = {"x": draw.values(N, D), "gamma": draw.values(D), "beta": draw.values(D)}
    return tensors, {"ln_param": {"eps": draw.one_of(1e-5, 1e-2, 0.5)}}


def valid_conv_arguments(draw: Draw) -> Arguments:
    N, C, F = draw.size(most=3), draw.one_of(1, draw.size(1, 3)), draw.size(1, 4)
    HH, WW = draw.size(1, 3), draw.size(1, 3)
    H, W = HH + draw.rng.integers(0, 3), WW + draw.rng.integers(0, 3)
    return {"x": draw.values(N, C, H, W), "w": draw.values(F, C, HH, WW)}, {}


def conv_arguments(draw: Draw) -> Arguments:
    tensors, _ = valid_conv_arguments(draw)
    param = {"stride": draw.one_of(1, 2, 3), "pad": draw.one_of(0, 1, 2)}
    return tensors | {"b": draw.values(len(tensors["w"]))}, {"conv_param": param}


def pool_arguments(draw: Draw) -> Arguments:
    PH, PW = draw.size(1, 3), draw.size(1, 3)
    H, W = PH + draw.rng.integers(0, 4), PW + draw.rng.integers(0, 4)
    param = {"pool_height": PH, "pool_width": PW, "stride": draw.one_of(1, 2, 3)}
    return {"x": draw.values(draw.size(most=3), draw.size(1, 3), H, W)}, {"pool_param": param}


def binary_arguments(draw: Draw) -> Arguments:
    N = draw.size(1)
    y = draw.rng.integers(0, 2, N)
    x = draw.values(N, *draw.one_of((), (1,))) * draw.one_of(1, 30)
    return {"x": x}, {"y": draw.one_of(y, 2 * y - 1)}


def class_arguments(draw: Draw) -> Arguments:
    N, C = draw.size(1), draw.size(1)
    return {"x": draw.values(N, C) * draw.one_of(1, 30)}, {"y": draw.rng.integers(0, C, N)}


@dataclass(frozen=True)
class Twin:
    """A function pair of tests/twins, or a loss, which is one function."""

    file: str
    forward: str
    backward: str | None  # None for a loss
    arguments: Callable[[Draw], Arguments]

    @property
    def name(self) -> str:
        """The function whose gradient is checked."""
        return f"{self.file.split('_')[0]} {self.backward or self.forward}"

    @property
    def source(self) -> str:
        return (TWINS / f"{self.file}.py").read_text()

    def draw(self, draw: Draw, namespace: dict | None = None) -> "Case":
        """A case of the functions in `namespace`, or in the file."""
        namespace = namespace or vars(_module(self.file))
        functions = namespace[self.forward], namespace[self.backward] if self.backward else None
        return Case(functions, *self.arguments(draw))


_loaded = {}


def _module(file: str):
    if file not in _loaded:
        spec = importlib.util.spec_from_file_location(file, TWINS / f"{file}.py")
        _loaded[file] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_loaded[file])
    return _loaded[file]


def _pairs(file: str, **arguments: Callable[[Draw], Arguments]) -> list[Twin]:
    twins = []
    for name, draw in arguments.items():
        backward = None if name.endswith("loss") else name.replace("forward", "backward")
        twins.append(Twin(file, name, backward, draw))
    return twins


ALL_TWINS = [
    *_pairs(
        "eecs598_hw1",
        fc_forward=affine_arguments,
        relu_forward=any_arguments,
        batchnorm_forward=batchnorm_arguments,
        dropout_forward=dropout_arguments,
        conv_forward=valid_conv_arguments,
        conv_forward_flipped=valid_conv_arguments,
        max_pool_forward=pool_arguments,
        svm_loss=binary_arguments,
        logistic_loss=binary_arguments,
        softmax_loss=class_arguments,
    ),
    *_pairs(
        "cs231n_a2",
        affine_forward=affine_arguments,
        relu_forward=any_arguments,
        svm_loss=class_arguments,
        softmax_loss=class_arguments,
        batchnorm_forward=batchnorm_arguments,
        layernorm_forward=layernorm_arguments,
        spatial_batchnorm_forward=spatial_arguments,
        dropout_forward=dropout_arguments,
        conv_forward_naive=conv_arguments,
        max_pool_forward_naive=pool_arguments,
    ),
    Twin("cs231n_a2", "batchnorm_forward", "batchnorm_backward_alt", batchnorm_arguments),
]


# -- fastbp's layers and losses ----------------------------------------------------------------------------------------


def anywhere(make: Callable[[Draw], fastbp.layers.Layer]):
    """A layer for inputs of any shape."""
    return lambda draw: (make(draw), (draw.size(), *draw.shape(draw.one_of(0, 1, 2))))


def rowwise(make):
    return lambda draw: (make(), (draw.size(), draw.size(1)))


def linear(draw):
    D, F = draw.size(1), draw.size(1)
    return fastbp.Linear(D, F, bias=draw.one_of(True, False)), (draw.size(), D)


def batch_norm_1d(draw):
    C = draw.size(1)
    layer = fastbp.BatchNorm1d(C, eps=draw.one_of(1e-5, 1e-2), momentum=draw.one_of(0.1, 0.0, 1.0))
    return layer, draw.one_of((draw.size(1), C), (draw.size(1), C, draw.size(1)))


def batch_norm_2d(draw):
    C = draw.size(1)
    return fastbp.BatchNorm2d(C), (draw.size(1), C, draw.size(1, 3), draw.size(1, 3))


def conv2d(draw):
    C, F, window = draw.size(1, 3), draw.size(1, 3), (draw.size(1, 3), draw.size(1, 3))
    padding = draw.one_of("valid", "same", "full", 0, 1, (draw.size(0, 2), draw.size(0, 2)))
    stride, bias = draw.one_of(1, 1, 2, (1, 2), (3, 1)), draw.one_of(True, False)
    layer = fastbp.Conv2d(C, F, window, stride=stride, padding=padding, bias=bias)
    return layer, (draw.size(most=2), C, window[0] + draw.size(0, 2), window[1] + draw.size(0, 2))


def pool(make):
    def drawn(draw):
        KH, KW = draw.size(1, 3), draw.size(1, 3)
        stride = draw.one_of(None, 1, 2, (1, 3))
        layer = make((KH, KW), stride=stride, padding=(draw.one_of(0, KH // 2), draw.one_of(0, KW // 2)))
        return layer, (draw.size(most=2), draw.size(1, 2), KH + draw.size(0, 3), KW + draw.size(0, 3))

    return drawn


LAYERS = {
    "Linear": linear,
    "ReLU": anywhere(lambda draw: fastbp.ReLU()),
    "LeakyReLU": anywhere(lambda draw: fastbp.LeakyReLU(draw.one_of(0.01, 0.3, 1.5, -0.2))),
    "Sigmoid": anywhere(lambda draw: fastbp.Sigmoid()),
    "Tanh": anywhere(lambda draw: fastbp.Tanh()),
    "Softmax": rowwise(fastbp.Softmax),
    "LogSoftmax": rowwise(fastbp.LogSoftmax),
    "Dropout": anywhere(lambda draw: fastbp.Dropout(draw.one_of(0.0, 0.2, 0.7))),
    "BatchNorm1d": batch_norm_1d,
    "BatchNorm2d": batch_norm_2d,
    "Conv2d": conv2d,
    "MaxPool2d": pool(fastbp.MaxPool2d),
    "AvgPool2d": pool(fastbp.AvgPool2d),
    "Flatten": anywhere(lambda draw: fastbp.Flatten()),
    "Identity": anywhere(lambda draw: fastbp.Identity()),
}


@dataclass(frozen=True)
class LayerSubject:
    layer: str
    training: bool

    @property
    def name(self) -> str:
        return f"{self.layer}, {'training' if self.training else 'evaluation'}"

    def draw(self, draw: Draw) -> "Case":
        layer, shape = LAYERS[self.layer](draw)
        layer.astype(np.float64)
        fill(layer, draw)
        return Case(layer, {"x": draw.values(*shape)}, training=self.training)


def fill(layer, draw) -> None:
    """Parameters and running statistics that are none of 0 and 1, a mask of its own for each case."""
    for parameter in layer.parameters:
        parameter.value = draw.values(*parameter.shape)
    if "running_mean" in layer.state:
        layer.state["running_mean"][:] = draw.values(*layer.state["running_mean"].shape)
        layer.state["running_var"][:] = draw.positive(*layer.state["running_var"].shape)
    if "key" in layer.state:
        layer.state["key"][...] = draw.rng.integers(1 << 60)


@dataclass(frozen=True)
class NetworkSubject:
    """Several layers, which a network computes together where it can.

    Always tame: where layers add up kinks of several units, the slopes on either side say nothing about the right
    values.
    """

    training: bool

    @property
    def name(self) -> str:
        return f"network, {'training' if self.training else 'evaluation'}"

    def draw(self, draw: Draw) -> "Case":
        draw = Draw(draw.rng, wild=False)
        C, F, classes = draw.one_of((1, 2, 3), (2, 1, 2))
        H, W = draw.one_of((5, 4), (5, 5))
        norm = draw.one_of([], [fastbp.BatchNorm2d(F)])
        activation = draw.one_of(fastbp.ReLU(), fastbp.LeakyReLU(), fastbp.Tanh())
        pool = draw.one_of(fastbp.MaxPool2d(2), fastbp.AvgPool2d(2), fastbp.MaxPool2d((3, 2), stride=1))
        layers = [fastbp.Conv2d(C, F, 3, padding=draw.one_of(0, 1)), *norm, activation, pool]
        layers += [fastbp.Dropout(0.3), fastbp.Flatten()]
        shape = (C, H, W)
        for layer in layers:
            shape = layer.output_shape(shape)
        network = fastbp.Sequential(*layers, fastbp.Linear(*shape, classes)).astype(np.float64)
        for layer in network.layers:
            fill(layer, draw)
        return Case(network, {"x": draw.values(draw.one_of(1, 2), C, H, W)}, training=self.training)


def squared_error_arguments(draw):
    shape = (draw.size(1), *draw.shape(draw.one_of(0, 1, 2)))
    return {"x": draw.values(*shape)}, {"y": draw.values(*shape)}


LOSSES = {
    "SoftmaxCrossEntropy": (lambda draw: fastbp.SoftmaxCrossEntropy(draw.one_of(0.0, 0.1, 1.0)), class_arguments),
    "NLLLoss": (lambda draw: fastbp.NLLLoss(), class_arguments),
    "MulticlassHinge": (lambda draw: fastbp.MulticlassHinge(draw.one_of(1.0, 0.5)), class_arguments),
    "LogisticLoss": (lambda draw: fastbp.LogisticLoss(), binary_arguments),
    "HingeLoss": (lambda draw: fastbp.HingeLoss(draw.one_of(1.0, 0.5)), binary_arguments),
    "MeanSquaredError": (lambda draw: fastbp.MeanSquaredError(), squared_error_arguments),
}


@dataclass(frozen=True)
class LossSubject:
    name: str

    def draw(self, draw: Draw) -> "Case":
        make, arguments = LOSSES[self.name]
        return Case(make(draw), *arguments(draw))


SUBJECTS = {
    subject.name: subject
    for subject in [
        *(LayerSubject(name, training) for name in LAYERS for training in (True, False)),
        *map(NetworkSubject, (True, False)),
        *map(LossSubject, LOSSES),
        *ALL_TWINS,
    ]
}


# -- checking ----------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """Something to check: a layer, a loss, or (forward, backward); backward is None for a loss in one function."""

    thing: object
    tensors: dict[str, np.ndarray]
    others: dict[str, object] = field(default_factory=dict)
    training: bool = True

    def __str__(self) -> str:
        def shown(value):
            return f"array of shape {value.shape}\n{value!r}" if isinstance(value, np.ndarray) else repr(value)

        return "\n".join(f"{name} = {shown(value)}" for name, value in (self.tensors | self.others).items())


def check(case: Case, seed: int = 0) -> fastbp.GradientReport:
    thing = case.thing
    if isinstance(thing, tuple) and thing[1] is None:
        thing = thing[0]
    arguments = *case.tensors.values(), *case.others.values()
    return fastbp.check_gradients(thing, *arguments, training=case.training, seed=seed, smallest=False)
