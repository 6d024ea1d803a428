"""How the time of fastbp's training step grows with batch, width, depth, image size and threads.

    python bench/scaling.py [--sweeps batch,width,depth,image,threads] [--json scaling.json] [--figure scaling.png]

How it is measured. One network a sweep, one size changed and the rest kept; float32, one thread but in the sweep over
threads, medians. Steps of one sweep alternate, so a slow moment of the machine does not fall on one point alone.

How to read it. `slope` is that of log time over log size, by least squares over the points that are linear; the FLOPs'
own slope stands beside it. Linear means in proportion to the FLOPs: the points around the best GFLOP/s, as far as they
keep 75 % of it. `why` tells what was measured at the others: "fixed" is the share of the time that the same number of
layers takes at size 1, where there is nothing to compute; "working set" (parameters, gradients, velocities, batch and
outputs) is named where it outgrows a cache that the best point still fits. Where neither holds, nothing is said.
"""

import math

import measuring
import numpy as np
import sides
from measuring import size_text, time_text
from workloads import FLATTEN, POOL, RELU, WORKLOADS, Workload, conv, mlp

KEPT = 0.75  # of the best rate: still linear
FIXED = 0.2  # of the time: worth naming


def adhoc(layers: tuple, shape: tuple[int, ...]) -> Workload:
    return Workload("", "", layers, shape, ())


def image_network(size: int) -> Workload:
    pooled = size // 2
    return adhoc((conv(3, 16, 3, padding=1), RELU, POOL, FLATTEN, *mlp(16 * pooled * pooled, 10)), (3, size, size))


SWEEPS = {  # name: (title, sizes, network and batch for a size)
    "batch": ("batch, 784-100-10", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], lambda n: (WORKLOADS["mlp-100"], n)),
    "batch-conv": (
        "batch, 7×7 convolution, MNIST",
        [1, 2, 4, 8, 16, 32, 64, 128],
        lambda n: (WORKLOADS["mnist-cnn"], n),
    ),
    "width": (
        "width w, 784-w-10, batch 32",
        [16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
        lambda n: (adhoc(mlp(784, n, 10), (784,)), 32),
    ),
    "depth": ("layers of 256, batch 32", [1, 2, 4, 8, 16, 32], lambda n: (adhoc(mlp(256, *[256] * n, 10), (256,)), 32)),
    "image": (
        "side of the image, 3→16 3×3 convolution, batch 8",
        [8, 12, 16, 24, 32, 48, 64, 96, 128],
        lambda n: (image_network(n), 8),
    ),
    "threads": ("threads, 7×7 convolution, MNIST, batch 128", [], lambda n: (WORKLOADS["mnist-cnn"], 128)),
}


def working_set(workload: Workload, batch: int) -> int:
    """Bytes that a step goes through: parameters, gradients, velocities, the batch and every layer's output."""
    return 12 * sum(value.size for value in workload.parameters()) + 4 * batch * sum(map(math.prod, workload.shapes()))


def smallest(workload: Workload) -> Workload:
    """The same layers, each of size 1, but for the ten outputs."""
    layers = []
    for kind, *numbers in workload.layers:
        layers.append({"Linear": ("Linear", 1, 1), "Conv2d": conv(1, 1, 1)}.get(kind, (kind, *numbers)))
    layers[-1] = ("Linear", 1, 10)
    return adhoc(tuple(layers), (1, 2, 2) if len(workload.input_shape) == 3 else (1,))


def sweep(name: str, sizes: list[int], seconds: float) -> list[dict]:
    """A row for each size: its time, and what may explain it."""
    _, _, make = SWEEPS[name]
    if name == "threads":
        return thread_rows(sizes, make, seconds)
    cases = {n: make(n) for n in sizes}
    steps = {n: sides.build("fastbp", workload, batch).step for n, (workload, batch) in cases.items()}
    floors = {n: sides.build("fastbp", smallest(workload), 1).step for n, (workload, _) in cases.items()}
    times = measuring.alternate({("step", n): step for n, step in steps.items()}, seconds)
    times |= measuring.alternate({("floor", n): step for n, step in floors.items()}, seconds / 4)
    rows = []
    for n, (workload, batch) in cases.items():
        row = {"size": n, **measuring.summary(times["step", n]), "flops": sides.flops(workload, batch)}
        row["fixed"] = measuring.summary(times["floor", n])["median"]
        rows.append(row | {"working_set": working_set(workload, batch)})
    return rows


def thread_rows(sizes: list[int], make, seconds: float) -> list[dict]:
    rows = []
    for threads in sizes:
        workload, batch = make(threads)
        step = sides.build("fastbp", workload, batch, threads).step
        row = {"size": threads, **measuring.summary(measuring.alternate({"": step}, seconds)[""])}
        row |= {"flops": sides.flops(workload, batch), "fixed": 0.0, "working_set": working_set(workload, batch)}
        rows.append(row)
    sides.fastbp_threads(1)
    return rows


def explain(rows: list[dict], caches: dict[str, int]) -> tuple[int, int]:
    """Add GFLOP/s and `why` to the rows; the first and last of those that are linear."""
    for row in rows:
        row["gflops"] = row["flops"] / row["median"] / 1e9
    rates = [row["gflops"] for row in rows]
    first = last = best = int(np.argmax(rates))
    while first and rates[first - 1] >= KEPT * rates[best]:
        first -= 1
    while last + 1 < len(rows) and rates[last + 1] >= KEPT * rates[best]:
        last += 1
    for index, row in enumerate(rows):
        row["linear"], reasons = first <= index <= last, []
        if not row["linear"]:
            if row["fixed"] >= FIXED * row["median"]:
                reasons.append(f"fixed {row['fixed'] / row['median']:.0%}")
            for level, size in caches.items():
                if rows[best]["working_set"] <= size < row["working_set"]:
                    reasons.append(f"working set > {level} {size_text(size)}")
        row["why"] = ", ".join(reasons)
    return first, last


def slope(rows: list[dict], key: str) -> float | None:
    """Of log `key` over log size; None for one point."""
    if len(rows) < 2:
        return None
    return float(np.polyfit(np.log([row["size"] for row in rows]), np.log([row[key] for row in rows]), 1)[0])


def slope_text(slope: float | None) -> str:
    return "–" if slope is None else f"{slope:.2f}"


def report(name: str, rows: list[dict], caches: dict[str, int]) -> dict:
    """Print a sweep; its slopes and where it is linear."""
    print(f"\n{SWEEPS[name][0]}")
    result = {"title": SWEEPS[name][0], "rows": rows}
    if name == "threads":
        table = measuring.Table("threads:7", "step:9", "best:9", "speed-up:8")
        for row in rows:
            row["speed_up"] = rows[0]["median"] * rows[0]["size"] / row["median"]
            table.row(row["size"], time_text(row["median"]), time_text(row["best"]), f"{row['speed_up']:.2f}")
        return result
    first, last = explain(rows, caches)
    table = measuring.Table("size:5", "step:9", "best:9", "GF/s:6", "working set:11", "linear:6", "why:-20")
    for row in rows:
        cells = (
            row["size"],
            time_text(row["median"]),
            time_text(row["best"]),
            f"{row['gflops']:.1f}",
            size_text(row["working_set"]),
        )
        table.row(*cells, "yes" if row["linear"] else "", row["why"])
    linear = rows[first : last + 1]
    result |= {"slope": slope(linear, "median"), "flops_slope": slope(linear, "flops")}
    result["slope_of_all"] = slope(rows, "median")
    result["linear"] = [rows[first]["size"], rows[last]["size"]]
    texts = [slope_text(result[key]) for key in ("slope", "flops_slope", "slope_of_all")]
    print("linear from {} to {}, slope {} (FLOPs {}); over all sizes {}".format(*result["linear"], *texts))
    return result


def draw(results: dict[str, dict], machine: dict):
    """A panel for each sweep: the times, and the line in proportion to the FLOPs through the best point."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, axes = measuring.new_figure(4.4 * columns, 3.6 * rows, (rows, columns))
    for panel in axes.flat[len(results) :]:
        panel.set_visible(False)
    for panel, (name, result) in zip(axes.flat, results.items(), strict=False):
        points = result["rows"]
        sizes, times = [row["size"] for row in points], [row["median"] * 1e3 for row in points]
        if name == "threads":
            ideal = [times[0] * sizes[0] / size for size in sizes]
        else:
            best = max(points, key=lambda row: row["gflops"])
            ideal = [row["flops"] / best["gflops"] / 1e6 for row in points]
        panel.plot(
            sizes,
            ideal,
            "-",
            color="0.6",
            label="time of one thread by threads" if name == "threads" else "FLOPs at the best rate",
        )
        inside = [row.get("linear", True) for row in points]
        for linear, fill, label in ((True, "C0", "linear"), (False, "white", "not linear")):
            chosen = [(size, time) for size, time, yes in zip(sizes, times, inside, strict=True) if yes is linear]
            if chosen:
                shown = {"label": None if name == "threads" else label}
                panel.plot(*zip(*chosen, strict=True), "o", color="C0", markerfacecolor=fill, **shown)
        title = result["title"] + (
            f"\nslope {slope_text(result['slope'])} (FLOPs {slope_text(result['flops_slope'])})"
            if "slope" in result
            else ""
        )
        panel.set_title(title, fontsize=9)
        panel.set(xscale="log", yscale="log", ylabel="ms")
        panel.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.legend(fontsize=8, frameon=False)
    figure.suptitle(f"fastbp's training step, {machine['processor']}", fontsize=11)
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, seconds=0.1)
    sweeps = measuring.one_of(SWEEPS)
    parser.add_argument("--sweeps", type=sweeps, default=list(SWEEPS), help="by commas (default: all)")
    parser.add_argument("--points", type=measuring.whole_number, help="of each sweep, the first so many (default: all)")
    options = parser.parse_args()
    machine = measuring.machine()
    print(measuring.describe(machine))
    sides.fastbp_threads(1)
    results = {}
    for name in options.sweeps:
        sizes = SWEEPS[name][1]
        if name == "threads":
            most = sides.fastbp_threads(machine["cores"])
            sizes = sorted({*(2**k for k in range(most.bit_length())), most})
            if most == 1:
                why = "this fastbp computes on one thread" if machine["cores"] > 1 else "one core to use"
                print(f"\nthreads: {why}")
                continue
        results[name] = report(name, sweep(name, sizes[: options.points], options.seconds), machine["caches"])
    measuring.write_json(options.json, {"machine": machine, "sweeps": results})
    if options.figure:
        measuring.write_figure(options.figure, draw(results, machine))


if __name__ == "__main__":
    measuring.run(main)
