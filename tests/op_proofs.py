"""Is an op as good as its word? Each method, along each axis that it takes, in pieces and as a whole: the same
arrays.

A piece may write what belongs to its range alone: pieces are made at once, by several threads. Where the pieces are
terms of a sum, each gives its own term.
"""

from collections.abc import Iterator

import numpy as np

from fastbp.engine import Op, Setting, Wire
from fastbp.engine.ops import Entry

BOUNDS = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}  # of the largest number, and of 1
UNWRITTEN = -77  # in all places before a piece is made
SUMS = {("gradients", "samples"), ("backward", "terms")}


def made(entry: Entry, layers: tuple, shapes: tuple, setting: Setting) -> list[Op]:
    """The ops of an entry of the table for these layers on inputs of these shapes, with memory."""
    inputs = tuple(Wire(shape) for shape in shapes)
    output = Wire(layers[0].output_shape(*shapes))
    for layer in layers[1:]:
        output = Wire(layer.output_shape(output.shape))
    ops = entry.maker(layers, inputs, output, setting, ("",) * len(layers))
    for wire in (*inputs, *(op.output for op in ops)):
        wire.array = np.zeros((setting.N, *wire.shape), setting.dtype)
    for op in ops:
        if op.output.same_as is not None:
            op.output.array = op.output.same_as.array.reshape(setting.N, *op.output.shape)
        op.dout = np.zeros_like(op.output.array)
        op.dxs = [np.zeros_like(wire.array) for wire in op.inputs]
    return ops


def run(calls) -> None:
    for call in calls:
        call()


def run_steps(op: Op, method: str, **more) -> None:
    for name in op.steps(method):
        run(op.calls(name, **(more if name == method else {})))


def pieces(rng: np.random.Generator, whole) -> list:
    """A whole range in up to four pieces."""
    last = whole.stop if isinstance(whole, slice) else whole[1]
    cuts = sorted({0, last, *rng.integers(0, last + 1, 3).tolist()}) if last else [0, 0]
    return [slice(a, b) if isinstance(whole, slice) else (a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


class Proof:
    """An op's methods, one after the other as in a pass, with a random dout: `faults` says in words what is wrong."""

    def __init__(self, op: Op, rng: np.random.Generator):
        self.op, self.rng = op, rng
        self.state = [array for layer in op.layers for array in layer.state.values()]

    def faults(self) -> Iterator[str]:
        op = self.op
        run(op.calls("prepare"))
        yield from self.steps("forward", [op.y])
        op.dout[...] = self.rng.normal(size=op.dout.shape)
        if op.parameters:
            into = {parameter: parameter.grad_array for parameter in op.parameters}
            yield from self.steps("gradients", list(into.values()), into=into)
        if not op.passes_dout:
            yield from self.steps("backward", op.dxs)

    def steps(self, method: str, results: list[np.ndarray], **more) -> Iterator[str]:
        """Of a method and of those that come before it."""
        for name in self.op.before.get(method, ()):
            yield from self.method(name, [])
        yield from self.method(method, results, **more)

    def method(self, method: str, results: list[np.ndarray], **more) -> Iterator[str]:
        """Of one method, which writes to these arrays, to others of the op, and to its layers' state."""
        op, before = self.op, [array.copy() for array in self.state]
        results = [*results, *self._run_as_a_whole(method, **more)]
        wanted, state = [array.copy() for array in results], [array.copy() for array in self.state]
        for axis in op.axes(method):
            for array, old in zip(self.state, before, strict=True):
                array[...] = old
            cuts = pieces(self.rng, op.whole(axis))
            what = f"{type(op).__name__}.{method} by {axis}, {cuts}:"
            found = [np.zeros_like(array) for array in results]
            times = [np.zeros(array.shape, int) for array in results]
            for part in cuts:
                for array in results:
                    array[...] = UNWRITTEN
                run(op.calls(method, axis, part, **more))
                for total, count, array in zip(found, times, results, strict=True):
                    written = array != UNWRITTEN
                    total[written] += array[written]
                    count += written
            if (method, axis) not in SUMS and any((count > 1).any() for count in times):
                yield f"{what} two pieces write to the same place"
            if any((count < 1).any() for count in times):
                yield f"{what} no piece writes to some place"
            if not all(map(close, (*found, *self.state), (*wanted, *state))):
                yield f"{what} something else than as a whole"
        for array, right in zip(results, wanted, strict=True):
            array[...] = right

    def _run_as_a_whole(self, method: str, **more) -> list[np.ndarray]:
        """The op's own arrays that it writes."""
        held = [each for name, each in vars(self.op).items() if name != "dout"]
        held += [each for several in held if isinstance(several, tuple) for each in several]
        own = [each for each in held if isinstance(each, np.ndarray)]
        before = [array.copy() for array in own]
        run(self.op.calls(method, **more))
        pairs = zip(own, before, strict=True)
        return [array for array, old in pairs if not np.array_equal(array, old, equal_nan=array.dtype.kind == "f")]


def unlike_the_layers(ops: list[Op], layers: tuple, rng: np.random.Generator) -> list[str]:
    """What ops in a row give otherwise than copies of their layers one by one: the output, and in training gradients.

    In evaluation the engine has no way back."""
    (x,), setting, found = (wire.array for wire in ops[0].inputs), ops[0].setting, []
    y, dout = x, rng.normal(size=ops[-1].y.shape).astype(setting.dtype)
    for layer in layers:
        y = layer.forward(y, setting.training)
    dx = dout
    for layer in reversed(layers):
        dx = layer.backward(dx)
    for op in ops:
        run(op.calls("prepare"))
        run_steps(op, "forward")
    below = dout
    for op in reversed(ops):
        op.dout[...] = below
        if op.parameters:
            run_steps(op, "gradients", into={parameter: parameter.grad_array for parameter in op.parameters})
        run_steps(op, "backward")
        below = op.dx
    results = {"output": (ops[-1].y, y), "dx": (below, dx)}
    theirs = [parameter for layer in layers for parameter in layer.parameters]
    mine = [parameter for op in ops for parameter in op.parameters]
    results |= {a.name: (a.grad_array, b.grad) for a, b in zip(mine, theirs, strict=True)}
    if not setting.training:
        results = {"output": results["output"]}
    for what, (array, right) in results.items():
        if not close(array, right):
            found.append(f"{ops}: another {what} than by the layers one by one")
    return found


def close(found: np.ndarray, right: np.ndarray) -> bool:
    """Is it the same, to rounding?"""
    bound = BOUNDS.get(found.dtype, 0)
    return bool((np.abs(found - right) <= bound * max(1, np.abs(right).max(initial=0))).all())
