"""Networks that branch: containers and layers of one's own, one network with all of them, and networks at random."""

import random

import numpy as np

import fastbp
from fastbp.layers import Container, Join, Layer, Plus


class Times(Layer):
    """y = a · b"""

    def output_shape(self, a, b):
        if a != b:
            raise ValueError(f"Times: {a} and {b}")
        return a

    def forward(self, a, b, training=False, out=None):
        self.cache = a, b
        return a * b

    def backward(self, dout, need_dx=True):
        a, b = self.cache
        return dout * b, dout * a


class Mixed(Layer):
    """y = w · a + (1 − w) · b, with a weight for each feature"""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.w = self.parameter("w", (features,), lambda rng: rng.uniform(size=features))

    def output_shape(self, a, b):
        return a

    def forward(self, a, b, training=False, out=None):
        self.cache = a, b
        return self.w.value * a + (1 - self.w.value) * b

    def backward(self, dout, need_dx=True):
        a, b = self.cache
        self.w.grad = (dout * (a - b)).sum(axis=0)
        return (dout * self.w.value, dout * (1 - self.w.value)) if need_dx else None


class Gated(Container):
    """y = body(x) · σ(gate(x)); children by the constructor, a layer of two inputs by attribute"""

    def __init__(self, body, gate):
        super().__init__(body=body)
        self.gate = gate
        self.times = Times()

    def connect(self, x, place):
        return place(self.times, place(self.body, x), place(fastbp.Sigmoid(), place(self.gate, x)))


class Dense(Container):
    """y = [x, h, x + h] with h = layer(x): both values are read three times"""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def connect(self, x, place):
        h = place(self.layer, x)
        return place(Join(), x, h, place(Plus(), x, h))


class Either(Container):
    """y = w · a(x) + (1 − w) · b(x), with branches in a list"""

    def __init__(self, features, branches):
        super().__init__(*branches, mixed=Mixed(features))
        self.features, self.branches = features, branches

    def connect(self, x, place):
        return place(self.mixed, *(place(branch, x) for branch in self.branches))


class Doubled(fastbp.Residual):
    """A container with a forward and backward of its own: y = 2 (body(x) + x)"""

    def forward(self, x, training=False, out=None):
        return 2 * super().forward(x, training)

    def backward(self, dout, need_dx=True, out=None):
        dx = super().backward(2 * dout, need_dx)
        return dx


def varied(dtype=np.float64, seed=3, **options) -> fastbp.Sequential:
    """A network of images (2, 9, 8) and 4 classes with a container of every kind."""
    return fastbp.Sequential(
        fastbp.Conv2d(2, 4, 3, padding=1),
        fastbp.Residual(
            fastbp.Conv2d(4, 6, 3, stride=2, padding=1), fastbp.BatchNorm2d(6), fastbp.ReLU(),
            fastbp.Conv2d(6, 6, 3, padding=1),
            shortcut=fastbp.Sequential(fastbp.Conv2d(4, 6, 1, stride=2), fastbp.BatchNorm2d(6)),
        ),
        fastbp.ReLU(),
        fastbp.Concat(
            fastbp.Conv2d(6, 3, 1), fastbp.Sequential(fastbp.MaxPool2d(3, 1, 1), fastbp.Dropout(0.2)),
            fastbp.Identity(),
        ),
        fastbp.Flatten(),
        Gated(fastbp.Linear(300, 9), fastbp.Sequential(fastbp.Linear(300, 9), fastbp.BatchNorm1d(9))),
        Dense(fastbp.Residual(fastbp.Linear(9, 9), fastbp.Dropout(0.3))),
        Either(27, [fastbp.Linear(27, 27), fastbp.Sequential(fastbp.Tanh())]),
        Doubled(fastbp.Linear(27, 27)),
        fastbp.Linear(27, 4),
        dtype=dtype, seed=seed, **options,
    )  # fmt: skip


SHAPE, CLASSES = (2, 9, 8), 4


def data(N: int, dtype=np.float64, seed: int = 0, shape=SHAPE, classes=CLASSES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, *shape)).astype(dtype), rng.integers(0, classes, N)


# -- at random ---------------------------------------------------------------------------------------------------------


def drawn_block(r: random.Random, shape: tuple[int, ...], depth: int, own: bool) -> Layer:
    """A layer or a container for samples of this shape, with the same shape of its output."""
    C = shape[0]
    if depth < 3 and r.random() < 0.45:
        kind = r.choice(["residual", "residual", "sequential", "concat", "gated", "dense"] if own else
                        ["residual", "residual", "sequential", "concat"])  # fmt: skip
        if kind == "residual":
            shortcut = fastbp.Sequential(*drawn_row(r, shape, depth + 1, own)) if r.random() < 0.4 else None
            return fastbp.Residual(*drawn_row(r, shape, depth + 1, own), shortcut=shortcut)
        if kind == "sequential":
            return fastbp.Sequential(*drawn_row(r, shape, depth + 1, own))
        if kind == "gated":
            return Gated(*(fastbp.Sequential(*drawn_row(r, shape, depth + 1, own)) for _ in range(2)))
        if kind == "dense":
            return fastbp.Sequential(Dense(fastbp.Sequential(*drawn_row(r, shape, depth + 1, own))), to(3 * C, shape))
        count = r.randrange(1, 4)
        branches = [fastbp.Sequential(*drawn_row(r, shape, depth + 1, own)) for _ in range(count)]
        return fastbp.Sequential(fastbp.Concat(*branches), to(count * C, shape))
    anywhere = [
        lambda: fastbp.ReLU(), lambda: fastbp.ReLU(), lambda: fastbp.LeakyReLU(r.choice([0.01, 0.3])),
        lambda: fastbp.Tanh(), lambda: fastbp.Sigmoid(), lambda: fastbp.Identity(),
    ]  # fmt: skip
    anywhere += [lambda: fastbp.Dropout(r.choice([0.1, 0.5]))] if own else []
    if len(shape) == 1:
        choices = [
            lambda: fastbp.Linear(C, C, bias=r.random() < 0.7), lambda: fastbp.Linear(C, C),
            lambda: fastbp.BatchNorm1d(C), lambda: fastbp.Softmax(), lambda: fastbp.LogSoftmax(),
        ]  # fmt: skip
    else:
        padding = r.choice([1, "same"])
        choices = [
            lambda: fastbp.Conv2d(C, C, 3, padding=padding, bias=r.random() < 0.7),
            lambda: fastbp.Conv2d(C, C, 3, padding=1),
            lambda: fastbp.Conv2d(C, C, r.choice([1, (5, 1)]), padding="same"), lambda: fastbp.BatchNorm2d(C),
            lambda: fastbp.MaxPool2d(3, 1, 1), lambda: fastbp.AvgPool2d(3, 1, 1),
        ]  # fmt: skip
    return r.choice(choices + r.sample(anywhere, 3))()


def to(channels: int, shape: tuple[int, ...]) -> Layer:
    """A layer from so many channels or features to those of the shape."""
    return fastbp.Linear(channels, shape[0]) if len(shape) == 1 else fastbp.Conv2d(channels, shape[0], 1)


def drawn_row(r: random.Random, shape: tuple[int, ...], depth: int, own: bool) -> list[Layer]:
    return [drawn_block(r, shape, depth, own) for _ in range(r.randrange(1 if depth else 2, 4))]


def drawn(seed: int, own: bool = True) -> tuple[fastbp.Sequential, tuple[int, ...], int]:
    """A network in float64, its input shape and a batch size; `own` with containers and layers that PyTorch has not."""
    r = random.Random(seed)
    C = r.choice([2, 3, 8, 16])
    if r.random() < 0.3:
        shape = (r.choice([5, 24]),)
        layers = drawn_row(r, shape, 0, own)
        features = shape[0]
    else:
        size = r.choice([4, 7, 12])
        shape = (r.choice([1, C]), size, size)
        layers = [fastbp.Conv2d(shape[0], C, 3, padding=1), *drawn_row(r, (C, size, size), 0, own)]
        if r.random() < 0.5:
            layers += [fastbp.Conv2d(C, C, 3, padding=1), fastbp.ReLU(), fastbp.MaxPool2d(2)]
            size //= 2
        if r.random() < 0.5:
            layers += [fastbp.BatchNorm2d(C), fastbp.ReLU(), fastbp.MaxPool2d(2)]
            size //= 2
        features = C * size * size
        layers += [fastbp.Flatten(), fastbp.Linear(features, 24), fastbp.ReLU(), *drawn_row(r, (24,), 1, own)]
        features = 24
    layers.append(fastbp.Linear(features, 3))
    return fastbp.Sequential(*layers, dtype=np.float64, seed=seed), shape, r.choice([2, 3, 5])


def machine(seed: int) -> fastbp.engine.Machine:
    """A machine that cuts small networks, at random."""
    r = random.Random(seed)
    small = {"part_work": r.choice([1, 3000]), "per_share": r.choice([1e-9, 1, 128]), "range_work": r.choice([1, 1e4])}
    tiles = {"tile_rows": r.choice([1, 4]), "tile_columns": r.choice([1, 4, 48]), "few": r.choice([0, 1, 8])}
    more = {"large": r.choice([10, 100, 65536]), "piece_work": r.choice([1, 1000]), "parts": r.choice([2, 3, 8])}
    return fastbp.engine.Machine(**small, **tiles, **more, blocks=r.choice([1, 3, 5]))
