"""The cost sheet: known figures, and every formula beside a count of the operations that a plain loop makes."""

import html
import itertools
import json
import math
import re
from collections import Counter
from functools import reduce
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import FAMILIES, conv2d, pool

import fastbp
from fastbp.cli import main
from fastbp.costs import Cost, CostSheet, cost_of
from fastbp.layers import Container

# -- figures of courses ------------------------------------------------------------------------------------------------


def conv_and_pool(bias=True):
    return [fastbp.Conv2d(50, 20, 4, stride=2, padding=1, bias=bias), fastbp.MaxPool2d(3, stride=1)]


def test_a_convolution_and_a_pool():
    sheet = CostSheet(conv_and_pool(), (50, 12, 12))
    assert [row.output_shape for row in sheet.rows] == [(20, 6, 6), (20, 4, 4)]
    assert [row.forward for row in sheet.rows] == [1_152_000, 2_560]
    assert sheet.forward == 1_154_560 and sheet.multiply_adds == 576_000
    assert CostSheet(conv_and_pool(bias=False), (50, 12, 12)).forward == 1_154_560 - 720


def test_lenet5():
    some = [fastbp.Conv2d(1, 6, 5, padding=2, bias=False), fastbp.AvgPool2d(2), fastbp.Conv2d(6, 16, 5, bias=False)]
    some += [
        fastbp.AvgPool2d(2),
        fastbp.Flatten(),
        fastbp.Linear(400, 120),
        fastbp.Linear(120, 84),
        fastbp.Linear(84, 10),
    ]
    sheet = CostSheet(some, (1, 28, 28))
    parameters = [row.parameters for row in sheet.rows if not row.layer.startswith("Flatten")]
    assert parameters == [150, 0, 2_400, 0, 48_120, 10_164, 850] and sheet.parameters == 61_684
    sheet = fastbp.models.lenet5().costs((1, 28, 28))
    assert (sheet.parameters, sheet.weights, sheet.biases) == (61_706, 61_470, 236)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ((3072, 120, 10), 369_970),
        ((3072, 120, 84, 10), 379_774),
        ((3072, 256, 120, 84, 10), 828_542),
        ((3072, 512, 256, 120, 84, 10), 1_746_558),
    ],
)
def test_cifar_10_perceptrons(sizes, parameters):
    network = fastbp.models.mlp(sizes)
    sheet = network.costs((3, 32, 32))
    assert sheet.parameters == network.parameter_vector.size == parameters
    assert sheet.biases == sum(sizes[1:]) and sheet.weights == parameters - sum(sizes[1:]) == sheet.multiply_adds


# -- the formulas, beside loops over numbers that count ----------------------------------------------------------------


class Number:
    """Counts what is done with it; a change of sign is free."""

    done = Counter()

    def operation(self, *other):
        Number.done["FLOPs"] += 1
        return Number()

    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = operation
    exp = log = tanh = erf = root = maximum = operation

    def __mul__(self, other):
        Number.done["products"] += 1
        return self.operation()

    __rmul__ = __mul__


def numbers(*shape):
    array = np.empty(shape, object)
    array[...] = Number()
    return array


def add(terms):
    return reduce(lambda a, b: a + b, terms)


def count(function, *arguments):
    """(FLOPs, products) of a call"""
    Number.done.clear()
    function(*arguments)
    return Number.done["FLOPs"], Number.done["products"]


def dot(a, b):
    return add(x * y for x, y in zip(a.ravel(), b.ravel(), strict=True))


def matmul(a, b):
    return np.array([[dot(row, column) for column in b.T] for row in a], object)


def column_sums(a):
    return [add(column) for column in a.T]


@given(N=st.integers(1, 4), D=st.integers(1, 5), F=st.integers(1, 5), bias=st.booleans())
def test_linear(N, D, F, bias):
    cost = fastbp.Linear(D, F, bias=bias).costs((D,), N)

    def linear(x, w, b):
        y = matmul(x, w)
        return y + b if bias else y

    forward, products = count(linear, numbers(N, D), numbers(D, F), numbers(F))
    dx, dw = count(matmul, numbers(N, F), numbers(F, D)), count(matmul, numbers(F, N), numbers(N, D))
    db = count(column_sums, numbers(N, F)) if bias else (0, 0)
    assert cost == Cost(forward, dx[0], dw[0], db[0], products) and products == dx[1] == dw[1]


def windows(layer, shape):
    """(output pixel, the padded image's pixels that its window holds) for one channel."""
    _, *image = shape
    kernel, stride = layer.kernel_size, layer.stride
    paddings = [layer.padding] * 2 if isinstance(layer.padding, str) else layer.padding
    axes = []
    for size, k, s, p in zip(image, kernel, stride, paddings, strict=True):
        before, after = naive.conv2d_padding(size, k, s, p)
        axes.append([range(start, start + k) for start in range(0, before + size + after - k + 1, s)])
    for i, j in itertools.product(*(range(len(axis)) for axis in axes)):
        yield (i, j), list(itertools.product(axes[0][i], axes[1][j]))


def spread(pairs):
    """Adds up the terms that go to each place: the first is put there, the others are added."""
    places = {}
    for place, term in pairs:
        places[place] = places[place] + term if place in places else term


@given(case=conv2d(), N=st.integers(1, 3))
def test_convolution(case, N):
    layer, shape = case
    C, F, x, held = layer.in_channels, layer.out_channels, Number(), list(windows(layer, shape))
    each = [(at, t, pixel) for at, window in held for t, pixel in enumerate(window)]
    taps = [(n, f, c, *tap) for n in range(N) for f in range(F) for c in range(C) for tap in each]

    def forward():
        spread(((n, f, at), x * x) for n, f, c, at, t, pixel in taps)
        if layer.bias:
            [x + x for _ in range(N * F * len(held))]

    dx = count(lambda: spread(((n, c, pixel), x * x) for n, f, c, at, t, pixel in taps))
    dw = count(lambda: spread(((f, c, t), x * x) for n, f, c, at, t, pixel in taps))
    db = count(column_sums, numbers(N * len(held), F)) if layer.bias else (0, 0)
    flops, products = count(forward)
    assert layer.costs(shape, N) == Cost(flops, dx[0], dw[0], db[0], products) and products == dx[1] == dw[1]


@given(case=st.one_of(pool(fastbp.MaxPool2d), pool(fastbp.AvgPool2d)), N=st.integers(1, 3))
def test_pools(case, N):
    layer, shape = case
    cost, x, held = layer.costs(shape, N), Number(), list(windows(layer, shape))
    maximum, average = fastbp.MaxPool2d, fastbp.AvgPool2d

    def forward():
        for _, window in held:
            value = reduce(
                (lambda a, b: a.maximum(b)) if isinstance(layer, maximum) else (lambda a, b: a + b), [x] * len(window)
            )
            if isinstance(layer, average):
                value / 3

    def backward():
        if isinstance(layer, average):
            shares = [x / 3 for _ in held]
            spread((pixel, share) for share, (_, window) in zip(shares, held, strict=True) for pixel in window)
        elif any(s < k for s, k in zip(layer.stride, layer.kernel_size, strict=True)):
            [x + x for _ in held]

    assert cost == N * shape[0] * Cost(count(forward)[0], count(backward)[0])


def sigmoid(x):
    return 1 / (1 + x.exp())


def softmax(row):
    top = reduce(lambda a, b: a.maximum(b), row)
    powers = [(x - top).exp() for x in row]
    total = add(powers)
    return [p / total for p in powers]


def log_softmax(row):
    top = reduce(lambda a, b: a.maximum(b), row)
    shifted = [x - top for x in row]
    log = add(x.exp() for x in shifted).log()
    return [x - log for x in shifted]


def softmax_backward(dout, y):
    total = dot(dout, y)
    return [v * (d - total) for d, v in zip(dout, y, strict=True)]


def log_softmax_backward(dout, y):
    total = add(dout)
    return [d - v.exp() * total for d, v in zip(dout, y, strict=True)]


def gelu_tanh(x):
    return (0.8 * (x + 0.04 * x * x * x)).tanh()


def gelu_tanh_backward(dout, x, y):
    t, slope = gelu_tanh(x), 0.8 * (1 + 0.12 * x * x)
    return dout * (0.5 * (1 + t + x * (1 - t * t) * slope))


def silu_backward(dout, x, y):
    s = sigmoid(x)
    return dout * s * (1 + x * (1 - s))


ELEMENTWISE = {  # layer: (forward, backward) of an element x, its output y and dout d
    fastbp.ReLU(): (lambda x: x.maximum(0), lambda d, x, y: y.maximum(0)),  # a comparison that chooses dout or 0
    fastbp.LeakyReLU(): (lambda x: (x.maximum(0), 0.1 * x), lambda d, x, y: (x.maximum(0), 0.1 * d)),
    fastbp.Sigmoid(): (sigmoid, lambda d, x, y: d * y * (1 - y)),
    fastbp.Tanh(): (lambda x: x.tanh(), lambda d, x, y: d * (1 - y * y)),
    fastbp.GELU(): (
        lambda x: 0.5 * x * (1 + (x * 0.7).erf()),
        lambda d, x, y: d * (0.5 * (1 + (x * 0.7).erf()) + x * (0.4 * (0.5 * x * x).exp())),
    ),
    fastbp.GELU("tanh"): (lambda x: 0.5 * x * (1 + gelu_tanh(x)), gelu_tanh_backward),
    fastbp.SiLU(): (lambda x: x * sigmoid(x), silu_backward),
    fastbp.Scale(0.5): (lambda x: 0.5 * x, lambda d, x, y: 0.5 * d),
    fastbp.Dropout(0.5): (lambda x: x * 2, lambda d, x, y: d * 2),
    fastbp.Identity(): (lambda x: x, lambda d, x, y: d),
    fastbp.Flatten(): (lambda x: x, lambda d, x, y: d),
}


@pytest.mark.parametrize("layer", ELEMENTWISE, ids=repr)
def test_elementwise(layer):
    forward, backward = ELEMENTWISE[layer]
    x = Number()
    assert layer.costs((3, 4, 5), 7) == 420 * Cost(count(forward, x)[0], count(backward, x, x, x)[0])


def test_a_learned_factor_costs_its_gradient_too():
    dw = count(lambda: dot(numbers(24), numbers(24)))[0]
    assert fastbp.Scale(2, learned=True).costs((3, 4), 2) == Cost(forward=24, dx=24, dw=dw)


@pytest.mark.parametrize("C", [1, 2, 7])
def test_rows(C):
    row = numbers(C)
    assert fastbp.Softmax().costs((C,), 3) == 3 * Cost(count(softmax, row)[0], count(softmax_backward, row, row)[0])
    assert fastbp.LogSoftmax().costs((C,), 3) == 3 * Cost(
        count(log_softmax, row)[0], count(log_softmax_backward, row, row)[0]
    )


@pytest.mark.parametrize(
    ("layer", "shape", "N"),
    [(fastbp.BatchNorm1d(4), (4,), 5), (fastbp.BatchNorm1d(4), (4, 3), 2), (fastbp.BatchNorm2d(3), (3, 2, 4), 2)],
)
def test_batch_norm(layer, shape, N):
    M, one = N * math.prod(shape[1:]), Number()
    x, dout, x_hat = numbers(M), numbers(M), numbers(M)

    def forward():
        mean = add(x) / M
        centred = [v - mean for v in x]
        var = add(v * v for v in centred) / M
        inv_std = 1 / (var + 1e-5).root()
        [one * (v * inv_std) + one for v in centred]  # gamma x̂ + beta
        [0.9 * one + 0.1 * each for each in (mean, var * (M / (M - 1)))]

    def dx():
        scale, dbeta, dgamma = one * one, one / M, one / M
        [scale * (d - (dbeta + v * dgamma)) for d, v in zip(dout, x_hat, strict=True)]

    passes = (forward, dx, lambda: dot(dout, x_hat), lambda: add(dout))
    assert layer.costs(shape, N) == shape[0] * Cost(*(count(each)[0] for each in passes))


@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)), N=st.integers(1, 3))
def test_every_layer_has_whole_costs_of_its_shapes(data, family, N):
    layer, shape = data.draw(FAMILIES[family])
    sheet = CostSheet([layer], shape, N, np.float64)
    (row,) = sheet.rows
    x = np.random.default_rng(0).normal(size=(N, *shape))
    y = layer.astype(np.float64).forward(x)
    assert (
        row.output_shape == y.shape[1:]
        and row.activation_bytes == y.nbytes
        and sheet.activation_bytes == x.nbytes + y.nbytes
    )
    for number in (row.cost.forward, row.cost.dx, row.cost.dw, row.cost.db, row.cost.multiply_adds):
        assert type(number) is int and number >= 0
    assert row.cost.multiply_adds == N * layer.multiply_adds(shape)
    assert row.parameters == sum(p.size for p in layer.parameters)


def test_every_layer_of_the_package_says_what_it_costs():
    for name in fastbp.layers.__all__:
        kind = getattr(fastbp.layers, name)
        if kind not in (fastbp.Layer, fastbp.Parameter) and not issubclass(kind, Container):
            assert name in (*FAMILIES, "Plus", "Join") and kind.costs is not fastbp.Layer.costs, name


# -- totals ------------------------------------------------------------------------------------------------------------


def small(*more):
    return fastbp.Sequential(
        fastbp.ReLU(),
        fastbp.Conv2d(1, 2, 3),
        fastbp.BatchNorm2d(2),
        fastbp.Tanh(),
        *more,
        fastbp.Flatten(),
        fastbp.Linear(32, 3),
    )


def test_backward_ends_at_the_first_parameters():
    sheet = small().costs((1, 6, 6), batch=4)
    relu, conv, norm, tanh, flatten, linear = (row.cost for row in sheet.rows)
    assert [row.backward for row in sheet.rows[:2]] == [0, conv.dw + conv.db]
    assert sheet.backward == sum(c.dx + c.dw + c.db for c in (norm, tanh, flatten, linear)) + conv.dw + conv.db
    assert sheet.input_gradient == relu.dx + conv.dx > 0
    assert sheet.multiply_adds == 4 * (2 * 9 * 16 + 96) and sheet.backward_multiply_adds == 4 * (2 * 9 * 16 + 2 * 96)
    assert sheet.activation_bytes == 4 * 4 * (36 + 36 + 32 + 32 + 32 + 32 + 3)
    assert (sheet.weights, sheet.biases) == (18 + 2 + 96, 2 + 2 + 3)


def test_float64_takes_twice_the_bytes_and_as_many_flops():
    one = small().costs((1, 6, 6), 3)
    two = small().astype(np.float64).costs((1, 6, 6), 3)
    assert two.activation_bytes == 2 * one.activation_bytes and (two.forward, two.backward) == (
        one.forward,
        one.backward,
    )


def test_numpy_sizes_are_plain_numbers_in_json():
    sheet = small().costs(np.array([1, 6, 6]), np.int64(2))
    assert json.loads(sheet.to_json()) == small().costs((1, 6, 6), 2).to_dict()


def test_nothing_is_drawn_or_changed():
    layer = fastbp.Linear(30_000, 30_000)  # 3.6 GB, were its values drawn
    assert CostSheet([layer], (30_000,)).parameters == 900_030_000


# -- layers of one's own -----------------------------------------------------------------------------------------------


class Cubed(fastbp.Layer):
    """y = x³"""

    def forward(self, x, training=False, out=None):
        self.cache = x = self.expect(x, ...)
        return x * x * x

    def backward(self, dout, need_dx=True, out=None):
        return 3 * self.cache**2 * dout

    def output_shape(self, input_shape):
        return tuple(input_shape)


class Counted(Cubed):
    def costs(self, input_shape, N):
        return N * math.prod(input_shape) * Cost(forward=2, dx=3)


class Wrong(Cubed):
    def costs(self, input_shape, N):
        return 7


class OtherLinear(fastbp.Linear):
    def forward(self, x, training=False, out=None):
        return 2 * super().forward(x, training)


class SameLinear(fastbp.Linear):
    """Another start, the same sums."""

    def __init__(self):
        super().__init__(2, 3, init="zeros")


def test_a_layer_that_says_nothing_is_unknown_and_not_0():
    sheet = small(Cubed()).costs((1, 6, 6), 2)
    row, known = sheet.rows[4], small().costs((1, 6, 6), 2)
    assert row.cost is row.forward is row.backward is row.multiply_adds is row.backward_multiply_adds is None
    assert sheet.forward is sheet.backward is sheet.multiply_adds is sheet.backward_multiply_adds is None
    assert sheet.parameters == known.parameters and row.activation_bytes == 2 * 4 * 32
    assert [r.cost for r in sheet.rows[:4]] == [r.cost for r in known.rows[:4]]
    assert re.search(r"4  Cubed\(\) .* 0 +0 +unknown +unknown +unknown +unknown +256\n", str(sheet))
    assert "layer 4 does not say what it costs" in str(sheet) and "layer 4 does not say" in sheet._repr_html_()
    total = json.loads(sheet.to_json())["total"]
    assert total["forward"] is None and total["parameters"] == known.parameters


def test_a_layer_that_says_what_it_costs_is_counted():
    sheet, known = small(Counted()).costs((1, 6, 6), 2), small().costs((1, 6, 6), 2)
    assert sheet.forward == known.forward + 2 * 64 and sheet.backward == known.backward + 3 * 64
    assert "unknown" not in str(sheet)


def test_a_subclass_that_computes_something_else_is_unknown():
    assert cost_of(OtherLinear(2, 3), (2,), 1) is None
    assert cost_of(SameLinear(), (2,), 1) == cost_of(fastbp.Linear(2, 3), (2,), 1)
    patched = fastbp.Linear(2, 3)
    patched.forward = lambda x: x
    assert cost_of(patched, (2,), 1) is None


# -- the benchmarks' counts --------------------------------------------------------------------------------------------


def test_the_benchmarks_count_the_same(monkeypatch):
    """By hand: two FLOPs a multiply–add, three products for each layer, two for the first."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import sides
    from workloads import WORKLOADS

    assert sides.flops(WORKLOADS["mlp-100"], 4) == 4 * 2 * (2 * 78_400 + 3 * 1_000)
    convolutions = 2 * (6 * 75 * 28 * 28) + 3 * (16 * 150 * 10 * 10)
    assert sides.flops(WORKLOADS["cifar-2conv"], 32) == 32 * 2 * (convolutions + 3 * (48_000 + 10_080 + 840))


# -- text, HTML, JSON, the command -------------------------------------------------------------------------------------


def test_text_html_and_json_hold_the_same_numbers():
    network = fastbp.models.cnn()
    sheet = network.costs((1, 28, 28), 32)
    text, page, data = str(sheet), sheet._repr_html_(), json.loads(sheet.to_json())
    assert text.isascii() and network.summary((1, 28, 28), 32) == text and data == sheet.to_dict()
    names = ("weights", "biases", "multiply_adds", "forward", "backward_multiply_adds", "backward", "activation_bytes")
    lines = [line for line in text.splitlines() if re.match(r" *(\d+|total) ", line)]
    entries = [*data["layers"], data["total"] | {"layer": "total", "output_shape": None}]
    cells = [
        [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in page.split("<tr>")[3:]
    ]
    for line, entry, row, own in zip(lines, entries, cells, [*sheet.rows, sheet], strict=True):
        shown = [f"{entry[name]:,}" for name in names]
        assert [entry[name] for name in names] == [getattr(own, name) for name in names]
        assert line.split()[-7:] == row[-7:] == shown and entry["layer"] in line and entry["layer"] == row[1]
    for entry, row in zip(data["layers"], sheet.rows, strict=True):
        assert {name: entry[name] for name in ("dx", "dw", "db")} == {
            n: getattr(row.cost, n) for n in ("dx", "dw", "db")
        }
    assert f"{network.parameter_vector.size:,} parameters, float32" in text
    assert (data["batch"], data["dtype"], data["input_shape"]) == (32, "float32", [1, 28, 28])


def test_html_is_escaped():
    class Odd(Counted):
        def __repr__(self):
            return "<b>&"

    page = CostSheet([Odd()], (3,))._repr_html_()
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page


def test_command(capsys):
    network = fastbp.models.lenet5()
    for arguments, batch in (([], 1), (["--batch", "64"], 64)):
        assert main(["summary", "--data", "mnist", "--model", "lenet5", *arguments]) == 0
        assert capsys.readouterr().out == network.summary((1, 28, 28), batch) + "\n"
    assert main(["summary", "--data", "mnist", "--model", "lenet5", "--batch", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == network.costs((1, 28, 28), 64).to_dict()


@pytest.mark.parametrize("words", ["--batch 0", "--batch x", "--engine --json", "--engine --batch 4"])
def test_wrong_options(capsys, words):
    assert main(["summary", *words.split()]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: small().costs((3, 6, 6)), ValueError, r"Conv2d: expected input \(N, 1, H, W\)"),
        (lambda: small().costs((1, 6, 6), 0), ValueError, "batch must be an int of at least 1"),
        (lambda: small().costs((1, 6, 6), 1.5), TypeError, "batch must be an int"),
        (lambda: CostSheet([Wrong()], (3,)), TypeError, "Wrong.costs: expected .*got int"),
    ],
)
def test_clear_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
