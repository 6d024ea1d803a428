"""Layers in a row that are computed in one pass, by one op or two: their results are those of the layers, to
rounding."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from ..engine.graph import Wire
from ..engine.ops import Op, computes, planes
from ..kernels import norm, norm_relu_pool
from ..kernels.conv.pooled import Pooled
from ..kernels.pool2d import max_pool2d_backward
from .activations import (
    GELU,
    Activation,
    Elementwise,
    ElementwiseOp,
    GELUOp,
    LeakyReLU,
    LeakyReLUOp,
    ReLU,
    ReLUOp,
    Sigmoid,
    SigmoidOp,
    SiLU,
    SiLUOp,
    Tanh,
    TanhOp,
)
from .base import Layer
from .conv import Conv2d, ConvOp
from .joins import Plus, PlusOp
from .linear import Linear, LinearOp
from .norm import BatchNorm1d, BatchNorm2d, BatchNormOp, FixedBatchNormOp, MapNormOp
from .pool import MaxPool2d, MaxPoolOp


class Applied(ElementwiseOp):
    """An activation that the op before has applied; its way back is its own."""

    how = "forward in the pass of the layer before, backward a pass of its own"

    def forward(self):
        yield from ()


class ReLUAfter(Applied, ReLUOp):
    pass


class LeakyReLUAfter(Applied, LeakyReLUOp):
    keeps = "y"  # for slopes that are not negative: others are not entered


class SigmoidAfter(Applied, SigmoidOp):
    pass


class TanhAfter(Applied, TanhOp):
    pass


class GELUAfter(Applied, GELUOp):
    pass


class SiLUAfter(Applied, SiLUOp):
    pass


AFTER = {
    ReLU: ReLUAfter, LeakyReLU: LeakyReLUAfter, Sigmoid: SigmoidAfter, Tanh: TanhAfter, GELU: GELUAfter, SiLU: SiLUAfter
}  # fmt: skip


def with_activation(op: type[Op], kind: type[Elementwise]) -> Callable[..., list[Op]]:
    """For a layer and an activation of this kind: the layer's op, with its `activation` set, makes both forward; the
    way back of each is its own. In training the layer's own output is kept where the activation's way back reads it."""

    def make(layers, inputs, output, setting, paths):
        before = Wire(output.shape)
        first = op(layers[:1], inputs, before, setting, paths[:1])
        first.activation = Activation.of(layers[1], output)
        first.how = f"{first.how}, and the {kind.__name__} in the same pass"
        after = AFTER[kind](layers[1:], (before,), output, setting, paths[1:])
        if after.keeps == "y" or not setting.training:
            output.same_as = before
        return [first, after]

    return make


def enter_with_activations(layer: type[Layer], op: type[Op], kinds: Iterable[type[Elementwise]] = AFTER) -> None:
    """Enter this op as what computes this layer with an activation of each of these kinds after it."""

    def suits(layers, shape, setting):
        told = not isinstance(layers[1], LeakyReLU) or layers[1].rising
        return told and op.suits(layers[:1], shape, setting)

    for kind in kinds:
        computes(layer, kind, when=suits)(with_activation(op, kind))


enter_with_activations(Linear, LinearOp)
enter_with_activations(Plus, PlusOp)
enter_with_activations(Conv2d, ConvOp)


# -- max pools and activations -----------------------------------------------------------------------------------------
#
# An activation that never falls may as well come after the maximum, of a fraction of the pixels. y is the same, to
# rounding. So is the gradient, but where an activation gives the same y for two different x, in rounding or because it
# is flat: then the larger one's pixel has it, not the first one's.

RISING = ReLU, LeakyReLU, Sigmoid, Tanh  # whose derivative y tells


def rises(layers: tuple[Layer, ...]) -> bool:
    """Does no activation among these layers fall?"""
    return all(layer.rising for layer in layers if isinstance(layer, LeakyReLU))


def pool_and_activation(layers: tuple[Layer, ...], output: Wire) -> tuple[MaxPool2d, Activation | None]:
    """Of layers among which there is a pool, and an activation or none."""
    pool = next(layer for layer in layers if isinstance(layer, MaxPool2d))
    return pool, next((Activation.of(layer, output) for layer in layers if isinstance(layer, Elementwise)), None)


class ActivatedMaxPool(MaxPoolOp):
    """An activation that never falls and a MaxPool2d, in any order: y is the activation of each window's maximum."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.layer, self.activation = pool_and_activation(self.layers, self.output)
        self.dpooled = np.zeros((self.setting.N, *self.output.shape), self.setting.dtype)  # the maxima's gradients

    @classmethod
    def suits(cls, layers, shape, setting):
        return rises(layers)

    @property
    def how(self):
        return f"{super().how}, the activation after the maximum"

    def forward(self, samples):
        yield from super().forward(samples)
        yield self.activation.call(self.y, samples)

    def backward(self, samples):
        yield self.activation.call_back(self.dout, self.dpooled, samples)
        yield partial(max_pool2d_backward, self.dpooled[samples], self.argmax[samples], self.dx[samples])


def conv_and_pool(layers, inputs, output, setting, paths) -> list[Op]:
    """The convolution by itself, and then both others in one."""
    between = Wire(layers[0].output_shape(inputs[0].shape))
    conv = ConvOp(layers[:1], inputs, between, setting, paths[:1])
    return [conv, ActivatedMaxPool(layers[1:], (between,), output, setting, paths[1:])]


class ConvPool(Op):
    """Conv2d of stride 1, 2×2 MaxPool2d and an activation that never falls, before or after the pool, or none: y is the
    activation of b + the maximum of each window of w ⋆ x.

    The convolution's own output never reaches memory. Where two pixels of a window differ by less than the bias's
    rounding, the maximum may be taken at the other one.
    """

    saves, apart = {"argmax": np.int32}, True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        _, self.activation = pool_and_activation(self.layers, self.output)
        if self.activation:
            self.dpooled = np.zeros((self.setting.N, *self.output.shape), self.setting.dtype)
        self.way = Pooled(self.layer.on(self.inputs[0].shape[1:]), self.setting.N, self.setting.dtype)
        self.how = self.way.how

    @classmethod
    def suits(cls, layers, shape, setting):
        pool, _ = pool_and_activation(layers, None)
        return pool.pairs and rises(layers) and Pooled.suits(layers[0].on(shape[1:]), setting.N)

    def forward(self, samples):
        w, b = self.layer.weight.value, self.layer.bias and self.layer.bias.value
        yield from self.way.forward(self.x[samples], w, b, self.y[samples], self.argmax[samples])
        if self.activation:
            yield self.activation.call(self.y, samples)

    def gradients(self, into, samples):
        """dw and db, from the pixels that have a gradient"""
        dw, db = into[self.layer.weight], self.layer.bias and into[self.layer.bias]
        yield from self._through_activation(samples)
        yield from self.way.backward_weight(self.dmaxima[samples], self.argmax[samples], self.x[samples], dw, db)

    def backward(self, samples):
        """dx, from the same pixels"""
        w, dx = self.layer.weight.value, self.dx[samples]
        yield from self._through_activation(samples)
        yield from self.way.backward_input(self.dmaxima[samples], self.argmax[samples], w, dx)

    def _through_activation(self, samples):
        """The maxima's gradients, in `dpooled`; both ways back make them: a frozen layer goes one of them alone"""
        if self.activation:
            yield self.activation.call_back(self.dout, self.dpooled, samples)

    @property
    def dmaxima(self) -> np.ndarray:
        return self.dpooled if self.activation else self.dout


computes(Conv2d, MaxPool2d)(ConvPool)
for _kind in RISING:
    for _pair in ((_kind, MaxPool2d), (MaxPool2d, _kind)):
        computes(*_pair)(ActivatedMaxPool)
        computes(Conv2d, *_pair, when=lambda layers, *_: rises(layers))(conv_and_pool)
        computes(Conv2d, *_pair)(ConvPool)  # asked before the one above


# -- batch norm --------------------------------------------------------------------------------------------------------

for _op in (MapNormOp, FixedBatchNormOp):
    for _norm in (BatchNorm1d, BatchNorm2d):
        enter_with_activations(_norm, _op, [kind for kind in AFTER if kind is not ReLU])  # which these ops have


class NormPool(MapNormOp):
    """BatchNorm2d and 2×2 MaxPool2d in training, with a ReLU before or after the pool, or none: y is the maximum of
    each window of gamma · x̂ + beta, or of that and 0."""

    how = "one pass, vectors of 2×2 windows; parameters' gradients over the pooled pixels alone"
    saves = {"argmax": np.int32, "chosen": None}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.relu = any(isinstance(layer, ReLU) for layer in self.layers)

    @classmethod
    def suits(cls, layers, shape, setting):
        pool, _ = pool_and_activation(layers, None)
        return super().suits(layers, shape, setting) and pool.pairs and min(shape[1:]) >= 2

    def forward(self, samples):
        x, arrays = self.x[samples], (self.y[samples], self.chosen[samples], self.argmax[samples])
        yield partial(norm_relu_pool.norm_relu_pool_forward, x, *self.affine, self.batch, *arrays, self.relu)
        if self.activation:
            yield self.activation.call(self.y, samples)

    def plane_sums(self, samples):
        """Shares of dgamma and dbeta, from the pixels that have a gradient"""
        arrays = planes(self.dout[samples]), planes(self.chosen[samples]), self.affine, self.batch
        yield partial(norm.plane_sums, *arrays, *self.shares_of(samples), self.relu)

    def backward(self, samples):
        """dx, through the mean and the variance too"""
        dout, x, dx = (array[samples] for array in (self.dout, self.x, self.dx))
        fixed = self.batch, (self.layer.gamma.value, *self.sums[:2]), self.count if self.setting.training else 0
        pooled = self.y[samples], self.argmax[samples]
        yield partial(norm_relu_pool.norm_relu_pool_backward_input, dout, x, pooled, *fixed, dx, self.relu)


class FixedNormPool(NormPool):
    """The same in evaluation, where samples stay apart."""

    before, prepare, centres = FixedBatchNormOp.before, FixedBatchNormOp.prepare, False

    @classmethod
    def suits(cls, layers, shape, setting):
        pool, _ = pool_and_activation(layers, None)
        return not setting.training and pool.pairs and min(shape[1:]) >= 2


def norm_and_pool(layers, inputs, output, setting, paths) -> list[Op]:
    """The batch norm and the pool in one pass, and an activation between them after both."""
    before, kind = Wire(output.shape), next(kind for kind in RISING if isinstance(layers[1], kind))
    first = NormPool(layers[::2], inputs, before, setting, paths[::2])
    first.activation, output.same_as = Activation.of(layers[1], output), before
    return [first, AFTER[kind](layers[1:2], (before,), output, setting, paths[1:2])]


def norm_and_activated_pool(layers, inputs, output, setting, paths) -> list[Op]:
    """The batch norm by itself, and then both others in one."""
    between = Wire(inputs[0].shape)
    kind = MapNormOp if MapNormOp.suits(layers, inputs[0].shape, setting) else BatchNormOp
    norm_op = kind(layers[:1], inputs, between, setting, paths[:1])
    return [norm_op, ActivatedMaxPool(layers[1:], (between,), output, setting, paths[1:])]


for _kind in (kind for kind in RISING if kind is not ReLU):
    computes(BatchNorm2d, _kind, MaxPool2d, when=lambda layers, _, setting: setting.training and rises(layers))(
        norm_and_activated_pool
    )
    computes(BatchNorm2d, _kind, MaxPool2d, when=lambda layers, *rest: rises(layers) and NormPool.suits(layers, *rest))(
        norm_and_pool
    )
for _kinds in ((MaxPool2d,), (ReLU, MaxPool2d), (MaxPool2d, ReLU)):
    computes(BatchNorm2d, *_kinds)(NormPool)
    computes(BatchNorm2d, *_kinds)(FixedNormPool)
