"""A graph of operations that is built while it is computed, and the chain rule over it.

Layers are the fast way to train a network; this graph is the way to see what backpropagation is, and to try what no
layer does.

    TensorNode   a value and the gradient of the loss with respect to it; `source` is the operation that made it
    OpNode       one operation that has been carried out: its `op`, `inputs`, `outputs`; `context` for backward
    Op           what an operation is: `forward(context, *inputs)` and `backward(context, *goutputs)`

Computing with nodes builds the graph; `backward` walks it from the newest operation to the oldest.

>>> import numpy as np
>>> from fastbp import check_gradients, graph
>>> a, b = graph.TensorNode([1.0, 2.0], name="a"), graph.TensorNode(3.0, name="b")
>>> c = a * b
>>> c.value, c.source.op, c.source.inputs[0].value, c.grad
(array([3., 6.]), <class 'fastbp.graph.operations.Multiply'>, array([1., 2.]), array([0., 0.]))
>>> c.sum().backward()
>>> a.grad, b.grad
(array([3., 3.]), array(3.))

An operation of your own says how its result is computed, and what the gradient of its input is, given that of its
output. What backward needs, forward puts into the context under a name. `check_gradients` compares the two:

>>> class Softplus(graph.Op):
...     '''y = log(1 + eˣ)        gx = gy · σ(x)'''
...
...     @staticmethod
...     def forward(context, x):
...         context["x"] = x
...         return np.logaddexp(0, x)
...
...     @staticmethod
...     def backward(context, gy):
...         return gy / (1 + np.exp(-context["x"]))
>>> check_gradients(Softplus, np.linspace(-3, 3, 7)).passed
True
>>> x = graph.TensorNode(0.0)
>>> y = Softplus.do_forward(x)
>>> y.backward()
>>> x.grad
array(0.5)

**Gradients accumulate.** Every `backward` adds to the `grad` of each node that it passes, so two losses, or one loss
twice, give the sum; `node.zero_grad()` starts again. (A fastbp layer on its own overwrites its gradients: it has one
backward pass a step.)

**The graph is used once.** `backward` frees the operations that it has passed, with all they hold; going through them
again is a RuntimeError. `backward(keep_graph=True)` keeps them. Values are kept by reference: don't write into one
before the backward pass.
"""

from . import operations as ops  # noqa: F401 -- fastbp.graph.ops.Add and the others
from .calls import no_grad
from .drawing import dot, draw
from .functions import (
    concatenate,
    exp,
    expand,
    gelu,
    log,
    log_softmax,
    matmul,
    maximum,
    mean,
    relu,
    reshape,
    select,
    sigmoid,
    silu,
    softmax,
    sum,
    tanh,
    transpose,
)
from .layer_nodes import GraphLayer, apply_layer, apply_loss
from .nodes import OpNode, TensorNode, tensors
from .op import Op

__all__ = [
    "GraphLayer", "Op", "OpNode", "TensorNode", "apply_layer", "apply_loss", "concatenate", "dot", "draw", "exp",
    "expand", "gelu", "log", "log_softmax", "matmul", "maximum", "mean", "no_grad", "relu", "reshape", "select",
    "sigmoid", "silu", "softmax", "sum", "tanh", "tensors", "transpose",
]  # fmt: skip
