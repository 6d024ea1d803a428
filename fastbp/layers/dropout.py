"""Dropout."""

import numpy as np

from ..kernels import dropout
from .base import Layer


class Dropout(Layer):
    """Drops each element with probability `rate` in training and scales the kept by 1 / (1 − rate); x of any shape.

    Training:   y = x · m / (1 − rate), with m 1 where the element is kept and 0 where it is dropped
                dx = dout · m / (1 − rate)
    Evaluation: y = x, dx = dout

    Whether an element is kept is a function of (key, step, its index): `state["key"]` is set by the network from its seed,
    `state["step"]` counts the training passes. Set the step back to replay a mask.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = float(rate)
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout: rate is the probability to drop, in [0, 1), got {rate}")
        self.state = {"key": np.zeros((), np.uint64), "step": np.zeros((), np.int64)}

    def forward(self, x, training=False, out=None):
        x = self.expect(x, ...)
        y = self.buffer(out, x.shape, x)
        if training:
            self.state["step"] += 1
            rate, key = self.rate, self._pass_key()
        else:
            rate, key = 0.0, np.uint64(0)
        dropout.dropout_forward(x.reshape(-1), y.reshape(-1), key, 0, rate)
        self.cache = (x.shape, key, rate)
        return y

    def backward(self, dout, need_dx=True, out=None):
        shape, key, rate = self.cache
        dout = self.expect(dout, *shape, what="dout")
        if not need_dx:
            return None
        dx = self.buffer(out, shape, dout)
        dropout.dropout_forward(dout.reshape(-1), dx.reshape(-1), key, 0, rate)
        return dx

    def _pass_key(self) -> np.uint64:
        """The generator's key of this training pass."""
        bits = dropout.random_bits(self.state["key"][()], np.uint64(self.state["step"]))
        return np.uint64(bits)  # Numba returns an int, which it would take for int64 or uint64 by its size

    def output_shape(self, input_shape):
        return tuple(input_shape)
