"""Test-time augmentation: the mean over views that are made here pixel by pixel."""

import numpy as np
import pytest

import fastbp
from fastbp import Conv2d, Flatten, Linear, MeanSquaredError, ReLU, Sequential, SoftmaxCrossEntropy

rng = np.random.default_rng(0)
X, LABELS = rng.normal(size=(7, 2, 4, 5)), rng.integers(0, 3, 7)


def network():
    return Sequential(Conv2d(2, 3, 2), ReLU(), Flatten(), Linear(36, 3), dtype=np.float64, seed=1)


def view(x, mirror, down, right):
    """Each pixel from where it was before the image was mirrored, if it was, and then moved, the border reflected."""
    (N, C, H, W), y = x.shape, np.empty_like(x)

    def at(i, size):
        return -i if i < 0 else 2 * (size - 1) - i if i >= size else i

    for n, c, i, j in np.ndindex(N, C, H, W):
        column = W - 1 - j if mirror else j
        y[n, c, i, j] = x[n, c, at(i - down, H), at(column - right, W)]
    return y


FLIP = [(0.5, (False, 0, 0)), (0.5, (True, 0, 0))]
FLIP_SHIFT = [
    (0.25, (False, 0, 0)), (0.25, (True, 0, 0)), (0.125, (False, -1, -1)), (0.125, (True, -1, -1)),
    (0.125, (False, 1, 1)), (0.125, (True, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "views"), [("flip", FLIP), ("flip_shift", FLIP_SHIFT)])
@pytest.mark.parametrize("batch_size", [3, 256])
def test_outputs_are_the_weighted_mean_over_the_views(name, views, batch_size):
    net = network()
    wanted = sum(weight * net.forward(view(X, *how)) for weight, how in views)
    found = fastbp.outputs(net, X, batch_size, augment=name)
    np.testing.assert_allclose(found, wanted, atol=1e-13)
    assert np.array_equal(fastbp.predict(net, X, batch_size, loss=SoftmaxCrossEntropy(), augment=name), found.argmax(1))
    proba = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fastbp.predict_proba(net, X, batch_size, augment=name), proba, atol=1e-13)
    loss, accuracy = fastbp.evaluate(net, SoftmaxCrossEntropy(), (X, LABELS), batch_size, augment=name)
    assert loss == pytest.approx(-np.log(proba[np.arange(7), LABELS]).mean(), abs=1e-12)
    assert accuracy == pytest.approx(np.mean(wanted.argmax(1) == LABELS))


def test_views_of_ones_own():
    net, x = Sequential(Linear(3, 2), dtype=np.float64), rng.normal(size=(5, 3))
    wanted = (net.forward(x) + 3 * net.forward(2 * x)) / 4
    found = fastbp.outputs(net, x, augment=[lambda x: x, (3, lambda x: 2 * x)])
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    loss = fastbp.evaluate(net, MeanSquaredError(), (x, wanted), augment=[lambda x: x, (3, lambda x: 2 * x)])[0]
    assert loss == pytest.approx(0, abs=1e-25)
    assert np.array_equal(fastbp.outputs(net, x, augment=[lambda x: x]), fastbp.outputs(net, x))
    single = Sequential(Linear(3, 2))
    given = x.astype(np.float32)
    assert fastbp.outputs(single, given, augment=[lambda x: x, lambda x: -x]).dtype == np.float32


def test_wrong_views_are_clear_errors():
    net, dense = network(), Sequential(Linear(3, 2), dtype=np.float64)
    for error, call, message in [
        (ValueError, lambda: fastbp.outputs(net, X, augment="mirror"), "augment must be one of 'flip', 'flip_shift'"),
        (TypeError, lambda: fastbp.outputs(net, X, augment=3), "outputs: augment must be one of .* or a list"),
        (TypeError, lambda: fastbp.predict(net, X, augment=[3]), "augment must hold functions of a batch"),
        (TypeError, lambda: fastbp.predict(net, X, augment=[("a", abs)]), "augment: a weight must be a number"),
        (ValueError, lambda: fastbp.predict(net, X, augment=[(0, abs)]), "augment: a weight must be positive"),
        (ValueError, lambda: fastbp.predict_proba(net, X, augment=[]), "augment must hold at least one function"),
        (
            ValueError,
            lambda: fastbp.evaluate(net, SoftmaxCrossEntropy(), (X, LABELS), augment=[lambda x: x[:, :, 1:]]),
            r"augment: a function made float64 \(7, 2, 3, 5\) of a batch float64 \(7, 2, 4, 5\)",
        ),
        (ValueError, lambda: fastbp.outputs(dense, X[:, 0, 0, :3], augment="flip"), r"expected images \(N, C, H, W\)"),
        (
            ValueError,
            lambda: fastbp.outputs(Sequential(Flatten()), np.zeros((2, 1, 1, 3), np.float32), augment="flip_shift"),
            "expected images .* of at least 2 pixels a side",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
