"""The operations, and a function for each.

Names: the inputs are a, b or x, the output is c or y, and ga, gb, gx, gc, gy are the gradients of the loss with respect to them.
"""

import math

import numpy as np

from ..arguments import LARGEST, array, flag, instance, shown, whole
from ..arguments import shape as sizes_of
from .nodes import Op, TensorNode, require_broadcast

# -- element by element, with broadcasting ---------------------------------------------------------------------------


def sum_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an array of `shape` that was broadcast to the gradient's shape.

    Each of its elements was used several times, and the gradients of its uses add up: the sum over the axes that broadcasting has
    added in front, and over those that it has stretched from 1.
    """
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = [added + k for k, size in enumerate(shape) if size == 1 and gradient.shape[added + k] != 1]
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)


class Add(Op):
    """c = a + b        ga = gc,  gb = gc"""

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Add", a, b)
        context["shapes"] = a.shape, b.shape
        return a + b

    @staticmethod
    def backward(context, gc):
        a_shape, b_shape = context["shapes"]
        return sum_to(gc, a_shape), sum_to(gc, b_shape)


class Subtract(Op):
    """c = a − b        ga = gc,  gb = −gc"""

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Subtract", a, b)
        context["shapes"] = a.shape, b.shape
        return a - b

    @staticmethod
    def backward(context, gc):
        a_shape, b_shape = context["shapes"]
        return sum_to(gc, a_shape), sum_to(-gc, b_shape)


class Multiply(Op):
    """c = a · b        ga = gc · b,  gb = gc · a: the factors change places"""

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Multiply", a, b)
        context["a"], context["b"] = a, b
        return a * b

    @staticmethod
    def backward(context, gc):
        a, b = context["a"], context["b"]
        return sum_to(gc * b, a.shape), sum_to(gc * a, b.shape)


class Divide(Op):
    """c = a / b        ga = gc / b,  gb = −gc · a / b²"""

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Divide", a, b)
        context["a"], context["b"] = a, b
        return a / b

    @staticmethod
    def backward(context, gc):
        a, b = context["a"], context["b"]
        return sum_to(gc / b, a.shape), sum_to(-gc * a / b / b, b.shape)


class Power(Op):
    """c = aᵇ        ga = gc · b · aᵇ⁻¹,  gb = gc · c · log a

    A negative a has powers with whole exponents, but no derivative with respect to the exponent: gb is NaN there. It is 0 where a
    is 0.
    """

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Power", a, b)
        context["a"], context["b"], context["c"] = a, b, a**b
        return context["c"]

    @staticmethod
    def backward(context, gc):
        a, b, c = context["a"], context["b"], context["c"]
        ga = gc * b * a ** np.where(b == 0, 1, b - 1)  # a⁰ is constant: 0 and not 0 · a⁻¹, which is NaN for a = 0
        log_a = np.log(a, where=a > 0, out=np.where(a < 0, np.nan, np.zeros_like(a)))
        return sum_to(ga, a.shape), sum_to(gc * c * log_a, b.shape)


class Maximum(Op):
    """c = max(a, b)        ga = gc where a ≥ b, else 0;  gb = gc where a < b, else 0: in a tie, a takes all"""

    @staticmethod
    def forward(context, a, b):
        require_broadcast("Maximum", a, b)
        context["shapes"], context["first"] = (a.shape, b.shape), a >= b
        return np.maximum(a, b)

    @staticmethod
    def backward(context, gc):
        a_shape, b_shape = context["shapes"]
        first = context["first"]
        return sum_to(np.where(first, gc, 0), a_shape), sum_to(np.where(first, 0, gc), b_shape)


class Negate(Op):
    """y = −x        gx = −gy"""

    @staticmethod
    def forward(context, x):
        return -x

    @staticmethod
    def backward(context, gy):
        return -gy


class Exp(Op):
    """y = eˣ        gx = gy · y"""

    @staticmethod
    def forward(context, x):
        context["y"] = np.exp(x)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        return gy * context["y"]


class Log(Op):
    """y = log x, the natural logarithm        gx = gy / x"""

    @staticmethod
    def forward(context, x):
        context["x"] = x
        return np.log(x)

    @staticmethod
    def backward(context, gy):
        return gy / context["x"]


# -- activations -----------------------------------------------------------------------------------------------------


class ReLU(Op):
    """y = max(x, 0)        gx = gy where x > 0, else 0: the subgradient at the kink is 0"""

    @staticmethod
    def forward(context, x):
        context["y"] = np.maximum(x, 0)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        return np.where(context["y"] > 0, gy, 0)


class Sigmoid(Op):
    """y = 1 / (1 + e⁻ˣ)        gx = gy · y (1 − y)"""

    @staticmethod
    def forward(context, x):
        small = np.exp(-np.abs(x))  # at most 1: no x overflows
        context["y"] = np.where(x >= 0, 1, small) / (1 + small)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        y = context["y"]
        return gy * y * (1 - y)


class Tanh(Op):
    """y = tanh x        gx = gy · (1 − y²)"""

    @staticmethod
    def forward(context, x):
        context["y"] = np.tanh(x)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        return gy * (1 - context["y"] ** 2)


class Softmax(Op):
    """y = eˣ / Σ eˣ, the sum over `axis`        gx = y · (gy − Σ gy · y)"""

    @staticmethod
    def forward(context, x, axis=-1):
        axis = one_axis("Softmax: axis", axis, x.ndim or 1)
        powers = less_largest(x, axis)  # a common factor in all of them cancels
        np.exp(powers, out=powers)
        context["axis"], context["y"] = axis, powers / powers.sum(axis=axis, keepdims=True)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        y = context["y"]
        return y * (gy - (gy * y).sum(axis=context["axis"], keepdims=True))


def less_largest(x: np.ndarray, axis: int) -> np.ndarray:
    """x less its largest elements along `axis`."""
    result = np.empty(x.shape, x.dtype)  # before anything is computed: that there is no memory for it is soon seen
    return np.subtract(x, x.max(axis=axis, keepdims=True, initial=-np.inf), out=result)


class LogSoftmax(Op):
    """y = x − log Σ eˣ, the sum over `axis`        gx = gy − eʸ · Σ gy"""

    @staticmethod
    def forward(context, x, axis=-1):
        axis = one_axis("LogSoftmax: axis", axis, x.ndim or 1)
        shifted = less_largest(x, axis)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        with np.errstate(divide="ignore"):  # at least 1, the largest's own share, unless there is none
            context["axis"], context["y"] = axis, shifted - np.log(total)
        return context["y"]

    @staticmethod
    def backward(context, gy):
        return gy - np.exp(context["y"]) * gy.sum(axis=context["axis"], keepdims=True)


# -- matrices --------------------------------------------------------------------------------------------------------


class MatMul(Op):
    """c = a b for a (…, N, K) and b (…, K, M): c (…, N, M)        ga = gc bᵀ,  gb = aᵀ gc

    As in NumPy, the axes in front broadcast, and a vector stands for one row (a) or one column (b), which c then lacks.
    """

    @staticmethod
    def forward(context, a, b):
        context["a"], context["b"] = a, b
        try:
            return a @ b
        except ValueError:
            raise ValueError(
                f"MatMul: a {a.shape} and b {b.shape} are not (…, N, K) and (…, K, M), or vectors (K,)"
            ) from None

    @staticmethod
    def backward(context, gc):
        a, b = context["a"], context["b"]
        rows = a[None, :] if a.ndim == 1 else a
        columns = b[:, None] if b.ndim == 1 else b
        gc = np.expand_dims(gc, -1) if b.ndim == 1 else gc
        gc = np.expand_dims(gc, -2) if a.ndim == 1 else gc
        ga, gb = gc @ columns.swapaxes(-1, -2), rows.swapaxes(-1, -2) @ gc
        return sum_to(ga, rows.shape).reshape(a.shape), sum_to(gb, columns.shape).reshape(b.shape)


# -- sums, and their opposite ----------------------------------------------------------------------------------------


class Sum(Op):
    """y = Σ x over `axis` (a number, some, or None for all)        gx = gy, for each element that went into a sum

    With `keepdims` these axes stay, with one element.
    """

    @staticmethod
    def forward(context, x, axis=None, keepdims=False):
        axes = summed(x, axis)
        y = x.sum(axis=axes, keepdims=True)
        context["shape"], context["kept"] = x.shape, y.shape
        return y if flag("Sum: keepdims", keepdims) else y.squeeze(axes)

    @staticmethod
    def backward(context, gy):
        return np.broadcast_to(gy.reshape(context["kept"]), context["shape"])


class Mean(Op):
    """y = 1/K Σ x over `axis` (a number, some, or None for all), K elements in each sum        gx = gy / K

    With `keepdims` these axes stay, with one element. The mean over no elements is a ValueError.
    """

    @staticmethod
    def forward(context, x, axis=None, keepdims=False):
        flag("Mean: keepdims", keepdims)
        context["count"] = math.prod(x.shape[k] for k in summed(x, axis, "Mean"))
        if context["count"] == 0:
            raise ValueError(f"Mean: the mean over axis {axis} of x {x.shape}, no elements, is not defined")
        return Sum.forward(context, x, axis, keepdims) / context["count"]

    @staticmethod
    def backward(context, gy):
        return Sum.backward(context, gy) / context["count"]


def summed(x: np.ndarray, axis: int | tuple[int, ...] | None, op: str = "Sum") -> tuple[int, ...]:
    """The axes that `axis` means."""
    if axis is None:
        return tuple(range(x.ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(one_axis(f"{op}: axis", k, x.ndim) for k in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{op}: axis must not name one of the axes twice, got {shown(axis)}")
    return axes


def one_axis(what: str, axis: int, ndim: int) -> int:
    """`axis` of an x with `ndim` axes, counted from the first; negative ones are counted from the end."""
    axis = whole(what, axis, -LARGEST)
    if not -ndim <= axis < ndim:
        raise ValueError(f"{what} must be one of the {ndim} axes of x, got {axis}")
    return axis % ndim


class Expand(Op):
    """y = copies of x along new axes in front and along axes of size 1, up to `shape`        gx = Σ gy over the copies"""

    @staticmethod
    def forward(context, x, shape):
        context["shape"], shape = x.shape, as_shape("Expand", shape)
        try:
            return np.broadcast_to(x, shape).copy()
        except ValueError:
            raise ValueError(
                f"Expand: x {x.shape} can't be copied along new axes and axes of size 1 to shape {shape}"
            ) from None

    @staticmethod
    def backward(context, gy):
        return sum_to(gy, context["shape"])


# -- arrangement -----------------------------------------------------------------------------------------------------


class Reshape(Op):
    """y = x in another shape, in row-major order; one size may be −1        gx = gy in x's shape"""

    @staticmethod
    def forward(context, x, shape):
        context["shape"], shape = x.shape, as_shape("Reshape", shape, least=-1)
        try:
            return x.reshape(shape)
        except ValueError:
            raise ValueError(f"Reshape: {x.size} elements, of x {x.shape}, don't fill the shape {shape}") from None

    @staticmethod
    def backward(context, gy):
        return gy.reshape(context["shape"])


def as_shape(op: str, shape: int | tuple[int, ...], least: int = 0) -> tuple[int, ...]:
    """`shape` as a tuple; a single number is that of a vector."""
    return sizes_of(f"{op}: shape", shape if isinstance(shape, (tuple, list)) else (shape,), least)


class Transpose(Op):
    """y = x with its axes in another order, reversed if `axes` is None        gx = gy with the axes put back"""

    @staticmethod
    def forward(context, x, axes=None):
        if axes is not None:
            axes = tuple(
                one_axis("Transpose: axes: each", k, x.ndim) for k in instance("Transpose: axes", axes, (tuple, list))
            )
            if sorted(axes) != list(range(x.ndim)):
                raise ValueError(f"Transpose: axes must name each of the {x.ndim} axes of x once, got {axes}")
        context["back"] = None if axes is None else np.argsort(axes).tolist()
        return x.transpose(axes)

    @staticmethod
    def backward(context, gy):
        return gy.transpose(context["back"])


class BadIndex(ValueError, IndexError):
    """An index that the array does not have: a bad value as any other, and what Python's `[ ]` is expected to raise."""


class Select(Op):
    """y = x[index], for any index that NumPy takes        gx = gy at the places that were taken, added up where one was taken
    several times, 0 elsewhere"""

    @staticmethod
    def forward(context, x, index):
        for part in index if isinstance(index, tuple) else (index,):
            require_index(part)
        context["shape"], context["index"] = x.shape, index
        try:
            return x[index]
        except (IndexError, ValueError, OverflowError) as error:
            raise BadIndex(f"Select: index {shown(index)} of x {x.shape}: {error}") from None
        except TypeError as error:  # slices of what is no number
            raise TypeError(f"Select: index {shown(index)}: {error}") from None

    @staticmethod
    def backward(context, gy):
        gx = np.zeros(context["shape"], gy.dtype)
        np.add.at(gx, context["index"], gy)
        return gx


def require_index(part) -> None:
    """TypeError for what is no index of one axis or of some: a masked array, text, floats."""
    if part is None or part is ... or isinstance(part, (int, slice)):
        return
    chosen = array("Select: index", part, "biuf")
    if chosen.dtype.kind == "f" and chosen.size:  # an empty list is of floats
        raise TypeError(f"Select: index must consist of whole numbers, slices or truth values, got {shown(part)}")


class Concatenate(Op):
    """y = the inputs one after the other along `axis`        each input's gradient is its own stretch of gy"""

    @staticmethod
    def forward(context, *tensors, axis=0):
        if not tensors:
            raise ValueError("Concatenate: tensors must be one or more, got none")
        if not min(x.ndim for x in tensors):
            raise ValueError("Concatenate: tensors must have axes, got a number, of shape ()")
        axis = one_axis("Concatenate: axis", axis, tensors[0].ndim)
        if len({(x.ndim, x.shape[:axis], x.shape[axis + 1 :]) for x in tensors}) != 1:
            shapes = ", ".join(str(x.shape) for x in tensors)
            raise ValueError(f"Concatenate: the shapes of tensors may differ in axis {axis} only, got {shapes}")
        context["axis"], context["ends"] = axis, np.cumsum([x.shape[axis] for x in tensors])
        return np.concatenate(tensors, axis=axis)

    @staticmethod
    def backward(context, gy):
        return tuple(np.split(gy, context["ends"][:-1], axis=context["axis"]))


# -- a function for each that is not one of Python's operators -------------------------------------------------------

Tensor = TensorNode | np.ndarray | float


def matmul(a: Tensor, b: Tensor) -> TensorNode:
    """a b for a (…, N, K) and b (…, K, M); the same as a @ b."""
    return MatMul.do_forward(a, b)


def maximum(a: Tensor, b: Tensor) -> TensorNode:
    """The larger of a and b, element by element; in a tie the gradient goes to a."""
    return Maximum.do_forward(a, b)


def exp(x: Tensor) -> TensorNode:
    """eˣ"""
    return Exp.do_forward(x)


def log(x: Tensor) -> TensorNode:
    """The natural logarithm of x."""
    return Log.do_forward(x)


def relu(x: Tensor) -> TensorNode:
    """max(x, 0), with derivative 0 at 0."""
    return ReLU.do_forward(x)


def sigmoid(x: Tensor) -> TensorNode:
    """1 / (1 + e⁻ˣ)"""
    return Sigmoid.do_forward(x)


def tanh(x: Tensor) -> TensorNode:
    """The hyperbolic tangent of x."""
    return Tanh.do_forward(x)


def softmax(x: Tensor, axis: int = -1) -> TensorNode:
    """eˣ / Σ eˣ, the sum over `axis`."""
    return Softmax.do_forward(x, axis=axis)


def log_softmax(x: Tensor, axis: int = -1) -> TensorNode:
    """x − log Σ eˣ, the sum over `axis`."""
    return LogSoftmax.do_forward(x, axis=axis)


def sum(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> TensorNode:
    """Σ x over one axis, some, or all (None)."""
    return Sum.do_forward(x, axis=axis, keepdims=keepdims)


def mean(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> TensorNode:
    """The mean of x over one axis, some, or all (None)."""
    return Mean.do_forward(x, axis=axis, keepdims=keepdims)


def expand(x: Tensor, shape: tuple[int, ...]) -> TensorNode:
    """Copies of x along new axes in front and along axes of size 1, up to `shape`."""
    return Expand.do_forward(x, shape=shape)


def reshape(x: Tensor, shape: tuple[int, ...]) -> TensorNode:
    """x in another shape, in row-major order; one size may be −1."""
    return Reshape.do_forward(x, shape=shape)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> TensorNode:
    """x with its axes in another order, reversed if `axes` is None."""
    return Transpose.do_forward(x, axes=axes)


def select(x: Tensor, index) -> TensorNode:
    """x[index], for any index that NumPy takes."""
    return Select.do_forward(x, index=index)


def concatenate(tensors: list[Tensor] | tuple[Tensor, ...], axis: int = 0) -> TensorNode:
    """The tensors one after the other along `axis`."""
    instance("concatenate: tensors", tensors, (list, tuple))
    return Concatenate.do_forward(*tensors, axis=axis)
