"""What joins values: a sum of two, and values side by side, each with its op."""

import math
from functools import partial

import numpy as np

from ..engine.ops import Op, computes, flat
from ..flops import Cost
from ..kernels import activations, reduce
from .activations import Activation
from .base import Layer


class Plus(Layer):
    """y = a + b, of one shape. Both gradients are dout."""

    def output_shape(self, a, b):
        if a != b:
            raise ValueError(f"Plus: can't add {('N', *a)} and {('N', *b)}")
        return a

    def forward(self, a, b, training=False, out=None):
        a, b = self.expect(a, "N", ...), self.expect(b, "N", ...)
        self.output_shape(a.shape[1:], b.shape[1:])
        self.cache = a.shape
        return np.add(a, b, out=out)

    def backward(self, dout, need_dx=True):
        self.expect(dout, *self.cache, what="dout")
        return dout, dout

    def costs(self, a, b, N):
        return N * math.prod(a) * Cost(forward=1, dx=0)


@computes(Plus)
class PlusOp(Op):
    how, passes_dout = "a loop over the elements; each gradient is dout itself", True
    activation: Activation | None = None  # made in the same pass

    def forward(self, samples):
        """y = a + b, and the activation of that"""
        a, b, y = (flat(array[samples]) for array in (self.inputs[0].array, self.inputs[1].array, self.y))
        if self.activation is None:
            yield partial(reduce.add, a, b, y)
            return
        kind, numbers, wire = self.activation
        yield partial(activations.add_and_activate, a, b, y, flat(wire.array[samples]), kind, numbers)


class Join(Layer):
    """y = [a, b, …] along the first axis of a sample. Each gradient is its part of dout."""

    def output_shape(self, *shapes):
        if any(len(shape) < 1 for shape in shapes) or len({shape[1:] for shape in shapes}) != 1:
            given = ", ".join(str(("N", *shape)) for shape in shapes)
            raise ValueError(f"Join: can't join {given}: they may differ in the first axis after N alone")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def forward(self, *arrays, training=False, out=None):
        arrays = [self.expect(array, "N", ...) for array in arrays]
        self.output_shape(*(array.shape[1:] for array in arrays))
        self.cache = [array.shape for array in arrays]
        return np.concatenate(arrays, axis=1, out=out)

    def backward(self, dout, need_dx=True):
        shapes = self.cache
        self.expect(dout, shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:], what="dout")
        ends = np.cumsum([shape[1] for shape in shapes])[:-1]
        parts = tuple(map(np.ascontiguousarray, np.split(dout, ends, axis=1)))
        return parts if len(parts) > 1 else parts[0]

    def costs(self, *shapes_and_N):
        return Cost(forward=0, dx=0)


@computes(Join)
class JoinOp(Op):
    how = "copies of rows"

    def forward(self, samples):
        y, at = rows(self.y[samples]), 0
        for wire in self.inputs:
            x = rows(wire.array[samples])
            yield partial(reduce.copy_columns, x, 0, y, at, x.shape[1])
            at += x.shape[1]

    def backward(self, samples):
        dout, at = rows(self.dout[samples]), 0
        for wire, dx in zip(self.inputs, self.dxs, strict=True):
            count = math.prod(wire.shape)
            if dx is not None:
                yield partial(reduce.copy_columns, dout, at, rows(dx[samples]), 0, count)
            at += count


def rows(array: np.ndarray) -> np.ndarray:
    """(N, D), all numbers of a sample in a row: a view."""
    return array.reshape(len(array), math.prod(array.shape[1:]))
