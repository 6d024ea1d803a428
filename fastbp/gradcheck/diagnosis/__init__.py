"""From a wrong gradient to its likely cause.

A rule looks at one wrong gradient and the numeric one, and names a cause only if the numbers agree at every
measured element: either what backward gave, changed in one way, is the numeric gradient, or a known wrong
formula gives what backward gave.

general         signs, factors, dout, another tensor's gradient
shapes          wrong shapes; the right numbers at the wrong places
masks           elementwise layers: ReLU, dropout
norm_slips      batch norm and layer norm, term by term
cotangents      dout left out in part, overwritten or rearranged
window_slips    convolution, and what pooling has in common with it
pool_slips      maximum pooling
formulas        layers and losses given by a short formula, one slip away from it
partial         what is wrong is not known, but where; not finite
"""

from collections.abc import Iterable

import numpy as np

from . import cotangents, formulas, general, masks, norm_slips, partial, pool_slips, shapes, window_slips
from .evidence import Cause, Evidence, Rule

RULES: tuple[Rule, ...] = (
    general.wrong_tensor,
    general.accumulates,
    general.wrong_sign,
    masks.mask_slips,
    masks.slopes_exchanged,
    masks.stopped_value,
    general.not_times_dout,
    masks.dout_added,
    general.constant_factor,
    norm_slips.norm_terms,
    norm_slips.not_constant,
    norm_slips.gamma_gradient,
    shapes.moved,
    shapes.rearranged,
    cotangents.dout_left_out,
)
OTHERWISE: tuple[Rule, ...] = (
    # where those say nothing: many wrong formulas, then what is ever less certain. The first that fits is enough
    window_slips.window_slips,
    formulas.one_slip,
    formulas.not_a_gradient,
    masks.divided,
    cotangents.dout_rearranged,
    general.power_of_itself,
    general.factor_by_element,
    partial.unfilled,
    shapes.shifted,
    norm_slips.wrong_term,
    masks.wrong_derivative,
    general.factor_by_feature,
    partial.not_finite,
    general.should_be_zero,
    pool_slips.wrong_elements,
    partial.partly_wrong,
    partial.wrong_shape,
)
# Before all others: zeros agree with half of the wrong formulas there are.
NOTHING: tuple[Rule, ...] = (shapes.empty, general.zero)


def diagnose(evidence: Evidence) -> list[Cause]:
    """The causes that explain a wrong gradient, best first, each name once; [] if none does, or if it is right."""
    with np.errstate(all="ignore"):
        if evidence.is_right:
            return []
        if found := _first(NOTHING, evidence):
            return found
        return _once(cause for rule in RULES for cause in rule(evidence)) or _first(OTHERWISE, evidence)


def _first(rules: tuple[Rule, ...], evidence: Evidence) -> list[Cause]:
    return next((causes for rule in rules if (causes := _once(rule(evidence)))), [])


def _once(causes: Iterable[Cause]) -> list[Cause]:
    """Each name with the first of its messages."""
    named: dict[str, Cause] = {}
    for cause in causes:
        named.setdefault(cause.name, cause)
    return list(named.values())


__all__ = ["Cause", "Evidence", "diagnose"]
