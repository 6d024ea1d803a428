"""notMNIST with one hidden layer: the learning rate, the width, the depth, dropout.

    python examples/notmnist_mlp.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

A network 784-1000-10 with ReLU is trained by plain SGD at several learning rates; the one with the best validation
accuracy is used for other widths, for two hidden layers and for dropout. The epoch, too, is the one that is best on the
validation set.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, best, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
BATCH = 100
CHANGES = {
    "100 hidden units": ({"hidden": [100], "dropout": 0.0}, 0.900),
    "500 hidden units": ({"hidden": [500], "dropout": 0.0}, 0.901),
    "1000 hidden units": ({"hidden": [1000], "dropout": 0.0}, 0.909),
    "two layers of 500": ({"hidden": [500, 500], "dropout": 0.0}, 0.900),
    "1000, dropout 0.5": ({"hidden": [1000], "dropout": 0.5}, 0.911),
}


@functools.cache
def splits(quick: bool) -> tuple[Split, Split, Split]:
    """Training, validation and test set, 3 : 1 : 1 as reported, drawn without the images that occur twice."""
    data = load("notmnist", quick)
    images = fastbp.datasets.distinct([np.concatenate(pair) for pair in zip(data.train, data.test, strict=True)])
    return fastbp.datasets.split(images, (0.6, 0.2, 0.2), seed=0)


def train(hidden: list[int], dropout: float, lr: float, seed: int, quick: bool) -> dict:
    training, validation, test = splits(quick)
    network = fastbp.models.mlp([784, *hidden, 10], dropout=dropout, seed=seed)
    history = fastbp.fit(
        network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=lr), training, validation, test=test,
        epochs=3 if quick else 60, batch_size=BATCH, seed=seed, progress=False,
    )  # fmt: skip
    return curves(history) | {"parameters": network.parameter_vector.size}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "notMNIST: one hidden layer", arguments)
    rates = experiment.sweep(train, [{"hidden": [1000], "dropout": 0.0, "lr": lr} for lr in RATES])
    lr = best(rates).settings["lr"]
    changed = experiment.sweep(train, [{**settings, "lr": lr} for settings, _ in CHANGES.values()])

    for name, setting, (_, reported) in zip(CHANGES, changed, CHANGES.values(), strict=True):
        headline = name == "1000 hidden units"
        experiment.row(name, setting["test"], reported, headline=headline, parameters=setting.parameters)
    values = [s["validation"] for s in rates]
    swept = plotting.sweep([f"{lr:g}" for lr in RATES], values, "validation accuracy", "learning rate")
    experiment.figure("rates", swept, f"784-1000-10: {lr:g} is the best learning rate on the validation set")
    values, reported = [s["test"] for s in changed], [r for _, r in CHANGES.values()]
    compared = plotting.sweep(list(CHANGES), values, "test accuracy", reported=reported, best=False)
    experiment.figure("networks", compared, "Test accuracy of the networks, beside what is reported")
    chosen = changed[list(CHANGES).index("1000 hidden units")]
    for name in ("loss", "accuracy"):
        lines = {split: chosen.line(f"{split}_{name}") for split in ("train", "validation", "test")}
        figure = plotting.compare(lines, name, percent=name == "accuracy")
        experiment.figure(name, figure, f"784-1000-10 at {lr:g}: {name} of the three splits")
    epochs = chosen.line("train_loss")[0]
    training, validation, test = (len(split.y) for split in splits(experiment.quick))
    experiment.note(f"""
        Data: notMNIST without its duplicates, {training:,} to train on, {validation:,} for validation, {test:,} for the
        test; the reported figures come from 15,000, 5,000 and 5,000. Pixels in [0, 1], SGD without momentum, batches of
        {BATCH}, {len(epochs)} epochs. Test accuracy is that of the epoch that is best on the validation set; the
        learning rate {lr:g}, chosen there for 784-1000-10, is that of all networks.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
