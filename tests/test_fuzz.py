"""Hostile arguments at every door give a result, or an error of fastbp's own that names the argument (fuzzing.py)."""

import random

import fuzzing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp.arguments import whole

DOORS = {room: [door for door in fuzzing.doors() if door.room == room] for room in fuzzing.ROOMS}
QUICK = {room: [door for door in doors if not fuzzing.SLOW.fullmatch(door.name)] for room, doors in DOORS.items()}
EXAMPLES = settings.default.max_examples


@pytest.fixture(autouse=True, scope="module")
def _guarded():
    with fuzzing.guarded():
        yield


def test_every_public_callable_has_good_arguments():
    assert not fuzzing.missing()


@pytest.mark.parametrize("room", [room for room, doors in QUICK.items() if doors])
@settings(max_examples=3 * EXAMPLES)
@given(data=st.data())
def test_hostile_arguments_are_clear_errors(room, data):
    fault = fuzzing.attempt(data.draw(st.sampled_from(QUICK[room])), random.Random(data.draw(st.integers(0, 2**32))))
    assert fault is None, str(fault)


@given(door=st.sampled_from(DOORS["plotting"]), seed=st.integers(0, 2**32))
def test_hostile_arguments_of_figures_are_clear_errors(door, seed):
    fault = fuzzing.attempt(door, random.Random(seed))
    assert fault is None, str(fault)


def test_the_fuzzer_tells_faults_from_clear_errors():
    """Planted: an error of NumPy's, one without the argument's name, one after a change, a warning, and a good one."""

    def call(function, **arguments):
        return fuzzing.judge(function, arguments, list(arguments), fuzzing.Door("planted", lambda: (dict, {}), ()))

    def changes_first(x):
        x[0] = 1
        whole("planted: x", x)

    assert "a raw error: ValueError" in call(lambda x: np.zeros(2) + x, x=np.zeros(3))
    assert "a raw error: TypeError" in call(lambda x: len(x), x=3)
    assert "does not name the argument" in call(lambda size: whole("planted: count", size), size="a")
    assert "changed x and failed" in call(changes_first, x=np.zeros(3))
    assert "warned: RuntimeWarning" in call(lambda x: np.log(x), x=np.array([-1.0]))
    assert call(lambda x: whole("planted: x", x), x="a") is None
    assert call(lambda x: fastbp.ReLU().forward(x), x=[1.0]) is None
    assert call(lambda x: x, x=3) is None
