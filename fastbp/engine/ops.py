"""The contract between kernels and engine, an Op, and the table that says which op computes which layers.

An op is kernels bound to the arrays of one batch. Its methods yield bound calls, and *the names of a method's
parameters are the axes along which its work may be cut*: `forward(self, samples, features)` can be asked for some
samples, or for some features of all samples; `forward(self, channels)` for some channels, but never for some samples; a
method without axes is made as a whole. There are no flags: what a method can't be given, it can't be cut by.

| axis | is a range of |
| --- | --- |
| samples | the batch, a slice |
| channels | a normalisation's channels |
| features | a linear layer's outputs |
| columns | the numbers of its dx |
| terms | the numbers that each number of its dx is a sum of; the method also takes `dx`, for partial sums |
| rows | a weight's gradient, for the whole batch |

A range is a pair (first, last), as kernels take it; one of samples is a slice. The gradient over some samples is a
partial sum too, so gradients go `into` the arrays that the engine gives.

A pass that can't be made in one go, since all samples have to be seen first, is made in steps: `before` names methods
that come before `forward` or `gradients`, each cut by its own axes and made by all threads before the next one begins.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from ..arguments import instance
from ..parameters import Parameter, any_trained
from .graph import Graph, LayerLike, Step, Wire

AXES = ("samples", "channels", "features", "columns", "terms", "rows")
Calls = Iterator[Callable[[], None]]


class Setting(NamedTuple):
    """What an op is made for: N samples, the dtype of all arrays, and whether it is for training."""

    N: int
    dtype: np.dtype
    training: bool


class Op:
    """Kernels for one or more layers in a row, on wires `inputs` and `output`.

    Subclasses yield calls from `prepare`, `forward`, `gradients` and `backward`, and use

    - `x`, `y`, `dout`, `dx`: arrays of the whole batch; `self.x[samples]` is a part's. dx has any content before.
    - `layers`, and `layer`, the first of them; `setting`; `inputs[0].shape` and `output.shape`, of a sample
    - `parameters` in the order of the flat vector, the weight first; `sizes` of the axes but samples, where there are
      some
    - `work`: multiply–adds of the forward pass for a sample
    - `before`: the methods that come before `forward` and before `gradients`, where there are some
    - `pixels`: how many numbers of a channel lie side by side, where they are few: then parts take many channels
    - `saves`: arrays like y that forward leaves for backward, with their dtype where it is not y's
    - `how`: how it computes, and why so, in a few words
    - `copies`: y is x in another shape; the engine gives both the same memory and makes no call
    - `passes_dout`: every dx is dout, and `backward` makes no call in the engine
    - `together(into, samples)`, where there is one: `gradients` and `backward` in one pass, that shares work; both take
      samples then
    - `apart`: backward reads nothing that `gradients` leaves, so a frozen layer's gradients need not be computed
    - `centres`: it takes away each channel's mean over the batch
    - `centred`: set by the engine where only such an op reads the output: a bias then has no gradient, exactly 0
    - `descend(values, grads, velocity, settings, rows)`, where there is one: SGD's update with gradients that are not
      kept
    """

    how = "a loop over the elements"
    saves: dict[str, type | None] = {}
    before: dict[str, tuple[str, ...]] = {}
    pixels: int | None = None
    copies = passes_dout = apart = False
    centres = centred = False
    descend: Callable | None = None
    together: Callable | None = None

    def __init__(
        self,
        layers: tuple[LayerLike, ...],
        inputs: tuple[Wire, ...],
        output: Wire,
        setting: Setting,
        paths: tuple[str, ...] = (),
    ):
        self.layers, self.layer, self.paths = layers, layers[0], paths
        self.inputs, self.output, self.setting = inputs, output, setting
        self.sizes: dict[str, int] = {}
        self.dout: np.ndarray | None = None
        self.dxs: list[np.ndarray | None] = [None] * len(inputs)
        self.parameters: tuple[Parameter, ...] = tuple(p for layer in layers for p in layer.parameters)
        self.work = self.layer.multiply_adds(*(wire.shape for wire in inputs)) if self.parameters else 0
        for name, dtype in self.saves.items():
            setattr(self, name, np.empty((setting.N, *output.shape), dtype or setting.dtype))

    @classmethod
    def suits(cls, layers: tuple[LayerLike, ...], shape: tuple[int, ...], setting: Setting) -> bool:
        """Is this the op for these layers, of the kinds that it is for, on samples of this shape?"""
        return True

    # -- what there is to compute ------------------------------------------------------------------------------------

    def prepare(self) -> Calls:
        """Once before a forward pass of the whole batch."""
        yield from ()

    def forward(self) -> Calls:
        """y from x."""
        yield from ()

    def gradients(self, into: dict[Parameter, np.ndarray]) -> Calls:
        """The parameters' gradients from dout, written over what is there."""
        yield from ()

    def backward(self) -> Calls:
        """dx from dout. It may read what `gradients` has left only where both take the same axes, or none."""
        yield from ()

    # -- for the engine ----------------------------------------------------------------------------------------------

    x = property(lambda self: self.inputs[0].array)
    y = property(lambda self: self.output.array)
    dx = property(lambda self: self.dxs[0])

    def axes(self, method: str) -> tuple[str, ...]:
        """The axes along which a method can be cut."""
        return axes(getattr(type(self), method))

    def steps(self, method: str) -> tuple[str, ...]:
        """The methods that make up a pass, in their order."""
        return (*self.before.get(method, ()), method)

    def calls(self, method: str, axis: str | None = None, part=None, **more) -> list[Callable[[], None]]:
        """What a method yields for a range of one axis and everything of the others."""
        ranges = {name: self.whole(name) for name in self.axes(method)}
        if axis is not None and axis not in ranges:
            raise TypeError(f"{type(self).__name__}.{method} is not made for a part of the {axis}")
        if axis is not None:
            ranges[axis] = part
        first = (call for layer in self.layers for call in layer.before_pass()) if method == "prepare" else ()
        return [*first, *getattr(self, method)(**ranges, **more)]

    def run(self, method: str, **more) -> None:
        """Make a pass on a layer alone, as a whole: see `op_alone`."""
        for name in self.steps(method):
            for call in getattr(self, name)(**self.everything[name], **(more if name == method else {})):
                call()

    def whole(self, axis: str):
        """The range of all there is."""
        return slice(0, self.setting.N) if axis == "samples" else (0, self.sizes[axis])

    @property
    def trained(self) -> bool:
        """Has it a parameter that is not frozen?"""
        return any_trained(self.parameters)

    @property
    def frozen(self) -> list[Parameter]:
        """Its parameters that are."""
        return [parameter for parameter in self.parameters if not parameter.requires_grad]

    @property
    def weights(self) -> int:
        """How many numbers the first parameter has."""
        return self.parameters[0].size if self.parameters else 0

    @property
    def size(self) -> int:
        """How many numbers all parameters have."""
        return sum(parameter.size for parameter in self.parameters)

    def kept(self) -> dict[str, np.ndarray]:
        """The arrays that backward reads, by name: x, y and what else forward has left."""
        own = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray) and k != "dout"}
        return {"x": self.x, "y": self.y, **own}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' + '.join(map(repr, self.layers))})"


@functools.cache
def axes(function: Callable) -> tuple[str, ...]:
    """The parameters of a method that are axes."""
    return tuple(name for name in inspect.signature(function).parameters if name in AXES)


# -- which op: the first in a list that suits ------------------------------------------------------------------------


class Entry(NamedTuple):
    """A line of the table: `maker(layers, inputs, output, setting, paths)` gives the ops of layers of these kinds in a
    row, or with `run` of a row of any length in which each is of one of them."""

    kinds: tuple[type, ...]
    suits: Callable
    maker: Callable[..., list[Op]]
    run: bool = False

    def lengths(self, kinds: list) -> Iterable[int]:
        """How many of these kinds, from the first on, it may be for; the longest row first."""
        if self.run:
            others = (i for i, kind in enumerate(kinds) if kind not in self.kinds)
            return range(next(others, len(kinds)), 1, -1)
        return [len(self.kinds)] if tuple(kinds[: len(self.kinds)]) == self.kinds else []


TABLE: list[Entry] = []
PASSES: dict[type, tuple[Callable, Callable]] = {}  # forward and backward of the classes in it


def computes(*kinds: type, when: Callable | None = None, run: bool = False) -> Callable:
    """Enter a class of ops, or a function that returns a list of ops, as what computes layers of these kinds in a row.

    With `run` it is for two layers or more in a row, each of any of these kinds. Such an entry is asked first, for the
    longest row that there is, and then for shorter ones.
    A longer row is asked before a shorter one, and of two entries for the same kinds the one that was entered last: so
    one of yours comes before the package's. Engines that have been made keep their ops.
    `when(layers, shape, setting)`, or the class's `suits`, says where an entry is to be used. A subclass of a layer
    counts as that layer unless it has a forward or backward of its own. TypeError for what is no class of layers.
    """
    for kind in kinds:
        if not isinstance(kind, type) or not hasattr(kind, "output_shape") or kind.opens:
            raise TypeError(f"computes: expected classes of layers that are no containers, got {kind!r}")
    if not kinds:
        raise TypeError("computes: expected at least one class of layers")

    def enter(maker):
        if isinstance(maker, type) and issubclass(maker, Op):
            entry = Entry(kinds, when or maker.suits, lambda *arguments: [maker(*arguments)], run)
        else:
            function = instance("computes: the maker", maker, Callable, "function")
            entry = Entry(kinds, when or (lambda *_: True), function, run)
        TABLE.insert(0, entry)
        PASSES.update({kind: (kind.forward, kind.backward) for kind in kinds if kind not in PASSES})
        TABLE.sort(key=lambda entry: (not entry.run, -len(entry.kinds)))
        return maker

    return enter


def in_table(kind: type) -> bool:
    """Does an op compute this very class of layers?"""
    return any(kind in entry.kinds for entry in TABLE)


def kind_of(layer: LayerLike) -> type | None:
    """The class in the table that says how this layer is computed.

    None where the layer, or its class, has another forward or backward than that class had when it was entered.
    """
    if "forward" in vars(layer) or "backward" in vars(layer):
        return None
    for base in type(layer).__mro__:
        if in_table(base):
            return base if (type(layer).forward, type(layer).backward) == PASSES[base] else None
    return None


def op_alone(layer: LayerLike, x: np.ndarray, y: np.ndarray, training: bool) -> Op:
    """The op of a layer on its own, for arrays like x and y. Its `everything` has the whole ranges of each method.

    TypeError for a layer that is not in the table and has no forward of its own.
    """
    known = {entry.kinds[0] for entry in TABLE if len(entry.kinds) == 1 and not entry.run}
    kind = next((base for base in type(layer).__mro__ if base in known), None)
    ends, setting = (Wire(x.shape[1:]), Wire(y.shape[1:])), Setting(len(x), x.dtype, training)
    for entry in TABLE if kind else ():
        if entry.kinds == (kind,) and not entry.run and entry.suits((layer,), x.shape[1:], setting):
            (op,) = entry.maker((layer,), ends[:1], ends[1], setting, ("",))
            methods = [name for each in ("prepare", "forward", "gradients", "backward") for name in op.steps(each)]
            op.everything = {name: {axis: op.whole(axis) for axis in op.axes(name)} for name in methods}
            return op
    raise TypeError(f"{type(layer).__name__} does not define forward and backward, and no op computes it")


def lowered(graph: Graph, setting: Setting, places: dict[Parameter, int]) -> list[Op]:
    """The ops of a graph, in its order: by the longest row of the table that suits, and Opaque for what is not in it.

    `places` is where each parameter begins in the flat vector: an op's follow each other there.
    """
    ops: list[Op] = []
    at, steps, kinds = 0, graph.steps, [kind_of(step.layer) for step in graph.steps]
    readers = [wire for step in steps for wire in step.inputs] + [graph.y]
    while at < len(steps):
        entry, row = entry_for(steps[at:], kinds[at:], readers, setting, places)
        layers, paths = tuple(step.layer for step in row), tuple(step.path for step in row)
        maker = entry.maker if entry else opaque
        ops += maker(layers, row[0].inputs, row[-1].output, setting, paths)
        at += len(row)
    return ops


def entry_for(
    steps: list[Step], kinds: list, readers: list[Wire], setting: Setting, places: dict[Parameter, int]
) -> tuple[Entry | None, list[Step]]:
    """The first entry of the table that suits the first steps, and these steps; None for one that none suits."""
    for entry in TABLE if kinds[0] is not None else ():
        for length in entry.lengths(kinds):
            row = steps[:length]
            if (
                in_a_row(row, readers)
                and one_after_the_other([p for step in row for p in step.layer.parameters], places)
                and entry.suits(tuple(step.layer for step in row), row[0].inputs[0].shape, setting)
            ):
                return entry, row
    return None, steps[:1]


def in_a_row(steps: list[Step], readers: list[Wire]) -> bool:
    """Does nobody else read what lies between these steps?"""
    pairs = zip(steps, steps[1:], strict=False)
    return all(b.inputs == (a.output,) and readers.count(a.output) == 1 for a, b in pairs)


def one_after_the_other(parameters: list[Parameter], places: dict[Parameter, int]) -> bool:
    """Does each parameter begin where the one before ends? Those that are made before each pass lie in no vector."""
    placed = [parameter for parameter in parameters if parameter in places]
    return all(places[b] == places[a] + a.size for a, b in itertools.pairwise(placed))


def opaque(*arguments) -> list[Op]:
    return [Opaque(*arguments)]


class Opaque(Op):
    """A layer with a forward and backward of its own, which are called as a whole.

    A layer of several inputs gets them all in forward, and gives a tuple of their gradients in backward.
    """

    how = "its own forward and backward"

    def forward(self):
        yield partial(self.forward_by_layer)

    def gradients(self, into):
        """The layer's backward fills its own gradients, and gives dx at once."""
        yield partial(self.backward_by_layer, tuple(self.dxs))

    def backward(self):
        if not self.parameters:
            yield partial(self.backward_by_layer, tuple(self.dxs))

    def forward_by_layer(self) -> None:
        kept = [] if self.setting.training else [(layer, layer.__dict__.get("_cache")) for layer in self.with_inner()]
        y = self.layer.forward(*(wire.array for wire in self.inputs), training=self.setting.training)
        for layer, cache in kept:  # a prediction in the middle of a step leaves what backward needs
            layer.__dict__["_cache"] = cache
        if np.shape(y) != self.y.shape:
            name = type(self.layer).__name__
            raise ValueError(f"{name}: forward gave {np.shape(y)}, output_shape says {self.y.shape}")
        np.copyto(self.y, y)

    def with_inner(self) -> list[LayerLike]:
        """The layer, and those inside it."""
        return [self.layer, *(self.layer.descendants() if hasattr(self.layer, "descendants") else ())]

    def backward_by_layer(self, dxs: tuple[np.ndarray | None, ...]) -> None:
        """Into these dxs, those of the pass that the call is bound in: another pass may want more, or less."""
        need_dx = any(dx is not None for dx in dxs)
        given = self.layer.backward(self.dout, need_dx=need_dx)
        if not need_dx:
            return
        for dx, array in zip(dxs, input_gradients(self.layer, given, self.inputs), strict=True):
            if dx is not None:
                np.copyto(dx, array)


def input_gradients(layer: LayerLike, given, inputs: tuple[Wire, ...]) -> tuple[np.ndarray, ...]:
    """What a layer's backward has given, one gradient for each input; ValueError where it is not that."""
    gradients, name = given if len(inputs) > 1 else (given,), type(layer).__name__
    if not isinstance(gradients, tuple) or len(gradients) != len(inputs):
        raise ValueError(f"{name}: backward must give a tuple of {len(inputs)} gradients, one for each input")
    for wire, gradient in zip(inputs, gradients, strict=True):
        if np.shape(gradient) != wire.array.shape:
            raise ValueError(f"{name}: backward gave {np.shape(gradient)} for an input {wire.array.shape}")
    return gradients


def flat(array: np.ndarray) -> np.ndarray:
    """All elements in a row, (n,): a view."""
    return array.reshape(-1)


def planes(array: np.ndarray) -> np.ndarray:
    """(N, C, M), M the pixels of a channel: a view."""
    return array.reshape(*array.shape[:2], math.prod(array.shape[2:]))
