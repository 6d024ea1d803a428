"""The two kinds of nodes, and the backward pass over them."""

import itertools
import operator
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from ..arguments import array, flag, instance, text
from ..dtypes import FLOATS
from ..parameters import Parameter
from . import operations as ops
from .axes import require_broadcast
from .op import Op

NUMERIC = (np.ndarray, np.generic, bool, int, float, list, tuple)  # what a node can be equal to, beside a node


class TensorNode:
    """A tensor in the graph.

    - `value` the array, float32 or float64, kept by reference; numbers, and arrays of integers or truth values, become
      float64. A new one may be assigned, of the same shape and dtype once there is a gradient
    - `grad` ∂L/∂value, of the value's shape: zero until a backward pass, then the sum over all backward passes
    - `source` the OpNode that made it; None for an input, a weight, a constant
    - `name` for error messages and drawings

    Python's operators, +, −, *, /, **, @ and [ ], give new nodes. Nodes, arrays and numbers mix, and shapes broadcast
    as in NumPy; what is not of a floating type takes the dtype of the nodes that it meets. Comparisons give plain
    arrays of truth values, with no gradient. Nodes are not assigned to: `a += b` makes a new node, and a[i] = b is an
    error. Results are NumPy's, NaN and infinity among them, without its warnings.

    TypeError for what is no array of numbers; ValueError for shapes that don't fit; an index beyond the end is an
    IndexError too.
    """

    __slots__ = ("_value", "source", "name", "_grad", "__weakref__")
    __array_ufunc__ = None  # array + node is left to TensorNode.__radd__

    def __init__(self, value, source: "OpNode | None" = None, name: str | None = None):
        if isinstance(value, TensorNode):
            raise TypeError("TensorNode: expected an array or a number, got a TensorNode; its array is its value")
        self.source = source if source is None else instance("TensorNode: source", source, OpNode)
        self.name = name if name is None else text("TensorNode: name", name)
        self._value, self._grad = as_floats(value), None

    @classmethod
    def of(cls, parameter: Parameter) -> "TensorNode":
        """A node over the parameter's own arrays, value and grad: gradients add up in `parameter.grad`."""
        node = cls(instance("TensorNode.of: parameter", parameter, Parameter).value, name=parameter.name)
        node._grad = parameter.grad
        return node

    @property
    def value(self) -> np.ndarray:
        return self._value

    @value.setter
    def value(self, value) -> None:
        value = as_floats(value, self.dtype)
        if self._grad is not None and (value.shape, value.dtype) != (self.shape, self.dtype):
            kept, got = f"{self.dtype} {self.shape}", f"{value.dtype} {value.shape}"
            wanted = f"value must stay an array {kept}, since there is a gradient for it"
            raise ValueError(f"TensorNode: {wanted}, got {got}")
        self._value = value

    # -- the gradient --------------------------------------------------------------------------------------------

    @property
    def grad(self) -> np.ndarray:
        if self._grad is None:
            self._grad = np.zeros(self.shape, self.dtype)
        return self._grad

    @grad.setter
    def grad(self, gradient) -> None:
        gradient = array("TensorNode: grad", gradient, "fiub")
        if gradient.ndim and gradient.shape != self.shape:
            wanted = f"grad must have the value's shape {self.shape}, or be a number"
            raise ValueError(f"TensorNode: {wanted}, got {gradient.shape}")
        with np.errstate(over="ignore"):
            self.grad[...] = gradient

    @property
    def has_grad(self) -> bool:
        """Whether a backward pass has come by, or somebody has asked for the gradient."""
        return self._grad is not None

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place. All nodes of a graph: `for node in tensors(loss): node.zero_grad()`."""
        if self._grad is not None:
            self._grad[...] = 0

    def backward(self, dout=None, keep_graph: bool = False) -> None:
        """Add ∂L/∂node to the grad of this node and of each node that it was computed from.

        `dout` = ∂L/∂self, of this node's shape; left out for a node of a single element, which is then L itself. The
        operations that have been passed are freed, unless `keep_graph`; RuntimeError where a backward pass before this
        one has freed them.
        """
        # An operation comes after those that made its inputs. So in the order from the newest to the oldest, all uses
        # of a tensor have had their say before its own source is asked, and the shares that have come in are its whole
        # gradient. They are kept apart from `grad`, where the sum of earlier passes may stand.
        keep_graph = flag("backward: keep_graph", keep_graph)
        gradients = {self: self._cotangent(dout)}
        operations = ancestors(self)
        with np.errstate(all="ignore"):
            while operations:
                operation = operations.pop()
                goutputs = []
                for output, shape, dtype in operation.results():
                    gradient = gradients.pop(output, None) if output is not None else None
                    goutputs.append(np.zeros(shape, dtype) if gradient is None else np.asarray(gradient, dtype))
                    if gradient is not None:
                        output._accumulate(gradient)
                for node, gradient in zip(operation.inputs, operation.backward(goutputs), strict=True):
                    gradients[node] = gradients[node] + gradient if node in gradients else gradient
                if not keep_graph:
                    operation.free()
            for node, gradient in gradients.items():  # what is left are the nodes without a source
                node._accumulate(gradient)

    def _cotangent(self, dout) -> np.ndarray:
        if dout is None:
            if self.value.size != 1:
                reason = f"a node of shape {self.shape} is no single number"
                raise ValueError(f"backward: {reason}: give dout, of the same shape")
            return np.ones(self.shape, self.dtype)
        with np.errstate(over="ignore"):
            dout = array("backward: dout", plain(dout), "fiub").astype(self.dtype, copy=False)
        if dout.shape != self.shape:
            raise ValueError(f"backward: expected dout of the node's shape {self.shape}, got {dout.shape}")
        return dout

    def _accumulate(self, gradient: np.ndarray) -> None:
        if self._grad is None:
            self._grad = np.array(gradient, self.dtype)  # a copy: an operation may give one array to two inputs
        else:
            self._grad += gradient

    # -- like an array -------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def T(self) -> "TensorNode":
        return ops.Transpose.do_forward(self)

    def __add__(self, other):
        return ops.Add.do_forward(self, other)

    def __radd__(self, other):
        return ops.Add.do_forward(other, self)

    def __sub__(self, other):
        return ops.Subtract.do_forward(self, other)

    def __rsub__(self, other):
        return ops.Subtract.do_forward(other, self)

    def __mul__(self, other):
        return ops.Multiply.do_forward(self, other)

    def __rmul__(self, other):
        return ops.Multiply.do_forward(other, self)

    def __truediv__(self, other):
        return ops.Divide.do_forward(self, other)

    def __rtruediv__(self, other):
        return ops.Divide.do_forward(other, self)

    def __pow__(self, other):
        return ops.Power.do_forward(self, other)

    def __rpow__(self, other):
        return ops.Power.do_forward(other, self)

    def __matmul__(self, other):
        return ops.MatMul.do_forward(self, other)

    def __rmatmul__(self, other):
        return ops.MatMul.do_forward(other, self)

    def __neg__(self):
        return ops.Negate.do_forward(self)

    def __getitem__(self, index):
        return ops.Select.do_forward(self, index=index)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "TensorNode":
        return ops.Sum.do_forward(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "TensorNode":
        return ops.Mean.do_forward(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: int | tuple[int, ...]) -> "TensorNode":
        return ops.Reshape.do_forward(self, shape=shape[0] if len(shape) == 1 else shape)

    def _compared(self, other, comparison: Callable) -> np.ndarray:
        other = array(f"{comparison.__name__}: other", plain(other), "fiub")
        require_broadcast(f"{comparison.__name__}", self.value, other)
        return comparison(self.value, other)

    def __lt__(self, other):
        return self._compared(other, operator.lt)

    def __le__(self, other):
        return self._compared(other, operator.le)

    def __gt__(self, other):
        return self._compared(other, operator.gt)

    def __ge__(self, other):
        return self._compared(other, operator.ge)

    def __eq__(self, other):
        return self._compared(other, operator.eq) if isinstance(other, (TensorNode, *NUMERIC)) else NotImplemented

    def __ne__(self, other):
        return self._compared(other, operator.ne) if isinstance(other, (TensorNode, *NUMERIC)) else NotImplemented

    __hash__ = object.__hash__  # a node is itself in sets and dictionaries, whatever its value

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("TensorNode: a single number, of shape (), has no length")
        return len(self.value)

    def __iter__(self) -> Iterator["TensorNode"]:
        return map(self.__getitem__, range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._item("truth value"))

    def __float__(self) -> float:
        return float(self._item("float"))

    def _item(self, what: str) -> float:
        if self.size != 1:
            raise ValueError(f"TensorNode: the value {self.shape} is no single number, which alone has a {what}")
        return self.value.item()

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name is not None else ""
        source = f", source={self.source.op.__name__}" if self.source is not None else ""
        return f"TensorNode({np.array2string(self.value, threshold=20, prefix='TensorNode(')}{source}{name})"


class OpNode:
    """An operation that has been carried out.

    - `op` the class that says how · `inputs` the TensorNodes that it took, in order
    - `outputs` the TensorNodes that it gave; None for one that nobody holds any more
    - `context` what forward left for backward, by name

    Tensors hold their source and an operation holds its inputs, so the last tensor holds the whole graph. The way back,
    to the outputs, is by weak references: a graph that nobody holds is gone at once, without a garbage collection.
    """

    __slots__ = ("op", "number", "_inputs", "_outputs", "_context")
    _numbers = itertools.count()

    def __init__(self, op: type["Op"], inputs: tuple[TensorNode, ...], context: dict):
        self.op, self._inputs, self._outputs, self._context = op, inputs, [], context
        self.number = next(OpNode._numbers)  # higher than those of the operations that it depends on

    @property
    def inputs(self) -> tuple[TensorNode, ...]:
        self._check()
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorNode | None, ...]:
        return tuple(output() for output, _, _ in self._outputs)

    @property
    def context(self) -> dict:
        self._check()
        return self._context

    def gives(self, value) -> TensorNode:
        """The node of one more output."""
        node = TensorNode(as_floats(value, what=lambda: f"{self.op.__name__}.forward: its output"), source=self)
        self._outputs.append((weakref.ref(node), node.shape, node.dtype))
        return node

    def results(self) -> list[tuple[TensorNode | None, tuple[int, ...], np.dtype]]:
        """(node, shape, dtype) of each output."""
        return [(output(), shape, dtype) for output, shape, dtype in self._outputs]

    def backward(self, goutputs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The gradient of each input, from those of all outputs."""
        name = self.op.__name__
        with np.errstate(all="ignore"):
            gradients = self.op.backward(self.context, *goutputs)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        if len(gradients) != len(self.inputs):
            raise ValueError(f"{name}.backward gave {len(gradients)} gradients for {len(self.inputs)} inputs")
        gradients = tuple(as_floats(gradient, what=lambda: f"{name}.backward: a gradient") for gradient in gradients)
        for node, gradient in zip(self.inputs, gradients, strict=True):
            if gradient.shape != node.shape:
                raise ValueError(f"{name}.backward gave a gradient {gradient.shape} for an input {node.shape}")
        return gradients

    def free(self) -> None:
        """Let go of the inputs and the context."""
        self._inputs = self._context = None

    def _check(self) -> None:
        if self._inputs is None:
            reason = "this part of the graph was freed by a backward pass"
            raise RuntimeError(f"{self.op.__name__}: {reason}; to use it again, call backward(keep_graph=True)")

    def __repr__(self) -> str:
        return f"OpNode({self.op.__name__}{', freed' if self._inputs is None else ''})"


def ancestors(node: TensorNode) -> list[OpNode]:
    """All operations that went into a node, oldest first. No recursion: a graph may be deeper than Python's stack."""
    found, waiting = set(), [instance("node", node, TensorNode).source]
    while waiting:
        operation = waiting.pop()
        if operation is not None and operation not in found:
            found.add(operation)
            waiting.extend(tensor.source for tensor in operation.inputs)
    return sorted(found, key=lambda operation: operation.number)


def tensors(node: TensorNode) -> list[TensorNode]:
    """All tensors that went into a node, each after those that it was computed from; the node itself is the last."""
    found = {}
    for operation in ancestors(node):
        found.update(dict.fromkeys(operation.inputs))
    found.pop(node, None)
    return [*found, node]


def as_floats(value, dtype: np.dtype | None = None, what: Callable[[], str] = lambda: "value") -> np.ndarray:
    """`value` as an array of floats: one of float32 or float64 as it is, anything else of `dtype`, if given."""
    if type(value) is np.ndarray and value.dtype in FLOATS:
        return value
    try:
        numbers = array("value", value, "fiub")
        if numbers.dtype.kind == "f" and numbers.dtype not in FLOATS:
            raise TypeError(f"value must be an array of numbers, got dtype {numbers.dtype}")
    except TypeError as error:
        name, reason = what(), str(error).removeprefix("value")
        raise TypeError(f"TensorNode: expected numbers of float32 or float64: {name}{reason}") from None
    if numbers.dtype.kind == "f" and (dtype is None or isinstance(value, np.ndarray)):
        return numbers
    if dtype is None or dtype == np.float64:
        return numbers.astype(np.float64)
    with np.errstate(over="ignore"):
        return numbers.astype(dtype)  # a number has no dtype of its own: 2 * x and np.pi * x of a float32 x are float32


def plain(x):
    return x.value if isinstance(x, TensorNode) else x
