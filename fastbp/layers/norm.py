"""Batch normalisation."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, instance, number, whole
from ..engine.ops import Op, computes, planes
from ..flops import Cost
from ..kernels import norm
from .activations import ReLU
from .base import SIZE_LIMIT, Layer, Parameter


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


class BatchNormOp(Op):
    """In training, with a ReLU after it or without: each channel sees all samples."""

    how = "channel by channel: its mean and variance are those of all samples"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        C, x = self.layer.num_features, self.inputs[0].shape
        self.relu, self.sizes = len(self.layers) > 1, {"channels": C}
        self.mean, self.inv_std = np.empty(C, self.setting.dtype), np.empty(C, self.setting.dtype)
        if self.setting.training and not self.setting.N * math.prod(x):
            shape = (self.setting.N, *x)
            raise ValueError(
                f"{type(self.layer).__name__}: the mean of an empty batch, input {shape}, is not defined in training"
            )

    @classmethod
    def suits(cls, layers, shape, setting):
        return setting.training

    def forward(self, channels):
        """y = gamma · x̂ + beta"""
        yield self.statistics(channels)
        gamma, beta = self.layer.gamma.value, self.layer.beta.value
        arrays = planes(self.x), gamma, beta, self.mean, self.inv_std, planes(self.y)
        yield partial(norm.batch_norm_forward, *arrays, channels, self.relu)

    def statistics(self, channels):
        """The batch's mean and 1 / √(var + eps), and the running statistics"""
        running = self.layer.state["running_mean"], self.layer.state["running_var"]
        batch = self.mean, self.inv_std
        return partial(norm.batch_norm_statistics, planes(self.x), *batch, *running, self.layer.numbers, channels)

    def gradients(self, into, channels):
        """dgamma = Σ dout · x̂,  dbeta = Σ dout"""
        arrays, sums = map(planes, (self.dout, self.x, self.y)), (into[self.layer.gamma], into[self.layer.beta])
        yield partial(
            norm.batch_norm_backward_parameters, *arrays, (self.mean, self.inv_std), *sums, channels, self.relu
        )

    def backward(self, channels):
        """dx, through the mean and the variance too; from the gradients, which come before"""
        dout, x, y, dx = map(planes, (self.dout, self.x, self.y, self.dx))
        gamma, beta = self.layer.gamma, self.layer.beta
        sums, batch = (gamma.value, gamma.grad_array, beta.grad_array), (self.mean, self.inv_std)
        yield partial(norm.batch_norm_backward_training, dout, x, y, batch, sums, dx, channels, self.relu)


class FixedBatchNormOp(BatchNormOp):
    """In evaluation: mean and variance are constants, so samples stay apart."""

    how = "sample by sample: mean and variance are constants"

    @classmethod
    def suits(cls, layers, shape, setting):
        return not setting.training

    def prepare(self):
        running = self.layer.state["running_mean"], self.layer.state["running_var"]
        yield partial(norm.batch_norm_running, *running, self.mean, self.inv_std, self.layer.numbers)

    def forward(self, samples):
        x, y = planes(self.x[samples]), planes(self.y[samples])
        arrays = x, self.layer.gamma.value, self.layer.beta.value, self.mean, self.inv_std, y
        yield partial(norm.batch_norm_forward, *arrays, self.whole("channels"), self.relu)

    def backward(self, samples):
        """dx, with mean and variance as constants"""
        dout, y, dx = (planes(array[samples]) for array in (self.dout, self.y, self.dx))
        arrays = dout, y, self.layer.gamma.value, self.inv_std, dx
        yield partial(norm.batch_norm_backward_evaluation, *arrays, self.whole("channels"), self.relu)


for kind in (BatchNorm1d, BatchNorm2d):
    for op in (BatchNormOp, FixedBatchNormOp):
        computes(kind)(op)
        computes(kind, ReLU)(op)
