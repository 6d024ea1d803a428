"""What is computed: containers opened into steps, which wires join."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ..arguments import shown
from ..parameters import Parameter


class LayerLike(Protocol):
    """What the engine asks of a layer. `opens` says that it is a container, with `named_children` and `connect(*wires,
    place)`."""

    parameters: list[Parameter]
    opens: bool

    def output_shape(self, *input_shapes): ...
    def multiply_adds(self, *input_shapes): ...
    def before_pass(self): ...
    def forward(self, *inputs, training): ...
    def backward(self, dout, need_dx): ...


class Wire:
    """A value between layers, of `shape` for each sample.

    `array` (N, *shape) where it has memory · `same_as` the wire whose memory it shares, in another shape
    """

    def __init__(self, shape: tuple[int, ...], array: np.ndarray | None = None):
        self.shape, self.array = tuple(shape), array
        self.same_as: Wire | None = None

    @property
    def memory(self) -> "Wire":
        return self if self.same_as is None else self.same_as.memory

    def __repr__(self) -> str:
        return f"Wire({self.shape})"


Place = Callable[..., Wire]  # place(layer, *wires) makes this layer the next step and returns its output


class Step(NamedTuple):
    """A layer on its wires; `path` is its name in the network: "3.body.0", or "" for a layer that stands alone."""

    layer: LayerLike
    inputs: tuple[Wire, ...]
    output: Wire
    path: str


class Graph(NamedTuple):
    """Steps in an order in which they can be made, from wire x to wire y."""

    steps: list[Step]
    x: Wire
    y: Wire

    def again(self) -> "Graph":
        """The same steps on wires of their own, which have no memory yet."""
        wires = {wire: Wire(wire.shape) for wire in (self.x, *(step.output for step in self.steps))}
        steps = [s._replace(inputs=tuple(map(wires.get, s.inputs)), output=wires[s.output]) for s in self.steps]
        return Graph(steps, wires[self.x], wires[self.y])


def opens(layer: LayerLike) -> bool:
    """Is this a container that has no forward or backward of its own?"""
    return layer.opens and not {"forward", "backward"} & vars(layer).keys()


def opened(layer: LayerLike, input_shape: tuple[int, ...]) -> Graph:
    """The graph of a layer for samples of this shape, with all containers in it opened."""
    if opens(layer):
        return inside(layer, input_shape)
    x, y = Wire(input_shape), Wire(layer.output_shape(input_shape))
    return Graph([Step(layer, (x,), y, "")], x, y)


def inside(container: LayerLike, input_shape: tuple[int, ...]) -> Graph:
    """The graph inside a container, also of one that has a forward of its own."""
    steps: list[Step] = []

    def apply(layer, path, *inputs: Wire) -> Wire:
        steps.append(Step(layer, inputs, Wire(layer.output_shape(*(wire.shape for wire in inputs))), path))
        return steps[-1].output

    x = Wire(input_shape)
    return Graph(steps, x, connected(container, x, apply))


def connected(container: LayerLike, x: Wire, apply: Callable[..., Wire]) -> Wire:
    """A container's output on wire x: `apply(layer, path, *wires)` is called for each layer inside that is no
    container."""
    return Opening(x, apply).output_of(container, "", (x,))


class Opening:
    """What one pass through containers has seen: `seen` layers, by id, and the wires that it has `made`.

    No function in it refers to itself: such a cycle would keep layers, and so a network's vectors, until the collector
    comes.
    """

    def __init__(self, x: Wire, apply: Callable[..., Wire]):
        self.apply, self.seen, self.made = apply, set(), {x}

    def output_of(self, container: LayerLike, path: str, wires: tuple[Wire, ...]) -> Wire:
        """The wire that a container's `connect` returns."""
        names = {id(child): name for name, child in container.named_children.items()}

        def place(layer, *wires: Wire) -> Wire:
            _check(layer, wires, self.made)
            name = names.get(id(layer))
            if name is None and (layer.parameters or layer.state or layer.opens):
                who = type(container).__name__
                raise ValueError(
                    f"{who}.connect places {shown(layer)}, which is not one of its children: give it to "
                    "super().__init__, or set it as an attribute of its own"
                )
            if id(layer) in self.seen:
                raise ValueError(f"connect: {shown(layer)} is placed twice; use copy.deepcopy(layer) for a second one")
            self.seen.add(id(layer))
            its_path = ".".join(filter(None, (path, name)))
            wire = self.output_of(layer, its_path, wires) if opens(layer) else self.apply(layer, its_path, *wires)
            self.made.add(wire)
            return wire

        output = container.connect(*wires, place)
        if not isinstance(output, Wire) or output not in self.made:
            what = f"{type(container).__name__}.connect must return the wire of its output"
            raise TypeError(f"{what}, one that place gave, got {shown(output)}")
        return output


def _check(layer, wires: tuple, made: set[Wire]) -> None:
    """The errors that `place(layer, *wires)` deserves; `made` are the wires of this pass."""
    if isinstance(layer, type) or not hasattr(layer, "output_shape"):
        raise TypeError(f"connect: place takes a layer and wires, got {shown(layer)}")
    for wire in wires:
        if not isinstance(wire, Wire):
            raise TypeError(f"connect: place takes a layer and wires, got {shown(wire)} for {shown(layer)}")
        if wire not in made:
            raise ValueError(f"connect: {shown(layer)} is placed on a wire of another pass; use x and what place gives")
    least, most = _wires_of(type(layer).connect, 1) if opens(layer) else _wires_of(type(layer).output_shape, 0)
    if not least <= len(wires) <= most:
        wanted = f"{least} or more" if most > least else str(least)
        raise TypeError(f"connect: {shown(layer)} is placed with {len(wires)} wires, but takes {wanted}")


@functools.cache
def _wires_of(method: Callable, others: int) -> tuple[int, float]:
    """How many wires a method takes beside itself and `others`: (least, most)."""
    kinds = [p for p in inspect.signature(method).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    several = any(p.kind is p.VAR_POSITIONAL for p in kinds)
    needed = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.kind is not p.VAR_KEYWORD for p in kinds)
    needed -= 1 + others
    return max(needed, 1), float("inf") if several else max(needed, 1)
