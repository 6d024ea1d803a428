"""Optimisers: one update of a network's flat parameter vector from its flat gradient.

    optimizer = SGD(lr=0.1, momentum=0.9)
    optimizer.step(network.parameter_vector, network.gradient_vector)

Each follows PyTorch's optimiser of the same name to rounding. `weight_decay` is an L2 penalty: it adds
weight_decay · value to every gradient, biases included (AdamW decouples it). In the formulas g is that sum. `lr` may be
changed between steps; schedules do. `state` holds the optimiser's own vectors, made at the first step for that vector.
"""

import numpy as np

from .kernels import optimizers as kernels


class Optimizer:
    """Base class: checks and state. Subclasses name their vectors and define `update`, which works element by element: training
    calls it for parts of the vectors. One that can't work so (it needs the norm of the whole gradient, say) defines `step`."""

    vectors: tuple[str, ...] = ()

    def __init__(self, lr: float, weight_decay: float = 0.0):
        self.lr = self._number("lr", lr)
        self.weight_decay = self._number("weight_decay", weight_decay)
        self.steps = 0
        self.state: dict[str, np.ndarray] = {}

    def step(self, values: np.ndarray, grads: np.ndarray) -> None:
        """Update `values` in place; both are contiguous vectors (P,) of one floating dtype."""
        vectors = self.begin(values, grads)
        self.update(values, grads, *vectors)

    def begin(self, values: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, ...]:
        """Begin a step: check the vectors, count it and return the optimiser's own vectors. `update` does the rest."""
        if values.ndim != 1 or values.shape != grads.shape or values.dtype != grads.dtype:
            raise ValueError(
                f"{type(self).__name__}: expected two vectors of one size and dtype, "
                f"got {values.dtype} {values.shape} and {grads.dtype} {grads.shape}"
            )
        for name in self.vectors:
            vector = self.state.get(name)
            if vector is None:
                self.state[name] = np.zeros_like(values)
            elif vector.shape != values.shape or vector.dtype != values.dtype:
                raise ValueError(
                    f"{type(self).__name__}: this optimiser has been training {vector.size} {vector.dtype} parameters, "
                    f"got {values.size} {values.dtype}; make a new one for another network"
                )
        self.lr = float(self.lr)
        self.steps += 1
        return tuple(self.state[name] for name in self.vectors)

    def update(self, values: np.ndarray, grads: np.ndarray, *vectors: np.ndarray) -> None:
        """Update `values`, some or all of the parameters, with the same part of the other vectors."""
        raise TypeError(f"{type(self).__name__} does not define update")

    def _number(self, name: str, value, below: float = float("inf")) -> float:
        number = float(value)
        if not 0 <= number < below:
            limit = f"in [0, {below:g})" if below < float("inf") else "a finite number, 0 or above"
            raise ValueError(f"{type(self).__name__}: {name} must be {limit}, got {value}")
        return number

    def __repr__(self) -> str:
        hidden = ("steps", "state")
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items() if k not in hidden)})"


class SGD(Optimizer):
    """Stochastic gradient descent: v ← momentum · v + g;  value ← value − lr · v.

    With `nesterov`, value ← value − lr · (g + momentum · v) instead, which needs a momentum.
    """

    vectors = ("velocity",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.momentum, self.nesterov = self._number("momentum", momentum, below=1), bool(nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum")

    def update(self, values, grads, velocity):
        kernels.sgd_update(values, grads, velocity, self.lr, self.momentum, self.nesterov, self.weight_decay)


class Adagrad(Optimizer):
    """total ← total + g²;  value ← value − lr · g / (√total + eps)   (Duchi, Hazan, Singer 2011)."""

    vectors = ("total",)

    def __init__(self, lr: float = 0.01, eps: float = 1e-10, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.eps = self._number("eps", eps)

    def update(self, values, grads, total):
        kernels.adagrad_update(values, grads, total, self.lr, self.eps, self.weight_decay)


class RMSProp(Optimizer):
    """square ← decay · square + (1 − decay) · g²;  value ← value − lr · g / (√square + eps)   (Tieleman and Hinton 2012)."""

    vectors = ("square",)

    def __init__(self, lr: float = 0.01, decay: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.decay, self.eps = self._number("decay", decay, below=1), self._number("eps", eps)

    def update(self, values, grads, square):
        kernels.rmsprop_update(values, grads, square, self.lr, self.decay, self.eps, self.weight_decay)


class Adam(Optimizer):
    """first ← β₁ first + (1 − β₁) g;  second ← β₂ second + (1 − β₂) g²   (Kingma and Ba 2015)

    value ← value − lr · (first / (1 − β₁ᵗ)) / (√(second / (1 − β₂ᵗ)) + eps) at the t-th step.
    """

    vectors = ("first", "second")

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(lr, weight_decay)
        self.beta1, self.beta2 = self._number("beta1", beta1, below=1), self._number("beta2", beta2, below=1)
        self.eps = self._number("eps", eps)

    def update(self, values, grads, first, second):
        self._adam(values, grads, first, second, self.weight_decay, 0.0)

    def _adam(self, values, grads, first, second, weight_decay, decoupled_decay):
        c1, c2 = 1 - self.beta1**self.steps, 1 - self.beta2**self.steps
        scalars = (self.beta1, self.beta2, c1, c2, self.eps, weight_decay)
        kernels.adam_update(values, grads, first, second, scalars, self.lr, decoupled_decay)


class AdamW(Adam):
    """Adam with decoupled weight decay: value ← value · (1 − lr · weight_decay) before Adam's step on the plain gradient
    (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(lr, beta1, beta2, eps, weight_decay)

    def update(self, values, grads, first, second):
        self._adam(values, grads, first, second, 0.0, self.lr * self.weight_decay)
