"""What a trained network says about data: its outputs, the decided classes, their probabilities, loss and accuracy."""

import warnings
from typing import NamedTuple

import numpy as np

from ..arguments import whole
from ..layers import Layer, LogSoftmax, Sigmoid, Softmax
from ..losses import Loss
from ..network import Sequential
from .checks import expect, is_ours, named, x_and_targets
from .views import Views, views_of


class Evaluation(NamedTuple):
    """Mean loss, and the fraction classified rightly (None for a loss that is not a classifier's)."""

    loss: float
    accuracy: float | None


def evaluate(
    network: Sequential,
    loss: Loss,
    data: tuple[np.ndarray, np.ndarray],
    batch_size: int = 256,
    *,
    augment: Views | None = None,
) -> Evaluation:
    """The loss and accuracy of the network on (x, targets), in evaluation mode; `augment` as in `outputs`."""
    expect("evaluate", "network", network, Sequential)
    expect("evaluate", "loss", loss, Loss)
    x, targets = x_and_targets("data", data)
    batch_size = whole("evaluate: batch_size", batch_size)
    if len(x) == 0:
        raise ValueError("evaluate: the mean over no samples is not defined")
    total_loss, correct = 0.0, 0
    augment = augment if augment is None else views_of("evaluate", augment)
    with named("evaluate: data" if is_ours(loss) else "evaluate: loss"):
        for start in range(0, len(x), batch_size):
            batch = targets[start : start + batch_size]
            scores = outputs(network, x[start : start + batch_size], batch_size, augment=augment)
            total_loss += float(loss.forward(scores, batch)) * len(batch)
            right = loss.correct(scores, batch)
            correct = None if right is None else correct + right
    return Evaluation(total_loss / len(x), None if correct is None else correct / len(x))


def outputs(network: Sequential, x: np.ndarray, batch_size: int = 256, *, augment: Views | None = None) -> np.ndarray:
    """The network's raw output for x (N, …) in evaluation mode, computed in batches: (N, …) of the network's dtype.

    `augment` is for test-time augmentation: the mean of the outputs for several views of x.
    - "flip": x (N, C, H, W) and its mirror image, left to right
    - "flip_shift": one half of that mean, and a quarter of it for x moved by one pixel up and left, and for x moved by
      one pixel down and right, with reflected borders
    - functions of a batch that give one of the same shape, or pairs (weight, function) of them, in a list: their mean
      with these weights. The batch as it is is among them only as `lambda x: x`.
    """
    expect("outputs", "network", network, Sequential)
    batch_size = whole("outputs: batch_size", batch_size)
    engine = network.engine(network.check(x).shape[1:])
    y = np.empty((len(x), *engine.output_shape), x.dtype)
    views = [(1.0, None)] if augment is None else views_of("outputs", augment)
    for start in range(0, len(x), batch_size):
        batch, part = x[start : start + batch_size], y[start : start + batch_size]
        for k, (weight, view) in enumerate(views):
            seen = batch if view is None else view(batch)
            with engine.lock:
                found = engine.forward(seen)
                if len(views) == 1:
                    part[...] = found
                elif k == 0:
                    np.multiply(found, part.dtype.type(weight), out=part)
                else:
                    part += found * part.dtype.type(weight)
    return y


def predict(
    network: Sequential,
    x: np.ndarray,
    batch_size: int = 256,
    *,
    loss: Loss | None = None,
    augment: Views | None = None,
) -> np.ndarray:
    """What the network says of each sample of x (N, …): its class, int64 (N,), or the numbers of a regression (N, …).

    Which of the two is known from, in this order:
    - `loss`, if it is given: its own `predict` decides; MeanSquaredError gives the outputs as they are
    - `network.task`: that of the loss that the network was last trained with (fit, Trainer); files keep it
    - the last layer: Softmax, LogSoftmax, and Sigmoid with one output, make a classifier
    Otherwise the outputs are taken for scores of classes, and a UserWarning says so: give `loss`, set `network.task`,
    or call `fastbp.outputs`.

    Classes: for outputs (N, C) with C of at least 2 the largest; for one output a sample, 1 where it is positive (above
    one half, if the network ends in Sigmoid), else 0. `augment` is as in `outputs`: the classes are those of the mean.

    >>> import fastbp
    >>> network, x = fastbp.Sequential(fastbp.Linear(2, 1)), np.eye(2, dtype=np.float32)
    >>> _ = fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.0)).step(x, x[:, :1])
    >>> np.array_equal(fastbp.predict(network, x), network.forward(x))
    True
    """
    y = outputs(network, x, batch_size, augment=augment)
    if loss is not None:
        expect("predict", "loss", loss, Loss)
        with named("predict: loss"):
            return y if loss.task == "regression" else loss.predict(y)
    if network.task == "regression":
        return y
    last, one = _last_layer(network, x), _one_output(y)
    if network.task is None and not isinstance(last, (Softmax, LogSoftmax)) and not (one and isinstance(last, Sigmoid)):
        what = "a score for class 1" if one else f"scores of {y.shape[1]} classes"
        warnings.warn(
            f"predict: nothing says what this network's outputs are, so they are taken for {what}: give loss=…, or set "
            "network.task; fastbp.outputs gives the numbers themselves",
            stacklevel=2,
        )
    if not one:
        return y.argmax(axis=1)
    return (y.reshape(-1) > (0.5 if isinstance(last, Sigmoid) else 0)).astype(np.int64)


def predict_proba(
    network: Sequential, x: np.ndarray, batch_size: int = 256, *, augment: Views | None = None
) -> np.ndarray:
    """The probability of each class, (N, C), or of class 1 for one output a sample, (N,).

    Outputs are taken as what the network's last layer says they are: probabilities after Softmax or Sigmoid, their
    logarithms after LogSoftmax, scores for softmax or for the sigmoid otherwise. A network trained with a hinge loss
    has scores that are no log-odds: these numbers are then a ranking, not probabilities. ValueError for a network
    trained for regression (`network.task`), which has no classes. `augment` is as in `outputs`: the probabilities are
    those of the mean.
    """
    y = outputs(network, x, batch_size, augment=augment)
    last = _last_layer(network, x)
    if network.task == "regression":
        raise ValueError(
            "predict_proba: the network was trained for regression, so it gives no probabilities; use fastbp.outputs"
        )
    if not _one_output(y):
        if isinstance(last, Softmax):
            return y
        return np.exp(y) if isinstance(last, LogSoftmax) else Softmax().forward(y)
    y = y.reshape(-1)
    return y if isinstance(last, Sigmoid) else Sigmoid().forward(y)


def _last_layer(network: Sequential, x: np.ndarray) -> Layer | None:
    """The layer that gives the network's output, also where it stands inside another."""
    graph = network.engine(x.shape[1:]).graph
    return next((step.layer for step in graph.steps if step.output is graph.y), None)


def _one_output(y: np.ndarray) -> bool:
    """Is it one output a sample, or several? ValueError where it is neither."""
    if y.ndim == 2 and y.shape[1] > 1:
        return False
    if y.ndim > 2 or y.shape[1:] not in ((), (1,)):
        raise ValueError(f"expected a network with outputs (N, C), (N, 1) or (N,), got {y.shape}")
    return True
