"""The graph: every operation against finite differences, the backward pass, layers in graphs and graphs in layers."""

import gc
import io
import math
import os
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import no_arrays, refused

import fastbp
from fastbp import graph
from fastbp.gradcheck import check_gradients
from fastbp.graph import TensorNode, ops

SIZES = st.sampled_from([2, 1, 3, 0])
SHAPES = st.lists(SIZES, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def numbers(rng, shape):
    """Of size 0.3 to 2, either sign; now and then a zero, a kink for some."""
    x = rng.uniform(0.3, 2, shape) * rng.choice([-1, 1], shape)
    return np.where(rng.random(shape) < 0.1, 0.0, x)


def positive(rng, shape):
    return rng.uniform(0.3, 2, shape)


@st.composite
def broadcasting(draw):
    """Two shapes that broadcast: axes of a common one left out in front, or of size 1."""
    full = draw(SHAPES)
    return tuple(
        tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in full[draw(st.integers(0, len(full))) :])
        for _ in range(2)
    )


@st.composite
def axes_of(draw, shape):
    """None, one axis, or some, counted from the front or from the back."""
    if not shape or draw(st.booleans()):
        return None
    some = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    some = tuple(k - draw(st.sampled_from([0, len(shape)])) for k in some)
    return some[0] if len(some) == 1 and draw(st.booleans()) else some


def passes(op, *inputs):
    report = check_gradients(op, *inputs, samples=6, smallest=False)
    report.raise_if_failed()
    return report


ELEMENTWISE = [ops.Add, ops.Subtract, ops.Multiply, ops.Divide, ops.Maximum]


@pytest.mark.parametrize("op", ELEMENTWISE)
@given(shapes=broadcasting(), seed=SEEDS)
def test_two_inputs_that_broadcast(op, shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = numbers(rng, shapes[0]), (positive if op is ops.Divide else numbers)(rng, shapes[1])
    passes(op, a, b)
    function = {ops.Add: np.add, ops.Subtract: np.subtract, ops.Multiply: np.multiply, ops.Divide: np.divide,
                ops.Maximum: np.maximum}[op]  # fmt: skip
    assert np.array_equal(op.do_forward(a, b).value, function(a, b))


@given(shapes=broadcasting(), seed=SEEDS)
def test_power(shapes, seed):
    rng = np.random.default_rng(seed)
    passes(ops.Power, positive(rng, shapes[0]), numbers(rng, shapes[1]))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_power_with_whole_exponents_takes_any_base(exponent):
    x = TensorNode([-2.0, -0.5, 0.0, 1.5])
    (x**exponent).backward(dout=[1.0, -2.0, 3.0, 0.5])
    slope = exponent * x.value ** max(exponent - 1, 0)
    np.testing.assert_allclose(x.grad, slope * [1.0, -2.0, 3.0, 0.5], rtol=1e-15)


UNARY = [ops.Negate, ops.Exp, ops.Log, ops.ReLU, ops.Sigmoid, ops.Tanh]


@pytest.mark.parametrize("op", UNARY)
@given(shape=SHAPES, seed=SEEDS)
def test_one_input(op, shape, seed):
    rng = np.random.default_rng(seed)
    x = (positive if op is ops.Log else numbers)(rng, shape)
    passes(op, x)
    function = {ops.Negate: np.negative, ops.Exp: np.exp, ops.Log: np.log, ops.Tanh: np.tanh,
                ops.ReLU: lambda x: np.where(x > 0, x, 0), ops.Sigmoid: lambda x: 1 / (1 + np.exp(-x))}[op]  # fmt: skip
    np.testing.assert_allclose(op.do_forward(x).value, function(x), rtol=1e-15)


@pytest.mark.parametrize("op", [ops.Softmax, ops.LogSoftmax])
@given(shape=st.lists(SIZES, min_size=1, max_size=3).map(tuple), seed=SEEDS, data=st.data())
def test_softmax(op, shape, seed, data):
    x, axis = numbers(np.random.default_rng(seed), shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    passes(op, x, axis)
    y = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True) if x.size else x
    np.testing.assert_allclose(
        op.do_forward(x, axis=axis).value, y if op is ops.Softmax else np.log(y), rtol=1e-13, atol=1e-14
    )


def test_no_number_overflows():
    x = TensorNode([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]])
    for y, wanted in ((graph.softmax(x), [[1, 0, 0], [0, 0, 1]]), (graph.sigmoid(x), [[1, 0, 0.5], [0, 0.5, 1]])):
        np.testing.assert_array_equal(y.value, wanted)
    np.testing.assert_array_equal(graph.log_softmax(x).value, [[0, -2e4, -1e4], [-2e4, -1e4, 0]])
    (graph.sigmoid(x).sum() + (graph.log_softmax(x) * [1.0, 2, 3]).sum()).backward()
    np.testing.assert_allclose(x.grad, [[1 - 6, 2, 3 + 0.25], [1, 2 + 0.25, 3 - 6]], atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_stays_nan(value):
    x = TensorNode([np.nan, 1.0])
    for function in (
        graph.relu,
        graph.sigmoid,
        graph.tanh,
        graph.softmax,
        graph.log_softmax,
        lambda x: graph.maximum(x, 0),
    ):
        assert np.isnan(function(x).value[0])


@given(
    batch=broadcasting(),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    vectors=st.sampled_from(["", "a", "b", "ab"]),
    seed=SEEDS,
)
def test_matmul(batch, sizes, vectors, seed):
    rng, (N, K, M) = np.random.default_rng(seed), sizes
    a = numbers(rng, (K,) if "a" in vectors else (*batch[0], N, K))
    b = numbers(rng, (K,) if "b" in vectors else (*batch[1], K, M))
    passes(ops.MatMul, a, b)
    assert np.array_equal(graph.matmul(a, b).value, a @ b)


@pytest.mark.parametrize("op", [ops.Sum, ops.Mean])
@given(shape=SHAPES, keepdims=st.booleans(), seed=SEEDS, data=st.data())
def test_sum_and_mean(op, shape, keepdims, seed, data):
    x, axis = numbers(np.random.default_rng(seed), shape), data.draw(axes_of(shape))
    function = np.sum if op is ops.Sum else np.mean
    if op is ops.Mean and math.prod(shape[k] for k in ops.summed(x, axis)) == 0:
        with pytest.raises(ValueError, match="the mean over"):
            op.do_forward(x, axis=axis, keepdims=keepdims)
        return
    passes(op, x, {"axis": axis, "keepdims": keepdims})
    y = op.do_forward(x, axis=axis, keepdims=keepdims).value
    wanted = function(x, axis=axis, keepdims=keepdims)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=1e-13, atol=1e-14)


@given(shapes=broadcasting(), seed=SEEDS)
def test_expand(shapes, seed):
    x, shape = numbers(np.random.default_rng(seed), shapes[0]), np.broadcast_shapes(*shapes)
    passes(ops.Expand, x, shape)
    y = graph.expand(x, shape).value
    assert np.array_equal(y, np.broadcast_to(x, shape)) and y.flags.writeable and not np.shares_memory(x, y)


@given(shape=SHAPES, seed=SEEDS, data=st.data())
def test_reshape_and_transpose(shape, seed, data):
    x, axes = numbers(np.random.default_rng(seed), shape), data.draw(st.permutations(range(len(shape))))
    axes = [k - data.draw(st.sampled_from([0, len(shape)])) for k in axes]
    for order in (None, tuple(axes)):
        passes(ops.Transpose, x, {"axes": order})
        assert np.array_equal(graph.transpose(x, order).value, np.transpose(x, order))
    other = tuple(data.draw(st.permutations([*shape, 1])))
    passes(ops.Reshape, x, other)
    assert np.array_equal(graph.reshape(x, other).value, x.reshape(other))


INDICES = [
    2, -1, (1, 2), slice(1, 3), slice(None, None, -2), (slice(None), 1), (..., 0), (None, 1), ..., [0, 2, 0, 0],
    ([1, 1], [0, 0]), (slice(1, 1), 2), np.array([[0, 1], [3, 3]]), np.arange(4) > 1, np.zeros(4, bool),
    (np.array([1, 1]), slice(0, 2)), (),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_select(index):
    x = numbers(np.random.default_rng(0), (4, 3))
    passes(ops.Select, x, {"index": index})
    assert np.array_equal(TensorNode(x)[index].value, x[index])


@given(shape=st.lists(SIZES, min_size=1, max_size=3).map(tuple), lengths=st.lists(SIZES, min_size=1, max_size=3),
       seed=SEEDS, data=st.data())  # fmt: skip
def test_concatenate(shape, lengths, seed, data):
    rng, axis = np.random.default_rng(seed), data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for n in lengths:
        size = list(shape)
        size[axis] = n
        parts.append(numbers(rng, tuple(size)))
    passes(ops.Concatenate, *parts, {"axis": axis})
    assert np.array_equal(graph.concatenate(parts, axis).value, np.concatenate(parts, axis))


def test_in_a_tie_the_first_takes_the_gradient():
    a, b = TensorNode([1.0, 2.0, 3.0, 0.0]), TensorNode([1.0, 3.0, 2.0, 0.0])
    graph.maximum(a, b).backward(dout=[5.0, -7.0, 2.0, 3.0])
    assert a.grad.tolist() == [5, 0, 2, 3] and b.grad.tolist() == [0, -7, 0, 0]
    assert [t.counts for t in passes(ops.Maximum, a.value, b.value).tensors] == [{"kink": 2, "ok": 2}] * 2
    assert passes(ops.ReLU, np.array([0.0, 1.0, -1.0])).tensors[0].kinks == 1
    x = TensorNode([0.0, -0.0])
    graph.relu(x).sum().backward()
    assert x.grad.tolist() == [0, 0]


PYTORCH = {
    "+": ([(2, 3), (3,)], lambda a, b: a + b, lambda t, a, b: a + b),
    "-": ([(2, 1), (1, 3)], lambda a, b: 1 - a - b, lambda t, a, b: 1 - a - b),
    "*": ([(2, 3), ()], lambda a, b: 2 * a * b, lambda t, a, b: 2 * a * b),
    "/": ([(3,), (2, 3)], lambda a, b: a / b + 1 / a, lambda t, a, b: a / b + 1 / a),
    "**": ([(4, 3), (3,)], lambda a, b: a**b + a**3 + 2**b, lambda t, a, b: a**b + a**3 + 2**b),
    "-x": ([(3,)], lambda x: -x, lambda t, x: -x),
    "exp, log": ([(2, 3)], lambda x: graph.log(x) * graph.exp(x), lambda t, x: t.log(x) * t.exp(x)),
    "matrix @ matrix": ([(3, 1, 2, 4), (5, 4, 3)], lambda a, b: a @ b, lambda t, a, b: a @ b),
    "vector @ matrix": ([(4,), (5, 4, 3)], lambda a, b: a @ b, lambda t, a, b: a @ b),
    "matrix @ vector": ([(2, 3, 4), (4,)], lambda a, b: a @ b, lambda t, a, b: a @ b),
    "vector @ vector": ([(4,), (4,)], lambda a, b: a @ b, lambda t, a, b: a @ b),
    "sum": (
        [(2, 3, 4)], lambda x: x.sum((0, -1)) * graph.sum(x, 2, True), lambda t, x: x.sum((0, -1)) * x.sum(2, True),
    ),
    "mean": ([(2, 3, 4)], lambda x: graph.mean(x, (0, 2)) * graph.mean(x), lambda t, x: x.mean((0, 2)) * x.mean()),
    "expand": ([(2, 1)], lambda x: graph.expand(x, (3, 2, 4)), lambda t, x: x.expand(3, 2, 4)),
    "reshape": ([(2, 6)], lambda x: graph.reshape(x, (3, -1)), lambda t, x: x.reshape(3, -1)),
    "transpose": ([(2, 3, 4)], lambda x: graph.transpose(x, (2, 0, 1)), lambda t, x: x.permute(2, 0, 1)),
    "select": ([(4, 3)], lambda x: x[[0, 2, 0], 1:], lambda t, x: x[[0, 2, 0], 1:]),
    "concatenate": (
        [(2, 1), (2, 3)], lambda a, b: graph.concatenate([a, b, a], 1), lambda t, a, b: t.cat([a, b, a], 1),
    ),
    "maximum": ([(2, 3), (3,)], lambda a, b: graph.maximum(a, b), lambda t, a, b: t.maximum(a, b)),
    "relu": ([(2, 3)], lambda x: graph.relu(x - 1), lambda t, x: t.relu(x - 1)),
    "sigmoid": ([(2, 3)], lambda x: graph.sigmoid(-x), lambda t, x: t.sigmoid(-x)),
    "tanh": ([(2, 3)], lambda x: graph.tanh(x), lambda t, x: t.tanh(x)),
    "gelu": (
        [(2, 3)], lambda x: graph.gelu(x) + graph.gelu(-x, "tanh"),
        lambda t, x: t.nn.functional.gelu(x) + t.nn.functional.gelu(-x, approximate="tanh"),
    ),
    "silu": ([(2, 3)], lambda x: graph.silu(x - 1), lambda t, x: t.nn.functional.silu(x - 1)),
    "softmax": ([(2, 3, 2)], lambda x: graph.softmax(x, 1), lambda t, x: t.softmax(x, 1)),
    "log-softmax": ([(2, 3, 2)], lambda x: graph.log_softmax(x), lambda t, x: t.log_softmax(x, -1)),
}  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("name", PYTORCH)
def test_as_in_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    shapes, ours, theirs = PYTORCH[name]
    rng = np.random.default_rng(0)
    arrays = [positive(rng, shape) for shape in shapes]
    nodes, twins = [TensorNode(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*nodes), theirs(torch, *twins)
    np.testing.assert_allclose(y.value, z.detach().numpy(), rtol=1e-13)
    dout = rng.normal(size=y.shape)
    y.backward(dout)
    z.backward(torch.tensor(dout))
    for node, twin in zip(nodes, twins, strict=True):
        np.testing.assert_allclose(node.grad, twin.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_every_operation_is_among_those_tested():
    kinds = {thing for thing in vars(ops).values() if isinstance(thing, type) and issubclass(thing, graph.Op)}
    tested = {*ELEMENTWISE, *UNARY, ops.Power, ops.Softmax, ops.LogSoftmax, ops.MatMul, ops.Sum, ops.Mean, ops.Expand,
              ops.Reshape, ops.Transpose, ops.Select, ops.Concatenate}  # fmt: skip
    assert kinds == {*tested, graph.Op} and all(kind.__doc__ for kind in kinds)


# -- planted bugs: what check_gradients says of wrong operations -------------------------------------------------------


class HighLow(graph.Op):
    """high = max(x, −x), low = 2x − y of a positive y: two outputs of different shapes"""

    @staticmethod
    def forward(context, x, y, factor=2.0):
        context["x"], context["factor"] = x, factor
        return np.abs(x), factor * x.sum() - y

    @staticmethod
    def backward(context, ghigh, glow):
        return ghigh * np.sign(context["x"]) + context["factor"] * glow.sum(), -glow


def test_an_operation_with_several_outputs():
    x, y = np.array([1.0, -2.0, 3.0]), np.array([[1.0, 2.0]])
    assert [t.name for t in passes(HighLow, x, y).tensors] == ["x", "y"]
    passes(HighLow, x, y, {"factor": -3.0})
    nodes = TensorNode(x), TensorNode(y)
    high, low = HighLow.do_forward(*nodes)
    assert high.source is low.source and high.source.outputs == (high, low)
    (high * [1.0, 10, 100]).sum().backward()
    np.testing.assert_array_equal(nodes[0].grad, [1, -10, 100])
    np.testing.assert_array_equal(nodes[1].grad, [[0, 0]])
    _, low = HighLow.do_forward(*nodes)  # one that nobody holds
    low.backward(dout=[[1.0, 2.0]])
    np.testing.assert_array_equal(nodes[0].grad, [7, -4, 106])
    np.testing.assert_array_equal(nodes[1].grad, [[-1, -2]])


def wrong(op, backward):
    return type(f"Wrong{op.__name__}", (op,), {"backward": staticmethod(backward)})


BUGS = {
    "factors not exchanged": (ops.Multiply, lambda c, g: (g * c["a"], g * c["b"])),
    "gradient replaced by ones": (ops.Multiply, lambda c, g: (c["b"] + 0 * g, c["a"] + 0 * g)),
    "sign": (ops.Subtract, lambda c, g: (g, g)),
    "a square too few": (ops.Divide, lambda c, g: (g / c["b"], -g * c["a"] / c["b"])),
    "written to gc": (ops.Add, lambda c, g: (np.multiply(g, 2, out=g) / 2, g)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_wrong_operations_are_rejected(bug):
    op, backward = BUGS[bug]
    a, b = positive(np.random.default_rng(0), (2, 3, 4))[:, :, :3], None
    a, b = a
    assert passes(op, a, b).passed
    assert not check_gradients(wrong(op, backward), a, b, smallest=False).passed


def test_a_forgotten_sum_over_a_broadcast_axis_is_rejected_with_a_small_case():
    report = check_gradients(wrong(ops.Add, lambda c, g: (g, g)), np.ones((3, 4)), np.ones(4))
    assert not report.passed and report.tensors[0].passed and "shape (3, 4)" in report.tensors[1].problem
    assert report.smallest is not None and set(report.smallest.arguments) == {"a", "b"}
    x = TensorNode(np.ones(4))
    with pytest.raises(ValueError, match=r"WrongAdd.backward gave a gradient \(3, 4\) for an input \(4,\)"):
        wrong(ops.Add, lambda c, g: (g, g)).do_forward(np.ones((3, 4)), x).sum().backward()
    with pytest.raises(ValueError, match="WrongAdd.backward gave 1 gradients for 2 inputs"):
        wrong(ops.Add, lambda c, g: g).do_forward(x, x).sum().backward()


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_what_a_reader_expects():
    a, b = TensorNode([1.0, 2.0], name="a"), TensorNode([[3.0], [4.0]])
    c = a + b
    assert np.array_equal(c.value, [[4, 5], [5, 6]]) and c.source.op is ops.Add
    assert c.source.inputs == (a, b) and c.source.inputs[0].value is a.value and c.source.outputs[0] is c
    assert a.source is None and set(c.source.context) == {"shapes"}
    for node in (a, b, c):
        assert node.grad.shape == node.value.shape and not node.grad.any()
    c.backward(dout=[[1.0, 2.0], [3.0, 5.0]])
    assert a.grad.tolist() == [4, 7] and b.grad.tolist() == [[3], [8]] and c.grad.tolist() == [[1, 2], [3, 5]]
    assert repr(a) == "TensorNode([1. 2.], name='a')" and "source=Add" in repr(TensorNode(1.0) + 1)


OPERATORS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "**": lambda a, b: a**b, "@": lambda a, b: a @ b,
}  # fmt: skip


@pytest.mark.parametrize("symbol", OPERATORS)
@pytest.mark.parametrize("kind", ["node", "array", "number", "list", "NumPy number", "integers"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_with_what_is_no_node(symbol, kind, dtype):
    operator, rng = OPERATORS[symbol], np.random.default_rng(0)
    x = positive(rng, (2, 2)).astype(dtype)
    other = {"node": x + 1, "array": x + 1, "number": 3, "list": [[1.5, 2], [3, 4]], "NumPy number": np.sqrt(2.0),
             "integers": np.array([[1, 2], [3, 4]])}[kind]  # fmt: skip
    if symbol == "@" and "number" in kind:
        with pytest.raises(ValueError):
            TensorNode(x) @ other
        return
    plain = np.asarray(other, dtype)
    for forward in (True, False):
        node = TensorNode(x)
        given = TensorNode(other) if kind == "node" else other
        y = operator(node, given) if forward else operator(given, node)
        wanted = operator(x, plain) if forward else operator(plain, x)
        assert isinstance(y, TensorNode) and y.dtype == dtype
        np.testing.assert_allclose(y.value, wanted, rtol=1e-6)
        y.sum().backward()
        assert node.grad.dtype == dtype and node.grad.any()


def test_in_place_operators_make_new_nodes():
    a = b = TensorNode([1.0, 2.0])
    a += 1
    a *= a
    assert a is not b and b.value.tolist() == [1, 2]
    a.sum().backward()
    assert b.grad.tolist() == [4, 6]
    with pytest.raises(TypeError):
        b[0] = 3


def test_comparisons_and_conversions_are_plain():
    x = TensorNode([[1.0, -2.0], [3.0, 0.5]])
    assert (x > 0).tolist() == [[True, False], [True, True]] and type(x > 0) is np.ndarray
    assert (np.zeros(2) < x).tolist() == (x > TensorNode(0.0)).tolist() == [[True, False], [True, True]]
    assert (x <= 1).tolist() == (~(x > 1)).tolist() and (x >= 3).sum() == 1 and (x < -1).sum() == 1
    assert (x == 3).tolist() == (~(x != 3)).tolist() == [[False, False], [True, False]]
    assert x in {x} and {x: 1}[x] == 1 and TensorNode(1.0) not in {x}
    assert len(x) == 2 and [row.shape for row in x] == [(2,), (2,)] and float(x[0, 1]) == -2 and bool(x[0, 0] > 0)
    assert (
        x.shape == (2, 2)
        and x.ndim == 2
        and x.size == 4
        and x.T.shape == x.reshape(2, -1).shape == x.reshape((2, 2)).shape
    )
    with pytest.raises(ValueError):
        bool(x)
    x[x > 0].sum().backward()
    assert x.grad.tolist() == [[1, 0], [1, 1]]


def test_iterating_gives_nodes_with_gradients():
    x = TensorNode([2.0, 3.0, 5.0])
    a, b, c = x
    (a * b * c).backward()
    assert x.grad.tolist() == [15, 10, 6]


@pytest.mark.parametrize("value", ["text", 1j, np.zeros(2, np.float16), None, object()])
def test_values_are_real_numbers(value):
    with pytest.raises(TypeError, match="TensorNode: expected numbers"):
        TensorNode(value)
    with pytest.raises(TypeError, match="TensorNode: expected numbers"):
        TensorNode(1.0) * value


def test_errors_name_the_operation():
    with pytest.raises(ValueError) as error:
        TensorNode(np.ones(2)) + np.ones(3)
    assert error.value.__notes__ == ["in the graph's operation Add of inputs (2,), (3,)"]
    with pytest.raises(TypeError, match="its array is its value"):
        TensorNode(TensorNode(1.0))


# -- the backward pass -------------------------------------------------------------------------------------------------


def test_backward_of_what_is_no_single_number_takes_a_cotangent():
    x = TensorNode(np.ones((2, 3)))
    y = x * 2
    with pytest.raises(ValueError, match=r"a node of shape \(2, 3\) is no single number: give dout"):
        y.backward()
    with pytest.raises(ValueError, match=r"expected dout of the node's shape \(2, 3\), got \(3,\)"):
        y.backward(dout=np.ones(3))
    assert not x.has_grad
    dout = np.random.default_rng(0).normal(size=(2, 3))
    y.backward(dout)
    assert np.array_equal(x.grad, 2 * dout)
    assert not np.shares_memory(y.grad, dout)
    (x.sum() * x[:1, :1]).backward()  # any shape of one element


def test_a_node_without_a_source_is_its_own_gradient():
    x = TensorNode(3.0)
    x.backward()
    x.backward()
    assert x.grad == 2


def test_nodes_that_are_used_several_times():
    x = TensorNode(3.0)
    y = x * x + x  # 2x + 1
    z = y * y * x  # 2 y y' x + y²
    z.backward()
    assert x.grad == 2 * 12 * 7 * 3 + 12**2
    a, b = TensorNode(2.0), TensorNode(5.0)
    (a + a).backward()
    (a + b).backward()
    assert (a.grad, b.grad) == (3, 1)
    a.grad += 1  # not b's, though an operation may give both the same array
    assert (a.grad, b.grad) == (4, 1)


def test_random_graphs_of_shared_parts():
    """Against the derivative of the same computation along random directions."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        choices = [(rng.integers(3), rng.integers(k + 3), rng.integers(k + 3)) for k in range(12)]

        def compute(values, choices=choices):
            values = list(values)
            for kind, i, j in choices:
                a, b = values[i], values[j]
                values.append(a * b if kind == 0 else a - 0.5 * b if kind == 1 else graph.tanh(a + b))
            return values[-1] * values[-2] + values[-3]

        point, step = rng.normal(size=3), rng.normal(size=3)
        leaves = [TensorNode(v) for v in point]
        compute(leaves).backward()
        slope = sum(leaf.grad * s for leaf, s in zip(leaves, step, strict=True))
        h = 1e-5
        up, down = (float(compute([TensorNode(v) for v in point + t * step])) for t in (h, -h))
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-7)


def test_gradients_accumulate_until_they_are_set_to_zero():
    x = TensorNode([1.0, 2.0])
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5, 7]
    held = x.grad
    x.zero_grad()
    assert x.grad.tolist() == [0, 0] and held is x.grad


def test_keeping_the_graph_going_through_it_twice_adds_the_same_again():
    x = TensorNode([1.0, 2.0])
    y = graph.exp(x)
    z = (y * y).sum()
    z.backward(keep_graph=True)
    once = {node: node.grad.copy() for node in graph.tensors(z)}
    z.backward(keep_graph=True)
    for node, grad in once.items():
        np.testing.assert_array_equal(node.grad, 2 * grad)
    for node in graph.tensors(z):
        node.zero_grad()
    z.backward()
    for node, grad in once.items():
        np.testing.assert_array_equal(node.grad, grad)


def test_a_graph_that_was_freed_says_so():
    x = TensorNode([1.0, 2.0])
    shared = graph.exp(x)
    first, second = shared.sum(), (shared * 2).sum()
    first.backward()
    before = x.grad.copy()
    for use in (first.backward, second.backward, lambda: first.source.inputs, lambda: shared.source.context,
                (shared + 1).sum().backward, lambda: graph.tensors(second), lambda: graph.draw(second),
                lambda: graph.dot(second)):  # fmt: skip
        with pytest.raises(
            RuntimeError, match=r"freed by a backward pass; to use it again, call backward\(keep_graph=True\)"
        ):
            use()
    assert np.array_equal(x.grad, before) and not second.has_grad  # nothing happened half
    assert "freed" in repr(first.source)


def test_two_losses_of_a_shared_part():
    x = TensorNode([1.0, 2.0])
    shared = graph.exp(x)
    first, second = shared.sum(), (shared * 2).sum()
    first.backward(keep_graph=True)
    second.backward()
    np.testing.assert_allclose(x.grad, 3 * np.exp(x.value))


def test_memory_is_free_at_once_without_a_garbage_collection():
    gc.collect()
    gc.disable()
    try:
        for use in (lambda z: None, lambda z: z.backward(), lambda z: z.backward(keep_graph=True)):
            x = TensorNode(np.ones(3))
            y = graph.exp(x)
            z = y.sum()
            watched = [weakref.ref(y), weakref.ref(z)]
            use(z)
            del y, z
            assert [w() for w in watched] == [None, None]
        z = (graph.exp(x) * 2).sum()
        inner = weakref.ref(z.source.inputs[0])
        z.backward()
        assert inner() is None and z.source is not None  # freed, though the loss is still held
    finally:
        gc.enable()


@pytest.mark.parametrize("keep_graph", [False, True])
def test_a_chain_of_100_000_operations(keep_graph):
    x = TensorNode(0.5)
    y = x
    for _ in range(100_000):
        y = y + x
    y.backward(keep_graph=keep_graph)
    assert y.value == 50_000.5 and x.grad == 100_001
    del y  # with the graph: 100,000 nodes that hold each other


def test_no_grad():
    x = TensorNode(2.0)
    with graph.no_grad():
        y = x * x
        with graph.no_grad():
            pass
        assert (y + 1).source is None
    assert y.value == 4 and y.source is None
    (x * y).backward()
    assert x.grad == 4 and y.grad == 2  # y was a constant there
    with pytest.raises(ZeroDivisionError), graph.no_grad():
        raise ZeroDivisionError
    assert (x * x).source is not None


# -- layers and losses as operations -----------------------------------------------------------------------------------

LAYERS = [
    (fastbp.Linear(4, 3), (5, 4)), (fastbp.Conv2d(2, 3, 3, padding=1), (2, 2, 5, 4)),
    (fastbp.MaxPool2d(2), (2, 2, 5, 4)), (fastbp.AvgPool2d(2), (2, 2, 4, 4)),
    (fastbp.BatchNorm1d(4), (6, 4)), (fastbp.BatchNorm2d(2), (3, 2, 2, 2)),
    (fastbp.Dropout(0.4), (5, 4)), (fastbp.Flatten(), (2, 3, 2)), (fastbp.Identity(), (3, 2)), (fastbp.ReLU(), (3, 4)),
    (fastbp.GELU(), (3, 4)), (fastbp.SiLU(), (3, 4)),
    (fastbp.LeakyReLU(0.1), (3, 4)), (fastbp.Sigmoid(), (3, 4)), (fastbp.Tanh(), (2, 3, 2)), (fastbp.Softmax(), (3, 4)),
    (fastbp.LogSoftmax(), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda x: repr(x))
def test_a_layer_is_an_operation(layer, shape, training):
    layer.astype(np.float64)
    x = numbers(np.random.default_rng(0), shape)
    passes(graph.layer_nodes.LayerOp, x, *(p.value for p in layer.parameters), {"layer": layer, "training": training})


def test_a_layer_adds_to_the_gradients_of_its_parameters():
    rng = np.random.default_rng(0)
    layer, x = fastbp.Linear(4, 3).astype(np.float64), rng.normal(size=(5, 4))
    y, dout = layer.forward(x), rng.normal(size=(5, 3))
    dx = layer.backward(dout)
    weight, bias = (p.grad.copy() for p in layer.parameters)
    node = TensorNode(x)
    out = graph.apply_layer(layer, node)
    assert [n.name for n in out.source.inputs[1:]] == ["weight", "bias"]
    assert np.array_equal(out.value, y)
    out.backward(dout)
    assert np.array_equal(node.grad, dx)
    np.testing.assert_array_equal(layer.weight.grad, 2 * weight)  # what stood there, and the same again
    np.testing.assert_array_equal(layer.bias.grad, 2 * bias)
    layer.forward(x[:2])  # a forward pass in between is no matter
    np.testing.assert_array_equal(layer.backward(dout[:2]), dx[:2])


class Cubed(fastbp.Layer):
    """A layer of somebody's own, which keeps what it needs in an attribute."""

    def forward(self, x, training=False, out=None):
        self.x = x
        return x**3

    def backward(self, dout, need_dx=True, out=None):
        return dout * 3 * self.x**2


@pytest.mark.parametrize("make", [lambda: fastbp.Linear(3, 3), fastbp.Tanh, lambda: fastbp.BatchNorm1d(3), Cubed])
def test_a_layer_may_stand_in_a_graph_twice(make):
    class Twice(graph.GraphLayer):
        """f(f(x) · x) of one layer f"""

        def __init__(self):
            super().__init__()
            self.layer = make()
            self.layer.astype(np.float64)
            self.parameters += self.layer.parameters

        def compute(self, x, *parameters):
            return graph.apply_layer(self.layer, graph.apply_layer(self.layer, x, training=True) * x, training=True)

    twice = Twice()
    report = check_gradients(twice, numbers(np.random.default_rng(0), (5, 3)))
    report.raise_if_failed()
    assert len(report.tensors) == 1 + len(twice.layer.parameters)


def test_running_statistics_and_masks_move_on_as_without_a_graph():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    ours, other = fastbp.BatchNorm1d(3), fastbp.BatchNorm1d(3)
    ours_drop, other_drop = fastbp.Dropout(0.5), fastbp.Dropout(0.5)
    for _ in range(3):
        a = graph.apply_layer(ours_drop, graph.apply_layer(ours, x, training=True), training=True)
        assert np.array_equal(a.value, other_drop.forward(other.forward(x, training=True), training=True))
    assert np.array_equal(ours.state["running_mean"], other.state["running_mean"])


LOSSES = [
    (fastbp.SoftmaxCrossEntropy(), (4, 3), "labels"), (fastbp.NLLLoss(), (4, 3), "labels"),
    (fastbp.LogisticLoss(), (4,), "binary"), (fastbp.HingeLoss(), (4, 1), "binary"),
    (fastbp.MulticlassHinge(), (4, 3), "labels"), (fastbp.MeanSquaredError(), (4, 2), "real"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "shape", "kind"), LOSSES, ids=lambda x: repr(x))
def test_a_loss_is_an_operation(loss, shape, kind):
    rng = np.random.default_rng(0)
    scores = numbers(rng, shape)
    targets = {"labels": rng.integers(0, 3, 4), "binary": np.array([0, 1, 1, 0]), "real": rng.normal(size=shape)}[kind]
    passes(graph.layer_nodes.LossOp, scores, {"targets": targets, "loss": loss})
    node = TensorNode(scores)
    value = graph.apply_loss(loss, node, targets)
    assert value.shape == () and value.value == loss.forward(scores, targets)
    (value * 3).backward()
    np.testing.assert_allclose(node.grad, 3 * loss.backward(), rtol=1e-15)
    with pytest.raises(TypeError, match="the targets have no gradient"):
        graph.apply_loss(loss, node, TensorNode(1.0))


def test_a_step_with_layers_in_a_graph_is_the_network_s():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)
    networks = [fastbp.Sequential(fastbp.Linear(6, 5), fastbp.ReLU(), fastbp.Linear(5, 3), seed=4) for _ in range(2)]
    criterion = fastbp.SoftmaxCrossEntropy()
    optimizers = [fastbp.SGD(lr=0.1, momentum=0.9) for _ in range(2)]
    trainer = fastbp.Trainer(networks[0], criterion, optimizers[0])
    for _ in range(3):
        trained = trainer.step(x, labels)
        networks[1].gradient_vector[:] = 0
        h = TensorNode(x)
        for layer in networks[1].layers:
            h = graph.apply_layer(layer, h, training=True)
        loss = graph.apply_loss(criterion, h, labels)
        loss.backward()
        optimizers[1].step(networks[1].parameter_vector, networks[1].gradient_vector)
        assert float(loss) == pytest.approx(trained, rel=1e-6)
    np.testing.assert_allclose(networks[1].parameter_vector, networks[0].parameter_vector, rtol=1e-5, atol=1e-7)


# -- the graph as a layer ----------------------------------------------------------------------------------------------


class Perceptron(graph.GraphLayer):
    """D → H → C"""

    def __init__(self, D, H, C, activation="sigmoid"):
        super().__init__()
        self.D, self.H, self.C, self.activation = D, H, C, activation
        he = fastbp.initializers.get("he_normal")
        self.parameter("w1", (H, D), lambda rng: he.weight(rng, (H, D), D, H))
        self.parameter("b1", (H,), lambda rng: np.zeros(H))
        self.parameter("w2", (C, H), lambda rng: he.weight(rng, (C, H), H, C))
        self.parameter("b2", (C,), lambda rng: np.zeros(C))

    def compute(self, x, w1, b1, w2, b2):
        h = getattr(graph, self.activation)(x @ w1.T + b1)
        return h @ w2.T + b2


def layers(D, H, C, activation):
    act = {"sigmoid": fastbp.Sigmoid, "relu": fastbp.ReLU}[activation]()
    return fastbp.Sequential(fastbp.Linear(D, H), act, fastbp.Linear(H, C))


def figure_of(node):
    figure = graph.draw(node)
    figure.canvas.draw()
    return figure, [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_draw_and_dot():
    x, w = TensorNode([[1.0, -2.0]], name="x"), TensorNode(np.ones((2, 9)), name='the "weights"')
    loss = (graph.relu(x @ w) * 2).sum()
    loss.name = "loss"
    figure, texts = figure_of(loss)
    assert sorted(texts) == sorted(["x = [[1, -2]]", 'the "weights" (2, 9)', "MatMul", "(1, 9)", "ReLU", "(1, 9)", "2",
                                    "Multiply", "(1, 9)", "Sum", "loss = 0"])  # fmt: skip
    text = graph.dot(loss)
    assert text.count("->") == 10 and text.count("ellipse") == 4 and text.count("box") == 7
    assert r'label="the \"weights\" (2, 9)"' in text
    loss.backward(keep_graph=True)
    assert "x = [[1, -2]]\ngrad [[0, 0]]" in figure_of(loss)[1] and r"x = [[1, -2]]\ngrad [[0, 0]]" in graph.dot(loss)


def test_boxes_of_a_drawing_lie_apart_and_edges_lead_to_the_right():
    x = TensorNode(0.5, name="x")
    y = x
    for k in range(3):
        y = graph.tanh(y * x + graph.exp(x)) - k
    columns, routes = graph.drawing._columns(y, graph.drawing.edges_of(y))
    places = graph.drawing._places(columns, routes)
    assert set(columns) >= set(graph.tensors(y))
    for column in set(columns.values()):
        heights = sorted(places[v][1] for v in places if places[v][0] == column)
        assert all(b - a > 1 - 1e-9 for a, b in zip(heights, heights[1:], strict=False))
    for route in routes:
        steps = [b - a for a, b in zip([places[v][0] for v in route], [places[v][0] for v in route[1:]], strict=False)]
        assert steps == [1] * len(steps)
    figure_of(y)


def test_drawing_a_single_node_and_far_too_many():
    x = TensorNode(1.0, name="x")
    assert figure_of(x)[1] == ["x = 1"] and 'label="x = 1"' in graph.dot(x)
    y = x
    for _ in range(200):
        y = y + x
    with pytest.raises(ValueError, match="a graph of 401 nodes can't be read in a figure"):
        graph.draw(y)
    assert graph.dot(y).count("->") == 600


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_graph_layer_s_gradients(activation):
    x = np.random.default_rng(0).normal(size=(5, 4))
    report = check_gradients(Perceptron(4, 6, 3, activation), x)
    report.raise_if_failed()
    assert [t.name for t in report.tensors] == ["x", "w1", "b1", "w2", "b2"]
    network = fastbp.Sequential(Perceptron(4, 6, 3, activation), fastbp.Tanh())
    check_gradients(network, x[:0]).raise_if_failed()
    check_gradients(network, x, np.zeros(5, int), loss=fastbp.SoftmaxCrossEntropy()).raise_if_failed()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("make", [lambda: fastbp.SGD(lr=0.1, momentum=0.9), lambda: fastbp.Adam(lr=1e-3)])
def test_training_steps_agree_with_layers(activation, make, dtype):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(32, 20)).astype(dtype), rng.integers(0, 10, 32)
    ours = fastbp.Sequential(Perceptron(20, 80, 10, activation), dtype=dtype)
    other = layers(20, 80, 10, activation).astype(dtype)
    other.parameter_vector[:] = ours.parameter_vector
    epsilon = float(np.finfo(dtype).eps)
    trainers = [fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), make()) for network in (ours, other)]
    a, b = (trainer.step(x, labels) for trainer in trainers)
    assert a == pytest.approx(b, rel=20 * epsilon)
    np.testing.assert_allclose(ours.gradient_vector, other.gradient_vector, rtol=0, atol=20 * epsilon)
    if isinstance(trainers[0].optimizer, fastbp.SGD):  # Adam's first step is the gradients' signs
        np.testing.assert_allclose(ours.parameter_vector, other.parameter_vector, rtol=20 * epsilon, atol=20 * epsilon)


def test_it_learns_is_saved_and_loaded(tmp_path):
    data = fastbp.datasets.digits()
    network = fastbp.Sequential(fastbp.Flatten(), Perceptron(64, 64, 10, "relu"))
    criterion = fastbp.SoftmaxCrossEntropy()
    history = fastbp.fit(network, criterion, fastbp.SGD(lr=0.1, momentum=0.9), data.train, epochs=10, progress=False)
    assert history.train_loss[-1] < 0.2 < 1 < history.train_loss[0]
    assert fastbp.evaluate(network, criterion, data.test).accuracy > 0.9
    network.save(tmp_path / "network.npz")
    again = fastbp.load(tmp_path / "network.npz")
    assert np.array_equal(fastbp.predict(again, data.test[0]), fastbp.predict(network, data.test[0]))
    assert "Perceptron(64, 64, 10, activation='relu')" in network.summary((1, 8, 8))


@pytest.mark.skipif("FASTBP_DATA" not in os.environ, reason="the data sets are not here")
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_steps_on_mnist(activation):
    x, labels = (array[:64] for array in fastbp.datasets.mnist().train)
    ours = fastbp.Sequential(fastbp.Flatten(), Perceptron(784, 4 * 784, 10, activation))
    other = fastbp.Sequential(fastbp.Flatten(), *layers(784, 4 * 784, 10, activation).layers)
    other.parameter_vector[:] = ours.parameter_vector
    trainers = [fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1)) for network in (ours, other)]
    for _ in range(3):
        a, b = (trainer.step(x, labels) for trainer in trainers)
        assert a == pytest.approx(b, rel=1e-5)
    np.testing.assert_allclose(ours.parameter_vector, other.parameter_vector, rtol=1e-4, atol=1e-6)


def test_unused_parameters_have_no_gradient_and_backward_comes_after_forward():
    class Half(graph.GraphLayer):
        def __init__(self):
            super().__init__()
            self.parameter("used", (), lambda rng: np.array(2.0))
            self.parameter("unused", (2,), lambda rng: np.ones(2))

        def compute(self, x, used, unused):
            return x * used if self.training else x

    half = Half()
    with pytest.raises(RuntimeError, match="Half.backward called before forward"):
        half.backward(np.ones((1, 2), np.float32))
    x = np.ones((1, 2), np.float32)
    half.parameters[1].grad[...] = 7
    assert half.forward(x, training=True).tolist() == [[2, 2]]
    assert half.backward(x).tolist() == [[2, 2]] and half.backward(x, need_dx=False) is None
    assert half.parameters[0].grad == 2 and half.parameters[1].grad.tolist() == [0, 0]
    assert (
        half.forward(x).tolist() == [[1, 1]] and half.backward(x).tolist() == [[1, 1]] and half.parameters[0].grad == 0
    )
    with pytest.raises(TypeError, match="Half: expected input of dtype float32"):
        half.forward(np.ones((1, 2)))


# -- bad arguments -----------------------------------------------------------------------------------------------------

SOME_AXES = st.lists(st.integers(-3, 2), max_size=3).map(tuple)
AXES = st.one_of(st.none(), st.integers(-4, 3), SOME_AXES)
INDEX = st.one_of(
    st.integers(-4, 3), st.none(), st.just(...), st.slices(4), st.lists(st.integers(-3, 2), max_size=3),
    st.lists(st.booleans(), max_size=4).map(np.array), st.just(slice(None, None, 0)),
)  # fmt: skip
UNLIKE = [  # name, ours, NumPy's, arguments beside the arrays
    *[(symbol, operator, operator, st.just(())) for symbol, operator in OPERATORS.items()],
    ("maximum", graph.maximum, np.maximum, st.just(())),
    ("sum", graph.sum, np.sum, st.tuples(AXES)),
    ("mean", graph.mean, np.mean, st.tuples(AXES)),
    ("reshape", graph.reshape, np.reshape, st.tuples(st.lists(st.integers(-1, 4), max_size=3).map(tuple))),
    ("expand", graph.expand, np.broadcast_to, st.tuples(st.lists(st.integers(-1, 3), max_size=3).map(tuple))),
    ("transpose", graph.transpose, np.transpose, st.tuples(st.one_of(st.none(), SOME_AXES))),
    (
        "select",
        graph.select,
        lambda x, index: x[index],
        st.tuples(st.one_of(INDEX, st.lists(INDEX, max_size=3).map(tuple))),
    ),
    ("concatenate", graph.concatenate, np.concatenate, st.tuples(st.integers(-4, 3))),
]


@pytest.mark.parametrize(("name", "ours", "numpys", "others"), UNLIKE, ids=[case[0] for case in UNLIKE])
@settings(max_examples=100)
@given(data=st.data())
def test_shapes_axes_and_indices_are_those_that_numpy_takes(name, ours, numpys, others, data):
    """The same result, or an error of the graph's own where NumPy has one."""
    shapes = [data.draw(SHAPES) for _ in range(2 if name in (*OPERATORS, "maximum", "concatenate") else 1)]
    arrays = [positive(np.random.default_rng(k), shape) for k, shape in enumerate(shapes)]
    others = data.draw(others)
    take = (lambda f, xs: f(xs, *others)) if name == "concatenate" else (lambda f, xs: f(*xs, *others))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mean of nothing
            wanted = take(numpys, arrays)
    except (TypeError, ValueError, IndexError):
        refused(lambda: take(ours, [TensorNode(x) for x in arrays]))
        return
    if name == "mean" and 0 in shapes[0]:
        if np.isnan(wanted).any():
            refused(lambda: take(ours, arrays), "no elements")
        return
    if name in ("sum", "mean") and not shapes[0] and others[0] not in (None, ()):
        return  # NumPy takes an axis 0 of a single number, which has none
    np.testing.assert_array_equal(take(ours, [TensorNode(x) for x in arrays]).value, wanted)


X = np.linspace(0.5, 2, 6).reshape(2, 3)
WRONG_OPTIONS = [
    (lambda v: graph.sum(X, v), "axis", ["0", 0.0, True, 1j, (0, 0), (0, -2), (0, "1"), 2, {0}, np.ones(2)]),
    (lambda v: graph.mean(X, v), "axis", ["0", 0.0, False, (1, 1), -3, [0, 0]]),
    (lambda v: graph.softmax(X, v), "axis", [None, "0", 0.0, True, (0,), 2, -3]),
    (lambda v: graph.log_softmax(X, axis=v), "axis", [None, "0", 0.5, (0, 1), 5]),
    (lambda v: graph.sum(X, keepdims=v), "keepdims", [None, 1, "yes", np.ones(2)]),
    (lambda v: graph.mean(X, keepdims=v), "keepdims", [0, "no"]),
    (lambda v: graph.reshape(X, v), "shape", ["6", None, 6.0, (2.0, 3), (-1, -1), (-2, 3), 5, True, {6}]),
    (lambda v: TensorNode(X).reshape(v), "shape", ["6", (4,), (None,), 2**63]),
    (lambda v: graph.expand(X, v), "shape", ["6", None, (3,), (4, 3), 1.5, (-1, 3)]),
    (lambda v: graph.transpose(X, v), "axes", ["01", 0, (0,), (0, 0), (0, 2), (0.0, 1), {0, 1}]),
    (
        lambda v: graph.select(X, v),
        "index",
        ["0", 0.0, 1j, [0.5], ("a", 0), np.ma.array([0]), slice("a"), TensorNode(0.0)],
    ),
    (lambda v: graph.select(X, v), "index", [2, -3, 10**30, (0, 0, 0), slice(None, None, 0), np.ones(3, bool)]),
    (lambda v: graph.concatenate(v), "tensors", [None, "ab", 3, {1: X}, [], [X, X[0]], [X, "a"], [1.0, 2.0], X]),
    (lambda v: graph.concatenate([X, X], v), "axis", [None, "0", 2, True, (0,)]),
    (lambda v: graph.apply_layer(v, X), "layer", [None, fastbp.ReLU, fastbp.HingeLoss(), graph.exp]),
    (lambda v: graph.apply_layer(fastbp.ReLU(), X, v), "training", [None, 1, "yes"]),
    (lambda v: graph.apply_loss(v, X, np.arange(2)), "loss", [None, fastbp.HingeLoss, fastbp.ReLU()]),
    (lambda v: graph.draw(v), "node", [None, X, fastbp.ReLU(), TensorNode]),
    (lambda v: graph.dot(v), "node", ["x", 3]),
    (lambda v: graph.tensors(v), "node", [[TensorNode(X)], None]),
    (lambda v: TensorNode(X, source=v), "source", ["x", TensorNode(1.0)]),
    (lambda v: TensorNode(X, name=v), "name", [3, b"x"]),
    (lambda v: TensorNode.of(v), "parameter", [X, None]),
    (lambda v: TensorNode(1.0).backward(keep_graph=v), "keep_graph", [1, "yes"]),
    (lambda v: TensorNode(X).backward(v), "dout", [X[0], 1.0, *no_arrays(X)[1:]]),
    (lambda v: graph.ops.Add.do_forward(X, X, scale=v), "scale", [1]),
    (lambda v: graph.ops.Add.do_forward(*v), "inputs", [(), (X,), (X, X, X)]),
]


@pytest.mark.parametrize(
    ("call", "name", "values"), WRONG_OPTIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_options_are_named(call, name, values):
    for value in values:
        refused(lambda value=value: call(value), name)


@pytest.mark.parametrize("number", range(len(no_arrays(X))))
def test_what_is_no_array_of_numbers_is_named(number):
    value = no_arrays(X)[number]
    refused(lambda: TensorNode(value), "value", kind=TypeError)
    for operation, names in (
        (graph.exp, "x"),
        (graph.relu, "x"),
        (graph.softmax, "x"),
        (graph.sum, "x"),
        (graph.reshape, "x"),
    ):
        refused(
            lambda operation=operation: operation(value, *[3] * (operation is graph.reshape)),
            f"input {names}",
            kind=TypeError,
        )
    for operator in OPERATORS.values():
        refused(lambda operator=operator: operator(TensorNode(X), value), "input b", kind=TypeError)
    refused(lambda: TensorNode(X) < value, "other", kind=TypeError)
    node = TensorNode(X)
    refused(lambda: setattr(node, "value", value), "value", kind=TypeError)
    refused(lambda: setattr(node, "grad", value), "grad", kind=TypeError)
    assert node.value is X and not node.grad.any()


def test_an_index_beyond_the_end_is_what_python_expects():
    x = TensorNode(X)
    for index in (2, -3, (0, 3), (0, 0, 0), [5]):
        for kind in (IndexError, ValueError):
            refused(lambda index=index: x[index], "index", kind=kind)
    refused(lambda: len(TensorNode(1.0)), "length", kind=TypeError)
    refused(lambda: list(TensorNode(1.0)), "length", kind=TypeError)
    refused(lambda: float(x), "float", kind=ValueError)
    assert float(TensorNode([[2.5]])) == 2.5 and x != None and x != "x"  # noqa: E711 -- as with any object


def test_nan_and_infinity_are_numpys_without_warnings():
    for function, ours in ((np.log, graph.log), (np.exp, graph.exp), (np.tanh, graph.tanh)):
        x = np.array([0.0, -1.0, 1000.0, np.nan, np.inf, -np.inf])
        with np.errstate(all="ignore"):
            wanted = function(x)
        node = TensorNode(x)
        y = ours(node)
        y.sum().backward()
        np.testing.assert_array_equal(y.value, wanted)
        assert np.isnan(node.grad[3])
    a, b = np.array([0.0, np.inf, 1.0, np.nan, -8.0, 0.0]), np.array([0.0, np.inf, 0.0, 1.0, 1 / 3, -1.0])
    for operator in (OPERATORS[symbol] for symbol in ("+", "-", "*", "/", "**")):
        with np.errstate(all="ignore"):
            wanted = operator(a, b)
        y = operator(TensorNode(a), TensorNode(b))
        y.sum().backward()
        np.testing.assert_array_equal(y.value, wanted)
    one = TensorNode(np.float32([1]))
    assert one.dtype == (one * 1e300).dtype == np.float32  # 1e300 is inf there


def test_a_new_value_is_an_array_that_the_gradient_fits():
    w = TensorNode(np.ones(3, np.float32))
    w.value = [1, 2, 3]
    assert w.dtype == np.float32 and w.value.tolist() == [1, 2, 3]
    w.value = np.zeros((2, 2))
    assert w.shape == w.grad.shape == (2, 2)
    refused(lambda: setattr(w, "value", np.ones(3)), "value", "(2, 2)", kind=ValueError)
    refused(lambda: setattr(w, "grad", np.ones(3)), "grad", "(2, 2)", kind=ValueError)
    w.grad = 2
    assert w.grad.tolist() == [[2, 2], [2, 2]]


def test_operations_that_give_no_numbers_are_named():
    class Odd(graph.Op):
        output = gradient = None

        @staticmethod
        def forward(context, x):
            return Odd.output

        @staticmethod
        def backward(context, gy):
            return Odd.gradient

    for odd in no_arrays(X)[1:]:
        Odd.output = odd
        refused(lambda: Odd.do_forward(X), "Odd.forward", kind=TypeError)
        Odd.output, Odd.gradient = X.sum(), odd
        refused(lambda: Odd.do_forward(X).backward(), "Odd.backward", kind=TypeError)

    class Plain(graph.GraphLayer):
        def compute(self, x):
            return x.value

    refused(lambda: Plain().forward(X), "compute", kind=TypeError)
    refused(lambda: Plain().output_shape((3,)), "compute", kind=TypeError)
    refused(lambda: fastbp.Sequential(Plain()).output_shape("3"), kind=TypeError)


@pytest.mark.parametrize("name", ["$\\frac$", "$a_1$", "5$", "half \ud800", "$", "a\nb"])
def test_any_name_can_be_drawn(name):
    node = TensorNode(2.0, name=name)
    graph.draw(node * node).savefig(io.BytesIO(), format="png", dpi=30)
    assert "digraph" in graph.dot(node)
