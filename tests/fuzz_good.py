"""Good arguments of every public callable, for the fuzzer: by the parameter's name in GOOD, where a callable needs
others in ARGUMENTS, and instances for methods, with their arguments, in INSTANCES. Every call makes them anew."""

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np

import fastbp
from fastbp import grading, graph


def floats(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def labels() -> np.ndarray:
    return np.array([0, 1, 2, 0])


def network() -> fastbp.Sequential:
    return fastbp.Sequential(fastbp.Linear(3, 4), fastbp.ReLU(), fastbp.Linear(4, 3))


def nothing(*arguments, **options) -> None:
    """A function that takes anything."""


def square(x):
    """A pair's forward: out, cache."""
    return x * x, x


def square_backward(dout, x):
    return 2 * x * dout


def give(a=0):
    return a


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def report() -> fastbp.GradientReport:
    return fastbp.check_gradients((square, square_backward), np.ones((2, 2)))


def history() -> fastbp.History:
    return fastbp.History([1.0, 0.5], [0.5, 0.75], [1.0, 0.6], [0.5, 0.5], [], [], [0.1, 0.1], [0.1, 0.1])


def figure():
    return history().plot()


def saved() -> str:
    network().save("network.npz")
    return "network.npz"


def idx() -> str:
    pathlib.Path("file.idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    return "file.idx"


def cifar_batch() -> str:
    pathlib.Path("batch.bin").write_bytes(bytes(2 * 3073))
    return "batch.bin"


def images() -> str:
    from PIL import Image

    os.makedirs("images/a", exist_ok=True)
    Image.new("L", (4, 4)).save("images/a/0.png")
    return "images"


def assignment() -> grading.Assignment:
    return grading.load_assignment("cs231n-a2")


GOOD: dict[str, Callable[[], object]] = {
    "N": lambda: 4,
    "a": lambda: floats(3, 3),
    "axis": lambda: 0,
    "b": lambda: floats(3, 3),
    "batch": lambda: (floats(4, 3), labels()),
    "batch_size": lambda: 2,
    "branches": lambda: [fastbp.Linear(3, 3), fastbp.Linear(3, 2)],
    "callbacks": lambda: [nothing],
    "children": lambda: [fastbp.Linear(3, 3)],
    "classes": lambda: ["a", "b", "c"],
    "count": lambda: 2,
    "data": lambda: (floats(4, 3), labels()),
    "data_dir": lambda: "data",
    "draw": lambda: lambda rng: rng.normal(size=(2, 3)),
    "dropout": lambda: 0.5,
    "dtype": lambda: np.float32,
    "epoch": lambda: 1.5,
    "epochs": lambda: 1,
    "figure": figure,
    "folder": lambda: "folder",
    "function": lambda: give,
    "history": history,
    "in_features": lambda: 3,
    "init": lambda: "he_normal",
    "input_shape": lambda: (3,),
    "inputs": lambda: [np.ones((2, 2))],
    "jobs": lambda: 1,
    "labels": labels,
    "layer": lambda: fastbp.Linear(3, 3),
    "layers": lambda: [fastbp.Linear(3, 3), fastbp.ReLU()],
    "loss": fastbp.SoftmaxCrossEntropy,
    "lr": lambda: 0.1,
    "name": lambda: "name",
    "network": network,
    "node": lambda: graph.TensorNode(floats(3, 3)).sum(),
    "num_features": lambda: 3,
    "optimizer": lambda: fastbp.SGD(0.1, momentum=0.9),
    "options": dict,
    "out_features": lambda: 3,
    "parameter": lambda: fastbp.Linear(3, 3).weight,
    "path": lambda: "file.npz",
    "paths": lambda: ["submission.py"],
    "predicted": labels,
    "progress": lambda: False,
    "report": report,
    "rng": rng,
    "scores": lambda: floats(4, 3),
    "seed": lambda: 0,
    "shape": lambda: (2, 3),
    "smallest": lambda: False,
    "targets": labels,
    "thing": lambda: (square, square_backward),
    "threads": lambda: 2,
    "train": lambda: (floats(4, 3), labels()),
    "training": lambda: True,
    "validation": lambda: (floats(4, 3), labels()),
    "x": lambda: floats(4, 3),
}

IMAGES = lambda: floats(2, 3, 6, 6)  # noqa: E731
FANS = {"fan_in": lambda: 3, "fan_out": lambda: 2}

ARGUMENTS: dict[str, dict[str, Callable[[], object]]] = {
    "callbacks.Checkpoint": {"monitor": lambda: "train_loss"},
    "callbacks.EarlyStopping": {"patience": lambda: 2, "tolerance": lambda: 0.1},
    "callbacks.RunningLoss": {"every": lambda: 2},
    "flops.Cost": {name: lambda: 1 for name in ("forward", "dx", "dw", "db", "multiply_adds")},
    "costs.CostSheet": {"batch": lambda: 2},
    "costs.cost_of": {"input_shape": lambda: (3,)},
    "datasets.AlternatingFlip.__call__": {"x": IMAGES, "indices": lambda: np.arange(2), "epoch": lambda: 1},
    "datasets.RandomCrop.__call__": {"x": IMAGES},
    "initializers.Whitening": {"images": IMAGES, "kernel_size": lambda: 2},
    "profiling.profile": {"input_shape": lambda: (3,), "batch": lambda: 2, "seconds": lambda: 0.001},
    "layers.Scale": {"factor": lambda: 0.5},
    "averages.EMA": {"every": lambda: 2},
    "averages.Lookahead": {"every": lambda: 2},
    "datasets.RandomFlip.__call__": {"x": IMAGES},
    "datasets.batches": {"y": labels, "x": lambda: floats(4, 3)},
    "datasets.read_cifar_batch": {"path": cifar_batch},
    "datasets.read_idx": {"path": idx},
    "datasets.normalize": {
        "train": lambda: fastbp.datasets.Split(IMAGES(), np.arange(2)),
        "others": lambda: [fastbp.datasets.Split(IMAGES(), np.arange(2))],
        "per": lambda: "pixel",
    },
    "datasets.read_image_folder": {"path": images},
    "datasets.split": {"data": lambda: (floats(20, 3), np.arange(20) % 2), "fractions": lambda: [0.5]},
    "graph.Op.do_forward": {"inputs": lambda: [floats(3), floats(3)]},
    "graph.TensorNode": {"value": lambda: floats(3)},
    "graph.concatenate": {"tensors": lambda: [floats(3), graph.TensorNode(floats(2))]},
    "graph.expand": {"x": lambda: floats(3), "shape": lambda: (2, 3)},
    "graph.reshape": {"shape": lambda: (3, 4)},
    "graph.select": {"index": lambda: (0, slice(None))},
    "graph.transpose": {"axes": lambda: (1, 0)},
    "grading.Assignment": {"items": lambda: list(assignment().items), "title": lambda: "title"},
    "grading.Case": {"draw": lambda: nothing},
    "grading.Convention": {"reference": lambda: nothing, "convert": lambda: nothing},
    "grading.Item": {
        "forward": lambda: "f(x) -> out, cache",
        "backward": lambda: "g(dout, cache) -> dx",
        "gradients": lambda: ("x",),
        "conventions": lambda: [grading.Convention("usual", nothing)],
        "cases": lambda: [grading.Case("usual", nothing, gradients=True)],
    },
    "grading.Result.from_dict": {"entry": lambda: grading.Result("a.py", "cs231n-a2", 0, 1.0).to_dict()},
    "grading.grade": {"path": lambda: "submission.py", "assignment": assignment},
    "grading.grade_all": {"assignment": lambda: "cs231n-a2", "folder": lambda: pathlib.Path("results")},
    "grading.gradescope": {"result": lambda: grading.Result("a.py", "cs231n-a2", 0, 1.0)},
    "grading.load_assignment": {"name": lambda: "cs231n-a2"},
    "files.new_folder": {"stem": lambda: "run"},
    "layers.AvgPool2d": {"kernel_size": lambda: 2},
    "layers.Conv2d": {"in_channels": lambda: 3, "out_channels": lambda: 4, "kernel_size": lambda: 3},
    "layers.Dropout": {"rate": lambda: 0.5},
    "layers.MaxPool2d": {"kernel_size": lambda: 2},
    "losses.HingeLoss": {"margin": lambda: 1.0},
    "models.cnn": {"input_shape": lambda: (1, 8, 8), "classes": lambda: 3},
    "models.lenet5": {"input_shape": lambda: (1, 28, 28), "classes": lambda: 3},
    "models.mlp": {"sizes": lambda: [3, 4, 3]},
    "models.softmax_classifier": {"classes": lambda: 3},
    "plotting.compare": {
        "lines": lambda: {"a": ([1, 2], [0.5, 0.25])},
        "ylabel": lambda: "loss",
        "reported": lambda: {"a": 0.1},
    },
    "plotting.filters": {"weight": lambda: floats(4, 3, 5, 5)},
    "plotting.heatmap": {
        "rows": lambda: [1, 2],
        "columns": lambda: ["a", "b"],
        "values": lambda: np.ones((2, 2)),
        "xlabel": lambda: "x",
        "ylabel": lambda: "y",
    },
    "plotting.learning_curves": {"networks": lambda: {"a": ([1, 2], [0.5, 0.75], [[0.25, 0.5], [0.3, 0.6]])}},
    "plotting.predictions": {"images": lambda: floats(4, 1, 8, 8) / 2 + 0.5, "figure": lambda: None},
    "plotting.curves": {"figure": lambda: None},
    "plotting.sweep": {"settings": lambda: ["a", "b"], "values": lambda: [[0.5, 0.6], [0.7]], "xlabel": lambda: "x"},
    "plotting.training_sheet": {"images": lambda: floats(4, 1, 8, 8) / 2 + 0.5, "title": lambda: "title"},
    "plotting.save": {"path": lambda: "figure.png"},
    "schedules.StepDecay": {"every": lambda: 2.0},
    "sweeps.grid": {"values": lambda: {"a": [1, 2], "b": [3]}},
    "sweeps.sweep": {"settings": lambda: [{"a": 1}], "folder": lambda: None},
    "testing.assert_gradients": {"options": lambda: {"smallest": False}},
    "gradcheck.check_gradients": {"loss": lambda: None},
    "network.Sequential": {"winograd": lambda: 4},
    "network.Sequential.load": {"path": saved},
    "training.evaluate": {"augment": lambda: [give]},
    "training.outputs": {"augment": lambda: [give]},
    "training.predict": {"augment": lambda: [give]},
    "training.predict_proba": {"augment": lambda: [give]},
    "training.fit": {"resume": lambda: "resume.npz", "augment": lambda: None},
}


def ran(layer: fastbp.Layer, x: np.ndarray) -> tuple[fastbp.Layer, dict]:
    """A layer that has made a forward pass, and arguments for its methods."""
    y = layer.forward(x, training=True)
    like = {"dout": np.ones_like(y), "input_shape": x.shape[1:], "x": x, "state": None}
    return layer, {
        name: functools.partial(lambda value: value, value) for name, value in like.items() if value is not None
    }


def loss_ran(loss: fastbp.Loss, scores: np.ndarray, targets: np.ndarray) -> tuple[fastbp.Loss, dict]:
    loss.forward(scores, targets)
    out = np.empty_like(scores)
    return loss, {"scores": lambda: scores, "targets": lambda: targets, "out": lambda: out}


def optimizer_ran(kind: type[fastbp.Optimizer], **settings) -> tuple[fastbp.Optimizer, dict]:
    optimizer = kind(0.1, **settings)
    if kind is not fastbp.Optimizer:
        optimizer.step(floats(5), floats(5))
    return optimizer, {"values": lambda: floats(5), "grads": lambda: floats(5)}


def binary(loss: fastbp.Loss) -> tuple[fastbp.Loss, dict]:
    return loss_ran(loss, floats(4), np.array([0, 1, 1, 0]))


def one_class_of(loss: fastbp.Loss) -> tuple[fastbp.Loss, dict]:
    return loss_ran(loss, floats(4, 3), labels())


class Double(graph.GraphLayer):
    """A layer written with nodes."""

    def compute(self, x):
        return x + x


def network_ran() -> tuple[fastbp.Sequential, dict]:
    net, x = network(), floats(4, 3)
    y = net.forward(x, training=True)
    return net, {"dout": lambda: np.ones_like(y), "x": lambda: x, "state": net.state_dict, "batch": lambda: 2}


def node() -> tuple[graph.TensorNode, dict]:
    other = {name: lambda: floats(3, 3) for name in ("other", "value", "dout")}
    return graph.TensorNode(floats(3, 3)), {**other, "shape": lambda: [9], "index": lambda: 0}


INSTANCES: dict[str, Callable[[], tuple[object, dict]]] = {
    "layers.AvgPool2d": lambda: ran(fastbp.AvgPool2d(2), IMAGES()),
    "layers.Concat": lambda: ran(fastbp.Concat(fastbp.Linear(3, 3), fastbp.ReLU()), floats(4, 3)),
    "layers.Container": lambda: (fastbp.Container(fastbp.Linear(3, 3)), {"dout": GOOD["x"]}),
    "layers.Residual": lambda: ran(fastbp.Residual(fastbp.Linear(3, 3), fastbp.ReLU()), floats(4, 3)),
    "layers.BatchNorm1d": lambda: ran(fastbp.BatchNorm1d(3), floats(4, 3)),
    "layers.BatchNorm2d": lambda: ran(fastbp.BatchNorm2d(3), IMAGES()),
    "layers.Conv2d": lambda: ran(fastbp.Conv2d(3, 4, 3), IMAGES()),
    "layers.Dropout": lambda: ran(fastbp.Dropout(0.5), floats(4, 3)),
    "layers.Flatten": lambda: ran(fastbp.Flatten(), IMAGES()),
    "layers.GELU": lambda: ran(fastbp.GELU(), floats(4, 3)),
    "layers.Identity": lambda: ran(fastbp.Identity(), floats(4, 3)),
    "layers.Layer": lambda: (fastbp.Layer(), {"dout": GOOD["x"]}),
    "layers.LeakyReLU": lambda: ran(fastbp.LeakyReLU(), floats(4, 3)),
    "layers.Linear": lambda: ran(fastbp.Linear(3, 3), floats(4, 3)),
    "layers.LogSoftmax": lambda: ran(fastbp.LogSoftmax(), floats(4, 3)),
    "layers.MaxPool2d": lambda: ran(fastbp.MaxPool2d(2), IMAGES()),
    "layers.Parameter": lambda: (
        fastbp.Linear(3, 3).weight,
        {"value": lambda: floats(3, 3), "grad": lambda: floats(3, 3)},
    ),
    "layers.ReLU": lambda: ran(fastbp.ReLU(), floats(4, 3)),
    "layers.Sigmoid": lambda: ran(fastbp.Sigmoid(), floats(4, 3)),
    "layers.SiLU": lambda: ran(fastbp.SiLU(), floats(4, 3)),
    "layers.Scale": lambda: ran(fastbp.Scale(0.5, learned=True), floats(4, 3)),
    "layers.Softmax": lambda: ran(fastbp.Softmax(), floats(4, 3)),
    "layers.Tanh": lambda: ran(fastbp.Tanh(), floats(4, 3)),
    "losses.HingeLoss": lambda: binary(fastbp.HingeLoss()),
    "losses.LogisticLoss": lambda: binary(fastbp.LogisticLoss()),
    "losses.Loss": lambda: (fastbp.Loss(), {"out": GOOD["scores"]}),
    "losses.MeanSquaredError": lambda: loss_ran(fastbp.MeanSquaredError(), floats(4, 3), floats(4, 3)),
    "losses.MulticlassHinge": lambda: one_class_of(fastbp.MulticlassHinge()),
    "losses.NLLLoss": lambda: one_class_of(fastbp.NLLLoss()),
    "losses.SoftmaxCrossEntropy": lambda: one_class_of(fastbp.SoftmaxCrossEntropy(0.1)),
    "optimizers.Adagrad": lambda: optimizer_ran(fastbp.Adagrad),
    "optimizers.Adam": lambda: optimizer_ran(fastbp.Adam),
    "optimizers.AdamW": lambda: optimizer_ran(fastbp.AdamW),
    "optimizers.Optimizer": lambda: optimizer_ran(fastbp.Optimizer),
    "optimizers.RMSProp": lambda: optimizer_ran(fastbp.RMSProp),
    "optimizers.SGD": lambda: optimizer_ran(fastbp.SGD, momentum=0.9),
    "initializers.Constant": lambda: (fastbp.initializers.Constant(), FANS),
    "initializers.GlorotNormal": lambda: (fastbp.initializers.GlorotNormal(), FANS),
    "initializers.GlorotUniform": lambda: (fastbp.initializers.GlorotUniform(), FANS),
    "initializers.HeNormal": lambda: (fastbp.initializers.HeNormal(), FANS),
    "initializers.HeUniform": lambda: (fastbp.initializers.HeUniform(), FANS),
    "initializers.Initializer": lambda: (fastbp.initializers.Initializer(), FANS),
    "initializers.Normal": lambda: (fastbp.initializers.Normal(), FANS),
    "initializers.Whitening": lambda: (
        fastbp.initializers.Whitening(IMAGES(), 2),
        FANS | {"shape": lambda: (4, 3, 2, 2)},
    ),
    "initializers.PyTorchDefault": lambda: (fastbp.initializers.PyTorchDefault(), FANS),
    "callbacks.Callback": lambda: (fastbp.Callback(), {}),
    "averages.Average": lambda: (fastbp.training.averages.Average(), {}),
    "averages.EMA": lambda: (fastbp.EMA(), {}),
    "averages.Lookahead": lambda: (fastbp.Lookahead(), {}),
    "callbacks.Checkpoint": lambda: (fastbp.Checkpoint("file.npz"), {}),
    "callbacks.EarlyStopping": lambda: (fastbp.EarlyStopping(patience=1), {}),
    "callbacks.RunningLoss": lambda: (fastbp.RunningLoss(), {}),
    "schedules.CosineDecay": lambda: (fastbp.CosineDecay(3), {}),
    "schedules.OneCycle": lambda: (fastbp.OneCycle(3), {}),
    "schedules.Schedule": lambda: (fastbp.Schedule(), {}),
    "schedules.StepDecay": lambda: (fastbp.StepDecay(3), {}),
    "schedules.Triangle": lambda: (fastbp.Triangle(3), {}),
    "schedules.WarmUp": lambda: (fastbp.WarmUp(3), {}),
    "training.Trainer": lambda: (fastbp.Trainer(network(), fastbp.SoftmaxCrossEntropy(), fastbp.SGD(0.1)), {}),
    "training.History": lambda: (history(), {"path": lambda: "history.json"}),
    "network.Sequential": network_ran,
    "graph.GraphLayer": lambda: ran(Double(), floats(4, 3)),
    "graph.Op": lambda: (graph.ops.Add, {}),
    "graph.TensorNode": node,
    "datasets.AlternatingFlip": lambda: (fastbp.datasets.AlternatingFlip(), {}),
    "datasets.RandomCrop": lambda: (fastbp.datasets.RandomCrop(1), {}),
    "datasets.RandomFlip": lambda: (fastbp.datasets.RandomFlip(), {}),
    "flops.Cost": lambda: (fastbp.costs.Cost(1, 1), {"other": lambda: fastbp.costs.Cost(2, 3)}),
    "costs.CostSheet": lambda: (network().costs((3,)), {}),
    "grading.Result": lambda: (grading.Result("a.py", "cs231n-a2", 0, 1.0), {}),
}
