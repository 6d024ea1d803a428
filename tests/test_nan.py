"""NaN in, NaN out: through every layer, forward and back, layer by layer and in a network's training step."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_cases import FAMILIES, cases

import fastbp

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def with_element(array: np.ndarray, index: int, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[index] = value
    return changed


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(data=st.data())
def test_what_depends_on_a_nan_is_nan(family, data):
    """An output depends on an element of the input if two large values of that element make a difference to it."""
    case = data.draw(cases(family))
    training, layer, x = (
        data.draw(st.booleans()),
        case.layer.astype(data.draw(st.sampled_from([np.float32, np.float64]))),
        case.x,
    )
    x = x.astype(layer.dtype or np.float32)
    state = {name: array.copy() for name, array in layer.state.items()}

    def forward(value: float) -> np.ndarray:
        layer.state.update(state)  # the same mask of dropout again
        return layer.forward(with_element(x, index, value), training=training)

    index = data.draw(st.integers(0, x.size - 1))
    depends = forward(5.0) != forward(6.0)
    assume(depends.any())
    assert np.isnan(forward(np.nan)[depends]).all()

    layer.state.update(state)
    y = layer.forward(x, training=training)
    dout = np.linspace(-1, 1, y.size, dtype=y.dtype).reshape(y.shape)
    index = data.draw(st.integers(0, y.size - 1))
    one, two = (layer.backward(with_element(dout, index, value)) for value in (5.0, 6.0))
    assert np.isnan(layer.backward(with_element(dout, index, np.nan))[one != two]).all()
    for parameter in layer.parameters:
        gradients = []
        for value in (5.0, 6.0, np.nan):
            layer.backward(with_element(dout, index, value))
            gradients.append(parameter.grad.copy())
        assert np.isnan(gradients[2][gradients[0] != gradients[1]]).all()


@both_dtypes
def test_dropout_keeps_what_is_not_finite(dtype):
    """y = x · m / (1 − rate) in IEEE arithmetic: 0 · NaN and 0 · ∞ are NaN. Finite numbers that are dropped are +0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000).astype(dtype)
    x[:1000] = rng.choice([np.nan, np.inf, -np.inf], 1000)
    x[1000:1100] = rng.choice([np.finfo(dtype).max, -np.finfo(dtype).max, np.finfo(dtype).tiny, -0.0], 100)
    layer = fastbp.Dropout(0.4)
    y = layer.forward(x, training=True)
    layer.state["step"] = 0
    kept = layer.forward(np.ones_like(x), training=True) != 0
    with np.errstate(all="ignore"):
        expected = x * kept.astype(dtype) * dtype(1 / (1 - 0.4))
    finite = np.isfinite(x)
    assert 500 < kept.sum() < 1500
    np.testing.assert_array_equal(y[kept], expected[kept])
    assert (
        np.isnan(y[~kept & ~finite]).all() and not y[~kept & finite].any() and not np.signbit(y[~kept & finite]).any()
    )
    np.testing.assert_array_equal(layer.backward(x), y)  # the same mask


NETWORKS = {
    "shifted rows, ReLU and pooling in one pass": lambda: [fastbp.Conv2d(1, 3, 3), fastbp.ReLU(), fastbp.MaxPool2d(2)],
    "the same by filters": lambda: [fastbp.Conv2d(1, 16, 5), fastbp.ReLU(), fastbp.MaxPool2d(2)],
    "strides": lambda: [fastbp.Conv2d(1, 4, 3, stride=3), fastbp.Tanh(), fastbp.MaxPool2d(2)],
    "Winograd": lambda: [
        fastbp.Conv2d(1, 16, 3),
        fastbp.ReLU(),
        fastbp.Conv2d(16, 16, 3),
        fastbp.ReLU(),
        fastbp.AvgPool2d(2),
    ],
    "overlapping windows": lambda: [fastbp.Conv2d(1, 3, 3), fastbp.LeakyReLU(), fastbp.MaxPool2d(3, stride=2)],
    "linear and ReLU": lambda: [
        fastbp.Flatten(),
        fastbp.Linear(144, 20),
        fastbp.ReLU(),
        fastbp.Linear(20, 9),
        fastbp.Sigmoid(),
    ],
    "dropout": lambda: [
        fastbp.Dropout(0.3),
        fastbp.Flatten(),
        fastbp.Linear(144, 20),
        fastbp.ReLU(),
        fastbp.Dropout(0.3),
    ],
}


@both_dtypes
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sample_with_nan_has_nan_scores_in_training_and_the_others_have_none(name, dtype):
    rng = np.random.default_rng(1)
    layers = NETWORKS[name]()
    shape = (1, 12, 12)
    for layer in layers:
        shape = layer.output_shape(shape)
    network = fastbp.Sequential(*layers, fastbp.Flatten(), fastbp.Linear(int(np.prod(shape)), 3), dtype=dtype)
    x, labels = rng.normal(size=(6, 1, 12, 12)).astype(dtype), rng.integers(0, 3, 6)
    x[4, 0, 5, 4] = np.nan
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(0.1))
    value = trainer.step(x, labels)
    assert np.isnan(value)
    assert np.isnan(trainer.scores[4]).all() and np.isfinite(np.delete(trainer.scores, 4, axis=0)).all()
    assert np.isnan(network.layers[-1].weight.value).any(axis=1).all() and np.isnan(network.layers[-1].bias.value).all()
    first = network.parameters[0]
    assert np.isnan(first.grad).any() and np.isnan(first.value).any()


@both_dtypes
def test_a_channel_with_nan_is_nan_behind_batch_norm(dtype):
    """In training a channel's mean is that of all samples."""
    layers = [fastbp.BatchNorm2d(2), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(18, 3)]
    x = np.random.default_rng(2).normal(size=(5, 2, 6, 6)).astype(dtype)
    x[3, 1, 2, 2] = np.nan
    network = fastbp.Sequential(*layers, dtype=dtype)
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.Adam())
    assert np.isnan(trainer.step(x, np.array([0, 1, 2, 0, 1])))
    assert np.isnan(trainer.scores).all()
    state = network.layers[0].state
    for running in (state["running_mean"], state["running_var"]):
        assert np.isfinite(running[0]) and np.isnan(running[1])
