"""One training step, or one prediction, in each library.

A step is forward, the loss, backward and the update: softmax cross-entropy and SGD with momentum 0.9, or what the
workload says. A prediction is the class of each sample of a batch in evaluation mode (a workload of numbers: its
outputs), from NumPy's array or the library's own. `build(name, workload, batch)` gives one side; all sides start from
the same parameters and batch. Libraries are imported when their side is built, and no other.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from workloads import NORMS, Workload, pool_window

LR, MOMENTUM = 0.01, 0.9
ADAM = 0.001, 0.9, 0.999, 1e-8  # rate, β₁, β₂, eps
# side: what it imports
LIBRARIES = {"fastbp": "fastbp", "torch": "torch", "torch-compile": "torch", "jax": "jax", "onnx": "onnxruntime"}


@dataclass
class Side:
    """`step()` trains on the batch once, or predicts it, and has finished when it returns.

    `results()` are what the sides are compared by: in training, called after the first step, that step's gradients in
    the order of Workload.parameters; of a prediction the network's outputs."""

    step: Callable[[], object]
    results: Callable[[], list[np.ndarray]]


def installed(name: str) -> bool:
    needed = (LIBRARIES[name], *["onnx"] * (name == "onnx"))
    return all(importlib.util.find_spec(library) is not None for library in needed)


def build(name: str, workload: Workload, batch: int, threads: int = 1, predict: bool = False, **options) -> Side:
    """A side's training step, or with `predict` its prediction. ONNX Runtime only predicts."""
    makers = {"fastbp": fastbp_side, "torch": torch_side, "jax": jax_side, "onnx": onnx_side}
    makers["torch-compile"] = functools.partial(torch_side, compiled=True)
    return makers[name](workload, batch, threads, predict=predict, **options)


def decided(workload: Workload, outputs):
    """Of scores the class, of a workload of numbers the outputs themselves."""
    return outputs if workload.loss == "squared-error" else outputs.argmax(1)


# -- fastbp ------------------------------------------------------------------------------------------------------------


def fastbp_threads(threads: int) -> int:
    """Give fastbp that many threads; returns how many it uses."""
    import fastbp

    if hasattr(fastbp, "set_num_threads"):
        fastbp.set_num_threads(threads)
        return threads
    return 1


def takes_winograd() -> bool:
    import fastbp

    return "winograd" in inspect.signature(fastbp.Sequential).parameters


def fastbp_layers(workload: Workload) -> list:
    import fastbp

    return [getattr(fastbp, kind)(*numbers) for kind, *numbers in workload.layers]


def flops(workload: Workload, batch: int, predict: bool = False) -> int:
    """Useful FLOPs of a training step, or of a prediction: two for each multiply–add of Linear and Conv2d in fastbp's
    cost sheet."""
    from fastbp.costs import CostSheet

    sheet = CostSheet(fastbp_layers(workload), workload.input_shape, batch)
    return 2 * (sheet.multiply_adds + (0 if predict else sheet.backward_multiply_adds))


def fastbp_network(workload: Workload, **options):
    import fastbp

    network = fastbp.Sequential(*fastbp_layers(workload), **options)
    for parameter, value in zip(network.parameters, workload.parameters(), strict=True):
        parameter.value = value
    return network


def fastbp_side(workload: Workload, batch: int, threads: int = 1, predict: bool = False, **options) -> Side:
    import fastbp

    fastbp_threads(threads)
    x, targets = workload.batch(batch)
    losses = {"cross-entropy": fastbp.SoftmaxCrossEntropy, "squared-error": fastbp.MeanSquaredError}
    optimizers = {"SGD": lambda: fastbp.SGD(lr=LR, momentum=MOMENTUM), "Adam": lambda: fastbp.Adam(*ADAM)}
    if predict:
        network, loss = fastbp_network(workload, **options), losses[workload.loss]()
        network.task = loss.task
        return Side(lambda: fastbp.predict(network, x), lambda: [fastbp.outputs(network, x)])

    def start():
        network = fastbp_network(workload, **options)
        return network, fastbp.Trainer(network, losses[workload.loss](), optimizers[workload.optimizer]())

    def gradients():  # computed again from the same start: a step keeps them only for those who have asked
        network, trainer = start()
        trainer.step(x, targets)
        return [parameter.grad.copy() for parameter in network.parameters]

    _, trainer = start()
    return Side(lambda: trainer.step(x, targets), gradients)


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def torch_module(workload: Workload):
    import torch

    module = torch.nn.Sequential(*(getattr(torch.nn, kind)(*numbers) for kind, *numbers in workload.layers)).train()
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), workload.parameters(), strict=True):
            tensor.copy_(torch.from_numpy(value))
    return module


def torch_side(workload: Workload, batch: int, threads: int = 1, predict: bool = False, compiled: bool = False) -> Side:
    import torch

    torch.set_num_threads(threads)
    module = torch_module(workload)
    network = torch.compile(module) if compiled else module
    x, targets = (torch.from_numpy(array) for array in workload.batch(batch))
    if predict:
        module.eval()

        def outputs():
            with torch.inference_mode():
                return network(x)

        return Side(lambda: decided(workload, outputs()), lambda: [outputs().numpy()])

    loss = torch.nn.MSELoss() if workload.loss == "squared-error" else torch.nn.CrossEntropyLoss()
    lr, *betas, eps = ADAM
    if workload.optimizer == "Adam":
        optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=tuple(betas), eps=eps)
    else:
        optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        value = loss(network(x), targets)
        value.backward()
        optimizer.step()
        return value

    return Side(step, lambda: [tensor.grad.numpy().copy() for tensor in module.parameters()])


# -- ONNX Runtime ------------------------------------------------------------------------------------------------------


def onnx_model(workload: Workload, batch: int):
    """The network in evaluation mode as an ONNX model, for batches of this size."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, left, name = [], [], iter(workload.parameters()), "x"

    def given(*arrays: np.ndarray) -> list[str]:
        names = [f"w{len(weights) + i}" for i in range(len(arrays))]
        weights.extend(numpy_helper.from_array(array, each) for array, each in zip(arrays, names, strict=True))
        return names

    for index, (kind, *numbers) in enumerate(workload.layers):
        inputs, attributes = [name], {}
        if kind == "Conv2d":
            kernel, stride, padding = numbers[2:]
            attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
            inputs += given(next(left), next(left))
        elif kind == "Linear":
            attributes = {"transB": 1}
            inputs += given(next(left), next(left))
        elif kind in NORMS:
            channels = numbers[0]
            inputs += given(next(left), next(left), np.zeros(channels, "f4"), np.ones(channels, "f4"))
            attributes = {"epsilon": 1e-5}
        elif kind in ("MaxPool2d", "AvgPool2d"):
            kernel, stride, padding = pool_window(*numbers)
            attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
            attributes |= {"count_include_pad": 1} if kind == "AvgPool2d" else {}
        elif kind == "LeakyReLU":
            attributes = {"alpha": numbers[0]}
        elif kind == "Dropout":
            continue
        name = f"y{index}"
        nodes.append(helper.make_node(ONNX_NAMES.get(kind, kind), inputs, [name], **attributes))
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, (batch, *shape))
        for end, shape in (("x", workload.input_shape), (name, workload.shapes()[-1]))
    ]
    graph = helper.make_graph(nodes, workload.name, ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


ONNX_NAMES = {
    "Conv2d": "Conv",
    "Linear": "Gemm",
    "BatchNorm1d": "BatchNormalization",
    "BatchNorm2d": "BatchNormalization",
    "MaxPool2d": "MaxPool",
    "AvgPool2d": "AveragePool",
    "ReLU": "Relu",
    "LeakyReLU": "LeakyRelu",
}


def onnx_side(workload: Workload, batch: int, threads: int = 1, predict: bool = True) -> Side:
    import onnxruntime

    if not predict:
        raise ValueError("onnx: ONNX Runtime only predicts")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    model = onnx_model(workload, batch).SerializeToString()
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    x, _ = workload.batch(batch)

    def outputs():
        return session.run(None, {"x": x})[0]

    return Side(lambda: decided(workload, outputs()), lambda: [outputs()])


# -- JAX ---------------------------------------------------------------------------------------------------------------


def jax_scores(workload: Workload, parameters: list, statistics: list, x, key=None):
    """(scores, new running statistics), NCHW as in the other libraries; in training mode if there is a key"""
    import jax
    from jax import lax
    from jax import numpy as jnp

    left, running, updated = iter(parameters), iter(statistics), []

    def pooled(x, kernel, stride, padding, first, reduce):
        window, strides = (1, 1, kernel, kernel), (1, 1, stride, stride)
        return lax.reduce_window(x, first, reduce, window, strides, [(0, 0)] * 2 + [(padding, padding)] * 2)

    for kind, *numbers in workload.layers:
        if kind == "Conv2d":
            stride, padding = numbers[3:]
            strides, order = (stride, stride), ("NCHW", "OIHW", "NCHW")
            y = lax.conv_general_dilated(x, next(left), strides, [(padding, padding)] * 2, dimension_numbers=order)
            x = y + next(left)[:, None, None]
        elif kind == "Linear":
            x = x @ next(left).T + next(left)
        elif kind == "ReLU":
            x = jax.nn.relu(x)
        elif kind == "LeakyReLU":
            x = jax.nn.leaky_relu(x, numbers[0])
        elif kind == "Tanh":
            x = jnp.tanh(x)
        elif kind == "MaxPool2d":
            x = pooled(x, *pool_window(*numbers), -jnp.inf, lax.max)
        elif kind == "AvgPool2d":
            kernel, stride, padding = pool_window(*numbers)
            x = pooled(x, kernel, stride, padding, 0.0, lax.add) / kernel**2
        elif kind == "Flatten":
            x = x.reshape(len(x), -1)
        elif kind in NORMS:
            gamma, beta, (old_mean, old_var) = next(left), next(left), next(running)
            axes, shape = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
            mean, var, count = (
                (old_mean, old_var, 0) if key is None else (x.mean(axes), x.var(axes), x.size // x.shape[1])
            )
            if key is not None:
                updated.append((0.9 * old_mean + 0.1 * mean, 0.9 * old_var + 0.1 * var * count / (count - 1)))
            scale = gamma * lax.rsqrt(var + 1e-5)
            x = (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)
        elif kind == "Dropout" and key is not None:
            key, own = jax.random.split(key)
            x = jnp.where(jax.random.bernoulli(own, 1 - numbers[0], x.shape), x / (1 - numbers[0]), 0)
    return x, updated


def jax_update(workload: Workload, parameters: list, gradients: list, state: tuple):
    """(new parameters, new state) after SGD's or Adam's update; state = (velocities, squares, steps)"""
    from jax import numpy as jnp

    first, second, steps = state
    both = list(zip(first, gradients, strict=True))
    if workload.optimizer == "SGD":
        first = [MOMENTUM * v + g for v, g in both]
        return [p - LR * v for p, v in zip(parameters, first, strict=True)], (first, second, steps)
    lr, beta1, beta2, eps = ADAM
    steps = steps + 1
    first = [beta1 * m + (1 - beta1) * g for m, g in both]
    second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, gradients, strict=True)]
    part, root = lr / (1 - beta1**steps), 1 - beta2**steps
    changed = [p - part * m / (jnp.sqrt(v / root) + eps) for p, m, v in zip(parameters, first, second, strict=True)]
    return changed, (first, second, steps)


def jax_side(workload: Workload, batch: int, threads: int = 1, predict: bool = False) -> Side:
    """XLA takes its number of threads from the cores that the process may use: measuring.child sees to that."""
    import jax
    from jax import numpy as jnp

    x, targets = (jax.device_put(array) for array in workload.batch(batch))

    def start():  # new arrays each time: a step takes over the ones it is given
        parameters = [jnp.array(value) for value in workload.parameters()]
        norms = [layer[1] for layer in workload.layers if layer[0] in NORMS]
        return parameters, [(jnp.zeros(channels), jnp.ones(channels)) for channels in norms]

    if predict:
        outputs = jax.jit(lambda parameters, statistics, x: jax_scores(workload, parameters, statistics, x)[0])
        decide, own = jax.jit(lambda *given: decided(workload, outputs(*given))), start()
        return Side(lambda: jax.block_until_ready(decide(*own, x)), lambda: [np.asarray(outputs(*own, x))])

    def loss(parameters, statistics, x, targets, key):
        scores, statistics = jax_scores(workload, parameters, statistics, x, key)
        if workload.loss == "squared-error":
            return ((scores - targets) ** 2).mean(), statistics
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), targets[:, None], axis=1)
        return -chosen.mean(), statistics

    gradient = jax.value_and_grad(loss, has_aux=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, x, targets):
        parameters, optimizer, statistics, key = state
        key, own = jax.random.split(key)
        (value, statistics), gradients = gradient(parameters, statistics, x, targets, own)
        parameters, optimizer = jax_update(workload, parameters, gradients, optimizer)
        return (parameters, optimizer, statistics, key), value

    parameters, statistics = start()
    zeros = [[jnp.zeros_like(value) for value in parameters] for _ in range(2 if workload.optimizer == "Adam" else 1)]
    optimizer = zeros[0], zeros[-1] if workload.optimizer == "Adam" else [], jnp.zeros(())
    state = (parameters, optimizer, statistics, jax.random.key(0))
    del parameters, statistics, zeros, optimizer

    def step():
        nonlocal state
        state, value = update(state, x, targets)
        jax.block_until_ready(state)
        return value

    def gradients():  # the step keeps none, so they are computed again from the same start
        _, result = jax.jit(gradient)(*start(), x, targets, jax.random.key(0))
        return [np.asarray(array) for array in result]

    return Side(step, gradients)
