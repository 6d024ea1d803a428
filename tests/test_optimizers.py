"""Optimisers against the oracle's step, over several steps, with and without weight decay."""

import naive
import numpy as np
import pytest

import fastbp

CASES = [
    (lambda **k: fastbp.SGD(0.1, **k), naive.sgd, {"lr": 0.1, "momentum": 0.0, "nesterov": False}),
    (lambda **k: fastbp.SGD(0.1, momentum=0.9, **k), naive.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": False}),
    (lambda **k: fastbp.SGD(0.1, 0.8, nesterov=True, **k), naive.sgd, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    (lambda **k: fastbp.Adam(0.02, **k), naive.adam, {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    (
        lambda **k: fastbp.Adam(0.02, beta1=0.5, beta2=0.7, eps=1e-3, **k),
        naive.adam,
        {"lr": 0.02, "beta1": 0.5, "beta2": 0.7, "eps": 1e-3},
    ),
    (lambda **k: fastbp.AdamW(0.02, **k), naive.adamw, {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    (lambda **k: fastbp.RMSProp(0.02, **k), naive.rmsprop, {"lr": 0.02, "alpha": 0.99, "eps": 1e-8}),
    (lambda **k: fastbp.RMSProp(0.02, decay=0.5, **k), naive.rmsprop, {"lr": 0.02, "alpha": 0.5, "eps": 1e-8}),
    (lambda **k: fastbp.Adagrad(0.1, **k), naive.adagrad, {"lr": 0.1, "eps": 1e-10}),
]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("make", "step", "settings"), CASES)
def test_steps_agree_with_the_oracle(make, step, settings, dtype, decay):
    rng, optimizer = np.random.default_rng(0), make(weight_decay=decay)
    values = rng.normal(size=7).astype(dtype)
    expected, state = values.astype(np.float64), {}
    for _ in range(6):
        grads = rng.normal(size=7).astype(dtype)
        given = grads.copy()
        optimizer.step(values, grads)
        expected, state = step(expected, grads.astype(np.float64), state, weight_decay=decay, **settings)
        assert np.array_equal(grads, given)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-6)


def test_the_learning_rate_can_be_changed_between_steps():
    optimizer, values = fastbp.SGD(lr=1.0), np.zeros(2)
    optimizer.step(values, np.array([1.0, 2.0]))
    optimizer.lr = np.float32(0.5)
    optimizer.step(values, np.array([1.0, 2.0]))
    assert values.tolist() == [-1.5, -3.0]


class SignSGD(fastbp.SGD):
    """SGD on the gradient's signs."""

    def update(self, values, grads, velocity):
        super().update(values, np.sign(grads), velocity)


def test_a_subclass_may_call_the_update_that_it_replaces():
    x, labels = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    network, plain = (fastbp.Sequential(fastbp.Linear(4, 3)) for _ in range(2))
    fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), SignSGD(lr=0.5)).step(x, labels)
    loss = fastbp.SoftmaxCrossEntropy()
    loss.forward(plain.forward(x, training=True), labels)
    plain.backward(loss.backward())
    wanted = plain.parameter_vector - np.float32(0.5) * np.sign(plain.gradient_vector)
    np.testing.assert_allclose(network.parameter_vector, wanted, rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="Optimizer does not define update"):
        fastbp.optimizers.Optimizer(0.1).step(np.zeros(2), np.ones(2))


def test_wrong_arguments_are_clear_errors():
    for make, message in [
        (lambda: fastbp.SGD(lr=-1), "SGD: lr must be a finite number, 0 or above, got -1"),
        (lambda: fastbp.SGD(lr=float("nan")), "lr must be"),
        (lambda: fastbp.SGD(momentum=1), r"momentum must be in \[0, 1\), got 1"),
        (lambda: fastbp.SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: fastbp.Adam(beta2=1.5), r"Adam: beta2 must be in \[0, 1\)"),
        (lambda: fastbp.RMSProp(weight_decay=-1), "weight_decay must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_an_optimiser_belongs_to_one_vector_size_and_dtype():
    optimizer = fastbp.Adam()
    optimizer.step(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="has been training 3 float64 parameters, got 4 float64"):
        optimizer.step(np.zeros(4), np.ones(4))
    with pytest.raises(ValueError, match="has been training 3 float64 parameters, got 3 float32"):
        optimizer.step(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="expected two vectors of one size and dtype"):
        optimizer.step(np.zeros(3), np.ones(4))
    assert optimizer.steps == 1
