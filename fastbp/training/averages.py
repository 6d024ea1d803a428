"""Callbacks that average a network's weights over the steps of `fit`: EMA and Lookahead.

What is averaged: all parameters, and the floating-point state of layers, batch norm's running statistics, in the same
way. A network that is measured or saved with averaged parameters so has statistics of the same steps; they are not
those that a pass through the data with the averaged parameters would give, but close to them. Other state, such as
dropout's generators, is the network's own at all times.

While validation and test data are measured, and while callbacks are told of the epoch's end, the averages stand in the
network: EarlyStopping and Checkpoint keep them. Before the next step the trained values come back, also after an error
there. When training ends the averages stay in the network, unless `EMA(keep=False)` says otherwise. `fit(resume=…)`
keeps both.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from ..arguments import flag, function, number, whole
from .callbacks import Callback


class Average(Callback):
    """Base class: the averages beside a network's own values, and the two exchanged.

    `averages`, where training has begun, are all parameters' and statistics' averages by name, as in a state_dict.
    """

    keep = True
    steps, _vectors = 0, None

    def on_train_begin(self, run):
        self._network, self._vectors, self.steps = run.network, None, 0

    @property
    def averages(self) -> dict[str, np.ndarray]:
        """Copies of the averages by name; empty before the first step."""
        if self._vectors is None:
            return {}
        return {name: array.copy() for name, array in self._by_name(self._vectors).items()}

    def _arrays(self) -> list[np.ndarray]:
        """What is averaged: the vector of parameters, and each array of numbers in the layers' state."""
        return [self._network.parameter_vector, *self._statistics().values()]

    def _statistics(self) -> dict[str, np.ndarray]:
        leaves = self._network.leaves().items()
        state = {f"{path}.{name}": array for path, leaf in leaves for name, array in leaf.state.items()}
        return {name: array for name, array in state.items() if array.dtype.kind == "f"}

    def _by_name(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays in the order of `_arrays` by the names of a state_dict: views."""
        named, at = {}, 0
        for name, parameter in self._network.named_parameters.items():
            named[name] = arrays[0][at : at + parameter.size].reshape(parameter.shape)
            at += parameter.size
        return named | dict(zip(self._statistics(), arrays[1:], strict=True))

    def _begin(self) -> None:
        """The averages begin with what the network has now."""
        self._vectors = [array.copy() for array in self._arrays()]

    def _towards(self, share: float) -> None:
        """average ← average + share · (value − average)"""
        for average, value in zip(self._vectors, self._arrays(), strict=True):
            difference = value - average
            difference *= average.dtype.type(share)
            average += difference

    def exchange(self) -> None:
        """The averages into the network, and what was there in their place."""
        if self._vectors is not None:
            for average, value in zip(self._vectors, self._arrays(), strict=True):
                before = value.copy()
                value[...] = average
                average[...] = before

    def put(self) -> None:
        """The averages into the network, and here too."""
        if self._vectors is not None:
            for average, value in zip(self._vectors, self._arrays(), strict=True):
                value[...] = average

    def state_dict(self):
        return {"steps": self.steps, **{f"network.{name}": array for name, array in self.averages.items()}}

    def load_state_dict(self, state):
        self.steps = int(state["steps"])
        named = {name.removeprefix("network."): array for name, array in state.items() if name.startswith("network.")}
        self._vectors = None
        if named:
            self._begin()
            for name, array in self._by_name(self._vectors).items():
                array[...] = named[name]


class EMA(Average):
    """The exponential moving average of the weights: average ← decay · average + (1 − decay) · value, after every step.

    The first step's values begin it (as torch.optim.swa_utils.AveragedModel does with get_ema_multi_avg_fn). `every`:
    only after every so many steps. The averages are what is measured and saved after each epoch; at the end of training
    they stay in the network, or with `keep=False` the trained values come back, and `averages` has the others:
    `network.load_state_dict(network.state_dict() | ema.averages)`.

    Batch norm's running statistics are averaged too; see the module.

    >>> import fastbp
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
    >>> network, ema = fastbp.Sequential(fastbp.Linear(4, 3)), EMA(decay=0.9)
    >>> _ = fastbp.fit(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(0.1), (x, y), callbacks=[ema], progress=False)
    >>> ema.averages.keys()
    dict_keys(['0.weight', '0.bias'])
    """

    def __init__(self, decay: float = 0.999, every: int = 1, keep: bool = True):
        self.decay, self.every = number("EMA: decay", decay, least=0, below=1), whole("EMA: every", every)
        self.keep = flag("EMA: keep", keep)

    def on_batch_end(self, run, loss):
        self.steps += 1
        if self.steps % self.every:
            return
        if self._vectors is None:
            self._begin()
        else:
            self._towards(1 - self.decay)

    def settings(self):
        return {"decay": self.decay, "every": self.every, "keep": self.keep}


class Lookahead(Average):
    """Every `every` steps: slow ← slow + alpha · (fast − slow), fast ← slow (Zhang, Lucas, Hinton, Ba 2019).

    fast are the network's values, which the optimiser moves; slow begin as the values before training. `alpha` is a
    number from 0 to 1, or a function that gives it for the part of all steps that is done: `lambda done: 1 - 0.77 *
    done**3`. What is measured, saved, and left in the network at the end, are the slow ones.

    Batch norm's running statistics go the same way; see the module.
    """

    def __init__(self, every: int = 5, alpha: float | Callable[[float], float] = 0.5):
        self.every = whole("Lookahead: every", every)
        self.alpha = function("Lookahead: alpha", alpha) if callable(alpha) else self._share(alpha)

    @staticmethod
    def _share(alpha) -> float:
        return number("Lookahead: alpha", alpha, least=0, most=1)

    def on_train_begin(self, run):
        super().on_train_begin(run)
        self._begin()

    def on_batch_end(self, run, loss):
        self.steps += 1
        if self.steps % self.every:
            return
        done = min(self.steps / max(run.epochs * run.batches, 1), 1.0)
        self._towards(self._share(self.alpha(done)) if callable(self.alpha) else self.alpha)
        for slow, fast in zip(self._vectors, self._arrays(), strict=True):
            fast[...] = slow

    def settings(self):
        return {"every": self.every, "alpha": self.alpha}


@contextlib.contextmanager
def averaged(callbacks: list) -> Iterator[None]:
    """A block in which the averages of these callbacks stand in the network; the trained values are back after it."""
    averages = [callback for callback in callbacks if isinstance(callback, Average)]
    for average in averages:
        average.exchange()
    try:
        yield
    finally:
        for average in reversed(averages):
            average.exchange()


def leave(callbacks: list) -> None:
    """At the end of training: the averages stay in the network, of those that are to."""
    for callback in callbacks:
        if isinstance(callback, Average) and callback.keep:
            callback.put()
