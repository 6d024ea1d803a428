"""One training step in each library: forward, softmax cross-entropy, backward, SGD with momentum 0.9.

`build(name, workload, batch)` gives the step of one side; all sides start from the same parameters and batch. Libraries
are imported when their side is built, and no other.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from workloads import Workload

LR, MOMENTUM = 0.01, 0.9
LIBRARIES = {"fastbp": "fastbp", "torch": "torch", "torch-compile": "torch", "jax": "jax"}  # side: what it imports


@dataclass
class Side:
    """`step()` trains on the batch once and has finished when it returns; `gradients()`, called after the first
    step, gives that step's gradients, in the order of Workload.parameters."""

    step: Callable[[], object]
    gradients: Callable[[], list[np.ndarray]]


def installed(name: str) -> bool:
    return importlib.util.find_spec(LIBRARIES[name]) is not None


def build(name: str, workload: Workload, batch: int, threads: int = 1, **options) -> Side:
    makers = {"fastbp": fastbp_side, "torch": torch_side, "jax": jax_side}
    makers["torch-compile"] = functools.partial(torch_side, compiled=True)
    return makers[name](workload, batch, threads, **options)


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


def flops(workload: Workload, batch: int) -> int:
    """Useful FLOPs of a training step: two for each multiply–add of Linear and Conv2d in fastbp's cost sheet."""
    from fastbp.costs import CostSheet

    sheet = CostSheet(fastbp_layers(workload), workload.input_shape, batch)
    return 2 * (sheet.multiply_adds + sheet.backward_multiply_adds)


def fastbp_network(workload: Workload, **options):
    import fastbp

    network = fastbp.Sequential(*fastbp_layers(workload), **options)
    for parameter, value in zip(network.parameters, workload.parameters(), strict=True):
        parameter.value = value
    return network


def fastbp_side(workload: Workload, batch: int, threads: int = 1, **options) -> Side:
    import fastbp

    fastbp_threads(threads)
    x, labels = workload.batch(batch)

    def start():
        network = fastbp_network(workload, **options)
        return network, fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=LR, momentum=MOMENTUM))

    def gradients():  # computed again from the same start: a step keeps them only for those who have asked
        network, trainer = start()
        trainer.step(x, labels)
        return [parameter.grad.copy() for parameter in network.parameters]

    _, trainer = start()
    return Side(lambda: trainer.step(x, labels), gradients)


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def torch_module(workload: Workload):
    import torch

    module = torch.nn.Sequential(*(getattr(torch.nn, kind)(*numbers) for kind, *numbers in workload.layers)).train()
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), workload.parameters(), strict=True):
            tensor.copy_(torch.from_numpy(value))
    return module


def torch_side(workload: Workload, batch: int, threads: int = 1, compiled: bool = False) -> Side:
    import torch

    torch.set_num_threads(threads)
    module = torch_module(workload)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
    loss = torch.nn.CrossEntropyLoss()
    network = torch.compile(module) if compiled else module
    x, labels = (torch.from_numpy(array) for array in workload.batch(batch))

    def step():
        optimizer.zero_grad()
        value = loss(network(x), labels)
        value.backward()
        optimizer.step()
        return value

    return Side(step, lambda: [tensor.grad.numpy().copy() for tensor in module.parameters()])


# -- JAX ---------------------------------------------------------------------------------------------------------------


def jax_scores(workload: Workload, parameters: list, statistics: list, x, key):
    """(scores, new running statistics) in training mode, NCHW as in the other libraries"""
    import jax
    from jax import lax
    from jax import numpy as jnp

    left, running, updated = iter(parameters), iter(statistics), []
    for kind, *numbers in workload.layers:
        if kind == "Conv2d":
            padding = [(numbers[4], numbers[4])] * 2
            y = lax.conv_general_dilated(x, next(left), (1, 1), padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))
            x = y + next(left)[:, None, None]
        elif kind == "Linear":
            x = x @ next(left).T + next(left)
        elif kind == "ReLU":
            x = jax.nn.relu(x)
        elif kind == "MaxPool2d":
            window = (1, 1, numbers[0], numbers[0])
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
        elif kind == "Flatten":
            x = x.reshape(len(x), -1)
        elif kind == "BatchNorm2d":
            gamma, beta, (old_mean, old_var) = next(left), next(left), next(running)
            mean, var, count = x.mean((0, 2, 3)), x.var((0, 2, 3)), x.size // x.shape[1]
            updated.append((0.9 * old_mean + 0.1 * mean, 0.9 * old_var + 0.1 * var * count / (count - 1)))
            scale = gamma * lax.rsqrt(var + 1e-5)
            x = (x - mean[:, None, None]) * scale[:, None, None] + beta[:, None, None]
        elif kind == "Dropout":
            key, own = jax.random.split(key)
            x = jnp.where(jax.random.bernoulli(own, 1 - numbers[0], x.shape), x / (1 - numbers[0]), 0)
    return x, updated


def jax_side(workload: Workload, batch: int, threads: int = 1) -> Side:
    """XLA takes its number of threads from the cores that the process may use: measuring.child sees to that."""
    import jax
    from jax import numpy as jnp

    def loss(parameters, statistics, x, labels, key):
        scores, statistics = jax_scores(workload, parameters, statistics, x, key)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean(), statistics

    gradient = jax.value_and_grad(loss, has_aux=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, x, labels):
        parameters, velocities, statistics, key = state
        key, own = jax.random.split(key)
        (value, statistics), gradients = gradient(parameters, statistics, x, labels, own)
        velocities = [MOMENTUM * v + g for v, g in zip(velocities, gradients, strict=True)]
        parameters = [p - LR * v for p, v in zip(parameters, velocities, strict=True)]
        return (parameters, velocities, statistics, key), value

    def start():  # new arrays each time: a step takes over the ones it is given
        parameters = [jnp.array(value) for value in workload.parameters()]
        norms = [layer[1] for layer in workload.layers if layer[0] == "BatchNorm2d"]
        return parameters, [(jnp.zeros(channels), jnp.ones(channels)) for channels in norms]

    x, labels = (jax.device_put(array) for array in workload.batch(batch))
    parameters, statistics = start()
    state = (parameters, [jnp.zeros_like(value) for value in parameters], statistics, jax.random.key(0))
    del parameters, statistics

    def step():
        nonlocal state
        state, value = update(state, x, labels)
        jax.block_until_ready(state)
        return value

    def gradients():  # the step keeps none, so they are computed again from the same start
        _, result = jax.jit(gradient)(*start(), x, labels, jax.random.key(0))
        return [np.asarray(array) for array in result]

    return Side(step, gradients)
