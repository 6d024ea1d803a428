"""The data sets, models and optimisers that the commands know by name."""

import math
from pathlib import Path

import numpy as np

from .. import datasets, models
from ..network import Sequential
from ..optimizers import SGD, Adagrad, Adam, AdamW, RMSProp
from .streams import Failure

INPUT_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "notmnist": (1, 28, 28), "cifar10": (3, 32, 32)}
EPOCHS = {"digits": 30, "mnist": 5, "notmnist": 10, "cifar10": 10}
CLASSES = 10
MODELS = {
    "softmax": lambda shape, **options: models.softmax_classifier(shape, CLASSES, **options),
    "mlp": lambda shape, **options: models.mlp([math.prod(shape), 100, CLASSES], **options),
    "lenet5": lambda shape, **options: models.lenet5(shape, CLASSES, **options),
    "cnn": lambda shape, **options: models.cnn(shape, CLASSES, **options),
}
OPTIMIZERS = {  # name: (class, options, default learning rate)
    "sgd": (SGD, {"momentum": 0.9}, 0.05),
    "adam": (Adam, {}, 0.001),
    "adamw": (AdamW, {}, 0.001),
    "rmsprop": (RMSProp, {}, 0.001),
    "adagrad": (Adagrad, {}, 0.01),
}


def new_network(options) -> Sequential:
    """The network that the options ask for, untrained."""
    try:
        return MODELS[options.model](INPUT_SHAPES[options.data], dtype=np.dtype(options.dtype), seed=options.seed)
    except ValueError as error:
        raise Failure(f"{options.model} is not for the images of {options.data}: {error}", code=2) from None


def load_data(name: str, data_dir: str | None, dtype: np.dtype) -> datasets.Dataset:
    """A data set by its name."""
    if name == "digits":
        return datasets.digits(dtype=dtype)
    return getattr(datasets, name)(data_dir, dtype=dtype)


def load_network(path: Path) -> Sequential:
    """The network of a file."""
    try:
        return Sequential.load(path)
    except ValueError as error:
        raise Failure(str(error)) from None
