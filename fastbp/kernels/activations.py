"""Elementwise activations on flat arrays: x (n,) input, y (n,) output, dout and dx (n,) gradients.

The derivatives of ReLU, sigmoid and tanh are functions of the output, so their backward kernels take y, not x; that of
LeakyReLU is where its slope is not negative. The comparisons are written so that NaN, for which every comparison is
false, passes through.
"""

import math

from .exponential import exponential, normal
from .jit import kernel, separate_kernel

# The activations that other layers' kernels make in the same pass, by `activate`
NONE, RELU, LEAKY_RELU, SIGMOID = range(4)
TANH, GELU, GELU_TANH, SILU = range(4, 8)
FROM_X = GELU, GELU_TANH, SILU  # whose derivatives are told from x: those of the others are from y
CHUNK = 16 << 10  # bytes that stay in the first cache

ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715  # of GELU by tanh
FAR = 1000.0  # from there on GELU and SiLU are x or 0 in both types: x³ must not overflow, nor x be ∞ beside a 0


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
    """dx = dout where x > 0, else negative_slope · dout, also at the kink,   numbers = (negative_slope,)

    y may stand for x where the slope is not negative."""
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
def tanh(x):
    """tanh(x) = ± m / (2 − m) with m = 1 − e^(−2|x|), of one number"""
    two = type(x)(2)
    _, m = exponential(-two * abs(x))
    t = m / (two - m)
    return t if x >= 0 else -t


@kernel
def tanh_forward(x, y):
    """y = tanh(x)"""
    for i in range(x.size):
        y[i] = tanh(x[i])


@kernel
def tanh_backward(dout, y, dx):
    """dx = dout · (1 − y²)"""
    one = y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dout[i] * (one - y[i] * y[i])


@kernel
def no_further(x, far):
    """x, or ±far beyond that; NaN for NaN"""
    number = type(x)
    inside = number(far) if x > number(far) else x
    return number(-far) if inside < number(-far) else inside


@kernel
def gelu(x):
    """x Φ(x) of one number"""
    below, _ = normal(x)
    return x * below


@kernel
def gelu_slope(x):
    """Φ(x) + x φ(x), the derivative"""
    below, density = normal(x)
    return below + no_further(x, FAR) * density


@kernel
def gelu_forward(x, y):
    """y = x Φ(x)"""
    for i in range(x.size):
        y[i] = gelu(x[i])


@kernel
def gelu_backward(dout, x, dx):
    """dx = dout · (Φ(x) + x φ(x))"""
    for i in range(x.size):
        dx[i] = dout[i] * gelu_slope(x[i])


@kernel
def gelu_tanh(x):
    """x (1 + tanh u) / 2 = x σ(2u), u = √(2/π) (x + 0.044715 x³), of one number"""
    number = type(x)
    s = no_further(x, FAR)
    return x * sigmoid(number(2 * ROOT) * (s + number(CUBIC) * s * s * s))


@kernel
def gelu_tanh_slope(x):
    """σ(2u) + x σ(2u) σ(−2u) · 2 du/dx, the derivative"""
    number = type(x)
    s = no_further(x, FAR)
    twice = number(2 * ROOT) * (s + number(CUBIC) * s * s * s)
    e, _ = exponential(-abs(twice))
    upper = number(1) / (number(1) + e)
    below = upper if x >= 0 else e * upper
    return below + s * (e * upper * upper) * (number(2 * ROOT) * (number(1) + number(3 * CUBIC) * s * s))


@kernel
def gelu_tanh_forward(x, y):
    """y = x (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³)"""
    for i in range(x.size):
        y[i] = gelu_tanh(x[i])


@kernel
def gelu_tanh_backward(dout, x, dx):
    """dx = dout · its derivative"""
    for i in range(x.size):
        dx[i] = dout[i] * gelu_tanh_slope(x[i])


@kernel
def silu(x):
    """x σ(x) of one number"""
    return x * sigmoid(x)


@kernel
def silu_slope(x):
    """σ(x) + x σ(x) σ(−x), the derivative"""
    one = type(x)(1)
    e, _ = exponential(-abs(x))
    upper = one / (one + e)
    below = upper if x >= 0 else e * upper
    return below + no_further(x, FAR) * (e * upper * upper)


@kernel
def silu_forward(x, y):
    """y = x σ(x)"""
    for i in range(x.size):
        y[i] = silu(x[i])


@kernel
def silu_backward(dout, x, dx):
    """dx = dout · (σ(x) + x σ(x) σ(−x))"""
    for i in range(x.size):
        dx[i] = dout[i] * silu_slope(x[i])


# -- any of them, for the kernels of other layers ----------------------------------------------------------------------


@separate_kernel
def activate(x, y, kind, numbers):
    """y = the activation of this kind of x, which may be y itself; numbers are the layer's settings, read when it runs

    A chunk of x is copied to y, and made there: a loop over two arrays that are one and the same is not vector code."""
    chunk = CHUNK // y.itemsize
    for first in range(0, x.size, chunk):
        source, part = x[first : first + chunk], y[first : first + chunk]
        if x.ctypes.data != y.ctypes.data:
            for i in range(part.size):
                part[i] = source[i]
        if kind == RELU:
            zero = y.dtype.type(0)
            for i in range(part.size):
                part[i] = zero if part[i] <= zero else part[i]
        elif kind == LEAKY_RELU:
            slope = y.dtype.type(numbers[0])
            for i in range(part.size):
                part[i] = part[i] if part[i] > 0 else slope * part[i]
        elif kind == SIGMOID:
            for i in range(part.size):
                part[i] = sigmoid(part[i])
        elif kind == TANH:
            for i in range(part.size):
                part[i] = tanh(part[i])
        elif kind == GELU:
            for i in range(part.size):
                part[i] = gelu(part[i])
        elif kind == GELU_TANH:
            for i in range(part.size):
                part[i] = gelu_tanh(part[i])
        elif kind == SILU:
            for i in range(part.size):
                part[i] = silu(part[i])


@separate_kernel
def activate_backward(dout, y, dz, kind, numbers):
    """dz = dout · the activation's derivative, of which y is the output: for kinds whose derivative y tells"""
    if kind == RELU:
        relu_backward(dout, y, dz)
    elif kind == LEAKY_RELU:
        leaky_relu_backward(dout, y, dz, numbers)
    elif kind == SIGMOID:
        sigmoid_backward(dout, y, dz)
    elif kind == TANH:
        tanh_backward(dout, y, dz)


@separate_kernel
def times_slope(kept, d, kind, numbers):
    """d ← d · the derivative of the activation of this kind, from its y, or for GELU and SiLU from its x"""
    zero, one = d.dtype.type(0), d.dtype.type(1)
    if kind == RELU:
        for i in range(d.size):
            d[i] = zero if kept[i] <= zero else d[i]
    elif kind == LEAKY_RELU:
        slope = d.dtype.type(numbers[0])
        for i in range(d.size):
            d[i] = slope * d[i] if kept[i] <= zero else d[i]
    elif kind == SIGMOID:
        for i in range(d.size):
            d[i] = d[i] * kept[i] * (one - kept[i])
    elif kind == TANH:
        for i in range(d.size):
            d[i] = d[i] * (one - kept[i] * kept[i])
    elif kind == GELU:
        for i in range(d.size):
            d[i] *= gelu_slope(kept[i])
    elif kind == GELU_TANH:
        for i in range(d.size):
            d[i] *= gelu_tanh_slope(kept[i])
    elif kind == SILU:
        for i in range(d.size):
            d[i] *= silu_slope(kept[i])


@kernel
def add_and_activate(a, b, z, y, kind, numbers):
    """z = a + b and y = the activation of z, which may be z itself, chunk by chunk"""
    chunk = CHUNK // z.itemsize
    for first in range(0, z.size, chunk):
        part, left, right = z[first : first + chunk], a[first : first + chunk], b[first : first + chunk]
        for i in range(part.size):
            part[i] = left[i] + right[i]
        activate(part, y[first : first + chunk], kind, numbers)
