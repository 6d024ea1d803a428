"""The memory that training takes: peak resident size of a process that trains 20 steps, fastbp beside PyTorch and JAX.

    python bench/memory.py [--peers torch,jax] [--workloads mnist-cnn] [--steps 20] [--json memory.json] [--figure
    memory.png]

How it is measured. Each side, workload and batch in a process of its own that imports its own library and no other,
builds network, optimiser and batch and trains, on one thread. The system keeps the largest resident size; it is read
after the import and at the end. fastbp's kernels are compiled beforehand, in a process that is not measured, so they
are loaded from its cache.

How to read it. `peak` holds everything, the interpreter and the library included; `more` is the rise over the peak of
the
import: parameters, gradients, velocities, activations, buffers, loaded kernels. `least` is what the step must hold:
parameters three times, the batch, and every layer's output once.
"""

import importlib
import json
import math
import resource
import sys

import measuring
import sides
from measuring import size_text
from workloads import WORKLOADS, Workload

NAMES = {"fastbp": "fastbp", "torch": "PyTorch", "jax": "JAX"}


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    try:  # ru_maxrss of a child starts at its parent's size on Linux; this starts anew with the program
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(side: str, workload: Workload, batch: int, steps: int) -> dict[str, int]:
    importlib.import_module(sides.LIBRARIES[side])
    imported = peak()
    step = sides.build(side, workload, batch).step
    for _ in range(steps):
        step()
    return {"imported": imported, "peak": peak()}


def least(workload: Workload, batch: int) -> int:
    """Bytes of parameters, gradients and velocities, of the batch, and of every layer's output.

    Flatten's output is left out: it is a view.
    """
    parameters = sum(value.nbytes for value in workload.parameters())
    kinds = ("", *(layer[0] for layer in workload.layers))
    numbers = sum(math.prod(shape) for kind, shape in zip(kinds, workload.shapes(), strict=True) if kind != "Flatten")
    return 3 * parameters + 4 * batch * numbers


def draw(rows: list[dict], everyone: list[str], machine: dict):
    """A group of bars for each row: the size after the import in grey, what training adds in colour."""
    figure, ((panel,),) = measuring.new_figure(8, 1.5 + 0.14 * len(rows) * (len(everyone) + 1))
    for index, side in enumerate(everyone):
        places = [row * (len(everyone) + 1) + index for row in range(len(rows))]
        imported = [row[side]["imported"] / 2**20 for row in rows]
        more = [(row[side]["peak"] - row[side]["imported"]) / 2**20 for row in rows]
        panel.barh(places, imported, height=0.9, color="0.8", label="after the import" if index == 0 else None)
        panel.barh(places, more, left=imported, height=0.9, color=f"C{index}", label=f"{NAMES[side]}, training")
    middle = [row * (len(everyone) + 1) + (len(everyone) - 1) / 2 for row in range(len(rows))]
    panel.set_yticks(middle, [f"{row['workload']}, batch {row['batch']}" for row in rows])
    panel.invert_yaxis()
    panel.set_xlabel("peak resident size, MB")
    panel.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Memory of training, {machine['processor']}", fontsize=11)
    return figure


def main() -> None:
    parser = measuring.parser(__doc__)
    add = parser.add_argument
    add("--peers", type=measuring.one_of(list(NAMES)[1:]), default=["torch", "jax"], help="default: torch,jax")
    add("--workloads", type=measuring.one_of(WORKLOADS), default=list(WORKLOADS), help="by commas (default: all)")
    parser.add_argument("--batches", type=measuring.whole_numbers, help="by commas (default: each workload's own)")
    parser.add_argument("--steps", type=measuring.whole_number, default=20, help="of training (default: 20)")
    parser.add_argument("--child", choices=NAMES, help="for internal use: measure this side in this process")
    options = parser.parse_args()
    if options.child:
        (name,), (batch,) = options.workloads, options.batches
        print(json.dumps(measure(options.child, WORKLOADS[name], batch, options.steps)))
        return

    peers = [name for name in options.peers if sides.installed(name)]
    for name in options.peers:
        if name not in peers:
            print(f"{NAMES[name]} is not installed and is left out")
    everyone, machine = ["fastbp", *peers], measuring.machine(*peers)
    print(measuring.describe(machine))
    columns = [column for side in everyone for column in (f"{NAMES[side]}, peak:13", "more:8")]
    table, rows = measuring.Table("workload:-12", "batch:5", "least:8", *columns, *["ratio:5"] * bool(peers)), []

    def child(side: str, name: str, batch: int, steps: int) -> dict[str, int]:
        words = ("--child", side, "--workloads", name, "--batches", batch, "--steps", steps)
        return measuring.child_json(__file__, *words, threads=1)

    for name in options.workloads:
        child("fastbp", name, WORKLOADS[name].batches[0], 1)  # compiles
        for batch in options.batches or WORKLOADS[name].batches:
            row = {"workload": name, "batch": batch, "least": least(WORKLOADS[name], batch)}
            row |= {side: child(side, name, batch, options.steps) for side in everyone}
            rows.append(row)
            taken = [(row[side]["peak"], row[side]["imported"]) for side in everyone]
            cells = [size for peak, imported in taken for size in (peak, peak - imported)]
            if peers:
                row["ratio"] = min(row[peer]["peak"] for peer in peers) / row["fastbp"]["peak"]
            ratio = [f"{row['ratio']:.2f}"] if peers else []
            table.row(name, batch, size_text(row["least"]), *map(size_text, cells), *ratio)
    if peers:
        print("ratio: the leanest peer's peak by fastbp's; below 1, fastbp takes more")
    measuring.write_json(options.json, {"machine": machine, "steps": options.steps, "rows": rows})
    if options.figure:
        measuring.write_figure(options.figure, draw(rows, everyone, machine))


if __name__ == "__main__":
    measuring.run(main)
