"""Every op in the table keeps its word: what it can be given, it can be cut by. And one with fewer axes is cut less."""

import copy
import re
from functools import partial

import numpy as np
import pytest
from machines import SAMPLES, cuts_of
from op_proofs import Proof, close, made, pieces, run, unlike_the_layers

import fastbp
from fastbp import (
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)  # fmt: skip
from fastbp.engine import Machine, Setting, computes
from fastbp.engine.ops import TABLE, Entry
from fastbp.kernels import activations
from fastbp.layers.activations import TanhOp
from fastbp.layers.conv import ConvOp
from fastbp.layers.dropout import DropoutOp
from fastbp.layers.fused import AFTER, RISING, with_activation
from fastbp.layers.joins import Join, Plus
from fastbp.layers.linear import LinearOp
from fastbp.layers.norm import BatchNormOp, MapNormOp

pytestmark = pytest.mark.vectors

OURS = [entry for entry in TABLE if all(kind.__module__.startswith("fastbp.") for kind in entry.kinds)]
ANY = [((3, 5),), ((7,),), ((2, 3, 4),)]  # shapes of samples, for layers that take any


def anywhere(make):
    return [lambda shapes=shapes: ((make(),), shapes) for shapes in ANY]


def winograd(tile, kernel=3, stride=1):
    conv = Conv2d(32, 32, kernel, stride=stride, padding=1)
    conv.winograd_tile = tile
    return conv


def row(*layers, shape):
    """A case: fresh layers, and the shapes of their inputs."""
    return lambda: (copy.deepcopy(layers), (shape,))


def conv_pools(*kinds):
    """Cases of a convolution, a max pool and an activation in this order, by both ways of the one pass, and by two."""

    def after(*pool):
        return [MaxPool2d(*pool) if kind is MaxPool2d else kind() for kind in kinds]

    return [
        row(Conv2d(2, 5, 3), *after(2), shape=(2, 14, 14)),
        row(Conv2d(3, 16, 5, bias=False), *after(2), shape=(3, 14, 15)),
        row(Conv2d(2, 5, 3), *after(3, 2, 1), shape=(2, 9, 8)),
    ]


ORDERS = [order for kind in RISING for order in ((kind, MaxPool2d), (MaxPool2d, kind))]
MAX_POOLS = MaxPool2d(2), MaxPool2d(3, 2, 1)

# Layers and shapes for each line of the table, for all of the ways in which its op computes
CASES = {
    (Linear,): [
        row(Linear(7, 30), shape=(7,)),
        row(Linear(33, 9, bias=False), shape=(33,)),
        row(Linear(1, 1), shape=(1,)),
    ],
    (Conv2d,): [
        row(Conv2d(3, 5, 3, padding=1), shape=(3, 12, 12)),
        row(Conv2d(2, 17, (2, 5), bias=False), shape=(2, 12, 14)),
        row(winograd(2), shape=(32, 12, 13)),
        row(winograd(4), shape=(32, 12, 12)),
        row(winograd(4, 5), shape=(32, 12, 12)),
        row(winograd(4, 4, 2), shape=(32, 22, 24)),
        row(Conv2d(3, 5, 3, stride=2), shape=(3, 9, 9)),
        row(Conv2d(8, 16, 3, stride=2), shape=(8, 9, 9)),
        row(Conv2d(2, 3, 2, padding="full"), shape=(2, 4, 3)),
    ],
    **{
        (Conv2d, kind): [
            row(Conv2d(3, 5, 3, padding=1), kind(), shape=(3, 12, 12)),
            row(Conv2d(8, 16, 3, stride=2, bias=False), kind(), shape=(8, 9, 9)),
            row(winograd(4), kind(), shape=(32, 12, 12)),
        ]
        for kind in AFTER
    },
    (Conv2d, MaxPool2d): conv_pools(MaxPool2d),
    (BatchNorm1d,): [row(BatchNorm1d(C), shape=(C, *L)) for C, L in ((9, ()), (150, ()), (3, (5,)), (2, (40,)))],
    (BatchNorm1d, ReLU): [row(BatchNorm1d(C), ReLU(), shape=(C, *L)) for C, L in ((9, ()), (150, ()), (2, (33,)))],
    (BatchNorm2d,): [row(BatchNorm2d(6), shape=(6, 4, 5)), row(BatchNorm2d(3), shape=(3, 7, 5))],
    (BatchNorm2d, ReLU): [row(BatchNorm2d(6), ReLU(), shape=(6, 4, 5)), row(BatchNorm2d(3), ReLU(), shape=(3, 7, 5))],
    **{
        (kind, after): [row(kind(5), after(), shape=(5, *pixels)) for pixels in shapes]
        for kind, shapes in ((BatchNorm1d, [(), (33,)]), (BatchNorm2d, [(5, 7), (2, 40)]))
        for after in AFTER
        if after is not ReLU
    },
    **{
        (BatchNorm2d, *order): [
            row(BatchNorm2d(6), *(pool if kind is MaxPool2d else kind() for kind in order), shape=shape)
            for pool, shape in ((MaxPool2d(2), (6, 5, 23)), (MaxPool2d(3, 2, 1), (6, 7, 9)), (MaxPool2d(2), (6, 4, 4)))
        ]
        for order in [(MaxPool2d,), (MaxPool2d, ReLU), *((kind, MaxPool2d) for kind in RISING)]
    },
    (MaxPool2d,): [row(MaxPool2d(2), shape=(2, 6, 7)), row(MaxPool2d(3, 2, 1), shape=(2, 7, 7))],
    (AvgPool2d,): [row(AvgPool2d(2), shape=(2, 6, 7)), row(AvgPool2d(3, 2, 1), shape=(2, 7, 7))],
    (Plus,): [lambda: ((Plus(),), ((3, 5), (3, 5)))],
    (Join,): [lambda: ((Join(),), ((3, 5), (1, 5), (4, 5))), lambda: ((Join(),), ((2,),))],
    (Softmax,): [row(Softmax(), shape=(5,))],
    (LogSoftmax,): [row(LogSoftmax(), shape=(5,))],
    (Dropout,): anywhere(lambda: Dropout(0.4)),
    (LeakyReLU,): anywhere(lambda: LeakyReLU(0.3)),
    (Scale,): [*anywhere(lambda: Scale(0.3)), *anywhere(lambda: Scale(0.3, learned=True))],
    (GELU,): [*anywhere(GELU), *anywhere(lambda: GELU("tanh"))],
    **{(kind,): anywhere(kind) for kind in (ReLU, Sigmoid, Tanh, SiLU, Flatten, Identity)},
    **{
        (Linear, kind): [
            row(Linear(7, 30), kind(), shape=(7,)),
            row(Linear(20, 5, bias=False), kind(), shape=(20,)),
            row(Linear(3, 2100), kind(), shape=(3,)),
        ]
        for kind in AFTER
    },
    **{(Conv2d, *order): conv_pools(*order) for order in ORDERS},
    **{
        order: [row(*(pool if kind is MaxPool2d else kind() for kind in order), shape=(2, 7, 9)) for pool in MAX_POOLS]
        for order in ORDERS
    },
    (Linear, *AFTER): [
        row(Linear(4, 32), Tanh(), Linear(32, 16), Tanh(), Linear(16, 4), shape=(4,)),
        row(Linear(1, 9, bias=False), GELU(), Linear(9, 17), Linear(17, 1, bias=False), SiLU(), shape=(1,)),
        row(Linear(19, 3), ReLU(), Linear(3, 5), LeakyReLU(0.2), Linear(5, 64), Sigmoid(), shape=(19,)),
        row(Linear(2, 7), GELU("tanh"), Linear(7, 2), shape=(2,)),
    ],
    **{(Plus, kind): [lambda kind=kind: ((Plus(), kind()), ((3, 500), (3, 500)))] for kind in AFTER},
}


def faults(entry: Entry, seed: int = 0, N: int = 6) -> list[str]:
    """What its ops do wrong, for all cases that suit, in both dtypes, in training and evaluation."""
    rng, found, tried = np.random.default_rng(seed), [], 0
    for make in CASES.get(entry.kinds, ()):
        for dtype in (np.float64, np.float32):
            for training in (True, False):
                (layers, shapes), setting = make(), Setting(N, np.dtype(dtype), training)
                if not entry.suits(layers, shapes[0], setting):
                    continue
                tried += 1
                for parameter in (parameter for layer in layers for parameter in layer.astype(dtype).parameters):
                    parameter.value = rng.normal(size=parameter.shape)
                ops, apart = made(entry, layers, shapes, setting), copy.deepcopy(layers)
                for wire in ops[0].inputs:
                    wire.array[...] = rng.normal(size=wire.array.shape)
                for op in ops:
                    found += Proof(op, rng).faults()
                if len(layers) > 1 and len(shapes) == 1:
                    found += unlike_the_layers(ops, apart, rng)
    assert tried, f"no case for {entry.kinds}: give it one that suits in CASES"
    return found


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: "+".join(kind.__name__ for kind in entry.kinds))
def test_an_op_keeps_its_word(entry):
    for seed, N in ((0, 700), (1, 513)) if entry.run else ((0, 6), (1, 5), (2, 1)):
        assert faults(entry, seed, N) == []


# -- SGD's update that is made with the gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}])
def test_descending_in_pieces_is_sgds_update(settings, bias, kind=LinearOp):
    rng, layer = np.random.default_rng(0), Linear(7, 30, bias=bias).astype(np.float64)
    entry = Entry((Linear,), None, lambda *arguments: [kind(*arguments)])
    (op,) = made(entry, (layer,), ((7,),), Setting(6, np.dtype(np.float64), True))
    op.x[...], op.dout[...] = rng.normal(size=(6, 7)), rng.normal(size=(6, 30))
    run(op.calls("gradients", into={parameter: parameter.grad_array for parameter in op.parameters}))
    gradient = np.concatenate([parameter.grad_array.ravel() for parameter in op.parameters])
    values = rng.normal(size=gradient.size)
    mine, right = fastbp.SGD(lr=0.1, **settings), fastbp.SGD(lr=0.1, **settings)
    expected = values.copy()
    for _ in range(2):
        right.step(expected, gradient)
        (velocity,), grads = mine.begin(values, gradient), np.zeros_like(values)
        for first, last in pieces(rng, op.whole("rows")):
            part = slice(7 * first, values.size if last == 30 else 7 * last)
            if first < last:
                run(op.descend(values[part], grads[part], velocity[part], mine.numbers, (first, last)))
        assert close(values, expected)


# -- planted lies ------------------------------------------------------------------------------------------------------


class IgnoresSamples(TanhOp):
    def forward(self, samples):
        yield partial(activations.tanh_forward, self.x[:2].reshape(-1), self.y[:2].reshape(-1))


class DoesEverything(TanhOp):
    """The right result, whatever it is asked for: of two threads both would write it."""

    def backward(self, samples):
        yield from super().backward(self.whole("samples"))


class LeavesOneOut(TanhOp):
    def forward(self, samples):
        yield from super().forward(slice(samples.start, max(samples.start, samples.stop - 1)))


class SumsEverything(ConvOp):
    def gradients(self, into, samples, rows):
        yield from super().gradients(into, self.whole("samples"), rows)


class IgnoresRows(ConvOp):
    def gradients(self, into, samples, rows):
        yield from super().gradients(into, samples, self.whole("rows"))


class IgnoresTerms(LinearOp):
    def backward(self, samples, columns, terms, dx=None):
        yield from super().backward(samples, columns, self.whole("terms"), dx)


class IgnoresFeatures(LinearOp):
    def forward(self, samples, features):
        yield from super().forward(samples, self.whole("features"))


class IgnoresChannels(BatchNormOp):
    """All channels with each part: the running statistics move several times."""

    def forward(self, channels):
        return super().forward(self.whole("channels"))


class GathersTooEarly(MapNormOp):
    """Each part takes its own mean for the batch's."""

    def statistics(self, samples):
        yield from super().statistics(samples)
        yield from self.gather()


class OneMaskForAll(DropoutOp):
    """Each part begins with the mask of the first sample."""

    def _masked(self, x, y, samples):
        return super()._masked(x, y, slice(0, len(x)))


@pytest.mark.parametrize(("kinds", "lie", "said"), [
    ((Tanh,), IgnoresSamples, "no piece writes"), ((Tanh,), DoesEverything, "two pieces write"),
    ((Tanh,), LeavesOneOut, "no piece writes"), ((Conv2d,), SumsEverything, "gradients by samples.*something else"),
    ((Conv2d,), IgnoresRows, "gradients by rows.*two pieces write"),
    ((Linear,), IgnoresTerms, "backward by terms.*something else"),
    ((Linear,), IgnoresFeatures, "forward by features.*two pieces write"),
    ((BatchNorm2d,), IgnoresChannels, "forward by channels.*something else"),
    ((BatchNorm2d,), GathersTooEarly, "statistics by samples.*something else"),
    ((Dropout,), OneMaskForAll, "forward by samples"),
])  # fmt: skip
def test_a_planted_lie_is_found(kinds, lie, said):
    found = faults(Entry(kinds, lie.suits, lambda *arguments: [lie(*arguments)]))
    assert any(re.search(said, fault) for fault in found), found


def test_a_descent_that_ignores_its_rows_is_found():
    class Lie(LinearOp):
        def descend(self, values, grads, velocity, settings, rows):
            yield from super().descend(values, grads, velocity, settings, (0, rows[1] - rows[0]))

    with pytest.raises(AssertionError):
        test_descending_in_pieces_is_sgds_update({}, False, Lie)


def test_an_op_without_a_case_fails():
    with pytest.raises(AssertionError, match="no case"):
        faults(Entry((Conv2d, Flatten), lambda *arguments: True, lambda *arguments: []))


# -- ops that take fewer axes than their base --------------------------------------------------------------------------


@pytest.fixture
def table():
    """Entries that a test makes are taken out again."""
    before = TABLE[:]
    yield
    TABLE[:] = before


class ForSamples(LinearOp):
    def backward(self, samples):
        yield from super().backward(samples, self.whole("columns"), self.whole("terms"))


class WithoutRows(LinearOp):
    def gradients(self, into):
        yield from super().gradients(into, self.whole("rows"))


class ForColumns(LinearOp):
    def backward(self, columns):
        yield from super().backward(self.whole("samples"), columns, self.whole("terms"))


class Whole(WithoutRows):
    descend = None

    def forward(self):
        yield from super().forward(self.whole("samples"), self.whole("features"))

    def backward(self):
        yield from super().backward(self.whole("samples"), self.whole("columns"), self.whole("terms"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("machine", [Machine(), SAMPLES])
@pytest.mark.parametrize("op", [ForSamples, WithoutRows, ForColumns, Whole])
def test_what_an_op_does_not_take_it_is_not_cut_by(op, machine, threads, table):
    """An override that leaves an axis out takes the cut away, and the results stay."""

    class Own(Linear):
        """A layer with an op of its own."""

    computes(Own)(op)
    computes(Own, ReLU)(with_activation(op, ReLU))
    rng, before = np.random.default_rng(0), fastbp.get_num_threads()
    x, dout = rng.normal(size=(3, 30)), rng.normal(size=(3, 5))
    results = []
    for linear in (Linear, Own):
        layers = linear(30, 400), Tanh(), linear(400, 200), ReLU(), linear(200, 5)
        network = fastbp.Sequential(*layers, seed=3, dtype=np.float64)
        network.machine = machine
        engine = network.engine((30,))
        try:
            fastbp.set_num_threads(threads)
            y, dx = engine.forward(x, True).copy(), engine.backward(dout).copy()
            results.append((y, dx, network.gradient_vector.copy()))
        finally:
            fastbp.set_num_threads(before)
    for mine, right in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(mine, right, atol=1e-12)
    for method, axis in cuts_of(network, (30,), 3)[op.__name__]:
        assert axis is None or axis in engine.last.schedule.ops[0].axes(method)
