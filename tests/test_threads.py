"""Several threads, several trainings at once, forked processes: the same numbers, and neighbours left in peace."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
from machines import ROWS, SAMPLES, cuts_of, parts_of

import fastbp
from fastbp.engine import threads
from fastbp.engine.program import programs
from fastbp.kernels.jit import kernel

PACKAGE = Path(fastbp.__file__).parent


@pytest.fixture(autouse=True)
def restored():
    before = fastbp.get_num_threads()
    yield
    fastbp.set_num_threads(before)


FINE = dataclasses.replace(SAMPLES, large=500)


def convolutional(seed=0, machine=FINE):
    """Small problems are cut as large ones are."""
    return fastbp.Sequential(
        fastbp.Conv2d(1, 4, 3), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Conv2d(4, 5, 3, stride=2),
        fastbp.BatchNorm2d(5), fastbp.ReLU(), fastbp.Dropout(0.3), fastbp.Flatten(), fastbp.Linear(45, 30),
        fastbp.Tanh(), fastbp.Linear(30, 4), seed=seed, machine=machine,
    )  # fmt: skip


def train(network, shape, steps, optimizer=None, batch=16):
    """The network's parameters after some steps on random data, the last batch of each four smaller."""
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), optimizer or fastbp.SGD(lr=0.05, momentum=0.9))
    rng = np.random.default_rng(0)
    for step in range(steps):
        size = batch if step % 4 else batch - 3
        trainer.step(rng.normal(size=(size, *shape)).astype(network.dtype), rng.integers(0, 4, size))
    return network.parameter_vector.copy()


def test_parameters_do_not_depend_on_the_number_of_threads_where_gradients_go_by_rows():
    results = []
    for count in (1, 2, 4):
        fastbp.set_num_threads(count)
        network = convolutional(machine=ROWS)
        results.append(train(network, (1, 18, 18), 30))
    assert ("gradients", "rows") in cuts_of(network, (1, 18, 18), 16)["ConvOp"]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("optimizer", [lambda: fastbp.SGD(lr=0.05, momentum=0.9), lambda: fastbp.Adam(lr=0.01)])
def test_parameters_do_not_depend_on_the_number_of_threads(optimizer):
    results = []
    for count in (1, 2, 4):
        fastbp.set_num_threads(count)
        network = convolutional()
        results.append((train(network, (1, 18, 18), 100, optimizer()), network.state_dict()["4.running_var"]))
    assert parts_of(network, (1, 18, 18), 16) == 8
    for parameters, variance in results[1:]:
        assert np.array_equal(parameters, results[0][0]) and np.array_equal(variance, results[0][1])
    assert np.isfinite(results[0][0]).all()


def test_a_problem_that_is_cut_without_help_of_the_test():
    results = []
    for count in (1, 2, 4):
        fastbp.set_num_threads(count)
        network = fastbp.Sequential(fastbp.Linear(300, 600), fastbp.ReLU(), fastbp.Linear(600, 4))
        results.append(train(network, (300,), 8, batch=140))
    assert parts_of(network, (300,), 140) > 1
    assert all(np.array_equal(result, results[0]) for result in results)


def test_several_trainings_at_once():
    fastbp.set_num_threads(2)
    expected = [train(convolutional(seed), (1, 18, 18), 30) for seed in range(4)]
    results = [None] * 4

    def work(seed):
        results[seed] = train(convolutional(seed), (1, 18, 18), 30)

    running = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert all(np.array_equal(result, right) for result, right in zip(results, expected, strict=True))


def test_predictions_of_one_network_from_several_threads():
    network, x = convolutional(), np.random.default_rng(0).normal(size=(40, 1, 18, 18)).astype(np.float32)
    network.task = "classification"
    expected = [network.forward(x[k : k + 10]).argmax(1) for k in range(0, 40, 10)]
    wrong = []

    def work(k):
        for _ in range(50):
            if not np.array_equal(fastbp.predict(network, x[10 * k : 10 * k + 10]), expected[k]):
                wrong.append(k)

    running = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert not wrong


def script(code: str) -> str:
    """What a fresh interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


TRAIN = """
import os, warnings
import numpy as np, fastbp
machine = fastbp.engine.Machine(part_work=1, range_work=1)
fastbp.set_num_threads(2)
def train(seed):
    network = fastbp.Sequential(fastbp.Linear(8, 16), fastbp.ReLU(), fastbp.Linear(16, 3), seed=seed)
    network.machine = machine
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        trainer.step(rng.normal(size=(16, 8)).astype(np.float32), rng.integers(0, 3, 16))
    return network.parameter_vector.tobytes().hex()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_processes_train_at_once():
    out = script(TRAIN + """
import multiprocessing
warnings.simplefilter("ignore")
expected = [train(seed) for seed in range(3)]  # starts the threads, which the forked processes don't have
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(train, range(3)) == expected and train(0) == expected[0])
""")  # fmt: skip
    assert out == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_is_at_work():
    """The forked process has not the thread that holds the network's engine."""
    out = script(TRAIN + """
import threading, time
warnings.simplefilter("ignore")
network, x = fastbp.Sequential(fastbp.Linear(8, 3)), np.ones((4, 8), np.float32)
expected, held, engine = fastbp.predict(network, x), threading.Event(), network.engine((8,))
def hold():
    with engine.lock:
        held.set()
        time.sleep(3)
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(fastbp.predict(network, x), expected) else 1)
print(os.waitpid(child, 0)[1])
""")  # fmt: skip
    assert out == "0"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_importing_starts_no_thread_and_using_starts_as_many_as_are_wanted():
    out = script("""
import os, numpy, numba, scipy.special
def count(): return len(os.listdir("/proc/self/task"))
environment, before = dict(os.environ), count()
import fastbp
print(count() - before, dict(os.environ) == environment, end=" ")
""" + TRAIN.replace("set_num_threads(2)", "set_num_threads(1)") + """
train(0)
print(count() - before, end=" ")
fastbp.set_num_threads(3)
train(0)
print(count() - before <= 2, dict(os.environ) == environment, end=" ")
import numba.np.ufunc.parallel
print(numba.np.ufunc.parallel._is_initialized)
""")  # fmt: skip
    assert out == "0 True 0 True True False"


def test_idle_threads_use_no_processor_time():
    fastbp.set_num_threads(2)
    train(convolutional(), (1, 18, 18), 4)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.2


@kernel
def climb(x, rounds):
    """x ← x + 1, so many times, slowly"""
    for _ in range(rounds):
        x[0] = np.sqrt((x[0] + 1) ** 2)


@kernel
def neighbour(y, x, k, s):
    """y[k] ← x[k + 1] + s"""
    y[k] = x[(k + 1) % x.size] + s


@kernel
def refuse(x):
    raise ValueError("planted")


compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="without the JIT all is done on one thread")


@compiled
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_section_begins_when_the_one_before_has_ended(count):
    """Each part reads what its neighbour wrote in the section before; now and then the helpers have gone to sleep."""
    fastbp.set_num_threads(count)
    P, S, rng = 5, 20, np.random.default_rng(count)
    x, y = np.zeros(P), np.zeros(P)
    sections = [
        [[partial(neighbour, *((y, x) if s % 2 == 0 else (x, y)), k, float(s))] for k in range(P)] for s in range(S)
    ]
    [program] = programs(sections)
    for _ in range(300):
        x[:] = start = rng.normal(size=P)
        threads.run(program)
        expected = start
        for s in range(S):
            expected = np.roll(expected, -1) + float(s)
        assert np.array_equal(x, expected)
        time.sleep(rng.choice([0, 0, 0, 0.0002, 0.001]))


@compiled
def test_an_error_in_a_part_reaches_the_caller_and_ends_the_others():
    """Whoever takes the part that fails: when `run` returns, nobody writes to the caller's arrays any more."""
    fastbp.set_num_threads(2)
    for place in range(20):
        x, after = np.zeros(24), np.zeros(1)
        parts = [[partial(climb, x[8 * k : 8 * k + 1], 20_000)] for k in range(3)]
        parts.insert(place % 4, [partial(refuse, x)])
        [program] = programs([parts, [[partial(climb, after, 1)]]])
        with pytest.raises(ValueError, match="planted"):
            threads.run(program)
        seen = x.copy()
        time.sleep(0.001)
        assert np.array_equal(x, seen) and set(x) <= {0, 20_000} and after[0] == 0
    x = np.zeros(40)
    [program] = programs([[[partial(climb, x[8 * k : 8 * k + 1], 100)] for k in range(5)]])
    threads.run(program)
    assert x[::8].tolist() == [100] * 5


@compiled
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_ctrl_c_ends_a_step_between_programs():
    """The signal waits until all threads are through; then the next program can be run."""
    fastbp.set_num_threads(2)
    x = np.zeros(64)
    [program] = programs([[[partial(climb, x[8 * k : 8 * k + 1], 400_000)] for k in range(8)]])
    threads.run(program)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(5):
            x[:] = 0
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            with pytest.raises(KeyboardInterrupt):
                threads.run(program)
                time.sleep(1)
            assert x[::8].tolist() == [400_000] * 8
    finally:
        signal.signal(signal.SIGALRM, before)


@compiled
def test_a_second_caller_works_alone():
    fastbp.set_num_threads(2)
    x = np.zeros((4, 64))
    made = [programs([[[partial(climb, row[8 * k : 8 * k + 1], 1000)] for k in range(8)]])[0] for row in x]

    def work(program):
        for _ in range(200):
            threads.run(program)

    running = [threading.Thread(target=work, args=(program,)) for program in made]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert (x[:, ::8] == 200_000).all()


@compiled
def test_the_interpreter_ends_while_helpers_watch():
    assert script(TRAIN + "train(0)\nprint(len(fastbp.engine.threads._team.helpers))") == "1"


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (True, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_numbers_of_threads_that_make_no_sense(wrong, error):
    with pytest.raises(error, match="set_num_threads: threads"):
        fastbp.set_num_threads(wrong)


def test_the_default_is_what_the_process_may_use():
    assert threads.usable_cores() >= 1
    if hasattr(os, "sched_setaffinity") and threads.usable_cores() > 1:
        one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        assert script(one + "import fastbp; print(fastbp.get_num_threads())") == "1"


@compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not say which core a thread may use")
def test_helpers_are_kept_off_the_core_of_the_caller():
    """And on those that the caller may use; a caller with one core leaves them alone."""
    network, x = fastbp.Sequential(fastbp.Linear(300, 300), fastbp.Linear(300, 300)), np.ones((512, 300), np.float32)
    fastbp.set_num_threads(2)
    mine, outputs = os.sched_getaffinity(0), fastbp.outputs(network, x)
    if len(mine) < 2:
        pytest.skip("one core")
    only = {min(mine)}
    try:
        os.sched_setaffinity(0, only)
        for _ in range(3):
            time.sleep(0.02)  # helpers fall asleep
            assert np.array_equal(fastbp.outputs(network, x), outputs)
    finally:
        os.sched_setaffinity(0, mine)
    time.sleep(0.02)
    fastbp.outputs(network, x)
    helpers = [thread for thread in threading.enumerate() if thread.name.startswith("fastbp-")]
    assert helpers
    for helper in helpers:
        allowed = os.sched_getaffinity(helper.native_id)
        assert allowed < mine and len(allowed) == len(mine) - 1
