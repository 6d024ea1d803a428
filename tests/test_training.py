"""The training loop against loops written out by hand, and the numbers it keeps."""

import contextlib
import copy
import io
import json
import math
import re
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import (
    SGD,
    Adam,
    BatchNorm1d,
    CosineDecay,
    Dropout,
    HingeLoss,
    History,
    Linear,
    LogisticLoss,
    LogSoftmax,
    MeanSquaredError,
    MulticlassHinge,
    NLLLoss,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
    Trainer,
    WarmUp,
    evaluate,
    fit,
    predict,
    predict_proba,
)


def blobs(count=50, features=4, classes=3, seed=0, dtype=np.float32):
    """Labelled points around random centres, the first value of each is its number times 1e-6 so that all differ."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    x = rng.normal(size=(classes, features))[labels] * 2 + rng.normal(size=(count, features))
    return x.astype(dtype), labels


def small(seed=0, dtype=np.float32, dropout=0.0):
    extra = [Dropout(dropout)] if dropout else []
    return Sequential(Linear(4, 8), ReLU(), *extra, Linear(8, 3), dtype=dtype, seed=seed)


def softmax_rows(scores):
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class Recorder(SoftmaxCrossEntropy):
    """A loss that keeps the targets of every batch it is trained on."""

    def __init__(self):
        super().__init__()
        self._batches, self._pending = [], None

    def forward(self, scores, targets):
        self._pending = np.array(targets)
        return super().forward(scores, targets % 3)

    def backward(self, out=None):
        self._batches.append(self._pending)
        return super().backward(out)

    def correct(self, scores, targets):
        return super().correct(scores, targets % 3)


def batches_seen(count, epochs, batch_size, seed=0):
    """The sample numbers of each batch that fit trains on: targets are the numbers themselves."""
    loss = Recorder()
    x = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
    fit(
        small(),
        loss,
        SGD(lr=0.0),
        (x, np.arange(count)),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        progress=False,
    )
    per_epoch = math.ceil(count / batch_size)
    assert len(loss._batches) == epochs * per_epoch
    return [loss._batches[e * per_epoch : (e + 1) * per_epoch] for e in range(epochs)]


# -- one step --------------------------------------------------------------------------------------------------------


def test_a_step_is_forward_loss_backward_and_update():
    x, labels = blobs(20, dtype=np.float64)
    network, manual = small(dtype=np.float64), small(dtype=np.float64)
    value = Trainer(network, SoftmaxCrossEntropy(), SGD(lr=0.3)).step(x, labels)
    W1, b1, W2, b2 = (parameter.value.copy() for parameter in manual.parameters)
    hidden = np.maximum(x @ W1.T + b1, 0)
    chances = softmax_rows(hidden @ W2.T + b2)
    assert value == pytest.approx(-np.log(chances[np.arange(20), labels]).mean(), rel=1e-12)
    dscores = (chances - np.eye(3)[labels]) / 20
    dhidden = dscores @ W2 * (hidden > 0)
    gradients = dhidden.T @ x, dhidden.sum(0), dscores.T @ hidden, dscores.sum(0)
    for parameter, before, gradient in zip(network.parameters, (W1, b1, W2, b2), gradients, strict=True):
        np.testing.assert_allclose(parameter.value, before - 0.3 * gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.portable
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_steps_of_the_trainer_equal_the_calls_by_hand_bit_for_bit(dropout):
    x, labels = blobs(32)
    one, two = small(dropout=dropout), small(dropout=dropout)
    trainer = Trainer(one, SoftmaxCrossEntropy(), Adam(lr=0.01))
    loss, optimizer = SoftmaxCrossEntropy(), Adam(lr=0.01)
    for _ in range(5):
        scores = two.forward(x, training=True)
        expected = loss.forward(scores, labels)
        two.backward(loss.backward())
        optimizer.step(two.parameter_vector, two.gradient_vector)
        assert trainer.step(x, labels) == expected
        np.testing.assert_array_equal(trainer.scores, scores)
    np.testing.assert_array_equal(one.parameter_vector, two.parameter_vector)


@pytest.mark.parametrize("position", range(3))
def test_trainer_refuses_a_class_where_it_needs_an_object(position):
    arguments = [small(), SoftmaxCrossEntropy(), SGD()]
    arguments[position] = type(arguments[position])
    with pytest.raises(TypeError, match=f"the class {arguments[position].__name__}; make one"):
        Trainer(*arguments)


@pytest.mark.parametrize("position, name", [(0, "network"), (1, "loss"), (2, "optimizer")])
def test_trainer_names_the_argument_of_a_wrong_kind(position, name):
    arguments = [small(), SoftmaxCrossEntropy(), SGD()]
    arguments[position] = "adam"
    with pytest.raises(TypeError, match=f"expected {name} .* got str"):
        Trainer(*arguments)


# -- batches and order -----------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), batch_size=st.integers(1, 45))
@settings(deadline=None, max_examples=25)
def test_every_epoch_trains_on_every_sample_once_the_last_smaller_batch_too(count, batch_size):
    for epoch in batches_seen(count, epochs=2, batch_size=batch_size):
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
        assert len(epoch[-1]) == (count % batch_size or min(batch_size, count))
        assert sorted(np.concatenate(epoch)) == list(range(count))


def test_each_epoch_has_another_order():
    orders = [tuple(np.concatenate(epoch)) for epoch in batches_seen(60, epochs=6, batch_size=16)]
    assert len(set(orders)) == 6 and tuple(range(60)) not in orders


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    orders = {
        (seed, size): [tuple(np.concatenate(e)) for e in batches_seen(30, 2, size, seed)]
        for seed in (3, 4)
        for size in (7, 30)
    }
    assert orders[3, 7] == orders[3, 30] != orders[4, 7]


def trained(network_seed=0, seed=0, epochs=3, dropout=0.0, **options):
    network = small(network_seed, dropout=dropout)
    train = blobs(70)
    fit(
        network,
        SoftmaxCrossEntropy(),
        SGD(lr=0.1, momentum=0.9),
        train,
        epochs=epochs,
        batch_size=16,
        seed=seed,
        **options,
    )
    return network.parameter_vector.copy()


def test_same_seeds_give_the_same_bits_and_other_seeds_do_not():
    first = trained(progress=False)
    assert first.tobytes() == trained(progress=False).tobytes()
    assert not np.allclose(first, trained(seed=1, progress=False))
    assert not np.allclose(first, trained(network_seed=1, progress=False))


def test_dropout_trains_to_the_same_bits_too():
    first = trained(dropout=0.2, progress=False, epochs=10)
    assert first.tobytes() == trained(dropout=0.2, progress=False, epochs=10).tobytes()
    assert not np.allclose(first, trained(epochs=10, progress=False))


def test_validation_and_progress_do_not_change_what_is_learned(capsys):
    first = trained(progress=False)
    assert first.tobytes() == trained(validation=blobs(20, seed=5), progress=True).tobytes()


def test_fit_leaves_the_data_alone_and_takes_it_read_only():
    x, labels = blobs(30)
    before = x.copy(), labels.copy()
    x.flags.writeable = labels.flags.writeable = False
    fit(small(), SoftmaxCrossEntropy(), SGD(), (x, labels), (x, labels), epochs=2, batch_size=8, progress=False)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_fit_takes_splits_and_lists_of_labels():
    data = fastbp.datasets.digits()
    network = fastbp.models.softmax_classifier((1, 8, 8))
    history = fit(network, SoftmaxCrossEntropy(), SGD(lr=0.1), data.train, data.test, epochs=1, progress=False)
    again = fastbp.models.softmax_classifier((1, 8, 8))
    as_lists = fit(
        again, SoftmaxCrossEntropy(), SGD(lr=0.1), (data.train.x, data.train.y.tolist()), epochs=1, progress=False
    )
    assert history.train_loss == as_lists.train_loss


# -- the history -----------------------------------------------------------------------------------------------------


def test_the_history_holds_the_means_that_a_loop_by_hand_measures():
    train, validation = blobs(50), blobs(23, seed=3)
    network, manual = small(), small()
    history = fit(
        network, SoftmaxCrossEntropy(), SGD(lr=0.1), train, validation, epochs=3, batch_size=16, seed=9, progress=False
    )
    loss, optimizer = SoftmaxCrossEntropy(), SGD(lr=0.1)
    for epoch in range(3):
        order = np.random.default_rng([9, epoch]).permutation(50)
        losses, right = [], 0
        for start in range(0, 50, 16):
            chosen = order[start : start + 16]
            scores = manual.forward(train[0][chosen], training=True)
            losses += [loss.forward(scores, train[1][chosen])] * len(chosen)
            manual.backward(loss.backward())
            optimizer.step(manual.parameter_vector, manual.gradient_vector)
            right += np.sum(np.argmax(scores, 1) == train[1][chosen])
        assert history.train_loss[epoch] == pytest.approx(np.mean(losses), rel=1e-6)
        assert history.train_accuracy[epoch] == right / 50
        scores = manual.forward(validation[0]).astype(np.float64)
        log_chances = np.log(softmax_rows(scores))[np.arange(23), validation[1]]
        assert history.validation_loss[epoch] == pytest.approx(-log_chances.mean(), rel=1e-5)
        assert history.validation_accuracy[epoch] == np.mean(scores.argmax(1) == validation[1])
    assert len(history) == 3 and history.lr == [0.1] * 3 and history.stop_reason == ""
    assert len(history.seconds) == 3 and all(seconds >= 0 for seconds in history.seconds)


def test_without_validation_or_classes_those_lists_are_empty():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    network = Sequential(Linear(4, 2))
    history = fit(network, MeanSquaredError(), SGD(lr=0.01), (x, x[:, :2] * 2), epochs=2, progress=False)
    assert len(history.train_loss) == 2 and history.train_loss[1] < history.train_loss[0]
    assert history.train_accuracy == history.validation_loss == history.validation_accuracy == []
    assert history.test_loss == history.test_accuracy == []


def test_zero_epochs_change_nothing():
    network = small()
    before = network.parameter_vector.copy()
    history = fit(network, SoftmaxCrossEntropy(), SGD(), blobs(), epochs=0, progress=False)
    assert len(history) == 0 and history.train_loss == []
    np.testing.assert_array_equal(network.parameter_vector, before)
    assert json.loads(history.to_json())["epochs"] == 0


def test_to_json_is_valid_json_and_losses_that_are_not_finite_are_null(tmp_path):
    history = History(train_loss=[1.5, math.inf, math.nan], lr=[0.1, 0.1, -math.inf], stop_reason='a "reason" ü')
    text = history.to_json(tmp_path / "history.json")
    assert (tmp_path / "history.json").read_text(encoding="utf-8") == text

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads(text, parse_constant=refuse)
    assert read == {
        "epochs": 3,
        "train_loss": [1.5, None, None],
        "train_accuracy": [],
        "validation_loss": [],
        "validation_accuracy": [],
        "test_loss": [],
        "test_accuracy": [],
        "seconds": [],
        "lr": [0.1, 0.1, None],
        "stop_reason": 'a "reason" ü',
    }


def test_to_json_of_a_real_training_reads_back_to_the_same_numbers():
    history = fit(small(), SoftmaxCrossEntropy(), SGD(), blobs(), blobs(20), epochs=2, test=blobs(9), progress=False)
    read = json.loads(history.to_json())
    for name in (
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "test_accuracy",
        "seconds",
        "lr",
    ):
        assert read[name] == getattr(history, name) and len(read[name]) == 2


def test_the_test_split_is_measured_every_epoch_and_decides_nothing():
    train, validation, test = blobs(50), blobs(23, seed=3), blobs(31, seed=4)
    network, alone, measured = small(dropout=0.2), small(dropout=0.2), []

    def measure(run):
        measured.append(evaluate(run.network, run.loss, test))

    options = {"epochs": 3, "batch_size": 16, "progress": False}
    history = fit(network, SoftmaxCrossEntropy(), SGD(), train, validation, **options, test=test, callbacks=[measure])
    without = fit(alone, SoftmaxCrossEntropy(), SGD(), train, validation, **options)
    assert list(zip(history.test_loss, history.test_accuracy, strict=True)) == measured and len(set(measured)) == 3
    assert network.parameter_vector.tobytes() == alone.parameter_vector.tobytes()
    assert history.validation_loss == without.validation_loss != history.test_loss
    assert without.test_loss == without.test_accuracy == []


# -- augmentation ----------------------------------------------------------------------------------------------------


@pytest.mark.portable
def test_augmentation_changes_every_training_batch_and_nothing_else():
    train, validation, test = blobs(50), blobs(23, seed=3), blobs(31, seed=4)
    before, drawn = train[0].copy(), []

    def noisy(x, rng):
        drawn.append(len(x))
        x += rng.normal(size=x.shape).astype(x.dtype)  # in place: what it is given is its own
        return x

    network, manual = small(), small()
    history = fit(
        network,
        SoftmaxCrossEntropy(),
        SGD(lr=0.1),
        train,
        validation,
        2,
        16,
        seed=9,
        progress=False,
        test=test,
        augment=noisy,
    )
    trainer = Trainer(manual, SoftmaxCrossEntropy(), SGD(lr=0.1))
    for epoch in range(2):
        order, rng = np.random.default_rng([9, epoch]).permutation(50), np.random.default_rng([9, epoch, 1])
        for start in range(0, 50, 16):
            x = train[0][order[start : start + 16]]
            trainer.step(x + rng.normal(size=x.shape).astype(x.dtype), train[1][order[start : start + 16]])
        for name, split in (("validation", validation), ("test", test)):
            measured = evaluate(manual, SoftmaxCrossEntropy(), split)
            assert getattr(history, f"{name}_loss")[epoch] == measured.loss
    assert network.parameter_vector.tobytes() == manual.parameter_vector.tobytes()
    assert drawn == [2] + [16, 16, 16, 2] * 2  # the first is fit's trial
    np.testing.assert_array_equal(train[0], before)


def test_several_augmentations_are_applied_in_order():
    def double(x, rng):
        return x * 2

    def more(x, rng):
        return x + rng.random(dtype=x.dtype)

    def both(x, rng):
        return more(double(x, rng), rng)

    first = trained(augment=(double, more), progress=False)
    for same in ([double, more], both, [both]):
        assert first.tobytes() == trained(augment=same, progress=False).tobytes()
    assert not np.allclose(first, trained(augment=[more, double], progress=False))
    assert not np.allclose(first, trained(augment=[double], progress=False))
    assert trained(augment=[], progress=False).tobytes() == trained(progress=False).tobytes()


# -- a loss that is not finite ---------------------------------------------------------------------------------------


def diverging(count=40):
    """Targets whose square overflows float32."""
    x = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    return x, np.full((count, 1), 1e25, np.float32)


def test_a_loss_that_is_not_finite_ends_training_with_a_warning_at_the_caller():
    network = Sequential(Linear(4, 1))
    with pytest.warns(UserWarning, match="loss is inf in epoch 1") as caught:
        history = fit(network, MeanSquaredError(), SGD(lr=0.1), diverging(), epochs=5, batch_size=8, progress=False)
    (ours,) = (warning for warning in caught if "loss is inf" in str(warning.message))  # plain NumPy warns too
    assert ours.filename == __file__
    assert len(history) == 1 and history.train_loss == [math.inf] and "inf" in history.stop_reason
    assert json.loads(history.to_json())["train_loss"] == [None]


def test_the_accuracy_of_an_epoch_cut_short_is_over_the_samples_seen():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x[:] = np.nan  # the first batch ends training; argmax of NaN scores is class 0: all of its samples count as right
    with pytest.warns(UserWarning, match="nan"):
        history = fit(
            small(), SoftmaxCrossEntropy(), SGD(), (x, np.zeros(40, int)), epochs=2, batch_size=10, progress=False
        )
    assert history.train_accuracy[0] in (0.0, 1.0)


# -- learning rates --------------------------------------------------------------------------------------------------


class LrRecorder(SGD):
    def step(self, values, grads):
        self.__dict__.setdefault("_seen", []).append(self.lr)
        super().step(values, grads)


def test_schedules_multiply_and_the_learning_rate_is_put_back():
    optimizer = LrRecorder(lr=0.2)
    schedules = [CosineDecay(epochs=3), WarmUp(epochs=1, start=0.25)]
    history = fit(
        small(),
        SoftmaxCrossEntropy(),
        optimizer,
        blobs(50),
        epochs=3,
        batch_size=16,
        callbacks=schedules,
        progress=False,
    )
    times = [epoch + batch / 4 for epoch in range(3) for batch in range(4)]
    expected = [0.2 * (1 + math.cos(math.pi * t / 3)) / 2 * (0.25 + 0.75 * min(t, 1)) for t in times]
    np.testing.assert_allclose(optimizer._seen, expected, rtol=1e-12)
    np.testing.assert_allclose(history.lr, expected[3::4], rtol=1e-12)
    assert optimizer.lr == 0.2


def test_the_learning_rate_is_put_back_after_an_exception():
    optimizer = SGD(lr=0.2)

    def fail(run):
        assert optimizer.lr != 0.2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small(), SoftmaxCrossEntropy(), optimizer, blobs(), callbacks=[WarmUp(10), fail], progress=False)
    assert optimizer.lr == 0.2


def test_without_schedules_a_callback_may_set_the_learning_rate():
    optimizer = LrRecorder(lr=0.4)

    def halve(run):
        run.optimizer.lr /= 2

    history = fit(
        small(), SoftmaxCrossEntropy(), optimizer, blobs(16), epochs=3, batch_size=16, callbacks=[halve], progress=False
    )
    assert optimizer._seen == history.lr == [0.4, 0.2, 0.1] and optimizer.lr == 0.4


# -- wrong arguments -------------------------------------------------------------------------------------------------


X, Y = blobs(30)
WRONG = {
    "fractional batch": ({"batch_size": 2.5}, TypeError, "batch_size"),
    "no batch": ({"batch_size": 0}, ValueError, "batch_size"),
    "negative batch": ({"batch_size": -3}, ValueError, "batch_size"),
    "text as batch": ({"batch_size": "8"}, (TypeError, ValueError), "batch_size"),
    "word as batch": ({"batch_size": "all"}, (TypeError, ValueError), "batch_size"),
    "batch None": ({"batch_size": None}, (TypeError, ValueError), "batch_size"),
    "negative epochs": ({"epochs": -1}, ValueError, "epochs"),
    "fractional epochs": ({"epochs": 1.5}, TypeError, "epochs"),
    "epochs NaN": ({"epochs": math.nan}, (TypeError, ValueError), "epochs"),
    "epochs infinite": ({"epochs": math.inf}, (TypeError, ValueError), "epochs"),
    "epochs None": ({"epochs": None}, (TypeError, ValueError), "epochs"),
    "lengths": ({"train": (X, Y[:-1])}, ValueError, r"train: x \(30, 4\) and targets \(29,\) differ"),
    "validation lengths": ({"validation": (X[1:], Y)}, ValueError, "validation: .* differ in length"),
    "no pair": ({"train": X}, TypeError, "train must be a pair"),
    "no validation pair": ({"validation": 5}, TypeError, "validation must be a pair"),
    "no samples": ({"train": (X[:0], Y[:0])}, ValueError, "train holds no samples"),
    "test lengths": ({"test": (X[1:], Y)}, ValueError, "test: .* differ in length"),
    "no test pair": ({"test": 5}, TypeError, "test must be a pair"),
    "no test samples": ({"test": (X[:0], Y[:0])}, ValueError, "test holds no samples"),
    "test labels": ({"test": (X, Y + 3)}, ValueError, "fit: test: .*labels"),
    "augment number": ({"augment": 3}, TypeError, "augment must be a function"),
    "augment class": ({"augment": [fastbp.datasets.RandomFlip]}, TypeError, r"RandomFlip\(\)"),
    "augment that crops": (
        {"augment": lambda x, rng: x[:, 1:]},
        ValueError,
        r"<lambda> made float32 \(2, 3\) of .* \(2, 4\)",
    ),
    "augment that drops": ({"augment": lambda x, rng: x[1:]}, ValueError, r"made float32 \(1, 4\)"),
    "augment that widens": ({"augment": [lambda x, rng: x, lambda x, rng: x.astype(float)]}, ValueError, "float64"),
    "augment without a result": ({"augment": lambda x, rng: None}, ValueError, "<lambda> made NoneType"),
    "augment of images": (
        {"augment": fastbp.datasets.RandomFlip()},
        ValueError,
        r"RandomFlip: expected images .*\(2, 4\)",
    ),
    "resume number": ({"resume": 3.5}, TypeError, "fit: resume must be a str"),
    "resume folder missing": ({"resume": "nowhere/here/t.npz"}, FileNotFoundError, "t.npz"),
    "no validation samples": ({"validation": (X[:0], Y[:0])}, ValueError, "validation"),
    "validation dtype": ({"validation": (X.astype(np.float64), Y)}, TypeError, "float32"),
    "validation shape": ({"validation": (X[:, :2], Y)}, ValueError, "expected input"),
    "validation labels": ({"validation": (X, Y + 3)}, ValueError, "labels"),
    "dtype": ({"train": (X.astype(np.float64), Y)}, TypeError, "float32"),
    "whole numbers": ({"train": (X.astype(int), Y)}, TypeError, "float32"),
    "labels out of range": ({"train": (X, Y + 5)}, ValueError, "labels"),
    "labels with NaN": ({"train": (X, np.where(Y, Y, np.nan))}, TypeError, "NaN"),
    "callback class": ({"callbacks": [fastbp.Checkpoint]}, TypeError, "callbacks"),
    "callback number": ({"callbacks": [3]}, TypeError, "callbacks"),
    "callback not in a list": ({"callbacks": WarmUp()}, TypeError, "callbacks"),
    "function not in a list": ({"callbacks": print}, TypeError, "callbacks"),
    "negative seed": ({"seed": -1}, ValueError, "seed"),
    "fractional seed": ({"seed": 0.5}, (TypeError, ValueError), "seed"),
    "network class": ({"network": Sequential}, TypeError, "network"),
    "loss class": ({"loss": SoftmaxCrossEntropy}, TypeError, "loss"),
    "optimizer name": ({"optimizer": "sgd"}, TypeError, "optimizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_before_anything_changes(case):
    changed, kind, message = WRONG[case]
    network, optimizer, told = small(), SGD(lr=0.1), []
    arguments = {
        "network": network,
        "loss": SoftmaxCrossEntropy(),
        "optimizer": optimizer,
        "train": (X, Y),
        "epochs": 2,
        "batch_size": 8,
        "callbacks": [told.append],
        "progress": False,
    }
    before = {name: array.copy() for name, array in network.state_dict().items()}
    with pytest.raises(kind, match=message):
        fit(**{**arguments, **changed})
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert optimizer.lr == 0.1 and optimizer.steps == 0 and not told


@pytest.mark.parametrize("size", [np.int64(8), np.uint8(8), 1000])
def test_a_batch_size_that_is_accepted_works(size):
    history = fit(small(), SoftmaxCrossEntropy(), SGD(), (X, Y), epochs=1, batch_size=size, progress=False)
    assert len(history) == 1


# -- progress --------------------------------------------------------------------------------------------------------


def run_with_progress(**options):
    fit(small(), SoftmaxCrossEntropy(), SGD(), (X, Y), (X[:5], Y[:5]), batch_size=8, **{"epochs": 3, **options})


def test_without_a_terminal_there_is_a_line_an_epoch_on_stderr(capsys):
    run_with_progress(epochs=1)  # compiles, which may add a line
    capsys.readouterr()
    run_with_progress()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "\r" not in err
    for line in lines:
        assert re.fullmatch(
            r"epoch ./3: loss \d\.\d{4} \(\d+\.\d\d%\), validation loss \d\.\d{4} \(\d+\.\d\d%\), \d+\.\d s", line
        )
        assert len(line) < 80


def test_progress_off_is_silent(capsys):
    run_with_progress(progress=False)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@contextlib.contextmanager
def terminal(monkeypatch):
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        yield screen


def bars_open():
    from tqdm.auto import tqdm

    return len(getattr(tqdm, "_instances", ()))


@pytest.mark.portable
def test_a_terminal_sees_a_bar_for_each_epoch(monkeypatch):
    with terminal(monkeypatch) as screen:
        run_with_progress()
    text = screen.getvalue()
    assert "\r" in text and "0/4" in text and bars_open() == 0
    for epoch in ("epoch 1/3", "epoch 2/3", "epoch 3/3"):
        shown = [line for line in text.replace("\n", "\r").split("\r") if epoch in line]
        assert "batch" in shown[0] and shown[-1].startswith(f"{epoch}: loss") and "validation loss" in shown[-1]
    assert text.endswith("\n")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_bar_is_closed_after_an_exception_within_an_epoch(monkeypatch, error):
    class Failing(SoftmaxCrossEntropy):
        def backward(self, out=None):
            raise error("stop")

    with terminal(monkeypatch) as screen, pytest.raises(error) as caught:
        fit(small(), Failing(), SGD(), (X, Y), epochs=2, batch_size=8)
    assert caught.traceback  # keeps the bar alive: it is closed, not collected
    assert bars_open() == 0 and "epoch 1/2" in screen.getvalue() and screen.getvalue().endswith("\r")


def test_the_bar_is_closed_after_an_exception_of_a_callback(monkeypatch):
    def fail(run):
        raise ZeroDivisionError

    with terminal(monkeypatch) as screen, pytest.raises(ZeroDivisionError):
        run_with_progress(callbacks=[fail])
    assert bars_open() == 0 and "epoch 2/3" not in screen.getvalue()


def test_a_terminal_with_progress_off_or_no_epochs_sees_nothing(monkeypatch):
    with terminal(monkeypatch) as screen:
        run_with_progress(progress=False)
        run_with_progress(epochs=0)
    assert screen.getvalue() == ""


def test_training_works_where_there_is_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # pythonw, or a shell's 2>&-
    run_with_progress()


# -- evaluate and predict --------------------------------------------------------------------------------------------


@given(count=st.integers(1, 30), batch_size=st.integers(1, 33), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_evaluate_is_the_mean_over_all_samples_whatever_the_batch_size(count, batch_size, seed):
    x, labels = blobs(count, seed=seed, dtype=np.float64)
    network = small(seed, np.float64)
    scores = network.forward(x)
    chances = softmax_rows(scores)
    measured = evaluate(network, SoftmaxCrossEntropy(), (x, labels), batch_size=batch_size)
    assert measured.loss == pytest.approx(-np.log(chances[np.arange(count), labels]).mean(), rel=1e-10)
    assert measured.accuracy == np.mean(scores.argmax(axis=1) == labels)
    np.testing.assert_allclose(predict_proba(network, x, batch_size), chances, rtol=1e-12)
    np.testing.assert_array_equal(predict(network, x, batch_size, loss=SoftmaxCrossEntropy()), scores.argmax(axis=1))


def test_evaluate_without_classes_has_no_accuracy():
    x = np.random.default_rng(0).normal(size=(11, 4))
    network = Sequential(Linear(4, 2), dtype=np.float64)
    targets = np.random.default_rng(1).normal(size=(11, 2))
    measured = evaluate(network, MeanSquaredError(), (x, targets), batch_size=4)
    assert measured.accuracy is None
    assert measured.loss == pytest.approx(np.mean((network.forward(x) - targets) ** 2), rel=1e-12)


def test_evaluate_changes_nothing_and_uses_the_running_statistics():
    x, labels = blobs(40, dtype=np.float64)
    network = Sequential(Linear(4, 6), BatchNorm1d(6), ReLU(), Dropout(0.5), Linear(6, 3), dtype=np.float64)
    network.forward(x, training=True)
    before = network.state_dict()
    whole = evaluate(network, SoftmaxCrossEntropy(), (x, labels), batch_size=40)
    parts = evaluate(network, SoftmaxCrossEntropy(), (x, labels), batch_size=7)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-12) and whole.accuracy == parts.accuracy
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "last, to_chances", [(Softmax, softmax_rows), (LogSoftmax, softmax_rows), (None, softmax_rows)]
)
def test_probabilities_are_what_the_last_layer_says(last, to_chances):
    x, _ = blobs(13, dtype=np.float64)
    body = Linear(4, 5)
    network = Sequential(body, *([last()] if last else []), dtype=np.float64)
    expected = to_chances(x @ body.weight.value.T + body.bias.value)
    np.testing.assert_allclose(predict_proba(network, x, batch_size=5), expected, rtol=1e-10)
    network.task = "classification"
    np.testing.assert_array_equal(predict(network, x, batch_size=5), expected.argmax(axis=1))


@pytest.mark.parametrize("last", [None, Sigmoid])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_output_a_sample_is_the_sigmoid(last, dtype):
    x, _ = blobs(13, dtype=dtype)
    body = Linear(4, 1)
    network = Sequential(body, *([last()] if last else []), dtype=dtype)
    body.bias.value = [0.3]
    scores = (x @ body.weight.value.T + body.bias.value)[:, 0]
    chances = predict_proba(network, x, batch_size=5)
    assert chances.shape == (13,)
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-scores)), rtol=1e-5)
    decided = predict(network, x, batch_size=5, loss=None if last else LogisticLoss())
    assert decided.dtype == np.int64 and 0 < decided.sum() < 13
    np.testing.assert_array_equal(decided, scores > 0)


@pytest.mark.parametrize("call", [predict, predict_proba])
def test_outputs_that_are_no_classes_are_an_error(call):
    network = Sequential(fastbp.Conv2d(1, 2, 2))
    with pytest.raises(ValueError, match="expected a network with outputs"):
        call(network, np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype(np.float32))


def test_no_samples_predict_nothing_and_have_no_mean():
    network = small()
    network.task = "classification"
    assert predict(network, X[:0]).shape == (0,) and predict_proba(network, X[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="no samples"):
        evaluate(network, SoftmaxCrossEntropy(), (X[:0], Y[:0]))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_wrong_batch_size_is_an_error_for_evaluate_and_predict(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        evaluate(small(), SoftmaxCrossEntropy(), (X, Y), batch_size=batch_size)
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        predict(small(), X, batch_size=batch_size)


LOSSES = {
    "softmax": (lambda: [Linear(4, 3)], SoftmaxCrossEntropy, lambda y: y),
    "logsoftmax": (lambda: [Linear(4, 3), LogSoftmax()], NLLLoss, lambda y: y),
    "hinge of three": (lambda: [Linear(4, 3)], MulticlassHinge, lambda y: y),
    "logistic 0/1": (lambda: [Linear(4, 1)], LogisticLoss, lambda y: y % 2),
    "logistic -1/1": (lambda: [Linear(4, 1)], LogisticLoss, lambda y: 2 * (y % 2) - 1),
    "hinge": (lambda: [Linear(4, 1)], HingeLoss, lambda y: 2 * (y % 2) - 1),
}


@pytest.mark.portable
@pytest.mark.parametrize("case", LOSSES)
def test_every_classifier_learns_and_evaluate_agrees_with_predict(case):
    layers, loss, relabel = LOSSES[case]
    x, labels = blobs(120, seed=4)
    labels = relabel(labels)
    network = Sequential(*layers())
    history = fit(network, loss(), SGD(lr=0.1, momentum=0.9), (x, labels), epochs=8, batch_size=16, progress=False)
    assert history.train_loss[-1] < 0.8 * history.train_loss[0]
    decided = predict(network, x, batch_size=50)
    right = decided == (labels if labels.max() > 1 or labels.min() == 0 else labels == 1)
    assert evaluate(network, loss(), (x, labels), batch_size=50).accuracy == right.mean() > 0.6


def test_fit_warns_of_nothing_on_ordinary_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(small(), SoftmaxCrossEntropy(), Adam(), (X, Y), (X, Y), epochs=2, progress=False)


class Absolute(fastbp.Loss):
    """A loss of one's own, as losses.py describes it: the mean of |scores|."""

    def forward(self, scores, targets):
        self.gradient = np.sign(scores) / scores.size
        return float(np.abs(scores).mean())

    def backward(self):
        return self.gradient


class Scaled(fastbp.SoftmaxCrossEntropy):
    def _backward(self, kept, labels, dscores):
        np.copyto(dscores, 100 * kept)


@pytest.mark.parametrize("make", [Absolute, Scaled])
def test_a_loss_of_ones_own_gives_the_gradient_that_is_used(make):
    network, x, labels = fastbp.Sequential(fastbp.Linear(4, 3)), np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
    other, loss = copy.deepcopy(network), make()
    value = loss.forward(other.forward(x), labels)
    other.backward(loss.backward())
    assert fastbp.Trainer(network, make(), fastbp.SGD(lr=0)).step(x, labels) == pytest.approx(value)
    np.testing.assert_allclose(network.gradient_vector, other.gradient_vector, rtol=1e-5)
    assert np.abs(network.gradient_vector).max() > 0


def test_an_empty_batch_is_an_error_and_changes_nothing():
    network = fastbp.Sequential(fastbp.Linear(4, 3))
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(weight_decay=0.5))
    before = network.state_dict()
    with pytest.raises(ValueError, match="the mean of an empty batch"):
        trainer.step(np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert all(np.array_equal(before[name], array) for name, array in network.state_dict().items())


def test_predictions_in_the_middle_of_a_step():
    """An optimiser that looks at the network while it steps, as a line search does."""
    network, x, labels = fastbp.Sequential(fastbp.Linear(4, 3)), np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])

    class Looking(fastbp.SGD):
        def step(self, values, grads):
            self.seen = fastbp.evaluate(network, fastbp.SoftmaxCrossEntropy(), (x, labels)).loss
            super().step(values, grads)

    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), Looking(lr=0.1))
    assert trainer.step(x, labels) == pytest.approx(trainer.optimizer.seen)
