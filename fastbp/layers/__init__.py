"""Layers: one family a file, each class a formula with its shapes, forward above backward. The contract is in
`Layer`."""

from .activations import GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from .base import Layer, Parameter
from .blocks import Concat, Container, Residual
from .conv import Conv2d
from .dropout import Dropout
from .joins import Join, Plus
from .linear import Linear
from .norm import BatchNorm1d, BatchNorm2d
from .pool import AvgPool2d, MaxPool2d
from .scale import Scale
from .shape import Flatten, Identity

# isort: split
from . import folded, fused, narrow  # noqa: F401 -- they enter their ops in the table

__all__ = [
    "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Concat", "Container", "Conv2d", "Dropout", "Flatten", "GELU",
    "Identity", "Join", "Layer", "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "Parameter", "Plus", "ReLU",
    "Residual", "Scale", "SiLU", "Sigmoid", "Softmax", "Tanh",
]  # fmt: skip
