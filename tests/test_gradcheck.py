"""The checker itself: it accepts what is right, rejects what is wrong, and says what and where."""

import math

import numpy as np
import pytest
from refused import no_arrays, refused

import fastbp
from fastbp.layers.activations import TanhOp
from fastbp.testing import assert_gradients

pytestmark = pytest.mark.portable


def affine_forward(x, w, b):
    return x @ w + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


def affine_inputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)


def test_a_pair_of_plain_functions():
    report = fastbp.check_gradients((affine_forward, affine_backward), *affine_inputs())
    assert report.passed and [t.name for t in report.tensors] == ["x", "w", "b"]
    assert [t.checked for t in report.tensors] == [12, 6, 2]
    assert "all 3 gradients ok" in str(report)


def test_the_report_names_the_worst_element():
    def backward(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        dw[1, 0] *= 1.01
        dw[2, 1] *= 3
        return dx, dw, db

    report = fastbp.check_gradients((affine_forward, backward), *affine_inputs())
    wrong = report.tensors[1]
    assert [t.passed for t in report.tensors] == [True, False, True]
    assert wrong.index == (2, 1) and wrong.failures == 2
    assert wrong.analytic == pytest.approx(3 * wrong.numeric) and wrong.error == pytest.approx(2 / 3, rel=0.05)
    with pytest.raises(fastbp.GradientError) as error:
        report.raise_if_failed()
    for text in ("WRONG", "w  ", "(2, 1)", f"{wrong.analytic:.6g}", "1 of 3 gradients WRONG"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    "bug",
    [
        lambda dx, dw, db: (dx, dw.T.copy(), db),
        lambda dx, dw, db: (dx, dw, db[:1]),
        lambda dx, dw, db: (dx * np.nan, dw, db),
        lambda dx, dw, db: (dx + 1e-4, dw, db),
        lambda dx, dw, db: (dx, dw, db * (1 + 1e-5)),
        lambda dx, dw, db: (dx, dw, db.astype(complex)),
    ],
)
def test_wrong_gradients_of_functions_are_rejected(bug):
    pair = (affine_forward, lambda dout, cache: bug(*affine_backward(dout, cache)))
    report = fastbp.check_gradients(pair, *affine_inputs())
    assert not report.passed and "WRONG" in str(report)


def test_a_gradient_of_zero_is_rejected_where_the_sum_has_none():
    """Σ softmax(x) is constant: with a cotangent of ones, zeros would pass."""

    def forward(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True), x

    x = np.random.default_rng(0).normal(size=(3, 4))
    assert not fastbp.check_gradients((forward, lambda dout, x: np.zeros_like(x)), x).passed


def test_kinks_are_counted_and_any_value_between_the_slopes_is_right():
    x = np.array([0.0, 1.0, -1.0, 0.0, 1e-9])
    for at_zero, right in ((0.0, True), (0.5, True), (1.0, True), (1.5, False), (-0.2, False)):
        slope = np.where(x == 0, at_zero, x > 0)
        report = fastbp.check_gradients((lambda x: (np.maximum(x, 0), None), lambda dout, _, s=slope: dout * s), x)
        assert report.passed == right
        if right:
            assert report.tensors[0].counts == {"ok": 3, "kink": 2}  # 1e-9 is off it
            assert "5 (2 at a kink)" in str(report)


def test_a_kink_near_by_does_not_fail_a_right_gradient():
    x = np.array([3e-5, -3e-5, 3e-6, -3e-6, 5e-7])
    report = fastbp.check_gradients(fastbp.ReLU(), x.reshape(1, -1))
    assert report.passed and report.tensors[0].kinks == 0
    wrong = (lambda x: (np.maximum(x, 0), x), lambda dout, x: dout * (x > 1e-6))
    assert not fastbp.check_gradients(wrong, x).passed


def test_gradients_that_are_zero_pass_though_numeric_ones_are_rounding():
    """A bias before batch norm has no effect."""
    network = fastbp.Sequential(fastbp.Linear(3, 4), fastbp.BatchNorm1d(4), fastbp.Tanh())
    x = np.random.default_rng(0).normal(size=(6, 3)) * 100
    fastbp.check_gradients(network, x).raise_if_failed()


def test_a_network_with_a_loss():
    rng = np.random.default_rng(0)
    network = fastbp.Sequential(
        fastbp.Conv2d(1, 3, 3), fastbp.BatchNorm2d(3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Dropout(0.3),
        fastbp.Flatten(), fastbp.Linear(12, 4),
    )  # fmt: skip
    before = network.state_dict()
    x, labels = rng.normal(size=(5, 1, 6, 6)).astype(np.float32), rng.integers(0, 4, 5)
    for training in (True, False):
        report = fastbp.check_gradients(network, x, labels, loss=fastbp.SoftmaxCrossEntropy(), training=training)
        report.raise_if_failed()
        assert [t.name for t in report.tensors] == [
            "x", "0.weight (Conv2d)", "0.bias (Conv2d)", "1.gamma (BatchNorm2d)", "1.beta (BatchNorm2d)",
            "6.weight (Linear)", "6.bias (Linear)",
        ]  # fmt: skip
    assert network.dtype == np.float32
    for name, array in network.state_dict().items():
        assert np.array_equal(array, before[name]), f"the checker changed the user's {name}"


def test_a_network_with_a_wrong_layer_inside_is_rejected(monkeypatch):
    network = fastbp.Sequential(fastbp.Linear(3, 4), fastbp.Tanh(), fastbp.Linear(4, 2))
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert fastbp.check_gradients(network, x).passed
    monkeypatch.setattr(TanhOp, "backward", lambda op: [lambda: np.copyto(op.dx, op.dout * (1 - op.y))])
    report = fastbp.check_gradients(network, x)
    assert [t.passed for t in report.tensors] == [False, False, False, True, True]


def test_samples_limits_the_elements_and_says_so():
    layer, x = fastbp.Linear(30, 20), np.random.default_rng(0).normal(size=(2, 30))
    report = fastbp.check_gradients(layer, x, samples=7)
    assert [t.checked for t in report.tensors] == [7, 7, 7] and "7 of 600" in str(report)


def test_the_seed_decides_everything():
    layer, x = fastbp.Linear(3, 2), np.random.default_rng(0).normal(size=(2, 3))
    first, again, other = (str(fastbp.check_gradients(layer, x, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_integer_inputs_are_passed_on():
    def forward(table, rows):
        return table[rows], (table.shape, rows)

    def backward(dout, cache):
        shape, rows = cache
        dtable = np.zeros(shape)
        np.add.at(dtable, rows, dout)
        return dtable

    table, rows = np.random.default_rng(0).normal(size=(5, 2)), np.array([0, 3, 3])
    assert fastbp.check_gradients((forward, backward), table, rows).passed


def test_inputs_are_left_as_they_were():
    inputs = affine_inputs()
    before = [a.copy() for a in inputs]
    fastbp.check_gradients((affine_forward, affine_backward), *inputs)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, before, strict=True))
    frozen = inputs[0].astype(np.float32)
    frozen.flags.writeable = False
    assert fastbp.check_gradients(fastbp.Linear(3, 2), frozen).passed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fastbp.check_gradients(fastbp.Linear(3, 2)), "give the inputs to check at"),
        (
            lambda x: fastbp.check_gradients(fastbp.Linear, x),
            "expected a layer, a network, a loss or a pair of functions",
        ),
        (lambda x: fastbp.check_gradients(fastbp.HingeLoss(), x), "a loss takes scores and targets"),
        (lambda x: fastbp.check_gradients(fastbp.Linear(3, 2), x, x), "takes x; with loss"),
    ],
)
def test_wrong_calls_are_clear_errors(call, message):
    with pytest.raises(TypeError, match=message):
        call(np.zeros((2, 3)))


def test_too_few_gradients_is_a_clear_error():
    with pytest.raises(ValueError, match="backward returned 2 gradients for 3 floating-point inputs"):
        fastbp.check_gradients((affine_forward, lambda dout, cache: affine_backward(dout, cache)[:2]), *affine_inputs())


def test_empty_tensors_are_ok():
    assert fastbp.check_gradients(fastbp.Linear(3, 2), np.zeros((0, 3))).passed


# -- bad arguments -----------------------------------------------------------------------------------------------------


def square(x):
    return x * x, x


def square_backward(dout, x):
    return 2 * x * dout


X = np.linspace(-1, 2, 6).reshape(2, 3)
OPTIONS = {
    "tolerance": [None, "a", True, 1j, 0, -1.0, math.nan, math.inf, np.ones(2)],
    "mode": [None, "x", 3, ["full"], np.array(["full", "sampled"])],
    "samples": [0, -1, 2.5, "3", True, np.ones(2)],
    "seed": [None, True, -1, 0.5, "0", np.ones(2)],
    "smallest": [None, 1, "no"],
    "training": [None, 0, "yes"],
    "loss": ["hinge", fastbp.HingeLoss, fastbp.ReLU(), 3],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options_are_named(name):
    for value in OPTIONS[name]:
        refused(lambda value=value: fastbp.check_gradients(fastbp.Linear(3, 2), X, **{name: value}), name)
    refused(lambda: fastbp.check_gradients(fastbp.ReLU(), X, samples=3, mode="directional"), "samples", kind=ValueError)
    refused(lambda: assert_gradients(fastbp.ReLU(), X, sample=3), "sample", kind=TypeError)


@pytest.mark.parametrize("number", range(len(no_arrays(X))))
def test_inputs_that_are_no_arrays_of_real_numbers_are_named(number):
    value, labels, loss = no_arrays(X)[number], np.array([0, 2]), fastbp.SoftmaxCrossEntropy()
    for thing in (fastbp.Linear(3, 2), fastbp.Sequential(fastbp.Linear(3, 2))):
        refused(lambda thing=thing: fastbp.check_gradients(thing, value), "input x", kind=TypeError)
    refused(lambda: fastbp.check_gradients(loss, value, labels), "input scores", kind=TypeError)
    refused(lambda: fastbp.check_gradients(loss, X, value), "input targets", kind=TypeError)
    refused(lambda: fastbp.check_gradients(fastbp.Linear(3, 2), X, value, loss=loss), "input targets", kind=TypeError)
    for thing in ((square, square_backward), lambda x: (x.sum(), np.ones_like(x)), fastbp.graph.ops.Exp):
        refused(lambda thing=thing: fastbp.check_gradients(thing, value), "input", kind=TypeError)


def test_masks_and_matrices_are_not_lost_beside_other_inputs():
    def forward(x, w):
        return x * w, (x, w)

    def backward(dout, cache):
        return dout * cache[1], dout * cache[0]

    for w in (np.ma.masked_array(X, X > 0), X.view(np.matrix), X * 1j, (X * 1j).tolist(), (k for k in range(3))):
        refused(lambda w=w: fastbp.check_gradients((forward, backward), X, w), "input w", kind=TypeError)


def test_things_that_cannot_be_checked_are_named():
    for thing in (None, "x", 3, X, [square], (square, 3), (square, fastbp.ReLU), fastbp.ReLU, fastbp.SGD(0.1)):
        refused(lambda thing=thing: fastbp.check_gradients(thing, X), "thing", kind=TypeError)
    refused(lambda: fastbp.check_gradients((square, square_backward), X, X), "thing and inputs", kind=TypeError)
    refused(lambda: fastbp.check_gradients(fastbp.graph.ops.MatMul, X), "thing and inputs", kind=TypeError)
    refused(lambda: fastbp.check_gradients(fastbp.graph.ops.Sum, X, {"axes": 0}), "thing and inputs", kind=TypeError)
    refused(lambda: fastbp.check_gradients(fastbp.graph.ops.Sum, X, {"axis": 2}), "axis", kind=ValueError)


@pytest.mark.parametrize("odd", ["text", None, X * 1j, np.ma.masked_array(X), [[1.0], [2.0, 3.0]]], ids=str)
def test_functions_that_give_no_numbers_are_named(odd):
    refused(lambda: fastbp.check_gradients((lambda x: (odd, x), square_backward), X), "thing", "out", kind=TypeError)
    refused(lambda: fastbp.check_gradients(lambda x: (odd, x), X), "thing", "loss", kind=TypeError)


def test_a_number_is_an_input_of_an_operation():
    report = fastbp.check_gradients(fastbp.graph.ops.Multiply, X, 2.0)
    assert report.passed and [t.size for t in report.tensors] == [6, 1]


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_told_without_warnings(odd):
    x = X.copy()
    x[1, 1] = odd
    for thing in ((square, square_backward), fastbp.ReLU(), fastbp.Softmax(), fastbp.graph.ops.Tanh):
        report = fastbp.check_gradients(thing, x, smallest=False)
        assert report.counts.get("not finite", 0) >= 1 and not report.passed


def test_a_layer_that_does_not_keep_its_arguments_can_be_checked():
    class Times(fastbp.Layer):
        def __init__(self, factor):
            super().__init__()
            self.by = factor

        def forward(self, x, training=False, out=None):
            return self.by * x

        def backward(self, dout, need_dx=True, out=None):
            return 3 * dout

    assert fastbp.check_gradients(Times(3.0), X).passed
    report = fastbp.check_gradients(Times(2.0), X)
    assert report.counts == {"mismatch": 6} and "Times" in report.subject
