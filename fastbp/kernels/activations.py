"""Elementwise activations on flat arrays: x (n,) input, y (n,) output, dout and dx (n,) gradients.

ReLU's, sigmoid's and tanh's derivatives are functions of the output, so their backward kernels take y, not x.
The comparisons are written so that NaN, for which every comparison is false, passes through.
"""

from .exponential import exponential
from .jit import kernel


@kernel
def relu_forward(x, y):
    """y = max(x, 0)"""
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@kernel
def relu_backward(dout, y, dx):
    """dx = dout where y > 0, else 0: the subgradient at the kink is 0"""
    zero = y.dtype.type(0)
    for i in range(y.size):
        dx[i] = zero if y[i] <= zero else dout[i]


@kernel
def leaky_relu_forward(x, y, numbers):
    """y = x where x > 0, else negative_slope · x,   numbers = (negative_slope,)"""
    slope = x.dtype.type(numbers[0])
    for i in range(x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


@kernel
def leaky_relu_backward(dout, x, dx, numbers):
    """dx = dout where x > 0, else negative_slope · dout, also at the kink,   numbers = (negative_slope,)"""
    slope = x.dtype.type(numbers[0])
    for i in range(x.size):
        dx[i] = slope * dout[i] if x[i] <= 0 else dout[i]


@kernel
def sigmoid(x):
    """σ(x) = 1 / (1 + e⁻ˣ) of one number, from e = e^−|x|, which can't overflow

    It is 1 / (1 + e), or e / (1 + e) for a negative x."""
    one = type(x)(1)
    e, _ = exponential(-abs(x))
    upper = one / (one + e)
    return upper if x >= 0 else e * upper


@kernel
def sigmoid_forward(x, y):
    """y = σ(x)"""
    for i in range(x.size):
        y[i] = sigmoid(x[i])


@kernel
def sigmoid_backward(dout, y, dx):
    """dx = dout · y (1 − y)"""
    one = y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dout[i] * y[i] * (one - y[i])


@kernel
def tanh_forward(x, y):
    """y = tanh(x) = ± m / (2 − m) with m = 1 − e^(−2|x|)"""
    two = x.dtype.type(2)
    for i in range(x.size):
        _, m = exponential(-two * abs(x[i]))
        t = m / (two - m)
        y[i] = t if x[i] >= 0 else -t


@kernel
def tanh_backward(dout, y, dx):
    """dx = dout · (1 − y²)"""
    one = y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dout[i] * (one - y[i] * y[i])
