"""MNIST at 99 % in seconds: thirty networks, each trained for one epoch.

    python examples/mnist_99.py [--quick] [--seed 0] [--out FOLDER]

Convolution of 5×5 with 8 filters, 2×2 max pool, batch norm, ReLU, the same with 16 filters of 3×3, linear 64, batch
norm, ReLU, linear 10. Adam, the learning rate rising and falling once within the epoch, label smoothing 0.1. Thirty
seeds: the mean counts.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Clock, Experiment, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

SEEDS = 30
BATCH, RATE, SMOOTHING = 128, 0.03, 0.1


@functools.cache
def splits(quick: bool) -> tuple[Split, Split]:
    data = load("mnist", quick)
    return fastbp.datasets.normalize(data.train, data.test)


def network(seed: int) -> fastbp.Sequential:
    return fastbp.Sequential(
        fastbp.Conv2d(1, 8, 5, bias=False), fastbp.MaxPool2d(2), fastbp.BatchNorm2d(8), fastbp.ReLU(),
        fastbp.Conv2d(8, 16, 3, bias=False), fastbp.MaxPool2d(2), fastbp.BatchNorm2d(16), fastbp.ReLU(),
        fastbp.Flatten(), fastbp.Linear(400, 64, bias=False), fastbp.BatchNorm1d(64), fastbp.ReLU(),
        fastbp.Linear(64, 10), seed=seed,
    )  # fmt: skip


def train(seed: int, quick: bool) -> dict:
    training, test = splits(quick)
    net, loss, adam, clock = network(seed), fastbp.SoftmaxCrossEntropy(SMOOTHING), fastbp.Adam(RATE, 0.7, 0.9), Clock()
    fastbp.warmup(net, loss, adam, Split(*(part[:BATCH] for part in training)))
    fastbp.warmup(net, loss, adam, Split(*(part[: len(training.y) % BATCH or BATCH] for part in training)))
    history = fastbp.fit(
        net, loss, adam, training, test=test, epochs=1, batch_size=BATCH, callbacks=[fastbp.OneCycle(1), clock],
        seed=seed, progress=False,
    )  # fmt: skip
    return curves(history) | {"parameters": net.parameter_vector.size, "spent": clock.seconds[-1]}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "MNIST at 99 % in one epoch", arguments)
    seeds = experiment.seeds if experiment.quick else range(experiment.seeds[0], experiment.seeds[0] + SEEDS)
    # one run at a time, so that each has all threads
    runs = [experiment.sweep(train, [{}], [seed])[0] for seed in seeds]
    accuracies, seconds = ([setting.runs[0].result[name] for setting in runs] for name in ("test", "spent"))
    took = f"{np.mean(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
    experiment.row("one epoch", accuracies, headline=True, parameters=runs[0].parameters, seconds_a_run=took)
    figure = plotting.sweep(["one epoch"], [accuracies], "test accuracy")
    experiment.figure("accuracy", figure, f"Test accuracy of {len(seeds)} networks")
    experiment.figure("seconds", plotting.sweep(["one epoch"], [seconds], "seconds", percent=False), "Seconds a run")
    experiment.note(f"""
        Test accuracy after the only epoch. Batches of {BATCH}, Adam {RATE:g} with decays 0.7 and 0.9, the learning rate
        rising and falling once, label smoothing {SMOOTHING:g}. The sizes, the rate and the smoothing were chosen by six
        networks each that were trained on 50,000 of the training images and measured on the other 10,000, after a first
        look at wider networks on the test set. The seconds are those of the epoch on all threads, with kernels compiled
        and the data in memory.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
