"""Arguments of layers, losses, optimisers, initialisers, models and costs: what is refused, and by which words."""

import os
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest

import fastbp
from fastbp import costs, initializers, models

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 0])


def masked(array: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 1)


def matrix(array: np.ndarray) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # np.matrix is pending deprecation
        return np.matrix(array)


def after_forward(layer: fastbp.Layer) -> fastbp.Layer:
    layer.forward(X, training=True)
    return layer


def loss_after_forward() -> fastbp.Loss:
    loss = fastbp.NLLLoss()
    loss.forward(X, LABELS)
    return loss


TAKES_ARRAYS = {
    "input": lambda wrap: fastbp.Linear(3, 2).forward(wrap(X)),
    "input of any shape": lambda wrap: fastbp.ReLU().forward(wrap(X)),
    "dout": lambda wrap: after_forward(fastbp.Tanh()).backward(wrap(X)),
    "out": lambda wrap: fastbp.Tanh().forward(X, out=wrap(np.empty_like(X))),
    "out of backward": lambda wrap: after_forward(fastbp.Tanh()).backward(X, out=wrap(np.empty_like(X))),
    "value": lambda wrap: setattr(fastbp.Linear(3, 4).weight, "value", wrap(X)),
    "grad": lambda wrap: setattr(fastbp.Linear(3, 4).weight, "grad", wrap(X)),
    "state": lambda wrap: fastbp.BatchNorm1d(1).state.update(running_mean=wrap(np.zeros(1, np.float32))),
    "scores": lambda wrap: fastbp.SoftmaxCrossEntropy().forward(wrap(X), LABELS),
    "scores of a step": lambda wrap: fastbp.SoftmaxCrossEntropy().step(wrap(X), LABELS, np.empty_like(X)),
    "scores to decide on": lambda wrap: fastbp.SoftmaxCrossEntropy().predict(wrap(X)),
    "scores of probabilities": lambda wrap: fastbp.NLLLoss().probabilities(wrap(X)),
    "out of a loss": lambda wrap: loss_after_forward().backward(out=wrap(np.empty_like(X))),
    "targets": lambda wrap: fastbp.SoftmaxCrossEntropy().forward(X, wrap(LABELS)),
    "targets, numbers": lambda wrap: fastbp.MeanSquaredError().forward(X, wrap(X)),
    "targets of a step": lambda wrap: fastbp.NLLLoss().step(X, wrap(LABELS), np.empty_like(X)),
    "targets to count": lambda wrap: fastbp.LogisticLoss().correct(X[:, 0].copy(), wrap(LABELS == 1)),
    "values": lambda wrap: fastbp.SGD().step(wrap(np.zeros(3)), np.zeros(3)),
    "grads": lambda wrap: fastbp.Adam().step(np.zeros(3), wrap(np.zeros(3))),
}


@pytest.mark.parametrize("name", TAKES_ARRAYS)
def test_masked_arrays_and_matrices_are_refused_and_plain_subclasses_are_not(name):
    argument = name.split(" ")[0].rstrip(",")
    with pytest.raises(TypeError, match=f"{argument}.* masked array"):
        TAKES_ARRAYS[name](masked)
    with pytest.raises(TypeError, match=rf"{argument}.* np\.matrix"):
        TAKES_ARRAYS[name](matrix)

    class Plain(np.ndarray):
        pass

    TAKES_ARRAYS[name](lambda array: array.view(Plain))


WRONG_KINDS = [
    (lambda: fastbp.SGD("0.1"), "SGD: lr must be a number, got '0.1'"),
    (lambda: fastbp.SGD(True), "SGD: lr must be a number, got True"),
    (lambda: fastbp.SGD(0.1, momentum=np.bool_(False)), "SGD: momentum must be a number"),
    (lambda: fastbp.SGD(0.1, 0.9, nesterov=1), "SGD: nesterov must be True or False, got 1"),
    (lambda: fastbp.Adam(beta1=0.9 + 0j), "Adam: beta1 must be a number"),
    (lambda: fastbp.AdamW(weight_decay=None), "AdamW: weight_decay must be a number, got None"),
    (lambda: fastbp.RMSProp(decay=[0.9]), "RMSProp: decay must be a number"),
    (lambda: fastbp.Adagrad(eps=np.array([1e-8])), "Adagrad: eps must be a number"),
    (lambda: fastbp.Dropout("0.5"), "Dropout: rate must be a number, got '0.5'"),
    (lambda: fastbp.Dropout(False), "Dropout: rate must be a number, got False"),
    (lambda: fastbp.LeakyReLU("0.1"), "LeakyReLU: negative_slope must be a number"),
    (lambda: fastbp.BatchNorm1d(3, eps="small"), "BatchNorm1d: eps must be a number"),
    (lambda: fastbp.BatchNorm2d(3, momentum=True), "BatchNorm2d: momentum must be a number"),
    (lambda: fastbp.Linear(3, 2, bias="no"), "Linear: bias must be True or False, got 'no'"),
    (lambda: fastbp.Linear(3, 2, bias=0), "Linear: bias must be True or False, got 0"),
    (lambda: fastbp.Linear(3, 2, init=3), "Linear: init: unknown initialiser 3"),
    (lambda: fastbp.Linear(3, 2, init=initializers.HeNormal), "Linear: init: unknown initialiser <class"),
    (lambda: fastbp.Conv2d(3, 2, 3, bias=None), "Conv2d: bias must be True or False"),
    (lambda: fastbp.Conv2d(3, 2, 3.0), "Conv2d: kernel_size must be an int, got 3.0"),
    (lambda: fastbp.SoftmaxCrossEntropy("0.1"), "SoftmaxCrossEntropy: label_smoothing must be a number"),
    (lambda: fastbp.HingeLoss("1"), "HingeLoss: margin must be a number"),
    (lambda: fastbp.MulticlassHinge(True), "MulticlassHinge: margin must be a number"),
    (lambda: initializers.Normal("a"), "Normal: std must be a number"),
    (lambda: initializers.Constant(None), "Constant: value must be a number"),
    (lambda: initializers.HeNormal().weight(0, (2, 3), 3, 2), "rng must be a Generator, got 0"),
    (lambda: initializers.HeNormal().weight(np.random.default_rng(0), 2.5, 3, 2), "shape must be a tuple of ints"),
    (lambda: models.mlp("784"), "mlp: sizes must be a tuple of ints"),
    (lambda: models.mlp([3, 2], dropout="0.5"), "mlp: dropout must be a number"),
    (lambda: models.cnn(batch_norm="yes"), "cnn: batch_norm must be True or False"),
    (lambda: models.cnn(28), "cnn: input_shape must be a tuple of ints"),
    (lambda: models.softmax_classifier(dtype=int), "dtype must be float32 or float64"),
    (lambda: fastbp.Linear(3, 2).astype(None), "dtype must be float32 or float64, got None"),
    (lambda: fastbp.Linear(3, 2).astype("int"), "dtype must be float32 or float64, got 'int'"),
    (
        lambda: setattr(fastbp.Linear(3, 4).weight, "value", X * 1j),
        "weight: value must be an array of numbers, got dtype complex",
    ),
    (
        lambda: setattr(fastbp.Linear(3, 4).weight, "grad", X.astype(str)),
        "weight: grad must be an array of numbers, got dtype <U",
    ),
    (
        lambda: setattr(fastbp.Linear(3, 4).weight, "value", X.astype(object)),
        "weight: value must be an array of numbers",
    ),
    (lambda: fastbp.ReLU().forward(X, training=1), "ReLU: training must be True or False, got 1"),
    (lambda: after_forward(fastbp.ReLU()).backward(X, need_dx="no"), "ReLU: need_dx must be True or False"),
    (lambda: fastbp.ReLU().output_shape("ab"), "ReLU: input_shape must be a tuple of ints"),
    (lambda: fastbp.Linear(3, 2).costs((3,), 2.5), "Linear: N must be an int, got 2.5"),
    (
        lambda: fastbp.BatchNorm1d(3).state.update(running_mean="zero"),
        "state: running_mean must be an array of numbers",
    ),
    (lambda: setattr(fastbp.ReLU(), "state", 3), "state must be a dict of arrays by name, got 3"),
    (lambda: fastbp.SGD().step([0.0], np.zeros(1)), r"SGD: values must be a NumPy array, got \[0.0\]"),
    (
        lambda: fastbp.SGD().step(np.zeros(1, int), np.zeros(1, int)),
        "SGD: values must be a vector of float32 or float64, got int64",
    ),
    (lambda: costs.Cost(1.5, 1), "Cost: forward must be an int, got 1.5"),
    (lambda: costs.cost_of("Linear", (3,), 1), "cost_of: layer must be a Layer, got 'Linear'"),
    (lambda: costs.CostSheet("ReLU", (3,)), "CostSheet: layers must be a list of layers, got 'ReLU'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG_KINDS)
def test_a_wrong_kind_is_a_type_error(call, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        call()


WRONG_VALUES = [
    (lambda: fastbp.Flatten().forward(np.array(1.0)), r"Flatten: expected input \(N, ...\), got \(\)"),
    (
        lambda: fastbp.SoftmaxCrossEntropy().correct(X[0], LABELS),
        r"SoftmaxCrossEntropy: expected scores \(N, C\), got \(3,\)",
    ),
    (
        lambda: fastbp.SoftmaxCrossEntropy().correct(X, LABELS[:2]),
        r"expected labels \(4,\) for scores \(4, 3\), got \(2,\)",
    ),
    (lambda: fastbp.SoftmaxCrossEntropy().predict(X[:, :0]), r"expected scores \(N, C\) with C of at least 1"),
    (lambda: fastbp.HingeLoss().predict(X), r"expected scores \(N,\) or \(N, 1\), got \(4, 3\)"),
    (
        lambda: fastbp.LogisticLoss().correct(X[:, 0].copy(), LABELS[:3] == 1),
        r"expected labels \(4,\) for scores \(4,\)",
    ),
    (lambda: fastbp.NLLLoss().probabilities(X[0]), r"expected scores \(N, C\)"),
    (
        lambda: fastbp.MeanSquaredError().forward(X, np.full((4, 3), 1e300)),
        "targets holds numbers that float32 has not, 1e\\+300",
    ),
    (
        lambda: setattr(fastbp.Linear(3, 4).weight, "value", np.full((4, 3), 1e300)),
        "weight: value holds numbers that float32 has not",
    ),
    (lambda: fastbp.Dropout(0.5).state.update(step=2.5), "state: step holds numbers that int64 has not, 2.5"),
    (lambda: fastbp.Dropout(0.5).state.update(key=-1), "state: key holds numbers that uint64 has not, -1"),
    (
        lambda: fastbp.BatchNorm1d(3).state.update(running_mean=np.zeros(4)),
        r"state: running_mean must be an array of shape \(3,\)",
    ),
    (lambda: fastbp.MaxPool2d(2).output_shape((3, 4)), r"MaxPool2d: expected input \(N, C, H, W\), got \('N', 3, 4\)"),
    (lambda: fastbp.ReLU().output_shape((3, -1)), "ReLU: input_shape must be an int of at least 0, got -1"),
    (lambda: fastbp.Conv2d(3, 2, 3).costs((2, 8, 8), 4), r"Conv2d: expected input \(N, 3, H, W\)"),
    (lambda: fastbp.Softmax().costs((2, 3), 1), r"Softmax: expected input \(N, C\)"),
    (lambda: fastbp.Linear(2**40, 2), "Linear: in_features must be an int of at most 2147483647"),
    (lambda: fastbp.SGD(10**400), "SGD: lr must be a finite number, 0 or above"),
    (lambda: fastbp.SGD(Fraction(-1, 3)), "SGD: lr must be a finite number, 0 or above"),
    (
        lambda: fastbp.SGD().step(np.zeros(6)[::2], np.zeros(3)),
        "SGD: values must be a contiguous vector that can be written",
    ),
    (
        lambda: fastbp.SGD().step(np.zeros((2, 2)), np.zeros((2, 2))),
        "SGD: expected two vectors .*, got float64 .2, 2. and",
    ),
    (lambda: initializers.get("magic"), "init: unknown initialiser 'magic'"),
    (lambda: models.lenet5((1, 28)), r"lenet5: input_shape must be \(C, H, W\), got \(1, 28\)"),
]


@pytest.mark.parametrize(("call", "message"), WRONG_VALUES)
def test_a_wrong_value_is_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_all_real_kinds_are_taken():
    for value in (0.25, np.float32(0.25), np.float16(0.25), np.array(0.25), Fraction(1, 4)):
        for made in (fastbp.SGD(value).lr, fastbp.Dropout(value).rate, fastbp.HingeLoss(value).margin):
            assert type(made) is float and made == 0.25
    assert fastbp.Linear(np.int32(3), np.uint8(2), bias=np.True_).output_shape((np.int64(3),)) == (2,)


SETTINGS = [
    (fastbp.Dropout(0.5), "rate", 5, ValueError),
    (fastbp.Dropout(0.5), "rate", "a", TypeError),
    (fastbp.LeakyReLU(0.5), "negative_slope", float("nan"), ValueError),
    (fastbp.BatchNorm1d(3), "momentum", 2, ValueError),
    (fastbp.BatchNorm1d(3), "eps", None, TypeError),
    (fastbp.Conv2d(1, 1, 3), "stride", 0, ValueError),
    (fastbp.Conv2d(1, 1, 3), "padding", "half", ValueError),
    (fastbp.MaxPool2d(2), "kernel_size", 2.5, TypeError),
    (fastbp.SGD(0.1), "lr", "a", TypeError),
    (fastbp.SGD(0.1), "lr", float("inf"), ValueError),
    (fastbp.SGD(0.1), "momentum", 1, ValueError),
    (fastbp.Adam(0.1), "beta2", -0.1, ValueError),
    (fastbp.SoftmaxCrossEntropy(), "label_smoothing", 1.5, ValueError),
    (fastbp.MulticlassHinge(), "margin", 1j, TypeError),
    # what other arrays have been made for is set once
    (fastbp.Linear(3, 2), "in_features", 5, AttributeError),
    (fastbp.Linear(3, 2), "weight", fastbp.Linear(4, 2).weight, AttributeError),
    (fastbp.Linear(3, 2), "bias", None, AttributeError),
    (fastbp.Conv2d(3, 2, 3), "kernel_size", 5, AttributeError),
    (fastbp.BatchNorm2d(3), "num_features", 4, AttributeError),
]


@pytest.mark.parametrize(("thing", "name", "value", "error"), SETTINGS)
def test_settings_are_checked_later_too_and_nothing_changes(thing, name, value, error):
    before = vars(thing)[name]
    with pytest.raises(error, match=f"^{type(thing).__name__}: {name} "):
        setattr(thing, name, value)
    assert vars(thing)[name] is before
    assert vars(pickle.loads(pickle.dumps(thing))).keys() == vars(thing).keys()


def test_a_padding_that_is_too_large_for_the_window_is_found_in_the_next_pass():
    layer = fastbp.MaxPool2d(2)
    layer.padding = 2
    with pytest.raises(ValueError, match=r"MaxPool2d: padding \(2, 2\) must be smaller than kernel_size \(2, 2\)"):
        layer.forward(np.zeros((1, 1, 4, 4)))


def test_a_pass_has_no_way_back_with_other_settings():
    """Its kernels would read and write outside of the arrays, or take another mask."""
    for layer, name, value in [(fastbp.AvgPool2d(2), "kernel_size", 5), (fastbp.Dropout(0.5), "rate", 0.1)]:
        layer.forward(np.zeros((1, 1, 4, 4)), training=True)
        setattr(layer, name, value)
        with pytest.raises(RuntimeError, match="backward called before forward"):
            layer.backward(np.ones((1, 1, 2, 2)))


def test_several_states_are_set_together_or_not_at_all():
    layer = fastbp.BatchNorm1d(2)
    before = {name: array.copy() for name, array in layer.state.items()}
    for changes in ({"running_mean": [1, 2], "running_var": ["a", "b"]}, {"running_mean": [1, 2], 3: [1, 2]}):
        with pytest.raises(TypeError, match="state"):
            layer.state |= changes
        assert all(np.array_equal(array, before[name]) for name, array in layer.state.items())


def test_memory_that_is_not_there_is_named():
    layer = fastbp.Linear(2**31 - 1, 2**20)
    with pytest.raises(ValueError, match=r"weight: shape \(2147483648, 2147483648\) is larger than any array"):
        layer.parameter("weight", (2**31, 2**31), lambda rng: None)
    with pytest.raises(
        MemoryError, match=r"weight: no memory for two arrays of shape \(1048576, 2147483647\), float32"
    ):
        layer.weight.value  # noqa: B018
    with pytest.raises(
        MemoryError, match="Sequential: no memory for 2,251,799,813,685,248 parameters of the layers, float32"
    ):
        fastbp.Sequential(fastbp.Linear(2**30, 2**21, bias=False))
    large = np.broadcast_to(np.float32(1), (2**48, 3))
    for call, name in [
        (lambda: fastbp.Linear(3, 2).forward(large), "input"),
        (lambda: fastbp.SoftmaxCrossEntropy().predict(large), "scores"),
        (lambda: initializers.HeNormal().weight(np.random.default_rng(0), large.shape, 3, 2), "shape"),
        (lambda: fastbp.Conv2d(1, 1, 1, padding=2**31 - 1).forward(np.zeros((1, 1, 1, 1), np.float32)), "padding"),
    ]:
        with pytest.raises(MemoryError, match=f"no memory for .*{name}|{name}=.*no memory"):
            call()


class Half(fastbp.Loss):
    """A loss of the user's own whose value is a NumPy number."""

    def forward(self, scores, targets):
        self.scores = scores
        return np.float32(scores.mean())

    def backward(self, out=None):
        return np.full_like(self.scores, 1 / self.scores.size)


class Nothing(Half):
    def forward(self, scores, targets):
        super().forward(scores, targets)


def test_a_step_of_a_loss_is_a_float():
    out = np.empty_like(X)
    assert type(Half().step(X, LABELS, out)) is float
    with pytest.raises(TypeError, match="Nothing: forward gave None, expected a number"):
        Nothing().step(X, LABELS, out)
    with pytest.raises(TypeError, match="Loss does not define forward"):
        fastbp.Loss().forward(X, LABELS)


FLOATS = """
import numpy as np, fastbp
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
for kind in (fastbp.SoftmaxCrossEntropy, fastbp.NLLLoss, fastbp.MulticlassHinge):
    assert_(type(kind().forward(x, np.array([0, 1, 2, 0]))) is float, kind)
    assert_(type(kind().step(x, np.array([0, 1, 2, 0]), np.empty_like(x))) is float, kind)
for kind, scores in ((fastbp.LogisticLoss, x[:, 0].copy()), (fastbp.HingeLoss, x[:, :1].copy())):
    assert_(type(kind().forward(scores, np.array([0, 1, 1, 0]))) is float, kind)
    assert_(type(kind().step(scores, np.array([0, 1, 1, 0]), np.empty_like(scores))) is float, kind)
assert_(type(fastbp.MeanSquaredError().step(x, x, np.empty_like(x))) is float, "mean squared error")
layers = fastbp.Linear(3, 4), fastbp.BatchNorm1d(4), fastbp.ReLU(), fastbp.Dropout(0.5), fastbp.Linear(4, 3)
network = fastbp.Sequential(*layers)
trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(0.1, momentum=0.9))
assert_(type(trainer.step(x, np.array([0, 1, 2, 0]))) is float, "a training step")
"""


def interpreted(code: str, *flags: str, **environment: str) -> str:
    """What a fresh interpreter prints; `assert_` works under -O too."""
    define = "def assert_(holds, what):\n    if not holds: raise SystemExit(f'wrong: {what}')\n"
    result = subprocess.run(
        [sys.executable, *flags, "-c", define + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_losses_are_floats_where_kernels_are_plain_python():
    interpreted(FLOATS, NUMBA_DISABLE_JIT="1")


def test_everything_works_without_docstrings_and_asserts():
    """python -OO: `__doc__` is None everywhere."""
    interpreted(
        FLOATS
        + """
assert_(fastbp.BatchNorm2d.__doc__ is None, "docstrings are stripped")
assert_(fastbp.check_gradients(fastbp.BatchNorm1d(3), x).passed, "check_gradients")
import fastbp.cli, fastbp.graph, fastbp.grading, fastbp.plotting, fastbp.sweeps, fastbp.testing
""",
        "-OO",
    )
    command = [sys.executable, "-m", "fastbp", "--version"]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONOPTIMIZE": "2"}, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and result.stdout == f"fastbp {fastbp.__version__}\n", result.stderr


def test_the_docstrings_of_batch_norm_say_their_own_shapes():
    assert "x, y (N, C), or (N, C, L) for sequences ·" in fastbp.BatchNorm1d.__doc__
    assert "x, y (N, C, H, W) ·" in fastbp.BatchNorm2d.__doc__
