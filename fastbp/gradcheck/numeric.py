"""Derivatives by finite differences that know their own error.

For f of one number t, D(h) = (f(h) − f(−h)) / 2h is f'(0) + f'''(0) h²/6 + …, so Richardson's R = (4 D(h/2) − D(h)) / 3
has lost the h² term, and |R − D(h/2)| bounds what truncation has left in it. One-sided slopes, extrapolated in the same
way, differ by the size of a kink at 0; half of that is what the kink can be worth. Rounding adds the noise of the
function's values over h. The three together are the estimate of the error. Large steps have little noise, small ones
little truncation and near kinks out of reach: the steps of `ladder` are tried in turn until one settles the question.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

EPS = np.finfo(np.float64).eps
ROUNDING = 64 * EPS  # of each output at the least, relative: functions round in more than their last operation


@dataclass(frozen=True)
class Slopes:
    """The slope at one step, for each of K cotangents, all (K,).

    `step` h · `value` Richardson's · `truncation`, `kink` (half the jump of the slope),
    `noise` the parts of its `error`
    """

    step: np.ndarray
    value: np.ndarray
    truncation: np.ndarray
    kink: np.ndarray
    noise: np.ndarray

    @property
    def error(self) -> np.ndarray:
        return self.truncation + self.kink + self.noise


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers of either sign with sizes from 0.5 to 1.5."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def ladder(scale: float, own: float = 0.0) -> Iterator[float]:
    """Steps from 2⁻⁹ to 2⁻³³ of the scale; powers of two, so that x ± h is exact for most x.

    Where those don't settle it, from 2⁻⁹ to 2⁻³³ of the element's `own` size: 1/x at 10⁻⁸ bends on that scale.
    """
    least = scale * 2.0**-33
    for power in range(-9, -34, -4):
        yield scale * 2.0**power
    for power in range(-9, -34, -4):
        if 0 < own * 2.0**power < least / 8:
            yield own * 2.0**power


def function_noise(evaluate: Callable[[float], np.ndarray], centre: np.ndarray, largest: float) -> np.ndarray:
    """How much rounding moves each output (M,): the fourth differences of seven values close together.

    At least 64 ε of the output, and ε of the `largest` input or of 1: a loss of 10⁻¹⁵ is a difference of larger
    numbers, whose rounding no small step shows.

    Near x the values of a smooth function lie on a cubic; its fourth differences are rounding's alone, 70 times
    its variance (Hamming; Moré and Wild, Estimating computational noise, 2011). `evaluate(t)` moves all the
    inputs by t along one direction.
    """
    table = np.array([evaluate(k * 2.0**-44) for k in range(-3, 4)])
    with np.errstate(all="ignore"):
        rough = np.abs(np.diff(table, 4, axis=0)).max(axis=0, initial=0.0) / np.sqrt(70)
    floor = ROUNDING * np.abs(np.nan_to_num(centre, posinf=0, neginf=0)) + EPS * max(1.0, largest)
    return np.where(np.isfinite(rough), 8 * rough, 0.0) + floor


def slopes(
    move: Callable[[float], tuple[np.ndarray, float]],
    centre: np.ndarray,
    noise: np.ndarray,
    cotangents: np.ndarray,
    h: float,
) -> Slopes | None:
    """The slopes at 0 of t ↦ ⟨cotangent, f(t)⟩ by the steps h and h/2; None where f is not finite.

    `move(t)` gives f's outputs (M,) and the step truly made, which rounding may have changed; `centre` is f(0), `noise`
    (M,) what rounding does to each output, `cotangents` (K, M). Outputs are subtracted before they are weighted: those
    that don't move cancel exactly.
    """
    (up2, above2), (down2, below2), (up, above), (down, below) = move(h), move(-h), move(h / 2), move(-h / 2)
    below2, below = -below2, -below
    if not (above > 0 and below > 0 and above2 > above and below2 > below):
        return None  # the step is lost in rounding
    with np.errstate(all="ignore"):
        wide = cotangents @ (up2 - down2) / (above2 + below2)
        near = cotangents @ (up - down) / (above + below)
        right2, left2 = cotangents @ (up2 - centre) / above2, cotangents @ (centre - down2) / below2
        right1, left1 = cotangents @ (up - centre) / above, cotangents @ (centre - down) / below
        change = np.maximum(np.abs(up2 - down2), np.abs(up2 - centre))
        moved = (change > 0) | (up != centre) | (down != centre)
        weights = np.abs(cotangents)
        # an output that did not move may hide as much
        hidden = np.maximum(np.abs(centre), 1.0) + len(centre) * change
        rounding = 4 * weights @ (noise * moved) + EPS * (weights @ hidden)
        value = (4 * near - wide) / 3
        right, left = 2 * right1 - right2, 2 * left1 - left2
        found = Slopes(np.full(len(value), h), value, np.abs(value - near), np.abs(right - left) / 2, rounding / h)
        return found if np.isfinite(found.error).all() else None
