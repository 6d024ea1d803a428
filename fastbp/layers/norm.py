"""Batch normalisation."""

import math
from functools import partial

import numpy as np

from ..arguments import Setting, instance, number, whole
from ..costs import Cost
from ..kernels import norm
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

    takes_relu = True
    mixes_samples = True

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

    def prepare_calls(self, p):
        p.mean, p.inv_std = np.empty(self.num_features, p.x.dtype), np.empty(self.num_features, p.x.dtype)
        if not p.training:
            yield partial(np.copyto, p.mean, self.state["running_mean"])
            yield partial(norm.batch_norm_inv_std, self.state["running_var"], p.inv_std, self.eps)
        elif p.x.size == 0:
            raise ValueError(
                f"{type(self).__name__}: the mean of an empty batch, input {p.x.shape}, is not defined in training"
            )

    def statistics_calls(self, p):
        """In training the batch's mean and 1 / √(var + eps), and the running statistics"""
        if p.training:
            running, settings = (self.state["running_mean"], self.state["running_var"]), (self.eps, self.momentum)
            x, channels = self._planes(p.x), p.channels or (0, self.num_features)
            yield partial(norm.batch_norm_statistics, x, p.mean, p.inv_std, *running, settings, channels)

    def forward_calls(self, p):
        """y = gamma · x̂ + beta"""
        yield from self.statistics_calls(p)
        x, y, channels = self._planes(p.x), self._planes(p.y), p.channels or (0, self.num_features)
        yield partial(
            norm.batch_norm_forward, x, self.gamma.value, self.beta.value, p.mean, p.inv_std, y, channels, p.relu
        )

    def parameter_calls(self, p, rows=None):
        """dgamma = Σ dout · x̂,  dbeta = Σ dout"""
        arrays, channels = (self._planes(array) for array in (p.dout, p.x, p.y)), p.channels or (0, self.num_features)
        sums = p.grad(self.gamma), p.grad(self.beta)
        yield partial(norm.batch_norm_backward_parameters, *arrays, (p.mean, p.inv_std), *sums, channels, p.relu)

    def input_calls(self, p):
        """dx, through the mean and the variance too where they are the batch's own"""
        dout, x, y, dx = (self._planes(array) for array in (p.dout, p.x, p.y, p.dx))
        gamma, channels = self.gamma.value, p.channels or (0, self.num_features)
        if p.training:
            sums = gamma, p.grad(self.gamma), p.grad(self.beta)
            yield partial(
                norm.batch_norm_backward_training, dout, x, y, (p.mean, p.inv_std), sums, dx, channels, p.relu
            )
        else:
            yield partial(norm.batch_norm_backward_evaluation, dout, y, gamma, p.inv_std, dx, channels, p.relu)

    def costs(self, input_shape, N):
        shape, N = self.batch_of(input_shape, N)
        M = N * math.prod(shape[1:])
        if M == 0:  # an image without pixels
            return Cost(forward=0, dx=0)
        return self.num_features * Cost(forward=7 * M + 10, dx=4 * M + 3, dw=2 * M - 1, db=M - 1)

    def _planes(self, array):
        """(N, C, M), M the pixels of a channel."""
        return array.reshape(len(array), self.num_features, math.prod(array.shape[2:]))


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
