"""What is computed: containers opened into steps, which wires join."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ..parameters import Parameter


class LayerLike(Protocol):
    """What the engine asks of a layer. `opens` says that it is a container, with `named_children` and `connect(*wires,
    place)`."""

    parameters: list[Parameter]
    opens: bool

    def output_shape(self, *input_shapes): ...
    def multiply_adds(self, input_shape): ...
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

    def renewed(self) -> "Graph":
        """The same steps, on wires of their own."""
        wires: dict[Wire, Wire] = {}

        def new(wire: Wire) -> Wire:
            return wires.setdefault(wire, Wire(wire.shape))

        steps = [step._replace(inputs=tuple(map(new, step.inputs)), output=new(step.output)) for step in self.steps]
        return Graph(steps, new(self.x), new(self.y))


def opened(layer: LayerLike, input_shape: tuple[int, ...]) -> Graph:
    """The graph of a layer for samples of this shape, with all containers in it opened."""
    steps: list[Step] = []

    def apply(layer, path, *inputs: Wire) -> Wire:
        output = Wire(layer.output_shape(*(wire.shape for wire in inputs)))
        steps.append(Step(layer, inputs, output, path))
        return output

    x = Wire(input_shape)
    return Graph(steps, x, connected(layer, x, apply))


def connected(layer: LayerLike, x: Wire, apply: Callable[..., Wire]) -> Wire:
    """The output of a layer on wire x: `apply(layer, path, *wires)` is called for each layer inside that is no
    container."""
    seen: set[int] = set()

    def placed(layer, path: str, inputs: tuple[Wire, ...]) -> Wire:
        for wire in inputs:
            if not isinstance(wire, Wire):
                raise TypeError(f"connect: place takes a layer and wires, got {type(wire).__name__} for {layer!r}")
        if id(layer) in seen:
            raise ValueError(f"connect: {layer!r} is placed twice; use copy.deepcopy(layer) for a second one")
        seen.add(id(layer))
        if not layer.opens or "forward" in vars(layer) or "backward" in vars(layer):
            return apply(layer, path, *inputs)
        names = {id(child): name for name, child in layer.named_children.items()}

        def place(inner, *wires: Wire) -> Wire:
            name = names.get(id(inner))
            if name is None and (inner.parameters or inner.state or inner.opens):
                raise ValueError(f"{type(layer).__name__}.connect places {inner!r}, which is not one of its children")
            return placed(inner, ".".join(filter(None, (path, name))), wires)

        output = layer.connect(*inputs, place)
        if not isinstance(output, Wire):
            raise TypeError(f"{type(layer).__name__}.connect must return the wire of its output, got {output!r}")
        return output

    return placed(layer, "", (x,))
