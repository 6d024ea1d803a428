"""Learning-rate schedules: callbacks of `fit` that scale the optimiser's learning rate as training goes on.

Time is counted in epochs, as a fraction within one (half-way through the third epoch is 2.5), so a schedule does not
depend on the batch size. `fit` sets lr = (the optimiser's lr before training) · product of all schedules' factors
before each step, and puts the lr back when it ends. In a loop of your own: `optimizer.lr = 0.1 *
schedule.factor(epoch)`.
"""

import math

from ..arguments import kept, number
from .callbacks import Callback


class Schedule(Callback):
    """Base class: `factor(epoch)` is what the learning rate is multiplied by at that time."""

    def factor(self, epoch: float) -> float:
        raise TypeError(f"{type(self).__name__} does not define factor")

    def settings(self) -> dict:
        """The constructor's arguments, as far as they are kept in attributes of the same names."""
        return kept(self)

    def _positive(self, name: str, value) -> float:
        return number(f"{type(self).__name__}: {name}", value, above=0)

    def _fraction(self, name: str, value) -> float:
        return number(f"{type(self).__name__}: {name}", value, least=0, most=1)

    def _time(self, epoch) -> float:
        """`epoch` after a check, which a finite float, as `fit` gives it, does not need."""
        if type(epoch) is float and math.isfinite(epoch):
            return epoch
        return number(f"{type(self).__name__}: epoch", epoch)


class StepDecay(Schedule):
    """factor = decay ^ ⌊epoch / every⌋.

    >>> [StepDecay(every=10, decay=0.5).factor(epoch) for epoch in (0, 9.9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, every: float, decay: float = 0.1):
        self.every, self.decay = self._positive("every", every), self._positive("decay", decay)

    def factor(self, epoch):
        drops = math.floor(self._time(epoch) / self.every)
        try:
            return self.decay**drops
        except OverflowError:
            power = f"{self.decay:g} to the power of {drops}, at epoch {epoch:g}"
            raise ValueError(f"StepDecay: {power}, is no number") from None


class CosineDecay(Schedule):
    """factor = final + (1 − final) · (1 + cos(π · epoch / epochs)) / 2, and `final` after `epochs`.

    By Loshchilov and Hutter (2017), without their restarts.

    >>> [round(CosineDecay(epochs=10).factor(epoch), 3) for epoch in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, epochs: float, final: float = 0.0):
        self.epochs, self.final = self._positive("epochs", epochs), self._fraction("final", final)

    def factor(self, epoch):
        done = min(self._time(epoch) / self.epochs, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


class OneCycle(Schedule):
    """Up from `start` to 1 over the first `warm` of `epochs`, then down to `final`, both along a half cosine.

    By Smith (2018). The optimiser's learning rate is the peak.

    >>> [round(OneCycle(epochs=10).factor(epoch), 3) for epoch in (0, 1.5, 3, 10)]
    [0.04, 0.52, 1.0, 0.0]
    """

    def __init__(self, epochs: float, warm: float = 0.3, start: float = 0.04, final: float = 0.0):
        self.epochs, self.warm = self._positive("epochs", epochs), self._fraction("warm", warm)
        self.start, self.final = self._fraction("start", start), self._fraction("final", final)

    def factor(self, epoch):
        done = min(self._time(epoch) / self.epochs, 1.0)
        if done < self.warm:
            low, share = self.start, done / self.warm
        else:
            low, share = self.final, 1 - (done - self.warm) / (1 - self.warm) if self.warm < 1 else 1.0
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2


class Triangle(Schedule):
    """Up from `start` to 1 over the first `warm` of `epochs`, then down to `final`, both along a straight line.

    The optimiser's learning rate is the peak.

    >>> [round(Triangle(epochs=10, warm=0.2, start=0.5).factor(epoch), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    def __init__(self, epochs: float, warm: float = 0.3, start: float = 0.0, final: float = 0.0):
        self.epochs, self.warm = self._positive("epochs", epochs), self._fraction("warm", warm)
        self.start, self.final = self._fraction("start", start), self._fraction("final", final)

    def factor(self, epoch):
        done = min(self._time(epoch) / self.epochs, 1.0)
        if done < self.warm:
            return self.start + (1 - self.start) * done / self.warm
        share = 1 - (done - self.warm) / (1 - self.warm) if self.warm < 1 else 1.0
        return self.final + (1 - self.final) * share


class WarmUp(Schedule):
    """Linear from `start` to 1 over the first `epochs`, then 1. Give it beside another schedule: factors multiply.

    >>> [WarmUp(epochs=2, start=0.0).factor(epoch) for epoch in (0, 1, 2, 3)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, epochs: float = 1.0, start: float = 0.1):
        self.epochs, self.start = self._positive("epochs", epochs), self._fraction("start", start)

    def factor(self, epoch):
        return self.start + (1 - self.start) * min(self._time(epoch) / self.epochs, 1.0)
