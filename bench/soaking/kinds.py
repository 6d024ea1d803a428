"""The kinds of trials."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import damage, guards, kills, saving, sharing
from .trials import Lost, Trial

TESTS = Path(__file__).resolve().parents[2] / "tests"
CALLS = 500  # hostile ones in a trial


class Kind(NamedTuple):
    """`run` a trial · `hourly` how many of them in an hour of two cores · `counts` what it tries"""

    run: Callable[[Trial], None]
    hourly: int
    counts: str


def calls(trial: Trial) -> None:
    """Hostile arguments at the public callables."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from fuzzing import fuzz

    trial.tried = CALLS
    faults = fuzz(seed=int(trial.rng.integers(2**31)), calls=CALLS)
    if faults:
        raise Lost("\n".join(map(str, faults)), len(faults))


KINDS = {
    "library": Kind(kills.library, 300, "kills of trainings of the library"),
    "commands": Kind(kills.commands, 160, "kills of fastbp train"),
    "caches": Kind(damage.caches, 1200, "trainings with damaged kernels"),
    "files": Kind(damage.files, 1600, "damaged networks and trainings"),
    "writers": Kind(sharing.writers, 160, "targets with several writers"),
    "disks": Kind(sharing.disks, 240, "writes to full disks and closed folders"),
    "cold": Kind(sharing.cold, 120, "starts of several processes without kernels"),
    "calls": Kind(calls, 800, "hostile calls"),
    "guards": Kind(guards.trial, 800, "kernel runs under guard pages"),
    "networks": Kind(saving.trial, 1600, "networks saved, loaded and copied"),
}
