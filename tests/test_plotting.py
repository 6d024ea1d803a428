"""Figures: that they draw, and what they show."""

import io
import math
import subprocess
import sys

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image

from fastbp import History, plotting

FULL = {
    "train_loss": [2.0, 1.5, 0.7],
    "train_accuracy": [0.3, 0.6, 0.8],
    "validation_loss": [2.1, 1.6, 0.9],
    "validation_accuracy": [0.25, 0.5, 0.75],
}
CLASSES = tuple("abcdefghij")


def rendered(figure):
    """The figure as an RGB array, through a PNG in memory."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return np.asarray(Image.open(file).convert("RGB"))


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_curves_show_loss_and_accuracy_of_both_splits():
    figure = History(**FULL).plot()
    loss, accuracy = figure.axes
    assert lines(loss) == {"train": FULL["train_loss"], "validation": FULL["validation_loss"]}
    assert lines(accuracy) == {"train": FULL["train_accuracy"], "validation": FULL["validation_accuracy"]}
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3]
    assert (loss.get_ylabel(), accuracy.get_ylabel(), loss.get_xlabel()) == ("loss", "accuracy", "epoch")
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "validation"]
    assert np.unique(rendered(figure).reshape(-1, 3), axis=0).shape[0] > 10


@pytest.mark.parametrize(
    "names, panels",
    [
        (["train_loss"], 1),
        (["train_loss", "validation_loss"], 1),
        (["train_loss", "train_accuracy"], 2),
        (["train_loss", "validation_accuracy"], 2),
        (list(FULL), 2),
        ([], 1),
    ],
)
def test_there_is_a_panel_for_each_figure_measured(names, panels):
    figure = History(**{name: FULL[name] for name in names}).plot()
    assert len(figure.axes) == panels
    rendered(figure)


@pytest.mark.parametrize("losses", [[math.inf], [1.0, math.nan], [1.0, math.inf, 2.0], [1e30, 1e-30], [0.0], [5.0]])
def test_curves_draw_losses_that_are_odd(losses):
    rendered(History(train_loss=losses, train_accuracy=[0.5] * len(losses)).plot())


def shown(count, wrong=(), channels=1, **options):
    rng = np.random.default_rng(0)
    images, labels = rng.random((count, channels, 6, 6)), rng.integers(0, 10, count)
    predicted = labels.copy()
    for n in wrong:
        predicted[n] = (labels[n] + 3) % 10
    return plotting.predictions(images, predicted, labels, CLASSES, **options), images, predicted, labels


def is_red(color):
    red, green, blue = matplotlib.colors.to_rgb(color)
    return red > 0.5 and green < 0.2 and blue < 0.2


def test_wrong_predictions_are_red_and_say_what_is_right():
    figure, images, predicted, labels = shown(8, wrong=(1, 6))
    assert len(figure.axes) == 8
    for n, axes in enumerate(figure.axes):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[n, 0])
        assert axes.images[0].get_clim() == (0, 1)
        assert is_red(axes.title.get_color()) == (n in (1, 6))
        edges = [spine for spine in axes.spines.values() if spine.get_visible()]
        assert len(edges) == (4 if n in (1, 6) else 0) and all(is_red(spine.get_edgecolor()) for spine in edges)
        right = CLASSES[labels[n]]
        assert axes.get_title() == (right if n not in (1, 6) else f"{CLASSES[predicted[n]]}, is {right}")


def red_pixels(figure):
    pixels = rendered(figure).astype(int)
    return int(((pixels[..., 0] > 150) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum())


def test_the_red_is_seen_in_the_picture():
    assert red_pixels(shown(8)[0]) == 0 and red_pixels(shown(8, wrong=(0, 5))[0]) > 50


@pytest.mark.parametrize("count, columns", [(1, 6), (6, 6), (7, 6), (30, 6), (5, 2)])
def test_there_is_a_picture_for_each_image(count, columns):
    figure = shown(count, columns=columns)[0]
    assert len(figure.axes) == count
    rendered(figure)


def test_colour_images_keep_their_channels():
    figure, images, *_ = shown(3, channels=3)
    for axes, image in zip(figure.axes, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), np.moveaxis(image, 0, -1))
    rendered(figure)


def test_no_images_give_an_empty_figure():
    figure = plotting.predictions(np.zeros((0, 1, 6, 6)), np.zeros(0, int), np.zeros(0, int), CLASSES)
    assert not figure.axes
    rendered(figure)


def test_the_training_sheet_holds_curves_and_predictions():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 30)
    predicted = np.where(np.arange(30) < 4, (labels + 1) % 10, labels)
    figure = plotting.training_sheet(History(**FULL), rng.random((30, 1, 8, 8)), predicted, labels, CLASSES, "a title 97 %")
    assert len(figure.axes) == 2 + 30 and figure.get_suptitle() == "a title 97 %"
    assert red_pixels(figure) > 50
    assert sum(is_red(axes.title.get_color()) for axes in figure.axes[2:]) == 4


def test_plotting_opens_no_window_and_is_imported_when_used_only():
    code = """if True:
        import sys, fastbp
        assert "matplotlib" not in sys.modules
        fastbp.History(train_loss=[1.0, 0.5]).plot()
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
