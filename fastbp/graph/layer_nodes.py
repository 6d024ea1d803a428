"""Layers and losses as operations of the graph, and the graph as a layer."""

import copy

import numpy as np

from ..arguments import flag, instance, shape, shown
from ..layers.base import Layer
from ..losses import Loss
from .calls import no_grad
from .nodes import TensorNode, tensors
from .op import Op


class LayerOp(Op):
    """y = layer(x, *parameters)        gx and the gradients of the parameters by the layer's own backward

    Each use has a shallow copy of the layer: a cache of its own, so that a layer may stand in a graph several times,
    and the same parameters and running statistics.
    """

    @staticmethod
    def forward(context, x, *parameters, layer, training=False):
        context["layer"] = layer = layer.sharing()
        for parameter, value in zip(layer.parameters, parameters, strict=True):
            if value is not parameter.value:
                parameter.value = value
        return layer.forward(x, training=training)

    @staticmethod
    def backward(context, gy):
        layer = context["layer"]
        before = [parameter.grad.copy() for parameter in layer.parameters]
        gx = layer.backward(gy)
        gradients = [parameter.grad.copy() for parameter in layer.parameters]
        for parameter, gradient in zip(layer.parameters, before, strict=True):
            parameter.grad = gradient  # the layer has overwritten what the graph is adding up
        return gx, *gradients

    @classmethod
    def title(cls, context):
        return type(context["layer"]).__name__


class LossOp(Op):
    """L = loss(scores, targets), a single number        gscores = gL · ∂L/∂scores by the loss's own backward"""

    @staticmethod
    def forward(context, scores, targets, loss):
        context["loss"] = loss = copy.copy(loss)
        return np.asarray(loss.forward(scores, targets), scores.dtype)

    @staticmethod
    def backward(context, gvalue):
        return gvalue * context["loss"].backward()

    @classmethod
    def title(cls, context):
        return type(context["loss"]).__name__


def apply_layer(layer: Layer, x: TensorNode | np.ndarray, training: bool = False) -> TensorNode:
    """A fastbp layer as one operation: x (N, …) to layer.forward(x, training).

    The layer's parameters enter the graph as nodes over their own arrays, so a backward pass adds to `parameter.grad`.
    Set a network's `gradient_vector` to zero before it, and an optimiser's step on the vectors is the usual one.
    """
    instance("apply_layer: layer", layer, Layer)
    flag("apply_layer: training", training)
    return LayerOp.do_forward(x, *map(TensorNode.of, layer.parameters), layer=layer, training=training)


def apply_loss(loss: Loss, scores: TensorNode | np.ndarray, targets: np.ndarray) -> TensorNode:
    """A fastbp loss as one operation: its value for scores and targets, a node of shape ()."""
    instance("apply_loss: loss", loss, Loss)
    if isinstance(targets, TensorNode):
        raise TypeError("apply_loss: the targets have no gradient: give an array, not a TensorNode")
    return LossOp.do_forward(scores, targets=targets, loss=loss)


class GraphLayer(Layer):
    """A layer whose forward pass is written with nodes and whose backward pass the graph finds.

    A subclass adds its parameters in the constructor, with `self.parameter(name, shape, draw)`, and defines
    `compute(x, *parameters)`. It is given nodes for the input (N, …) and for each parameter, in the order in which they
    were added, and gives the node of the output (N, …). In a `Sequential` it trains as any layer does, with `fit` and
    the optimisers. `self.training` says which kind of pass it is.

    >>> from fastbp import Sequential, graph, initializers
    >>> class Perceptron(GraphLayer):
    ...     def __init__(self, D, H, C):
    ...         super().__init__()
    ...         self.D, self.H, self.C, he = D, H, C, initializers.get("he_normal")
    ...         self.parameter("w1", (H, D), lambda rng: he.weight(rng, (H, D), D, H))
    ...         self.parameter("b1", (H,), lambda rng: np.zeros(H))
    ...         self.parameter("w2", (C, H), lambda rng: he.weight(rng, (C, H), H, C))
    ...         self.parameter("b2", (C,), lambda rng: np.zeros(C))
    ...
    ...     def compute(self, x, w1, b1, w2, b2):
    ...         h = graph.sigmoid(x @ w1.T + b1)
    ...         return h @ w2.T + b2
    >>> network = Sequential(Perceptron(784, 4 * 784, 10))
    >>> network.forward(np.zeros((32, 784), np.float32)).shape
    (32, 10)
    """

    contains = True  # layers that stand in its graph
    training = False

    def compute(self, x: TensorNode, *parameters: TensorNode) -> TensorNode:
        raise NotImplementedError(f"{type(self).__name__} does not define compute(x, *parameters)")

    def _computed(self, *nodes: TensorNode) -> TensorNode:
        return instance(f"{type(self).__name__}: what compute gives", self.compute(*nodes), TensorNode)

    def forward(self, x, training=False, out=None):
        self.training = flag(f"{type(self).__name__}: training", training)
        x = TensorNode(self.accept(x), name="x")
        y = self._computed(x, *map(TensorNode.of, self.parameters))
        self.cache = x, y
        result = self.buffer(out, y.shape, x.value)
        result[...] = y.value
        return result

    def backward(self, dout, need_dx=True, out=None):
        x, y = self.cache
        dout = self.expect(dout, *y.shape, what="dout")
        for parameter in self.parameters:  # also those that y does not depend on
            parameter.grad[...] = 0
        for node in tensors(y):
            node.zero_grad()
        y.backward(dout, keep_graph=True)
        if not flag(f"{type(self).__name__}: need_dx", need_dx):
            return None
        dx = self.buffer(out, x.shape, dout)
        dx[...] = x.grad
        return dx

    def output_shape(self, input_shape):
        """Found by a forward pass of one sample, in which all numbers are 1."""
        what = f"{type(self).__name__}: input_shape"
        shapes = [(1, *shape(what, input_shape)), *(p.shape for p in self.parameters)]
        one = np.ones((), self.dtype or np.float32)
        try:
            ones = [np.broadcast_to(one, sizes) for sizes in shapes]
        except ValueError:  # more elements than can be counted
            raise ValueError(f"{what} is too large for an array, got {shown(input_shape)}") from None
        self.training = False
        with no_grad():
            return self._computed(*map(TensorNode, ones)).shape[1:]
