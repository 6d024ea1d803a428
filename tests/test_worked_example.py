"""examples/worked_example.py: the values that the course gives, and that each of its proofs can fail."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import fastbp

pytestmark = pytest.mark.portable

PATH = Path(__file__).parent.parent / "examples" / "worked_example.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("worked_example", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VALUES = {"x12": 1.368, "x5": 0.797, "x34": -1.432, "x6": 0.193, "x7": 0.599, "y": 0.645}


def test_values(example):
    v = example.forward(example.W, example.X, example.TARGET)
    nodes = example.in_the_graph(example.W, example.X, example.TARGET)
    for name, value in VALUES.items():
        assert round(v[name], 3) == value and nodes[name].value == pytest.approx(v[name], rel=1e-14)
    assert v["L"] == pytest.approx((v["y"] - 0.5) ** 2) and nodes["L"].value == pytest.approx(v["L"], rel=1e-14)


def test_the_gradient_three_ways(example):
    arguments = example.W, example.X, example.TARGET
    by_hand = example.backward(*arguments, example.forward(*arguments))
    nodes, numeric = example.in_the_graph(*arguments), example.by_finite_differences(*arguments)
    assert round(by_hand["w3"], 5) == round(float(nodes["w3"].grad), 5) == round(numeric[2], 5) == 0.00062
    for i in range(6):
        assert nodes[f"w{i + 1}"].grad == pytest.approx(by_hand[f"w{i + 1}"], rel=1e-13)
        assert numeric[i] == pytest.approx(by_hand[f"w{i + 1}"], rel=1e-8)
    for name, gradient in by_hand.items():  # of the values between, too
        assert nodes[name].grad == pytest.approx(gradient, rel=1e-13)


def test_a_wrong_gradient_by_hand_is_found(example, monkeypatch):
    right = example.backward
    monkeypatch.setattr(example, "backward", lambda *arguments: (g := right(*arguments)) | {"w3": 1.001 * g["w3"]})
    with pytest.raises(fastbp.GradientError):
        example.by_finite_differences(example.W, example.X, example.TARGET)


@pytest.mark.parametrize("sizes", [(3, 2), (4, 5, 6), (6, 50, 40, 30, 3), (2, 1, 1, 4)])
def test_linear_layers_collapse(example, sizes):
    rng = np.random.default_rng(0)
    network = example.deep_linear(sizes, seed=1)
    folded, x, dout = example.folded_layer(network), rng.normal(size=(5, sizes[0])), rng.normal(size=(5, sizes[-1]))
    assert example.difference(network.forward(x), folded.forward(x)) < 1e-13
    assert example.difference(network.backward(dout), folded.backward(dout)) < 1e-13
    pairs = example.gradients_through_the_fold(network, folded)
    for layer, (dw, db) in zip(example.linear_layers(network), pairs, strict=True):
        assert example.difference(layer.weight.grad, dw) < 1e-12 and example.difference(layer.bias.grad, db) < 1e-12


def test_derivatives_from_the_output(example):
    x = np.random.default_rng(0).normal(0, 3, 20)
    for name in ("sigmoid", "tanh"):
        forward, backward = (getattr(example, f"{name}_{way}") for way in ("forward", "backward"))
        fastbp.check_gradients((forward, backward), x).raise_if_failed()
    assert np.allclose(example.tanh_forward(x)[0], np.tanh(x), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("sizes", [(2, 3), (5, 20, 10, 3), (1, 4, 1)])
def test_the_perceptrons_formulas_are_the_layers(example, sizes):
    rng = np.random.default_rng(0)
    network, loss = example.sigmoid_network(sizes), fastbp.MeanSquaredError()
    network.parameter_vector[:] = rng.normal(size=network.parameter_vector.shape)
    x, target = rng.normal(size=(7, sizes[0])), rng.uniform(size=(7, sizes[-1]))
    value, gradients, dx = example.perceptron(example.parameters_of(network), x.T, target.T)
    assert loss.forward(network.forward(x), target) == pytest.approx(value, rel=1e-13)
    assert example.difference(network.backward(loss.backward()), dx.T) < 1e-12
    for layer, (dw, db) in zip(example.linear_layers(network), gradients, strict=True):
        assert example.difference(layer.weight.grad, dw) < 1e-12 and example.difference(layer.bias.grad, db) < 1e-12


def test_it_prints_every_value_and_draws(example, capsys, tmp_path):
    example.main(str(tmp_path / "graph.png"))
    out = capsys.readouterr().out
    lines = {
        line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1] in "xyLw" and len(line.split()) > 2
    }
    for name, value in VALUES.items():
        assert round(float(lines[name][0]), 3) == value
    assert [round(float(number), 5) for number in lines["w3"]] == [0.00062] * 3
    assert "dL/dw3 = 2(y - 0.5) · y(1 - y) · w6 · x6(1 - x6) · x3 = 0.00062" in out
    assert out.count("all 1 gradients ok") == 2 and "WRONG" not in out
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
