"""The time of one training step, fastbp beside PyTorch: forward, softmax cross-entropy, backward, SGD with momentum 0.9.

    python bench/training_step.py [--threads 1,2] [--workloads mnist-cnn,mlp-100] [--json training_step.json]

For each number of threads a process of its own is started, and in it the two sides alternate for every workload and batch, float32.
The first step of both sides starts from the same parameters and data and its gradients are compared. PyTorch is also
timed alone in a process, since the two disturb each other; the better of its two medians counts for the ratio.
Compiling is done before timing. `ratio` is PyTorch's time by fastbp's: below 1, fastbp loses.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from workloads import WORKLOADS, torch_module


def ours(workload, batch: int, x: np.ndarray, labels: np.ndarray):
    """(network, one training step)"""
    import fastbp

    network = workload.network()
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.01, momentum=0.9))
    return network, lambda: trainer.step(x, labels)


def peer(network, x: np.ndarray, labels: np.ndarray):
    """(module, one training step) in PyTorch"""
    import torch

    module = torch_module(network).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()
    inputs, targets = torch.tensor(x), torch.tensor(labels)

    def step():
        optimizer.zero_grad()
        value = loss(module(inputs), targets)
        value.backward()
        optimizer.step()
        return value

    return module, step


def alternate(steps: list, seconds: float) -> list[list[float]]:
    """Times of each step function, taken in turn in bursts, after a warm-up."""
    for step in steps:
        for _ in range(3):
            step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or len(times[0]) < 9:
        for step, taken in zip(steps, times, strict=True):
            step()  # the other side has left its data in the caches
            for _ in range(3):
                start = time.perf_counter()
                step()
                taken.append(time.perf_counter() - start)
    return times


def gradient_error(network, module) -> float | None:
    """The largest difference of the two sides' gradients, relative to each tensor's largest; None with dropout."""
    if any(type(layer).__name__ == "Dropout" for layer in network.layers):
        return None
    errors = []
    for parameter, tensor in zip(network.parameters, module.parameters(), strict=True):
        other = tensor.grad.numpy()
        errors.append(float(np.abs(parameter.grad - other).max() / (np.abs(other).max() + 1e-30)))
    return max(errors)


def measure(names: list[str], threads: int, alone: bool, seconds: float) -> list[dict]:
    import threadpoolctl
    import torch

    torch.set_num_threads(threads)
    rows = []
    for name in names:
        workload = WORKLOADS[name]
        for batch in workload.batches:
            rng = np.random.default_rng(0)
            x = rng.normal(size=(batch, *workload.input_shape)).astype(np.float32)
            labels = rng.integers(0, 10, batch)
            with threadpoolctl.threadpool_limits(threads):
                network, step = ours(workload, batch, x, labels)
                module, other = peer(network, x, labels)
                row = {"workload": name, "batch": batch, "threads": threads}
                if alone:
                    (theirs,) = alternate([other], seconds)
                else:
                    step(), other()
                    row["gradient_error"] = gradient_error(network, module)
                    mine, theirs = alternate([step, other], seconds)
                    row |= {"ours": statistics.median(mine), "ours_best": min(mine)}
                    row["gflops"] = workload.flops() * batch / row["ours"] / 1e9
            row |= {"torch": statistics.median(theirs), "torch_best": min(theirs)}
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1", help="numbers of threads, by commas (default: 1)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="by commas (default: all)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, for each side of each row (default: 1)")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--child", choices=("together", "alone"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.workloads.split(",")
    if unknown := set(names) - WORKLOADS.keys():
        parser.error(f"unknown workloads {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.child:
        json.dump(measure(names, int(options.threads), options.child == "alone", options.seconds), sys.stdout)
        return

    results, ratios = [], []
    head = ("workload", "batch", "thr", "fastbp", "best", "GF/s", "torch", "alone", "ratio", "gradients")
    print("{:<13} {:>5} {:>3} {:>10} {:>10} {:>6} {:>10} {:>10} {:>6}  {}".format(*head))
    for threads in options.threads.split(","):
        for name in names:
            parts = []
            for kind in ("together", "alone"):
                command = [sys.executable, __file__, "--child", kind, "--threads", threads, "--workloads", name]
                command += ["--seconds", str(options.seconds)]
                environment = {**os.environ, "OMP_NUM_THREADS": threads}
                output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
                parts.append(json.loads(output.stdout))
            for row, alone in zip(*parts, strict=True):
                row["torch_alone"] = alone["torch"]
                row["ratio"] = min(row["torch"], row["torch_alone"]) / row["ours"]
                ratios.append(row["ratio"])
                results.append(row)
                error = "not compared" if row["gradient_error"] is None else f"{row['gradient_error']:.0e}"
                micro = [f"{row[key] * 1e6:>7.0f} µs" for key in ("ours", "ours_best", "torch", "torch_alone")]
                cells = (*micro[:2], f"{row['gflops']:.1f}", *micro[2:], f"{row['ratio']:.2f}", error)
                print("{:<13} {:>5} {:>3} {:>10} {:>10} {:>6} {:>10} {:>10} {:>6}  {}".format(name, row["batch"], threads, *cells))
                sys.stdout.flush()
    print(f"geometric mean of the ratios {statistics.geometric_mean(ratios):.2f}, smallest {min(ratios):.2f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
