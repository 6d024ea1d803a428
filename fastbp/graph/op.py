"""What an operation is."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Op:
    """An operation: how its outputs are computed, and how the gradients of its inputs follow from those of its outputs.

    A subclass defines two static methods on arrays:

    - `forward(context, *inputs)` gives the output, or a tuple of outputs. What backward needs goes into the dictionary
      `context`. Options are keyword arguments.
    - `backward(context, *goutputs)`, for the gradient of each output (zeros for one that the loss does not depend on),
      gives the gradient of the input, or a tuple with that of each input, of the input's shape. It writes neither to
      the context nor to goutputs.

    `Op.do_forward(*inputs, **options)` carries it out: nodes in, a node out (or a tuple of nodes).
    """

    @staticmethod
    def forward(context: dict, *inputs: np.ndarray):
        raise NotImplementedError("an Op defines forward(context, *inputs)")

    @staticmethod
    def backward(context: dict, *goutputs: np.ndarray):
        raise NotImplementedError("an Op defines backward(context, *goutputs)")

    @classmethod
    def title(cls, context: dict) -> str:
        """What a drawing calls it."""
        return cls.__name__

    @classmethod
    def do_forward(cls, *inputs, **options) -> Any:
        """Apply the operation to nodes, arrays or numbers, and enter it in the graph (not under `no_grad`).

        A TensorNode, or a tuple of them where forward gives a tuple.
        """
        return Op._carry_out(cls, inputs, options)

    _carry_out: Callable  # put here by calls.py: nodes know operations, and operations don't know nodes
