"""The cost sheet: what a network holds and computes, layer by layer, counted from its formulas and not measured.

    print(network.costs((1, 28, 28), batch=32))

**What is counted.** One batch of N samples: a training step's forward and backward pass, without the loss and the
optimiser.

- An addition, subtraction, multiplication, division, comparison, root, exponential, logarithm, tanh or erf is one FLOP,
  so a multiply and an add are two. A change of sign, a copy, an index and a random bit are none.
- A sum of n terms is n − 1 additions. A bias completes the last one: an output of a convolution with K×K windows of C
  channels costs 2·K²·C with a bias, one less without.
- Padding is counted as pixels are: the zeros are multiplied, compared and added.
- Multiply–adds are those of products with weights (`Linear`, `Conv2d`), one for each multiplication; forward, dx and dw
  take equally many. Other layers have none.
- FLOPs are the formula's, whatever the kernel does: a layer that is computed together with others, by Winograd's
  minimal filtering or on pooled pixels alone costs here what the plain layers cost.

P is the number of pixels of an output's channel, R that of the pixels of the (padded) image that any window holds, M
the elements of a channel in the batch, K² = KH·KW, "each" an element of the layer's output for the N samples:

| layer | forward | dx | dw | db |
| --- | --- | --- | --- | --- |
| Linear D→F | 2D each, 2D − 1 without bias | N·D·(2F − 1) | F·D·(2N − 1) | F·(N − 1) |
| Conv2d C→F | 2K²C each, one less without bias | 2·N·P·F·C·K² − N·C·R | F·C·K²·(2·N·P − 1) | F·(N·P − 1) |
| MaxPool2d | K² − 1 each | 1 each where windows overlap, else 0 | | |
| AvgPool2d | K² each | 1 each, and N·C·(P·K² − R) | | |
| ReLU, Dropout | 1 each | 1 each | | |
| LeakyReLU | 2 each | 2 each | | |
| Sigmoid | 3 each | 3 each | | |
| Tanh | 1 each | 3 each | | |
| GELU | 5 each, 9 by tanh | 11 each, 18 by tanh | | |
| SiLU | 4 each | 8 each | | |
| Scale | 1 each | 1 each | 2 in all but 1 each, where it is learned | |
| Softmax | 5C − 2 a row | 4C − 1 a row | | |
| LogSoftmax | 5C − 1 a row | 4C − 1 a row | | |
| BatchNorm | 7M + 10 a channel | 4M + 3 a channel | 2M − 1 a channel (dgamma) | M − 1 a channel (dbeta) |
| Flatten, Identity, Join | 0 | 0 | | |
| Plus | 1 each | 0 | | |

BatchNorm is in training mode: mean M, centred x M, variance 2M, 1 / √(var + eps) 3, x̂ M, gamma · x̂ + beta 2M, running
statistics 7; backward finds x̂ and 1 / √(var + eps) as forward left them.

**Backward** is what training computes: it ends at the first layer with parameters that are not frozen, whose dx nothing
needs. Neither that dx nor the layers before it are counted, nor the gradients of frozen parameters; `input_gradient` is
what the former would cost, for the gradient of the network's input.

**Parameters** named bias, b or beta are biases, all others weights. **Activations** are the bytes of a layer's output
for the batch; the total is that of all outputs and the input, as `Sequential.forward` keeps them for backward. What a
layer notes beside (a maximum's index) is not in it, nor what training spares by computing several layers at once.

**A layer of your own** says what it costs in a method `costs(input_shape, N)` that returns a `Cost`; input_shape is one
sample's. One that does not is "unknown" (None), and so is every total that it is part of. So is a subclass of a layer
that changes what is computed without a `costs` of its own.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arguments import instance, shown, whole
from .arguments import shape as shape_of
from .dtypes import float_dtype
from .engine.graph import Step, Wire, opened
from .engine.ops import in_table
from .flops import Cost
from .layers.base import Layer
from .parameters import any_trained

BIASES = ("bias", "b", "beta")


def cost_of(layer: Layer, input_shape: tuple[int, ...], N: int) -> Cost | None:
    """What a layer says it costs for N samples of `input_shape`.

    None where it says nothing, or where what says it is not what computes. A container costs what the layers inside it
    do.
    """
    shape, N = shape_of("cost_of: input_shape", input_shape), whole("cost_of: N", N)
    return _cost(instance("cost_of: layer", layer, Layer), [shape], N)


def _cost(layer: Layer, shapes: list[tuple[int, ...]], N: int) -> Cost | None:
    """The same with a shape for each of the layer's inputs."""
    if layer.opens:
        costs = [_cost(step.layer, [wire.shape for wire in step.inputs], N) for step in opened(layer, *shapes).steps]
        return None if None in costs else sum(costs[1:], costs[0])
    cost = layer.costs(*shapes, N) if says_costs(layer) else None
    if not isinstance(cost, Cost | None):
        raise TypeError(
            f"{type(layer).__name__}.costs: expected a fastbp.costs.Cost or None, got {type(cost).__name__}"
        )
    return cost


def says_costs(layer: Layer) -> bool:
    """Is what computes this layer no newer than what says its costs?"""
    if {"forward", "backward", "costs"} & vars(layer).keys():
        return "costs" in vars(layer)
    for base in type(layer).__mro__:
        if "costs" in vars(base):
            return True
        newer = in_table(base) and any(map(in_table, base.__mro__[1:]))  # an op of its own in place of its base's
        if {"forward", "backward"} & vars(base).keys() or newer:
            return False
    return False


@dataclass(frozen=True)
class LayerCosts:
    """A line of the sheet.

    `output_shape` is one sample's · `weights`, `biases` numbers of parameters · `cost` all FLOPs, dx too where training
    does not need it · `backward`, `backward_multiply_adds` of what training needs · `activation_bytes` of the output ·
    `path` its name
    """

    layer: str
    output_shape: tuple[int, ...]
    weights: int
    biases: int
    cost: Cost | None
    backward: int | None
    backward_multiply_adds: int | None
    activation_bytes: int
    path: str

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def forward(self) -> int | None:
        return None if self.cost is None else self.cost.forward

    @property
    def multiply_adds(self) -> int | None:
        return None if self.cost is None else self.cost.multiply_adds


class CostSheet:
    """What a layer or network, or `layers` one after the other, cost for a batch of `batch` inputs of `input_shape` and
    `dtype`.

    `rows` a LayerCosts for each layer, those inside containers too; totals `weights`, `biases`, `parameters`,
    `forward`, `backward`, `multiply_adds`, `backward_multiply_adds`, `input_gradient`, `activation_bytes`. What depends
    on a layer of unknown cost is None. The module's docstring says how each is counted. ValueError where the shape does
    not fit the layers.

    >>> from fastbp import Conv2d, MaxPool2d
    >>> sheet = CostSheet([Conv2d(50, 20, 4, stride=2, padding=1), MaxPool2d(3, stride=1)], (50, 12, 12))
    >>> [row.forward for row in sheet.rows], sheet.forward
    ([1152000, 2560], 1154560)
    """

    def __init__(self, layers: Layer | Sequence[Layer], input_shape: tuple[int, ...], batch: int = 1, dtype=np.float32):
        self.input_shape, self.dtype = shape_of("CostSheet: input_shape", input_shape), float_dtype(dtype)
        self.batch = whole("CostSheet: batch", batch)
        if not isinstance(layers, (Layer, list, tuple)):
            raise TypeError(f"CostSheet: layers must be a list of layers, got {shown(layers)}")
        steps, x = _steps(layers, self.input_shape)
        needing: set[Wire] = set()
        for step in steps:
            if any_trained(step.layer.parameters) or not needing.isdisjoint(step.inputs):
                needing.add(step.output)
        readers = [wire for step in steps for wire in step.inputs if step.output in needing]
        self.rows = tuple(self._row(step, needing, readers) for step in steps)
        spared = [
            row.cost and row.cost.dx for row, s in zip(self.rows, steps, strict=True) if needing.isdisjoint(s.inputs)
        ]
        self.input_gradient = _sum([*spared, self._joins(x, [wire for step in steps for wire in step.inputs])])

    def _row(self, step: Step, needing: set[Wire], readers: list[Wire]) -> LayerCosts:
        """What a step costs; backward, as far as training needs it."""
        layer, output = step.layer, step.output.shape
        cost = _cost(layer, [wire.shape for wire in step.inputs], self.batch)
        biases = sum(parameter.size for parameter in layer.parameters if parameter.name in BIASES)
        weights = sum(parameter.size for parameter in layer.parameters) - biases
        backward = products = None
        if step.output not in needing:
            backward = products = 0
        elif cost is not None:
            with_dx = not needing.isdisjoint(step.inputs)
            of_biases = [parameter for parameter in layer.parameters if parameter.name in BIASES]
            of_weights = [parameter for parameter in layer.parameters if parameter.name not in BIASES]
            with_db, with_dw = any_trained(of_biases), any_trained(of_weights)
            backward = cost.dw * with_dw + cost.db * with_db + cost.dx * with_dx + self._joins(step.output, readers)
            products = cost.multiply_adds * (with_dw + with_dx)
        return LayerCosts(
            repr(layer), output, weights, biases, cost, backward, products, self._bytes(output), step.path
        )

    def _joins(self, wire: Wire, readers: list[Wire]) -> int:
        """The additions of the gradients that a value has from its readers."""
        return max(readers.count(wire) - 1, 0) * (self._bytes(wire.shape) // self.dtype.itemsize)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        size = self.batch * self.dtype.itemsize
        for length in shape:
            size *= length
        return size

    def _total(self, name: str) -> int | None:
        return _sum([getattr(row, name) for row in self.rows])

    @property
    def weights(self) -> int:
        return self._total("weights")

    @property
    def biases(self) -> int:
        return self._total("biases")

    @property
    def parameters(self) -> int:
        return self._total("parameters")

    @property
    def forward(self) -> int | None:
        """FLOPs of the forward pass."""
        return self._total("forward")

    @property
    def backward(self) -> int | None:
        """FLOPs of the backward pass that training needs."""
        return self._total("backward")

    @property
    def multiply_adds(self) -> int | None:
        """Multiply–adds of the forward pass in products with weights."""
        return self._total("multiply_adds")

    @property
    def backward_multiply_adds(self) -> int | None:
        """Multiply–adds of the backward pass that training needs."""
        return self._total("backward_multiply_adds")

    @property
    def activation_bytes(self) -> int:
        """Bytes of the input and of all outputs."""
        return self._bytes(self.input_shape) + self._total("activation_bytes")

    # -- text, HTML, JSON ---------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """A table, and the totals below it; ASCII."""
        table = [HEAD, *self._cells()]
        widths = [max(len(row[c]) for row in table) for c in range(len(HEAD))]
        aligns = [str.rjust, str.ljust, str.ljust, *[str.rjust] * (len(HEAD) - 3)]
        lines = [
            "  ".join(f(cell, w) for f, cell, w in zip(aligns, row, widths, strict=True)).rstrip() for row in table
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *self._notes()])

    def _cells(self) -> list[tuple[str, ...]]:
        """The table as text: the input, the layers and the totals."""
        numbers = (
            "weights",
            "biases",
            "multiply_adds",
            "forward",
            "backward_multiply_adds",
            "backward",
            "activation_bytes",
        )
        rows = [("", "input", _shape_text(self.input_shape), *[""] * 6, f"{self._bytes(self.input_shape):,}")]
        for row in self.rows:
            rows.append(
                (
                    row.path,
                    row.layer,
                    _shape_text(row.output_shape),
                    *(_number_text(getattr(row, name)) for name in numbers),
                )
            )
        return [*rows, ("", "total", "", *(_number_text(getattr(self, name)) for name in numbers))]

    def _notes(self) -> list[str]:
        notes = [f"{self.parameters:,} parameters, {self.dtype}; FLOPs and bytes of a batch of {self.batch:,}"]
        if self.input_gradient:
            notes.append(
                f"not in it: the gradient of the input, which training does not need, {self.input_gradient:,} FLOPs"
            )
        unknown = [row.path for row in self.rows if row.cost is None]
        if unknown:
            notes.append(
                f"unknown: layer {', '.join(unknown)} does not say what it costs (a method costs, see fastbp.costs)"
            )
        return notes

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""

        def line(cells: tuple[str, ...], tag: str) -> str:
            sides = ["right", "left", "left", *["right"] * (len(HEAD) - 3)]
            inner = (
                f"<{tag} style='text-align:{s}'>{html.escape(c)}</{tag}>" for c, s in zip(cells, sides, strict=True)
            )
            return f"<tr>{''.join(inner)}</tr>"

        *rows, total = self._cells()
        body = line(HEAD, "th") + "".join(line(row, "td") for row in rows) + line(total, "th")
        return f"<div><table>{body}</table><p>{'<br>'.join(map(html.escape, self._notes()))}</p></div>"

    def to_dict(self) -> dict:
        """Everything, of kinds that `json.dumps` takes; what is unknown is None."""
        names = ("weights", "biases", "parameters", "multiply_adds", "forward", "backward_multiply_adds", "backward")
        names += ("activation_bytes",)
        layers = []
        for row in self.rows:
            entry = {"layer": row.layer, "output_shape": list(row.output_shape)} | {
                name: getattr(row, name) for name in names
            }
            gradients = {name: None if row.cost is None else getattr(row.cost, name) for name in ("dx", "dw", "db")}
            layers.append(entry | gradients)
        total = {name: getattr(self, name) for name in (*names, "input_gradient")}
        head = {"input_shape": list(self.input_shape), "batch": self.batch, "dtype": str(self.dtype)}
        return head | {"layers": layers, "total": total}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)


HEAD = ("", "layer", "output", "weights", "biases", "mul-adds", "FLOPs", "mul-adds back", "FLOPs back", "bytes")


def _steps(layers: Layer | Sequence[Layer], input_shape: tuple[int, ...]) -> tuple[list[Step], Wire]:
    """The steps of a layer or of layers in a row, containers opened, and the wire of the input."""
    if isinstance(layers, Layer):
        graph = opened(layers, input_shape)
        return graph.steps, graph.x
    x = end = Wire(input_shape)
    steps = []
    for i, layer in enumerate(layers):
        graph = opened(instance("CostSheet: a member of layers", layer, Layer), end.shape)
        same = {graph.x: end}
        for step in graph.steps:
            inputs = tuple(same.get(wire, wire) for wire in step.inputs)
            steps.append(Step(step.layer, inputs, step.output, ".".join(filter(None, (str(i), step.path)))))
        end = graph.y
    return steps, x


def _sum(numbers: list[int | None]) -> int | None:
    return None if None in numbers else sum(numbers)


def _number_text(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"
