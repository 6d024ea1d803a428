"""Optimisers: one update of a network's flat parameter vector from its flat gradient.

    optimizer = SGD(lr=0.1, momentum=0.9)
    optimizer.step(network.parameter_vector, network.gradient_vector)

Each follows PyTorch's optimiser of the same name to rounding. `weight_decay` is an L2 penalty: it adds
weight_decay · value to every gradient, biases included (AdamW decouples it). In the formulas g is that sum. `lr` may be
changed between steps; schedules do. `state` holds the optimiser's own vectors, made at the first step for that vector.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from .arguments import Checked, Setting, flag, instance, number, owned, unmasked
from .dtypes import FLOATS
from .kernels import optimizers as kernels
from .parameters import State


class Optimizer(Checked):
    """Base class: checks and state. Subclasses name their vectors and define `update`.

    `update` works element by element: training calls it for parts of the vectors. An optimiser that can't work so,
    since it needs the norm of the whole gradient, say, defines `step`.

    The package's own name a `kernel` in place of `update`: it gets the vectors and the numbers of `settings()`.
    """

    vectors: tuple[str, ...] = ()
    kernel = None

    lr, weight_decay = Setting(number, least=0), Setting(number, least=0)
    state = Setting(lambda what, arrays: State(arrays))

    def __init__(self, lr: float, weight_decay: float = 0.0):
        self.lr, self.weight_decay = lr, weight_decay
        self.steps = 0
        self.state = {}
        self.numbers: np.ndarray | None = None  # this step's settings, where the kernel reads them
        self._settings: tuple[float, ...] | None = None  # what they hold; they are only written where that changes

    def step(self, values: np.ndarray, grads: np.ndarray) -> None:
        """Update `values` in place; both are contiguous vectors (P,) of one floating dtype."""
        plain = type(values) is type(grads) is np.ndarray and values.dtype in FLOATS
        if not (plain and values.flags.carray and grads.flags.carray):
            values, grads = self._vector("values", values), self._vector("grads", grads)
            if not values.flags.carray:
                raise ValueError(f"{type(self).__name__}: values must be a contiguous vector that can be written")
            grads = np.require(grads, requirements="CAW")
        vectors = self.begin(values, grads)
        self.update(values, grads, *vectors)

    def _vector(self, name: str, array: np.ndarray) -> np.ndarray:
        what = f"{type(self).__name__}: {name}"
        if type(array) is not np.ndarray:
            unmasked(what, array)
            array = np.asarray(instance(what, array, np.ndarray, "NumPy array"))
        if array.dtype not in FLOATS or array.ndim != 1:
            kind = ValueError if array.dtype in FLOATS else TypeError
            raise kind(f"{what} must be a vector of float32 or float64, got {array.dtype} {array.shape}")
        return array

    def begin(self, values: np.ndarray, grads: np.ndarray) -> list[np.ndarray]:
        """Begin a step: check the vectors, count it and return the optimiser's own vectors. `update` does the rest."""
        shape, dtype = values.shape, values.dtype
        if len(shape) != 1 or grads.shape != shape or grads.dtype != dtype:
            got = f"got {values.dtype} {values.shape} and {grads.dtype} {grads.shape}"
            raise ValueError(f"{type(self).__name__}: expected two vectors of one size and dtype, {got}")
        vectors = [self.state.get(name) for name in self.vectors]
        for i, vector in enumerate(vectors):
            if vector is None:
                self.state[self.vectors[i]] = vectors[i] = np.zeros_like(values)
            elif vector.shape != shape or vector.dtype != dtype:
                raise ValueError(
                    f"{type(self).__name__}: this optimiser has been training {vector.size} {vector.dtype} parameters, "
                    f"got {values.size} {values.dtype}; make a new one for another network"
                )
        object.__setattr__(self, "steps", self.steps + 1)  # it has no check, and a small network's step is short
        if (settings := self.settings()) != self._settings:
            if self.numbers is None:
                self.numbers = np.zeros(len(settings))
            self.numbers[:] = self._settings = settings
        return vectors

    def settings(self) -> tuple[float, ...]:
        """The numbers of this step's kernel call."""
        return ()

    def update(self, values: np.ndarray, grads: np.ndarray, *vectors: np.ndarray) -> None:
        """Update `values`, some or all of the parameters, with the same part of the other vectors."""
        if self.kernel is None:
            raise TypeError(f"{type(self).__name__} does not define update")
        self.kernel(values, grads, *vectors, self.numbers)

    @property
    def descends(self) -> bool:
        """Is its step `sgd_update`, which layers can make together with their gradients?"""
        by_update = getattr(self.step, "__func__", self.step) is Optimizer.step and self._by_kernel()
        return by_update and self.kernel is kernels.sgd_update

    def update_call(self, values: np.ndarray, grads: np.ndarray, *vectors: np.ndarray) -> Callable[[], None]:
        """`update` as a call that can be made step after step."""
        if not self._by_kernel():
            return partial(self.update, values, grads, *vectors)
        return partial(self.kernel, values, grads, *vectors, self.numbers)

    def _by_kernel(self) -> bool:
        return self.kernel is not None and getattr(self.update, "__func__", self.update) is Optimizer.update

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))
        self.state = self.state  # copies the vectors that came back read-only

    def __repr__(self) -> str:
        hidden = ("steps", "state", "numbers", "_settings")
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items() if k not in hidden)})"


class SGD(Optimizer):
    """Stochastic gradient descent: v ← momentum · v + g;  value ← value − lr · v.

    With `nesterov`, value ← value − lr · (g + momentum · v) instead, which needs a momentum.
    """

    vectors, kernel = ("velocity",), staticmethod(kernels.sgd_update)

    momentum, nesterov = Setting(number, least=0, below=1), Setting(flag)

    def __init__(self, lr: float = 0.01, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum")

    def settings(self):
        return self.lr, self.momentum, self.weight_decay, self.nesterov


class Adagrad(Optimizer):
    """total ← total + g²;  value ← value − lr · g / (√total + eps)   (Duchi, Hazan, Singer 2011)."""

    vectors, kernel = ("total",), staticmethod(kernels.adagrad_update)

    eps = Setting(number, least=0)

    def __init__(self, lr: float = 0.01, eps: float = 1e-10, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.eps = eps

    def settings(self):
        return self.lr, self.eps, self.weight_decay


class RMSProp(Optimizer):
    """square ← decay · square + (1 − decay) · g²;  value ← value − lr · g / (√square + eps)

    (Tieleman and Hinton 2012).
    """

    vectors, kernel = ("square",), staticmethod(kernels.rmsprop_update)

    decay, eps = Setting(number, least=0, below=1), Setting(number, least=0)

    def __init__(self, lr: float = 0.01, decay: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0):
        super().__init__(lr, weight_decay)
        self.decay, self.eps = decay, eps

    def settings(self):
        return self.lr, self.decay, self.eps, self.weight_decay


class Adam(Optimizer):
    """first ← β₁ first + (1 − β₁) g;  second ← β₂ second + (1 − β₂) g²   (Kingma and Ba 2015)

    value ← value − lr · (first / (1 − β₁ᵗ)) / (√(second / (1 − β₂ᵗ)) + eps) at the t-th step.
    """

    vectors, kernel = ("first", "second"), staticmethod(kernels.adam_update)
    beta1, beta2 = (Setting(number, least=0, below=1) for _ in range(2))
    eps = Setting(number, least=0)

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(lr, weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def settings(self):
        return self._numbers(self.weight_decay, 0.0)

    def _numbers(self, decay: float, shrink: float) -> tuple[float, ...]:
        """`decay` · value is added to the gradient; `shrink` · value is taken off the value itself."""
        c1, c2 = 1 - self.beta1**self.steps, 1 - self.beta2**self.steps
        return self.lr, self.beta1, self.beta2, self.eps, decay, shrink, c1, c2


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    value ← value · (1 − lr · weight_decay) before Adam's step on the plain gradient.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(lr, beta1, beta2, eps, weight_decay)

    def settings(self):
        return self._numbers(0.0, self.lr * self.weight_decay)
