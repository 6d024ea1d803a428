"""fastbp: backpropagation you can read, at the speed of the machine, with a proof beside every gradient."""

__version__ = "0.1.0"

import sys

from . import interrupts  # noqa: F401 -- first: Ctrl-C while the others are imported

# isort: split
from . import datasets, models
from .engine.threads import get_num_threads, set_num_threads
from .gradcheck import GradientError, GradientReport, check_gradients
from .layers import (
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Container,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Layer,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .losses import HingeLoss, LogisticLoss, Loss, MeanSquaredError, MulticlassHinge, NLLLoss, SoftmaxCrossEntropy
from .network import Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSProp
from .profiling import profile
from .training import History, Trainer, callbacks, evaluate, fit, outputs, predict, predict_proba, schedules, warmup
from .training.averages import EMA, Lookahead
from .training.callbacks import Callback, Checkpoint, EarlyStopping, RunningLoss
from .training.schedules import CosineDecay, OneCycle, Schedule, StepDecay, Triangle, WarmUp

load = Sequential.load
# imports and pickles of users know these two by the names that they had before they moved into the training room
sys.modules |= {f"{__name__}.callbacks": callbacks, f"{__name__}.schedules": schedules}

__all__ = [
    "Adagrad", "Adam", "AdamW", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Callback", "Checkpoint", "Concat",
    "Container", "Conv2d", "CosineDecay", "Dropout", "EMA", "EarlyStopping", "Flatten", "GELU", "GradientError",
    "GradientReport", "HingeLoss", "History", "Identity", "Layer", "LeakyReLU", "Linear", "LogSoftmax", "LogisticLoss",
    "Lookahead", "Loss", "MaxPool2d", "MeanSquaredError", "MulticlassHinge", "NLLLoss", "OneCycle", "Optimizer",
    "Parameter", "RMSProp", "ReLU", "Residual", "RunningLoss", "SGD", "Scale", "Schedule", "Sequential", "SiLU",
    "Sigmoid", "Softmax", "SoftmaxCrossEntropy", "StepDecay", "Tanh", "Trainer", "Triangle", "WarmUp",
    "check_gradients", "datasets", "evaluate", "fit", "get_num_threads", "load", "models", "outputs", "predict",
    "predict_proba", "profile", "set_num_threads", "warmup",
]  # fmt: skip
