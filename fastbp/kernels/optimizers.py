"""Optimiser updates on the flat parameter vector, in place: values, grads and each state vector are (P,).

Scalars are brought to the vector's dtype first, so that a float32 update is float32 arithmetic throughout.
"""

import numpy as np

from .jit import kernel


@kernel
def sgd_update(values, grads, velocity, lr, momentum, nesterov, weight_decay):
    """g = grad + weight_decay · value;  v ← momentum · v + g;  value ← value − lr · (g + momentum · v if nesterov else v)"""
    number = values.dtype.type
    lr, momentum, weight_decay = number(lr), number(momentum), number(weight_decay)
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        velocity[i] = momentum * velocity[i] + g
        values[i] -= lr * (g + momentum * velocity[i] if nesterov else velocity[i])


@kernel
def adam_update(values, grads, first, second, scalars, lr, decoupled_decay):
    """first ← β₁ first + (1 − β₁) g;  second ← β₂ second + (1 − β₂) g²
    value ← value · (1 − decoupled_decay) − lr · (first / c₁) / (√(second / c₂) + eps)

    with g = grad + weight_decay · value and scalars = (β₁, β₂, c₁, c₂, eps, weight_decay), where c₁ = 1 − β₁ᵗ and
    c₂ = 1 − β₂ᵗ correct the bias of the t-th step."""
    number = values.dtype.type
    one = number(1)
    beta1, beta2, eps, weight_decay = number(scalars[0]), number(scalars[1]), number(scalars[4]), number(scalars[5])
    rate, root_c2, kept = number(lr / scalars[2]), number(np.sqrt(scalars[3])), number(1 - decoupled_decay)
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        first[i] = beta1 * first[i] + (one - beta1) * g
        second[i] = beta2 * second[i] + (one - beta2) * g * g
        values[i] = kept * values[i] - rate * first[i] / (np.sqrt(second[i]) / root_c2 + eps)


@kernel
def rmsprop_update(values, grads, square, lr, decay, eps, weight_decay):
    """square ← decay · square + (1 − decay) g²;  value ← value − lr · g / (√square + eps),  g = grad + weight_decay · value"""
    number = values.dtype.type
    lr, decay, eps, weight_decay, one = number(lr), number(decay), number(eps), number(weight_decay), number(1)
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        square[i] = decay * square[i] + (one - decay) * g * g
        values[i] -= lr * g / (np.sqrt(square[i]) + eps)


@kernel
def adagrad_update(values, grads, total, lr, eps, weight_decay):
    """total ← total + g²;  value ← value − lr · g / (√total + eps),  g = grad + weight_decay · value"""
    number = values.dtype.type
    lr, eps, weight_decay = number(lr), number(eps), number(weight_decay)
    for i in range(values.size):
        g = grads[i] + weight_decay * values[i]
        total[i] += g * g
        values[i] -= lr * g / (np.sqrt(total[i]) + eps)
