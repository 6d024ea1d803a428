"""MNIST with one convolution: filter size and hidden units, then batch norm and dropout.

    python examples/mnist_cnn.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

Convolution (32 filters), ReLU, max pooling, linear, ReLU, linear: the filter's side and the number of hidden units are
chosen on the validation set. Then convolution, batch norm, ReLU, max pooling, dropout, linear, ReLU, linear with the
chosen sizes; the dropout rate is chosen on the validation set.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, best, curves, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

SIDES, WIDTHS = (3, 5, 7, 9), (50, 100, 200)
RATES = (0.0, 0.25, 0.5, 0.75)


@functools.cache
def splits(quick: bool) -> tuple[Split, Split, Split]:
    data = load("mnist", quick)
    return (*fastbp.datasets.split(data.train, (11 / 12, 1 / 12), seed=0), data.test)


def train(
    side: int, hidden: int, batch_norm: bool, dropout: float, epochs: int, seed: int, quick: bool, resume=None
) -> dict:
    network = fastbp.models.cnn(kernel_size=side, hidden=hidden, batch_norm=batch_norm, dropout=dropout, seed=seed)
    training, validation, test = splits(quick)
    epochs = 1 if quick else epochs
    history = fastbp.fit(
        network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.05, momentum=0.9), training, validation, test=test,
        epochs=epochs, batch_size=100, callbacks=[fastbp.CosineDecay(epochs)], seed=seed, progress=False, resume=resume,
    )  # fmt: skip
    filters = network.layers[0].weight.value.tolist()
    return curves(history) | {"predicted": fastbp.predict(network, test.x).tolist(), "filters": filters}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "MNIST: one convolution, batch norm and dropout", arguments)
    sizes = experiment.sweep(
        train,
        [{"side": k, "hidden": w, "batch_norm": False, "dropout": 0.0, "epochs": 3} for k in SIDES for w in WIDTHS],
        seeds=experiment.seeds[:1],
    )
    chosen = {name: best(sizes).settings[name] for name in ("side", "hidden")}
    (plain,) = experiment.sweep(train, [{**chosen, "batch_norm": False, "dropout": 0.0, "epochs": 10}])
    rates = experiment.sweep(train, [{**chosen, "batch_norm": True, "dropout": rate, "epochs": 10} for rate in RATES])
    normed = best(rates)
    rate = normed.settings["dropout"]

    k, w = chosen["side"], chosen["hidden"]
    experiment.row(f"{k}×{k} filters, {w} hidden units", plain["test"], 0.9839, headline=True)
    experiment.row(f"the same with batch norm and dropout {rate:g}", normed["test"], 0.9868, headline=True)
    accuracies = np.array([s.mean("validation") for s in sizes]).reshape(len(SIDES), len(WIDTHS))
    experiment.figure(
        "sizes",
        plotting.heatmap([f"{k}×{k}" for k in SIDES], [str(w) for w in WIDTHS], accuracies, "hidden units", "filter"),
        f"Validation accuracy after 3 epochs: {k}×{k} filters and {w} hidden units are best",
    )
    values = [s["validation"] for s in rates]
    swept = plotting.sweep([f"{r:g}" for r in RATES], values, "validation accuracy", "dropout rate")
    experiment.figure("dropout", swept, "With batch norm: validation accuracy against the dropout rate")
    training, validation, test = splits(experiment.quick)
    filters = plotting.filters(np.array(normed.runs[0].result["filters"]))
    experiment.figure("filters", filters, "The first layer's filters after the last epoch")
    predicted = np.array(normed.runs[0].result["predicted"])
    digits = [str(digit) for digit in range(10)]
    mistakes = plotting.confusion_matrix(predicted, test.y, digits)
    experiment.figure("confusion", mistakes, "Mistakes on the test set, after the last epoch")
    experiment.note(f"""
        {len(training.y):,} images to train on, {len(validation.y):,} for validation. SGD 0.05 with momentum 0.9 and
        cosine decay, batches of 100; sizes are chosen after 3 epochs with one seed, the rest is 10 epochs. Accuracy is
        the test set's at the epoch that is best on the validation set.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
