"""A training that was interrupted and goes on ends with the same bits as one that was not."""

import copy
import functools
import json
import math
import os

import numpy as np
import pytest

import fastbp
import fastbp.files
from fastbp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BatchNorm1d,
    Callback,
    Checkpoint,
    CosineDecay,
    Dropout,
    EarlyStopping,
    Flatten,
    Linear,
    MeanSquaredError,
    ReLU,
    RMSProp,
    RunningLoss,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    WarmUp,
    fit,
    load,
)
from fastbp.datasets import RandomCrop, RandomFlip
from fastbp.training.resume import part_done

rng = np.random.default_rng(0)
IMAGES, LABELS = rng.normal(size=(60, 1, 4, 4)), rng.integers(0, 3, 60)
FIGURES = [5.0, 3.0, 4.0, 2.0, 3.0, math.nan, 2.5, 1.0]  # patience 3: the best of epoch 4 comes back after epoch 7
BATCHES = 3  # an epoch


def split(first, last, dtype):
    return IMAGES[first:last].astype(dtype), LABELS[first:last]


class Interrupt(Callback):
    """Ctrl-C at the end of an epoch or after a step, both counted from 1 since this training has begun or gone on."""

    def __init__(self, epoch=None, step=None):
        self.epoch, self.step, self.steps = epoch, step, 0

    def on_batch_end(self, run, loss):
        self.steps += 1
        if self.steps == self.step:
            raise KeyboardInterrupt

    def on_epoch_end(self, run):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


class Figures(Callback):
    """The validation losses that EarlyStopping sees, so that what follows from them is known."""

    def on_epoch_end(self, run):
        run.history.validation_loss[-1] = FIGURES[run.epoch - 1]


class Training:
    """Everything new, as in a new process."""

    def __init__(self, folder, dtype=np.float32, optimizer=None, interrupt=None, first=False, **options):
        self.network = Sequential(
            Flatten(), Linear(16, 8), BatchNorm1d(8), ReLU(), Dropout(0.3), Linear(8, 3), dtype=dtype, seed=4
        )
        self.optimizer = optimizer or Adam(lr=0.02)
        self.early, self.running = EarlyStopping(patience=3), RunningLoss(2)
        self.checkpoint = Checkpoint(folder / "best.npz")
        self.checkpoint.monitor = "validation_loss"
        others = [Figures(), self.early, self.checkpoint, self.running, CosineDecay(8), WarmUp(2)]
        interrupt = interrupt or Interrupt()
        callbacks = [interrupt, *others] if first else [*others, interrupt]
        self.options = {
            "train": split(0, 32, dtype),
            "validation": split(32, 48, dtype),
            "test": split(48, 60, dtype),
            "epochs": 8,
            "batch_size": 12,
            "callbacks": callbacks,
            "seed": 7,
            "augment": [RandomCrop(1), RandomFlip()],
            "progress": False,
        } | options

    def fit(self, **options):
        self.history = fit(self.network, SoftmaxCrossEntropy(), self.optimizer, **self.options | options)
        return self

    def bits(self):
        """All that must be the same."""
        figures = {name: values for name, values in vars(self.history).items() if name != "seconds"}
        arrays = {**self.network.state_dict(), **self.optimizer.state}
        return {
            **{name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()},
            "history": repr(figures),
            "optimizer": (self.optimizer.steps, self.optimizer.lr),
            "early": repr((self.early.best, self.early.best_epoch, self.early.previous)),
            "checkpoint": (self.checkpoint.saved_epoch, self.checkpoint.best),
            "running": self.running.losses,
        }


def assert_same(training, expected):
    bits, expected = training.bits(), expected.bits()
    assert bits.keys() == expected.keys()
    for name, value in bits.items():
        assert value == expected[name], name


OPTIMIZERS = {
    "Adam": lambda: Adam(lr=0.02),
    "SGD with momentum": lambda: SGD(lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda: AdamW(lr=0.02),
    "RMSProp": lambda: RMSProp(lr=0.01),
    "Adagrad": lambda: Adagrad(lr=0.05),
}
MOMENTS = [[Interrupt(epoch=1)], [Interrupt(epoch=6)], [Interrupt(step=1)], [Interrupt(step=5 * BATCHES + 2)], "often"]
NAMES = ["first epoch", "an epoch after the best", "first step", "within an epoch", "often"]


# -- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.portable
@pytest.mark.parametrize("moments", MOMENTS, ids=NAMES)
@pytest.mark.parametrize("dtype, make", [(np.float32, "Adam"), (np.float64, "Adam"), (np.float32, "SGD with momentum")])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, dtype, make, moments):
    expected = Training(tmp_path, dtype, OPTIMIZERS[make]()).fit()
    best = load(tmp_path / "best.npz").state_dict()
    assert len(expected.history) == 7 and expected.early.best_epoch == 4 and expected.history.stop_reason
    assert len(set(map(str, expected.history.test_loss))) == 7 and len(expected.running.losses) == 7
    if moments == "often":
        moments = [Interrupt(epoch=1), Interrupt(step=2), Interrupt(step=4), Interrupt(epoch=3), Interrupt(step=8)]
    for moment in moments:
        moment.steps = 0
        with pytest.raises(KeyboardInterrupt):
            Training(tmp_path, dtype, OPTIMIZERS[make](), moment).fit(resume=tmp_path / "t.npz")
    resumed = Training(tmp_path, dtype, OPTIMIZERS[make]()).fit(resume=tmp_path / "t.npz")
    assert_same(resumed, expected)
    assert len(resumed.history.seconds) == 7 and sorted(os.listdir(tmp_path)) == ["best.npz", "t.npz"]
    for name, array in load(tmp_path / "best.npz").state_dict().items():
        np.testing.assert_array_equal(array, best[name])
        np.testing.assert_array_equal(array, resumed.network.state_dict()[name])


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("first", [False, True])
def test_every_optimiser_goes_on_whichever_callback_was_interrupted(tmp_path, make, first):
    expected = Training(tmp_path, optimizer=OPTIMIZERS[make](), first=first).fit()
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path, np.float32, OPTIMIZERS[make](), Interrupt(epoch=3), first).fit(resume=tmp_path / "t.npz")
    assert_same(Training(tmp_path, optimizer=OPTIMIZERS[make](), first=first).fit(resume=tmp_path / "t.npz"), expected)


def test_the_state_is_in_the_file_after_every_epoch_and_training_with_it_changes_nothing(tmp_path):
    epochs = []

    def look(run):
        if run.epoch > 1:
            with np.load(tmp_path / "t.npz", allow_pickle=False) as archive:
                epochs.append(len(archive["history.train_loss"]))

    plain = Training(tmp_path).fit()
    training = Training(tmp_path)
    training.options["callbacks"].append(look)
    assert_same(training.fit(resume=str(tmp_path / "t.npz")), plain)
    assert epochs == [1, 2, 3, 4, 5, 6]


def test_the_same_objects_can_go_on(tmp_path):
    expected = Training(tmp_path).fit()
    training = Training(tmp_path, interrupt=Interrupt(step=3 * BATCHES + 1))
    with pytest.raises(KeyboardInterrupt):
        training.fit(resume=tmp_path / "t.npz")
    assert training.optimizer.lr == 0.02
    assert_same(training.fit(resume=tmp_path / "t.npz"), expected)


def test_an_interruption_while_the_file_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    expected, real, written = Training(tmp_path).fit(), os.replace, []

    def interrupted(source, target):
        written.append(str(target))
        if [os.path.basename(name) for name in written].count("t.npz") == 3:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fastbp.files.os, "replace", interrupted)
        Training(tmp_path).fit(resume=tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as archive:
        assert len(archive["history.train_loss"]) == 2
    assert_same(Training(tmp_path).fit(resume=tmp_path / "t.npz"), expected)
    assert sorted(os.listdir(tmp_path)) == ["best.npz", "t.npz"]


def test_a_learning_rate_that_a_function_sets_goes_on_from_where_it_was(tmp_path):
    def halve(run):
        run.optimizer.lr /= 2
        if run.epoch == stop:
            raise KeyboardInterrupt

    def run(**options):
        training = Training(tmp_path, optimizer=SGD(lr=0.4), callbacks=[RunningLoss(2), halve], epochs=6)
        return training.fit(**options)

    stop = None
    expected = run()
    assert expected.history.lr == [0.4 / 2**k for k in range(6)]
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        run(resume=tmp_path / "t.npz")
    stop = None
    resumed = run(resume=tmp_path / "t.npz")
    assert resumed.history.lr == expected.history.lr and resumed.optimizer.lr == 0.4
    assert resumed.network.parameter_vector.tobytes() == expected.network.parameter_vector.tobytes()


def test_the_plateau_rule_remembers_the_figure_before(tmp_path):
    class Plateau(Callback):
        def on_epoch_end(self, run):
            run.history.train_loss[-1] = [5.0, 4.0, 4.01, 1.0][run.epoch - 1]

    def run(interrupt):
        callbacks = [Plateau(), EarlyStopping("train_loss", tolerance=0.1), interrupt]
        return Training(tmp_path, callbacks=callbacks, epochs=4).fit(resume=tmp_path / "t.npz").history

    with pytest.raises(KeyboardInterrupt):
        run(Interrupt(step=2 * BATCHES + 1))
    assert len(run(Interrupt())) == 3


class Keeping(Callback):
    """A callback with a state of its own, that notes how it is called."""

    def __init__(self):
        self.total, self.notes = np.zeros(2), []

    def on_train_begin(self, run):
        self.notes.append("begin")
        run.network.parameter_vector[:] = 0.5  # what a callback does to begin with is not done twice

    def on_epoch_end(self, run):
        self.total = self.total + run.epoch
        self.notes.append(run.epoch)

    def on_train_end(self, run):
        self.notes.append("end")

    def state_dict(self):
        return {"total": self.total, "name": "ü"}

    def load_state_dict(self, state):
        self.notes.append(f"load {state['name']}")
        self.total = state["total"]


def test_callbacks_of_ones_own_keep_their_state(tmp_path):
    def run(keeping, interrupt, **options):
        callbacks = [Keeping(), lambda run: None, keeping, interrupt]
        return Training(tmp_path, callbacks=callbacks, epochs=4).fit(**options).network.parameter_vector

    expected, resumed, plain = Keeping(), Keeping(), run(Keeping(), Interrupt())
    run(expected, Interrupt())
    with pytest.raises(KeyboardInterrupt):
        run(Keeping(), Interrupt(epoch=3), resume=tmp_path / "t.npz")
    assert run(resumed, Interrupt(), resume=tmp_path / "t.npz").tobytes() == plain.tobytes()
    assert expected.notes == ["begin", 1, 2, 3, 4, "end"] and resumed.notes == ["begin", "load ü", 3, 4, "end"]
    np.testing.assert_array_equal(resumed.total, expected.total)


def test_a_state_that_would_need_pickle_is_an_error(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"thing": object()}

    with pytest.raises(TypeError, match=r"callbacks\.1\.thing is neither a number nor an array"):
        Training(tmp_path, callbacks=[print, Odd()]).fit(resume=tmp_path / "t.npz")
    assert os.listdir(tmp_path) == []


# -- a training that has ended ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [5, 8])  # by itself after the best epoch, and by EarlyStopping
def test_a_finished_training_gives_its_history_at_once(tmp_path, epochs, monkeypatch):
    first = Training(tmp_path, epochs=epochs).fit(resume=tmp_path / "t.npz")
    written = (tmp_path / "t.npz").read_bytes()
    monkeypatch.setattr(Trainer, "step", None)
    again = Training(tmp_path, epochs=epochs).fit(resume=tmp_path / "t.npz")
    assert_same(again, first)
    assert again.history.seconds == first.history.seconds and first.early.best_epoch == 4
    assert (tmp_path / "t.npz").read_bytes() == written


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_more_epochs_train_on_as_if_there_had_been_no_end(tmp_path, epochs):
    expected = Training(tmp_path).fit()
    training = Training(tmp_path).fit(resume=tmp_path / "t.npz", epochs=epochs)
    assert len(training.history) == epochs
    assert_same(Training(tmp_path).fit(resume=tmp_path / "t.npz"), expected)
    (tmp_path / "t.npz").unlink()
    training = Training(tmp_path).fit(resume=tmp_path / "t.npz", epochs=epochs)
    # the same objects, the best epoch put back in between
    assert_same(training.fit(resume=tmp_path / "t.npz"), expected)


def test_fewer_epochs_than_there_are_already_is_an_error(tmp_path):
    Training(tmp_path, epochs=3).fit(resume=tmp_path / "t.npz")
    with pytest.raises(ValueError, match=r"t\.npz has 3 epochs already, epochs=2 asks for fewer"):
        Training(tmp_path, epochs=2).fit(resume=tmp_path / "t.npz")


def test_a_training_that_diverged_stays_where_it_ended(tmp_path):
    x, targets = IMAGES.reshape(60, 16).astype(np.float32), np.full((60, 1), 1e25, np.float32)

    def run():
        network = Sequential(Linear(16, 1))
        return network, fit(network, MeanSquaredError(), SGD(), (x, targets), progress=False, resume=tmp_path / "t.npz")

    with pytest.warns(UserWarning, match="loss is inf"):
        network, history = run()
    again, read = run()
    assert read.train_loss == [math.inf] and read.stop_reason == history.stop_reason and "inf" in read.stop_reason
    assert again.parameter_vector.tobytes() == network.parameter_vector.tobytes()


def test_progress_counts_on(tmp_path, capsys):
    Training(tmp_path, epochs=2).fit(resume=tmp_path / "t.npz")
    Training(tmp_path, epochs=3).fit(resume=tmp_path / "t.npz", progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 1 and lines[0].startswith("epoch 3/3: loss")


# -- files that do not fit -------------------------------------------------------------------------------------------


def other(*layers, **options):
    network = Sequential(*layers, **{"dtype": np.float32, "seed": 4} | options)
    return {"network": network}


def layers(units=8, rate=0.3):
    return Flatten(), Linear(16, units), BatchNorm1d(units), ReLU(), Dropout(rate), Linear(units, 3)


X, Y = split(0, 32, np.float32)
WRONG = {
    "units": (other(*layers(units=9)), r"layer 1: Linear\(16, 8\) there, Linear\(16, 9\) here; .*, and \d+ more$"),
    "a setting of a layer": (
        other(*layers(rate=0.4)),
        r"another training: layer 4: Dropout\(0\.3\) there, Dropout\(0\.4\) here$",
    ),
    "a layer less": (other(*layers()[:-2], Linear(8, 3)), r"layer 4: Dropout\(0\.3\) there, Linear\(8, 3\) here"),
    "network's seed": (other(*layers(), seed=5), "the network's seed: 4 there, 5 here$"),
    "winograd": (other(*layers(), winograd=2), "the network's winograd: 4 there, 2 here$"),
    "optimiser": ({"optimizer": SGD(lr=0.02)}, r"optimizer: Adam\(.*\) there, SGD\(.*\) here$"),
    "learning rate": ({"optimizer": Adam(lr=0.03)}, r"optimizer: Adam\(lr=0\.02.* there, Adam\(lr=0\.03.* here$"),
    "loss": ({"loss": SoftmaxCrossEntropy(label_smoothing=0.1)}, "loss: .* there, .*0.1.* here$"),
    "seed": ({"seed": 8}, "of another training: seed: 7 there, 8 here$"),
    "batch size": ({"batch_size": 13}, "batch_size: 12 there, 13 here$"),
    "training samples": ({"train": (X[1:], Y[1:])}, r"train: x \(32, 1, 4, 4\), .* there, x \(31, 1, 4, 4\), .* here$"),
    "no validation": ({"validation": None, "callbacks": []}, r"validation: x \(16, .* there, None here"),
    "no test": ({"test": None}, r"test: x \(12, .* there, None here$"),
    "callbacks": (
        {"callbacks": [EarlyStopping(patience=3)]},
        r"callbacks: \['Figures', .* there, \['EarlyStopping'\] here$",
    ),
    "no augmentation": ({"augment": None}, r"augment: \['RandomCrop', 'RandomFlip'\] there, \[\] here$"),
    "order of augmentation": ({"augment": [RandomFlip(), RandomCrop(1)]}, "augment: .* there, .* here$"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    Training(folder, epochs=2).fit(resume=folder / "t.npz")
    return (folder / "t.npz").read_bytes()


def refused(tmp_path, content, message, **changed):
    """fit refuses this file, and neither it nor anything else has changed."""
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    training, told = Training(tmp_path), []

    class Telling(Figures):
        def on_train_begin(self, run):
            told.append(run)

    Telling.__name__ = "Figures"
    training.options["callbacks"][0] = Telling()
    given = {"network": training.network, "loss": SoftmaxCrossEntropy(), "optimizer": training.optimizer}
    arguments = given | training.options | {"resume": path} | changed
    network, optimizer = arguments["network"], arguments["optimizer"]
    before = {name: array.tobytes() for name, array in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fit(**arguments)
    assert {name: array.tobytes() for name, array in network.state_dict().items()} == before
    assert optimizer.steps == 0 and optimizer.state == {} and not told
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["t.npz"]


@pytest.mark.parametrize("case", WRONG)
def test_the_file_of_another_training_is_refused_and_what_differs_is_named(tmp_path, written, case):
    changed, message = WRONG[case]
    refused(tmp_path, written, message, **changed)


def test_the_other_dtype_is_refused(tmp_path, written):
    splits = {
        "train": split(0, 32, np.float64),
        "validation": split(32, 48, np.float64),
        "test": split(48, 60, np.float64),
    }
    message = r"1\.weight: float32 \(8, 16\) there, float64 \(8, 16\) here"
    refused(tmp_path, written, message, **other(*layers(), dtype=np.float64), **splits)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_a_clear_error(tmp_path, written, share):
    refused(tmp_path, written[: int(share * len(written))], r"t\.npz is not a training saved by fit, or it is damaged")


def test_a_flipped_bit_is_noticed_or_does_not_matter(tmp_path, written):
    expected, path = Training(tmp_path, epochs=2).fit(), tmp_path / "t.npz"
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(written), 60):
        content = bytearray(written)
        content[place] ^= 16
        path.write_bytes(content)
        try:
            training = Training(tmp_path, epochs=2).fit(resume=path)
        except ValueError as error:
            noticed += "is damaged" in str(error)
        else:
            assert_same(training, expected)
    assert noticed > 30


def test_other_files_are_no_trainings_and_are_left_alone(tmp_path):
    Sequential(Linear(3, 2)).save(tmp_path / "net.npz")
    np.save(tmp_path / "a.npy", np.arange(5))
    np.savez(tmp_path / "b.npz", training=np.array(json.dumps([1, 2])))
    (tmp_path / "c.npz").write_text("hello")
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path, content in contents.items():
        with pytest.raises(ValueError, match=rf"{path.name} is not a training saved by fit"):
            Training(tmp_path).fit(resume=path)
        assert path.read_bytes() == content
    with pytest.raises(IsADirectoryError):
        Training(tmp_path).fit(resume=tmp_path)


def test_a_newer_format_is_a_clear_error(tmp_path, written):
    path = tmp_path / "t.npz"
    path.write_bytes(written)
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("training"))) | {"format": 9}
    np.savez(path, training=np.array(json.dumps(header)), **arrays)
    refused(tmp_path, path.read_bytes(), "reads trainings of format 1, .* has 9")


def test_the_file_tells_how_far_it_is(tmp_path):
    path = tmp_path / "run.npz"
    assert part_done(path) == 0
    network, loss = Sequential(Flatten(), Linear(16, 3), seed=0), SoftmaxCrossEntropy()
    callbacks = [Interrupt(step=3 * BATCHES + 1)]
    with pytest.raises(KeyboardInterrupt):
        fit(network, loss, SGD(lr=0.1), split(0, 60, np.float32), epochs=4, callbacks=callbacks, batch_size=20,
            progress=False, resume=path)  # fmt: skip
    assert part_done(path) == 0.75
    path.write_bytes(path.read_bytes()[:100])
    assert part_done(path) == 0


# -- settings of callbacks and augmentations ---------------------------------------------------------------------------


class Halved(fastbp.Schedule):
    """A schedule of one's own."""

    def __init__(self, every):
        self.every = every

    def factor(self, epoch):
        return 0.5 ** (epoch // self.every)


class Noise:
    """An augmentation of one's own."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x, rng):
        return x + np.float32(self.scale) * rng.normal(size=x.shape).astype(x.dtype)


def shifted(x, rng, by):
    return np.roll(x, by, axis=-1)


SETTINGS = {
    "cosine": (
        "callbacks",
        CosineDecay(3),
        CosineDecay(6),
        r"callback 0: CosineDecay\(epochs=3\.0, .* there, .*epochs=6\.0",
    ),
    "final": ("callbacks", CosineDecay(3), CosineDecay(3, final=0.1), r"final=0\.0\) there, .*final=0\.1\) here$"),
    "step": ("callbacks", fastbp.StepDecay(2), fastbp.StepDecay(2, decay=0.5), r"decay=0\.1.* there, .*decay=0\.5"),
    "cycle": ("callbacks", fastbp.OneCycle(4), fastbp.OneCycle(4, warm=0.2), r"warm=0\.3.* there, .*warm=0\.2"),
    "warm-up": ("callbacks", WarmUp(2), WarmUp(3), r"WarmUp\(epochs=2\.0, .* there, WarmUp\(epochs=3\.0"),
    "patience": (
        "callbacks",
        EarlyStopping(patience=3),
        EarlyStopping(patience=4),
        r"patience=3, .* there, .*patience=4",
    ),
    "monitor": (
        "callbacks",
        EarlyStopping(patience=3),
        EarlyStopping("train_loss", 3),
        "'validation_loss', .*'train_loss'",
    ),
    "running": (
        "callbacks",
        RunningLoss(2),
        RunningLoss(3),
        r"RunningLoss\(every=2\) there, RunningLoss\(every=3\) here$",
    ),
    "own schedule": ("callbacks", Halved(1), Halved(2), r"Halved\(every=1\) there, Halved\(every=2\) here$"),
    "crop": (
        "augment",
        RandomCrop(1),
        RandomCrop(2),
        r"change 0: RandomCrop\(padding=1, .* there, RandomCrop\(padding=2, .* here$",
    ),
    "own augmentation": ("augment", Noise(0.1), Noise(0.2), r"Noise\(scale=0\.1\) there, Noise\(scale=0\.2\) here$"),
    "partial": (
        "augment",
        functools.partial(shifted, by=1),
        functools.partial(shifted, by=2),
        r"shifted\(by=1\) there, .*by=2",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_other_settings_are_refused_and_the_same_go_on(tmp_path, case):
    name, first, second, message = SETTINGS[case]
    path = tmp_path / "t.npz"
    Training(tmp_path, epochs=1, **{name: [first]}).fit(resume=path)
    before, training = path.read_bytes(), Training(tmp_path, epochs=2, **{name: [second]})
    values = training.network.parameter_vector.copy()
    with pytest.raises(ValueError, match=message):
        training.fit(resume=path)
    assert path.read_bytes() == before and np.array_equal(training.network.parameter_vector, values)
    resumed = Training(tmp_path, epochs=2, **{name: [copy.deepcopy(first)]}).fit(resume=path)
    expected = Training(tmp_path, epochs=2, **{name: [copy.deepcopy(first)]}).fit()
    assert resumed.network.parameter_vector.tobytes() == expected.network.parameter_vector.tobytes()


def test_what_does_not_change_a_training_may_differ(tmp_path):
    path = tmp_path / "t.npz"
    Training(tmp_path, epochs=1, callbacks=[Checkpoint(tmp_path / "a.npz"), RunningLoss(2), Interrupt(epoch=5)]).fit(
        resume=path
    )
    others = [Checkpoint(tmp_path / "b.npz"), RunningLoss(2, show=True), Interrupt(step=100)]
    Training(tmp_path, epochs=2, callbacks=others).fit(resume=path)
    assert (tmp_path / "b.npz").exists()


class Warmer(CosineDecay):
    """A schedule of one's own that hands an argument on under another name."""

    def __init__(self, length, extra):
        super().__init__(length)
        self.extra = extra


def test_settings_that_a_base_class_keeps_are_compared(tmp_path):
    path = tmp_path / "t.npz"
    Training(tmp_path, epochs=1, callbacks=[Warmer(4, 1)]).fit(resume=path)
    with pytest.raises(ValueError, match=r"epochs=4\.0.* there, .*epochs=5\.0"):
        Training(tmp_path, epochs=2, callbacks=[Warmer(5, 1)]).fit(resume=path)
    Training(tmp_path, epochs=2, callbacks=[Warmer(4, 1)]).fit(resume=path)


def test_a_file_does_not_say_in_which_modules_classes_stand(tmp_path):
    """So it is read again after they have moved within the package."""
    Training(tmp_path, epochs=1).fit(resume=tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        said = str(file["training"])
    assert "CosineDecay" in said and "fastbp" not in said
