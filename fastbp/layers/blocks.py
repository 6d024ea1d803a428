"""Layers that hold layers: in a row, beside a shortcut, side by side, or as you connect them."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from ..arguments import Setting, flag, instance
from ..engine.graph import Graph, Place, Step, Wire, connected, inside
from ..engine.ops import input_gradients
from ..parameters import State, any_trained
from .base import Layer, Parameter
from .joins import Join, Plus


class Container(Layer):
    """A layer that consists of others, its children: define `connect(x, place)`.

    `place(layer, *wires)` makes a child the next step on these wires and returns the wire of its output; `connect`
    returns the wire of the container's output. A wire may be read several times: its gradient is the sum. `wire.shape`
    is the shape of a sample. `Plus()` and `Join()` may be placed without being children. Each child is placed once.

    Children are given to the constructor, or set as attributes before the container becomes part of a network. Their
    names make the names of parameters: "body.0.weight". Parameters, state, dtype, seeds, costs and files are those of
    the children. Constructor arguments are kept as attributes of the same names, as in every layer.

    TypeError for children that are no layers; ValueError for a layer that stands in it twice, or is placed twice.

    >>> import fastbp
    >>> class Gated(Container):
    ...     '''y = body(x) + gate(x)'''
    ...     def __init__(self, body, gate):
    ...         super().__init__(body=body, gate=gate)
    ...     def connect(self, x, place):
    ...         return place(Plus(), place(self.body, x), place(self.gate, x))
    >>> fastbp.Sequential(Gated(fastbp.Linear(4, 3), fastbp.Linear(4, 3, bias=False))).named_parameters.keys()
    dict_keys(['0.body.weight', '0.body.bias', '0.gate.weight'])
    """

    opens = contains = True
    by_position = False  # are children given to the constructor alone, in their order?

    def __init_subclass__(cls):
        """One with a forward or backward of its own is called as a whole."""
        super().__init_subclass__()
        if "opens" not in vars(cls) and {"forward", "backward"} & vars(cls).keys():
            cls.opens = False

    def __init__(self, *children: Layer, **named: Layer):
        self._children: dict[str, Layer] = {}
        super().__init__()
        for i, child in enumerate(children):
            self._add(str(i), child)
        for name, child in named.items():
            self._add(name, child)
            setattr(self, name, child)

    def connect(self, x: Wire, place: Place) -> Wire:
        raise TypeError(f"{type(self).__name__} does not define connect(x, place)")

    # -- what is inside ------------------------------------------------------------------------------------------

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers inside, in order."""
        return tuple(self._children.values())

    @property
    def named_children(self) -> dict[str, Layer]:
        """The layers inside, by name."""
        return dict(self._children)

    def _add(self, name: str, child) -> None:
        self._check(name, child)
        self._children[name] = child

    def _check(self, name: str, child) -> None:
        """The error that a child of this name deserves, if any."""
        who = type(self).__name__
        if not name.isdigit() and (not name.isidentifier() or name[0] == "_" or hasattr(Container, name)):
            raise ValueError(f"{who}: {name!r} can't be the name of a child")
        check_child(who, child, [self, *self.descendants()])

    def descendants(self) -> Iterator[Layer]:
        """All layers inside, containers too, each before its own children."""
        for child in self._children.values():
            yield child
            yield from descendants(child)

    def leaves(self) -> dict[str, Layer]:
        """The layers inside that are no containers, by path ("body.0"), in the order of their parameters."""
        found = {}
        for name, child in self._children.items():
            if isinstance(child, Container):
                found.update({f"{name}.{path}": leaf for path, leaf in child.leaves().items()})
            else:
                found[name] = child
        return found

    @property
    def parameters(self) -> list[Parameter]:
        return [parameter for leaf in self.leaves().values() for parameter in leaf.parameters]

    @parameters.setter
    def parameters(self, parameters: list[Parameter]) -> None:
        if parameters:
            raise AttributeError(f"{type(self).__name__}: a container's parameters are those of its children")

    @property
    def state(self) -> Mapping:
        return MappingProxyType({})

    @state.setter
    def state(self, state: State) -> None:
        if state:
            raise AttributeError(f"{type(self).__name__}: a container's state is that of its children")

    @property
    def named_parameters(self) -> dict[str, Parameter]:
        """The parameters by path and name: "3.body.0.weight"."""
        return {f"{path}.{p.name}": p for path, leaf in self.leaves().items() for p in leaf.parameters}

    def parameter(self, name, shape, draw):
        raise TypeError(
            f"{type(self).__name__}: a container has no parameters of its own: make a layer that has them a child"
        )

    @property
    def dtype(self) -> np.dtype | None:
        return next((leaf.dtype for leaf in self.leaves().values() if leaf.dtype is not None), None)

    def astype(self, dtype) -> "Container":
        self._refuse_in_network()
        for child in self._children.values():
            child.astype(dtype)
        return self

    def set_dtype(self, dtype: np.dtype) -> None:
        for leaf in self.leaves().values():
            leaf.set_dtype(dtype)

    def __setattr__(self, name: str, value) -> None:
        """A layer that is not inside yet becomes a child of this name."""
        who, public = type(self).__name__, name[0] != "_"
        held = self.__dict__.get("_children")
        if held is not None and public and held.get(name, value) is not value:
            raise AttributeError(f"{who}: {name} can't be set once it is there: make a new container")
        new = isinstance(value, Layer) and public and not self.by_position
        if new and held is None:
            raise AttributeError(f"{who}: call super().__init__() before {name} is set")
        new = new and not any(layer is value for layer in self.descendants())
        if new and self.network is not None:
            raise AttributeError(f"{who}: {name} can't be set in a network: make a new container")
        if new:
            self._check(name, value)
        super().__setattr__(name, value)
        if new:
            self._children[name] = value
        if public and (network := self.network) is not None:
            network.forget_engines()

    def _arguments(self):
        """As of every layer; children that the constructor takes as they come need not be kept under another name."""
        named = {name: child for name, child in self._children.items() if not name.isdigit()}
        for name, argument in inspect.signature(type(self)).parameters.items():
            if argument.kind is argument.VAR_KEYWORD:
                yield argument, named
            elif argument.kind is argument.VAR_POSITIONAL and (name == "children" or not hasattr(self, name)):
                yield argument, tuple(child for n, child in self._children.items() if n.isdigit())
            else:
                named.pop(name, None)
                yield from self._argument(name, argument)

    def __delattr__(self, name: str) -> None:
        if name in self._children:
            raise AttributeError(f"{type(self).__name__}: {name} is a child and can't be deleted: make a new container")
        super().__delattr__(name)

    def sharing(self) -> "Container":
        return copy.deepcopy(self, {id(leaf): leaf.sharing() for leaf in self.leaves().values()})

    # -- layer by layer ------------------------------------------------------------------------------------------

    def forward(self, x: np.ndarray, training: bool = False, out: np.ndarray | None = None) -> np.ndarray:
        """The output for a batch x (N, …), layer by layer: each layer's own forward."""
        training = flag(f"{type(self).__name__}: training", training)
        if not isinstance(x, np.ndarray):
            self._refuse(x, ("N", ...), "input")
        steps: list[Step] = []

        def apply(layer: Layer, path: str, *wires: Wire) -> Wire:
            y = layer.forward(*(wire.array for wire in wires), training=training)
            steps.append(Step(layer, wires, Wire(np.shape(y)[1:], y), path))
            return steps[-1].output

        start = Wire(np.shape(x)[1:], x)
        end = connected(self, start, apply)
        self._cache = Graph(steps, start, end)
        return self._given(end.array, x, out)

    def backward(self, dout: np.ndarray, need_dx: bool = True, out: np.ndarray | None = None) -> np.ndarray | None:
        """Fill the gradients from the last forward pass, by each layer's own backward; the gradient of its input.

        With `need_dx=False` that gradient, which training doesn't need, is not computed and None is returned.
        """
        need_dx, graph = flag(f"{type(self).__name__}: need_dx", need_dx), self._cache
        if not isinstance(graph, Graph):
            raise RuntimeError(f"{type(self).__name__}.backward called before forward")
        needing = {graph.x} if need_dx else set()
        for step in graph.steps:
            if any_trained(step.layer.parameters) or not needing.isdisjoint(step.inputs):
                needing.add(step.output)
        due, unused = {graph.y: dout}, set(map(id, self.parameters))
        for step in reversed(graph.steps):
            if step.output not in needing or step.output not in due:
                continue
            unused -= set(map(id, step.layer.parameters))
            needed = not needing.isdisjoint(step.inputs)
            given = step.layer.backward(due.pop(step.output), need_dx=needed)
            if not needed:
                continue
            for wire, gradient in zip(step.inputs, input_gradients(step.layer, given, step.inputs), strict=True):
                if wire in needing:
                    due[wire] = due[wire] + gradient if wire in due else gradient
        for parameter in self.parameters:
            if id(parameter) in unused or not parameter.requires_grad:  # of a layer that has no part in the output
                parameter.grad[...] = 0
        if not need_dx:
            return None
        dx = due[graph.x] if graph.x in due else np.zeros_like(graph.x.array)
        return self._given(dx, dout, out)

    def _given(self, array: np.ndarray, like: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """The array, as the caller's own or in `out`: a layer may have passed on what it was given, `like`."""
        if out is None and not np.may_share_memory(array, like):
            return array
        result = self.buffer(out, array.shape, np.asarray(like, array.dtype))
        np.copyto(result, array)
        return result

    def output_shape(self, input_shape):
        return inside(self, self.sample_shape(input_shape)).y.shape


def descendants(layer: Layer) -> Iterator[Layer]:
    """All layers inside a layer: none but for a container."""
    return layer.descendants() if isinstance(layer, Container) else iter(())


def check_child(who: str, child, others: Iterable[Layer]) -> None:
    """TypeError or ValueError for what can't become a child beside the layers that are there."""
    if not isinstance(child, Layer):
        hint = ": unpack it with *" if isinstance(child, (list, tuple)) else ""
        raise TypeError(f"{who}: expected layers, got {type(child).__name__}{hint}")
    taken = set(map(id, others))
    if id(child) in taken or any(id(layer) in taken for layer in descendants(child)):
        raise ValueError(f"{who}: the same layer stands twice; use copy.deepcopy(layer) for a second one")


class Chain(Container):
    """Layers one after the other, at least one."""

    by_position = True

    def __init__(self, *layers: Layer):
        super().__init__(*layers)
        if not layers:
            raise ValueError(f"{type(self).__name__}: expected at least one layer")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return self.children

    def connect(self, x, place):
        for layer in self.children:
            x = place(layer, x)
        return x


class Residual(Container):
    """y = body(x) + shortcut(x): the body is `layers` one after the other, the shortcut a layer, or x itself where
    there is none.

    x (N, …) · y (N, …), the shape that both give; ValueError where they differ.
    Backward: dx = ∂body/∂xᵀ dout + ∂shortcut/∂xᵀ dout.

    In PyTorch such a block is a module of one's own (He, Zhang, Ren, Sun 2016: Deep residual learning for image
    recognition). Parameters are named "body.0.weight", "shortcut.weight". A ReLU after it is computed in the pass that
    adds.

    >>> from fastbp import Conv2d, ReLU
    >>> block = Residual(Conv2d(8, 16, 3, stride=2, padding=1), ReLU(), shortcut=Conv2d(8, 16, 1, stride=2))
    >>> block.output_shape((8, 9, 9))
    (16, 5, 5)
    """

    shortcut = Setting(lambda what, layer: None if layer is None else instance(what, layer, Layer, "layer"))

    def __init__(self, *layers: Layer, shortcut: Layer | None = None):
        if not layers:
            raise ValueError("Residual: expected at least one layer")
        if shortcut is not None:
            instance("Residual: shortcut", shortcut, Layer, "layer")
        for i, layer in enumerate(given := (*layers, *([] if shortcut is None else [shortcut]))):
            check_child("Residual", layer, [each for other in given[:i] for each in (other, *descendants(other))])
        super().__init__(body=Chain(*layers))
        self.shortcut = shortcut

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the body."""
        return self.body.layers

    def connect(self, x, place):
        y = place(self.body, x)
        beside = x if self.shortcut is None else place(self.shortcut, x)
        if y.shape != beside.shape:
            what = "the input has" if self.shortcut is None else "the shortcut gives"
            hint = "; give a shortcut that fits" if self.shortcut is None else ""
            raise ValueError(f"Residual: the layers give {('N', *y.shape)}, {what} {('N', *beside.shape)}{hint}")
        return place(Plus(), y, beside)


class Concat(Container):
    """y = [branch₀(x), branch₁(x), …]: the outputs of all branches for the same x, joined along the first axis of a
    sample.

    x (N, …) · y (N, C, …) with C the sum of the branches' channels or features; all other sizes are equal, or it is a
    ValueError. Backward: each branch gets its channels of dout, and dx is the sum of what they give.

    Parameters are named "0.weight", "1.0.weight", by the branch. A branch of several layers is a Sequential.

    >>> from fastbp import Linear
    >>> Concat(Linear(4, 3), Linear(4, 2)).output_shape((4,))
    (5,)
    """

    by_position = True

    def __init__(self, *branches: Layer):
        super().__init__(*branches)
        if not branches:
            raise ValueError("Concat: expected at least one branch")

    @property
    def branches(self) -> tuple[Layer, ...]:
        """The branches, in order."""
        return self.children

    def connect(self, x, place):
        joined = [place(branch, x) for branch in self.children]
        if len({wire.shape[1:] for wire in joined}) > 1 or not all(wire.shape for wire in joined):
            given = ", ".join(str(("N", *wire.shape)) for wire in joined)
            raise ValueError(f"Concat: the branches give {given}, which differ beyond the first axis after N")
        return place(Join(), *joined)
