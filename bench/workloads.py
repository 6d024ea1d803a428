"""The networks that the benchmarks train, in words that belong to no library: each side builds its own from them.

A layer is (name, argument, …), with names and arguments that fastbp and torch.nn share. This module imports neither, so
that a process which measures one library does not hold the other.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A network, its input shape (C, H, W) or (D,), the batch sizes it is measured at, and what it is trained with.

    `loss` "cross-entropy" of 10 classes, or "squared-error" · `optimizer` "SGD" or "Adam"
    """

    name: str
    title: str
    layers: tuple[tuple, ...]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]
    loss: str = "cross-entropy"
    optimizer: str = "SGD"

    def shapes(self) -> list[tuple[int, ...]]:
        """One sample's shape before each layer, and after the last."""
        shapes = [self.input_shape]
        for kind, *numbers in self.layers:
            shape = shapes[-1]
            if kind == "Conv2d":
                _, filters, *window = numbers
                shape = (filters, *windows(shape[1:], *window))
            elif kind in ("MaxPool2d", "AvgPool2d"):
                shape = (shape[0], *windows(shape[1:], *pool_window(*numbers)))
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
            elif kind in NORMS:
                values += [np.ones(numbers[0]), np.zeros(numbers[0])]
        return [value.astype(np.float32) for value in values]

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(x, targets) of random numbers: labels of 10 classes, or numbers like the output"""
        rng = np.random.default_rng(1)
        x = rng.normal(size=(size, *self.input_shape)).astype(np.float32)
        if self.loss == "squared-error":
            return x, rng.normal(size=(size, *self.shapes()[-1])).astype(np.float32)
        return x, rng.integers(0, 10, size)

    def has(self, kind: str) -> bool:
        return any(layer[0] == kind for layer in self.layers)


NORMS = "BatchNorm1d", "BatchNorm2d"


def windows(image: tuple[int, ...], kernel: int, stride: int = 1, padding: int = 0) -> tuple[int, ...]:
    """How many windows fit along each axis of an image."""
    return tuple((size + 2 * padding - kernel) // stride + 1 for size in image)


def pool_window(kernel: int, stride: int | None = None, padding: int = 0) -> tuple[int, int, int]:
    """The arguments of a pool in full: windows lie side by side where no stride is given."""
    return kernel, stride or kernel, padding


def conv(channels: int, filters: int, kernel: int, padding: int = 0, stride: int = 1) -> tuple:
    return ("Conv2d", channels, filters, kernel, stride, padding)


RELU, TANH, LEAKY, FLATTEN = ("ReLU",), ("Tanh",), ("LeakyReLU", 0.1), ("Flatten",)
POOL, AVERAGE, THREE_BY_TWO = ("MaxPool2d", 2), ("AvgPool2d", 2), ("MaxPool2d", 3, 2)


def mlp(*sizes: int, activation: tuple = RELU) -> tuple[tuple, ...]:
    """Linear layers with an activation between them."""
    layers = [layer for pair in zip(sizes[:-1], sizes[1:], strict=True) for layer in (("Linear", *pair), activation)]
    return tuple(layers[:-1])


def six_convolutions() -> tuple[tuple, ...]:
    layers, channels = [], 3
    for filters, pooled in ((32, 0), (32, 1), (64, 0), (64, 1), (128, 0), (128, 1)):
        layers += [conv(channels, filters, 3, padding=1), ("BatchNorm2d", filters), RELU] + [POOL] * pooled
        channels = filters
    return (*layers, FLATTEN, ("Linear", 2048, 10))


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
        Workload(
            "conv-bn", "3×3 convolutions with batch norm, 32 to 128 channels", six_convolutions(), (3, 32, 32), (128,)
        ),
        Workload(
            "all-conv",
            "convolutions of stride 2",
            (
                *(conv(3, 32, 3, 1, 2), RELU, conv(32, 64, 3, 1, 2), RELU, conv(64, 128, 3, 1, 2), RELU),
                *(FLATTEN, ("Linear", 2048, 10)),
            ),
            (3, 32, 32),
            (64,),
        ),
        Workload(
            "cuda-convnet",
            "5×5 convolutions, 3×3/2 max pools, average pool",
            (
                *(conv(3, 32, 5, 2), RELU, THREE_BY_TWO, conv(32, 32, 5, 2), RELU, THREE_BY_TWO),
                *(conv(32, 64, 5, 2), RELU, AVERAGE, FLATTEN, ("Linear", 576, 10)),
            ),
            (3, 32, 32),
            (64,),
        ),
        Workload(
            "lenet",
            "LeNet-5, tanh and average pools",
            (
                *(conv(1, 6, 5, 2), TANH, AVERAGE, conv(6, 16, 5), TANH, AVERAGE, FLATTEN),
                *mlp(400, 120, 84, 10, activation=TANH),
            ),
            (1, 28, 28),
            (32,),
        ),
        Workload(
            "leaky-cnn",
            "5×5 convolutions with LeakyReLU",
            (conv(3, 16, 5, 2), LEAKY, POOL, conv(16, 32, 5, 2), LEAKY, POOL, FLATTEN, ("Linear", 2048, 10)),
            (3, 32, 32),
            (32,),
        ),
        Workload(
            "mlp-bn",
            "784-512-512-10, batch norm, dropout",
            (
                *(("Linear", 784, 512), ("BatchNorm1d", 512), RELU, ("Dropout", 0.2)),
                *(("Linear", 512, 512), ("BatchNorm1d", 512), RELU, ("Dropout", 0.2), ("Linear", 512, 10)),
            ),
            (784,),
            (128,),
        ),
        Workload("mlp-128", "784-128-10", mlp(784, 128, 10), (784,), (1024,)),
        Workload(
            "torch-mnist",
            "PyTorch's MNIST example",
            (
                *(conv(1, 32, 3), RELU, conv(32, 64, 3), RELU, POOL, ("Dropout", 0.25), FLATTEN),
                *(("Linear", 9216, 128), RELU, ("Dropout", 0.5), ("Linear", 128, 10)),
            ),
            (1, 28, 28),
            (64,),
        ),
        Workload(
            "torch-mnist-old",
            "PyTorch's older MNIST example",
            (
                *(conv(1, 10, 5), POOL, RELU, conv(10, 20, 5), POOL, RELU, FLATTEN),
                *(("Linear", 320, 50), RELU, ("Dropout", 0.5), ("Linear", 50, 10)),
            ),
            (1, 28, 28),
            (64,),
        ),
        Workload(
            "mlp-tiny",
            "4-32-16-4, tanh, Adam",
            mlp(4, 32, 16, 4, activation=TANH),
            (4,),
            (10_000,),
            loss="squared-error",
            optimizer="Adam",
        ),
    )
}
