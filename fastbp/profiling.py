"""How fast each layer of a network is computed on this machine, beside what the machine can do.

    print(fastbp.profile(network, (1, 28, 28)))

Each op of the engine (a layer, or several in one pass) is timed alone, on one thread, with the arrays of a training
step on random numbers: its forward pass, and its way back (the gradients of its parameters, and dx where training needs
it). The best of several runs counts, so the times are those of a core that does nothing else, with the data as warm in
the caches as repeated runs make them.

A layer with products reaches some fraction of the **peak**: the multiply–adds that a core makes with all operands in
registers. The multiply–adds are the cost sheet's (`network.costs`). Winograd's minimal filtering, and gradients over
pooled pixels alone, make fewer of them and so may reach more than 100 %. Any other layer is held to the **memory**: the
bytes of the values and gradients that it must read and write, by the rate at which a core streams arrays of 64 MB; what
lies in a cache may be faster.
"""

import copy
import html
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from .arguments import instance, number, whole
from .arguments import shape as shape_of
from .engine.engine import bound
from .engine.ops import Op
from .engine.sections import Parts
from .kernels.peak import multiply_adds, triad
from .network import Sequential

TURNS = 200_000  # of the peak loop: about a millisecond
STREAM = 64 << 20  # bytes of each array that is streamed


@dataclass(frozen=True)
class OpProfile:
    """A line of the profile: what one op of the engine computes, how, and in what time.

    `paths`, `layers` the layers that it computes · `op`, `how` its name, and how it computes and why · `forward`,
    `backward` seconds · `share` of the time of all ops · `gflops` two for each multiply–add, by the time · `gbytes`
    that must be read and written, by the time · `reached` the fraction of the peak, or of the memory's rate where there
    are no products
    """

    paths: tuple[str, ...]
    layers: tuple[str, ...]
    op: str
    how: str
    forward: float
    backward: float
    share: float
    gflops: float
    gbytes: float
    reached: float

    @property
    def limit(self) -> str:
        return "peak" if self.gflops else "memory"


@dataclass(frozen=True)
class Profile:
    """What `profile` has measured. Print it, let a notebook show it, or take `to_json()`.

    `rows` an OpProfile for each op · `peak` GFLOP/s and `memory` GB/s of one core
    """

    input_shape: tuple[int, ...]
    batch: int
    dtype: str
    rows: tuple[OpProfile, ...]
    peak: float
    memory: float

    @property
    def seconds(self) -> float:
        """Of all ops, forward and back; a step also has a loss and an update."""
        return sum(row.forward + row.backward for row in self.rows)

    def __str__(self) -> str:
        table = [HEAD, *self._cells()]
        widths = [max(len(row[c]) for row in table) for c in range(len(HEAD))]
        aligns = [str.ljust, str.ljust, *[str.rjust] * 4, str.ljust]
        lines = [
            "  ".join(f(cell, w) for f, cell, w in zip(aligns, row, widths, strict=True)).rstrip() for row in table
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, self._note()])

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                ", ".join(row.paths),
                " + ".join(row.layers),
                f"{1e3 * row.forward:.3f}",
                f"{1e3 * row.backward:.3f}",
                f"{row.share:.0%}",
                f"{row.reached:.0%} of {row.limit}" if row.reached else "",
                f"{row.op}: {row.how}",
            )
            for row in self.rows
        ]

    def _note(self) -> str:
        batch = f"batch {self.batch:,}, {self.dtype}, one thread: {1e3 * self.seconds:.3f} ms in all ops"
        return f"{batch}; peak {self.peak:.0f} GFLOP/s, memory {self.memory:.0f} GB/s"

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""

        def line(cells: tuple[str, ...], tag: str) -> str:
            sides = ["left", "left", *["right"] * 4, "left"]
            inner = (
                f"<{tag} style='text-align:{s}'>{html.escape(c)}</{tag}>" for c, s in zip(cells, sides, strict=True)
            )
            return f"<tr>{''.join(inner)}</tr>"

        body = line(HEAD, "th") + "".join(line(row, "td") for row in self._cells())
        return f"<div><table>{body}</table><p>{html.escape(self._note())}</p></div>"

    def to_json(self) -> str:
        """Everything as text."""
        return json.dumps(asdict(self) | {"seconds": self.seconds}, indent=2)


HEAD = ("", "layer", "forward ms", "back ms", "of all", "reaches", "computed by")


def profile(network: Sequential, input_shape: tuple[int, ...], batch: int = 64, seconds: float = 0.1) -> Profile:
    """Time each op of a network in training on `batch` random inputs of `input_shape`, about `seconds` each way.

    Parameters, gradients and state stay as they are. ValueError where the shape does not fit the network.
    """
    instance("profile: network", network, Sequential)
    shape, N = shape_of("profile: input_shape", input_shape), whole("profile: batch", batch)
    seconds, network = number("profile: seconds", seconds, above=0), copy.deepcopy(network)
    engine, rng = network.engine(shape), np.random.default_rng(0)
    y = engine.forward(rng.standard_normal((N, *shape)).astype(network.dtype), training=True)
    engine.backward((rng.standard_normal(y.shape) / N).astype(network.dtype), need_dx=False)
    made, peak, memory = engine.batch(N, True), _peak_rate(network.dtype), _memory_rate(network.dtype)
    ways = [(op, made.schedule.alone(op, made.machine)) for op in made.schedule.ops]
    times = [(op, *(_best(sections, seconds) for sections in both)) for op, both in ways]
    total = sum(forward + back for _, forward, back in times) or 1.0
    rows = [_row(op, forward, back, total, N, peak, memory) for op, forward, back in times]
    return Profile(shape, N, str(network.dtype), tuple(rows), peak, memory)


def _best(sections: list[Parts], seconds: float) -> float:
    """The shortest time of these sections on one thread, of repeats in so many seconds; 0 where there are none."""
    if not any(call for parts in sections for part in parts for call in part):
        return 0.0
    program, best, end = bound(sections), math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        for call in program:
            call()
        best = min(best, time.perf_counter() - start)
    return best


def _row(op: Op, forward: float, back: float, total: float, N: int, peak: float, memory: float) -> OpProfile:
    seconds, size = forward + back, op.setting.dtype.itemsize
    ways = [forward > 0, back > 0 and bool(op.parameters), back > 0 and any(dx is not None for dx in op.dxs)]
    products = 2 * op.work * N * sum(ways)
    values = sum(math.prod(wire.shape) for wire in (*op.inputs, op.output))
    moved = N * values * size * ((forward > 0) + (back > 0))
    gflops, gbytes = (amount / seconds / 1e9 if seconds else 0.0 for amount in (products, moved))
    reached = gflops / peak if gflops else gbytes / memory
    names = op.paths, tuple(map(repr, op.layers)), type(op).__name__, op.how
    return OpProfile(*names, forward, back, seconds / total, gflops, gbytes, reached)


def _peak_rate(dtype: np.dtype) -> float:
    """GFLOP/s of one core with all operands in registers: the best of many short runs."""
    x = np.full(1024, 0.5, dtype)
    return max(2 * count / took / 1e9 for count, took in _timed(lambda: multiply_adds(x, TURNS), 0.1))


def _memory_rate(dtype: np.dtype) -> float:
    """GB/s of one core that reads two arrays of 64 MB and writes a third."""
    a, b, c = (np.ones(STREAM // np.dtype(dtype).itemsize, dtype) for _ in range(3))
    return max(3 * STREAM / took / 1e9 for _, took in _timed(lambda: triad(a, b, c), 0.2))


def _timed(function: Callable, seconds: float) -> list[tuple]:
    """(result, seconds) of each call, after one that does not count; at least three."""
    function()
    made, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(made) < 3:
        start = time.perf_counter()
        result = function()
        made.append((result, time.perf_counter() - start))
    return made
