"""Nothing lost: kills, damage, full disks, hostile calls, guard pages; what was tried and what survived is counted.

    python bench/soak.py [--hours 0.25] [--jobs 2] [--seed 0] [--only library,caches] [--json soak.json]

Each kind of trial is tried so many times for an hour of two cores; trial N of a kind is the same for the same seed, but
for the moment at which a signal arrives. What did not survive is printed with the command that runs that trial alone
(--only, --trial), and the exit status is 1. The kinds:

    library    processes that train, save or sweep, killed by SIGKILL, SIGINT or SIGTERM at random moments
    commands   `fastbp train`, killed, and gone on with by --resume
    caches     compiled kernels that are damaged, exchanged, replaced by a folder, a FIFO or a link
    files      networks and trainings to go on with that are damaged
    writers    several processes that write to one target
    disks      full disks, and folders that can't be written to
    cold       several processes that start without compiled kernels, one of them killed
    calls      hostile arguments at every public callable (tests/fuzzing.py)
    guards     runs of kernels whose arrays end, or begin, at a page that nobody may touch
    networks   drawn networks, saved, loaded, copied and pickled

A full disk is a small file system in a user namespace, where the system allows one, or else a limit to the size of
files; neither needs rights. A folder that can't be written to is one for root too, who becomes nobody for it. It needs
Linux.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measuring
from soaking import kinds
from soaking.workers import Workers
from tqdm import tqdm

SHOWN = 20  # failures that are printed


def interrupt(*_) -> None:
    """End, and let nothing more come between that and the end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=positive, default=0.25, help="about so long on two cores (default: 0.25)")
    parser.add_argument("--seed", type=int, default=0)
    several, cores = measuring.one_of(kinds.KINDS), len(measuring.usable_cores())
    parser.add_argument("--only", type=several, default=list(kinds.KINDS), help="kinds, separated by commas")
    parser.add_argument("--trial", type=int, help="the number of one trial to run, of the kind that --only names")
    parser.add_argument("--jobs", type=measuring.whole_number, default=cores, help="processes (default: all cores)")
    parser.add_argument("--json", type=measuring.new_file, help="also write the figures to this file")
    options = parser.parse_args()
    if options.trial is not None and (len(options.only) != 1 or options.trial < 0):
        parser.error("--trial needs a number from 0 on, and --only with one kind")

    start, failures, totals = time.perf_counter(), [], {}
    table = measuring.Table("kind:-9", "what was tried:-43", "tried:9", "survived:9", "lost:6", "seconds:8")
    with scratch() as folder:
        for name in options.only:
            counts, lost = run(name, options, folder)
            totals[name] = counts
            failures += lost
            figures = (counts[key] for key in ("tried", "survived", "lost"))
            table.row(name, kinds.KINDS[name].counts, *figures, f"{counts['seconds']:.0f}")
    for name, number, message in failures[:SHOWN]:
        print(f"\nLOST: python bench/soak.py --only {name} --seed {options.seed} --trial {number}\n{message}")
    if len(failures) > SHOWN:
        print(f"\nand {len(failures) - SHOWN} more")
    result = {
        "seed": options.seed,
        "hours": options.hours,
        "seconds": time.perf_counter() - start,
        "machine": measuring.machine(),
        "kinds": {name: dict(counts) for name, counts in totals.items()},
        "failures": [{"kind": name, "trial": number, "message": message} for name, number, message in failures],
    }
    measuring.write_json(options.json, result)
    sys.exit(bool(failures))


def run(name: str, options, folder: Path) -> tuple[Counter, list[tuple[str, int, str]]]:
    """The counts of a kind, and its failures: (kind, trial, message)."""
    kind = kinds.KINDS[name]
    numbers = range(max(1, round(kind.hourly * options.hours))) if options.trial is None else [options.trial]
    counts, failures, begun = Counter(tried=0, survived=0, lost=0, trials=0), [], time.perf_counter()
    with (
        Workers(name, options.seed, folder, min(options.jobs, len(numbers))) as workers,
        tqdm(total=len(numbers), desc=name, unit="trial", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        for outcome in workers.run(numbers):
            counts.update(tried=outcome.tried, lost=outcome.lost, survived=outcome.tried - outcome.lost, trials=1)
            if outcome.lost:
                failures.append((name, outcome.number, outcome.message))
                bar.set_postfix_str(f"{counts['lost']} lost")
            bar.update()
    counts["seconds"] = round(time.perf_counter() - begun, 1)
    return counts, sorted(failures)


@contextlib.contextmanager
def scratch():
    """A folder for all that the trials write, removed in the end. Others may pass through it: trials become nobody."""
    with tempfile.TemporaryDirectory(prefix="fastbp-soak-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)
        yield Path(name)


if __name__ == "__main__":
    tqdm.monitor_interval = 0  # its thread would not be in forked processes
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    measuring.run(main)
