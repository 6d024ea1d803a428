"""The fully connected layer."""

from functools import partial

from .. import initializers
from ..arguments import Setting, flag, instance, whole
from ..costs import Cost
from ..kernels import linear
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

    takes_relu = True
    splits_rows = splits_features = True

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

    def forward_calls(self, p):
        """y = x Wᵀ + b"""
        features = p.channels or (0, self.out_features)
        yield partial(
            linear.linear_forward, p.x, self.weight.value, self.bias and self.bias.value, p.y, p.relu, features
        )

    def input_calls(self, p):
        """dx = dout W"""
        columns, features = p.channels or (0, self.in_features), p.terms or (0, self.out_features)
        yield partial(linear.linear_backward_input, p.dout, self.weight.value, p.dx, columns, features)

    def parameter_calls(self, p, rows=None):
        """dw = doutᵀ x,  db = Σₙ dout; db with the last rows, which it follows in the flat vector"""
        rows = rows or (0, self.out_features)
        db = self.bias and p.grad(self.bias) if rows[1] == self.out_features else None
        yield partial(linear.linear_backward_parameters, p.dout, p.x, p.grad(self.weight), db, rows)

    def descent_calls(self, p, rows, values, grads, velocity, settings):
        """SGD's update with dw = doutᵀ x,  db = Σₙ dout"""
        yield partial(linear.linear_descend, p.dout, p.x, values, grads, velocity, settings, rows)

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

    def algorithm(self, input_shape):
        self.output_shape(input_shape)
        return "register tiles"

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if shape != (self.in_features,):
            raise ValueError(f"Linear: expected input (N, {self.in_features}), got (N, {', '.join(map(str, shape))})")
        return (self.out_features,)
