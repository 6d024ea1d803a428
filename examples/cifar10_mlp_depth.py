"""CIFAR-10 with two to five linear layers: deeper and wider networks without convolutions.

    python examples/cifar10_mlp_depth.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

Linear layers with ReLU between them on the 3072 pixels, batches of 4, SGD with learning rate 0.001 and momentum 0.9, 10
epochs; the mean loss of every 2,000 mini-batches. Weights start as PyTorch's do, pixels are (x − 0.5) / 0.5: the
tutorial's setting.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, curves, load, spread

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

EVERY, QUICK_EVERY = 2000, 100
NETWORKS = {  # hidden layers: reported test accuracy, and training loss at the 12,000th mini-batch of epoch 10
    (120,): (0.499, 1.216),
    (120, 84): (0.507, 1.103),
    (256, 120, 84): (0.521, 0.998),
    (512, 256, 120, 84): (0.540, 0.902),
}


@functools.cache
def splits(quick: bool) -> tuple[Split, Split]:
    data = load("cifar10", quick)
    return tuple(Split((x - 0.5) / 0.5, y) for x, y in (data.train, data.test))


def train(hidden: list[int], seed: int, quick: bool, resume=None) -> dict:
    layers, sizes = [fastbp.Flatten()], [3072, *hidden, 10]
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [fastbp.Linear(inputs, outputs, init="pytorch"), fastbp.ReLU()]
    network = fastbp.Sequential(*layers[:-1], seed=seed)
    training, test = splits(quick)
    running = fastbp.RunningLoss(every=QUICK_EVERY if quick else EVERY)
    history = fastbp.fit(
        network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.001, momentum=0.9), training, test=test,
        epochs=2 if quick else 10, batch_size=4, callbacks=[running], seed=seed, progress=False, resume=resume,
    )  # fmt: skip
    return curves(history) | {"running": running.losses, "parameters": network.parameter_vector.size}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "CIFAR-10: two to five linear layers", arguments)
    settings = experiment.sweep(train, [{"hidden": list(hidden)} for hidden in NETWORKS])
    every = QUICK_EVERY if experiment.quick else EVERY
    names = ["-".join(map(str, (3072, *hidden, 10))) for hidden in NETWORKS]
    lines = {}
    for name, setting, (accuracy, loss) in zip(names, settings, NETWORKS.values(), strict=True):
        running = setting["running"]  # (K, prints, 3): epoch, batch, mean loss
        more = {"parameters": setting.parameters, "loss_at_the_end": f"{spread(running[:, -1, 2])}, reported {loss}"}
        experiment.row(name, setting["test"], accuracy, headline=len(name.split("-")) == 6, **more)
        images = len(splits(experiment.quick)[0].y)
        lines[name] = (running[0, :, 0] - 1 + running[0, :, 1] / (images / 4), running[:, :, 2])
    figure = plotting.compare(lines, f"training loss, mean of {every:,} mini-batches")
    experiment.figure("loss", figure, "Deeper, wider networks fit the training set better")
    reported = [accuracy for accuracy, _ in NETWORKS.values()]
    figure = plotting.sweep(names, [s["test"] for s in settings], "test accuracy", reported=reported, best=False)
    experiment.figure("accuracy", figure, "Test accuracy")
    gap = {name: float(np.mean(s["train"] - s["test"])) for name, s in zip(names, settings, strict=True)}
    last, epochs = int(running[0, -1, 1]), len(settings[0].line("train_loss")[0])
    experiment.note(f"""
        {images:,} training images, SGD 0.001 with momentum 0.9, batches of 4, {epochs} epochs; `loss at the end` is the
        mean over mini-batches {last - every + 1:,} to {last:,} of the last epoch. Training accuracy is above test
        accuracy by {", ".join(f"{100 * value:.0f}" for value in gap.values())} percentage points.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
