"""CIFAR-10 with two convolutions: the batch size, the learning rate, Adam and SGD.

    python examples/cifar10_optimizers.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

The tutorial's network (convolution 6, pool, convolution 16, pool, 120, 84, 10). Batch sizes at one learning rate,
learning rates at one batch size, Adam against SGD, and batches of 4 with Adam, where the training loss goes on falling
when the validation loss rises again. The epoch is chosen on the validation set.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, best, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

BATCHES = (25, 50, 100, 200, 300)
RATES = (0.0005, 0.001, 0.003, 0.01, 0.03)
OPTIMIZERS = {"SGD": lambda lr: fastbp.SGD(lr=lr, momentum=0.9), "Adam": lambda lr: fastbp.Adam(lr=lr)}


@functools.cache
def splits(quick: bool) -> tuple[Split, Split, Split]:
    data = load("cifar10", quick)
    training, test = (Split((x - 0.5) / 0.5, y) for x, y in (data.train, data.test))
    return (*fastbp.datasets.split(training, (0.9, 0.1), seed=0), test)


def network(seed: int) -> fastbp.Sequential:
    layers = [
        fastbp.Conv2d(3, 6, 5, init="pytorch"), fastbp.ReLU(), fastbp.MaxPool2d(2),
        fastbp.Conv2d(6, 16, 5, init="pytorch"), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(),
        fastbp.Linear(400, 120, init="pytorch"), fastbp.ReLU(),
        fastbp.Linear(120, 84, init="pytorch"), fastbp.ReLU(), fastbp.Linear(84, 10, init="pytorch"),
    ]  # fmt: skip
    return fastbp.Sequential(*layers, seed=seed)


def train(optimizer: str, lr: float, batch: int, epochs: int, seed: int, quick: bool, resume=None) -> dict:
    training, validation, test = splits(quick)
    history = fastbp.fit(
        network(seed), fastbp.SoftmaxCrossEntropy(), OPTIMIZERS[optimizer](lr), training, validation, test=test,
        epochs=1 if quick else epochs, batch_size=batch, seed=seed, progress=False, resume=resume,
    )  # fmt: skip
    return curves(history)


def train_on_all(optimizer: str, lr: float, batch: int, epochs: int, seed: int, quick: bool, resume=None) -> dict:
    """No image is held out, so only the test set is left to choose the epoch on: `best_test` is what that gives."""
    training, validation, test = splits(quick)
    everything = Split(np.concatenate([training.x, validation.x]), np.concatenate([training.y, validation.y]))
    history = fastbp.fit(
        network(seed), fastbp.SoftmaxCrossEntropy(), OPTIMIZERS[optimizer](lr), everything, test=test,
        epochs=1 if quick else epochs, batch_size=batch, seed=seed, progress=False, resume=resume,
    )  # fmt: skip
    return curves(history) | {"best_test": max(history.test_accuracy)}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "CIFAR-10: batch size, learning rate, Adam and SGD", arguments)
    base = {"optimizer": "SGD", "lr": 0.003, "batch": 50, "epochs": 30}
    adam = {"optimizer": "Adam", "lr": 0.001, "batch": 50, "epochs": 14}
    slow = adam | {"lr": 0.0005}
    calls = [base | {"batch": batch} for batch in BATCHES] + [base | {"lr": lr} for lr in RATES]
    calls += [base | {"lr": 0.001, "epochs": 50}, adam, adam | {"batch": 4}]
    calls += [slow, slow | {"epochs": 30}, slow | {"epochs": 30, "batch": 100}]
    *settings, sgd_50, adam_14, tiny, slow_14, slow_30, slow_100 = experiment.sweep(train, calls)
    batches, rates = settings[: len(BATCHES)], settings[len(BATCHES) :]
    middle_all, slow_all = experiment.sweep(train_on_all, [base, slow | {"epochs": 30, "batch": 100}])

    for setting in batches:
        size = setting.settings["batch"]
        name, reported = f"SGD, batches of {size}, learning rate 0.003", 0.633 if size == 50 else None
        experiment.row(name, setting["test"], reported, epoch=_epochs(setting))
    for setting in rates:
        lr = setting.settings["lr"]
        name, reported = f"SGD, learning rate {lr:g}, batches of 50", 0.651 if lr == 0.003 else None
        experiment.row(name, setting["test"], reported, headline=lr == 0.003, epoch=_epochs(setting))
    experiment.row("SGD 0.001, 50 epochs", sgd_50["test"], 0.627, epoch=_epochs(sgd_50))
    experiment.row("Adam 0.001, 14 epochs", adam_14["test"], 0.632, headline=True, epoch=_epochs(adam_14))
    experiment.row("Adam 0.0005, 14 epochs", slow_14["test"], 0.647, epoch=_epochs(slow_14))
    experiment.row("Adam 0.0005, 30 epochs", slow_30["test"], 0.647, epoch=_epochs(slow_30))
    name = "Adam 0.0005, 30 epochs, batches of 100"
    experiment.row(name, slow_100["test"], 0.647, headline=True, epoch=_epochs(slow_100))
    name = "all 50,000 images, epoch chosen on the test set"
    experiment.row(f"SGD 0.003, batches of 50, {name}", middle_all["best_test"], 0.651)
    experiment.row(f"Adam 0.0005, batches of 100, {name}", slow_all["best_test"], 0.647)
    experiment.row("Adam 0.001, batches of 4", tiny["test"], epoch=_epochs(tiny))
    values = [s["validation"] for s in batches]
    swept = plotting.sweep([str(b) for b in BATCHES], values, "validation accuracy", "batch size")
    caption = f"SGD 0.003: batches of {best(batches).settings['batch']} are best on the validation set"
    experiment.figure("batches", swept, caption)
    values = [s["validation"] for s in rates]
    swept = plotting.sweep([f"{lr:g}" for lr in RATES], values, "validation accuracy", "learning rate")
    caption = f"SGD, batches of 50: {best(rates).settings['lr']:g} is the best learning rate on the validation set"
    experiment.figure("rates", swept, caption)
    lines = {"Adam 0.001": adam_14, "Adam 0.0005": slow_30, "SGD 0.001": sgd_50, "SGD 0.003": rates[RATES.index(0.003)]}
    lines = {name: setting.line("validation_accuracy") for name, setting in lines.items()}
    compared = plotting.compare(lines, "validation accuracy", percent=True)
    experiment.figure("adam", compared, "Adam and SGD, batches of 50: validation accuracy after each epoch")
    losses = {split: tiny.line(f"{split}_loss") for split in ("train", "validation")}
    lowest = int(np.argmin(np.mean(tiny["validation_loss"], axis=0))) + 1
    caption = "Adam, batches of 4: the training loss goes on falling"
    caption += f", the validation loss is lowest after epoch {lowest}"
    experiment.figure("tiny", plotting.compare(losses, "loss"), caption)
    training, validation, _ = splits(experiment.quick)
    experiment.note(f"""
        {len(training.y):,} images to train on, {len(validation.y):,} for validation; test accuracy at the epoch that is
        best on the validation set (column epoch, a seed each). Weights start as PyTorch's do, SGD has momentum 0.9. The
        reported figures' other settings are not known, of Adam at 0.0005 neither the batch size nor the epochs. What is
        reported for SGD at 0.003 and for Adam at 0.0005 comes about where all 50,000 images are trained on and the
        epoch is the one that is best on the test set, which then no longer tests anything; with images held out to
        choose the epoch on, both are lower.
    """)
    experiment.finish()


def _epochs(setting) -> str:
    return ", ".join(str(run.result["epoch"]) for run in setting.runs)


if __name__ == "__main__":
    main()
