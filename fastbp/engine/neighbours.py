"""What layers next to each other spare each other.

In evaluation two layers may be one: a convolution and the batch norm after it are a convolution with other filters.
`merges` enters a function that makes that layer, and `merged` puts it into a graph before ops are chosen, so that every
op for the one layer serves the two. A layer that then changes nothing, dropout, is left out.

In training a normalisation takes away what a bias before it has added: that bias has no gradient, and the op before
need not sum it up.
"""

from collections import Counter
from collections.abc import Callable

from .graph import Graph, Step, Wire
from .ops import Op, Setting, in_a_row, kind_of

MERGED: dict[tuple[type, type], Callable] = {}
VANISHING: set[type] = set()  # kinds of layers that change nothing in evaluation


def merges(first: type, second: type) -> Callable:
    """Enter a function that makes the one layer that these two in a row are in evaluation.

    `maker(first, second, shape, dtype)`, for layers and a sample's input shape, gives a layer, or None where two are
    better. The new layer's `before_pass()` yields the calls that make its parameters anew before each pass.
    """

    def enter(maker: Callable) -> Callable:
        MERGED[first, second] = maker
        return maker

    return enter


def merged(graph: Graph, setting: Setting) -> Graph:
    """The graph for evaluation: without layers that change nothing, and with those put together that are one. In
    training as it is."""
    if setting.training:
        return graph
    graph = without_vanishing(graph)
    steps: list[Step] = []
    readers = [wire for step in graph.steps for wire in step.inputs] + [graph.y]
    for step in graph.steps:
        before = steps[-1] if steps else None
        maker = before and MERGED.get((kind_of(before.layer), kind_of(step.layer)))
        layer = None
        if maker and in_a_row([before, step], readers):
            layer = maker(before.layer, step.layer, before.inputs[0].shape, setting.dtype)
        if layer is None:
            steps.append(step)
        else:
            steps[-1] = Step(layer, before.inputs, step.output, ", ".join(filter(None, (before.path, step.path))))
    return graph._replace(steps=steps)


def without_vanishing(graph: Graph) -> Graph:
    """Who read the output of a layer that changes nothing reads its input; one on the network's input stays."""
    steps: list[Step] = []
    instead: dict[Wire, Wire] = {}
    for step in graph.steps:
        inputs = tuple(instead.get(wire, wire) for wire in step.inputs)
        if kind_of(step.layer) in VANISHING and inputs[0] is not graph.x:
            instead[step.output] = inputs[0]
        else:
            steps.append(step._replace(inputs=inputs))
    return Graph(steps, graph.x, instead.get(graph.y, graph.y))


def told(ops: list[Op], graph: Graph) -> list[Op]:
    """The same ops, of which those whose output nobody but a normalisation reads know it: see `Op.centred`."""
    made = {op.output: op for op in ops}
    readers = Counter([*(wire for op in ops for wire in op.inputs), graph.y])
    for op in ops:
        if op.centres and op.inputs[0] in made and readers[op.inputs[0]] == 1:
            made[op.inputs[0]].centred = True
    return ops
