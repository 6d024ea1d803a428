"""What a prediction is: the class of a classifier, the numbers of a regression, and never a silent guess."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import fastbp
from fastbp import (
    SGD,
    HingeLoss,
    Linear,
    LogisticLoss,
    LogSoftmax,
    MeanSquaredError,
    MulticlassHinge,
    NLLLoss,
    Sequential,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
)

X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 2, 30)
CLASSIFIERS = {
    "softmax": (SoftmaxCrossEntropy, [lambda: Linear(4, 3)]),
    "log-softmax": (NLLLoss, [lambda: Linear(4, 3), LogSoftmax]),
    "hinge of three": (MulticlassHinge, [lambda: Linear(4, 3)]),
    "logistic": (LogisticLoss, [lambda: Linear(4, 1)]),
    "hinge": (HingeLoss, [lambda: Linear(4, 1)]),
}


def train(network, loss, targets):
    fastbp.fit(network, loss, SGD(lr=0.1), (X, targets), epochs=2, batch_size=10, progress=False)
    return network


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_a_regression_predicts_its_outputs(outputs, tmp_path):
    targets = np.random.default_rng(2).normal(size=(30, outputs)).astype(np.float32)
    network = train(Sequential(Linear(4, 6), Sigmoid(), Linear(6, outputs)), MeanSquaredError(), targets)
    expected = network.forward(X)
    network.save(tmp_path / "n.npz")
    for other in (
        network,
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        fastbp.load(tmp_path / "n.npz"),
    ):
        predicted = fastbp.predict(other, X, batch_size=7)
        assert predicted.dtype == np.float32 and predicted.shape == (30, outputs)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(fastbp.outputs(other, X, batch_size=7), predicted)
        with pytest.raises(ValueError, match="predict_proba: .* trained for regression"):
            fastbp.predict_proba(other, X)


def test_a_regression_of_images_predicts_images():
    network = Sequential(fastbp.Conv2d(1, 2, 3, padding="same"))
    x = np.random.default_rng(0).normal(size=(6, 1, 5, 5)).astype(np.float32)
    fastbp.Trainer(network, MeanSquaredError(), SGD()).step(x, np.zeros((6, 2, 5, 5), np.float32))
    assert fastbp.predict(network, x).shape == (6, 2, 5, 5)


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_predicts_classes(case, tmp_path):
    loss, layers = CLASSIFIERS[case]
    network = train(Sequential(*(make() for make in layers)), loss(), LABELS)
    y = network.forward(X)
    expected = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0] > 0
    network.save(tmp_path / "n.npz")
    for other in (network, fastbp.load(tmp_path / "n.npz")):
        assert other.task == "classification"
        assert fastbp.predict(other, X).dtype == np.int64
        np.testing.assert_array_equal(fastbp.predict(other, X), expected)


def test_a_training_that_had_ended_says_it_too(tmp_path):
    targets = np.random.default_rng(2).normal(size=(30, 2)).astype(np.float32)
    options = {"epochs": 1, "progress": False, "resume": tmp_path / "t.npz"}
    for _ in range(2):
        network = Sequential(Linear(4, 2))
        fastbp.fit(network, MeanSquaredError(), SGD(), (X, targets), **options)
        assert network.task == "regression"


def test_the_last_loss_decides():
    network = train(Sequential(Linear(4, 3)), SoftmaxCrossEntropy(), LABELS)
    train(network, MeanSquaredError(), np.zeros((30, 3), np.float32))
    assert network.task == "regression" and fastbp.predict(network, X).shape == (30, 3)


def test_a_loss_that_is_given_goes_before_all():
    network = train(Sequential(Linear(4, 3)), MeanSquaredError(), np.zeros((30, 3), np.float32))
    np.testing.assert_array_equal(fastbp.predict(network, X, loss=SoftmaxCrossEntropy()), network.forward(X).argmax(1))
    fresh = Sequential(Linear(4, 3))
    np.testing.assert_allclose(fastbp.predict(fresh, X, loss=MeanSquaredError()), fresh.forward(X), rtol=1e-5)
    with pytest.raises(TypeError, match="predict: expected loss to be a Loss, got str"):
        fastbp.predict(network, X, loss="mse")


@pytest.mark.parametrize("outputs, what", [(1, "a score for class 1"), (3, "scores of 3 classes")])
def test_a_guess_is_said(outputs, what):
    network = Sequential(Linear(4, outputs))
    with pytest.warns(UserWarning, match=f"predict: nothing says .* taken for {what}: give loss") as caught:
        fastbp.predict(network, X)
    assert caught[0].filename == __file__
    network.task = "classification"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbp.predict(network, X)


@pytest.mark.parametrize("last, outputs", [(Softmax, 3), (LogSoftmax, 3), (Sigmoid, 1)])
def test_a_last_layer_of_probabilities_says_it(last, outputs):
    assert fastbp.predict(Sequential(Linear(4, outputs), last()), X).dtype == np.int64


@pytest.mark.parametrize("task", ["regresion", 1, b"regression", ["regression"], np.zeros(2)])
def test_a_wrong_task_is_an_error(task):
    network = Sequential(Linear(4, 3))
    with pytest.raises(ValueError, match="task must be one of classification, regression, or None"):
        network.task = task
    assert network.task is None


def test_a_loss_of_ones_own_says_its_task():
    class Huber(MeanSquaredError):
        pass

    class Mine(fastbp.Loss):
        def forward(self, scores, targets):
            self.gradient = np.sign(scores - targets) / scores.size
            return np.abs(scores - targets).mean()  # a NumPy number

        def backward(self):
            return self.gradient

    targets = np.random.default_rng(2).normal(size=(30, 2)).astype(np.float32)
    assert train(Sequential(Linear(4, 2)), Huber(), targets).task == "regression"
    assert train(Sequential(Linear(4, 2)), Mine(), targets).task is None
    Mine.task = "regression"
    network = Sequential(Linear(4, 2))
    history = fastbp.fit(network, Mine(), SGD(), (X, targets), (X, targets), epochs=1, progress=False)
    assert network.task == "regression" and type(history.train_loss[0]) is type(history.validation_loss[0]) is float


# -- a loss that is not finite: what of the data made it so ------------------------------------------------------------


def not_finite(x, targets, loss, network, **options):
    with pytest.warns(UserWarning, match="the loss is") as caught:
        history = fastbp.fit(network, loss, SGD(lr=0.01), (x, targets), epochs=2, progress=False, **options)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert history.stop_reason in str(caught[0].message)
    return str(caught[0].message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_where_in_the_images_it_is(value):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2, 4, 4)).astype(np.float32)
    x[17, 1, 2, 3] = x[17, 1, 3, 0] = x[40, 0, 0, 0] = value
    network = Sequential(fastbp.Flatten(), Linear(32, 3))
    message = not_finite(x, rng.integers(0, 3, 50), SoftmaxCrossEntropy(), network, batch_size=10)
    assert f"train's x[17, 1, 2, 3] is {value} (2 of 50 samples hold such values)" in message
    assert "learning rate" not in message


def test_where_in_the_targets_it_is():
    targets = np.zeros((30, 2), np.float32)
    targets[3, 1] = np.inf
    message = not_finite(X, targets, MeanSquaredError(), Sequential(Linear(4, 2)))
    assert "train's targets[3, 1] is inf (1 of 30 samples" in message and "learning rate" not in message


def test_finite_data_leave_the_learning_rate():
    targets = np.full((30, 1), 1e25, np.float32)
    message = not_finite(X, targets, MeanSquaredError(), Sequential(Linear(4, 1)))
    assert message.endswith("training ends here. A lower learning rate may help.")


def test_an_augmentation_may_have_made_it():
    def spoil(x, rng):
        return x * np.float32(np.nan)

    message = not_finite(X, LABELS, SoftmaxCrossEntropy(), Sequential(Linear(4, 2)), augment=spoil)
    assert message.endswith("A lower learning rate may help, or the augmentation makes numbers that are not finite.")


def test_a_callback_that_ends_a_training_for_a_reason_of_its_own_warns_of_nothing():
    def stop(run):
        run.stop("the loss is low enough")

    history = fastbp.fit(
        Sequential(Linear(4, 2)), SoftmaxCrossEntropy(), SGD(), (X, LABELS), callbacks=[stop], progress=False
    )
    assert history.stop_reason == "the loss is low enough" and len(history) == 1
