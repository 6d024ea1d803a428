"""Batch normalisation."""

import math

import numpy as np

from ..kernels import norm
from .base import Layer
from .checks import whole


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

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        name = type(self).__name__
        C = self.num_features = whole(f"{name}: num_features", num_features)
        self.eps, self.momentum = float(eps), float(momentum)
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise ValueError(f"{name}: eps must be positive, got {eps}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"{name}: momentum must be in [0, 1], got {momentum}")
        self.gamma = self.parameter("gamma", (C,), lambda rng: np.ones(C))
        self.beta = self.parameter("beta", (C,), lambda rng: np.zeros(C))
        self.state = {"running_mean": np.zeros(C, self.dtype), "running_var": np.ones(C, self.dtype)}

    def forward(self, x, training=False, out=None):
        x = self._expect(x)
        y = self.buffer(out, x.shape, x)
        x3 = x.reshape(len(x), self.num_features, math.prod(x.shape[2:]))
        C, inv_std = self.num_features, np.empty(self.num_features, x.dtype)
        running_mean, running_var = self.state["running_mean"], self.state["running_var"]
        if training:
            if x.size == 0:
                raise ValueError(f"{type(self).__name__}: the mean of an empty batch {x.shape} is not defined in training")
            mean, settings = np.empty_like(inv_std), (self.eps, self.momentum)
            norm.batch_norm_statistics(x3, mean, inv_std, running_mean, running_var, settings, (0, C))
        else:
            mean = running_mean.copy()
            norm.batch_norm_inv_std(running_var, inv_std, self.eps)
        norm.batch_norm_forward(x3, self.gamma.value, self.beta.value, mean, inv_std, y.reshape(x3.shape), (0, C), False)
        self.cache = (x, mean, inv_std, training)
        return y

    def backward(self, dout, need_dx=True, out=None):
        x, mean, inv_std, training = self.cache
        dout = self.expect(dout, *x.shape, what="dout")
        x3 = x.reshape(len(x), self.num_features, math.prod(x.shape[2:]))
        dout3, batch, channels = dout.reshape(x3.shape), (mean, inv_std), (0, self.num_features)
        gamma, dgamma, dbeta = self.gamma.value, self.gamma.grad, self.beta.grad
        norm.batch_norm_backward_parameters(dout3, x3, x3, batch, dgamma, dbeta, channels, False)
        if not need_dx:
            return None
        dx = self.buffer(out, x.shape, dout)
        dx3 = dx.reshape(x3.shape)
        if training:
            norm.batch_norm_backward_training(dout3, x3, x3, batch, (gamma, dgamma, dbeta), dx3, channels, False)
        else:
            norm.batch_norm_backward_evaluation(dout3, x3, gamma, inv_std, dx3, channels, False)
        return dx


class BatchNorm1d(BatchNorm):
    __doc__ = BatchNorm.__doc__.replace("x, y (N, C) or (N, C, …)", "x, y (N, C), or (N, C, L) for sequences")

    def _expect(self, x):
        if isinstance(x, np.ndarray) and x.ndim == 3:
            return self.expect(x, "N", self.num_features, "L")
        return self.expect(x, "N", self.num_features)

    def output_shape(self, input_shape):
        if len(input_shape) not in (1, 2) or input_shape[0] != self.num_features:
            raise ValueError(f"BatchNorm1d: expected input (N, {self.num_features}), got {('N', *input_shape)}")
        return tuple(input_shape)


class BatchNorm2d(BatchNorm):
    __doc__ = BatchNorm.__doc__.replace("x, y (N, C) or (N, C, …)", "x, y (N, C, H, W)")

    def _expect(self, x):
        return self.expect(x, "N", self.num_features, "H", "W")

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[0] != self.num_features:
            raise ValueError(f"BatchNorm2d: expected input (N, {self.num_features}, H, W), got {('N', *input_shape)}")
        return tuple(input_shape)
