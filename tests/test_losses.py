"""Losses: values against the oracle, gradients against finite differences, stability, label checks, planted bugs."""

import pickle

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import dims, values

import fastbp


def binary(kind, draw, N, rng):
    labels = rng.integers(0, 2, N)
    scores = values(rng, (N, 1) if draw(st.booleans()) else (N,))
    given_labels = draw(
        st.sampled_from([labels, labels * 2 - 1, labels.astype(bool), labels.astype(float), labels.reshape(-1, 1)])
    )
    return kind, scores, labels, given_labels


@st.composite
def cases(draw, name):
    """(loss, scores, labels as the oracle takes them, labels as the user gives them)"""
    N, C = draw(dims(1, 5)), draw(dims(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if name == "MeanSquaredError":
        shape = draw(st.sampled_from([(N,), (N, C), (N, 1), (N, C, 2)]))
        target = rng.normal(size=shape)
        return fastbp.MeanSquaredError(), values(rng, shape), target, target
    if name in ("LogisticLoss", "HingeLoss"):
        loss = fastbp.LogisticLoss() if name == "LogisticLoss" else fastbp.HingeLoss(draw(st.sampled_from([1.0, 0.37])))
        return binary(loss, draw, N, rng)
    labels = rng.integers(0, C, N)
    loss = {
        "SoftmaxCrossEntropy": lambda: fastbp.SoftmaxCrossEntropy(draw(st.sampled_from([0.0, 0.1, 1.0]))),
        "MulticlassHinge": lambda: fastbp.MulticlassHinge(draw(st.sampled_from([1.0, 0.77]))),
        "NLLLoss": fastbp.NLLLoss,
    }[name]()
    return loss, values(rng, (N, C)), labels, labels.astype(draw(st.sampled_from([np.int64, np.uint8, np.int16])))


ORACLES = {
    "SoftmaxCrossEntropy": lambda loss, s, t: naive.softmax_cross_entropy(s, t, loss.label_smoothing),
    "LogisticLoss": lambda loss, s, t: naive.logistic(s.ravel(), t),
    "HingeLoss": lambda loss, s, t: naive.hinge(s.ravel(), t, loss.margin),
    "MulticlassHinge": lambda loss, s, t: naive.multiclass_hinge(s, t, loss.margin),
    "MeanSquaredError": lambda loss, s, t: naive.mean_squared_error(s, t),
    "NLLLoss": lambda loss, s, t: naive.nll(s, t),
}
names = pytest.mark.parametrize("name", ORACLES)


@names
@given(data=st.data())
def test_value_agrees_with_the_oracle(name, data):
    loss, scores, labels, given_labels = data.draw(cases(name))
    assert loss.forward(scores, given_labels) == pytest.approx(
        ORACLES[name](loss, scores, labels), rel=1e-10, abs=1e-10
    )


@names
@given(data=st.data())
def test_gradient_agrees_with_finite_differences(name, data):
    loss, scores, _, given_labels = data.draw(cases(name))
    fastbp.check_gradients(loss, scores, given_labels).raise_if_failed()


@names
@given(data=st.data())
def test_backward_twice_gives_the_same_and_changes_nothing(name, data):
    loss, scores, _, given_labels = data.draw(cases(name))
    before, labels_before = scores.copy(), given_labels.copy()
    loss.forward(scores, given_labels)
    first = loss.backward()
    out = np.full_like(scores, np.nan)
    assert loss.backward(out=out) is out and np.array_equal(first, out)
    assert first.shape == scores.shape and first.dtype == scores.dtype
    assert np.array_equal(scores, before) and np.array_equal(given_labels, labels_before)


@names
@given(data=st.data())
def test_float32_agrees_with_float64_to_rounding(name, data):
    loss, scores, _, given_labels = data.draw(cases(name))
    small = scores.astype(np.float32)
    if name == "MeanSquaredError":
        given_labels = given_labels.astype(np.float32)
    value32, gradient32 = loss.forward(small, given_labels), loss.backward()
    value64, gradient64 = loss.forward(small.astype(np.float64), given_labels), loss.backward()
    assert value32 == pytest.approx(value64, rel=1e-5, abs=1e-6) and gradient32.dtype == np.float32
    np.testing.assert_allclose(gradient32, gradient64, rtol=1e-5, atol=1e-6)


@names
@given(data=st.data())
def test_nan_scores_give_a_nan_loss(name, data):
    loss, scores, _, given_labels = data.draw(cases(name))
    if name == "MulticlassHinge" and scores.shape[1] == 1:
        return  # no wrong class, nothing to sum
    scores[:] = np.nan
    assert np.isnan(loss.forward(scores, given_labels))


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0, 3.0])
@names
def test_the_checker_rejects_a_wrong_gradient(name, factor, monkeypatch):
    rng = np.random.default_rng(1)
    shape = (3,) if name in ("LogisticLoss", "HingeLoss") else (3, 4)
    scores = values(rng, shape) / 8
    targets = rng.normal(size=shape) if name == "MeanSquaredError" else rng.integers(0, 2, 3)
    loss = getattr(fastbp, name)()
    assert fastbp.check_gradients(loss, scores, targets).passed
    correct = type(loss).backward
    monkeypatch.setattr(type(loss), "backward", lambda self: correct(self) * factor)
    assert not fastbp.check_gradients(loss, scores, targets).passed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_scores(dtype):
    scores = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype)
    loss = fastbp.SoftmaxCrossEntropy()
    assert loss.forward(scores, np.array([0, 1])) == 0
    assert not loss.backward().any()
    assert loss.forward(scores, np.array([1, 0])) == 2e4
    np.testing.assert_allclose(loss.backward(), [[0.5, -0.5, 0], [-0.5, 0.5, 0]])
    smooth = fastbp.SoftmaxCrossEntropy(label_smoothing=0.3)
    assert smooth.forward(scores, np.array([0, 1])) == pytest.approx(0.1 * 2e4 + 0.1 * 1e4)
    logistic = fastbp.LogisticLoss()
    assert logistic.forward(scores[:, 0], np.array([1, 0])) == 0
    assert logistic.forward(scores[:, 0], np.array([0, 1])) == 1e4
    assert logistic.backward().tolist() == [0.5, -0.5]


def test_hinge_at_the_kink_is_zero():
    loss = fastbp.HingeLoss()
    loss.forward(np.array([1.0, -1.0, 0.5]), np.array([1, 0, 1]))
    np.testing.assert_allclose(loss.backward(), [0, 0, -1 / 3])
    multi = fastbp.MulticlassHinge()
    multi.forward(np.array([[2.0, 1.0, 1.5]]), np.array([0]))
    assert multi.backward().tolist() == [[-1, 0, 1]]


@pytest.mark.parametrize(
    "labels", [np.array([0, 4]), np.array([-1, 2]), np.array([0, 2.0]), np.array([0]), np.array([[0], [1]])]
)
def test_a_step_refuses_the_labels_that_forward_refuses(labels):
    loss, scores, out = fastbp.SoftmaxCrossEntropy(), np.random.default_rng(0).normal(size=(2, 4)), np.zeros((2, 4))
    with pytest.raises((TypeError, ValueError)) as from_forward:
        loss.forward(scores, labels)
    with pytest.raises(from_forward.type, match="labels") as from_step:
        loss.step(scores, labels, out)
    assert str(from_step.value) == str(from_forward.value)
    assert loss.step(scores, np.array([0, 3]), out) == loss.forward(scores, np.array([0, 3]))
    assert np.array_equal(out, loss.backward())


@pytest.mark.parametrize(
    ("make", "scores", "targets", "error", "message"),
    [
        ("SoftmaxCrossEntropy", np.zeros((3, 4)), [0, 1, 4], ValueError, r"labels must be in \[0, 4\), got 4"),
        ("SoftmaxCrossEntropy", np.zeros((3, 4)), [0, -1, 2], ValueError, r"labels must be in \[0, 4\), got -1"),
        (
            "SoftmaxCrossEntropy",
            np.zeros((3, 4)),
            [0, 1],
            ValueError,
            r"expected labels \(3,\) for scores \(3, 4\), got \(2,\)",
        ),
        (
            "SoftmaxCrossEntropy",
            np.zeros((3, 4)),
            np.zeros((3, 4), int),
            ValueError,
            r"one-hot rows pass targets.argmax",
        ),
        (
            "SoftmaxCrossEntropy",
            np.zeros((3, 4)),
            [0.0, np.nan, 1.0],
            TypeError,
            "integer labels, got float64 with NaN",
        ),
        ("SoftmaxCrossEntropy", np.zeros((3, 4)), [0.0, 1.0, 2.0], TypeError, "integer labels, got float64"),
        ("SoftmaxCrossEntropy", np.zeros((0, 4)), np.zeros(0, int), ValueError, "empty batch"),
        ("SoftmaxCrossEntropy", np.zeros(3), [0, 0, 0], ValueError, r"expected scores \(N, C\), got \(3,\)"),
        ("SoftmaxCrossEntropy", np.zeros((3, 4), int), [0, 0, 0], TypeError, "float32 or float64, got int64"),
        ("SoftmaxCrossEntropy", [[1.0]], [0], TypeError, "expected scores to be a NumPy array, got list"),
        ("MulticlassHinge", np.zeros((3, 4)), [0, 1, 2**40], ValueError, r"labels must be in \[0, 4\)"),
        ("NLLLoss", np.zeros((3, 4)), [0, 1, 9], ValueError, r"labels must be in \[0, 4\), got 9"),
        ("LogisticLoss", np.zeros(3), [0, 1, 2], ValueError, "all 0/1 or all -1/"),
        ("LogisticLoss", np.zeros(3), [0, 1, -1], ValueError, "all 0/1 or all -1/"),
        ("LogisticLoss", np.zeros(3), [0, 1, np.nan], ValueError, "all 0/1 or all -1/"),
        ("LogisticLoss", np.zeros((3, 2)), [0, 1, 1], ValueError, r"expected scores \(N,\) or \(N, 1\), got \(3, 2\)"),
        ("HingeLoss", np.zeros(3), ["a", "b", "c"], TypeError, "expected labels 0/1 or -1/"),
        ("HingeLoss", np.zeros(3), [[0, 1, 1]], ValueError, r"expected labels \(3,\)"),
        ("MeanSquaredError", np.zeros((3, 1)), np.zeros(3), ValueError, r"expected targets \(3, 1\), got \(3,\)"),
        ("MeanSquaredError", np.zeros(2), [0, np.nan], ValueError, "targets hold NaN"),
    ],
)
def test_bad_targets_are_clear_errors(make, scores, targets, error, message):
    with pytest.raises(error, match=f"{make}: .*{message}"):
        getattr(fastbp, make)().forward(scores, np.array(targets) if not isinstance(targets, np.ndarray) else targets)


def test_backward_before_forward_is_an_error():
    with pytest.raises(RuntimeError, match="HingeLoss.backward called before forward"):
        fastbp.HingeLoss().backward()


def test_decisions_probabilities_and_counts():
    scores = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    loss = fastbp.SoftmaxCrossEntropy()
    assert loss.predict(scores).tolist() == [0, 2] and loss.correct(scores, np.array([0, 1])) == 1
    np.testing.assert_allclose(loss.probabilities(scores), naive.softmax(scores))
    one = fastbp.LogisticLoss()
    assert one.predict(np.array([[-0.1], [0.1]])).tolist() == [0, 1]
    assert one.correct(np.array([-0.1, 0.1]), np.array([-1, -1])) == 1
    np.testing.assert_allclose(one.probabilities(np.array([0.3])), naive.sigmoid(np.array([0.3])))
    assert fastbp.MeanSquaredError().correct(scores, scores) is None
    with pytest.raises(TypeError, match="MeanSquaredError has no classes"):
        fastbp.MeanSquaredError().predict(scores)
    with pytest.raises(TypeError, match="HingeLoss does not give probabilities"):
        fastbp.HingeLoss().probabilities(scores)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\]"):
        fastbp.SoftmaxCrossEntropy(label_smoothing=-0.1)


LOSSES = ("SoftmaxCrossEntropy", "NLLLoss", "LogisticLoss", "HingeLoss", "MulticlassHinge", "MeanSquaredError")


@pytest.mark.parametrize("name", [*LOSSES, "Loss"])
def test_pickles_name_a_loss_by_the_room(name):
    """As pickles of before do, which must still be read."""
    assert pickle.loads(f"cfastbp.losses\n{name}\n.".encode()) is getattr(fastbp, name)
    assert type(pickle.loads(pickle.dumps(getattr(fastbp, name)()))) is getattr(fastbp, name)


@pytest.mark.parametrize("name", LOSSES)
def test_training_looks_at_the_targets_of_the_packages_own_losses(name):
    """A loss of a user's own may take other targets: they are not looked at."""
    own = type(name, (getattr(fastbp, name),), {"forward": lambda self, scores, targets: targets["value"]})
    outputs = 1 if name in ("LogisticLoss", "HingeLoss") else 3
    x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    network = fastbp.Sequential(fastbp.Linear(2, outputs))
    with pytest.raises(ValueError, match=r"Trainer.step: x \(4, 2\) and targets \(3,\) differ in length"):
        fastbp.Trainer(network, getattr(fastbp, name)(), fastbp.SGD()).step(x, np.zeros(3, np.int64))
    with pytest.raises(KeyError, match="value"):
        fastbp.Trainer(network, own(), fastbp.SGD()).step(x, {})


# -- the squared error in a training step, one kernel call -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_squared_error_of_a_training_step(outputs, dtype):
    rng, network = np.random.default_rng(0), fastbp.Sequential(fastbp.Linear(4, outputs), seed=1, dtype=dtype)
    x, y = rng.normal(size=(9, 4)).astype(dtype), rng.normal(size=(9, outputs)).astype(dtype)
    trainer = fastbp.Trainer(network, fastbp.MeanSquaredError(), fastbp.SGD(lr=0.5))
    for targets in (y, y.tolist(), y.astype(np.float64)):
        w, b = (parameter.value.astype(np.float64) for parameter in network.parameters)
        error = x @ w.T + b - y
        assert trainer.step(x, targets) == pytest.approx((error**2).mean(), rel=1e-5)
        np.testing.assert_allclose(network.parameters[0].value, w - error.T @ x / error.size, atol=1e-5)
        np.testing.assert_allclose(network.parameters[1].value, b - error.sum(0) / error.size, atol=1e-5)
    before, y[5, 0] = network.parameter_vector.copy(), np.nan
    with pytest.raises(ValueError, match="targets hold NaN"):
        trainer.step(x, y)
    with pytest.raises(ValueError, match=rf"expected targets \(9, {outputs}\), got \(9,\)"):
        trainer.step(x, y[:, 0])
    assert np.array_equal(network.parameter_vector, before) and trainer.optimizer.steps == 3
    x[2] = np.nan
    assert np.isnan(trainer.step(x, np.zeros_like(y)))
