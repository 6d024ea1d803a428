"""The results of trainings, bit for bit: digests of 58 of them, in bits.json for the processors that they were made on.

They hold for a processor, since sums follow its vectors, and for a version of LLVM; on others these tests are skipped.
Where they fail, trainings that people have made will not be reproduced. If that is wanted, the CHANGELOG says so, and
`python tests/test_bits.py` writes this processor's column anew.
"""

import hashlib
import json
import platform
import random
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np
import pytest

import fastbp
from fastbp import (
    SGD,
    Adam,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Tanh,
)
from fastbp.engine import Machine
from fastbp.kernels import simd

pytestmark = pytest.mark.vectors

FILE = Path(__file__).with_name("bits.json")
SIZES = {
    "parts": [2, 4, 8], "part_work": [1, 1000, 4_000_000], "per_share": [0.001, 1, 128, 10**9], "per_weight": [1, 96],
    "large": [10, 300, 5000, 65536], "piece_work": [1, 1000, 10**6], "few": [0, 1, 8],
    "range_work": [1, 1000, 10**5, 3_500_000], "tile_rows": [4, 8], "tile_columns": [4, 48],
}  # fmt: skip
OPTIMIZERS = {"SGD": lambda: SGD(lr=0.01, momentum=0.9), "Adam": Adam}


def cifar():
    return (3, 32, 32), [
        Conv2d(3, 32, 5, padding=2), ReLU(), MaxPool2d(2), Conv2d(32, 64, 5, padding=2), ReLU(), MaxPool2d(2),
        Flatten(), Linear(4096, 64), ReLU(), Linear(64, 10),
    ]  # fmt: skip


def mnist():
    return (1, 28, 28), [
        Conv2d(1, 32, 7), BatchNorm2d(32), ReLU(), MaxPool2d(2), Dropout(0.3), Flatten(), Linear(3872, 100), ReLU(),
        Linear(100, 10),
    ]  # fmt: skip


def mlp():
    return (784,), [Linear(784, 1000), ReLU(), Linear(1000, 10)]


def deep():
    return (3072,), [
        Linear(3072, 1024), ReLU(), Linear(1024, 1024), Tanh(), Linear(1024, 512), Sigmoid(), Dropout(0.2),
        Linear(512, 10),
    ]  # fmt: skip


def mixed():
    return (3, 16, 16), [
        Conv2d(3, 8, 3, padding=1, stride=2), LeakyReLU(0.1), BatchNorm2d(8), ReLU(), AvgPool2d(2),
        Conv2d(8, 8, 3, padding="same"), BatchNorm2d(8), Tanh(), MaxPool2d(3, 1, 1), Identity(), Flatten(),
        Linear(128, 40, bias=False), BatchNorm1d(40), ReLU(), Linear(40, 10),
    ]  # fmt: skip


def lenet():
    return (1, 28, 28), [
        Conv2d(1, 6, 5, padding=2), ReLU(), MaxPool2d(2), Conv2d(6, 16, 5), ReLU(), MaxPool2d(2), Flatten(),
        Linear(400, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, 10),
    ]  # fmt: skip


def trainings() -> dict[str, tuple]:
    """(network, batch, dtype, optimiser, threads, whether gradients are kept, sizes of a Machine), by name."""
    networks = cifar, mnist, mlp, deep, mixed, lenet
    made = [(make, N, "float32", "SGD", 2, False, {}) for make in networks for N in (1, 4, 32)]
    chance = random.Random(1)
    for _ in range(40):
        sizes = {name: chance.choice(values) for name, values in SIZES.items()}
        make, N = chance.choice([mnist, mlp, mixed, lenet]), chance.choice([1, 2, 3, 5, 8, 17])
        dtype, optimizer = chance.choice(["float32", "float64"]), chance.choice(["SGD", "Adam"])
        made.append((make, N, dtype, optimizer, chance.choice([1, 2, 4]), chance.choice([True, False]), sizes))
    names = (f"{k:02d} {make.__name__} {' '.join(map(str, rest[:3]))}" for k, (make, *rest) in enumerate(made))
    return dict(zip(names, made, strict=True))


def digest(make, N, dtype, optimizer, threads, kept, sizes) -> str:
    """Of two steps' losses and parameters, and of the gradients, a prediction and a backward pass after them."""
    found, (shape, layers), rng = hashlib.sha256(), make(), np.random.default_rng(N)
    network = fastbp.Sequential(*layers, seed=3, dtype=dtype, machine=Machine(**sizes))
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), OPTIMIZERS[optimizer]())
    if kept:
        network.gradient_vector  # noqa: B018 -- from now on every step fills it
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        for _ in range(2):
            x, labels = rng.normal(size=(N, *shape)).astype(dtype), rng.integers(0, 10, N)
            found.update(np.float64(trainer.step(x, labels)).tobytes())
            found.update(network.parameter_vector.tobytes())
        engine = network.engine(shape)
        found.update(network.gradient_vector.tobytes())
        found.update(engine.forward(x).tobytes())
        engine.forward(x, training=True)
        found.update(engine.backward(rng.normal(size=(N, 10)).astype(dtype)).tobytes())
        found.update(network.gradient_vector.tobytes())
    finally:
        fastbp.set_num_threads(before)
    return found.hexdigest()[:8]


def processor() -> str:
    """What the digests depend on."""
    name = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    width = simd.lanes_of(np.dtype(np.uint8))
    return f"{platform.system()}, {name}, vectors of {width} bytes, llvmlite {llvmlite.__version__}"


KNOWN = json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="without the JIT sums are NumPy's")
@pytest.mark.skipif(processor() not in KNOWN, reason=f"no digests for {processor()}")
@pytest.mark.parametrize("name", trainings())
def test_a_training_gives_the_same_bits(name):
    assert digest(*trainings()[name]) == KNOWN[processor()][name]


if __name__ == "__main__":
    KNOWN[processor()] = {name: digest(*training) for name, training in trainings().items()}
    FILE.write_text(json.dumps(KNOWN, indent=1) + "\n")
