"""Learning curves of deep and shallow networks on MNIST: why the deep one fails, and what cures it.

    python examples/learning_curves.py [--quick] [--seed 0] [--jobs 2] [--out FOLDER]

Networks are trained on subsets of 250 to 10,000 images until the training loss moves by less than 0.005 from one epoch
to the next, at most 500 epochs. A deep sigmoid network that starts from small normal weights stands still at once, and
the rule takes that for the end of training. The gradients of its layers show why; ReLU with He's initialisation cures
it; Glorot's alone does so in some of the runs.
"""

import functools
from collections.abc import Sequence

import numpy as np
from experiment import Experiment, load

import fastbp
from fastbp import plotting
from fastbp.datasets import Split

SIZES, QUICK_SIZES = (250, 500, 1000, 2000, 4000, 8250, 10000), (250, 500)
SHALLOW, DEEP = (100,), (100, 100, 100, 100)
ACTIVATIONS = {"sigmoid": fastbp.Sigmoid, "ReLU": fastbp.ReLU}
NETWORKS = {
    "shallow, sigmoid": {"hidden": list(SHALLOW), "activation": "sigmoid", "init": "normal"},
    "deep, sigmoid": {"hidden": list(DEEP), "activation": "sigmoid", "init": "normal"},
    "deep, sigmoid, Glorot": {"hidden": list(DEEP), "activation": "sigmoid", "init": "glorot_normal"},
    "deep, ReLU, He": {"hidden": list(DEEP), "activation": "ReLU", "init": "he_normal"},
}
REPORTED = {"shallow, sigmoid": 0.83, "deep, sigmoid": 0.67}


@functools.cache
def splits(quick: bool) -> tuple[Split, Split]:
    data = load("mnist", quick)
    return data.train, data.test


def network(hidden: list[int], activation: str, init: str, seed: int) -> fastbp.Sequential:
    """`init` "normal" is a standard deviation of 0.01, whatever the width."""
    layers, sizes = [fastbp.Flatten()], [784, *hidden, 10]
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [fastbp.Linear(inputs, outputs, init=init), ACTIVATIONS[activation]()]
    return fastbp.Sequential(*layers[:-1], seed=seed)


def train(hidden: list[int], activation: str, init: str, size: int, seed: int, quick: bool) -> dict:
    (x, labels), test = splits(quick)
    chosen = np.random.default_rng(seed).permutation(len(x))[:size]
    net, loss = network(hidden, activation, init, seed), fastbp.SoftmaxCrossEntropy()
    training = Split(x[chosen], labels[chosen])
    history = fastbp.fit(
        net, loss, fastbp.SGD(lr=0.2), training, epochs=20 if quick else 500, batch_size=20,
        callbacks=[fastbp.EarlyStopping("train_loss", tolerance=0.005)], seed=seed, progress=False,
    )  # fmt: skip
    return {
        "train": fastbp.evaluate(net, loss, training).accuracy,
        "test": fastbp.evaluate(net, loss, test).accuracy,
        "epochs": len(history),
        "loss": history.train_loss[-1],
    }


def first_gradients(hidden: list[int], activation: str, init: str, seed: int, quick: bool) -> dict:
    """The root mean square of each linear layer's weight gradient before the first step."""
    (x, labels), _ = splits(quick)
    net, loss = network(hidden, activation, init, seed), fastbp.SoftmaxCrossEntropy()
    loss.forward(net.forward(x[:200], training=True), labels[:200])
    net.backward(loss.backward())
    return {"size": [float(np.sqrt(np.mean(p.grad**2))) for p in net.parameters if p.name == "weight"]}


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(__file__, "MNIST: learning curves of deep and shallow networks", arguments)
    sizes = QUICK_SIZES if experiment.quick else SIZES
    found = experiment.sweep(train, [{**kind, "size": size} for kind in NETWORKS.values() for size in sizes])
    found = {name: found[k * len(sizes) : (k + 1) * len(sizes)] for k, name in enumerate(NETWORKS)}
    gradients = experiment.sweep(first_gradients, list(NETWORKS.values()))

    shown = sizes.index(8250) if 8250 in sizes else -1
    for name, settings in found.items():
        setting = settings[shown]
        more = {"training_accuracy": f"{setting.mean('train'):.3f}", "epochs": f"{setting.mean('epochs'):.0f}"}
        experiment.row(f"{name}, {sizes[shown]:,} images", setting["test"], REPORTED.get(name), headline=True, **more)
    lines = {
        name: (sizes, np.array([s["train"] for s in settings]).T, np.array([s["test"] for s in settings]).T)
        for name, settings in found.items()
    }
    caption = "Accuracy against the number of training images"
    experiment.figure("learning_curves", plotting.learning_curves(lines), caption)
    layer_sizes = dict(zip(NETWORKS, (g["size"] for g in gradients), strict=True))
    layers = {name: (np.arange(1, size.shape[1] + 1), size) for name, size in layer_sizes.items()}
    experiment.figure(
        "gradients",
        plotting.compare(layers, "size of the weight gradient", "layer, from the input", log=True),
        "Before the first step: in the deep sigmoid network the first layer's gradient is nearly nothing",
    )
    deep, stopped = gradients[1]["size"].mean(axis=0), found["deep, sigmoid"][shown].mean("epochs")
    stuck = {}
    for name, settings in found.items():
        stuck[name] = int(sum((abs(s["loss"] - np.log(10)) < 0.05).sum() for s in settings))
    runs = len(sizes) * len(experiment.seeds)
    experiment.note(f"""
        Why the deep sigmoid network fails: the sigmoid's slope is 1/4 at most, and weights of size 0.01 pass on little
        of what comes back, so each layer's gradient is smaller than the next one's; in the first layer it is
        {deep[-1] / deep[0]:.0e} times smaller than in the last. The loss stands still at log 10 = 2.30, and the rule
        "stop when it moves by less than 0.005" takes that for the end, after {stopped:.0f} epochs at {sizes[shown]:,}
        images. Of {runs} runs each, so many ended within 0.05 of it:
        {", ".join(f"{count} ({name})" for name, count in stuck.items())}. Nothing is wrong with depth: with ReLU and
        He's weights gradients are of one size in all layers. Glorot's weights alone bring the sigmoid's gradients most
        of the way, and whether the plateau is left before the rule ends training is then a matter of how many steps an
        epoch has, and of the seed.
    """)
    experiment.note("""
        SGD 0.2 without momentum, batches of 20, hidden layers of 100; the deep networks have four, the shallow one has
        one. The reported networks' sizes are not known; the learning rate is one at which curves of all sizes show the
        point.
    """)
    experiment.finish()


if __name__ == "__main__":
    main()
