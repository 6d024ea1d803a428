"""What layers next to each other spare each other.

In evaluation two layers may be one: a convolution and the batch norm after it are a convolution with other filters.
`merges` enters a function that makes that layer, and `merged` puts it into a graph before ops are chosen, so that every
op for the one layer serves the two.

In training a normalisation takes away what a bias before it has added: that bias has no gradient, and the op before
need not sum it up.
"""

from collections import Counter
from collections.abc import Callable

from .graph import Graph, Step
from .ops import Op, Setting, in_a_row, kind_of

MERGED: dict[tuple[type, type], Callable] = {}


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
    """The graph with layers that are one in evaluation put together; in training as it is."""
    if setting.training:
        return graph
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


def told(ops: list[Op], graph: Graph) -> list[Op]:
    """The same ops, of which those whose output nobody but a normalisation reads know it: see `Op.centred`."""
    made = {op.output: op for op in ops}
    readers = Counter([*(wire for op in ops for wire in op.inputs), graph.y])
    for op in ops:
        if op.centres and op.inputs[0] in made and readers[op.inputs[0]] == 1:
            made[op.inputs[0]].centred = True
    return ops
