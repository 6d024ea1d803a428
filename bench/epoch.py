"""One whole epoch of training on real images, fastbp.fit beside a PyTorch loop over a shuffling DataLoader.

    python bench/epoch.py [--workloads mnist-cnn,cifar-2conv] [--batches 32,128] [--threads 1] [--fraction 0.1] [--json
    epoch.json]

How it is measured. Each side in a process of its own, from the same first parameters: shuffling, batching, training
steps, and the mean loss and accuracy over the batches, which both sides keep. PyTorch's loop is the usual one:
TensorDataset, DataLoader with 0 and with 2 worker processes; the faster one counts. Loading the data and the first
steps of another network, which compile, are not timed; starting the worker processes is, as it happens in every epoch.
Threads are set in both libraries,
but processes are not pinned: workers need a core of their own.

How to read it. `ratio` is PyTorch's time by fastbp's. The losses are means over the epoch in training mode; they differ
by the order of the images alone, so they must be close. `--fraction` trains on the first part of the images.
"""

import json
import time

import measuring
import numpy as np
import sides
from measuring import time_text
from workloads import WORKLOADS

DATA = {"mnist-cnn": "mnist", "mnist-cnn-bn": "mnist", "cifar-2conv": "cifar10", "cifar-8conv": "cifar10"}
WORKERS = (0, 2)


def images(workload: str, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    import fastbp

    x, labels = getattr(fastbp.datasets, DATA[workload])().train
    count = max(1, round(fraction * len(x)))
    return x[:count], labels[:count]


def fastbp_epoch(name: str, batch: int, options) -> dict:
    import fastbp

    sides.fastbp_threads(options.threads)
    x, labels = images(name, options.fraction)

    def epoch(count: int):
        network, optimizer = sides.fastbp_network(WORKLOADS[name]), fastbp.SGD(lr=sides.LR, momentum=sides.MOMENTUM)
        data = x[:count], labels[:count]
        return fastbp.fit(
            network, fastbp.SoftmaxCrossEntropy(), optimizer, data, epochs=1, batch_size=batch, progress=False
        )

    epoch(3 * batch)
    start = time.perf_counter()
    history = epoch(len(x))
    seconds = time.perf_counter() - start
    loss, accuracy = history.train_loss[-1], history.train_accuracy[-1]
    return {"seconds": seconds, "loss": loss, "accuracy": accuracy, "images": len(x)}


def torch_epoch(name: str, batch: int, options, workers: int) -> dict:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, labels = map(torch.from_numpy, images(name, options.fraction))

    def epoch(count: int):
        module = sides.torch_module(WORKLOADS[name])
        optimizer = torch.optim.SGD(module.parameters(), lr=sides.LR, momentum=sides.MOMENTUM)
        loss, total, correct = torch.nn.CrossEntropyLoss(), 0.0, 0
        data = TensorDataset(x[:count], labels[:count])
        for some, targets in DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers):
            optimizer.zero_grad()
            scores = module(some)
            value = loss(scores, targets)
            value.backward()
            optimizer.step()
            total += value.item() * len(targets)
            correct += (scores.argmax(1) == targets).sum().item()
        return total / count, correct / count

    epoch(min(3 * batch, len(x)))
    start = time.perf_counter()
    loss, accuracy = epoch(len(x))
    return {"seconds": time.perf_counter() - start, "loss": loss, "accuracy": accuracy, "images": len(x)}


def measure(kind: str, options) -> dict:
    """In a child process: one epoch of the one workload and batch, by "fastbp" or by "torch" with so many workers."""
    (name,), (batch,) = options.workloads, options.batches
    if kind == "fastbp":
        return fastbp_epoch(name, batch, options)
    return torch_epoch(name, batch, options, int(kind.removeprefix("torch")))


def main() -> None:
    parser = measuring.parser(__doc__, figure=False)
    choices = measuring.one_of(DATA)
    add, workloads = parser.add_argument, ["mnist-cnn", "cifar-2conv"]
    add("--workloads", type=choices, default=workloads, help=f"default: {','.join(workloads)}")
    add("--batches", type=measuring.whole_numbers, default=[32, 128], help="by commas (default: 32,128)")
    parser.add_argument("--threads", type=measuring.whole_number, default=1, help="of each side (default: 1)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training images to use (default: 1)")
    parser.add_argument("--child", help="for internal use: measure this side in this process")
    options = parser.parse_args()
    if not 0 < options.fraction <= 1:
        parser.error("--fraction must be above 0 and at most 1")
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return

    torch_too = sides.installed("torch")
    kinds = ["fastbp", *(f"torch{workers}" for workers in WORKERS)] if torch_too else ["fastbp"]
    machine = measuring.machine(*["torch"] * torch_too)
    print(measuring.describe(machine))
    print(f"{options.threads} thread{'s' * (options.threads > 1)} on each side")
    if not torch_too:
        print("PyTorch is not installed and is left out")
    if sides.fastbp_threads(options.threads) < options.threads:
        print("this fastbp computes on 1 thread")
    workers = [f"torch, {workers} workers:16" for workers in WORKERS] if torch_too else []
    both = ["ratio:5", "loss:7", "torch loss:10", "accuracy:8", "torch acc.:10"]
    theirs = both if torch_too else ["loss:7", "accuracy:8"]
    table = measuring.Table("workload:-12", "images:6", "batch:5", "fastbp:9", "images/s:8", *workers, *theirs)
    rows = []
    for name in options.workloads:
        for batch in options.batches:
            words = ("--workloads", name, "--batches", batch)
            words += ("--threads", options.threads, "--fraction", options.fraction)
            runs = {
                kind: measuring.child_json(__file__, "--child", kind, *words, threads=options.threads, pinned=False)
                for kind in kinds
            }
            row = {"workload": name, "batch": batch, "runs": runs}
            rows.append(row)
            ours, peers = runs["fastbp"], [runs[kind] for kind in kinds[1:]]
            cells = [time_text(ours["seconds"]), f"{ours['images'] / ours['seconds']:,.0f}"]
            cells += [time_text(peer["seconds"]) for peer in peers]
            if peers:
                best = min(peers, key=lambda run: run["seconds"])
                row["ratio"] = best["seconds"] / ours["seconds"]
                cells += [f"{row['ratio']:.2f}", f"{ours['loss']:.4f}", f"{best['loss']:.4f}"]
                cells += [f"{ours['accuracy']:.2%}", f"{best['accuracy']:.2%}"]
            else:
                cells += [f"{ours['loss']:.4f}", f"{ours['accuracy']:.2%}"]
            table.row(name, ours["images"], batch, *cells)
    settings = {"threads": options.threads, "fraction": options.fraction}
    measuring.write_json(options.json, {"machine": machine, **settings, "rows": rows})


if __name__ == "__main__":
    measuring.run(main)
