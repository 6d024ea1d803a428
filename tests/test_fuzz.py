"""Hostile arguments at every door: a result, or an error of fastbp's own that names the argument. See tests/fuzzing.py."""

import random

import fuzzing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CLEAN = ("threads", "graph", "gradcheck", "testing", "sweeps", "grading")  # the rooms that have been mended so far
DOORS = fuzzing.chosen(CLEAN)


@pytest.fixture(autouse=True, scope="module")
def _guarded():
    with fuzzing.guarded():
        yield


def test_every_public_callable_has_good_arguments():
    assert not fuzzing.missing()


@pytest.mark.parametrize("room", CLEAN)
@settings(max_examples=200)
@given(data=st.data())
def test_hostile_arguments_are_clear_errors(room, data):
    door = data.draw(st.sampled_from([door for door in DOORS if door.room == room and not fuzzing.SLOW.fullmatch(door.name)]))
    fault = fuzzing.attempt(door, random.Random(data.draw(st.integers(0, 2**32))))
    assert fault is None, str(fault)


SLOW_DOORS = [d for d in fuzzing.chosen(("graph", "plotting", "sweeps", "grading")) if fuzzing.SLOW.fullmatch(d.name)]


@settings(max_examples=100)
@given(data=st.data())
def test_so_are_they_where_figures_are_drawn_or_processes_started(data):
    door = data.draw(st.sampled_from(SLOW_DOORS))
    fault = fuzzing.attempt(door, random.Random(data.draw(st.integers(0, 2**32))))
    assert fault is None, str(fault)
