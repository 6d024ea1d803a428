"""What starting costs: imports, `fastbp train`, and whole processes from their start to the end of a first training
step.

    python bench/start_up.py [--runs 5] [--parts imports,train,steps] [--workloads mnist-cnn | --all] [--json
    start_up.json]

How it is measured. Every figure is the wall time of a whole fresh process, the interpreter's own start and end
included; what is compared alternates. A cold run gets an empty kernel cache of its own; the warm runs after it reuse
that cache. A first step is import, network, batch of 32 random images, forward, loss, backward, update, in the same few
lines for both libraries.

How to read it. Cold is paid once after installing or upgrading fastbp, warm in every later process. The files of the
kernels that the cold run compiled are counted in the cache folder.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import measuring
import sides
from measuring import time_text
from workloads import WORKLOADS, Workload

BATCH = 32
PARTS = ("imports", "train", "steps")


def seconds(command: list[str], **environment: str) -> float:
    """The wall time of a command that must succeed.

    It may keep fastbp's bytecode, as pip has done for what it installed.
    """
    start = time.perf_counter()
    measuring.child(command, quiet=True, **{"PYTHONDONTWRITEBYTECODE": "", **environment})
    return time.perf_counter() - start


def python(code: str, **environment: str) -> float:
    return seconds([sys.executable, "-c", code], **environment)


def first_step(workload: Workload, library: str) -> str:
    """A program of one training step. Both libraries have layers of the same names and arguments."""
    space = {"fastbp": "fastbp", "torch": "torch.nn"}[library]
    layers = ", ".join(f"{space}.{kind}({', '.join(map(str, numbers))})" for kind, *numbers in workload.layers)
    lines = ["import numpy as np", f"import {library}", "rng = np.random.default_rng(0)"]
    lines.append(f"network = {space}.Sequential({layers})")
    lines.append(f"x = rng.normal(size={(BATCH, *workload.input_shape)}).astype(np.float32)")
    lines.append(f"labels = rng.integers(0, 10, {BATCH})")
    if library == "fastbp":
        lines += ["optimizer = fastbp.SGD(lr=0.01, momentum=0.9)"]
        lines += ["fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), optimizer).step(x, labels)"]
    else:
        lines += ["optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)"]
        lines += ["scores = network(torch.from_numpy(x))"]
        lines += ["torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()", "optimizer.step()"]
    return "\n".join(lines)


def compiled_in(folder: str) -> tuple[int, int]:
    """The number of compiled kernels in a cache folder, and their bytes."""
    files = list(Path(folder).rglob("*.nbc"))
    return len(files), sum(file.stat().st_size for file in files)


def imports(runs: int, torch_too: bool) -> dict[str, list[float]]:
    codes = ["", "import numpy", "import numba", "import fastbp", *["import torch"] * torch_too]
    times: dict[str, list[float]] = {code: [] for code in codes}
    for code in codes:
        python(code)  # the files into the page cache
    for _ in range(runs):
        for code in codes:
            times[code].append(python(code))
    return {code or "python -c ''": values for code, values in times.items()}


def training(runs: int) -> tuple[dict[str, list[float]], tuple[int, int]]:
    """`fastbp train` on the embedded digits, with a cold and a warm cache, and what the cold run compiled."""
    with tempfile.TemporaryDirectory() as folder:
        place = {"FASTBP_CACHE_DIR": f"{folder}/cache"}

        def train(number: int) -> float:
            return seconds([sys.executable, "-m", "fastbp", "train", "--output", f"{folder}/{number}"], **place)

        rows = {"fastbp train, cold kernel cache": [train(0)]}
        rows["fastbp train, warm kernel cache"] = [train(number) for number in range(1, runs + 1)]
        return rows, compiled_in(place["FASTBP_CACHE_DIR"])


def first_steps(workload: Workload, runs: int, torch_too: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        place, code = {"FASTBP_CACHE_DIR": folder}, first_step(workload, "fastbp")
        cold, warm, theirs = python(code, **place), [], []
        kernels, size = compiled_in(folder)
        for _ in range(runs):
            warm.append(python(code, **place))
            if torch_too:
                theirs.append(python(first_step(workload, "torch")))
    return {"workload": workload.name, "cold": cold, "kernels": kernels, "bytes": size, "warm": warm, "torch": theirs}


def show(table: measuring.Table, rows: dict[str, list[float]]) -> dict[str, list[float]]:
    for name, times in rows.items():
        table.row(name, time_text(min(times)), time_text(statistics.median(times)), len(times))
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, figure=False)
    add = parser.add_argument
    add("--runs", type=measuring.whole_number, default=5, help="of each import and of each warm run (default: 5)")
    add("--workloads", type=measuring.one_of(WORKLOADS), default=["mnist-cnn"], help="default: mnist-cnn")
    parser.add_argument("--all", action="store_true", help="all workloads")
    add("--parts", type=measuring.one_of(PARTS), default=list(PARTS), help=f"default: {','.join(PARTS)}")
    add("--peers", type=measuring.one_of(["torch"]), default=["torch"], help="default: torch; '' for none")
    options = parser.parse_args()
    torch_too = "torch" in options.peers and sides.installed("torch")
    machine = measuring.machine(*["torch"] * torch_too)
    print(measuring.describe(machine))

    results = {"machine": machine, "seconds": {}, "first_steps": []}
    if "imports" in options.parts or "train" in options.parts:
        table = measuring.Table("whole process:-31", "best:9", "median:9", "runs:4")
    if "imports" in options.parts:
        results["seconds"] |= show(table, imports(options.runs, torch_too))
    if "train" in options.parts:
        rows, (results["kernels"], results["bytes"]) = training(options.runs)
        results["seconds"] |= show(table, rows)
        print(f"kernels compiled by the cold run: {results['kernels']}, {results['bytes'] / 1e6:.1f} MB on disk")
    if "steps" in options.parts:
        print(f"\nfrom the start of a process to the end of its first training step, batch {BATCH}; medians:")
        columns = (
            "workload:-12",
            "fastbp, cold:12",
            "kernels:7",
            "on disk:8",
            "fastbp, warm:12",
            *["torch:9", "ratio:5"] * torch_too,
        )
        table = measuring.Table(*columns)
        for name in WORKLOADS if options.all else options.workloads:
            step = first_steps(WORKLOADS[name], options.runs, torch_too)
            results["first_steps"].append(step)
            warm, theirs = statistics.median(step["warm"]), []
            if torch_too:
                median = statistics.median(step["torch"])
                theirs = [time_text(median), f"{median / warm:.2f}"]
            size = f"{step['bytes'] / 1e6:.1f} MB"
            table.row(name, time_text(step["cold"]), step["kernels"], size, time_text(warm), *theirs)
    measuring.write_json(options.json, results)


if __name__ == "__main__":
    measuring.run(main)
