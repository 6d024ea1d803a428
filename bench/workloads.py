"""The networks that the benchmarks train, in words that belong to no library: each side builds its own from them.

A layer is (name, argument, …), with names and arguments that fastbp and torch.nn share. This module imports neither, so
that a process which measures one library does not hold the other.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A network, its input shape (C, H, W) or (D,), and the batch sizes it is measured at."""

    name: str
    title: str
    layers: tuple[tuple, ...]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]

    def shapes(self) -> list[tuple[int, ...]]:
        """One sample's shape before each layer, and after the last."""
        shapes = [self.input_shape]
        for kind, *numbers in self.layers:
            shape = shapes[-1]
            if kind == "Conv2d":
                _, filters, kernel, _, padding = numbers
                shape = (filters, *(size + 2 * padding - kernel + 1 for size in shape[1:]))
            elif kind == "MaxPool2d":
                shape = (shape[0], *(size // numbers[0] for size in shape[1:]))
            elif kind == "Flatten":
                shape = (math.prod(shape),)
            elif kind == "Linear":
                shape = (numbers[1],)
            shapes.append(shape)
        return shapes

    def parameters(self, seed: int = 0) -> list[np.ndarray]:
        """First values that every side starts from: weight and bias of each layer in order, He's initialisation."""
        rng, values = np.random.default_rng(seed), []
        for kind, *numbers in self.layers:
            if kind in ("Conv2d", "Linear"):
                shape = (numbers[1], numbers[0], *(numbers[2:3] * 2))
                weight = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
                values += [weight, np.zeros(shape[0])]
            elif kind == "BatchNorm2d":
                values += [np.ones(numbers[0]), np.zeros(numbers[0])]
        return [value.astype(np.float32) for value in values]

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(x, labels) of random numbers"""
        rng = np.random.default_rng(1)
        return rng.normal(size=(size, *self.input_shape)).astype(np.float32), rng.integers(0, 10, size)

    def has(self, kind: str) -> bool:
        return any(layer[0] == kind for layer in self.layers)


def conv(channels: int, filters: int, kernel: int, padding: int = 0) -> tuple:
    return ("Conv2d", channels, filters, kernel, 1, padding)


RELU, POOL, FLATTEN = ("ReLU",), ("MaxPool2d", 2), ("Flatten",)


def mlp(*sizes: int) -> tuple[tuple, ...]:
    """Linear layers with ReLU between them."""
    layers = [layer for pair in zip(sizes[:-1], sizes[1:], strict=True) for layer in (("Linear", *pair), RELU)]
    return tuple(layers[:-1])


def eight_convolutions() -> tuple[tuple, ...]:
    layers, channels = [], 3
    for filters, pooled in ((32, 1), (64, 1), (128, 0), (128, 1), (256, 0), (256, 1), (256, 0), (256, 1)):
        layers += [conv(channels, filters, 3, padding=1), RELU] + [POOL] * pooled
        channels = filters
    return (*layers, FLATTEN, *mlp(256, 256, 10))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "cifar-2conv",
            "two convolutions, CIFAR-10",
            (conv(3, 6, 5), RELU, POOL, conv(6, 16, 5), RELU, POOL, FLATTEN, *mlp(400, 120, 84, 10)),
            (3, 32, 32),
            (1, 4, 32, 128),
        ),
        Workload(
            "mnist-cnn",
            "7×7 convolution, MNIST",
            (conv(1, 32, 7), RELU, POOL, FLATTEN, *mlp(3872, 100, 10)),
            (1, 28, 28),
            (1, 32, 128),
        ),
        Workload(
            "mnist-cnn-bn",
            "7×7 convolution, batch norm, dropout, MNIST",
            (conv(1, 32, 7), ("BatchNorm2d", 32), RELU, POOL, ("Dropout", 0.5), FLATTEN, *mlp(3872, 100, 10)),
            (1, 28, 28),
            (32, 128),
        ),
        Workload("cifar-8conv", "eight 3×3 convolutions, CIFAR-10", eight_convolutions(), (3, 32, 32), (4, 64)),
        Workload("mlp-100", "784-100-10", mlp(784, 100, 10), (784,), (1, 4, 32, 128)),
        Workload("mlp-1000", "784-1000-10", mlp(784, 1000, 10), (784,), (1, 32, 128)),
        Workload("mlp-5", "3072-512-256-120-84-10", mlp(3072, 512, 256, 120, 84, 10), (3072,), (4, 128)),
    )
}
