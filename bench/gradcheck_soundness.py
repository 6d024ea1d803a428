"""No false alarm: the gradient checker in full mode on correct gradients, of fastbp and of NumPy twins, at drawn
inputs.

    python bench/gradcheck_soundness.py [--cases 100000] [--jobs 2] [--seed 0] [--output soundness.json]

Layers and a network in training and evaluation, losses, and the function pairs of tests/twins take turns. Inputs are
drawn to be
awkward: axes of length 0 and 1, scales of 1e-3 to 1e3, zeros, ties, values on kinks and at 1e-2 to 1e-12 beside them,
columns that are constant or nearly so. Every gradient is right, so every mismatch is a false alarm: it is printed with
the options that reproduce it, and the exit status is 1.

How to read it. `elements` is how many were compared; `kink` of them lie on a kink, where the one-sided slopes differ;
`noise` of them are too small to tell from rounding.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import measuring
import numpy as np
from gradcheck_cases import SUBJECTS, Case, Draw, check
from tqdm import tqdm

from fastbp.terminal import watched

CHUNK = 100  # cases that a process is given at a time
SHOWN = 20  # failures that are printed in full


def case_of(seed: int, index: int) -> tuple[str, Case]:
    """The case of this number: subjects take turns, four cases in five are wild."""
    name = list(SUBJECTS)[index % len(SUBJECTS)]
    rng = np.random.default_rng([seed, index])
    return name, SUBJECTS[name].draw(Draw(rng, wild=rng.random() < 0.8))


def verdicts(report) -> Counter:
    """How many elements got which verdict."""
    found = report.counts
    counts = Counter(ok=found.get("ok", 0), kink=found.get("kink", 0), noise=found.get("below noise", 0))
    counts["mismatch"] = found.get("mismatch", 0) + found.get("not finite", 0)
    counts["elements"] = sum(counts.values())
    if not report.passed and not counts["mismatch"]:
        counts["mismatch"] = 1  # of a wrong shape, or a property of the functions that belongs to no element
    return counts


def run_cases(seed: int, first: int, last: int) -> tuple[dict[str, Counter], list[tuple[int, str]]]:
    """The verdicts by subject, and (number, message) of the cases that failed."""
    totals, failures = {}, []
    for index in range(first, last):
        start = time.perf_counter()
        name, case = case_of(seed, index)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = check(case, seed=index)
            counts, message = verdicts(report), "" if report.passed else str(report)
        except Exception as error:
            counts, message = Counter(mismatch=1), f"{type(error).__name__}: {error}"
        if message:
            failures.append((index, f"{name}\n{message}"))
        counts["cases"] = 1
        counts["seconds"] = time.perf_counter() - start
        totals[name] = totals.get(name, Counter()) + counts
    return totals, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000, help="how many are drawn (default: 100000)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="check the case of this number alone, and print its inputs")
    parser.add_argument("--output", type=measuring.new_file, help="also write the figures to this file, JSON")
    options = parser.parse_args()
    if options.cases < 1 or options.jobs < 1:
        parser.error("--cases and --jobs must be 1 or more")
    if options.only is not None:
        print(case_of(options.seed, options.only)[1])
        _, failures = run_cases(options.seed, options.only, options.only + 1)
        print(failures[0][1] if failures else "passed")
        sys.exit(bool(failures))

    start = time.perf_counter()
    totals, failures = run_all(options)
    columns = ("cases:8", "elements:10", "ok:10", "kink:8", "noise:8", "mismatch:8", "seconds:8")
    table = measuring.Table("checked:-36", *columns)
    columns = ("cases", "elements", "ok", "kink", "noise", "mismatch")
    for name in SUBJECTS:
        counts = totals.get(name, Counter())
        table.row(name, *(counts[column] for column in columns), f"{counts['seconds']:.1f}")
    total = sum(totals.values(), Counter())
    table.row("all", *(total[column] for column in columns), f"{total['seconds']:.1f}")
    for index, message in failures[:SHOWN]:
        print(f"\nFALSE ALARM: python bench/gradcheck_soundness.py --seed {options.seed} --only {index}\n{message}")
    print(f"\n{len(failures)} of {options.cases} cases gave a false alarm")
    result = {
        "seed": options.seed,
        "seconds": time.perf_counter() - start,
        "machine": measuring.machine(),
        "subjects": {name: {key: counts[key] for key in (*columns, "seconds")} for name, counts in totals.items()},
        "failures": [{"case": index, "message": message} for index, message in failures],
    }
    measuring.write_json(options.output, result)
    sys.exit(bool(failures))


def run_all(options) -> tuple[dict[str, Counter], list[tuple[int, str]]]:
    totals: dict[str, Counter] = {}
    failures: list[tuple[int, str]] = []
    edges = [*range(0, options.cases, CHUNK), options.cases]
    chunks = [(options.seed, *pair) for pair in itertools.pairwise(edges)]
    with tqdm(total=options.cases, unit="case", disable=not watched()) as bar:
        for (_, first, last), (counts, failed) in zip(chunks, results(chunks, options.jobs), strict=True):
            for name in counts:
                totals[name] = totals.get(name, Counter()) + counts[name]
            failures += failed
            bar.update(last - first)
            bar.set_postfix_str(f"{len(failures)} false alarms")
    return totals, failures


def results(chunks, jobs: int):
    if jobs == 1:
        yield from itertools.starmap(run_cases, chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_cases, *zip(*chunks, strict=True))


if __name__ == "__main__":
    measuring.run(main)
