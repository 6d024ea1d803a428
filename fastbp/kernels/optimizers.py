"""Optimiser updates on the flat parameter vector, in place: values, grads and each state vector are (P,).

`settings`, float64, holds the scalars that may change from step to step; so a call stays bound to it. They are brought
to the vector's dtype first: a float32 update is float32 arithmetic throughout.
"""

import numpy as np

from .jit import kernel


@kernel
def sgd_update(values, grads, velocity, settings):
    """v ← momentum · v + g;  value ← value − lr · (g + momentum · v if nesterov else v)

    with g = grad + weight_decay · value and settings = (lr, momentum, weight_decay, nesterov)"""
    number = values.dtype.type
    lr, momentum, weight_decay = number(settings[0]), number(settings[1]), number(settings[2])
    nesterov = settings[3] > 0
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        velocity[i] = momentum * velocity[i] + g
        values[i] -= lr * (g + momentum * velocity[i] if nesterov else velocity[i])


@kernel
def adam_update(values, grads, first, second, settings):
    """first ← β₁ first + (1 − β₁) g;  second ← β₂ second + (1 − β₂) g²
    value ← value · (1 − decoupled_decay) − lr · (first / c₁) / (√(second / c₂) + eps)

    with g = grad + weight_decay · value and settings = (lr, β₁, β₂, eps, weight_decay, decoupled_decay, c₁, c₂), where
    c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ correct the bias of the t-th step."""
    number = values.dtype.type
    one = number(1)
    beta1, beta2, eps, weight_decay = number(settings[1]), number(settings[2]), number(settings[3]), number(settings[4])
    rate, root_c2, kept = number(settings[0] / settings[6]), number(np.sqrt(settings[7])), number(1 - settings[5])
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        first[i] = beta1 * first[i] + (one - beta1) * g
        second[i] = beta2 * second[i] + (one - beta2) * g * g
        values[i] = kept * values[i] - rate * first[i] / (np.sqrt(second[i]) / root_c2 + eps)


@kernel
def rmsprop_update(values, grads, square, settings):
    """square ← decay · square + (1 − decay) g²;  value ← value − lr · g / (√square + eps)

    with g = grad + weight_decay · value and settings = (lr, decay, eps, weight_decay)"""
    number = values.dtype.type
    lr, decay, eps, weight_decay = number(settings[0]), number(settings[1]), number(settings[2]), number(settings[3])
    one = number(1)
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        square[i] = decay * square[i] + (one - decay) * g * g
        values[i] -= lr * g / (np.sqrt(square[i]) + eps)


@kernel
def adagrad_update(values, grads, total, settings):
    """total ← total + g²;  value ← value − lr · g / (√total + eps),  g = grad + weight_decay · value

    settings = (lr, eps, weight_decay)"""
    number = values.dtype.type
    lr, eps, weight_decay = number(settings[0]), number(settings[1]), number(settings[2])
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        total[i] += g * g
        values[i] -= lr * g / (np.sqrt(total[i]) + eps)
