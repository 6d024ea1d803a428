"""How a network computes a training step: its layers, with groups of them done in one pass where there is a kernel for it."""

import numpy as np

from .layers.base import Layer
from .layers.fused import sandwiches


class Plan:
    """The stages of a network for one input shape: its own layers and sandwich layers over them.

    The results are those of the layers one by one, to rounding. Parameters, gradients and state are the layers' own; what
    backward needs is kept by the stages, not by the layers.
    """

    def __init__(self, layers: tuple[Layer, ...], input_shape: tuple[int, ...]):
        self.input_shape = tuple(input_shape)
        self.stages = sandwiches(layers, self.input_shape)

    def __str__(self) -> str:
        """A line for each stage: its layers, and how they are computed."""
        rows, shape = [], self.input_shape
        for stage in self.stages:
            rows.append((repr(stage), stage.algorithm(shape) or "a loop over the elements"))
            shape = stage.output_shape(shape)
        width = max(len(stage) for stage, _ in rows)
        return "\n".join(f"{stage:<{width}}  {how}" for stage, how in rows)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The last stage's output for a batch x (N, *input_shape)."""
        for stage in self.stages:
            x = stage.forward(x, training=training)
        return x

    def backward(self, dout: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Fill all gradients from the last forward pass; return the gradient with respect to its input.

        With `need_dx=False` that gradient, which training doesn't need, is not computed and None is returned.
        """
        return backward_through(self.stages, dout, need_dx)


def backward_through(layers, dout: np.ndarray, need_dx: bool) -> np.ndarray | None:
    """The backward passes of layers in a row. Without `need_dx` it ends at the first layer that has parameters."""
    first = next((i for i, layer in enumerate(layers) if layer.parameters), len(layers))
    for i in range(len(layers) - 1, -1, -1):
        if not need_dx and i <= first:
            layers[i].backward(dout, need_dx=False)
            return None
        dout = layers[i].backward(dout)
    return dout
