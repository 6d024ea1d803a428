"""CIFAR-10 with a residual network of eight blocks, and the same layers without the shortcuts.

    python examples/cifar10_resnet.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

A 3×3 convolution of 16 filters, then two blocks each of 16, 32, 64 and 128 filters, the average of each map, linear 10.
A block is convolution, batch norm, ReLU, convolution, batch norm (3×3, padding 1), to which its input is added before
the last ReLU. Where a block has more filters than the one before, its first convolution has stride 2, and the input
comes to the sum through a 1×1 convolution of stride 2.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import RandomCrop, RandomFlip, Split

WIDTHS = (16, 32, 64, 128)
BLOCKS = 2  # of each width
EPOCHS = 6


@functools.cache
def splits(quick: bool) -> tuple[Split, Split]:
    data = load("cifar10", quick)
    return fastbp.datasets.normalize(data.train, data.test)


def block(channels: int, filters: int, shortcut: bool) -> fastbp.Layer:
    """From (channels, H, W) to (filters, H, W), or half of H and W where there are more filters than channels."""
    stride = 1 if channels == filters else 2
    body = [
        fastbp.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False), fastbp.BatchNorm2d(filters),
        fastbp.ReLU(), fastbp.Conv2d(filters, filters, 3, padding=1, bias=False), fastbp.BatchNorm2d(filters),
    ]  # fmt: skip
    if not shortcut:
        return fastbp.Sequential(*body)
    beside = None if stride == 1 else fastbp.Conv2d(channels, filters, 1, stride=stride, bias=False)
    return fastbp.Residual(*body, shortcut=beside)


def network(shortcuts: bool, seed: int) -> fastbp.Sequential:
    channels = WIDTHS[0]
    layers = [fastbp.Conv2d(3, channels, 3, padding=1, bias=False), fastbp.BatchNorm2d(channels), fastbp.ReLU()]
    for filters in WIDTHS:
        for _ in range(BLOCKS):
            layers += [block(channels, filters, shortcuts), fastbp.ReLU()]
            channels = filters
    layers += [fastbp.AvgPool2d(4), fastbp.Flatten(), fastbp.Linear(channels, 10)]
    return fastbp.Sequential(*layers, seed=seed, winograd=4)


def train(shortcuts: bool, seed: int, quick: bool, resume=None) -> dict:
    training, test = splits(quick)
    net, epochs = network(shortcuts, seed), 1 if quick else EPOCHS
    history = fastbp.fit(
        net, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4), training,
        test=test, epochs=epochs, batch_size=128, callbacks=[fastbp.OneCycle(epochs)],
        augment=[RandomFlip(), RandomCrop(4)], seed=seed, progress=False, resume=resume,
    )  # fmt: skip
    predicted = fastbp.predict(net, test.x).tolist()
    return curves(history) | {"parameters": net.parameter_vector.size, "predicted": predicted}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "CIFAR-10: eight residual blocks", arguments)
    # one run at a time, so that each has all threads
    found = {
        name: experiment.sweep(train, [{"shortcuts": shortcuts}], experiment.seeds[:1])[0]
        for name, shortcuts in (("without shortcuts", False), ("with shortcuts", True))
    }
    for name, setting in found.items():
        minutes = f"{np.mean([run.seconds for run in setting.runs]) / 60:.0f}"
        more = {"parameters": setting.parameters, "minutes_a_run": minutes}
        experiment.row(name, setting["test"], headline=name == "with shortcuts", **more)
    lines = {name: setting.line("train_loss") for name, setting in found.items()}
    experiment.figure("loss", plotting.compare(lines, "training loss"), "Training loss, mean over each epoch")
    lines = {name: setting.line("test_accuracy") for name, setting in found.items()}
    accuracy = plotting.compare(lines, "test accuracy", percent=True)
    experiment.figure("accuracy", accuracy, "Test accuracy after each epoch")
    test, classes = splits(experiment.quick)[1], load("cifar10", experiment.quick).classes
    predicted = np.array(found["with shortcuts"].runs[0].result["predicted"])
    matrix = plotting.confusion_matrix(predicted, test.y, classes)
    experiment.figure("confusion", matrix, "The residual network's mistakes")
    experiment.note(f"""
        Test accuracy after the last epoch; nothing is chosen by it. Both networks have the same layers but for the
        shortcuts, and the 1×1 convolutions in three of them. Batches of 128, SGD 0.1 with Nesterov's momentum and
        weight decay 0.0005, the learning rate rising and falling once, flips and crops of 4 pixels, {EPOCHS} epochs,
        one seed.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
