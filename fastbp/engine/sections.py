"""Bound calls in sections: the parts of a section may be made at once, the sections come one after the other."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from ..kernels.reduce import add, add_to, sum_parts
from ..memory import aligned
from ..parameters import Parameter
from .graph import Wire
from .machine import Machine
from .ops import Op, Setting, flat
from .partition import Cut, Cuts, Partition, gathered, row_work

Calls = list[Callable[[], None]]
Parts = list[Calls]
Marked = Iterator[tuple[bool, Parts]]  # a section, and whether samples stay apart in it


class Piece(NamedTuple):
    """A stretch [first, last) of the flat vector.

    `calls` complete its gradients · `descend`, where there is one, yields calls that complete them and make SGD's
    update
    """

    first: int
    last: int
    calls: Calls
    descend: Callable[..., Iterator[partial]] | None


class Due(NamedTuple):
    """A gradient of a wire, from one of its readers; `free` if others may be added to the array."""

    array: np.ndarray
    free: bool


class Schedule:
    """The calls of a pass through some ops, bound to their arrays.

    `places` where each parameter begins in the flat vector, `gradient_vector`
    """

    def __init__(
        self,
        ops: list[Op],
        ends: tuple[Wire, Wire],
        setting: Setting,
        plan: Partition,
        places: dict[Parameter, int],
        gradient_vector: np.ndarray,
    ):
        self.ops, self.setting, self.bounds, self.cuts = ops, setting, plan.bounds, plan.cuts
        self.x, self.y = ends
        self.places, self.gradient_vector = places, gradient_vector
        self.give_memory()
        self.dx: np.ndarray | None = None
        self.totals: dict[Wire, np.ndarray] = {}  # sums of gradients of wires with several readers
        self.live: set[Op] = set()  # that have a part in y, once `backward` has seen them
        self.shares: dict[Op, np.ndarray] = {}  # (parts, parameters) of gradients that are sums over parts of the batch
        self.forward = joined(self._forward())

    def give_memory(self) -> None:
        """An array for each wire: its own in training, otherwise one that no later op reads any more."""
        N, dtype = self.setting.N, self.setting.dtype
        apart = self.setting.training or len(self.bounds) > 1
        for op in self.ops:
            if op.copies:
                op.output.same_as = op.inputs[0]
        largest = max(math.prod(wire.shape) for wire in (self.x, *(op.output for op in self.ops)))
        last_use = {wire.memory: i for i, op in enumerate(self.ops) for wire in (*op.inputs, op.output)}
        last_use[self.y.memory] = len(self.ops)
        self.x.array = aligned((N, *self.x.shape), dtype)
        free: list[np.ndarray] = []
        held: dict[Wire, np.ndarray] = {}
        for i, op in enumerate(self.ops):
            wire = op.output
            if wire.same_as is not None:
                wire.array = wire.same_as.array.reshape(N, *wire.shape)
            elif apart:
                wire.array = aligned((N, *wire.shape), dtype)
            else:
                held[wire] = free.pop() if free else aligned(N * largest, dtype)
                wire.array = held[wire][: N * math.prod(wire.shape)].reshape(N, *wire.shape)
            free += [held.pop(used) for used in list(held) if last_use[used] <= i]

    # -- forward -----------------------------------------------------------------------------------------------------

    def _forward(self) -> Marked:
        prepared = [calls for op in self.ops if (calls := op.calls("prepare"))]
        yield False, prepared if len(self.bounds) > 1 else [sum(prepared, [])]
        for op, cuts in zip(self.ops, self.cuts, strict=True):
            if not op.copies:
                yield from self._before(op, cuts, "forward")
                cut = cuts.forward
                yield cut.axis == "samples", [op.calls("forward", cut.axis, part) for part in cut.ranges]

    def _before(self, op: Op, cuts: Cuts, method: str) -> Marked:
        """What comes before an op's method, step by step."""
        for name in op.before.get(method, ()):
            cut = cuts.before[name]
            yield cut.axis == "samples", [op.calls(name, cut.axis, part) for part in cut.ranges]

    # -- backward ----------------------------------------------------------------------------------------------------

    def backward(self, dout: np.ndarray, need_dx: bool) -> list[Parts]:
        """The gradients of all wires that need one, and of the parameters but for what `pieces` do."""
        return joined(self._backward(dout, need_dx))

    def _backward(self, dout: np.ndarray, need_dx: bool) -> Marked:
        needing = {self.x} if need_dx else set()
        for op in self.ops:
            if op.trained or needing.intersection(op.inputs):
                needing.add(op.output)
        due: dict[Wire, list[Due]] = {self.y: [Due(dout, False)]}
        for op, cuts in reversed(list(zip(self.ops, self.cuts, strict=True))):
            if op.output not in needing or op.output not in due:  # the latter where nobody reads the output
                continue
            self.live.add(op)
            total = yield from self._total(op.output, due.pop(op.output))
            op.dout = total.array
            for i, wire in enumerate(op.inputs):
                if wire not in needing:
                    continue
                free = True
                if op.passes_dout:
                    op.dxs[i], free = op.dout.reshape(wire.array.shape), total.free and len(op.inputs) == 1
                elif op.dxs[i] is None:
                    op.dxs[i] = aligned(wire.array.shape, self.setting.dtype)
                due.setdefault(wire, []).append(Due(op.dxs[i], free))
            yield from self._backward_of(op, cuts, needed=not needing.isdisjoint(op.inputs))
        if need_dx and self.x in due:
            total = yield from self._total(self.x, due.pop(self.x))
            self.dx = total.array
        elif need_dx:
            self.dx = aligned(self.x.array.shape, self.setting.dtype)  # zeros: y does not depend on x

    def _backward_of(self, op: Op, cuts: Cuts, needed: bool) -> Marked:
        """Gradients, but for those by rows, and dx after them; part by part where both are cut alike."""
        gradients, backward = cuts.gradients, cuts.backward if needed and not op.passes_dout else Cut(None, [])
        parts = []
        if gradients.axis != "rows" and op.parameters and (op.trained or not op.apart):
            yield from self._before(op, cuts, "gradients")
            shares = self._into(op, gradients)
            each = zip(gradients.ranges, shares, strict=True)
            parts = [op.calls("gradients", gradients.axis, part, into=into) for part, into in each]
        if backward.axis == "terms":
            shares = aligned((len(backward.ranges), *op.x.shape), self.setting.dtype)
            each = zip(backward.ranges, shares, strict=True)
            yield gradients.axis == "samples", parts
            yield False, [op.calls("backward", "terms", part, dx=dx) for part, dx in each]
            yield False, [[partial(sum_parts, shares.reshape(len(shares), -1), flat(op.dx))]]
            return
        if parts and op.together and gradients.axis == backward.axis == "samples":
            each = zip(gradients.ranges, shares, strict=True)
            yield True, [op.calls("together", "samples", part, into=into) for part, into in each]
            return
        after = [op.calls("backward", backward.axis, part) for part in backward.ranges]
        if parts and after and gradients.axis == backward.axis:
            yield backward.axis == "samples", [[*a, *b] for a, b in zip(parts, after, strict=True)]
            return
        yield gradients.axis == "samples", parts
        yield backward.axis == "samples", after

    def _into(self, op: Op, cut: Cut) -> list[dict[Parameter, np.ndarray]]:
        """Where each part's gradients go: to the flat vector, or where they are sums over parts of the batch to its
        share."""
        if cut.axis != "samples" or len(cut.ranges) == 1:
            return [{parameter: parameter.grad_array for parameter in op.parameters}] * len(cut.ranges)
        if op not in self.shares:
            self.shares[op] = np.empty((len(cut.ranges), op.size), self.setting.dtype)
        return [views(op, share) for share in self.shares[op]]

    def _total(self, wire: Wire, due: list[Due]) -> Iterator[tuple[bool, Parts]]:
        """The sum of the gradients that a wire has from its readers: in the array of one that may be added to, or a new
        one."""
        if len(due) == 1:
            return due[0]
        at = next((i for i, each in enumerate(due) if each.free), None)
        terms = [each.array for i, each in enumerate(due) if i != at]
        if at is None:
            if wire not in self.totals:
                self.totals[wire] = aligned(terms[0].shape, self.setting.dtype)
            total, (a, b, *terms) = self.totals[wire], terms
            yield True, [[partial(add, flat(a[part]), flat(b[part]), flat(total[part]))] for part in self.bounds]
        else:
            total = due[at].array
        for term in terms:
            yield True, [[partial(add_to, flat(total[part]), flat(term[part]))] for part in self.bounds]
        return Due(total, True)

    def alone(self, op: Op, machine: Machine) -> tuple[list[Parts], list[Parts]]:
        """One op's own sections, forward and back, in the pass that `backward` was asked for last."""
        cuts = self.cuts[self.ops.index(op)]
        forward = [op.calls("forward", cuts.forward.axis, part) for part in cuts.forward.ranges]
        before = [parts for _, parts in self._before(op, cuts, "forward")]
        ahead = [] if op.copies else [[op.calls("prepare")], *before, forward]
        if op not in self.live:
            return ahead, []
        needed = any(dx is not None for dx in op.dxs)
        back = [parts for _, parts in self._backward_of(op, cuts, needed)]
        if op.parameters:
            back.append([piece.calls for piece, _ in self._pieces(op, cuts, machine)])
        return ahead, back

    # -- what sums over the batch ------------------------------------------------------------------------------------

    def ranges(self, machine: Machine) -> list[list[Piece]]:
        """The flat vector in ranges of pieces, which may be completed at once; after `backward`."""
        made: list[tuple[Piece, float]] = []
        without = set(self.places)
        for op, cuts in zip(self.ops, self.cuts, strict=True):
            if op.parameters and op in self.live:
                made += self._pieces(op, cuts, machine)
                without.difference_update(op.parameters)
        for parameter in without:  # of layers that have no part in the output: the gradient is 0
            start, end = self.places[parameter], self.places[parameter] + parameter.size
            made.append((Piece(start, end, [self.zero(start, end)], None), parameter.size * machine.update_work))
        made.sort(key=lambda each: each[0].first)
        return gathered([piece for piece, _ in made], [work for _, work in made], machine)

    def zero(self, start: int, end: int) -> partial:
        """A call that sets this part of the gradients to 0."""
        return partial(sum_parts, np.empty((0, end - start), self.setting.dtype), self.gradient_vector[start:end])

    def frozen(self, op: Op, first: int, last: int) -> Calls:
        """Calls that set to 0 what belongs to frozen parameters between these two places of the vector."""
        places = [(self.places[parameter], parameter.size) for parameter in op.frozen]
        ranges = [(max(first, at), min(last, at + size)) for at, size in places]
        return [self.zero(a, b) for a, b in ranges if a < b]

    def _pieces(self, op: Op, cuts: Cuts, machine: Machine) -> Iterator[tuple[Piece, float]]:
        """The pieces of an op's parameters, each with its work."""
        start = self.places[op.parameters[0]]
        end = start + op.size
        if not op.trained and (op.apart or cuts.gradients.axis == "rows"):  # nothing has written to the gradients
            yield Piece(start, end, [], None), 0
            return
        if cuts.gradients.axis != "rows":
            shares = self.shares.get(op)
            calls = [] if shares is None else [partial(sum_parts, shares, self.gradient_vector[start:end])]
            yield Piece(start, end, calls + self.frozen(op, start, end), None), op.size * machine.update_work
            return
        into, rows, first = views(op, self.gradient_vector[start:end]), op.sizes["rows"], start
        for part in cuts.gradients.ranges:
            last = end if part[1] == rows else start + op.weights // rows * part[1]
            frozen = self.frozen(op, first, last)
            descend = op.descend and not frozen and partial(op.descend, rows=part)
            work = row_work(op, self.setting, machine) * (part[1] - part[0]) // rows
            yield Piece(first, last, op.calls("gradients", "rows", part, into=into) + frozen, descend or None), work
            first = last


def views(op: Op, vector: np.ndarray) -> dict[Parameter, np.ndarray]:
    """The op's parameters as views of a vector that holds their numbers one after the other."""
    found, at = {}, 0
    for parameter in op.parameters:
        found[parameter] = vector[at : at + parameter.size].reshape(parameter.shape)
        at += parameter.size
    return found


def joined(sections: Marked) -> list[Parts]:
    """Neighbouring sections in which samples stay apart, or of one part, as one; none that is empty."""
    made: list[Parts] = []
    last: Parts = []
    last_apart = False
    for apart, parts in sections:
        if not any(parts):
            continue
        if (apart and last_apart or len(last) == 1) and len(parts) == len(last):
            last = [[*a, *b] for a, b in zip(last, parts, strict=True)]
            last_apart = last_apart and apart
            continue
        made += [last] if any(last) else []
        last, last_apart = parts, apart
    return [*made, last] if any(last) else made
