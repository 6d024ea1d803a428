"""A layer that multiplies its input by one number."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, flag, instance, number
from ..engine.ops import computes, flat
from ..flops import Cost
from ..kernels import scale
from .activations import Elementwise, ElementwiseOp
from .base import Parameter


class Scale(Elementwise):
    """y = factor · x, with a constant factor, or with `learned` one that is trained: `weight` (1,), `factor` at first.

    x, y of any shape. Backward: dx = factor · dout, and for a learned one dweight = Σ dout · x.

    In PyTorch `x * factor`, or a module of one's own with `nn.Parameter(torch.tensor([factor]))`.

    >>> import numpy as np
    >>> Scale(0.5).forward(np.array([[2.0, -6.0]]))
    array([[ 1., -3.]])
    """

    number_names = ("factor",)

    factor, learned = Setting(number), Setting(flag, fixed=True)
    weight = Setting(instance, kind=(Parameter, type(None)), fixed=True)

    def __init__(self, factor: float, learned: bool = False):
        super().__init__()
        self.factor, self.learned = factor, learned
        self.weight = self.parameter("weight", (1,), lambda rng: np.full(1, self.factor)) if self.learned else None

    def __setattr__(self, name, value):
        if name == "factor" and getattr(self, "learned", False):
            raise AttributeError("Scale: factor is what a learned weight starts from: set layer.weight.value")
        super().__setattr__(name, value)

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        size = N * math.prod(shape)
        return Cost(forward=size, dx=size, dw=self.learned * max(2 * size - 1, 0))


@computes(Scale)
class ScaleOp(ElementwiseOp):
    apart = True

    @property
    def factor(self) -> np.ndarray:
        """(1,), where the kernels read it at each pass"""
        return self.layer.numbers if self.layer.weight is None else self.layer.weight.value

    def forward(self, samples):
        """y = factor · x"""
        yield partial(scale.scale, flat(self.x[samples]), self.factor, flat(self.y[samples]))

    def gradients(self, into, samples):
        """dweight = Σ dout · x"""
        yield partial(scale.dot, flat(self.dout[samples]), flat(self.x[samples]), into[self.layer.weight])

    def backward(self, samples):
        """dx = factor · dout"""
        yield partial(scale.scale, flat(self.dout[samples]), self.factor, flat(self.dx[samples]))
