"""Machines that cut small problems as large ones are, and what a network's engine makes of them."""

import dataclasses

from fastbp.engine import Machine

FINE = Machine(run=4, tile_rows=4, tile_columns=4)
SAMPLES = dataclasses.replace(FINE, part_work=1, range_work=1, per_share=1, per_weight=1, piece_work=1, large=100)
ROWS = dataclasses.replace(SAMPLES, large=10, per_share=10**12)  # no share of a sum would pay
CUTS = {"whole": FINE, "samples": SAMPLES, "rows": ROWS}


def cuts_of(network, shape, N: int, training: bool = True) -> dict:
    """How each op is cut: {kind of op: {(method, axis) with more than one part}}."""
    schedule = network.engine(shape).batch(N, training).schedule
    found: dict = {}
    for op, cuts in zip(schedule.ops, schedule.cuts, strict=True):
        methods = {"forward": cuts.forward, "backward": cuts.backward, "gradients": cuts.gradients, **cuts.before}
        several = {(method, cut.axis) for method, cut in methods.items() if len(cut.ranges) > 1}
        found.setdefault(type(op).__name__, set()).update(several)
    return found


def ops_of(network, shape, training: bool = True) -> list[str]:
    """The kinds of its ops, in order."""
    return [type(op).__name__ for op in network.engine(shape).batch(2, training).schedule.ops]


def parts_of(network, shape, N: int, training: bool = True) -> int:
    """How many parts a batch is cut into."""
    return len(network.engine(shape).batch(N, training).schedule.bounds)
