"""The networks that the benchmarks train: fastbp's, and the same in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass

import fastbp
from fastbp import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


@dataclass(frozen=True)
class Workload:
    """A network, its input shape and the batch sizes it is measured at."""

    name: str
    layers: Callable[[], list[fastbp.Layer]]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]

    def network(self, seed: int = 0) -> Sequential:
        return Sequential(*self.layers(), seed=seed)

    def flops(self) -> int:
        """Useful FLOPs of one sample's training step in the matrix products of Linear and Conv2d: forward, and both gradients
        but the input gradient of the first such layer. A multiply and an add are two."""
        total, shape, first = 0, self.input_shape, True
        for layer in self.layers():
            out = layer.output_shape(shape)
            if isinstance(layer, (Linear, Conv2d)):
                pixels = out[1] * out[2] if isinstance(layer, Conv2d) else 1
                total += 2 * pixels * layer.weight.size * (2 if first else 3)
                first = False
            shape = out
        return total


def two_convolutions():
    return [
        Conv2d(3, 6, 5), ReLU(), MaxPool2d(2), Conv2d(6, 16, 5), ReLU(), MaxPool2d(2), Flatten(),
        Linear(400, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, 10),
    ]  # fmt: skip


def mnist_cnn():
    return [Conv2d(1, 32, 7), ReLU(), MaxPool2d(2), Flatten(), Linear(3872, 100), ReLU(), Linear(100, 10)]


def mnist_cnn_normed():
    return [
        Conv2d(1, 32, 7), fastbp.BatchNorm2d(32), ReLU(), MaxPool2d(2), fastbp.Dropout(0.5), Flatten(),
        Linear(3872, 100), ReLU(), Linear(100, 10),
    ]  # fmt: skip


def eight_convolutions():
    layers, channels = [], 3
    for filters, pooled in ((32, 1), (64, 1), (128, 0), (128, 1), (256, 0), (256, 1), (256, 0), (256, 1)):
        layers += [Conv2d(channels, filters, 3, padding=1), ReLU()] + [MaxPool2d(2)] * bool(pooled)
        channels = filters
    return [*layers, Flatten(), Linear(256, 256), ReLU(), Linear(256, 10)]


def mlp(*sizes: int):
    layers: list[fastbp.Layer] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [Linear(inputs, outputs), ReLU()]
    return layers[:-1]


WORKLOADS = {
    w.name: w
    for w in (
        Workload("cifar-2conv", two_convolutions, (3, 32, 32), (1, 4, 32, 128)),
        Workload("mnist-cnn", mnist_cnn, (1, 28, 28), (1, 32, 128)),
        Workload("mnist-cnn-bn", mnist_cnn_normed, (1, 28, 28), (32, 128)),
        Workload("cifar-8conv", eight_convolutions, (3, 32, 32), (4, 64)),
        Workload("mlp-100", lambda: mlp(784, 100, 10), (784,), (1, 4, 32, 128)),
        Workload("mlp-1000", lambda: mlp(784, 1000, 10), (784,), (1, 32, 128)),
        Workload("mlp-5", lambda: mlp(3072, 512, 256, 120, 84, 10), (3072,), (4, 128)),
    )
}


def torch_module(network: Sequential):
    """The same network in PyTorch, with copies of the same parameters."""
    import torch
    from torch import nn

    modules = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            module = nn.Linear(layer.in_features, layer.out_features)
        elif isinstance(layer, Conv2d):
            module = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        elif isinstance(layer, fastbp.BatchNorm2d):
            module = nn.BatchNorm2d(layer.num_features)
        elif isinstance(layer, fastbp.Dropout):
            module = nn.Dropout(layer.rate)
        else:
            module = {"ReLU": nn.ReLU, "Flatten": nn.Flatten, "MaxPool2d": lambda: nn.MaxPool2d(2)}[type(layer).__name__]()
        with torch.no_grad():
            for tensor, parameter in zip(module.parameters(), layer.parameters, strict=True):
                tensor.copy_(torch.tensor(parameter.value))
        modules.append(module)
    return nn.Sequential(*modules)
