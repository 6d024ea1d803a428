"""The time of one training step, or with --predict of one prediction, fastbp beside PyTorch, JAX and ONNX Runtime.

    python bench/training_step.py [--peers torch,jax,torch-compile] [--threads 1,2] [--workloads mnist-cnn,mlp-100]
                                  [--rounds 3] [--markdown] [--json step.json] [--figure step.png]
    python bench/training_step.py --predict [--peers torch,jax,onnx] …

A step is forward, softmax cross-entropy, backward and SGD with momentum 0.9 (mlp-tiny: squared error, Adam). A
prediction is the class of each sample of the batch in evaluation mode.

How it is measured. Float32; every side starts from the same parameters and the same batch, and the gradients of the
first step (not where there is dropout: each side draws its own), or the network's outputs, are compared. Each workload
is run in one process where the sides alternate, and by each side alone in a process of its own, since thread pools
disturb each other; the best of a side's medians counts, for fastbp as for the others. Before each turn of a side there
is a rest of 10 ms and a call that does not count: PyTorch's threads keep a core busy for 3.5 ms after their last
operation. `--rounds` does all that several times: on a shared
machine, others may slow one process down by half, and not the next. Processes are pinned to as many cores as they have
threads. First steps, which compile or load compiled code, are told apart from the timed ones; fastbp's kernel cache is
as it is found.

How to read it. `fastbp`, `torch`, … are medians, `best` the shortest time seen. GF/s counts two FLOPs for each
multiply–add of Linear and Conv2d in fastbp's cost sheet; `peak` is its fraction of what this machine reaches with all
operands in registers, measured at the start and after each workload (the best so far, in files and the README's table
the best of all). It may be above 100 %, since minimal filtering makes fewer multiplications. `error` is the largest
difference of a gradient, or of an output, from fastbp's, relative to its tensor's largest element. `ratio` is the
fastest peer's time by fastbp's and `torch×` PyTorch's (eager): below 1, fastbp loses.
"""

import importlib
import json
import shlex
import statistics
import sys
import time

import measuring
import numpy as np
import sides
from measuring import time_text
from workloads import WORKLOADS

NAMES = {"fastbp": "fastbp", "torch": "PyTorch", "torch-compile": "torch.compile", "jax": "JAX", "onnx": "ONNX Runtime"}


def main() -> None:
    parser = measuring.parser(__doc__, seconds=1.0)
    add = parser.add_argument
    peers = "default: torch,jax, and onnx with --predict"
    add("--peers", type=measuring.one_of(list(NAMES)[1:]), help=peers)
    add("--predict", action="store_true", help="measure predictions instead of training steps")
    add("--threads", type=measuring.whole_numbers, default=[1], help="numbers of threads, by commas (default: 1)")
    add("--workloads", type=measuring.one_of(WORKLOADS), default=list(WORKLOADS), help="by commas (default: all)")
    add("--batches", type=measuring.whole_numbers, help="by commas (default: each workload's own)")
    add("--rounds", type=measuring.whole_number, default=1, help="of all processes, for each row (default: 1)")
    add("--winograd", type=int, choices=(2, 4), help="the tile of fastbp's 3×3 convolutions")
    add("--markdown", action="store_true", help="print the table for the README at the end")
    add("--child", help="for internal use: measure these sides in this process")
    options = parser.parse_args()
    if options.winograd and not sides.takes_winograd():
        parser.error("--winograd: this fastbp's Sequential does not take it")
    if max(options.threads) > len(measuring.usable_cores()):
        parser.error(f"--threads: there are {len(measuring.usable_cores())} cores to use")
    if options.peers is None:
        options.peers = ["torch", "jax", *["onnx"] * options.predict]
    if "onnx" in options.peers and not options.predict:
        parser.error("--peers: ONNX Runtime only predicts: give --predict")
    if options.child:
        print(json.dumps(measure(options.child.split(","), options)))
        return

    peers = [name for name in options.peers if sides.installed(name)]
    for name in options.peers:
        if name not in peers:
            print(f"{NAMES[name]} is not installed and is left out")
    machine = measuring.machine(*dict.fromkeys(sides.LIBRARIES[name] for name in peers))
    peaks = {threads: measuring.peak(threads) for threads in options.threads}
    print(measuring.describe(machine))
    for threads, rate in peaks.items():
        print(f"peak of {threads} thread{'s' * (threads > 1)}, float32: {rate:.1f} GFLOP/s")
    used = {threads: sides.fastbp_threads(threads) for threads in options.threads}
    for threads, number in used.items():
        if number < threads:
            print(f"this fastbp computes on {number} thread, also in the rows of {threads}")

    columns = [f"{name}:10" for peer in peers for name in (NAMES[peer], "best", "error")]
    columns = [column.replace("error:10", "error:7") for column in columns]
    against = ["ratio:6"] * bool(peers) + ["torch×:6"] * ("torch" in peers)
    ours = ("batch:5", "thr:3", "fastbp:9", "best:9", "GF/s:6", "peak:5")
    table = measuring.Table("workload:-12", *ours, *columns, *against)
    rows = []
    for threads in options.threads:
        for name in options.workloads:
            measured = measure_workload(name, threads, peers, options)
            peaks[threads] = max(peaks[threads], measuring.peak(threads))
            for row in measured:
                row["of_peak"] = row["gflops"] / peaks[threads]
                rows.append(row)
                show(table, row, peers)
    for row in rows:
        row["of_peak"] = row["gflops"] / peaks[row["threads"]]

    what = "prediction" if options.predict else "step"
    print(f"\nfirst {what}, compiling or loading compiled code, in a process of its own:")
    table = measuring.Table("workload:-12", "batch:5", "thr:3", *(f"{NAMES[side]}:13" for side in ("fastbp", *peers)))
    for row in rows:
        first = (time_text(row["sides"][side]["first"]) for side in ("fastbp", *peers))
        table.row(row["workload"], row["batch"], row["threads"], *first)
    results = {"machine": machine, "peak_gflops": peaks, "fastbp_threads": used, "command": command(), "rows": rows}
    results["predict"] = options.predict
    if peers:
        results["summary"] = summary(rows)
        print(f"\n{summary_text(results['summary'])}")
    if options.markdown:
        print("\n" + markdown(results, peers))
    measuring.write_json(options.json, results)
    if options.figure and peers:
        measuring.write_figure(options.figure, draw(rows, peers, machine, options.predict))


def measure(names: list[str], options) -> list[dict]:
    """In a child process: the first call and the timed calls of these sides, for each batch of the one workload."""
    workload, (threads,) = WORKLOADS[options.workloads[0]], options.threads
    results = []
    for batch in options.batches or workload.batches:
        built, rows, compared = {}, {}, {}
        for name in names:
            extra = {"winograd": options.winograd} if name == "fastbp" and options.winograd else {}
            importlib.import_module(sides.LIBRARIES[name])  # start_up.py times this
            start = time.perf_counter()
            built[name] = sides.build(name, workload, batch, threads, options.predict, **extra)
            built[name].step()
            rows[name] = {"first": time.perf_counter() - start}
            if len(names) > 1 and (options.predict or not workload.has("Dropout")):
                compared[name] = built[name].results()
        steps = {name: side.step for name, side in built.items()}
        for name, times in measuring.alternate(steps, options.seconds).items():
            rows[name] |= measuring.summary(times)
            if name != "fastbp" and compared:
                rows[name]["error"] = difference(compared["fastbp"], compared[name])
        results.append(rows)
    return results


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of two lists of gradients or outputs, relative to each tensor's largest element.

    The scale is at least 1 % of the largest of all: a bias before batch norm has a gradient of rounding errors
    alone."""
    least = 0.01 * max(float(np.abs(b).max()) for b in theirs)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), least)) for a, b in zip(ours, theirs, strict=True))


def measure_workload(name: str, threads: int, peers: list[str], options) -> list[dict]:
    """A row for each batch: all sides together and each alone, in child processes."""
    workload, everyone = WORKLOADS[name], ["fastbp", *peers]
    extra = ["--seconds", options.seconds]
    if options.batches:
        extra += ["--batches", ",".join(map(str, options.batches))]
    if options.winograd:
        extra += ["--winograd", options.winograd]
    if options.predict:
        extra += ["--predict"]

    def child(names: list[str]) -> list[dict]:
        words = ("--child", ",".join(names), "--threads", threads, "--workloads", name, *extra)
        return measuring.child_json(__file__, *words, threads=threads)

    together, alone = [], {side: [] for side in everyone}
    for _ in range(options.rounds):
        together += [child(everyone)] if peers else []
        for side in everyone:
            alone[side].append(child([side]))
    rows = []
    for index, batch in enumerate(options.batches or workload.batches):
        row = {"workload": name, "batch": batch, "threads": threads, "winograd": options.winograd, "sides": {}}
        for side in everyone:
            kinds = {"alone": alone[side], "together": together}
            runs = {kind: [each[index][side] for each in rounds] for kind, rounds in kinds.items()}
            best = {key: min(run[key] for run in runs["alone"] + runs["together"]) for key in ("median", "best")}
            best["first"] = runs["alone"][0]["first"]
            best["error"] = runs["together"][0].get("error") if together else None
            row["sides"][side] = best | runs
        ours = row["sides"]["fastbp"]["median"]
        row["gflops"] = sides.flops(workload, batch, options.predict) / ours / 1e9
        if peers:
            row["ratio"] = min(row["sides"][peer]["median"] for peer in peers) / ours
        if "torch" in peers:
            row["ratio_torch"] = row["sides"]["torch"]["median"] / ours
        rows.append(row)
    return rows


def show(table: measuring.Table, row: dict, peers: list[str]) -> None:
    cells = []
    for side in ("fastbp", *peers):
        times = row["sides"][side]
        cells += [time_text(times["median"]), time_text(times["best"])]
        if side == "fastbp":
            cells += [f"{row['gflops']:.1f}", f"{row['of_peak']:.0%}"]
        else:
            cells.append("dropout" if times["error"] is None else f"{times['error']:.0e}")
    ratios = [f"{row[key]:.2f}" for key in ("ratio", "ratio_torch") if key in row]
    table.row(row["workload"], row["batch"], row["threads"], *cells, *ratios)


def summary(rows: list[dict]) -> dict:
    """Of each ratio: geometric mean, smallest, and how many rows fastbp loses."""
    result = {}
    for key in ("ratio", "ratio_torch"):
        ratios = [row[key] for row in rows if key in row]
        if ratios:
            lost = sum(ratio < 1 for ratio in ratios)
            result[key] = {"geometric_mean": statistics.geometric_mean(ratios), "smallest": min(ratios), "lost": lost}
    return result


def summary_text(summary: dict) -> str:
    names = {"ratio": "fastest peer / fastbp", "ratio_torch": "PyTorch / fastbp"}
    lines = []
    for key, each in summary.items():
        mean, smallest = f"geometric mean {each['geometric_mean']:.2f}", f"smallest {each['smallest']:.2f}"
        lines.append(f"{names[key]}: {mean}, {smallest}, rows lost {each['lost']}")
    return "\n".join(lines)


def command() -> str:
    """The command line without the options that only say where the results go."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if word != "--markdown" and not (word in ("--json", "--figure") and next(words))]
    return shlex.join(["python", "bench/training_step.py", *kept])


def markdown(results: dict, peers: list[str]) -> str:
    """The README's table; a ratio below 1 is bold."""
    machine, rows = results["machine"], results["rows"]
    what = "prediction" if results["predict"] else "training step"
    libraries = {"torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
    versions = [f"{name} {machine[library]}" for library, name in libraries.items() if library in machine]
    of_threads = results["peak_gflops"].items()
    peaks = ", ".join(f"{rate:.0f} GFLOP/s on {n} thread{'s' * (int(n) > 1)}" for n, rate in of_threads)
    lines = [
        f"One {what} in float32 on {machine['processor']}, {machine['cores']} cores, by `{results['command']}`; "
        f"Python {machine['python']}, Numba {machine['numba']}{''.join(', ' + version for version in versions)}. "
        f"Measured peak: {peaks}. Medians"
        + ("; the ratio is the fastest peer's time by fastbp's, bold where fastbp loses." if peers else "."),
        "",
    ]
    several = len(results["peak_gflops"]) > 1
    head = [
        "network",
        "batch",
        *["threads"] * several,
        "fastbp",
        "of peak",
        *(NAMES[peer] for peer in peers),
        *["ratio"] * bool(peers),
    ]
    lines += ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in rows:
        cells = [WORKLOADS[row["workload"]].title, row["batch"], *[row["threads"]] * several]
        cells += [time_text(row["sides"]["fastbp"]["median"]), f"{100 * row['of_peak']:.0f} %"]
        cells += [time_text(row["sides"][peer]["median"]) for peer in peers]
        if peers:
            cells.append(f"{row['ratio']:.2f}" if row["ratio"] >= 1 else f"**{row['ratio']:.2f}**")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if peers:
        lines += ["", summary_text(results["summary"]).replace("\n", "; ") + "."]
    return "\n".join(lines)


def draw(rows: list[dict], peers: list[str], machine: dict, predict: bool):
    """Each peer's time by fastbp's, a line for each row, a panel for each number of threads."""
    from matplotlib.ticker import LogLocator

    threads = list(dict.fromkeys(row["threads"] for row in rows))
    lines = len(rows) // len(threads)
    figure, axes = measuring.new_figure(1 + 5 * len(threads), 2 + 0.25 * lines, (1, len(threads)))
    for panel, number in zip(axes[0], threads, strict=True):
        shown = [row for row in rows if row["threads"] == number]
        for index, (peer, marker) in enumerate(zip(peers, "osD", strict=False)):
            ratios = [row["sides"][peer]["median"] / row["sides"]["fastbp"]["median"] for row in shown]
            panel.plot(ratios, range(len(shown)), marker, color=f"C{index}", label=NAMES[peer], zorder=3)
        panel.axvline(1, color="0.3", linewidth=1)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_formatter("")
        panel.set_yticks(range(len(shown)), [f"{row['workload']}, batch {row['batch']}" for row in shown])
        panel.invert_yaxis()
        panel.set_xlabel("time by fastbp's time (left of 1, fastbp loses)")
        panel.set_title(f"{number} thread{'s' * (number > 1)}", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(peers), frameon=False)
    title = "prediction" if predict else "training step"
    figure.suptitle(f"One {title}, {machine['processor']}", fontsize=11)
    return figure


if __name__ == "__main__":
    measuring.run(main)
