"""Narrow layers, few features and many samples: any number of Linear layers and activations in a row, by one op."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..engine.ops import Op, computes, flat
from ..kernels.activations import FROM_X, LEAKY_RELU, NONE, RELU
from ..kernels.columns import columns_backward, columns_backward_input, columns_forward, from_columns, to_columns
from ..kernels.reduce import sum_parts
from ..memory import aligned
from .activations import Elementwise, LeakyReLU
from .fused import AFTER
from .linear import Linear

# Tuning figures: bench/NOTES.md
ROOM = 256 << 10  # bytes of a block of samples with all that is kept of them, which stays in the second cache
LONGEST, GRAIN = 960, 48  # samples of a block at most, and what they are a multiple of: the columns of any tile
FROM = 64  # samples from which on they fill the vectors better than features do
PRODUCTS = {4: 18, 8: 10}  # multiply–adds for each number into a layer or out of it, up to which they do, by its bytes
ROWS = 192  # numbers of a sample that are kept: of more, a block would be short
FEATURE, SMOOTH = 8, 16  # a feature, and an exponential, take as long as so many multiply–adds


class Stage(NamedTuple):
    """A Linear layer and the activation after it, if any: `kind` and `numbers` for the kernel `activate`.

    x, z, y are where rows of a block begin that hold the layer's input, what it gives, and the activation of that,
    which is in z's place unless z is kept."""

    linear: Linear
    kind: int
    numbers: np.ndarray
    x: int
    z: int
    y: int


class Block(NamedTuple):
    """Samples from `start` on whose columns are kept together, `step` of them, of which first ≤ n < last are meant."""

    start: int
    step: int
    first: int
    last: int

    @property
    def samples(self) -> slice:
        return slice(self.start + self.first, self.start + self.last)


@computes(Linear, *AFTER, run=True)
class FixedNarrowOp(Op):
    """In evaluation: blocks of samples go depth-first through all layers, each part of the batch in room for one."""

    how = "blocks of samples through all layers in the first caches, samples in the vectors"
    training = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.stages, rows = [], self.inputs[0].shape[0]
        for layer, after in zip(self.layers, (*self.layers[1:], None), strict=True):
            if not isinstance(layer, Linear):
                continue
            activation = after if isinstance(after, Elementwise) else None
            x, z = rows - layer.in_features, rows
            kind, numbers = (activation.kind, activation.numbers) if activation else (NONE, layer.numbers)
            y = z + layer.out_features if kind in FROM_X else z
            self.stages.append(Stage(layer, kind, numbers, x, z, y))
            rows = y + layer.out_features
        self.rows, fit = rows, ROOM // (rows * self.setting.dtype.itemsize)
        self.block = min(LONGEST, max(GRAIN, fit // GRAIN * GRAIN))
        smooth = sum(stage.linear.out_features for stage in self.stages if stage.kind not in (NONE, RELU, LEAKY_RELU))
        self.work = sum(stage.linear.weight.size for stage in self.stages) + FEATURE * rows + SMOOTH * smooth

    @classmethod
    def suits(cls, layers, shape, setting):
        linear = [isinstance(layer, Linear) for layer in layers]
        sizes = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, Linear)]
        return (
            setting.training is cls.training
            and setting.N >= FROM
            and linear[0]
            and len(sizes) > 1
            and not any(not a and not b for a, b in zip(linear, linear[1:], strict=False))
            and all(layer.rising for layer in layers if isinstance(layer, LeakyReLU))
            and sum(D * F for D, F in sizes) <= PRODUCTS[setting.dtype.itemsize] * sum(D + F for D, F in sizes)
            and sum(D + F for D, F in sizes) <= ROWS
        )

    def forward(self, samples):
        """y, block by block"""
        columns_of, D, F = self.columns_for_a_part(), self.inputs[0].shape[0], self.output.shape[0]
        for block in self.blocks(samples):
            columns, inside = columns_of(block), block[1:]
            yield partial(to_columns, flat(self.x[block.samples]), columns, D, inside)
            for linear, kind, numbers, *rows in self.stages:
                w, b = linear.weight.value, linear.bias and linear.bias.value
                arrays = (columns[row * block.step :] for row in rows)
                yield partial(columns_forward, w, b, *arrays, kind, numbers, inside)
            last = columns[self.stages[-1].y * block.step :]
            yield partial(from_columns, last, flat(self.y[block.samples]), F, inside)

    def columns_for_a_part(self) -> Callable[[Block], np.ndarray]:
        """Where the columns of a block are put, by a part of the batch."""
        room = aligned((self.block * self.rows,), self.setting.dtype)
        return lambda block: room

    def blocks(self, samples: slice) -> Iterator[Block]:
        """The blocks that these samples lie in: the same ones for any parts of the batch, one where there is none."""
        N = self.setting.N
        for start in range(samples.start // self.block * self.block, max(samples.stop, samples.start + 1), self.block):
            first, last = max(samples.start - start, 0), min(samples.stop - start, self.block)
            yield Block(start, max(min(self.block, N - start), 0), first, last)


@computes(Linear, *AFTER, run=True)
class NarrowOp(FixedNarrowOp):
    """In training: blocks of samples go depth-first through all layers, and back. `columns` keeps what the way back
    reads, block by block, a row for each feature."""

    training = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.columns = aligned((self.setting.N * self.rows,), self.setting.dtype)
        self.slopes: np.ndarray | None = None

    def columns_for_a_part(self):
        return self.columns_of

    def gradients(self, into, samples):
        """dw and db of all layers: sums over the blocks, in their order"""
        widest = max(stage.linear.out_features for stage in self.stages)
        rooms = aligned((2, self.block * widest), self.setting.dtype)
        if self.dx is not None and self.slopes is None:
            self.slopes = aligned((self.setting.N * self.stages[0].linear.out_features,), self.setting.dtype)
        for number, block in enumerate(self.blocks(samples)):
            columns, inside, F = self.columns_of(block), block[1:], self.output.shape[0]
            d = self.slopes_of(block, rooms, len(self.stages) - 1)
            yield partial(to_columns, flat(self.dout[block.samples]), d, F, inside)
            for i in reversed(range(len(self.stages))):
                linear, kind, numbers, *rows = self.stages[i]
                x, z, y = (columns[row * block.step :] for row in rows)
                w, dw, db = linear.weight.value, into[linear.weight], linear.bias and into[linear.bias]
                after, at = (z if kind in FROM_X else y, kind, numbers), block.step * np.arange(linear.in_features)
                yield partial(columns_backward, w, x, d, (dw, number == 0), db, at, after, inside)
                if i > 0:
                    d, above = self.slopes_of(block, rooms, i - 1), d
                    yield partial(columns_backward_input, w, above, d, inside)
        last = self.stages[-1]
        if self.centred and last.kind == NONE and last.linear.bias:  # 0, the sum of no parts
            none = np.empty((0, last.linear.out_features), self.setting.dtype)
            yield partial(sum_parts, none, into[last.linear.bias])

    def backward(self, samples):
        """dx, from the gradients of what the first layer gives, which `gradients` has left"""
        first = self.stages[0].linear
        room = aligned((self.block * first.in_features,), self.setting.dtype)
        for block in self.blocks(samples):
            d, dx, D = self.slopes_of(block, (), 0), flat(self.dx[block.samples]), first.in_features
            yield partial(columns_backward_input, first.weight.value, d, room, block[1:])
            yield partial(from_columns, room, dx, D, block[1:])

    def columns_of(self, block: Block) -> np.ndarray:
        """Where the columns of a block are kept."""
        return self.columns[block.start * self.rows :]

    def slopes_of(self, block: Block, rooms: Sequence[np.ndarray], i: int) -> np.ndarray:
        """Where the gradient of what a stage gives is written: one of two rooms by turns, but for dx it is kept."""
        if i == 0 and self.slopes is not None:
            return self.slopes[block.start * self.stages[0].linear.out_features :]
        return rooms[i % 2]
