"""Schedules against their formulas, written another way, at many points."""

import cmath
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import CosineDecay, OneCycle, Schedule, StepDecay, Triangle, WarmUp

many = settings(deadline=None, max_examples=200)
times = st.floats(0, 200)
lengths = st.floats(0.1, 150)
fractions = st.floats(0, 1)


def half_cosine(share):
    """From 1 at 0 down to 0 at 1, as cos²."""
    return (cmath.exp(1j * math.pi * share / 2).real) ** 2


@given(every=st.integers(1, 20), decay=st.floats(0.01, 1.5), epoch=times)
@many
def test_step_decay_multiplies_once_every_so_many_epochs(every, decay, epoch):
    expected = 1.0
    passed = every
    while passed <= epoch:
        expected *= decay
        passed += every
    assert StepDecay(every, decay).factor(epoch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epoch, factor", [(0, 1), (2.999, 1), (3, 0.1), (5.99, 0.1), (6, 0.01), (9, 0.001)])
def test_step_decay_steps_exactly_at_the_epoch(epoch, factor):
    assert StepDecay(3).factor(epoch) == pytest.approx(factor, rel=1e-12)


@given(epochs=lengths, final=fractions, epoch=times)
@many
def test_cosine_decay_is_half_a_cosine_and_stays_at_its_end(epochs, final, epoch):
    expected = final + (1 - final) * half_cosine(epoch / epochs) if epoch < epochs else final
    assert CosineDecay(epochs, final).factor(epoch) == pytest.approx(expected, abs=1e-12)


@given(epochs=lengths, warm=st.floats(0.01, 0.99), start=fractions, final=fractions, epoch=times)
@many
def test_one_cycle_rises_and_falls_along_half_cosines(epochs, warm, start, final, epoch):
    peak = warm * epochs
    if epoch >= epochs:
        expected = final
    elif epoch < peak:
        expected = 1 - (1 - start) * half_cosine(epoch / peak)
    else:
        expected = final + (1 - final) * half_cosine((epoch - peak) / (epochs - peak))
    assert OneCycle(epochs, warm, start, final).factor(epoch) == pytest.approx(expected, abs=1e-9)


@given(epochs=lengths, warm=fractions, start=fractions, final=fractions, epoch=times)
@many
def test_one_cycle_stays_between_its_ends_and_the_peak(epochs, warm, start, final, epoch):
    assert min(start, final) - 1e-12 <= OneCycle(epochs, warm, start, final).factor(epoch) <= 1 + 1e-12


def test_one_cycle_without_a_rise_or_without_a_fall():
    assert OneCycle(10, warm=0).factor(0) == pytest.approx(1)
    assert OneCycle(10, warm=0).factor(5) == pytest.approx(0.5)
    assert OneCycle(10, warm=1, start=0.5).factor(0) == pytest.approx(0.5)
    assert OneCycle(10, warm=1, start=0.5).factor(5) == pytest.approx(0.75)


@given(epochs=lengths, start=fractions, epoch=times)
@many
def test_warm_up_is_a_straight_line_and_then_one(epochs, start, epoch):
    expected = 1.0 if epoch >= epochs else (start * (epochs - epoch) + epoch) / epochs
    assert WarmUp(epochs, start).factor(epoch) == pytest.approx(expected, abs=1e-12)


@given(epochs=lengths, warm=fractions, start=fractions, final=fractions, epoch=times)
@many
def test_a_triangle_goes_through_its_three_corners_in_straight_lines(epochs, warm, start, final, epoch):
    at, peak, end = Fraction(epoch), Fraction(warm) * Fraction(epochs), Fraction(epochs)  # nothing over- or underflows
    if at >= end:
        expected = 1 if warm == 1 else Fraction(final)
    elif at < peak:
        expected = Fraction(start) + (1 - Fraction(start)) * at / peak
    else:
        expected = 1 + (Fraction(final) - 1) * (at - peak) / (end - peak)
    expected = float(expected)
    assert Triangle(epochs, warm, start, final).factor(epoch) == pytest.approx(expected, abs=1e-9)


WRONG = [
    lambda: StepDecay(0),
    lambda: StepDecay(-1),
    lambda: StepDecay(2, decay=0),
    lambda: StepDecay(math.nan),
    lambda: StepDecay(math.inf),
    lambda: CosineDecay(0),
    lambda: CosineDecay(5, final=1.1),
    lambda: CosineDecay(5, final=-0.1),
    lambda: CosineDecay(5, final=math.nan),
    lambda: OneCycle(0),
    lambda: OneCycle(5, warm=1.5),
    lambda: OneCycle(5, start=-1),
    lambda: OneCycle(5, final=2),
    lambda: Triangle(0),
    lambda: Triangle(5, warm=2),
    lambda: WarmUp(0),
    lambda: WarmUp(2, start=2),
]


@pytest.mark.parametrize("make", WRONG)
def test_a_wrong_argument_is_named(make):
    with pytest.raises(
        ValueError,
        match=r"(StepDecay|CosineDecay|OneCycle|Triangle|WarmUp): (every|decay|epochs|final|warm|start) must be",
    ):
        make()


def test_a_schedule_of_ones_own_needs_a_factor():
    class Mine(Schedule):
        pass

    with pytest.raises(TypeError, match="Mine does not define factor"):
        Mine().factor(0)
