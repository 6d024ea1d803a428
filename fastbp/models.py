"""Networks that courses train, ready made.

Each takes `dtype` and `seed` as Sequential does and returns scores (N, classes) for the loss SoftmaxCrossEntropy; none
ends in a softmax.
"""

import math
from collections.abc import Sequence

import numpy as np

from .arguments import choice, flag, number, pair, shape, whole
from .layers import AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sigmoid, Tanh
from .layers.base import SIZE_LIMIT
from .network import Sequential

ACTIVATIONS = {"relu": (ReLU, "he_normal"), "tanh": (Tanh, "glorot_normal"), "sigmoid": (Sigmoid, "glorot_normal")}
LAYERS = 10_000  # of an mlp, at most


def softmax_classifier(
    input_shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, dtype=np.float32, seed: int = 0
) -> Sequential:
    """Multinomial logistic regression: one linear layer on the flattened input, starting at zero."""
    size = math.prod(shape("softmax_classifier: input_shape", input_shape, 1))
    size = _size("softmax_classifier: input_shape", size)
    linear = Linear(size, _size("softmax_classifier: classes", classes), init="zeros")
    return Sequential(Flatten(), linear, dtype=dtype, seed=seed)


def mlp(
    sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0, dtype=np.float32, seed: int = 0
) -> Sequential:
    """Linear layers of sizes[0] → sizes[1] → … with an activation between them: "relu", "tanh" or "sigmoid".

    `dropout` is the rate of dropout after each activation; 0 leaves it out. The input is flattened. ReLU networks start
    from He's initialisation, the others from Glorot's.

    >>> mlp([784, 100, 10]).parameter_vector.size
    79510
    """
    sizes = shape("mlp: sizes", sizes, 1, SIZE_LIMIT, most_sizes=LAYERS)
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes must hold at least the numbers of inputs and outputs, got {sizes}")
    kind, init = ACTIVATIONS[choice("mlp: activation", activation, ACTIVATIONS)]
    dropout = number("mlp: dropout", dropout, least=0, below=1)
    layers = [Flatten()]
    for inputs, outputs in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [Linear(inputs, outputs, init=init), kind()]
        layers += [Dropout(dropout)] if dropout else []
    layers.append(Linear(sizes[-2], sizes[-1], init="glorot_normal"))
    return Sequential(*layers, dtype=dtype, seed=seed)


def lenet5(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, dtype=np.float32, seed: int = 0
) -> Sequential:
    """LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998), a little simplified.

    Two 5×5 convolutions (6 and 16 filters) with tanh and 2×2 average pooling, then 120, 84 and `classes` units. 28×28
    images are padded by 2 to the paper's 32×32. Simpler than in the paper: every filter of the second convolution sees
    all maps, pooling has no weights, the output is linear.

    >>> lenet5().parameter_vector.size
    61706
    """
    C, H, W = input_shape = _image("lenet5: input_shape", input_shape)
    classes = _size("lenet5: classes", classes)
    padding = 2 if (H, W) == (28, 28) else 0
    convolutions = [
        *(Conv2d(C, 6, 5, padding=padding, init="glorot_normal"), Tanh(), AvgPool2d(2)),
        *(Conv2d(6, 16, 5, init="glorot_normal"), Tanh(), AvgPool2d(2)),
        Flatten(),
    ]
    (features,) = _shape_after(convolutions, input_shape)
    sizes = [features, 120, 84]
    hidden = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        hidden += [Linear(inputs, outputs, init="glorot_normal"), Tanh()]
    return Sequential(*convolutions, *hidden, Linear(84, classes, init="glorot_normal"), dtype=dtype, seed=seed)


def cnn(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    filters: int = 32,
    kernel_size: int | None = None,
    hidden: int = 100,
    batch_norm: bool = False,
    dropout: float = 0.0,
    dtype=np.float32,
    seed: int = 0,
) -> Sequential:
    """The small MNIST network: convolution, ReLU, max pooling, a hidden layer with ReLU, the output.

    By default 32 filters of 7×7 without padding, 2×2 max pooling, 100 hidden units and 10 outputs. With `batch_norm`
    and `dropout`: convolution, batch norm, ReLU, pooling, dropout, linear, ReLU, linear. `kernel_size` is 7, or 3 for
    images smaller than 16 pixels, unless given.

    >>> cnn().output_shape((1, 28, 28))
    (10,)
    """
    C, H, W = input_shape = _image("cnn: input_shape", input_shape)
    classes, filters = _size("cnn: classes", classes), _size("cnn: filters", filters)
    hidden = _size("cnn: hidden", hidden)
    batch_norm, dropout = flag("cnn: batch_norm", batch_norm), number("cnn: dropout", dropout, least=0, below=1)
    if kernel_size is None:
        kernel_size = 7 if min(H, W) >= 16 else 3
    features = [Conv2d(C, filters, pair("cnn: kernel_size", kernel_size))]
    features += [BatchNorm2d(filters)] if batch_norm else []
    features += [ReLU(), MaxPool2d(2)]
    features += [Dropout(dropout)] if dropout else []
    features += [Flatten()]
    (size,) = _shape_after(features, input_shape)
    head = [Linear(size, hidden), ReLU(), Linear(hidden, classes, init="glorot_normal")]
    return Sequential(*features, *head, dtype=dtype, seed=seed)


def _size(what: str, value) -> int:
    """A number of features, as a layer takes it."""
    return whole(what, value, most=SIZE_LIMIT)


def _image(what: str, value) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image."""
    sizes = shape(what, value, 1, SIZE_LIMIT)
    if len(sizes) != 3:
        raise ValueError(f"{what} must be (C, H, W), got {sizes}")
    return sizes


def _shape_after(layers, shape):
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape
