"""`fastbp check` and `fastbp summary`: what can be said of a network without data."""

import numpy as np

from ..gradcheck import check_gradients
from ..losses import SoftmaxCrossEntropy
from ..profiling import profile
from .choices import CLASSES, INPUT_SHAPES, load_network, new_network
from .streams import Failure


def check(options) -> int:
    """Check the gradients of a new network on random data; 1 where one is wrong."""
    network = new_network(options)
    rng = np.random.default_rng(options.seed)
    x = rng.normal(size=(4, *INPUT_SHAPES[options.data])).astype(network.dtype)
    labels = rng.integers(0, CLASSES, 4)
    report = check_gradients(network, x, labels, loss=SoftmaxCrossEntropy(), samples=options.samples, seed=options.seed)
    print(report)
    return 0 if report.passed else 1


def summary(options) -> int:
    """Print the cost sheet of a network, new or from a file, or how it is computed, or how fast."""
    if options.engine and (options.json or options.batch or options.measure):
        raise Failure("--engine does not go with --batch, --json and --measure", code=2)
    if options.network is None:
        network, shape = new_network(options), INPUT_SHAPES[options.data]
    else:
        network = load_network(options.network)
        shape = network.metadata.get("input_shape")
        if shape is None:
            why = "was not written by fastbp train: it does not say what shape its input has"
            raise Failure(f"{options.network} {why}")
    if options.engine:
        print(network.engine(tuple(shape)))
        return 0
    if options.measure:
        sheet = profile(network, tuple(shape), options.batch or 64)
    else:
        sheet = network.costs(tuple(shape), options.batch or 1)
    print(sheet.to_json() if options.json else sheet)
    return 0
