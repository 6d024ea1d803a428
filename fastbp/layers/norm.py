"""Batch normalisation."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, instance, number, whole
from ..engine.ops import Op, computes, planes
from ..flops import Cost
from ..kernels import norm
from ..kernels.reduce import sum_parts
from .activations import Activation, ReLU
from .base import SIZE_LIMIT, Layer, Parameter

IN_CACHE = 65_536  # numbers that stay in the second cache, z and y


class BatchNorm(Layer):
    """y = gamma · x̂ + beta with x̂ = (x − mean) / √(var + eps), for each channel (axis 1) over all other axes.

    x, y (N, C) or (N, C, …) · gamma, beta, mean, var (C,) · M = the number of elements of a channel

    Training: mean and var are the batch's own, var biased (divided by M). The running statistics follow them,
    running ← (1 − momentum) · running + momentum · batch, with the unbiased variance (M − 1; at M = 1, where that
    does not exist, the biased one, 0). Evaluation: mean and var are the running statistics.

    Backward, with Σ over all axes but the channels:
        dgamma = Σ dout · x̂        dbeta = Σ dout
        dx = gamma / √(var + eps) · (dout − (dbeta + x̂ · dgamma) / M)      after a training forward
        dx = gamma / √(var + eps) · dout                                  after an evaluation forward

    The bias of a Conv2d or Linear right before it has no effect in training, for the mean takes it away: in a network
    its gradient is exactly 0. In evaluation a network computes the two as one layer, with other weights.

    A batch of one value a channel gives y = beta and dx = 0 in training; an empty batch is a ValueError there.
    """

    number_names = ("eps", "momentum")

    num_features = Setting(whole, most=SIZE_LIMIT, fixed=True)
    eps, momentum = Setting(number, above=0), Setting(number, least=0, most=1)
    gamma, beta = (Setting(instance, kind=Parameter, fixed=True) for _ in range(2))

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        C = self.num_features
        self.gamma = self.parameter("gamma", (C,), lambda rng: np.ones(C))
        self.beta = self.parameter("beta", (C,), lambda rng: np.zeros(C))
        self.state |= {"running_mean": np.zeros(C, self.dtype), "running_var": np.ones(C, self.dtype)}

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        M = N * math.prod(shape[1:])
        if M == 0:  # an image without pixels
            return Cost(forward=0, dx=0)
        return self.num_features * Cost(forward=7 * M + 10, dx=4 * M + 3, dw=2 * M - 1, db=M - 1)


class BatchNorm1d(BatchNorm):
    __doc__ = BatchNorm.__doc__ and BatchNorm.__doc__.replace(
        "x, y (N, C) or (N, C, …)", "x, y (N, C), or (N, C, L) for sequences"
    )
    # -- under python -OO there is none

    def accept(self, x):
        if isinstance(x, np.ndarray) and x.ndim == 3:
            return self.expect(x, "N", self.num_features, "L")
        return self.expect(x, "N", self.num_features)

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) not in (1, 2) or shape[0] != self.num_features:
            raise ValueError(f"BatchNorm1d: expected input (N, {self.num_features}), got {('N', *shape)}")
        return shape


class BatchNorm2d(BatchNorm):
    __doc__ = BatchNorm.__doc__ and BatchNorm.__doc__.replace("x, y (N, C) or (N, C, …)", "x, y (N, C, H, W)")

    def accept(self, x):
        return self.expect(x, "N", self.num_features, "H", "W")

    def output_shape(self, input_shape):
        shape = self.sample_shape(input_shape)
        if len(shape) != 3 or shape[0] != self.num_features:
            raise ValueError(f"BatchNorm2d: expected input (N, {self.num_features}, H, W), got {('N', *shape)}")
        return shape


class NormOp(Op):
    """What all ops of a batch norm have, with a ReLU after it or without."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        C, x = self.layer.num_features, self.inputs[0].shape
        self.relu = len(self.layers) > 1
        self.mean, self.inv_std = np.empty(C, self.setting.dtype), np.empty(C, self.setting.dtype)
        self.everywhere, self.count = (0, C), self.setting.N * math.prod(x[1:])
        if self.setting.training and not self.count:
            shape = (self.setting.N, *x)
            raise ValueError(
                f"{type(self.layer).__name__}: the mean of an empty batch, input {shape}, is not defined in training"
            )

    @property
    def affine(self):
        return self.layer.gamma.value, self.layer.beta.value

    @property
    def batch(self):
        return self.mean, self.inv_std

    @property
    def running(self):
        return self.layer.state["running_mean"], self.layer.state["running_var"]

    @property
    def sums(self):
        """dgamma and dbeta, which come before dx, and how many numbers each is a sum of"""
        return self.layer.gamma.grad_array, self.layer.beta.grad_array, self.count


class BatchNormOp(NormOp):
    """In training, on features and small maps: each channel sees all samples."""

    centres = True
    how = f"channel by channel, vectors along channels: fewer than {norm.SHORT} pixels"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sizes = {"channels": self.layer.num_features}
        self.pixels = math.prod(self.inputs[0].shape[1:])

    @classmethod
    def suits(cls, layers, shape, setting):
        return setting.training and math.prod(shape[1:]) < norm.SHORT

    def forward(self, channels):
        """The batch's mean and 1 / √(var + eps), the running statistics, and y = gamma · x̂ + beta"""
        x, y = planes(self.x), planes(self.y)
        yield partial(norm.batch_norm_statistics, x, *self.batch, self.running, self.layer.numbers, channels)
        yield partial(norm.batch_norm_forward, x, self.affine, self.batch, y, channels, self.relu)

    def gradients(self, into, channels):
        """dgamma = Σ dout · x̂,  dbeta = Σ dout"""
        arrays, sums = (planes(self.dout), planes(self.x)), (into[self.layer.gamma], into[self.layer.beta])
        yield partial(norm.batch_norm_backward_parameters, *arrays, self.affine, self.batch, sums, channels, self.relu)

    def backward(self, channels):
        """dx, through the mean and the variance too"""
        dout, x, dx = map(planes, (self.dout, self.x, self.dx))
        fixed = self.affine, self.batch, self.sums
        yield partial(norm.batch_norm_backward_training, dout, x, *fixed, dx, channels, self.relu)


class MapNormOp(NormOp):
    """In training, on larger maps: sample by sample, and what is a sum over all of them between."""

    how, centres = "sample by sample, vectors along pixels; sums over samples between", True
    activation: Activation | None = None  # made in the same pass
    before = {"forward": ("statistics", "gather"), "gradients": ("plane_sums",)}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        # Of each sample and channel its mean and squares about it, and later its shares of dgamma and dbeta: no arrays
        # that forward leaves for backward, so no attributes of their own
        shape = self.setting.N, self.layer.num_features
        self.shares = tuple(np.empty(shape, self.setting.dtype) for _ in range(2))

    @classmethod
    def suits(cls, layers, shape, setting):
        return setting.training and math.prod(shape[1:]) >= norm.SHORT

    def shares_of(self, samples):
        return [share[samples] for share in self.shares]

    def statistics(self, samples):
        """Mean and squares of each sample's channels"""
        yield partial(norm.plane_statistics, planes(self.x[samples]), *self.shares_of(samples))

    def gather(self):
        """The batch's mean and 1 / √(var + eps), and the running statistics"""
        pixels = self.count // self.setting.N
        yield partial(norm.gather_statistics, *self.shares, pixels, *self.batch, self.running, self.layer.numbers)

    def forward(self, samples):
        """z = gamma · x̂ + beta, and y = the activation of that, where there is one, while z is in the cache"""
        step = max(1, IN_CACHE // max(1, math.prod(self.output.shape)) if self.activation else self.setting.N)
        for start in range(samples.start, max(samples.stop, samples.start + 1), step):
            some = slice(start, min(start + step, samples.stop))
            x, z = planes(self.x[some]), planes(self.y[some])
            yield partial(norm.batch_norm_forward, x, self.affine, self.batch, z, self.everywhere, self.relu)
            if self.activation:
                yield self.activation.call(self.y, some)

    def plane_sums(self, samples):
        """Shares of dgamma and dbeta"""
        arrays = planes(self.dout[samples]), planes(self.x[samples]), self.affine, self.batch
        yield partial(norm.plane_sums, *arrays, *self.shares_of(samples), self.relu)

    def gradients(self, into):
        """dgamma = Σ dout · x̂,  dbeta = Σ dout"""
        for share, parameter in zip(self.shares, (self.layer.gamma, self.layer.beta), strict=True):
            yield partial(sum_parts, share, into[parameter])

    def backward(self, samples):
        """dx, through the mean and the variance too"""
        dout, x, dx = (planes(array[samples]) for array in (self.dout, self.x, self.dx))
        fixed = self.affine, self.batch, self.sums
        yield partial(norm.batch_norm_backward_training, dout, x, *fixed, dx, self.everywhere, self.relu)


class FixedBatchNormOp(MapNormOp):
    """In evaluation: mean and variance are constants, so samples stay apart."""

    how, centres = "sample by sample: mean and variance are constants", False
    before = {"gradients": ("plane_sums",)}

    @classmethod
    def suits(cls, layers, shape, setting):
        return not setting.training

    def prepare(self):
        yield partial(norm.batch_norm_running, *self.running, *self.batch, self.layer.numbers)

    def backward(self, samples):
        """dx, with mean and variance as constants"""
        dout, y, dx = (planes(array[samples]) for array in (self.dout, self.y, self.dx))
        yield partial(norm.batch_norm_backward_evaluation, dout, y, self.layer.gamma.value, self.inv_std, dx, self.relu)


for kind in (BatchNorm1d, BatchNorm2d):
    for op in (BatchNormOp, MapNormOp, FixedBatchNormOp):
        computes(kind)(op)
        computes(kind, ReLU)(op)
