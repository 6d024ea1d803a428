"""A program that needs kernels of several kinds. (Not in conftest.py: tests/hostile has a module of that name too.)"""

FIRST_STEPS = """
import json
import numpy as np
import fastbp
from fastbp.kernels.jit import KernelCache

fastbp.set_num_threads(1)
network = fastbp.Sequential(
    fastbp.Conv2d(1, 4, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(), fastbp.Linear(36, 8), fastbp.ReLU(),
    fastbp.Linear(8, 3), seed=1,
)
rng = np.random.default_rng(2)
trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1))
loss = trainer.step(rng.normal(size=(64, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 64))
result = [loss, network.parameter_vector.tobytes().hex()]
logistic = fastbp.LogisticLoss()
logistic.forward(np.array([1.0, 2.0]), np.array([0, 1]))
result += [fastbp.Softmax().forward(np.array([[1.0, 2.0]])).tolist(), logistic.backward()[0]]
print(json.dumps([result, KernelCache.compiled]))
"""
