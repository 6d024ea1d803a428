"""The ready-made networks: shapes, sizes, gradients, and that they learn."""

import numpy as np
import pytest

from fastbp import SGD, SoftmaxCrossEntropy, check_gradients, datasets, evaluate, fit, models

MNIST, DIGITS, CIFAR = (1, 28, 28), (1, 8, 8), (3, 32, 32)
DIGITS_MODELS = {
    "softmax": lambda **o: models.softmax_classifier(DIGITS, **o),
    "mlp": lambda **o: models.mlp([64, 30, 20, 10], **o),
    "mlp tanh": lambda **o: models.mlp([64, 30, 10], "tanh", **o),
    "mlp sigmoid": lambda **o: models.mlp([64, 30, 10], activation="sigmoid", **o),
    "mlp dropout": lambda **o: models.mlp([64, 30, 10], dropout=0.3, **o),
    "cnn": lambda **o: models.cnn(DIGITS, filters=6, hidden=20, **o),
    "cnn batch norm": lambda **o: models.cnn(DIGITS, filters=6, hidden=20, batch_norm=True, **o),
    "cnn dropout": lambda **o: models.cnn(DIGITS, filters=6, hidden=20, batch_norm=True, dropout=0.25, **o),
}


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


PARAMETERS = [
    (lambda: models.softmax_classifier(), MNIST, 7850),
    (lambda: models.softmax_classifier(CIFAR), CIFAR, 3072 * 10 + 10),
    (lambda: models.mlp([784, 100, 10]), MNIST, 79510),
    (lambda: models.mlp([784, 10]), MNIST, 7850),
    (lambda: models.mlp([784, 300, 100, 10], dropout=0.5), MNIST, 785 * 300 + 301 * 100 + 101 * 10),
    (lambda: models.lenet5(), MNIST, 61706),
    (lambda: models.lenet5((1, 32, 32)), (1, 32, 32), 61706),
    (lambda: models.lenet5(CIFAR), CIFAR, 61706 + 2 * 25 * 6),
    (lambda: models.cnn(), MNIST, 32 * 50 + (32 * 11 * 11 + 1) * 100 + 1010),
    (lambda: models.cnn(batch_norm=True, dropout=0.5), MNIST, 32 * 50 + 64 + (32 * 11 * 11 + 1) * 100 + 1010),
    (lambda: models.cnn(DIGITS), DIGITS, 32 * 10 + (32 * 3 * 3 + 1) * 100 + 1010),
    (lambda: models.cnn(CIFAR, filters=8, kernel_size=5, hidden=50), CIFAR, 8 * 76 + (8 * 14 * 14 + 1) * 50 + 510),
]


@pytest.mark.parametrize("make, shape, parameters", PARAMETERS)
def test_sizes_and_shapes(make, shape, parameters):
    network = make()
    assert network.parameter_vector.size == parameters
    assert network.output_shape(shape) == (10,)
    x = np.random.default_rng(0).random((3, *shape), np.float32)
    assert network.forward(x).shape == (3, 10) and np.isfinite(network.forward(x)).all()
    assert f"{parameters:,} parameters" in network.summary(shape)


def test_the_order_of_the_layers_is_the_published_one():
    conv = ["Conv2d", "Tanh", "AvgPool2d"]
    assert kinds(models.lenet5()) == [*conv, *conv, "Flatten", "Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert kinds(models.cnn()) == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    full = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Dropout", "Flatten", "Linear", "ReLU", "Linear"]
    assert kinds(models.cnn(batch_norm=True, dropout=0.5)) == full
    assert kinds(models.mlp([4, 3, 2, 2], dropout=0.1)) == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]


def test_lenet5s_maps_have_the_papers_shapes():
    shape, shapes = MNIST, []
    for layer in models.lenet5().layers:
        shape = layer.output_shape(shape)
        shapes.append(shape)
    assert shapes[0] == (6, 28, 28) and shapes[2] == (6, 14, 14)
    assert shapes[3] == (16, 10, 10) and shapes[5] == (16, 5, 5)


def test_mlps_first_values_suit_the_activation():
    assert models.mlp([1000, 500, 10]).layers[1].weight.value.var() == pytest.approx(2 / 1000, rel=0.02)
    assert models.mlp([1000, 500, 10], "tanh").layers[1].weight.value.var() == pytest.approx(2 / 1500, rel=0.02)
    assert not models.softmax_classifier().parameter_vector.any()


@pytest.mark.parametrize("name", DIGITS_MODELS)
def test_seed_and_dtype_are_passed_on(name):
    one, same, other = (DIGITS_MODELS[name](seed=seed, dtype=np.float64) for seed in (1, 1, 2))
    assert one.parameter_vector.dtype == np.float64
    np.testing.assert_array_equal(one.parameter_vector, same.parameter_vector)
    assert name == "softmax" or not np.array_equal(one.parameter_vector, other.parameter_vector)


@pytest.mark.parametrize("name", DIGITS_MODELS)
def test_every_gradient_agrees_with_finite_differences(name):
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(5, *DIGITS)), rng.integers(0, 10, 5)
    network = DIGITS_MODELS[name](seed=2)
    for training in (True, False):
        check_gradients(network, x, labels, loss=SoftmaxCrossEntropy(), samples=12, training=training).raise_if_failed()


def test_lenet5s_gradients_agree_with_finite_differences():
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(2, *MNIST)), rng.integers(0, 10, 2)
    check_gradients(models.lenet5(), x, labels, loss=SoftmaxCrossEntropy(), samples=6).raise_if_failed()


@pytest.mark.parametrize("name", DIGITS_MODELS)
def test_every_model_learns_the_digits(name):
    data = datasets.digits()
    network, loss = DIGITS_MODELS[name](), SoftmaxCrossEntropy()
    before = evaluate(network, loss, data.test)
    fit(network, loss, SGD(lr=0.1, momentum=0.9), data.train, epochs=6, batch_size=32, progress=False)
    after = evaluate(network, loss, data.test)
    assert after.loss < 0.6 * before.loss and after.accuracy > 0.75


WRONG = [
    (lambda: models.mlp([784]), "sizes"),
    (lambda: models.mlp([]), "sizes"),
    (lambda: models.mlp([784, 0, 10]), "sizes must be an int of at least 1"),
    (lambda: models.mlp([784, 10], activation="swish"), "activation must be one of 'relu'"),
    (lambda: models.mlp([784, 5, 10], dropout=1.0), "dropout must be in"),
    (lambda: models.mlp([784, 5, 10], dropout=-0.1), "dropout must be in"),
    (lambda: models.cnn((1, 2, 2)), "Conv2d"),
    (lambda: models.lenet5((1, 8, 8)), "Conv2d|AvgPool2d"),
    (lambda: models.softmax_classifier(classes=0), "classes must be an int of at least 1"),
]


@pytest.mark.parametrize("make, message", WRONG)
def test_a_wrong_argument_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
