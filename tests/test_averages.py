"""Averages of weights: EMA and Lookahead against their formulas on the values of every step, through fit."""

import numpy as np
import pytest

import fastbp
from fastbp import (
    EMA,
    SGD,
    BatchNorm1d,
    Callback,
    Checkpoint,
    Dropout,
    EarlyStopping,
    Linear,
    Lookahead,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    fit,
)

rng = np.random.default_rng(0)
X, LABELS = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
BATCHES = 5  # an epoch


def network():
    layers = [Linear(6, 8), BatchNorm1d(8), ReLU(), Dropout(0.2), Linear(8, 3)]
    return Sequential(*layers, dtype=np.float64, seed=2)


def numbers(state):
    """What is averaged of a state_dict."""
    return {name: array for name, array in state.items() if array.dtype.kind == "f"}


class Steps(Callback):
    """The network after every step, before other callbacks have changed it."""

    def on_train_begin(self, run):
        self.start, self.seen = run.network.state_dict(), []

    def on_batch_end(self, run, loss):
        self.seen.append(run.network.state_dict())


def trained(callbacks, epochs=3, **options):
    net = network()
    optimizer, data = SGD(0.2, momentum=0.9), (X[:30], LABELS[:30])
    options = {"validation": (X[30:], LABELS[30:]), "batch_size": 6, "progress": False, "epochs": epochs} | options
    history = fit(net, SoftmaxCrossEntropy(), optimizer, data, callbacks=callbacks, **options)
    return net, history


def assert_state(found, wanted, **more):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-14, err_msg=name, **more)


@pytest.mark.parametrize("every", [1, 4])
def test_ema_is_the_mean_with_weights_that_fall_by_its_decay(every):
    steps, ema = Steps(), EMA(decay=0.8, every=every)
    net, _ = trained([steps, ema])
    plain, _ = trained([])
    taken = steps.seen[every - 1 :: every]
    weights = [0.8 ** (len(taken) - 1)] + [0.2 * 0.8 ** (len(taken) - 1 - k) for k in range(1, len(taken))]
    wanted = {name: sum(w * s[name] for w, s in zip(weights, taken, strict=True)) for name in numbers(taken[0])}
    assert_state(ema.averages, wanted)
    assert_state(numbers(net.state_dict()), wanted)  # they stay
    for name, array in steps.seen[-1].items():  # training went on with its own values, as without the callback
        assert np.array_equal(array, plain.state_dict()[name])


def test_keep_false_gives_the_trained_values_back_and_the_averages_can_be_loaded():
    ema = EMA(decay=0.5, keep=False)
    net, _ = trained([ema])
    kept, _ = trained([EMA(decay=0.5)])
    assert_state(net.state_dict(), trained([])[0].state_dict())
    net.load_state_dict(net.state_dict() | ema.averages)
    assert_state(net.state_dict(), kept.state_dict())


@pytest.mark.parametrize(
    ("alpha", "at"), [(0.5, lambda done: 0.5), (lambda done: 1 - 0.7 * done**3, lambda done: 1 - 0.7 * done**3)]
)
def test_lookahead_goes_part_of_the_way_every_k_steps(alpha, at):
    steps, look = Steps(), Lookahead(every=4, alpha=alpha)
    net, _ = trained([steps, look])  # 15 steps: the last three are not taken up
    slow = numbers(steps.start)
    other = network()
    trainer, generator = Trainer(other, SoftmaxCrossEntropy(), SGD(0.2, momentum=0.9)), np.random.default_rng
    step = 0
    for epoch in range(3):
        order = generator([0, epoch]).permutation(30)
        for start in range(0, 30, 6):
            trainer.step(X[order[start : start + 6]], LABELS[order[start : start + 6]])
            step += 1
            fast = numbers(other.state_dict())
            assert_state(numbers(steps.seen[step - 1]), fast)
            if step % 4 == 0:
                slow = {name: slow[name] + at(step / 15) * (fast[name] - slow[name]) for name in slow}
                other.load_state_dict(other.state_dict() | slow)
    assert_state(look.averages, slow)
    assert_state(numbers(net.state_dict()), slow)


class AtEpochs(Callback):
    """What the network gives for the validation data when the epoch's end is told."""

    def on_train_begin(self, run):
        self.losses = []

    def on_epoch_end(self, run):
        self.losses.append(fastbp.evaluate(run.network, run.loss, (X[30:], LABELS[30:])).loss)


@pytest.mark.parametrize("make", [lambda: EMA(0.7), lambda: Lookahead(4, 0.3), lambda: EMA(0.7, keep=False)])
def test_the_averages_are_what_is_measured_stopped_by_and_saved(make, tmp_path):
    average, seen = make(), AtEpochs()
    early, checkpoint = EarlyStopping(patience=2), Checkpoint(tmp_path / "best.npz", "validation_loss")
    net, history = trained([seen, early, average, checkpoint], epochs=9)
    assert history.validation_loss == seen.losses
    assert history.validation_loss != trained([], epochs=9)[1].validation_loss[: len(history)]
    best = min(history.validation_loss)
    assert fastbp.evaluate(net, SoftmaxCrossEntropy(), (X[30:], LABELS[30:])).loss == pytest.approx(best)
    saved = fastbp.load(tmp_path / "best.npz")
    assert_state(saved.state_dict(), net.state_dict())


@pytest.mark.parametrize(
    "make",
    [lambda: [EMA(0.7, every=3)], lambda: [Lookahead(4, 0.3)], lambda: [Lookahead(3), EMA(0.6)], lambda: [EMA(0.6)]],
)
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_resumed_training_ends_with_the_same_bits(make, first, tmp_path):
    whole, history = trained(make(), epochs=3)
    trained(make(), epochs=first, resume=tmp_path / "training")
    net, again = trained(make(), epochs=3, resume=tmp_path / "training")
    assert again.validation_loss == history.validation_loss
    for name, array in whole.state_dict().items():
        assert np.array_equal(net.state_dict()[name], array), name
    with pytest.raises(ValueError, match="is of another training: callback"):
        trained([EMA(0.1)], epochs=3, resume=tmp_path / "training")


def test_an_error_at_an_epochs_end_leaves_the_trained_values():
    def fail(run):
        raise KeyboardInterrupt

    net, steps = network(), Steps()
    with pytest.raises(KeyboardInterrupt):
        fit(net, SoftmaxCrossEntropy(), SGD(0.2), (X, LABELS), callbacks=[steps, EMA(0.9), fail], progress=False)
    assert_state(net.state_dict(), steps.seen[-1])


def test_a_training_without_a_step_keeps_the_network_as_it_was():
    for average in (EMA(), Lookahead()):
        net, _ = trained([average], epochs=0)
        assert_state(net.state_dict(), network().state_dict())
    assert EMA().averages == {} and Lookahead().averages == {}


def test_wrong_arguments_are_clear_errors():
    for error, make, message in [
        (ValueError, lambda: EMA(decay=1), r"EMA: decay must be in \[0, 1\), got 1"),
        (TypeError, lambda: EMA(decay="slow"), "EMA: decay must be a number"),
        (ValueError, lambda: EMA(every=0), "EMA: every must be an int of at least 1"),
        (TypeError, lambda: EMA(keep=1), "EMA: keep must be True or False"),
        (ValueError, lambda: Lookahead(alpha=1.5), r"Lookahead: alpha must be in \[0, 1\]"),
        (ValueError, lambda: Lookahead(every=0), "Lookahead: every must be"),
        (ValueError, lambda: trained([Lookahead(1, lambda done: 2)]), r"Lookahead: alpha must be in \[0, 1\], got 2"),
    ]:
        with pytest.raises(error, match=message):
            make()
