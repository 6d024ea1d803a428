"""Batch normalisation."""

import math
from functools import partial

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
        self.state |= {"running_mean": np.zeros(C, self.dtype), "running_var": np.ones(C, self.dtype)}

    mixes_samples = True

    def prepare_calls(self, p):
        if p.training and p.x.size == 0:
            raise ValueError(f"{type(self).__name__}: the mean of an empty batch {p.x.shape} is not defined in training")
        p.mean, p.inv_std = np.empty(self.num_features, p.x.dtype), np.empty(self.num_features, p.x.dtype)
        return iter(())

    def _planes(self, array):
        return array.reshape(len(array), self.num_features, math.prod(array.shape[2:]))

    def forward_calls(self, p):
        yield partial(self._statistics, p)
        yield partial(norm.batch_norm_forward, self._planes(p.x), self.gamma.value, self.beta.value, p.mean, p.inv_std, self._planes(p.y))

    def _statistics(self, p):
        p.mean[:] = self.state["running_mean"]
        var = self.state["running_var"]
        if p.training:
            count = p.x.size // self.num_features
            var = np.empty_like(var)
            norm.batch_norm_statistics(self._planes(p.x), p.mean, var)
            for name, batch in (("running_mean", p.mean), ("running_var", var * (count / max(count - 1, 1)))):
                self.state[name] += self.momentum * (batch - self.state[name])
        norm.batch_norm_inv_std(var, p.inv_std, self.eps)

    def input_calls(self, p):
        dout, x, dx = self._planes(p.dout), self._planes(p.x), self._planes(p.dx)
        if p.training:
            yield partial(
                norm.batch_norm_backward_training, dout, x, self.gamma.value, p.mean, p.inv_std, self.gamma.grad, self.beta.grad, dx
            )
        else:
            yield partial(norm.batch_norm_backward_evaluation, dout, self.gamma.value, p.inv_std, dx)

    def parameter_calls(self, p, rows=None):
        dout, x = self._planes(p.dout), self._planes(p.x)
        yield partial(norm.batch_norm_backward_parameters, dout, x, p.mean, p.inv_std, self.gamma.grad, self.beta.grad)


class BatchNorm1d(BatchNorm):
    __doc__ = BatchNorm.__doc__.replace("x, y (N, C) or (N, C, …)", "x, y (N, C), or (N, C, L) for sequences")

    def accept(self, x):
        if isinstance(x, np.ndarray) and x.ndim == 3:
            return self.expect(x, "N", self.num_features, "L")
        return self.expect(x, "N", self.num_features)

    def output_shape(self, input_shape):
        if len(input_shape) not in (1, 2) or input_shape[0] != self.num_features:
            raise ValueError(f"BatchNorm1d: expected input (N, {self.num_features}), got {('N', *input_shape)}")
        return tuple(input_shape)


class BatchNorm2d(BatchNorm):
    __doc__ = BatchNorm.__doc__.replace("x, y (N, C) or (N, C, …)", "x, y (N, C, H, W)")

    def accept(self, x):
        return self.expect(x, "N", self.num_features, "H", "W")

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[0] != self.num_features:
            raise ValueError(f"BatchNorm2d: expected input (N, {self.num_features}, H, W), got {('N', *input_shape)}")
        return tuple(input_shape)
