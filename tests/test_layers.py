"""What holds for every layer: forward against the oracle, gradients against finite differences, the Layer contract."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import FAMILIES, cases, dims, oracle, values

import fastbp
from fastbp.layers import Container, Layer

families = pytest.mark.parametrize("family", FAMILIES)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def cotangent(y: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=y.shape).astype(y.dtype)


def test_every_layer_of_the_package_is_tested():
    ours = {name for name, kind in Layer.types.items() if hasattr(fastbp, name) and not issubclass(kind, Container)}
    assert ours == set(FAMILIES)


@pytest.mark.portable
@both_modes
@families
@given(data=st.data())
def test_forward_agrees_with_the_oracle(family, training, data):
    case = data.draw(cases(family))
    before = copy.deepcopy(case.layer)
    y = case.layer.forward(case.x, training=training)
    expected = oracle(before, case.x, training, y)
    assert y.shape == expected.shape and y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    assert case.layer.output_shape(case.x.shape[1:]) == y.shape[1:]


@pytest.mark.portable
@both_modes
@families
@given(data=st.data())
def test_gradients_agree_with_finite_differences(family, training, data):
    case = data.draw(cases(family))
    seed = data.draw(st.integers(0, 1000))
    fastbp.check_gradients(case.layer, case.x, training=training, seed=seed, tolerance=1e-6).raise_if_failed()


@both_modes
@families
@given(data=st.data())
def test_float32_agrees_with_float64_to_rounding(family, training, data):
    case = data.draw(cases(family))
    single = copy.deepcopy(case.layer).astype(np.float32)
    x = case.x.astype(np.float32)
    case.x, double = x.astype(np.float64), case.layer
    for parameter, small in zip(double.parameters, single.parameters, strict=True):
        parameter.value = small.value
    for name, array in single.state.items():
        double.state[name][...] = array
    y32, y64 = single.forward(x, training=training), double.forward(case.x, training=training)
    dout = cotangent(y32)
    dx32, dx64 = single.backward(dout), double.backward(dout.astype(np.float64))
    assert y32.dtype == dx32.dtype == np.float32
    gradients = [(p.grad, q.grad) for p, q in zip(single.parameters, double.parameters, strict=True)]
    # batch norm of nearly equal values divides rounding errors by a small standard deviation
    spread = case.layer.cache["inv_std"].max() if family.startswith("BatchNorm") else 1.0
    for small, large in [(y32, y64), (dx32, dx64), *gradients]:
        scale = max(1.0, np.abs(large).max(initial=0.0)) * max(1.0, spread) ** 2
        np.testing.assert_allclose(small, large, rtol=0, atol=2e-5 * scale)


@both_modes
@families
@given(data=st.data())
def test_backward_twice_gives_the_same_and_changes_nothing(family, training, data):
    case = data.draw(cases(family))
    layer, x = case.layer, case.x.copy()
    y = layer.forward(x, training=training)
    dout, y_before = cotangent(y), y.copy()
    kept = copy.deepcopy(layer.cache)
    first = layer.backward(dout).copy()
    gradients = [p.grad.copy() for p in layer.parameters]
    for p in layer.parameters:
        p.grad = np.full(p.shape, 123.0)
    given_dout = dout.copy()
    second = layer.backward(dout)
    assert np.array_equal(first, second)
    assert all(np.array_equal(g, p.grad) for g, p in zip(gradients, layer.parameters, strict=True))
    assert np.array_equal(dout, given_dout) and np.array_equal(x, case.x) and np.array_equal(y, y_before)
    for name, old in kept.items():
        assert np.array_equal(old, layer.cache[name]), name
    assert not np.shares_memory(second, dout) and not np.shares_memory(y, x)


@families
@given(data=st.data())
def test_need_dx_false_fills_the_same_parameter_gradients(family, data):
    case = data.draw(cases(family))
    dout = cotangent(case.layer.forward(case.x, training=True))
    case.layer.backward(dout)
    gradients = [p.grad.copy() for p in case.layer.parameters]
    assert case.layer.backward(dout, need_dx=False) is None
    assert all(np.array_equal(g, p.grad) for g, p in zip(gradients, case.layer.parameters, strict=True))


@families
@settings(max_examples=10)
@given(data=st.data())
def test_non_contiguous_and_read_only_arrays_give_the_same(family, data):
    case = data.draw(cases(family))
    plain, other = case.layer, copy.deepcopy(case.layer)
    y = plain.forward(case.x)
    dout = cotangent(y)
    dx = plain.backward(dout)

    def strided(a):
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
        wide[..., ::2] = a
        view = wide[..., ::2]
        view.flags.writeable = False
        return view

    assert np.array_equal(other.forward(strided(case.x)), y)
    assert np.array_equal(other.backward(strided(dout)), dx)
    fortran, frozen = np.asfortranarray(case.x), case.x.copy()
    frozen.flags.writeable = False
    assert np.array_equal(other.forward(fortran), y) and np.array_equal(other.forward(frozen), y)


@families
@settings(max_examples=10)
@given(data=st.data())
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(family, data):
    case = data.draw(cases(family, batch=st.just(0)))
    layer = case.layer
    for training in (False, True):
        for p in layer.parameters:
            p.grad = np.full(p.shape, 7.0)
        if family.startswith("BatchNorm") and training:
            with pytest.raises(ValueError, match="empty batch"):
                layer.forward(case.x, training=True)
            continue
        y = layer.forward(case.x, training=training)
        assert y.shape == (0, *layer.output_shape(case.x.shape[1:]))
        assert layer.backward(np.empty_like(y)).shape == case.x.shape
        assert all(not p.grad.any() for p in layer.parameters)


@families
@settings(max_examples=10)
@given(data=st.data())
def test_results_go_to_the_callers_array(family, data):
    case = data.draw(cases(family))
    y = case.layer.forward(case.x)
    out = np.full_like(y, np.nan)
    assert case.layer.forward(case.x, out=out) is out and np.array_equal(out, y)
    dout = cotangent(y)
    dx = case.layer.backward(dout)
    out = np.full_like(dx, np.nan)
    assert case.layer.backward(dout, out=out) is out and np.array_equal(out, dx)
    for wrong in (np.empty((*y.shape, 2)), np.empty(y.shape, np.float32), [1.0]):
        with pytest.raises(ValueError, match=f"{family}: expected out"):
            case.layer.forward(case.x, out=wrong)
    if y.shape == case.x.shape and case.x.size:
        with pytest.raises(ValueError, match="overlaps"):
            case.layer.forward(case.x, out=case.x)


@families
@settings(max_examples=5)
@given(data=st.data())
def test_nan_in_gives_nan_out(family, data):
    case = data.draw(cases(family))
    x = np.full_like(case.x, np.nan)
    if family == "Dropout":
        case.layer.rate = 0.0
    y = case.layer.forward(x)
    dx = case.layer.backward(np.full_like(y, np.nan))
    if family == "Conv2d":  # a window that lies in the padding alone sees no NaN
        assert np.isnan(y[np.isnan(oracle(case.layer, x, False, y))]).all()
    else:
        assert np.isnan(y).all()
    if family not in ("Conv2d", "MaxPool2d", "AvgPool2d"):  # there some pixels are in no window
        assert np.isnan(dx).all()


@families
@settings(max_examples=5)
@given(data=st.data())
def test_bad_input_is_a_clear_error(family, data):
    layer, x = (case := data.draw(cases(family))).layer, case.x
    with pytest.raises(RuntimeError, match=f"{family}.backward called before forward"):
        layer.backward(x)
    with pytest.raises(TypeError, match=f"{family}: expected input of dtype .*, got int64"):
        layer.forward(x.astype(np.int64))
    with pytest.raises(TypeError, match=f"{family}: expected input to be a NumPy array, got list"):
        layer.forward(x.tolist())
    with pytest.raises(TypeError, match="got float16"):
        layer.forward(x.astype(np.float16))
    with pytest.raises(TypeError, match="got >f8"):
        layer.forward(x.astype(">f8"))
    if layer.parameters:
        with pytest.raises(TypeError, match=f"{family}: expected input of dtype float64, got float32"):
            layer.forward(x.astype(np.float32))
    y = layer.forward(x)
    with pytest.raises(ValueError, match=f"{family}: expected dout"):
        layer.backward(np.zeros((*y.shape, 1)))
    with pytest.raises(ValueError, match=f"{family}: expected dout"):
        layer.backward(np.zeros((len(y) + 1, *y.shape[1:])))
    with pytest.raises(TypeError, match=f"{family}: expected dout of dtype"):
        layer.backward(np.zeros(y.shape, np.int32))


@pytest.mark.portable
@families
@settings(max_examples=10)
@given(data=st.data())
def test_copies_and_pickles_are_equal_and_independent(family, data):
    case = data.draw(cases(family))
    y = case.layer.forward(case.x)
    for twin in (copy.deepcopy(case.layer), pickle.loads(pickle.dumps(case.layer))):
        assert np.array_equal(twin.forward(case.x), y)
        assert repr(twin) == repr(case.layer)
        for p, q in zip(case.layer.parameters, twin.parameters, strict=True):
            assert not np.shares_memory(p.value, q.value)


@families
@settings(max_examples=10)
@given(data=st.data())
def test_config_makes_the_same_layer(family, data):
    layer = data.draw(cases(family)).layer
    twin = type(layer)(**layer.config())
    assert twin.config() == layer.config() and repr(twin) == repr(layer)
    assert eval(repr(layer), vars(fastbp)).config() == layer.config()


@families
@settings(max_examples=10)
@given(data=st.data())
def test_a_slice_of_the_batch_gives_that_slice(family, data):
    """In evaluation mode samples do not influence each other."""
    case = data.draw(cases(family, batch=dims(2, 4)))
    whole = case.layer.forward(case.x)
    assert np.array_equal(case.layer.forward(case.x[1:]), whole[1:]) or np.allclose(
        case.layer.forward(case.x[1:]), whole[1:], rtol=1e-14, atol=1e-14
    )


# -- planted bugs ------------------------------------------------------------------------------------------------------
# Each entry breaks a correct backward in a way that students do; the checker must reject every one.


def scaled(factor):
    return lambda layer, dout, dx: dx * factor


def parameter_bug(name, change):
    def bug(layer, dout, dx):
        getattr(layer, name).grad = change(getattr(layer, name).grad)
        return dx

    return bug


def one_element(layer, dout, dx):
    dx.flat[np.flatnonzero(dx)[-1]] *= 1.0001
    return dx


def batch_norm_without(term):
    def bug(layer, dout, dx):
        x, mean, inv_std = (layer.cache[name] for name in ("x", "mean", "inv_std"))
        if np.array_equal(mean, layer.state["running_mean"]):  # in evaluation there are no such terms
            return dx * 1.001
        shape = (1, -1) + (1,) * (x.ndim - 2)
        axes = (0, *range(2, x.ndim))
        g, s, xhat = (
            layer.gamma.value.reshape(shape),
            inv_std.reshape(shape),
            (x - mean.reshape(shape)) * inv_std.reshape(shape),
        )
        count = x.size / x.shape[1]
        through_mean = dout.sum(axes, keepdims=True) / count
        through_var = xhat * (dout * xhat).sum(axes, keepdims=True) / count
        return g * s * (dout - through_mean * (term != "mean") - through_var * (term != "var"))

    return bug


BUGS = {
    "Linear": {
        "averaged over the batch": parameter_bug("weight", lambda g: g / 3),
        "bias not summed": parameter_bug("bias", lambda g: g * 0),
        "sign": scaled(-1),
    },
    "ReLU": {"mask missing": lambda layer, dout, dx: dout, "mask inverted": lambda layer, dout, dx: dout - dx},
    "LeakyReLU": {
        "slope forgotten": lambda layer, dout, dx: dout,
        "slope of the wrong side": lambda layer, dout, dx: dout * 0.01,
    },
    "Sigmoid": {
        "not multiplied by dout": lambda layer, dout, dx: layer.cache["y"] * (1 - layer.cache["y"]),
        "twice": scaled(2),
    },
    "Tanh": {"1 - y": lambda layer, dout, dx: dout * (1 - layer.cache["y"])},
    "GELU": {
        "x's term missing": lambda layer, dout, dx: (
            dx - dout * layer.cache["x"] * np.exp(-(layer.cache["x"] ** 2) / 2) / 2
        ),
        "that of ReLU": lambda layer, dout, dx: dout * (layer.cache["x"] > 0),
    },
    "SiLU": {"σ alone": lambda layer, dout, dx: dout / (1 + np.exp(-layer.cache["x"])), "twice": scaled(2)},
    "Scale": {
        "not scaled": lambda layer, dout, dx: dout,
        "averaged": parameter_bug("weight", lambda g: g / 3),
    },
    "Softmax": {"sum term missing": lambda layer, dout, dx: dout * layer.cache["y"], "zero": scaled(0)},
    "LogSoftmax": {"sum term missing": lambda layer, dout, dx: dout, "zero": scaled(0)},
    "Dropout": {
        "scale missing": lambda layer, dout, dx: dx * (1 - layer.rate),
        "mask missing": lambda layer, dout, dx: dout / 0.6,
    },
    "BatchNorm1d": {"mean's term": batch_norm_without("mean"), "variance's term": batch_norm_without("var")},
    "BatchNorm2d": {
        "mean's term": batch_norm_without("mean"),
        "variance's term": batch_norm_without("var"),
        "gamma": parameter_bug("gamma", lambda g: -g),
        "beta averaged": parameter_bug("beta", lambda g: g / 12),
    },
    "Conv2d": {
        "flipped": parameter_bug("weight", lambda g: g[:, :, ::-1, ::-1]),
        "off by one column": lambda layer, dout, dx: np.roll(dx, 1, axis=3),
        "bias averaged": parameter_bug("bias", lambda g: g / 2),
    },
    "MaxPool2d": {
        "to every pixel": lambda layer, dout, dx: dx + 0.1,
        "to the wrong one": lambda layer, dout, dx: dx[..., ::-1],
    },
    "AvgPool2d": {"not divided": scaled(4)},
    "Flatten": {"Fortran order": lambda layer, dout, dx: dx.ravel().reshape(dx.shape, order="F")},
    "Identity": {"sign": scaled(-1)},
}
FIXED = {
    "Linear": lambda: (fastbp.Linear(4, 2), (3, 4)),
    "LeakyReLU": lambda: (fastbp.LeakyReLU(0.3), (3, 4)),
    "Dropout": lambda: (fastbp.Dropout(0.4), (3, 8)),
    "BatchNorm1d": lambda: (fastbp.BatchNorm1d(3), (5, 3)),
    "BatchNorm2d": lambda: (fastbp.BatchNorm2d(3), (2, 3, 2, 3)),
    "Conv2d": lambda: (fastbp.Conv2d(2, 3, 3, padding=1), (2, 2, 4, 5)),
    "MaxPool2d": lambda: (fastbp.MaxPool2d(2), (2, 2, 4, 5)),
    "AvgPool2d": lambda: (fastbp.AvgPool2d(2), (2, 2, 4, 5)),
    "Flatten": lambda: (fastbp.Flatten(), (3, 2, 4)),
    "Scale": lambda: (fastbp.Scale(0.3, learned=True), (3, 4)),
}


PLANTED = [
    (family, bug, training)
    for family in FAMILIES
    for bug in [*BUGS[family], "0.1 % too large", "one element off by 0.01 %"]
    for training in (True, False)
    if training or bug not in BUGS["Dropout"]  # in evaluation dropout has neither mask nor scale to forget
]


@pytest.mark.parametrize(("family", "bug", "training"), PLANTED)
def test_the_checker_rejects_a_planted_bug(family, bug, training, monkeypatch):
    layer, shape = FIXED.get(family, lambda: (getattr(fastbp, family)(), (3, 4)))()
    layer.astype(np.float64)
    x = values(np.random.default_rng(5), shape)
    broken = {"0.1 % too large": scaled(1.001), "one element off by 0.01 %": one_element, **BUGS[family]}[bug]
    assert fastbp.check_gradients(layer, x, training=training).passed
    correct = type(layer).backward
    monkeypatch.setattr(type(layer), "backward", lambda self, dout: broken(self, dout, correct(self, dout)))
    report = fastbp.check_gradients(layer, x, training=training, smallest=False)
    assert not report.passed
    with pytest.raises(fastbp.GradientError, match="WRONG"):
        report.raise_if_failed()


def test_parameters_are_drawn_once_and_keep_assigned_values():
    layer = fastbp.Linear(3, 2)
    first = layer.weight.value
    assert layer.weight.value is first and first.dtype == np.float32 and first.any()
    assert np.array_equal(first, fastbp.Linear(3, 2).weight.value)  # seed 0 for a layer on its own
    layer.weight.value = np.arange(6).reshape(2, 3)
    assert layer.weight.value is first and first[1, 2] == 5
    with pytest.raises(ValueError, match=r"weight: expected an array of shape \(2, 3\), got \(3, 2\)"):
        layer.weight.value = np.zeros((3, 2))
