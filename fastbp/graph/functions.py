"""A function for each operation that is not one of Python's operators."""

import numpy as np

from ..arguments import instance
from ..layers import GELU, SiLU
from . import operations as ops
from .layer_nodes import apply_layer
from .nodes import TensorNode

Tensor = TensorNode | np.ndarray | float


def matmul(a: Tensor, b: Tensor) -> TensorNode:
    """a b for a (…, N, K) and b (…, K, M); the same as a @ b."""
    return ops.MatMul.do_forward(a, b)


def maximum(a: Tensor, b: Tensor) -> TensorNode:
    """The larger of a and b, element by element; in a tie the gradient goes to a."""
    return ops.Maximum.do_forward(a, b)


def exp(x: Tensor) -> TensorNode:
    """eˣ"""
    return ops.Exp.do_forward(x)


def log(x: Tensor) -> TensorNode:
    """The natural logarithm of x."""
    return ops.Log.do_forward(x)


def relu(x: Tensor) -> TensorNode:
    """max(x, 0), with derivative 0 at 0."""
    return ops.ReLU.do_forward(x)


def sigmoid(x: Tensor) -> TensorNode:
    """1 / (1 + e⁻ˣ)"""
    return ops.Sigmoid.do_forward(x)


def tanh(x: Tensor) -> TensorNode:
    """The hyperbolic tangent of x."""
    return ops.Tanh.do_forward(x)


def gelu(x: Tensor, approximate: str = "none") -> TensorNode:
    """x Φ(x), or with "tanh" x (1 + tanh u) / 2: see fastbp.GELU."""
    return apply_layer(GELU(approximate), x)


def silu(x: Tensor) -> TensorNode:
    """x / (1 + e⁻ˣ)"""
    return apply_layer(SiLU(), x)


def softmax(x: Tensor, axis: int = -1) -> TensorNode:
    """eˣ / Σ eˣ, the sum over `axis`."""
    return ops.Softmax.do_forward(x, axis=axis)


def log_softmax(x: Tensor, axis: int = -1) -> TensorNode:
    """x − log Σ eˣ, the sum over `axis`."""
    return ops.LogSoftmax.do_forward(x, axis=axis)


def sum(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> TensorNode:
    """Σ x over one axis, some, or all (None)."""
    return ops.Sum.do_forward(x, axis=axis, keepdims=keepdims)


def mean(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> TensorNode:
    """The mean of x over one axis, some, or all (None)."""
    return ops.Mean.do_forward(x, axis=axis, keepdims=keepdims)


def expand(x: Tensor, shape: tuple[int, ...]) -> TensorNode:
    """Copies of x along new axes in front and along axes of size 1, up to `shape`."""
    return ops.Expand.do_forward(x, shape=shape)


def reshape(x: Tensor, shape: tuple[int, ...]) -> TensorNode:
    """x in another shape, in row-major order; one size may be −1."""
    return ops.Reshape.do_forward(x, shape=shape)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> TensorNode:
    """x with its axes in another order, reversed if `axes` is None."""
    return ops.Transpose.do_forward(x, axes=axes)


def select(x: Tensor, index) -> TensorNode:
    """x[index], for any index that NumPy takes."""
    return ops.Select.do_forward(x, index=index)


def concatenate(tensors: list[Tensor] | tuple[Tensor, ...], axis: int = 0) -> TensorNode:
    """The tensors one after the other along `axis`."""
    instance("concatenate: tensors", tensors, (list, tuple))
    return ops.Concatenate.do_forward(*tensors, axis=axis)
