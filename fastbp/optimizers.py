"""Optimisers: one update of a network's flat parameter vector from its flat gradient.

    optimizer = SGD(lr=0.1, momentum=0.9)
    optimizer.step(network.parameter_vector, network.gradient_vector)

Each follows PyTorch's optimiser of the same name to rounding. `weight_decay` is an L2 penalty: it adds
weight_decay · value to every gradient, biases included (AdamW decouples it). In the formulas g is that sum. `lr` may be
changed between steps; schedules do. `state` holds the optimiser's own vectors, made at the first step for that vector.

`groups` gives some parameters settings of their own, as PyTorch's parameter groups do:

    SGD(lr=0.1, weight_decay=5e-4, groups={("*.bias", "*.gamma", "*.beta"): {"weight_decay": 0}, "0": {"lr": 0.01}})

The keys are names of the network's layers or parameters ("3.body.0", "3.body.0.weight"), patterns of such names with *,
? and [], or tuples of them; a layer's settings are those of all parameters inside. Where several keys name a parameter,
the later one's settings win, each for itself. A group's `lr` is its rate where the optimiser's own is what it was made
with; whatever changes that one, a schedule for one, changes the groups' rates in proportion. All other settings follow
the optimiser's own unless the group has them.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import numpy as np

from .arguments import Checked, Setting, flag, instance, number, owned, shown, unmasked
from .dtypes import FLOATS
from .kernels import optimizers as kernels
from .parameters import State

Groups = Mapping[str | tuple[str, ...], Mapping[str, float]]


class Stretch(NamedTuple):
    """A stretch [first, last) of the vectors, and the optimiser with the settings for it."""

    first: int
    last: int
    optimizer: "Optimizer"


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
    _groups: dict[tuple[str, ...], dict[str, float]] = {}
    _attached = 0
    _stretches: list[Stretch] | None = None  # those of the vectors that belong to no frozen parameter

    def __init__(self, lr: float, weight_decay: float = 0.0, *, groups: Groups | None = None):
        self.lr, self.weight_decay = lr, weight_decay
        self._first_lr = self.lr
        self._groups = self._checked_groups({} if groups is None else groups)
        self._members: dict[tuple, Optimizer] = {}  # by settings, those of groups
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
        if self._stretches is None and self._groups:
            raise ValueError(f"{type(self).__name__}: groups name parameters of a network: call attach(network) first")
        vectors = [values, grads, *self.begin(values, grads)]
        if self._stretches is None:
            self.update(*vectors)
            return
        if values.size != self._attached:
            self.steps -= 1
            what = f"a network of {self._attached} parameters"
            raise ValueError(f"{type(self).__name__}: it is attached to {what}, got {shown(values)}")
        for first, last, optimizer in self._stretches:
            optimizer.update(*(vector[first:last] for vector in vectors))

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
        for settings, member in self._members.items():
            member._follow(self, dict(settings))
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

    # -- groups ----------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> dict[tuple[str, ...], dict[str, float]]:
        """The settings of groups by their patterns, with the rates that they have now."""
        return {names: self._now(settings) for names, settings in self._groups.items()}

    def attach(self, network) -> list[Stretch]:
        """Learn which part of the vectors belongs to which group, and which are frozen; training does it by itself.

        In a loop of your own call it before the first `step`, and again when parameters were frozen. ValueError where a
        pattern of `groups` names nothing in the network.
        """
        named = getattr(network, "named_parameters", None)
        if not isinstance(named, dict):
            raise TypeError(f"{type(self).__name__}.attach: network must be a Sequential, got {shown(network)}")
        for pattern in (pattern for names in self._groups for pattern in names):
            if not any(_names(pattern, path) for path in named):
                raise ValueError(
                    f"{type(self).__name__}: groups: {pattern!r} names no parameter and no layer of the network, whose "
                    f"parameters are {shown(list(named), 400)}"
                )
        stretches, at = [], 0
        for path, parameter in named.items():
            first, at = at, at + parameter.size
            if not parameter.requires_grad:
                continue
            optimizer = self._member(path)
            if stretches and stretches[-1].last == first and stretches[-1].optimizer is optimizer:
                first = stretches.pop().first
            stretches.append(Stretch(first, at, optimizer))
        self._stretches, self._attached = stretches, at
        return stretches

    def _member(self, path: str) -> "Optimizer":
        """The optimiser with the settings of the parameter of this name: this one where it is in no group."""
        settings: dict[str, float] = {}
        for names, own in self._groups.items():
            if any(_names(pattern, path) for pattern in names):
                settings |= own
        if not settings:
            return self
        key = tuple(sorted(settings.items()))
        if key not in self._members:
            self._members[key] = self._made(settings)
        return self._members[key]

    def _made(self, settings: dict[str, float]) -> "Optimizer":
        """An optimiser of this kind with some settings of its own, which has no vectors and no groups."""
        member = object.__new__(type(self))
        member.__dict__.update(numbers=None, _settings=None)
        member._follow(self, settings)
        member._check_together()
        return member

    def _follow(self, leader: "Optimizer", settings: dict[str, float]) -> None:
        """Take over everything from `leader` but for these settings, for a step of it."""
        own = {"numbers": self.numbers, "_settings": self._settings, "_groups": {}, "_members": {}, "_stretches": None}
        self.__dict__.update({**leader.__dict__, **leader._now(settings), **own})
        if leader.steps and (now := self.settings()) != self._settings:
            if self.numbers is None:
                self.numbers = np.zeros(len(now))
            self.numbers[:] = self._settings = now

    def _now(self, settings: dict[str, float]) -> dict[str, float]:
        """A group's settings with the rate that goes with this optimiser's own."""
        if "lr" not in settings:
            return dict(settings)
        return {**settings, "lr": settings["lr"] * (self.lr / self._first_lr if self.lr != self._first_lr else 1.0)}

    def _checked_groups(self, groups: Groups) -> dict[tuple[str, ...], dict[str, float]]:
        who = f"{type(self).__name__}: groups"
        known = {name: setting for name, setting in self._settings_by_name.items() if name != "state"}
        checked = {}
        for names, settings in instance(who, groups, Mapping, "dict of settings by names of parameters").items():
            patterns = names if isinstance(names, tuple) else (names,)
            if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
                raise TypeError(f"{who}: a key must be a name, a pattern or a tuple of them, got {shown(names)}")
            what = f"{who}[{names!r}]"
            own = checked[patterns] = {}
            for name, value in instance(what, settings, Mapping, "dict of settings").items():
                if name not in known:
                    raise ValueError(f"{what}: a setting must be one of {', '.join(known)}, got {shown(name)}")
                own[name] = known[name].check(f"{what}: {name}", value, **known[name].limits)
            if own.get("lr") and not self.lr:
                raise ValueError(
                    f"{what}: its lr changes in proportion to the optimiser's own, which must be above 0; "
                    "set requires_grad = False to train no other parameters"
                )
        return checked

    def _check_together(self) -> None:
        """ValueError for settings that don't go together."""

    def __getstate__(self) -> dict:
        """For copies and pickles: without what belongs to a network."""
        return {**{k: v for k, v in self.__dict__.items() if k != "_stretches"}, "_members": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))
        self.__dict__.setdefault("_members", {})  # of an older version
        self.state = self.state  # copies the vectors that came back read-only

    def __repr__(self) -> str:
        hidden = ("steps", "state", "numbers")
        shown = {k: v for k, v in self.__dict__.items() if k not in hidden and k[0] != "_"}
        if self._groups:
            shown["groups"] = self.groups
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def _names(pattern: str, path: str) -> bool:
    """Does the pattern name this parameter, or a layer that it is in?"""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


class SGD(Optimizer):
    """Stochastic gradient descent: v ← momentum · v + g;  value ← value − lr · v.

    With `nesterov`, value ← value − lr · (g + momentum · v) instead, which needs a momentum.
    """

    vectors, kernel = ("velocity",), staticmethod(kernels.sgd_update)

    momentum, nesterov = Setting(number, least=0, below=1), Setting(flag)

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        groups: Groups | None = None,
    ):
        super().__init__(lr, weight_decay, groups=groups)
        self.momentum, self.nesterov = momentum, nesterov
        self._check_together()

    def _check_together(self):
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum")

    def settings(self):
        return self.lr, self.momentum, self.weight_decay, self.nesterov


class Adagrad(Optimizer):
    """total ← total + g²;  value ← value − lr · g / (√total + eps)   (Duchi, Hazan, Singer 2011)."""

    vectors, kernel = ("total",), staticmethod(kernels.adagrad_update)

    eps = Setting(number, least=0)

    def __init__(
        self, lr: float = 0.01, eps: float = 1e-10, weight_decay: float = 0.0, *, groups: Groups | None = None
    ):
        super().__init__(lr, weight_decay, groups=groups)
        self.eps = eps

    def settings(self):
        return self.lr, self.eps, self.weight_decay


class RMSProp(Optimizer):
    """square ← decay · square + (1 − decay) · g²;  value ← value − lr · g / (√square + eps)

    (Tieleman and Hinton 2012).
    """

    vectors, kernel = ("square",), staticmethod(kernels.rmsprop_update)

    decay, eps = Setting(number, least=0, below=1), Setting(number, least=0)

    def __init__(
        self,
        lr: float = 0.01,
        decay: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        groups: Groups | None = None,
    ):
        super().__init__(lr, weight_decay, groups=groups)
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
        *,
        groups: Groups | None = None,
    ):
        super().__init__(lr, weight_decay, groups=groups)
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
        *,
        groups: Groups | None = None,
    ):
        super().__init__(lr, beta1, beta2, eps, weight_decay, groups=groups)

    def settings(self):
        return self._numbers(0.0, self.lr * self.weight_decay)
