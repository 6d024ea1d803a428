"""The operations.

Names: the inputs are a, b or x, the output is c or y, and ga, gb, gx, gc, gy are the gradients of the loss with respect
to them.
"""

import math

import numpy as np

from ..arguments import flag, instance, shown
from .axes import BadIndex, as_shape, less_largest, one_axis, require_broadcast, require_index, sum_to, summed
from .op import Op

# -- element by element, with broadcasting ---------------------------------------------------------------------------


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

    A negative a has powers with whole exponents, but no derivative with respect to the exponent: gb is NaN there. It is
    0 where a is 0.
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
            shapes = f"a {a.shape} and b {b.shape}"
            raise ValueError(f"MatMul: {shapes} are not (…, N, K) and (…, K, M), or vectors (K,)") from None

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


class Expand(Op):
    """y = copies of x along new axes and axes of size 1, up to `shape`        gx = Σ gy over the copies"""

    @staticmethod
    def forward(context, x, shape):
        context["shape"], shape = x.shape, as_shape("Expand", shape)
        try:
            return np.broadcast_to(x, shape).copy()
        except ValueError:
            grown = "can't be copied along new axes and axes of size 1"
            raise ValueError(f"Expand: x {x.shape} {grown} to shape {shape}") from None

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


class Transpose(Op):
    """y = x with its axes in another order, reversed if `axes` is None        gx = gy with the axes put back"""

    @staticmethod
    def forward(context, x, axes=None):
        if axes is not None:
            given = instance("Transpose: axes", axes, (tuple, list))
            axes = tuple(one_axis("Transpose: axes: each", k, x.ndim) for k in given)
            if sorted(axes) != list(range(x.ndim)):
                raise ValueError(f"Transpose: axes must name each of the {x.ndim} axes of x once, got {axes}")
        context["back"] = None if axes is None else np.argsort(axes).tolist()
        return x.transpose(axes)

    @staticmethod
    def backward(context, gy):
        return gy.transpose(context["back"])


class Select(Op):
    """y = x[index], for any index that NumPy takes        gx = gy, put back at the places that were taken

    What was taken several times gets the sum, what was never taken 0.
    """

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
