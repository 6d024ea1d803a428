"""How a network computes a training step: buffers made once, and lists of kernel calls bound to them.

A plan's stages are the network's layers, with groups of layers done in one pass where there is a kernel for it. For a batch size
its calls are bound to buffers, in sections. The parts of a section may be computed at once, on several threads; the
sections come one after the other. Forward and backward, a part is some of the samples, which goes through the layers
on its own as far as no layer mixes samples. Then come the gradients that sum over the batch, by ranges of the flat vector.

How the work is cut depends on the network and the batch size alone, never on the number of threads, and so do all results.
"""

import math
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from .engine.compiling import compile_kernels
from .engine.gradients import Gradients
from .engine.program import programs
from .engine.threads import get_num_threads, run
from .kernels.reduce import sum_parts
from .layers.activations import ReLU
from .layers.base import Layer, Pass
from .layers.fused import sandwiches
from .layers.shape import Copy
from .losses import Loss
from .memory import aligned
from .optimizers import Optimizer

Calls = list[Callable[[], None]]

BATCHES_KEPT = 6  # bound at a time: training, validation and test, and the smaller last batch of each
PARTS = 8  # of a batch, at most
BLOCKS = 4  # of a layer's gradients by rows, at most: each reads all of the input again
BLOCK_ROWS, BLOCK_WEIGHTS = 8, 65_536  # more blocks of a linear layer, whose vectors stay in the second cache
# -- until they are updated, where each has so many rows for each sample: 3072-…-10, batch 4, 1.39 → 1.23 ms
PART_WORK = 4_000_000  # multiply–adds forward in a part at least, 0.1 ms: a thread that sleeps takes 0.04 ms to come
PART_SUMS = (
    4_000_000  # numbers in the parts' shares of sums over the batch, at most: 16 MB that are written and read again
)
PER_WEIGHT = 128  # multiply–adds in a part for each number of its share, at least
PER_READ = 96  # and for each weight of a large convolution where there are no shares; eight of them, a batch of 4: 14.2 → 16.0 ms
# -- on one thread, 12.8 → 8.7 ms on two; batches of 2 and 8 likewise
LARGE = 65_536  # weights that crowd the second cache: a linear layer's parts are features, so that each reads only its own, and a
# -- convolution's gradients may be taken by filters
PIECE_WORK, READ = (
    1_000_000,
    16,
)  # multiply–adds in such a part at least; reading a weight from far away takes as long as so many
# -- 784-100-10, a batch of 32: 152 → 120 µs on two threads, 152 → 158 on one, with 1 instead of 2 million here and RANGE_WORK of
# 3.5 instead of 5 million; all else within noise (Zen 4)
SHARES = 8  # weights for each number in the shares of a linear layer's dx, at least
UPDATE_WORK = 64  # updating a parameter takes as long as so many multiply–adds, where it is read from far away
TILE_ROWS, TILE_COLUMNS = (
    8,
    48,
)  # of the largest tile of a matrix product, and of whole smaller ones: pieces of that many
RANGE_WORK = 3_500_000  # multiply–adds in a range of the gradients at least

PLANS: "weakref.WeakSet[Plan]" = weakref.WeakSet()


class Plan:
    """The stages of a network for one input shape: its own layers and sandwich layers over them.

    The results are those of the layers one by one, to rounding. Parameters, gradients and state are the layers' own; what
    backward needs is kept by the plan, not by the layers. Only one thread at a time may use it: hold `lock`.
    """

    def __init__(self, layers: tuple[Layer, ...], input_shape: tuple[int, ...], gradients: Gradients):
        self.input_shape, self.gradient_vector, self.dtype = tuple(input_shape), gradients.array, gradients.array.dtype
        self._gradients = weakref.ref(gradients)
        self.stages = sandwiches(layers, self.input_shape)
        self.lock = threading.RLock()  # a loss or an optimiser may make predictions in the middle of a step
        PLANS.add(self)
        self._batches: dict[tuple[int, bool], Batch] = {}
        self._last: Batch | None = None

    def __str__(self) -> str:
        """A line for each stage: its layers, and how they are computed."""
        rows, shape, before = [], self.input_shape, None
        for layer, following in zip(self.stages, [*self.stages[1:], None], strict=True):
            before = Stage(layer, before, following)
            how = layer.algorithm(shape) or ("no computation" if before.view else "a loop over the elements")
            rows.append((repr(layer), "in the pass of the layer before" if before.applied else how))
            shape = layer.output_shape(shape)
        width = max(len(stage) for stage, _ in rows)
        return "\n".join(f"{stage:<{width}}  {how}" for stage, how in rows)

    def batch(self, size: int, training: bool) -> "Batch":
        """The bound calls for batches of `size` samples; kept for the last few sizes."""
        batch = self._batches.get((size, training))
        if batch is None:
            batch = Batch(self, size, training)
            if len(self._batches) >= BATCHES_KEPT:
                self._batches.pop(next(iter(self._batches)))
            self._batches[size, training] = batch
        self._last = batch
        return batch

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The last stage's output for a batch x (N, *input_shape), in a buffer that the next pass overwrites."""
        if np.shape(x)[1:] != self.input_shape:
            raise ValueError(f"Plan: expected input (N, {', '.join(map(str, self.input_shape))}), got {np.shape(x)}")
        batch = self.batch(len(x), training)
        if training and (gradients := self._gradients()):
            gradients.complete()
        np.copyto(batch.x, x)
        batch.forward()
        return batch.y

    def backward(self, dout: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Fill all gradients from the last forward pass, which must have been in training mode; return the gradient with respect to
        its input, in a buffer.

        With `need_dx=False` that gradient, which training doesn't need, is not computed and None is returned.
        """
        if self._last is None or not self._last.training:
            raise RuntimeError("Plan.backward called before a forward pass in training mode")
        if np.shape(dout) != self._last.y.shape:
            raise ValueError(f"Plan: expected dout {self._last.y.shape}, got {np.shape(dout)}")
        np.copyto(self._last.dout, dout)
        dx = self._last.backward(need_dx)
        self._last.sum_gradients()
        return dx


class Stage:
    """One layer in a batch's calls: its pass for the whole batch, and the passes of its parts."""

    def __init__(self, layer: Layer, previous: "Stage | None", following: Layer | None):
        self.layer = layer
        self.own = is_own(layer)  # called as a whole
        self.view = (
            function(layer.forward_calls) is Copy.forward_calls and not self.own
        )  # its output is its input in another shape
        maker, of_gradients = (
            next(k for k in type(layer).__mro__ if n in vars(k)) for n in ("forward_calls", "parameter_calls")
        )
        self.relu = vars(maker).get("takes_relu", False) and not self.own and type(following) is ReLU
        self.descends = "descent_calls" in vars(of_gradients)
        self.applied = previous is not None and previous.relu  # a ReLU that the stage before has computed
        self.back_applied = self.applied and previous.layer.mixes_samples  # and whose backward it computes too
        weights = layer.parameters[0].size if layer.parameters and not self.own else 0
        self.large = layer.splits_rows and weights > LARGE
        self.by_rows = (
            layer.splits_features and weights > 0
        )  # its gradients are taken by rows of the weights, not by samples
        self.by_features = layer.splits_features and self.large
        self.by_samples = not (layer.mixes_samples or self.by_features)
        self.p: Pass | None = None
        self.parts: list[Pass] = []
        self.sums: np.ndarray | None = None  # (parts, parameters): each part's share of the gradients


class Batch:
    """The buffers of a plan for one batch size, and the calls bound to them.

    `x`, `y` the network's input and output, (N, …) · `dout` the gradient with respect to y
    """

    def __init__(self, plan: Plan, size: int, training: bool):
        self.size, self.dtype, self.training, self.gradient_vector = size, plan.dtype, training, plan.gradient_vector
        self._plan = weakref.ref(plan)
        self.stages: list[Stage] = []
        for layer, following in zip(plan.stages, [*plan.stages[1:], None], strict=True):
            self.stages.append(Stage(layer, self.stages[-1] if self.stages else None, following))
        self.first = next((i for i, stage in enumerate(self.stages) if stage.layer.parameters), len(self.stages))
        # -- of the stages that learn; training needs no gradient before it
        self.shapes = [tuple(plan.input_shape)]
        for stage in self.stages:
            self.shapes.append(tuple(stage.layer.output_shape(self.shapes[-1])))
        self.bounds = self._partition()
        self._allocate()
        self._dout: np.ndarray | None = None
        self._ranges: list[list[Piece]] = []
        self._open: list[Calls] | None = None
        self._sections = (
            joined(self._forward_sections()),
            joined(self._backward_sections(need_dx=False)) if training else [],
        )
        self._compiled = False
        self._forward: Calls = []
        self._backward: dict[bool, Calls] = {}
        self._sum_calls: Calls = []
        self._updates: tuple = (None, (), False, [])
        self._step: tuple = (None, None, (), False, None, [])

    def _compile(self, more: list[Calls]) -> None:
        """Compile what a pass needs, and the calls of `more`, at once."""
        parts = (
            [part for section in (*self._sections[0], *self._sections[1]) for part in section]
            if not self._compiled
            else []
        )
        compile_kernels((call for part in (*parts, *more) for call in part), helped=get_num_threads() > 1)
        self._compiled = True

    # -- what a step runs --------------------------------------------------------------------------------------------

    def forward(self) -> None:
        """y from x."""
        if not self._forward:
            self._compile(self._completing() if self.training else [])
            self._forward = programs(self._sections[0])
        for call in self._forward:
            run(call)

    def backward(self, need_dx: bool = False) -> np.ndarray | None:
        """The gradients up to the input's, or to the first parameters', from dout; sums over the batch are left open."""
        calls = self._backward.get(need_dx)
        if calls is None:
            sections = joined(self._backward_sections(need_dx)) if need_dx else self._sections[1]
            calls = self._backward[need_dx] = programs(sections)
        for call in calls:
            run(call)
        return self.stages[0].p.dx if need_dx else None

    def sum_gradients(self) -> None:
        """The gradients that backward has left open."""
        self._sum_calls = self._sum_calls or programs([self._completing()])
        for call in self._sum_calls:
            run(call)

    def step(
        self, loss: Loss, targets: np.ndarray, optimizer: Optimizer, values: np.ndarray, gradients: Gradients
    ) -> float:
        """All of a training step from x on: the loss before the update.

        Where the loss is one kernel call, the step is one program: 784-100-10 on one image takes 39 instead of 43 µs."""
        kept = gradients.kept or not optimizer.descends
        gradients.begin()
        value = self._step_with(loss, targets, optimizer, values, gradients.array, kept)
        gradients.end(self._plan(), [] if kept else self._descended())
        return value

    def _step_with(self, loss, targets, optimizer, values, grads, kept) -> float:
        if function(optimizer.step) is Optimizer.step:
            of_loss, of_optimizer, bound, with_kept, call, calls = self._step
            if of_loss is not loss or of_optimizer is not optimizer or with_kept is not kept:
                bound, call, calls = (), loss.step_call(self.y, self.dout), []
            if call is not None:
                return self._run_step(loss, call, calls, targets, optimizer, bound, values, grads, kept)
        self.forward()
        value = loss.step(self.y, targets, self.dout)
        self.backward()
        self.update(optimizer, values, grads, kept)
        return value

    def _run_step(self, loss, call, calls, targets, optimizer, bound, values, grads, kept) -> float:
        call.begin(targets)
        vectors = optimizer.begin(values, grads)
        if not calls or not all(map(operator.is_, bound, vectors)):
            update = self._update_section(optimizer, values, grads, vectors, kept)
            self._compile([[call.call], *update])
            calls = programs([*self._sections[0], [[call.call]], *self._sections[1], update])
            self._step = loss, optimizer, vectors, kept, call, calls
        try:
            for each in calls:
                run(each)
        except ValueError:  # before anything was updated
            optimizer.steps -= 1
            loss.check(self.y, targets)
            raise
        return call.value

    def _update_section(self, optimizer, values, grads, vectors, kept) -> list[Calls]:
        """The gradients that backward has left open, and the optimiser's update, range by range; unless they are `kept`, at once
        for the pieces that can descend"""
        parts = []

        def of(first: int, last: int) -> list[np.ndarray]:
            return [vector[first:last] for vector in (values, grads, *vectors)]

        for pieces in self.ranges:
            calls, first, end = [], pieces[0].first, pieces[-1].last
            for piece in pieces:
                if kept or piece.descend is None:
                    calls += piece.calls
                    continue
                if first < piece.first:
                    calls.append(optimizer.update_call(*of(first, piece.first)))
                calls += piece.descend(*of(piece.first, piece.last), optimizer.numbers)
                first = piece.last
            if first < end:
                calls.append(optimizer.update_call(*of(first, end)))
            parts.append(calls)
        return parts

    def update(self, optimizer: Optimizer, values: np.ndarray, grads: np.ndarray, kept: bool) -> None:
        """The gradients that backward has left open, and one step of the optimiser, range by range."""
        if function(optimizer.step) is not Optimizer.step:
            self.sum_gradients()
            optimizer.step(values, grads)
            return
        vectors = optimizer.begin(values, grads)
        bound_to, bound, with_kept, updates = self._updates
        if bound_to is not optimizer or with_kept is not kept or not all(map(operator.is_, bound, vectors)):
            updates = programs([self._update_section(optimizer, values, grads, vectors, kept)])
            self._updates = (optimizer, vectors, kept, updates)
        for call in updates:
            run(call)

    @property
    def dout(self) -> np.ndarray:
        if self._dout is None:
            self._dout = aligned(self.y.shape, self.dtype)
        return self._dout

    # -- buffers and the partition -----------------------------------------------------------------------------------

    def _allocate(self) -> None:
        self.x = x = aligned((self.size, *self.shapes[0]), self.dtype)
        apart = self.training or len(self.bounds) > 1
        largest = 0 if apart else self.size * max(math.prod(shape) for shape in self.shapes)
        scratch = [
            aligned(largest, self.dtype) for _ in range(2)
        ]  # enough for evaluation, if a stage is done before the next
        for stage, shape in zip(self.stages, self.shapes[1:], strict=True):
            if stage.applied:
                y = x
            elif stage.view:
                y = x.reshape(self.size, *shape)
            elif apart:
                y = aligned((self.size, *shape), self.dtype)
            else:
                y = scratch[0][: self.size * math.prod(shape)].reshape(self.size, *shape)
                scratch.reverse()
            stage.p = Pass(x, y, self.training)
            stage.p.relu = stage.relu
            x = y
        self.y = x

    def _partition(self) -> list[tuple[int, int]]:
        """The parts of the batch as (first, last) samples, a power of two of them."""
        for stage, shape in zip(self.stages, self.shapes, strict=False):
            stage.work = stage.layer.multiply_adds(shape)
        count = self._parts()
        if (
            count == 1 and self.training
        ):  # shares of large gradients may take longer than they save: by rows there are none
            for stage in self.stages:
                stage.by_rows |= stage.large
            count = self._parts()
        return [(k * self.size // count, (k + 1) * self.size // count) for k in range(count)]

    def _parts(self) -> int:
        """How many parts of the batch are worth while, with the gradients by rows that the stages have now."""
        work = sum(stage.work for stage in self.stages) * self.size
        summed = sum(
            parameter.size for stage in self.stages if self._sums(stage) for parameter in stage.layer.parameters
        )
        read = sum(
            stage.layer.parameters[0].size for stage in self.stages if stage.by_rows and not stage.layer.splits_features
        )
        limits = [PARTS, self.size, work // PART_WORK]
        if self.training and summed:
            limits += [max(2, PART_SUMS // summed), work // PER_WEIGHT // summed]
        if self.training and read:
            limits.append(max(2, work // PER_READ // read))
        return 1 << (max(min(limits), 1).bit_length() - 1)

    @staticmethod
    def _sums(stage: Stage) -> bool:
        """Are this stage's gradients sums over parts of the batch?"""
        layer = stage.layer
        return bool(layer.parameters) and not (stage.own or layer.mixes_samples or stage.by_rows)

    # -- calls: (whether samples stay apart, the calls of each part) -------------------------------------------------

    def _forward_sections(self) -> Iterator[tuple[bool, list[Calls]]]:
        prepared = [list(stage.layer.prepare_calls(stage.p)) for stage in self.stages if not stage.own]
        yield False, [calls for calls in prepared if calls] if len(self.bounds) > 1 else [sum(prepared, [])]
        for stage in self.stages:
            layer, p = stage.layer, stage.p
            if stage.own:
                yield False, [[partial(own_forward, layer, p)]]
                continue
            if layer.mixes_samples:
                stage.parts = [p.of_channels(*part) for part in spread(layer.num_features, len(self.bounds))]
            elif stage.by_features:
                stage.parts = self._by_features(p, p.y)
            else:
                stage.parts = [p.samples(*part) for part in self.bounds]
            if not (stage.view or stage.applied):
                yield stage.by_samples, [list(layer.forward_calls(part)) for part in stage.parts]

    def _backward_sections(self, need_dx: bool) -> Iterator[tuple[bool, list[Calls]]]:
        dout = self.dout
        for i in range(len(self.stages) - 1, -1, -1):
            if i < self.first and not need_dx:
                return
            stage = self.stages[i]
            layer, p, wanted = stage.layer, stage.p, need_dx or i > self.first
            p.dout = dout
            if wanted and p.dx is None:
                p.dx = (
                    dout
                    if stage.back_applied
                    else dout.reshape(p.x.shape)
                    if stage.view
                    else aligned(p.x.shape, self.dtype)
                )
            dout = p.dx
            if stage.own:
                yield False, [[partial(own_backward, layer, p, wanted)]]
                continue
            if self._sums(stage) and len(self.bounds) > 1 and stage.sums is None:
                stage.sums = np.empty(
                    (len(self.bounds), sum(parameter.size for parameter in layer.parameters)), self.dtype
                )
            if stage.by_features and wanted and self._few_samples(stage):
                yield from self._shared_dx(stage)
                continue
            if stage.by_features:
                stage.parts = self._by_features(p, p.x)
            for k, part in enumerate(stage.parts):
                between = slice(*self.bounds[k]) if stage.by_samples else slice(None)
                part.dout, part.dx = (None if array is None else array[between] for array in (p.dout, p.dx))
                start = 0
                for parameter in layer.parameters if stage.sums is not None else ():
                    part.grads[parameter] = stage.sums[k, start : start + parameter.size].reshape(parameter.shape)
                    start += parameter.size
            if stage.view or stage.back_applied:
                continue
            calls: list[Calls] = [[] for _ in stage.parts]
            for part, mine in zip(stage.parts, calls, strict=True):
                mine += [] if stage.by_rows else layer.parameter_calls(part)
                mine += layer.input_calls(part) if wanted else []
            yield stage.by_samples, calls

    def _few_samples(self, stage: Stage) -> bool:
        """Has a large linear layer several shares of dx, and are they small beside its weights?"""
        p = stage.p
        shares = len(self._by_features(p, p.y))
        return shares > 1 and SHARES * self.size * shares <= math.prod(p.y.shape[1:])

    def _shared_dx(self, stage: Stage) -> Iterator[tuple[bool, list[Calls]]]:
        """dx as a sum of the shares of features of y: a thread reads those weights that it has read forward and will update.

        By features of x, each reads what another has just written: layer 3872-100, one image, two threads, Zen 4: 23 → 16 µs, and
        its update 98 (up to 470) → 43 µs."""
        p = stage.p
        stage.parts = self._by_features(p, p.y)
        shares = aligned((len(stage.parts), *p.x.shape), self.dtype)
        for part, share in zip(stage.parts, shares, strict=True):
            part.terms, part.channels, part.dx = part.channels, None, share
        yield False, [list(stage.layer.input_calls(part)) for part in stage.parts]
        yield False, [[partial(sum_parts, shares.reshape(len(shares), -1), p.dx.reshape(-1))]]

    def _by_features(self, p: Pass, array: np.ndarray) -> list[Pass]:
        """The parts of a large linear layer: features of its output or, back, of its input."""
        weights = math.prod(p.x.shape[1:]) * math.prod(p.y.shape[1:])
        count = min(PARTS, weights * max(self.size, READ) // PIECE_WORK, array.shape[1] // TILE_COLUMNS)
        return [p.of_channels(*part) for part in spread(array.shape[1], count, TILE_COLUMNS)]

    @property
    def ranges(self) -> "list[list[Piece]]":
        """The flat vector in ranges of pieces, which may be completed at once."""
        if not self._ranges:
            self._ranges = self._find_ranges()
        return self._ranges

    def _completing(self) -> list[Calls]:
        """The calls that complete the gradients of each range."""
        return [[call for piece in pieces for call in piece.calls] for pieces in self.ranges]

    def _descended(self) -> list[Calls]:
        """The same, of the gradients that an update with `descend` leaves open."""
        if self._open is None:
            parts = [[call for piece in pieces if piece.descend for call in piece.calls] for pieces in self.ranges]
            self._open = [calls for calls in parts if calls]
        return self._open

    def _find_ranges(self) -> "list[list[Piece]]":
        found, pieces = [], []
        for piece in self._pieces():
            pieces.append(piece)
            if sum(piece.work for piece in pieces) >= RANGE_WORK:
                found.append(pieces)
                pieces = []
        if found and sum(piece.work for piece in pieces) < RANGE_WORK // 2:  # a rest that no other thread need come for
            found[-1] += pieces
        elif pieces:
            found.append(pieces)
        return found

    def _pieces(self) -> "Iterator[Piece]":
        """The pieces of the flat vector, in its order."""
        end = 0
        for stage in self.stages:
            layer, size = stage.layer, sum(parameter.size for parameter in stage.layer.parameters)
            start, end = end, end + size
            if stage.by_rows:
                F, work, first = layer.parameters[0].shape[0], stage.work * self.size + size * UPDATE_WORK, start
                small = (
                    min(F // (BLOCK_ROWS * max(self.size, 1)), size // BLOCK_WEIGHTS) if layer.splits_features else 0
                )
                most = max(BLOCKS, small // 2 * 2)  # even, for two threads
                for rows in spread(F, min(most, work // RANGE_WORK), TILE_ROWS):
                    last = end if rows[1] == F else start + layer.parameters[0].size // F * rows[1]
                    descend = partial(layer.descent_calls, stage.p, rows) if stage.descends else None
                    yield Piece(
                        first,
                        last,
                        work * (rows[1] - rows[0]) // F,
                        list(layer.parameter_calls(stage.p, rows)),
                        descend,
                    )
                    first = last
            else:
                calls = [] if stage.sums is None else [partial(sum_parts, stage.sums, self.gradient_vector[start:end])]
                yield Piece(start, end, size * UPDATE_WORK, calls, None)


class Piece(NamedTuple):
    """A stretch [first, last) of the flat vector, for a layer or some of its rows: multiply–adds, the calls that complete its
    gradients, and the layer's `descent_calls` where it has some, which make SGD's update with them."""

    first: int
    last: int
    work: int
    calls: Calls
    descend: Callable[..., Iterator[Callable[[], None]]] | None


def function(method):
    """The function behind a method, or what stands in its place."""
    return getattr(method, "__func__", method)


def is_own(layer: Layer) -> bool:
    """Does this layer, of the user's own, have another forward or backward than the package's layers?"""
    return function(layer.forward) is not Layer.forward or function(layer.backward) is not Layer.backward


def spread(count: int, parts: int, grain: int = 4) -> list[tuple[int, int]]:
    """[0, count) in up to `parts` pieces, which begin at multiples of `grain`, about equal to each other."""
    ends = {round(count * (k + 1) / max(parts, 1) / grain) * grain for k in range(max(parts, 1) - 1)}
    ends = [end for end in sorted(ends) if 0 < end < count] + [count]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def joined(sections) -> list[list[Calls]]:
    """Neighbouring sections in which samples stay apart, or of one part, as one."""
    made, last, last_apart = [], [], False
    for apart, parts in sections:
        if (apart and last_apart or len(last) == 1) and len(parts) == len(last):
            last = [[*a, *b] for a, b in zip(last, parts, strict=True)]
            last_apart = last_apart and apart
            continue
        if any(last):
            made.append(last)
        last, last_apart = parts, apart
    return [*made, last] if any(last) else made


def own_forward(layer: Layer, p: Pass) -> None:
    """The forward pass of a layer that has its own."""
    y = layer.forward(p.x, training=p.training)
    if np.shape(y) != p.y.shape:
        raise ValueError(f"{type(layer).__name__}: forward gave {np.shape(y)}, output_shape says {p.y.shape}")
    np.copyto(p.y, y)


def own_backward(layer: Layer, p: Pass, need_dx: bool) -> None:
    """The backward pass of a layer that has its own."""
    dx = layer.backward(p.dout, need_dx=need_dx)
    if need_dx:
        if np.shape(dx) != p.x.shape:
            raise ValueError(f"{type(layer).__name__}: backward gave {np.shape(dx)} for an input {p.x.shape}")
        np.copyto(p.dx, dx)


def backward_through(layers, dout: np.ndarray, need_dx: bool) -> np.ndarray | None:
    """The backward passes of layers in a row. Without `need_dx` it ends at the first layer that has parameters."""
    first = next((i for i, layer in enumerate(layers) if layer.parameters), len(layers))
    for i in range(len(layers) - 1, -1, -1):
        if not need_dx and i <= first:
            layers[i].backward(dout, need_dx=False)
            return None
        dout = layers[i].backward(dout)
    return dout


def _after_fork() -> None:
    """A forked process has none of the threads that may have held a plan."""
    for plan in PLANS:
        plan.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
