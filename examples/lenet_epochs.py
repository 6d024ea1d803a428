"""LeNet-5 for ten epochs as in the benchmark of SimpleChains.jl, beside the times published there.

    python examples/lenet_epochs.py [--quick] [--seed 0] [--out FOLDER]

5×5 convolutions with 6 and 16 filters, each with ReLU and 2×2 max pooling, then 120, 84 and 10 units with ReLU between,
44,426 parameters. Adam 0.0003, batches of 96 for each thread, ten epochs of MNIST: on one core, and on all of them.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Clock, Experiment, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split
from fastbp.engine.threads import usable_cores

EPOCHS, BATCH, RATE = 10, 96, 3e-4
# Seconds of ten epochs once everything is compiled: Elrod, Korsbo, Rackauckas, "Doing small network scientific machine
# learning in Julia 5x faster than PyTorch", julialang.org/blog/2022/04/simple-chains, 14 April 2022
PUBLISHED = {
    "SimpleChains.jl, i9-10980XE, 18 cores": 1.24, "SimpleChains.jl, EPYC 7513, 32 cores": 3.08,
    "SimpleChains.jl, i7-1165G7, 4 cores": 5.32, "PyTorch, i9-10980XE, 18 cores": 11.24,
    "PyTorch, EPYC 7513, 32 cores": 14.86, "PyTorch, A100": 17.66,
}  # fmt: skip
ACCURACY = 0.9703  # after ten epochs, SimpleChains.jl on the i9


@functools.cache
def splits(quick: bool) -> tuple[Split, Split]:
    data = load("mnist", quick)
    return data.train, data.test


def network(seed: int) -> fastbp.Sequential:
    return fastbp.Sequential(
        fastbp.Conv2d(1, 6, 5), fastbp.ReLU(), fastbp.MaxPool2d(2),
        fastbp.Conv2d(6, 16, 5), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(),
        fastbp.Linear(256, 120), fastbp.ReLU(), fastbp.Linear(120, 84), fastbp.ReLU(), fastbp.Linear(84, 10),
        seed=seed,
    )  # fmt: skip


def train(threads: int, seed: int, quick: bool) -> dict:
    training, test = splits(quick)
    net, loss, adam, clock = network(seed), fastbp.SoftmaxCrossEntropy(), fastbp.Adam(RATE), Clock()
    batch, epochs, before = BATCH * threads, 2 if quick else EPOCHS, fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        for size in (batch, len(training.y) % batch or batch):  # the last batch of an epoch is smaller
            fastbp.warmup(net, loss, adam, Split(*(part[:size] for part in training)))
        history = fastbp.fit(
            net, loss, adam, training, test=test, epochs=epochs, batch_size=batch, callbacks=[clock], seed=seed,
            progress=False,
        )  # fmt: skip
    finally:
        fastbp.set_num_threads(before)
    return curves(history) | {"parameters": net.parameter_vector.size, "spent": clock.seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "LeNet-5, ten epochs", arguments)
    labels, values = [], []
    for threads in sorted({1, usable_cores()}):
        # one run at a time, so that no other takes its cores
        settings = [experiment.sweep(train, [{"threads": threads}], [seed])[0] for seed in experiment.seeds]
        results = [setting.runs[0].result for setting in settings]
        seconds, cores = [result["spent"][-1] for result in results], f"{threads} core{'s' * (threads > 1)}"
        took = {"seconds": f"{np.mean(seconds):.2f}", "core_seconds": f"{threads * np.mean(seconds):.1f}"}
        accuracies = [result["test"] for result in results]
        experiment.row(
            cores, accuracies, ACCURACY, headline=threads == usable_cores(), batches_of=BATCH * threads, **took
        )
        labels.append(f"fastbp, {cores}")
        values.append(seconds)
    labels += PUBLISHED
    values += [[seconds] for seconds in PUBLISHED.values()]
    figure = plotting.sweep(labels, values, "seconds of ten epochs", percent=False, best=False)
    experiment.figure("seconds", figure, "Ten epochs here, and as published for other machines")
    published = "; ".join(f"{name} {seconds:g} s" for name, seconds in PUBLISHED.items())
    experiment.note(f"""
        Test accuracy after the last epoch, and the seconds of ten epochs with kernels compiled and the data in memory,
        without what is measured between epochs. Adam {RATE:g}, batches of {BATCH} for each thread as published.
    """)
    experiment.note(f"""
        Published, once everything is compiled: {published} (Elrod, Korsbo, Rackauckas: "Doing small network scientific
        machine learning in Julia 5x faster than PyTorch", julialang.org/blog/2022/04/simple-chains). SimpleChains.jl's
        accuracy is that of ten epochs on the i9. Its batches are in proportion to its threads, by its source 96 a
        thread where its register tile has 12 columns; PyTorch's on the A100 are of 2,048. Those are other machines,
        with more cores: seconds times cores say what a core does.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
