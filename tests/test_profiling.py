"""fastbp.profile measures the engine's own ops, all of them, and changes nothing of the network."""

import json

import numpy as np
import pytest

import fastbp
from fastbp.kernels.peak import multiply_adds, triad


def network():
    body = fastbp.Sequential(fastbp.Conv2d(4, 4, 3, padding=1), fastbp.BatchNorm2d(4))
    layers = [fastbp.Conv2d(1, 4, 3, padding=1), fastbp.ReLU(), fastbp.Residual(body), fastbp.MaxPool2d(2)]
    layers += [fastbp.Dropout(0.5), fastbp.Flatten(), fastbp.Linear(64, 20), fastbp.Tanh(), fastbp.Linear(20, 3)]
    return fastbp.Sequential(*layers)


def test_every_layer_is_in_it_and_the_network_stays_as_it_is():
    net = network()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    profile = fastbp.profile(net, (1, 8, 8), batch=3, seconds=0.001)
    assert sorted(path for row in profile.rows for path in row.paths) == sorted(net.leaves() | {"2": None})
    assert all(np.array_equal(array, before[name]) for name, array in net.state_dict().items())
    assert profile.batch == 3 and profile.dtype == "float32"
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    assert profile.seconds == pytest.approx(sum(row.forward + row.backward for row in profile.rows))


def test_rates_are_those_of_the_cost_sheet():
    net = network()
    sheet, profile = net.costs((1, 8, 8), 5), fastbp.profile(net, (1, 8, 8), batch=5, seconds=0.001)
    products = {row.path: row.multiply_adds + row.backward_multiply_adds for row in sheet.rows}
    for row in profile.rows:
        expected = 2 * sum(products.get(path, 0) for path in row.paths)
        assert row.gflops * (row.forward + row.backward) * 1e9 == pytest.approx(expected)
        assert row.limit == ("peak" if expected else "memory")
        if expected:
            assert row.reached == pytest.approx(row.gflops / profile.peak)


def test_text_json_and_html():
    profile = fastbp.profile(fastbp.Sequential(fastbp.Linear(6, 4), fastbp.ReLU(), fastbp.Linear(4, 2)), (6,), 2, 0.001)
    lines = str(profile).splitlines()
    assert "computed by" in lines[0] and "LinearOp: register tiles" in lines[2] and "of peak" in lines[2]
    assert "batch 2, float32, one thread" in lines[-1] and "GFLOP/s" in lines[-1]
    assert json.loads(profile.to_json())["rows"][0]["layers"][0] == "Linear(6, 4)"
    assert profile._repr_html_().count("<tr>") == len(profile.rows) + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": 3}, "profile: network must be"),
        ({"batch": 0}, "profile: batch"),
        ({"seconds": 0}, "profile: seconds"),
        ({"input_shape": (5,)}, "expected input"),
        ({"input_shape": "x"}, "profile: input_shape"),
    ],
)
def test_wrong_arguments(given, message):
    right = {"network": fastbp.Sequential(fastbp.Linear(6, 4)), "input_shape": (6,), "seconds": 0.001}
    with pytest.raises((TypeError, ValueError), match=message):
        fastbp.profile(**right | given)


@pytest.mark.vectors
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loops_that_measure_the_limits(dtype):
    """They compute what they say, so nothing of them is left out by the compiler."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 1024).astype(dtype)
    expected, (a, b) = x.copy(), x[:2].copy()
    made = multiply_adds(x, 3)
    assert made % 36 == 0 and 12 <= made // 3 <= 1024
    for _ in range(3):
        expected[: made // 3] = a * expected[: made // 3] + b
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    out, b, c = (rng.normal(size=100).astype(dtype) for _ in range(3))
    triad(out, b, c)
    np.testing.assert_allclose(out, b + c / 2, rtol=1e-6)
