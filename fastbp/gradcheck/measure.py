"""Finite differences of one problem at one point, and the verdict on each element."""

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import numpy as np

from .numeric import EPS, ROUNDING, Slopes, away_from_zero, function_noise, ladder, slopes
from .problems import Problem
from .report import BELOW_NOISE, KINK, MISMATCH, NOT_CHECKED, NOT_FINITE, OK, TensorCheck

DIRECTIONS = 8  # of each tensor, where directions are measured
NEARBY = 16  # points around one that lies on a kink, where the slope is measured too


class Measure:
    """Finite differences of one problem at one point, for the cotangents `douts` (K, …)."""

    def __init__(
        self, problem: Problem, centre: np.ndarray, douts: np.ndarray, tolerance: float, rng: np.random.Generator
    ):
        self.problem, self.tolerance, self.rng = problem, tolerance, rng
        self.centre, self.douts = centre.ravel(), douts.reshape(len(douts), -1)
        self.tensors = list(problem.tensors.values())
        direction = self.direction()
        largest = max((np.abs(a).max(initial=0.0) for a in self.tensors), default=0.0)
        self.noise = function_noise(lambda t: self.along(direction)(t)[0], self.centre, largest)
        self.on_kink: bool | None = None  # not known yet
        self.analytic: dict[str, bool] = {}  # tensors that the complex step can be trusted for, or not

    # -- moving -------------------------------------------------------------------------------------------------------

    def outputs(self) -> np.ndarray:
        with np.errstate(all="ignore"):
            y = self.problem.forward().ravel()
        if y.shape != self.centre.shape:
            raise ValueError(f"{self.problem.subject}: forward gave {y.size} outputs, and {self.centre.size} before")
        return y

    def direction(self) -> list[np.ndarray]:
        """A random direction of all the tensors, each in its own scale."""
        return [away_from_zero(self.rng, a.shape) * _scale(a) for a in self.tensors]

    def along(self, direction: list[np.ndarray]) -> Callable[[float], tuple[np.ndarray, float]]:
        """The move of all the tensors along a direction."""

        def move(t: float) -> tuple[np.ndarray, float]:
            before = [a.copy() for a in self.tensors]
            try:
                for a, d in zip(self.tensors, direction, strict=True):
                    a += t * d
                return self.outputs(), t
            finally:
                for a, saved in zip(self.tensors, before, strict=True):
                    a[...] = saved

        return move

    def element(self, array: np.ndarray, index: int) -> Callable[[float], tuple[np.ndarray, float]]:
        """The move of one element."""

        def move(t: float) -> tuple[np.ndarray, float]:
            before = array.flat[index]
            array.flat[index] = before + t
            try:
                return self.outputs(), array.flat[index] - before
            finally:
                array.flat[index] = before

        return move

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def tensor(self, name: str, array: np.ndarray, analytic: np.ndarray, elements: np.ndarray) -> TensorCheck:
        """Every listed element of one tensor; analytic (K, *shape)."""
        verdicts = np.full(array.shape, NOT_CHECKED, np.int8)
        numeric, error = np.full(analytic.shape, np.nan), np.full(analytic.shape, np.nan)
        flat = analytic.reshape(len(analytic), -1)
        scales = np.maximum(np.abs(array), max(1.0, _scale(array))).ravel()
        for k in elements:
            move, own = self.element(array, k), float(np.abs(array.flat[k]))
            around, exact = partial(self.around, array, k), partial(self.complex_slope, name, k)
            verdict, value, wrong = self.judge(move, flat[:, k], scales[k], around, exact, own)
            verdicts.flat[k] = verdict
            numeric.reshape(len(flat), -1)[:, k] = value
            error.reshape(len(flat), -1)[:, k] = wrong
        return TensorCheck.of(name, array, analytic, numeric, error, verdicts, self.tolerance)

    def directions(self, array: np.ndarray, analytic: np.ndarray) -> bool:
        """Whether the derivative along some direction of the tensor is wrong, or can't be told."""
        if not array.size:
            return False
        for _ in range(DIRECTIONS):
            direction = away_from_zero(self.rng, array.shape)
            move = self.along([direction if a is array else np.zeros_like(a) for a in self.tensors])
            slope = analytic.reshape(len(analytic), -1) @ direction.ravel()
            verdict, *_ = self.judge(move, slope, max(1.0, _scale(array)))
            if verdict not in (OK, BELOW_NOISE):
                return True
        return False

    def judge(
        self, move, analytic: np.ndarray, scale: float, around=None, complex_slope=None, own: float = 0.0
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """(verdict, numeric (K,), the estimate of its error (K,)) of one derivative, given the analytic ones (K,).

        `around` and `complex_slope` are this element's methods of those names, `own` is its size.
        """
        best = self.settle(move, scale, own)
        unknown = np.full(len(analytic), np.nan)
        if best is None or not np.isfinite(analytic).all():
            return NOT_FINITE, best.value if best else unknown, best.error if best else unknown
        size = np.maximum(np.abs(analytic), np.abs(best.value))
        agrees = np.abs(analytic - best.value) <= self.tolerance * size + best.error
        if agrees.all():
            vague = (best.error > 0.05 * size) & ((size > 0) | (best.kink > 0))
            if not vague.any():
                return OK, best.value, best.error
            if (best.kink > 0.5 * best.error)[vague].any():
                return KINK, best.value, best.error
            exact = complex_slope(best) if complex_slope is not None else None
            if exact is None:
                return BELOW_NOISE, best.value, best.error
            off = np.abs(analytic - exact[0]) - self.tolerance * np.maximum(np.abs(analytic), np.abs(exact[0]))
            return MISMATCH if (off > exact[1]).any() else OK, *exact
        if around is not None and self.lies_on_kink():
            low, high = around()
            slack = self.tolerance * size + best.noise + best.truncation
            if ((analytic >= low - slack) & (analytic <= high + slack)).all():
                return KINK, best.value, best.error
        error = best.error + self.unrest(move, best)
        confirmed = np.abs(analytic - best.value) > self.tolerance * size + error
        return MISMATCH if confirmed.any() else BELOW_NOISE, best.value, error

    def unrest(self, move, best: Slopes) -> np.ndarray:
        """How much the slopes at smaller steps differ: what the estimate of the error may not have seen, noise of a
        function that rounds to float32 somewhere, or a step so wide that its truncation can't be told from two values
        (batch norm of a column that is almost constant)."""
        most = np.zeros(len(best.value))
        vague = (best.error > 0.01 * np.abs(best.value)).any()
        for shorter in (0.61, 0.37, 1 / 8, 1 / 32, *((1 / 128, 1 / 512) if vague else ())):
            found = slopes(move, self.centre, self.noise, self.douts, shorter * best.step.min())
            if found is not None:
                most = np.maximum(most, np.abs(found.value - best.value))
        return 3 * most

    def settle(self, move, scale: float, own: float = 0.0) -> Slopes | None:
        """The slopes at the step, of the ladder's, whose error is least; None if the function is not finite at any."""
        best = None
        for h in ladder(scale, own):
            found = slopes(move, self.centre, self.noise, self.douts, h)
            if found is None:
                continue
            still = not (found.value.any() or found.kink.any())
            if still and best is not None and best.value.any() and (best.error <= 0.3 * np.abs(best.value)).all():
                break  # no output moves any more: the function rounds more coarsely than float64
            best = found if best is None else _better(best, found)
            if (best.error <= self.tolerance * np.abs(best.value)).all() or (found.noise >= 0.5 * found.error).all():
                break
        return best

    def complex_slope(self, name: str, index: int, real: Slopes) -> tuple[np.ndarray, np.ndarray] | None:
        """The slope and its error by the complex step, Im f(x + ih) / h, which subtracts nothing and so has no noise.

        None where the function takes no complex numbers or is not analytic in them (|z|, comparisons):
        trusted for a tensor if it agrees with finite differences at eight of its elements, and used if it
        agrees with `real`, those at this one.
        """
        if name not in self.analytic:
            array, agreed = self.problem.tensors[name], []
            for k in np.unique(np.linspace(0, array.size - 1, 8).astype(np.intp)):
                found, exact = self.settle(self.element(array, k), max(1.0, _scale(array))), self._imaginary(name, k)
                if found is None or exact is None:
                    agreed = [False]
                    break
                if (found.error <= 1e-4 * np.abs(found.value)).all():
                    agreed.append((np.abs(exact[0] - found.value) <= found.error + exact[1]).all())
            self.analytic[name] = bool(agreed) and all(agreed)
        exact = self._imaginary(name, index) if self.analytic[name] else None
        return exact if exact is not None and (np.abs(exact[0] - real.value) <= real.error).all() else None

    def _imaginary(self, name: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        found = self.problem.imaginary(name, index, 2.0**-100)  # the slopes of the outputs
        if found is None or found.size != self.centre.size or not np.isfinite(found).all():
            return None
        flat = found.ravel()
        # ε on its own as well: a slope may be a small difference of slopes of size 1
        return self.douts @ flat, np.abs(self.douts) @ (ROUNDING * np.abs(flat) + 16 * EPS)

    def lies_on_kink(self) -> bool:
        """Whether no step settles the slopes along random directions, since those on two sides differ, say."""
        if self.on_kink is None:
            self.on_kink = False
            for _ in range(4):
                best = self.settle(self.along(self.direction()), 1.0)
                if best is None:
                    continue
                doubt = best.kink + best.truncation
                if ((doubt > 10 * best.noise) & (doubt > 1e-3 * np.abs(best.value))).any():
                    self.on_kink = True
        return self.on_kink

    def around(self, array: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest slope along an element that the kinks at this point allow, for each cotangent.

        An output may bend twice at the point: relu(t) − relu(−t) has equal slopes on both sides of t = 0, and yet no
        gradient there. And an element that ties in two pooling windows may win one and lose the other: each output
        has a slope of its own choice. So each output's slopes are measured at points near by, which lie off the
        kinks that meet here, and the ranges of the outputs are added. Where more than one kink meets in an output
        (more than two slopes are seen) not every combination need be among the points, and its range is taken twice
        as wide on both sides. Half of the points raise or lower the element itself more than all others, so that one
        of many in a tie wins and loses.
        """
        saved, seen = [a.copy() for a in self.tensors], []
        move, h = self.element(array, index), 2.0**-27 * max(1.0, _scale(array))
        for k in range(NEARBY):
            try:
                for a, d in zip(self.tensors, self.direction(), strict=True):
                    a += 2.0**-20 * d
                array.flat[index] += (4.0, -4.0, 0.0, 0.0)[k % 4] * 2.0**-20 * _scale(array)
                (up, above), (down, below) = move(h), move(-h)
                seen.append((up - down) / (above - below))
            finally:
                for a, values in zip(self.tensors, saved, strict=True):
                    a[...] = values
        low, high = np.min(seen, axis=0), np.max(seen, axis=0)
        with np.errstate(all="ignore"):
            slack = 1e-4 * np.maximum(np.abs(low), np.abs(high)) + 4 * self.noise / h * (high != low)
            place = (seen - low) / (high - low)
            several = ((place > 1e-3) & (place < 1 - 1e-3)).any(axis=0) * (high - low)
        low, high = low - several - slack, high + several + slack
        ends = np.array([self.douts * low, self.douts * high])
        return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)


def _scale(array: np.ndarray) -> float:
    """The size of a tensor's elements: their root mean square, 1 if they are all 0 or not finite."""
    largest = float(np.abs(array).max(initial=0.0))
    if not 0 < largest < math.inf:
        return 1.0
    return largest * math.sqrt(np.mean(np.square(array / largest)))


def _better(a: Slopes, b: Slopes) -> Slopes:
    """For each cotangent, the better slopes.

    Those that resolve the function, with an error small beside the value, come before those that don't: 1/x near 0
    looks flat to a step that is far too wide. Of two alike those with the smaller error are better.
    """
    fine_a, fine_b = (s.error <= 0.1 * np.abs(s.value) for s in (a, b))
    pick = np.where(fine_a == fine_b, a.error <= b.error, fine_a)
    return Slopes(*(np.where(pick, getattr(a, f.name), getattr(b, f.name)) for f in fields(Slopes)))
