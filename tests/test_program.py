"""Kernel calls made in a row by machine code are the calls from Python."""

import platform
import threading
import time
from functools import partial

import numba
import numpy as np
import pytest

import fastbp
import fastbp.engine.program as program_module
from fastbp.engine import Machine
from fastbp.engine.program import Program, programs
from fastbp.kernels.jit import kernel

pytestmark = pytest.mark.portable

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the JIT is off")


@kernel
def mix(out, whole, matrix, bias, flag, count, ratio, settings, pair):
    """out += everything it was given, each in a way of its own"""
    for i in range(out.size):
        out[i] += matrix[i % matrix.shape[0], i % matrix.shape[1]] * ratio + settings[1] * (i == 0)
        out[i] += count if flag else -count
        if bias is not None:
            out[i] += bias[i % bias.size]
        out[i] += pair[0][0] - pair[1][0] + np.float64(whole % np.uint64(1000)) + np.float64(settings[0])


@kernel
def halve(x):
    """x ← x / 2"""
    for i in range(x.size):
        x[i] /= 2


@kernel
def refuse(x, limit):
    """x ← x + 1, and an error where that is above the limit"""
    x[0] += 1
    if x[0] > limit:
        raise ValueError("too large")


@kernel
def answer(x):
    """x[0]"""
    return x[0]


def arguments(rng, dtype, bias):
    matrix = rng.normal(size=(6, 5)).astype(dtype)
    settings = (int(rng.integers(-9, 9)), float(rng.normal()))
    pair = (rng.normal(size=2).astype(dtype), rng.normal(size=3).astype(dtype))
    given = [np.uint64(rng.integers(2**63)), matrix[::2, 1:], rng.normal(size=3).astype(dtype) if bias else None]
    return [*given, bool(rng.integers(2)), int(rng.integers(-5, 5)), dtype(rng.normal()), settings, pair]


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_program_is_its_calls_one_after_the_other(dtype, bias):
    rng = np.random.default_rng(0)
    wanted, out = np.zeros(7), np.zeros(7)
    calls = []
    for _ in range(5):
        given = arguments(rng, dtype, bias)
        mix(wanted, *given)
        halve(wanted)
        calls += [partial(mix, out, *given), partial(halve, out)]
    [program] = programs([[calls]])
    program()
    assert np.array_equal(out, wanted) and np.abs(out).min() > 0
    for call in calls:
        call()
    wanted, out[:] = out.copy(), wanted
    program()  # again, on what the arrays hold now
    assert np.array_equal(out, wanted)


@compiled
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors are not told to")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_leaves_no_denormal_numbers_and_the_thread_as_it_was(threads):
    """The velocity of a dead unit ends at 0; outside of a program such numbers are what they are."""
    network = fastbp.Sequential(fastbp.Linear(3, 40), fastbp.ReLU(), fastbp.Linear(40, 2), seed=0)
    network.machine = Machine(range_work=1)
    network.layers[0].bias.value = np.full(40, -100)
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.0, momentum=0.5))
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(threads)
    try:
        trainer.step(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
        (velocity,) = (trainer.optimizer.state[name] for name in trainer.optimizer.vectors)
        velocity[:] = 1e-37
        for _ in range(8):
            trainer.step(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
        dead = velocity[: network.layers[0].weight.value.size]
        assert not dead.any() and (np.abs(velocity[velocity != 0]) >= np.finfo(np.float32).tiny).all()
    finally:
        fastbp.set_num_threads(before)
    assert np.float32(1e-30) * np.float32(1e-10) > 0


@compiled
def test_other_calls_keep_their_place():
    x, seen = np.array([8.0]), []
    calls = [
        partial(halve, x),
        partial(halve, x),
        lambda: seen.append(x[0]),
        partial(halve, x),
        partial(np.copyto, x, 3.0),
    ]
    made = programs([[calls]])
    assert [type(call) is Program for call in made] == [True, False, True, False]
    for call in made:
        call()
    assert seen == [2.0] and x[0] == 3.0
    assert programs([]) == programs([[[]]]) == []
    made = programs([[[partial(halve, x)], [partial(halve, x)]], [[partial(np.copyto, x, 8.0)], [partial(halve, x)]]])
    assert [type(call) is Program for call in made] == [True, False, True] and [made[0].parts, made[2].parts] == [2, 1]
    for call in made:
        call()
    assert x[0] == 4.0


@compiled
def test_an_error_is_that_of_the_call_that_failed():
    x, y, z = np.zeros(1), np.zeros(1), np.array([8.0])
    [program] = programs([[[partial(refuse, x, 5.0), partial(refuse, y, 1.0), partial(halve, z)]]])
    program()
    assert (x[0], y[0], z[0]) == (1, 1, 4)
    with pytest.raises(ValueError, match="too large"):
        program()
    assert x[0] == 2 and z[0] == 4  # what follows is not done


@compiled
def test_threads_that_ask_at_once_get_one_entry(monkeypatch):
    """Else two functions of one name would be compiled into the process."""
    function, types = kernel(lambda x, y: None), (numba.float64, numba.float64)
    function.compile(types)
    made, parse, together = [], program_module.llvm.parse_assembly, threading.Barrier(8)

    def counted(text):
        made.append(text)
        time.sleep(0.01)  # another thread's turn
        return parse(text)

    program_module.engine()
    monkeypatch.setattr(program_module.llvm, "parse_assembly", counted)

    def ask():
        together.wait()
        addresses.add(program_module.entry(function, types))

    addresses, threads = set(), [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(addresses) == len(made) == 1


@compiled
def test_a_kernel_with_a_result_is_refused():
    with pytest.raises(TypeError, match="answer returns float64"):
        programs([[[partial(answer, np.zeros(1))]]])


def test_without_the_jit_calls_stay_as_they_are():
    x = np.array([8.0])
    calls = [partial(halve if numba.config.DISABLE_JIT else halve.py_func, x)] * 2
    made = programs([[calls], [calls[:1], calls[1:]]])
    assert made == [*calls, *calls]
    for call in made:
        call()
    assert x[0] == 0.5
