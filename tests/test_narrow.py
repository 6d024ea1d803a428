"""Networks of narrow layers on large batches: one op for a run of Linear layers and activations."""

import copy

import numpy as np
import pytest
from machines import FINE, SAMPLES

import fastbp
from fastbp.layers import fused

pytestmark = pytest.mark.vectors

KINDS = sorted(fused.AFTER, key=lambda kind: kind.__name__)
BOUNDS = {np.float32: 2e-5, np.float64: 1e-12}


def network(*layers, dtype=np.float64, machine=FINE):
    made = fastbp.Sequential(*layers, seed=3, dtype=dtype)
    rng = np.random.default_rng(5)
    for parameter in made.parameters:
        parameter.value = rng.normal(size=parameter.shape) / 2
    made.machine = machine
    return made


def ops(made, shape, N, training=True):
    return [type(op).__name__ for op in made.engine(shape).batch(N, training).schedule.ops]


def one_by_one(made, x, dout):
    """y, dx and the gradients by copies of the layers, each called on its own."""
    layers, y = copy.deepcopy(made.layers), x
    for layer in layers:
        y = layer.forward(y, True)
    for layer in reversed(layers):
        dout = layer.backward(dout)
    return y, dout, np.concatenate([p.grad.ravel() for layer in layers for p in layer.parameters])


def run(sizes, kinds, bias=True):
    """Linear layers of sizes[0] → sizes[1] → …, and after each its activation, if any."""
    layers = []
    for D, F, kind in zip(sizes[:-1], sizes[1:], kinds, strict=True):
        layers += [fastbp.Linear(D, F, bias=bias), *([kind()] if kind else [])]
    return layers


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("N", [64, 1001, 2500])
@pytest.mark.parametrize("seed", range(4))
def test_as_the_layers_one_by_one(seed, N, dtype):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, rng.integers(3, 6)).tolist()
    kinds = [KINDS[i] if i < len(KINDS) else None for i in rng.integers(0, len(KINDS) + 1, len(sizes) - 1)]
    made = network(*run(sizes, kinds, bias=bool(seed % 2)), dtype=dtype, machine=SAMPLES if N > 64 else FINE)
    x, dout = rng.normal(size=(N, sizes[0])).astype(dtype), rng.normal(size=(N, sizes[-1])).astype(dtype)
    assert ops(made, sizes[:1], N) == ["NarrowOp"] and ops(made, sizes[:1], N, False) == ["FixedNarrowOp"]
    engine, (y, dx, gradient) = made.engine(sizes[:1]), one_by_one(made, x, dout)
    found = engine.forward(x).copy(), engine.forward(x, True).copy(), engine.backward(dout), made.gradient_vector
    for mine, right in zip(found, (y, y, dx, gradient), strict=True):
        assert np.abs(mine - right).max() <= BOUNDS[dtype] * max(1, np.abs(right).max())


def test_training_on_any_number_of_threads_has_the_same_bits():
    rng, before, found = np.random.default_rng(0), fastbp.get_num_threads(), []
    x, y = rng.normal(size=(3001, 4)).astype(np.float32), rng.normal(size=(3001, 3)).astype(np.float32)
    for threads in (1, 2, 3):
        fastbp.set_num_threads(threads)
        try:
            made = network(*run((4, 20, 9, 3), (fastbp.Tanh, fastbp.GELU, None)), dtype=np.float32, machine=SAMPLES)
            trainer = fastbp.Trainer(made, fastbp.MeanSquaredError(), fastbp.Adam(lr=0.01))
            losses = [trainer.step(x, y) for _ in range(4)]
            found.append((losses, made.parameter_vector.copy(), made.engine((4,)).forward(x).copy()))
        finally:
            fastbp.set_num_threads(before)
    assert len(made.engine((4,)).batch(3001, True).schedule.bounds) == 8
    assert found[0][0][3] < found[0][0][0]
    for losses, values, outputs in found[1:]:
        assert losses == found[0][0] and np.array_equal(values, found[0][1]) and np.array_equal(outputs, found[0][2])


def test_a_sample_of_nans_stays_alone():
    made = network(*run((3, 8, 8, 2), (fastbp.Sigmoid, fastbp.SiLU, None)))
    x = np.random.default_rng(0).normal(size=(300, 3))
    x[17, 1] = np.nan
    for training in (False, True):
        assert np.isnan(made.engine((3,)).forward(x, training)).any(axis=1).nonzero()[0].tolist() == [17]
    made.engine((3,)).backward(np.ones((300, 2)))
    assert np.isnan(made.layers[0].weight.grad).all()


def test_the_gradients_of_all_layers_are_checked():
    made = network(*run((3, 8, 5, 2), (fastbp.Tanh, fastbp.LeakyReLU, None)))
    x = np.random.default_rng(0).normal(size=(64, 3))
    report = fastbp.check_gradients(made, x)
    assert report.passed and len(report.tensors) == 7


def test_a_bug_in_it_is_seen(monkeypatch):
    """The check is of what trains: the layers one by one are right, and the report names the op."""
    from fastbp.layers import narrow

    made, right = network(*run((3, 8, 2), (fastbp.Tanh, None))), narrow.columns_backward_input
    x = np.random.default_rng(0).normal(size=(64, 3))
    monkeypatch.setattr(narrow, "columns_backward_input", lambda w, d, dx, block: right(-w, d, dx, block))
    report = fastbp.check_gradients(made, x, mode="directional", smallest=False)
    assert not report.passed and "NarrowOp" in str(report)


def test_where_a_run_is_taken():
    """For many samples and few features; it ends where others read a value, or a layer is of another kind."""
    tanh, linear = fastbp.Tanh, fastbp.Linear
    small = network(*run((3, 8, 2), (tanh, None)))
    assert ops(small, (3,), 63) == ["LinearOp", "TanhAfter", "LinearOp"] and ops(small, (3,), 64) == ["NarrowOp"]
    assert ops(network(*run((3, 200, 2), (tanh, None))), (3,), 99) == ["LinearOp", "TanhAfter", "LinearOp"]
    assert ops(network(*run((60, 60, 60), (tanh, None))), (60,), 99) == ["LinearOp", "TanhAfter", "LinearOp"]
    assert ops(network(*run((300, 16, 8, 2), (tanh, tanh, None))), (300,), 99) == ["LinearOp", "TanhAfter", "NarrowOp"]
    two = network(linear(3, 8), tanh(), fastbp.Sigmoid(), linear(8, 8), linear(8, 2), fastbp.Softmax())
    assert ops(two, (3,), 99) == ["LinearOp", "TanhAfter", "SigmoidOp", "NarrowOp", "SoftmaxOp"]
    branched = network(linear(3, 8), fastbp.Residual(linear(8, 8), tanh(), linear(8, 8)), linear(8, 2))
    assert ops(branched, (3,), 99) == ["LinearOp", "NarrowOp", "PlusOp", "LinearOp"]
    falling = network(linear(3, 8), fastbp.LeakyReLU(-0.1), linear(8, 2))
    assert ops(falling, (3,), 99) == ["LinearOp", "LeakyReLUOp", "LinearOp"]
    falling.layers[1].negative_slope = 0.1
    assert ops(falling, (3,), 99) == ["NarrowOp"]


def test_a_slope_is_read_at_each_pass():
    made = network(*run((3, 8, 2), (fastbp.LeakyReLU, None)))
    x, engine = np.random.default_rng(0).normal(size=(70, 3)), made.engine((3,))
    for slope in (0.3, 0.0, 0.9):
        made.layers[1].negative_slope = slope
        (w, b), (v, c) = ([p.value for p in made.layers[i].parameters] for i in (0, 2))
        z = x @ w.T + b
        np.testing.assert_allclose(engine.forward(x), np.where(z > 0, z, slope * z) @ v.T + c, atol=1e-12)
