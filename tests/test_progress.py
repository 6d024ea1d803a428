"""Progress goes to whatever standard error is, and never ends what it shows the progress of."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tqdm import tqdm

import fastbp
from fastbp.terminal import tell, watched


class NoTerminal:
    """A stream as host programs put one in the place of standard error: it can be written to and nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Failing(io.StringIO):
    """A terminal whose other end has gone."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError("gone")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {"none": lambda: None, "closed": closed, "no isatty": NoTerminal, "failing": Failing, "no stream": object}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_training_does_not_depend_on_standard_error(monkeypatch, stream):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    make = lambda: fastbp.Sequential(fastbp.Linear(3, 2))  # noqa: E731
    quiet, shown = make(), make()
    expected = fastbp.fit(quiet, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), data, epochs=3, progress=False)
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    callbacks = [fastbp.RunningLoss(every=1, show=True)]
    history = fastbp.fit(shown, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), data, epochs=3, callbacks=callbacks)
    assert history.train_loss == expected.train_loss
    assert len(callbacks[0].losses) == 3
    assert (shown.parameter_vector == quiet.parameter_vector).all()


@pytest.mark.parametrize("stream", STREAMS)
def test_looking_and_telling_never_fail(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    assert watched() is (stream == "failing")
    tell("a line")


def test_lines_go_to_a_stream_without_isatty(monkeypatch):
    stream = NoTerminal()
    monkeypatch.setattr(sys, "stderr", stream)
    tell("a line")
    assert stream.text == "a line\n"


def test_a_terminal_that_fails_keeps_no_lock(monkeypatch):
    """tqdm's bars share one: a bar in another thread would wait for it for ever."""
    data = np.ones((4, 3), np.float32), np.zeros(4, int)
    monkeypatch.setattr(sys, "stderr", Failing())
    fastbp.fit(fastbp.Sequential(fastbp.Linear(3, 2)), fastbp.SoftmaxCrossEntropy(), fastbp.SGD(), data, epochs=2)
    tell("a line")

    def free(lock):
        taken = lock.acquire(False)
        if taken:
            lock.release()
        return taken

    with ThreadPoolExecutor(1) as other:
        assert all(other.map(free, tqdm.get_lock().locks))
