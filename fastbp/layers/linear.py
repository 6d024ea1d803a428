"""The fully connected layer."""

from functools import partial

from .. import initializers
from ..arguments import Setting, flag, instance, whole
from ..engine.ops import Op, computes
from ..flops import Cost
from ..kernels import activations, linear
from .activations import Activation
from .base import SIZE_LIMIT, Layer, Parameter


class Linear(Layer):
    """Fully connected layer, y = x Wᵀ + b.

    x (N, D) input · W (F, D) weight · b (F,) bias · y (N, F) output, with D = in_features and F = out_features

    Backward, for dout = ∂L/∂y of shape (N, F):
        dx = dout W      (N, D)
        dW = doutᵀ x     (F, D)
        db = Σₙ dout     (F,)

    `init` names how W starts (fastbp.initializers: "he_normal", "glorot_uniform", "pytorch", …); b starts at 0, except
    with "pytorch".

    >>> import numpy as np
    >>> layer = Linear(784, 100)
    >>> layer.forward(np.zeros((32, 784), np.float32)).shape
    (32, 100)
    """

    in_features, out_features = (Setting(whole, most=SIZE_LIMIT, fixed=True) for _ in range(2))
    init = Setting(initializers.known, fixed=True)
    weight, bias = (Setting(instance, kind=(Parameter, type(None)), fixed=True) for _ in range(2))

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, init: str | initializers.Initializer = "he_normal"
    ):
        super().__init__()
        self.in_features, self.out_features, self.init = in_features, out_features, init
        D, F, draw = self.in_features, self.out_features, initializers.get(init)
        self.weight = self.parameter("weight", (F, D), lambda rng: draw.weight(rng, (F, D), D, F))
        self.bias = (
            self.parameter("bias", (F,), lambda rng: draw.bias(rng, (F,), D)) if flag("Linear: bias", bias) else None
        )

    def accept(self, x):
        return self.expect(x, "N", self.in_features)

    def costs(self, input_shape, N):
        _, N = self.batch_of(input_shape, N)
        D, F, b = self.in_features, self.out_features, self.bias is not None
        return Cost(
            forward=N * F * (2 * D - 1 + b),
            dx=N * D * (2 * F - 1),
            dw=F * D * (2 * N - 1),
            db=b * F * (N - 1),
            multiply_adds=N * F * D,
        )

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if shape != (self.in_features,):
            raise ValueError(f"Linear: expected input (N, {self.in_features}), got (N, {', '.join(map(str, shape))})")
        return (self.out_features,)


@computes(Linear)
class LinearOp(Op):
    how, apart = "register tiles", True
    activation: Activation | None = None  # made in the same pass

    def __init__(self, *arguments):
        super().__init__(*arguments)
        D, F = self.layer.in_features, self.layer.out_features
        self.sizes = {"features": F, "terms": F, "rows": F, "columns": D}

    def forward(self, samples, features):
        """z = x Wᵀ + b, and y = the activation of that, where there is one"""
        w, b, z = self.layer.weight.value, self.layer.bias and self.layer.bias.value, self.y[samples]
        kind, numbers, wire = self.activation or Activation(activations.NONE, self.layer.numbers, self.output)
        yield partial(linear.linear_forward, self.x[samples], w, b, z, wire.array[samples], kind, numbers, features)

    @property
    def summed(self):
        """What dw, and what db is a sum of"""
        return self.dout, self.dout[:0] if self.centred else self.dout

    def gradients(self, into, rows):
        """dw = doutᵀ x,  db = Σₙ dout; db with the last rows, which it follows in the flat vector"""
        db = into[self.layer.bias] if self.layer.bias and rows[1] == self.sizes["rows"] else None
        rows = rows if self.layer.weight.requires_grad else (rows[1], rows[1])
        yield partial(linear.linear_backward_parameters, *self.summed, self.x, into[self.layer.weight], db, rows)

    def backward(self, samples, columns, terms, dx=None):
        """dx = dout W"""
        dx, w = self.dx if dx is None else dx, self.layer.weight.value
        yield partial(linear.linear_backward_input, self.dout[samples], w, dx[samples], columns, terms)

    def descend(self, values, grads, velocity, settings, rows):
        """SGD's update with dw = doutᵀ x,  db = Σₙ dout"""
        yield partial(linear.linear_descend, *self.summed, self.x, values, grads, velocity, settings, rows)
