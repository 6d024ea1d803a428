"""Callbacks: when they are called, early stopping, checkpoints."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastbp
from fastbp import (
    SGD,
    BatchNorm1d,
    Callback,
    Checkpoint,
    Dropout,
    EarlyStopping,
    Linear,
    MeanSquaredError,
    ReLU,
    RunningLoss,
    Sequential,
    SoftmaxCrossEntropy,
    fit,
    load,
)

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40)
OTHER = rng.normal(size=(15, 4)).astype(np.float32), rng.integers(0, 3, 15)


def small():
    return Sequential(Linear(4, 6), BatchNorm1d(6), ReLU(), Linear(6, 3))


def train(network=None, callbacks=(), epochs=6, validation=OTHER, lr=0.1, train=(X, Y)):
    network = network or small()
    return fit(network, SoftmaxCrossEntropy(), SGD(lr=lr), train, validation, epochs, 16, callbacks, progress=False)


class Figures(Callback):
    """Puts chosen numbers into the history, so that what follows from them is known; keeps every epoch's state."""

    def __init__(self, name, values):
        self.name, self.values, self.states = name, values, []

    def on_epoch_end(self, run):
        getattr(run.history, self.name)[-1] = self.values[run.epoch - 1]
        self.states.append(run.network.state_dict())


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


# -- order and kinds -------------------------------------------------------------------------------------------------


class Noting(Callback):
    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def on_train_begin(self, run):
        self.notes.append((self.name, "begin", run.epoch, len(run.history)))

    def on_epoch_end(self, run):
        self.notes.append((self.name, "epoch", run.epoch, len(run.history)))

    def on_train_end(self, run):
        self.notes.append((self.name, "end", run.epoch, len(run.history)))


def test_callbacks_are_called_in_the_order_given_functions_at_the_end_of_epochs_only():
    notes = []

    def plain(run):
        notes.append(("plain", "epoch", run.epoch, len(run.history)))

    train(callbacks=[Noting("a", notes), plain, Noting("b", notes)], epochs=2)
    begin, end = [("a", "begin", 0, 0), ("b", "begin", 0, 0)], [("a", "end", 2, 2), ("b", "end", 2, 2)]
    epochs = [(name, "epoch", n, n) for n in (1, 2) for name in ("a", "plain", "b")]
    assert notes == begin + epochs + end


def test_a_generator_of_callbacks_works():
    notes = []
    train(callbacks=(Noting(name, notes) for name in "ab"), epochs=1)
    assert [note[:2] for note in notes] == [(name, event) for event in ("begin", "epoch", "end") for name in "ab"]


def test_train_end_is_not_called_after_an_exception():
    notes = []

    def fail(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(callbacks=[Noting("a", notes), fail, Noting("b", notes)])
    assert [note[:2] for note in notes] == [("a", "begin"), ("b", "begin"), ("a", "epoch")]


def test_the_run_shows_what_is_trained():
    network, seen = small(), []
    history = train(network, callbacks=[seen.append], epochs=3)
    run = seen[0]
    assert len(seen) == 3 and run.network is network and run.history is history and run.epochs == 3 and run.validated
    assert isinstance(run.loss, SoftmaxCrossEntropy) and isinstance(run.optimizer, SGD)


def test_stop_ends_training_after_the_epoch_and_the_first_reason_stays():
    def stop(run):
        if run.epoch == 2:
            run.stop("enough")
            run.stop("second reason")

    history = train(callbacks=[stop], epochs=9)
    assert len(history) == 2 and history.stop_reason == "enough"


# -- early stopping --------------------------------------------------------------------------------------------------


CASES = [
    # figure, its values, patience, epochs trained, best epoch
    ("validation_loss", [5, 4, 4.5, 4.2, 3, 1], 2, 4, 2),
    ("validation_loss", [5, 4, 4.5, 3, 3.5, 3.1], 2, 6, 4),
    ("validation_loss", [5, 4, 4, 4, 1, 1], 2, 4, 2),  # equal is no improvement
    ("train_loss", [1, 2, 0, 0, 0, 0], 1, 2, 1),
    ("validation_loss", [5, float("nan"), 4, float("nan"), float("nan"), 0], 2, 5, 3),
    ("validation_accuracy", [0.5, 0.6, 0.6, 0.55, 0.9, 0.9], 2, 4, 2),
    ("train_accuracy", [0.5, 0.4, 0.6, 0.5, 0.5, 0.5], 3, 6, 3),
    ("train_accuracy", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),
]


@pytest.mark.parametrize("figure, values, patience, epochs, best", CASES)
def test_early_stopping_waits_for_patience_and_puts_the_best_epoch_back(figure, values, patience, epochs, best):
    network, figures = small(), Figures(figure, values)
    history = train(network, callbacks=[figures, EarlyStopping(figure, patience=patience)])
    assert len(history) == epochs
    assert bool(history.stop_reason) == (epochs < 6 or epochs - best >= patience)
    for earlier, later in zip(figures.states, figures.states[1:], strict=False):
        for name in ("0.weight", "1.running_mean", "1.running_var"):  # something to put back
            assert not np.array_equal(earlier[name], later[name]), name
    assert_same_state(network.state_dict(), figures.states[best - 1])


def test_the_best_epoch_comes_back_when_something_else_ends_training():
    def stop(run):
        if run.epoch == 4:
            run.stop("enough")

    network, figures = small(), Figures("validation_loss", [5, 1, 2, 3, 0, 0])
    history = train(network, callbacks=[figures, EarlyStopping(patience=5), stop])
    assert history.stop_reason == "enough" and len(history) == 4
    assert_same_state(network.state_dict(), figures.states[1])


def test_parameters_that_come_back_are_those_of_the_flat_vector():
    network, figures = small(), Figures("validation_loss", [1, 2, 3, 4, 5, 6])
    vector = network.parameter_vector
    train(network, callbacks=[figures, EarlyStopping(patience=2)])
    assert network.parameter_vector is vector
    np.testing.assert_array_equal(vector[:24], figures.states[0]["0.weight"].ravel())


def test_the_state_of_dropout_comes_back_with_the_best_epoch():
    network = Sequential(Linear(4, 6), Dropout(0.3), Linear(6, 3))
    figures = Figures("validation_loss", [5, 1, 2, 3, 0, 0])
    assert len(train(network, callbacks=[figures, EarlyStopping(patience=2)])) == 4
    assert network.layers[1].state["step"] == 2 * 3  # epochs times batches
    assert_same_state(network.state_dict(), figures.states[1])


def test_the_plateau_rule_stops_at_a_small_step_and_keeps_the_last_parameters():
    network, figures = small(), Figures("train_loss", [5, 4, 3.5, 3.45, 1, 0])
    history = train(network, callbacks=[figures, EarlyStopping("train_loss", tolerance=0.1)])
    assert len(history) == 4 and "0.1" in history.stop_reason
    assert_same_state(network.state_dict(), figures.states[3])


@pytest.mark.parametrize(
    "tolerance, values, epochs",
    [(0.1, [5, 5.05, 9, 9, 9, 9], 2), (0.0625, [5, 5.1, 4, 5, 4, 5], 6), (0.25, [5, 4.75, 4.5, 4.375, 0, 0], 4)],
)
def test_the_plateau_rule_takes_the_size_of_the_step_and_is_strict(tolerance, values, epochs):
    assert len(train(callbacks=[Figures("validation_loss", values), EarlyStopping(tolerance=tolerance)])) == epochs


def test_both_rules_together_restore_the_best():
    network, figures = small(), Figures("validation_loss", [5, 3, 4, 4.01, 0, 0])
    history = train(network, callbacks=[figures, EarlyStopping(patience=4, tolerance=0.1)])
    assert len(history) == 4
    assert_same_state(network.state_dict(), figures.states[1])


def test_one_early_stopping_serves_two_trainings():
    stopping = EarlyStopping(patience=2)
    train(callbacks=[Figures("validation_loss", [1, 2, 3, 4, 5, 6]), stopping])
    network, figures = small(), Figures("validation_loss", [9, 8, 7, 8, 8, 8])
    assert len(train(network, callbacks=[figures, stopping])) == 5
    assert_same_state(network.state_dict(), figures.states[2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "patience"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"patience": -2}, "patience"),
        ({"tolerance": 0}, "tolerance must be positive"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"monitor": "loss", "patience": 1}, "monitor must be one of train_loss"),
    ],
)
def test_early_stopping_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_accuracy"])
@pytest.mark.parametrize("make", [lambda m, p: EarlyStopping(m, patience=1), lambda m, p: Checkpoint(p, monitor=m)])
def test_monitoring_validation_without_validation_data_is_an_error_before_training(monitor, make, tmp_path):
    network = small()
    before = network.state_dict()
    with pytest.raises(ValueError, match=r"validation.*give fit\(validation"):
        train(network, callbacks=[make(monitor, tmp_path / "n.npz")], validation=None)
    assert_same_state(network.state_dict(), before)
    assert not list(tmp_path.iterdir())


def test_monitoring_the_accuracy_of_a_loss_without_one_is_an_error():
    with pytest.raises(ValueError, match="MeanSquaredError has no accuracy"):
        fit(Sequential(Linear(4, 4)), MeanSquaredError(), SGD(), (X, X), callbacks=[EarlyStopping("train_accuracy", 1)])


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_every_epoch_holds_that_epoch(tmp_path):
    path, network, saved = tmp_path / "net.npz", small(), []
    checkpoint = Checkpoint(path)

    def compare(run):
        assert_same_state(load(path).state_dict(), run.network.state_dict())
        saved.append(checkpoint.saved_epoch)

    train(network, callbacks=[checkpoint, compare], epochs=3)
    assert saved == [1, 2, 3] and os.listdir(tmp_path) == ["net.npz"]
    assert_same_state(load(path).state_dict(), network.state_dict())


@pytest.mark.parametrize(
    "figure, values", [("validation_loss", [3, 2, 4, 1, 5, 1]), ("train_accuracy", [0.1, 0.2, 0.1, 0.5, 0.4, 0.5])]
)
def test_a_checkpoint_of_the_best_is_replaced_only_by_a_better_one(tmp_path, figure, values):
    figures, checkpoint, saved = Figures(figure, values), Checkpoint(tmp_path / "best.npz", monitor=figure), []
    train(callbacks=[figures, checkpoint, lambda run: saved.append(checkpoint.saved_epoch)])
    assert saved == [1, 2, 2, 4, 4, 4]
    assert_same_state(load(tmp_path / "best.npz").state_dict(), figures.states[3])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_leaves_the_last_complete_checkpoint(tmp_path, error):
    path, states = tmp_path / "net.npz", []
    checkpoint = Checkpoint(path)

    def note(run):
        states.append(run.network.state_dict())

    class Failing(SoftmaxCrossEntropy):
        def backward(self, out=None):
            if len(states) == 2:
                raise error
            return super().backward(out)

    with pytest.raises(error):
        fit(small(), Failing(), SGD(lr=0.1), (X, Y), batch_size=16, callbacks=[checkpoint, note], progress=False)
    assert checkpoint.saved_epoch == 2 and os.listdir(tmp_path) == ["net.npz"]
    assert_same_state(load(path).state_dict(), states[1])


def test_an_interruption_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    path, states, real = tmp_path / "net.npz", [], np.savez

    def half(file, **arrays):
        if len(states) == 2:
            file.write(b"PK half a file")
            raise KeyboardInterrupt
        real(file, **arrays)

    monkeypatch.setattr(np, "savez", half)
    checkpoint = Checkpoint(path)
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[checkpoint, lambda run: states.append(run.network.state_dict())])
    assert checkpoint.saved_epoch == 2 and os.listdir(tmp_path) == ["net.npz"]
    assert_same_state(load(path).state_dict(), states[1])


def test_a_diverged_epoch_does_not_replace_the_last_good_checkpoint(tmp_path):
    x = X.copy()
    checkpoint = Checkpoint(tmp_path / "net.npz")

    def poison(run):
        if run.epoch == 2:
            x[:] = np.nan

    with pytest.warns(UserWarning, match="loss is nan in epoch 3"):
        fit(small(), SoftmaxCrossEntropy(), SGD(), (x, Y), callbacks=[checkpoint, poison], epochs=5, progress=False)
    assert np.isfinite(load(tmp_path / "net.npz").parameter_vector).all()


def test_a_wrong_monitor_of_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="monitor must be one of"):
        Checkpoint(tmp_path / "n.npz", monitor="accuracy")


def test_a_checkpoint_into_a_folder_that_is_not_there_says_which_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="net.npz"):
        train(callbacks=[Checkpoint(tmp_path / "nowhere" / "net.npz")])


# -- batches ---------------------------------------------------------------------------------------------------------


class Batches(Callback):
    """Notes every batch's epoch and loss."""

    def __init__(self):
        self.seen = []

    def on_batch_end(self, run, loss):
        self.seen.append((run.epoch, loss))


def test_batches_are_told_in_order_with_the_loss_of_their_step():
    batches, network, expected = Batches(), small(), []
    history = train(network, callbacks=[batches], epochs=3)
    assert [epoch for epoch, _ in batches.seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for epoch in range(3):
        losses = [loss for at, loss in batches.seen if at == epoch]
        expected.append((losses[0] * 16 + losses[1] * 16 + losses[2] * 8) / 40)
    assert history.train_loss == expected and len(set(batches.seen)) == 9


def test_the_network_of_a_batch_has_made_its_step():
    network, vectors = small(), []
    start = network.parameter_vector.copy()
    noting = Callback()
    noting.on_batch_end = lambda run, loss: vectors.append(run.network.parameter_vector.copy())  # on the object alone
    train(network, callbacks=[noting], epochs=1)
    assert len(vectors) == 3 and not np.array_equal(vectors[0], start) and not np.array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[2], network.parameter_vector)


def test_callbacks_without_the_method_are_not_called_after_a_step(monkeypatch):
    def fail(self, run, loss):
        raise AssertionError("called")

    monkeypatch.setattr(Callback, "on_batch_end", fail)
    train(callbacks=[Noting("a", []), EarlyStopping(patience=2), lambda run: None], epochs=2)


def test_a_batch_may_stop_training_after_its_epoch():
    class Stop(Batches):
        def on_batch_end(self, run, loss):
            super().on_batch_end(run, loss)
            run.stop("enough")

    stop = Stop()
    history = train(callbacks=[stop], epochs=5)
    assert len(history) == 1 and len(stop.seen) == 3 and history.stop_reason == "enough"


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_running_losses_are_means_within_the_epoch(every):
    running, batches = RunningLoss(every), Batches()
    train(callbacks=[running, batches], epochs=2)
    expected = []
    for epoch in range(2):
        losses = [loss for at, loss in batches.seen if at == epoch]
        expected += [(epoch + 1, last, np.mean(losses[last - every : last])) for last in range(every, 4, every)]
    assert [found[:2] for found in running.losses] == [entry[:2] for entry in expected]
    np.testing.assert_allclose([found[2] for found in running.losses], [entry[2] for entry in expected], rtol=1e-12)
    train(callbacks=[running], epochs=1)
    assert len(running.losses) == 3 // every  # the second training's alone


def test_running_losses_start_again_after_an_interruption():
    class Interrupt(Callback):
        def on_batch_end(self, run, loss):
            raise KeyboardInterrupt

    running, fresh = RunningLoss(2), RunningLoss(2)
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[running, Interrupt()])
    train(callbacks=[running])
    train(callbacks=[fresh])
    assert running.losses == fresh.losses


def test_running_losses_are_printed_if_wanted(capsys):
    running = RunningLoss(2, show=True)
    train(callbacks=[running, RunningLoss(3)], epochs=2)
    (_, _, first), (_, _, second) = running.losses
    assert capsys.readouterr() == ("", f"[1, 2] loss {first:.3f}\n[2, 2] loss {second:.3f}\n")


def test_running_losses_stand_on_lines_of_their_own_above_the_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    running, screen = RunningLoss(2, show=True), Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        fit(small(), SoftmaxCrossEntropy(), SGD(), (X, Y), epochs=2, batch_size=16, callbacks=[running])
    lines = [line.split("\r")[-1] for line in screen.getvalue().split("\n")]
    shown = [line for line in lines if line.startswith("[")]
    assert shown == [f"[{epoch}, 2] loss {mean:.3f}" for epoch, _, mean in running.losses] and len(shown) == 2


def test_running_losses_are_no_trouble_where_there_is_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    train(callbacks=[RunningLoss(1, show=True)], epochs=1)


@pytest.mark.parametrize("every, kind", [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, ValueError)])
def test_running_loss_refuses_wrong_arguments(every, kind):
    with pytest.raises(kind, match="RunningLoss: every"):
        RunningLoss(every)


@pytest.mark.parametrize("figure", ["test_loss", "test_accuracy"])
@pytest.mark.parametrize("make", [lambda m, p: EarlyStopping(m, patience=1), lambda m, p: Checkpoint(p, monitor=m)])
def test_nothing_may_be_decided_by_the_test_split(figure, make, tmp_path):
    with pytest.raises(ValueError, match="monitor must be one of"):
        make(figure, tmp_path / "n.npz")


def test_the_names_that_users_imports_and_pickles_have_stay():
    """callbacks and schedules stood beside the package's first modules before they moved into the training room."""
    code = "import fastbp.callbacks, fastbp.schedules; from fastbp.schedules import StepDecay; "
    code += "import fastbp; assert fastbp.callbacks.Checkpoint is fastbp.Checkpoint and StepDecay is fastbp.StepDecay"
    subprocess.run([sys.executable, "-c", code], check=True)
    for module, kind in (("callbacks", fastbp.EarlyStopping), ("schedules", fastbp.OneCycle)):
        made = pickle.loads(f"cfastbp.{module}\n{kind.__name__}\n.".encode())  # as such a pickle names the class
        assert made is kind
