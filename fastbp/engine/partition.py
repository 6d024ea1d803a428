"""How much is computed at once: a pure function of the ops and a Machine.

What it decides is part of the result, since it says how sums over the batch are cut. So the number of threads has no
say in it.
"""

from typing import NamedTuple

from .machine import Machine
from .ops import Op, Setting

VECTOR = 16  # numbers of the widest vector: parts of features begin at multiples


class Cut(NamedTuple):
    """The ranges of an axis, one for each part; without an axis there is one part, which is everything."""

    axis: str | None
    ranges: list


class Cuts(NamedTuple):
    """How the methods of an op are cut. Gradients by "rows" come at the end of a step, others together with dx.

    `before` has the cuts of the methods that come before forward and gradients."""

    forward: Cut
    backward: Cut
    gradients: Cut
    before: dict[str, Cut]


class Partition(NamedTuple):
    """`bounds` the parts of the batch · `cuts` how each op is cut"""

    bounds: list[slice]
    cuts: list[Cuts]


def partition(ops: list[Op], setting: Setting, machine: Machine) -> Partition:
    """How the methods of these ops are cut."""
    by_rows = [op.axes("gradients") == ("rows",) for op in ops]
    count = parts_of_batch(ops, by_rows, setting, machine)
    if count == 1 and setting.training:  # without shares of large gradients, which go by rows, parts may be worth while
        by_rows = [rows or is_large(op, "gradients", "rows", machine) for op, rows in zip(ops, by_rows, strict=True)]
        count = parts_of_batch(ops, by_rows, setting, machine)
    bounds = [slice(k * setting.N // count, (k + 1) * setting.N // count) for k in range(count)]
    return Partition(
        bounds, [cuts_of(op, rows, bounds, setting, machine) for op, rows in zip(ops, by_rows, strict=True)]
    )


def cuts_of(op: Op, by_rows: bool, bounds: list[slice], setting: Setting, machine: Machine) -> Cuts:
    """How one op is cut: each of its methods by the axes that this method takes.

    Parts of the samples each read all weights, parts of the features or columns all samples: a large layer is cut so
    that the fewer of both are read again."""

    def cut(method: str) -> Cut:
        axes = op.axes(method)
        if "samples" in axes:
            return Cut("samples", bounds)
        if "channels" in axes:
            grain = 4 if op.pixels is None else max(1, machine.run // max(1, op.pixels))
            return Cut("channels", spread(op.sizes["channels"], len(bounds), grain))
        return Cut(None, [None])

    forward, backward, gradients = (cut(method) for method in ("forward", "backward", "gradients"))
    if is_large(op, "forward", "features", machine) and op.sizes["features"] >= setting.N:
        forward = by_features(op, "features", setting, machine)
    if is_large(op, "backward", "columns", machine) and op.sizes["columns"] >= setting.N:
        backward = backward_by_features(op, setting, machine)
    if by_rows:
        gradients = Cut("rows", row_pieces(op, setting, machine))
    return Cuts(forward, backward, gradients, {name: cut(name) for names in op.before.values() for name in names})


def is_large(op: Op, method: str, axis: str, machine: Machine) -> bool:
    """Can this method be cut along the axis, and does the op have so many weights that it should be?"""
    return axis in op.axes(method) and op.weights > machine.large


def parts_of_batch(ops: list[Op], by_rows: list[bool], setting: Setting, machine: Machine) -> int:
    """How many parts of the batch are worth while: a power of two."""
    work = sum(op.work for op in ops) * setting.N
    summed = read = 0
    for op, rows in zip(ops, by_rows, strict=True):
        if "samples" in op.axes("gradients"):
            summed += 0 if rows else op.size
            read += op.weights if rows else 0
    limits = [machine.parts, setting.N, work // machine.part_work]
    if setting.training and summed:
        limits += [max(2, machine.part_sums // summed), work // machine.per_share // summed]
    if setting.training and read:
        limits.append(max(2, work // machine.per_weight // read))
    return 1 << (int(max(min(limits), 1)).bit_length() - 1)


def by_features(op: Op, axis: str, setting: Setting, machine: Machine) -> Cut:
    """A large linear layer in parts that each read their own weights."""
    size, reads = op.sizes[axis], op.weights * max(setting.N, machine.read)
    count = int(min(machine.parts, reads // machine.piece_work, size // machine.tile_columns))
    return Cut(axis, spread(size, count, min(VECTOR, machine.tile_columns)))  # for two threads, as even as can be


def backward_by_features(op: Op, setting: Setting, machine: Machine) -> Cut:
    """dx as a sum of shares where these are few and small beside the weights, otherwise by columns.

    With shares a thread reads the weights that it has read forward and will update.
    """
    if "terms" in op.axes("backward"):
        shares = by_features(op, "terms", setting, machine)
        count = len(shares.ranges)
        if count > 1 and machine.few * setting.N * count <= op.sizes["terms"]:
            return shares
    return by_features(op, "columns", setting, machine)


def row_pieces(op: Op, setting: Setting, machine: Machine) -> list[tuple[int, int]]:
    """The rows of a weight's gradient in blocks."""
    rows = op.sizes["rows"]
    most = min(machine.blocks, rows)
    if op.axes("gradients") == ("rows",):
        more = min(rows, rows // (machine.block_rows * max(setting.N, 1)), op.size // machine.block_weights)
        most = max(most, int(more // 2) * 2)  # an even number, for two threads
    return spread(rows, int(min(most, row_work(op, setting, machine) // machine.range_work)), machine.tile_rows)


def row_work(op: Op, setting: Setting, machine: Machine) -> float:
    """The work of the gradient of all rows, and of their update."""
    return op.work * setting.N + op.size * machine.update_work


def spread(count: int, parts: int, grain: int = 4) -> list[tuple[int, int]]:
    """[0, count) in up to `parts` pieces of about the same size, which begin at multiples of `grain`."""
    ends = {round(count * (k + 1) / max(parts, 1) / grain) * grain for k in range(max(parts, 1) - 1)}
    ends = [end for end in sorted(ends) if 0 < end < count] + [count]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def gathered(pieces: list, work: list[float], machine: Machine) -> list[list]:
    """Neighbouring pieces put together to ranges that are worth a thread."""
    found, held, so_far = [], [], 0
    for piece, its_work in zip(pieces, work, strict=True):
        held.append(piece)
        so_far += its_work
        if so_far >= machine.range_work:
            found.append(held)
            held, so_far = [], 0
    if found and so_far < machine.range_work // 2:  # too little for a thread of its own
        found[-1] += held
    elif held:
        found.append(held)
    return found
