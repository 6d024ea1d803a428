"""Figures: that they draw, and what they show."""

import io
import itertools
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image
from refused import refused

from fastbp import History, plotting
from fastbp.gradcheck.report import VERDICTS
from fastbp.plotting.verdicts import VERDICT_COLOURS

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


def test_curves_show_a_third_split_where_it_was_measured():
    test = {"test_loss": [2.2, 1.7, 1.0], "test_accuracy": [0.2, 0.45, 0.7]}
    loss, accuracy = plotting.curves(SimpleNamespace(**FULL, **test)).axes
    assert lines(loss)["test"] == test["test_loss"] and lines(accuracy)["test"] == test["test_accuracy"]
    assert len(lines(loss)) == len(lines(accuracy)) == 3
    loss, accuracy = plotting.curves(SimpleNamespace(**FULL, test_loss=[], test_accuracy=[])).axes
    assert list(lines(loss)) == list(lines(accuracy)) == ["train", "validation"]
    loss, accuracy = plotting.curves(SimpleNamespace(train_loss=[1.0], test_accuracy=[0.5])).axes
    assert list(lines(loss)) == ["train"] and list(lines(accuracy)) == ["test"]


def luminance(color):
    """What a greyscale print leaves of a colour, from 0 to 1."""
    return float(np.dot(matplotlib.colors.to_rgb(color), (0.299, 0.587, 0.114)))


@pytest.mark.parametrize(
    "styles, apart", [(plotting.LINES, 0.08), (plotting.LINES[:4], 0.15), (plotting.STYLES.values(), 0.2)]
)
def test_lines_are_apart_in_greyscale_by_darkness_dash_and_marker(styles, apart):
    for one, other in itertools.combinations(styles, 2):
        assert abs(luminance(one["color"]) - luminance(other["color"])) > apart
        assert one["linestyle"] != other["linestyle"] and one["marker"] != other["marker"]
    assert all(luminance(style["color"]) < 0.75 for style in styles)  # on white


# -- compare -----------------------------------------------------------------------------------------------------------


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bands(axes):
    """The least and the largest of each band at each x, as {x: (least, largest)}."""
    found = []
    for band in axes.collections:
        points = band.get_paths()[0].vertices
        found.append(
            {x: (min(points[points[:, 0] == x, 1]), max(points[points[:, 0] == x, 1])) for x in np.unique(points[:, 0])}
        )
    return found


def test_compare_draws_a_line_for_each_label_and_lists_them_as_they_end():
    low, high = [0.1, 0.2, 0.3], [0.2, 0.1, 0.9]
    figure = plotting.compare(
        {"low": ([1, 2, 3], low), "high": ([2, 4, 6], high)}, "accuracy", title="a title", percent=True
    )
    (axes,) = figure.axes
    assert lines(axes) == {"low": low, "high": high} and legend(figure) == ["high", "low"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3], [2, 4, 6]]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("epoch", "accuracy", "a title")
    assert not axes.collections and not figure.legends[0].get_title().get_text()
    rendered(figure)
    assert "%" in axes.get_yticklabels()[0].get_text()


def test_compare_draws_the_mean_of_seeds_and_a_band_from_least_to_largest():
    seeds = np.random.default_rng(2).random((3, 4))
    figure = plotting.compare({"one": ([1, 2, 3, 4], seeds[0]), "three": ([1, 2, 3, 4], seeds)}, "loss")
    (axes,) = figure.axes
    np.testing.assert_allclose(lines(axes)["three"], seeds.sum(axis=0) / 3)
    (band,) = bands(axes)
    for x in (1, 2, 3, 4):
        np.testing.assert_allclose(band[x], (sorted(seeds[:, x - 1])[0], sorted(seeds[:, x - 1])[2]))
    assert "range" in figure.legends[0].get_title().get_text()
    rendered(figure)


def test_compare_takes_eight_lines_and_says_so_of_nine():
    given = {f"line {k}": ([1, 2], [k, k + 0.5]) for k in range(9)}
    with pytest.raises(ValueError, match="1 to 8 lines can be told apart, got 9"):
        plotting.compare(given, "loss")
    del given["line 4"]
    figure = plotting.compare(given, "loss")
    assert len({line.get_color() for line in figure.axes[0].lines}) == 8
    assert len(figure.axes[0].lines) == len(legend(figure)) == 8
    rendered(figure)


def test_a_figure_reported_for_a_line_is_drawn_across_in_its_colour():
    figure = plotting.compare({"a": ([1, 2], [1.0, 2.0]), "b": ([1, 2], [0.5, 0.4])}, "loss", reported={"b": 0.3})
    first, second, across = figure.axes[0].lines
    assert list(across.get_ydata()) == [0.3, 0.3] and across.get_linestyle() == ":"
    assert (across.get_color(), across.get_marker()) == (second.get_color(), second.get_marker())
    assert first.get_color() != second.get_color() and legend(figure) == ["a", "b", "reported"]
    rendered(figure)
    with pytest.raises(ValueError, match="reported figures of c, but there is no such line"):
        plotting.compare({"a": ([1], [1.0])}, "loss", reported={"c": 0.3})


def test_a_logarithmic_axis_has_plain_numbers():
    figure = plotting.compare({"a": (range(1, 5), [2.0, 0.5, 0.06, 0.012])}, "loss", "mini-batch", log=True)
    rendered(figure)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log" and {"0.02", "0.1", "1"} <= {label.get_text() for label in axes.get_yticklabels()}
    with pytest.raises(ValueError, match="a has no value above 0"):
        plotting.compare({"a": ([1, 2], [0.0, -1.0])}, "loss", log=True)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [1.0, math.nan, 2.0],
        [math.inf, 1.0, 2.0],
        [[1.0, math.inf, 2.0], [2.0, 3.0, math.nan]],
        [0.0, 5.0, 5.0],
        [1e30, 1, 1e-30],
    ],
)
def test_compare_draws_losses_that_are_odd(values, log):
    rendered(plotting.compare({"odd": ([1, 2, 3], values), "even": ([1, 2, 3], [1.0, 2.0, 3.0])}, "loss", log=log))


def test_a_long_line_has_some_markers_only():
    (line,) = plotting.compare({"a": (range(600), np.zeros(600))}, "loss").axes[0].lines
    assert 8 <= 600 / line.get_markevery() <= 12
    (line,) = plotting.compare({"a": ([0, 1], [1, 2])}, "loss").axes[0].lines
    assert line.get_markevery() == 1


@pytest.mark.parametrize(
    "x, values",
    [
        ([1, 2], [1.0]),
        ([1, 2], np.ones((2, 3))),
        ([[1, 2]], [[1.0, 2.0]]),
        ([], []),
        ([1], np.ones((0, 1))),
        ([1], np.ones((1, 1, 1))),
    ],
)
def test_lengths_that_do_not_fit_are_errors_that_name_the_line(x, values):
    with pytest.raises(ValueError, match="ours: expected x"):
        plotting.compare({"fine": ([1], [1]), "ours": (x, values)}, "loss")
    with pytest.raises(ValueError, match="ours, test: expected x"):
        plotting.learning_curves({"ours": (x, values, values)})


# -- learning curves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_learning_curves_are_solid_for_test_and_dashed_for_training(log):
    sizes, rng = [500, 5000, 50000], np.random.default_rng(3)
    train, test = 0.9 + 0.1 * rng.random((4, 3)), 0.8 + 0.1 * rng.random((4, 3))
    figure = plotting.learning_curves(
        {"net": (sizes, train, test), "other": (sizes[:2], [0.99, 0.98], [0.7, 0.8])}, log=log
    )
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == legend(figure) == ["net, test", "net, train", "other, test", "other, train"]
    np.testing.assert_allclose(drawn["net, test"].get_ydata(), test.mean(axis=0))
    np.testing.assert_allclose(drawn["net, train"].get_ydata(), train.mean(axis=0))
    assert list(drawn["other, test"].get_ydata()) == [0.7, 0.8] and list(drawn["other, train"].get_xdata()) == [
        500,
        5000,
    ]
    for name in ("net", "other"):
        solid, dashed = drawn[f"{name}, test"], drawn[f"{name}, train"]
        assert solid.get_linestyle() == "-" and dashed.get_linestyle() == "--"
        assert solid.get_color() == dashed.get_color()
        assert solid.get_markerfacecolor() == solid.get_color() and dashed.get_markerfacecolor() == "white"
    np.testing.assert_allclose(bands(axes)[0][5000], (test[:, 1].min(), test[:, 1].max()))
    np.testing.assert_allclose(bands(axes)[1][5000], (train[:, 1].min(), train[:, 1].max()))
    assert len(bands(axes)) == 2 and axes.get_xscale() == ("log" if log else "linear")
    rendered(figure)
    assert "20k" in {label.get_text() for label in axes.get_xticklabels()}
    assert "%" in axes.get_yticklabels()[0].get_text()


def test_learning_curves_of_one_network_need_no_name():
    figure = plotting.learning_curves({"": ([1, 2], [0.9, 0.8], [0.6, 0.7])})
    assert legend(figure) == ["test", "train"] and not figure.axes[0].collections
    rendered(figure)


def test_learning_curves_of_nothing_or_of_no_images_are_errors():
    with pytest.raises(ValueError, match="1 to 8 lines can be told apart, got 0"):
        plotting.learning_curves({})
    with pytest.raises(ValueError, match="net: sizes must be above 0, got 0"):
        plotting.learning_curves({"net": ([0, 10], [1, 1], [0.1, 0.5])})
    with pytest.raises(ValueError, match="net, test: expected x"):
        plotting.learning_curves({"net": ([5, 10], [1, 1], [0.1])})


# -- sweeps ------------------------------------------------------------------------------------------------------------


def marks(axes, marker):
    """Where a marker is drawn: [(x, y), …]."""
    return [(x, y) for line in axes.lines if line.get_marker() == marker for x, y in zip(*line.get_data(), strict=True)]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_sweep_has_a_dot_for_each_seed_a_tick_at_the_mean_and_diamonds_for_reported_figures():
    values = [[0.61, 0.63], [0.70, 0.71, 0.75], [0.66]]
    figure = plotting.sweep(["a", "b", "c"], values, "accuracy", "setting", "a title", reported=[0.6, None, 0.69])
    (axes,) = figure.axes
    assert marks(axes, "o") == [(0.61, 0), (0.63, 0), (0.70, 1), (0.71, 1), (0.75, 1), (0.66, 2)]
    np.testing.assert_allclose(marks(axes, "|"), [(0.62, 0), (0.72, 1)])
    assert marks(axes, "D") == [(0.6, 0), (0.69, 2)]
    assert texts(axes) == ["62.0%", "60.0%", "72.0%", "66.0%", "69.0%", "mean", "reported"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("accuracy", "setting", "a title")
    assert legend(figure) == ["one seed", "mean", "reported"]
    rendered(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"] and axes.yaxis_inverted()
    low, high = axes.get_xlim()
    assert 0.55 < low < 0.6 and 0.75 < high < 0.8  # tight, not from 0


def highlighted(axes):
    """The rows with bold labels, in bold numbers and on the grey band, which must be the same."""
    bold = [
        int(y)
        for label, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if label.get_fontweight() == "bold"
    ]
    assert [text.xy[1] for text in axes.texts if text.get_fontweight() == "bold"] == bold
    assert [band.get_y() + 0.5 for band in axes.patches] == bold
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [int(line.get_ydata()[0]) for line in dots if luminance(line.get_color()) < 0.35] == bold
    return bold


@pytest.mark.parametrize(
    "options, rows",
    [({}, [1]), ({"best": 2}, [2]), ({"best": 0}, [0]), ({"best": False}, []), ({"percent": False}, []),
     ({"percent": False, "best": 0}, [0])],
)  # fmt: skip
def test_the_best_setting_is_highlighted(options, rows):
    figure = plotting.sweep(["a", "b", "c"], [[0.5, 0.99], [0.8, 0.81], [0.1, 0.2]], "accuracy", **options)
    rendered(figure)
    assert highlighted(figure.axes[0]) == rows


def test_a_sweep_of_one_seed_has_a_dot_and_a_number_and_no_legend():
    figure = plotting.sweep(["a", "b"], [0.5, 0.25], "accuracy")
    axes = figure.axes[0]
    assert marks(axes, "o") == [(0.5, 0), (0.25, 1)] and not marks(axes, "|") and not figure.legends
    assert texts(axes) == ["50.0%", "25.0%"]
    rendered(figure)
    figure = plotting.sweep(["a", "b"], np.array([[0.5], [0.25]]), "loss", reported=[None, 0.1234], percent=False)
    assert texts(figure.axes[0]) == ["0.5", "0.25", "0.123", "measured", "reported"] and legend(figure) == [
        "measured",
        "reported",
    ]
    rendered(figure)


def test_numbers_show_why_the_best_setting_is_the_best():
    assert texts(plotting.sweep(["a", "b"], [0.9904, 0.9896], "accuracy").axes[0]) == ["99.04%", "98.96%"]
    assert texts(plotting.sweep(["a", "b"], [0.9904, 0.9896], "accuracy", best=False).axes[0]) == ["99.0%", "99.0%"]


def test_a_sweep_says_where_a_seed_was_not_finite():
    figure = plotting.sweep(["a", "b", "c"], [[math.nan, 0.5], [math.inf, math.nan], [0.2, 0.4]], "accuracy")
    axes = figure.axes[0]
    assert texts(axes)[:3] == ["not finite", "not finite", "30.0%"] and highlighted(axes) == [2]
    assert marks(axes, "o") == [(0.5, 0), (0.2, 2), (0.4, 2)]
    rendered(figure)
    rendered(plotting.sweep(["a"], [[math.nan]], "accuracy"))


@pytest.mark.parametrize(
    "settings, values, options, message",
    [
        ([], [], {}, "at least one of each"),
        (["a"], [[1], [2]], {}, "as many settings, values and reported figures.*got 1, 2 and 2"),
        (["a", "b"], [[1], [2]], {"reported": [1]}, "got 2, 2 and 1"),
        (["a", "b"], [[1], []], {}, "b: expected the values of its seeds"),
        (["a"], [[[1, 2]]], {}, "a: expected the values of its seeds"),
        (["a", "b"], [[1], [2]], {"best": 2}, "best is the index of a row, 0 to 1, got 2"),
        (["a", "b"], [[1], [2]], {"best": -1}, "best is the index of a row, 0 to 1, got -1"),
    ],
)
def test_sweeps_that_do_not_fit_are_errors(settings, values, options, message):
    with pytest.raises(ValueError, match=f"sweep: .*{message}"):
        plotting.sweep(settings, values, "accuracy", **options)


# -- grids of numbers --------------------------------------------------------------------------------------------------


def numbers(axes):
    """The text in each cell, by (row, column)."""
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("percent", [True, False])
def test_a_heatmap_has_its_numbers_in_the_cells_and_a_frame_around_the_highest(percent):
    values = [[0.5, 0.625, math.nan], [0.75, 0.25, 0.7]]
    figure = plotting.heatmap([0.1, "high"], [16, 32, 64], values, "batch", "rate", "a title", percent=percent)
    (axes,) = figure.axes
    expected = {(0, 0): 0.5, (0, 1): 0.625, (1, 0): 0.75, (1, 1): 0.25, (1, 2): 0.7}
    assert numbers(axes) == {cell: f"{100 * v:.1f}%" if percent else f"{v:g}" for cell, v in expected.items()}
    (frame,) = axes.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height(), frame.get_fill()) == ((0, 1), 1, 1, False)
    assert [text.get_fontweight() for text in axes.texts] == ["normal", "normal", "bold", "normal", "normal"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("batch", "rate", "a title")
    rendered(figure)
    assert tick_labels(axes.xaxis) == ["16", "32", "64"]
    assert tick_labels(axes.yaxis) == ["0.1", "high"] and axes.yaxis_inverted()
    (cells,) = axes.collections
    colors = cells.get_facecolors().reshape(2, 3, 4)
    np.testing.assert_array_equal(colors[..., 0], colors[..., 2])  # grey
    # the darker the higher
    assert colors[1, 1, 0] > colors[0, 0, 0] > colors[0, 1, 0] > colors[1, 2, 0] > colors[1, 0, 0] >= 0.45
    assert colors[0, 2, 3] == 0 and colors[1, 1, 0] < 0.97  # an empty cell is no low one


def test_heatmaps_of_one_cell_or_of_equal_values_are_drawn():
    rendered(plotting.heatmap(["a"], ["b"], [[0.5]], "x", "y"))
    rendered(plotting.heatmap(["a", "b"], ["c"], [[0.5], [0.5]], "x", "y"))


@pytest.mark.parametrize("values", [[[0.5, 0.5]], [[0.5], [0.5]], [0.5], [[math.nan]]])
def test_a_heatmap_that_does_not_fit_or_is_empty_is_an_error(values):
    with pytest.raises(ValueError, match=r"heatmap: expected values \(1, 1\) with a number among them"):
        plotting.heatmap(["a"], ["b"], values, "x", "y")
    with pytest.raises(ValueError, match=r"heatmap: expected values \(0, 0\)"):
        plotting.heatmap([], [], np.zeros((0, 0)), "x", "y")


def test_a_confusion_matrix_shows_for_each_true_class_the_share_of_what_it_was_taken_for():
    labels = np.array([0] * 8 + [1] * 4 + [2] * 1)
    predicted = np.array([0] * 5 + [1] * 2 + [2] * 1 + [1] * 4 + [0])
    order = np.random.default_rng(4).permutation(len(labels))
    figure = plotting.confusion_matrix(predicted[order], labels[order], ("cat", "a dog", "cow", "none"), "a title")
    (axes,) = figure.axes
    assert numbers(axes) == {(0, 0): "62.5", (0, 1): "25.0", (0, 2): "12.5", (1, 1): "100.0", (2, 0): "100.0"}
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted class", "true class", "a title")
    rendered(figure)
    assert tick_labels(axes.xaxis) == tick_labels(axes.yaxis) == ["cat", "a dog", "cow", "none"]
    assert axes.yaxis_inverted()
    assert sorted(patch.get_xy() for patch in axes.patches) == [(k, k) for k in range(4)]
    assert all(
        luminance(patch.get_facecolor()[:3]) > 0.8 and luminance(patch.get_edgecolor()[:3]) == 0
        for patch in axes.patches
    )


def test_the_colours_of_a_confusion_matrix_reach_to_the_most_frequent_mistake():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 5, 4000)
    predicted = np.where(rng.random(4000) < 0.02, rng.integers(0, 5, 4000), labels)
    predicted[(labels == 3) & (rng.random(4000) < 0.03)] = 1
    figure = plotting.confusion_matrix(predicted, labels, CLASSES[:5])
    rendered(figure)
    (cells,) = figure.axes[0].collections
    shades = np.array([luminance(color[:3]) for color in cells.get_facecolors()]).reshape(5, 5)
    off = ~np.eye(5, dtype=bool)
    assert shades[3, 1] == shades[off].min() < 0.3 and is_red(cells.get_facecolors()[3 * 5 + 1][:3])
    counts = np.zeros((5, 5))
    for one, other in zip(labels, predicted, strict=True):
        counts[one, other] += 1
    shares = (counts / counts.sum(axis=1, keepdims=True))[off]
    assert (np.diff(shades[off][np.argsort(shares, kind="stable")]) <= 1e-12).all()  # the darker the more frequent


@pytest.mark.parametrize("count, classes", [(1, 1), (3, 2), (5, 3)])
def test_a_confusion_matrix_without_mistakes_is_drawn(count, classes):
    labels = np.arange(count) % classes
    figure = plotting.confusion_matrix(labels, labels, CLASSES[:classes])
    assert numbers(figure.axes[0]) == {(k, k): "100.0" for k in range(classes)}
    rendered(figure)


@pytest.mark.parametrize(
    "predicted, labels, message",
    [
        ([], [], "predicted and labels must be .*not empty"),
        ([0, 1], [0], "predicted and labels must be"),
        ([[0]], [[0]], "predicted and labels must be"),
        ([0, 3], [0, 1], "predicted must be integers from 0 to 2, got int64 from 0 to 3"),
        ([0, 1], [-1, 1], "labels must be integers from 0 to 2, got int64 from -1 to 1"),
        ([0.0, 1.0], [0, 1], "predicted must be integers from 0 to 2, got float64"),
    ],
)
def test_confusions_that_do_not_fit_are_errors(predicted, labels, message):
    with pytest.raises(ValueError, match=f"confusion_matrix: {message}"):
        plotting.confusion_matrix(predicted, labels, "abc")


# -- pictures ----------------------------------------------------------------------------------------------------------


def tile(figure, n, columns, size):
    """Filter n of a figure of square filters (size, size), an RGB array (size, size, 3)."""
    sheet = figure.axes[0].images[0].get_array()
    pitch = (sheet.shape[1] + 1) // columns
    scale, row, column = (pitch - 1) // size, n // columns, n % columns
    whole = sheet[row * pitch : (row + 1) * pitch - 1, column * pitch : (column + 1) * pitch - 1]
    np.testing.assert_array_equal(whole, np.kron(whole[::scale, ::scale], np.ones((scale, scale, 1))))
    return whole[::scale, ::scale]


@pytest.mark.parametrize("C", [1, 3])
def test_filters_are_scaled_by_their_largest_magnitude_with_0_at_mid_grey(C):
    weight = np.random.default_rng(6).normal(size=(7, C, 5, 5)) * 10.0 ** np.arange(-3, 4)[:, None, None, None]
    weight[3], weight[4, :, 1, 2] = 0, 0
    figure = plotting.filters(weight, "a title", columns=3)
    for n in range(7):
        expected = np.moveaxis(0.5 + 0.5 * weight[n] / (np.abs(weight[n]).max() or 1), 0, -1)
        np.testing.assert_allclose(tile(figure, n, 3, 5), np.broadcast_to(expected, (5, 5, 3)))
    assert (tile(figure, 3, 3, 5) == 0.5).all() and (tile(figure, 8, 3, 5) == 1).all()
    assert figure.axes[0].get_title() == "a title"
    rendered(figure)


def test_the_lines_between_filters_are_white_and_thin():
    sheet = np.asarray(plotting.filters(np.full((4, 1, 28, 28), -1.0), columns=2).axes[0].images[0].get_array())
    assert sheet.shape == (57, 57, 3) and (sheet[28] == 1).all()
    assert (sheet[:, 28] == 1).all() and (sheet[:28, 29:] == 0).all()
    sheet = np.asarray(plotting.filters(np.full((2, 1, 3, 3), -1.0)).axes[0].images[0].get_array())
    assert (sheet == 1).all(axis=(0, 2)).sum() == 1 and sheet.shape[1] > 30


def test_filters_of_a_linear_layer_take_the_shape_of_its_images():
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(2, 3 * 4 * 4))
    figure = plotting.filters(weight, image_shape=(3, 4, 4))
    np.testing.assert_allclose(
        tile(figure, 1, 2, 4), np.moveaxis(0.5 + 0.5 * weight[1].reshape(3, 4, 4) / np.abs(weight[1]).max(), 0, -1)
    )
    rendered(figure)


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((4, 2, 3, 3), {}, "C 1 or 3"),
        ((4, 784), {}, "image_shape gives a linear layer's"),
        ((0, 1, 3, 3), {}, "none of them 0"),
        ((4, 784), {"image_shape": (1, 28, 27)}, r"a weight \(4, 784\) is not \(F, D\) with images \(1, 28, 27\)"),
        ((4, 1, 3, 3), {"image_shape": (1, 3, 3)}, "is not"),
        ((4, 18), {"image_shape": (2, 3, 3)}, "C 1 or 3"),
        ((4, 1, 3, 3), {"columns": 0}, "columns must be at least 1, got 0"),
    ],
)
def test_filters_of_other_shapes_are_errors(shape, options, message):
    with pytest.raises(ValueError, match=f"filters: .*{message}"):
        plotting.filters(np.ones(shape), **options)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_filters_that_are_not_finite_are_errors(odd):
    weight = np.ones((2, 1, 3, 3))
    weight[1, 0, 2, 1] = odd
    with pytest.raises(ValueError, match="filters: a weight is not finite"):
        plotting.filters(weight)


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
        assert axes.get_title() == (right if n not in (1, 6) else f"{CLASSES[predicted[n]]}\nis {right}")
        assert axes.title.get_fontweight() == ("bold" if n in (1, 6) else "normal")


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


def test_predictions_of_other_lengths_are_errors():
    with pytest.raises(ValueError, match="2 images, 2 predicted and 1 labels differ in length"):
        plotting.predictions(np.zeros((2, 1, 6, 6)), np.zeros(2, int), np.zeros(1, int), CLASSES)


def boxes(figure):
    """The boxes of a figure's texts in pixels, of those that show."""
    figure.draw_without_rendering()
    renderer = figure._get_renderer()
    found = [text for axes in figure.axes for text in (axes.title, *axes.texts)]
    for axis in [axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        found += [axis.label] + [label for at, label in ticks if low <= at <= high]
    found += [text for one in figure.legends for text in one.get_texts()]
    return [text.get_window_extent(renderer) for text in found if text.get_text() and text.get_visible()]


LONG = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FIGURES = {
    "predictions": lambda: plotting.predictions(
        np.random.default_rng(8).random((20, 3, 32, 32)), np.full(20, 1), np.array([9] * 12 + [1] * 8), LONG, columns=5
    ),
    "confusion_matrix": lambda: plotting.confusion_matrix(
        *np.random.default_rng(9).integers(0, 10, (2, 900)), LONG, "a title"
    ),
    "sweep": lambda: plotting.sweep(
        [f"{name} and batch norm" for name in LONG],
        np.random.default_rng(10).uniform(0.6, 0.7, (10, 3)),
        "validation accuracy",
        "setting",
        reported=[0.65] * 10,
        title="a title",
    ),
    "heatmap": lambda: plotting.heatmap(
        [0.0001, 0.001], LONG[:6], np.random.default_rng(11).random((2, 6)), "batch size", "learning rate", "a title"
    ),
    "compare": lambda: plotting.compare(
        {name: (range(1, 31), np.random.default_rng(12).random((3, 30))) for name in LONG[:8]},
        "loss",
        title="a title",
        percent=True,
    ),
    "learning_curves": lambda: plotting.learning_curves(
        {name: ([100, 300, 60000], [0.99, 0.98, 0.97], [0.5, 0.6, 0.9]) for name in LONG[:4]}, log=True, title="a title"
    ),
    "filters": lambda: plotting.filters(np.random.default_rng(13).normal(size=(20, 3, 5, 5)), "a title"),
    "curves": lambda: plotting.curves(History(**FULL)),
}


@pytest.mark.portable
@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_inside_the_figure_and_do_not_overlap(name):
    figure = FIGURES[name]()
    found = boxes(figure)
    assert len(found) > 3 or name == "filters"
    for box in found:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    if name != "confusion_matrix":  # whose labels are at an angle, and their boxes are not
        assert not [(a, b) for a, b in itertools.combinations(found, 2) if a.overlaps(b)]


@pytest.mark.portable
@pytest.mark.parametrize("name", FIGURES)
def test_a_saved_figure_is_a_small_png_of_the_same_bytes_each_time(name, tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    plotting.save(FIGURES[name](), first)
    plotting.save(FIGURES[name](), str(second))
    assert first.read_bytes() == second.read_bytes() and len(first.read_bytes()) < 200_000
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]
    with Image.open(first) as image:
        assert image.format == "PNG" and set(image.info) <= {"dpi"} and max(image.info["dpi"]) < 121


def test_a_figure_that_cannot_be_saved_leaves_the_older_one(tmp_path):
    path = tmp_path / "a.png"
    plotting.save(FIGURES["curves"](), path)
    before, broken = path.read_bytes(), FIGURES["curves"]()
    broken.text(0, 0, "$\\nothing{$")  # that matplotlib can't set
    with pytest.raises(ValueError):
        plotting.save(broken, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_the_training_sheet_holds_curves_and_predictions():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 30)
    predicted = np.where(np.arange(30) < 4, (labels + 1) % 10, labels)
    figure = plotting.training_sheet(
        History(**FULL), rng.random((30, 1, 8, 8)), predicted, labels, CLASSES, "a title 97 %"
    )
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


def test_an_axis_over_many_decades_has_few_ticks():
    figure = plotting.compare({"size": ([1, 2, 3, 4], [1e-9, 1e-6, 1e-3, 1.0])}, "size", log=True)
    low, high = figure.axes[0].get_ylim()
    assert 3 <= sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) <= 12


# -- bad arguments -----------------------------------------------------------------------------------------------------

LINES = {"a": ([1, 2], [0.5, 0.25])}
NETWORKS = {"a": ([1, 2], [0.5, 0.75], [[0.25, 0.5], [0.3, 0.6]])}
IMAGES, LABELS = np.zeros((4, 1, 8, 8)), np.array([0, 1, 2, 0])
NO_LIST, NO_TEXT = [None, 3, b"ab", {"a": 1}, object()], [None, 3, b"x", "$\\frac$", "\ud800"]
NO_FLAG = [None, 1, "yes", np.ones(2)]
NO_NUMBERS = [
    None,
    "ab",
    [1, "a"],
    [[1], [1, 2]],
    [1j],
    np.ma.masked_array([1.0, 2.0]),
    np.ones((1, 2)).view(np.matrix),
    {1: 2},
]
GIVEN = {
    "curves": {"history": SimpleNamespace(**FULL)},
    "compare": {"lines": LINES, "ylabel": "y"},
    "learning_curves": {"networks": NETWORKS},
    "sweep": {"settings": ["a", "b"], "values": [[0.5, 0.6], [0.7]], "xlabel": "x"},
    "heatmap": {"rows": [1, 2], "columns": ["a", "b"], "values": np.ones((2, 2)), "xlabel": "x", "ylabel": "y"},
    "confusion_matrix": {"predicted": LABELS, "labels": LABELS, "classes": "abc"},
    "filters": {"weight": np.ones((4, 3, 5, 5))},
    "predictions": {"images": IMAGES, "predicted": LABELS, "labels": LABELS, "classes": "abc"},
    "training_sheet": {
        "history": 3,
        "images": IMAGES,
        "predicted": LABELS,
        "labels": LABELS,
        "classes": "abc",
        "title": "t",
    },
    "gradient_errors": {"report": None},
    "save": {"figure": None, "path": "a.png"},
}
OF_CLASSES = {
    "predicted": [*NO_NUMBERS, LABELS[:2], LABELS + 0.0, LABELS + 1, -LABELS, LABELS[:, None], 1],
    "labels": [*NO_NUMBERS, LABELS[:2], LABELS == 0, LABELS + 1, 1],
    "classes": [None, 3, b"abc", {"a": 1}, "ab", range(10**12), ["a", "b", "\ud800"]],
}
OF_IMAGES = {"images": [*NO_NUMBERS, IMAGES[0], IMAGES[:2], IMAGES.repeat(2, 1), IMAGES[:, :, :0]], **OF_CLASSES}
WRONG = {
    "curves": {
        "history": [None, 3, FULL, *(SimpleNamespace(train_loss=v) for v in ([1, "a"], [[1, 2]], 3, [1j], "ab"))],
        "figure": ["a", 3, plotting],
        "place": [111, "a", (0, 0)],
    },
    "compare": {
        "lines": [
            None, [], {}, "a", [("a", LINES["a"])],
            *({"a": v} for v in (None, 3, ([1],), ([1], [2], [3]), ([1], [2, 3]))),
        ],
        "ylabel": NO_TEXT, "xlabel": NO_TEXT, "title": NO_TEXT, "percent": NO_FLAG, "log": NO_FLAG,
        "reported": [3, "a", ["a"], {"b": 1}, {"a": "1"}, {"a": math.nan}, {"a": 1e200}],
    },
    "learning_curves": {
        "networks": [
            None, [], {}, "a", *({"a": v} for v in (None, ([1], [2]), ([1, 2], [1, 2], [1]), ([0], [1], [2]))),
        ],
        "xlabel": NO_TEXT, "title": NO_TEXT, "log": NO_FLAG,
    },
    "sweep": {
        "settings": [*NO_LIST, ["a"], range(10**12)],
        "values": [*NO_LIST, "ab", [1], [[1], []], [[1], ["a"]], [[1], [1j]], range(10**12)],
        "xlabel": NO_TEXT, "ylabel": NO_TEXT, "title": NO_TEXT, "reported": [3, "ab", [1], ["a", "b"], [1, math.inf]],
        "best": [2, -1, True, "a", 0.5, np.ones(2)], "percent": NO_FLAG,
    },
    "heatmap": {
        "rows": [*NO_LIST, [1], range(10**12)], "columns": [*NO_LIST, [1], range(10**12)],
        "values": [*NO_NUMBERS, 1.0, np.ones((2, 3)), np.full((2, 2), math.nan)],
        "xlabel": NO_TEXT, "ylabel": NO_TEXT, "title": NO_TEXT, "percent": NO_FLAG,
    },
    "confusion_matrix": {**OF_CLASSES, "title": NO_TEXT},
    "filters": {
        "weight": [*NO_NUMBERS, 1.0, np.ones((4, 3, 5)), np.ones((4, 2, 5, 5)), np.full((1, 1, 2, 2), math.nan)],
        "title": NO_TEXT, "columns": [None, 0, 1.5, "8", True],
        "image_shape": ["abc", 3, (3, 5), (3, 5, 5), (3.0, 5, 5), (-3, 5, 5)],
    },
    "predictions": {**OF_IMAGES, "columns": [None, 0, 1.5, "8", 10**9], "figure": ["a", 3], "place": [111, "a"]},
    "training_sheet": {"history": [None, 3], "title": NO_TEXT},
    "gradient_errors": {"report": [None, 3, "report", SimpleNamespace(tensors=[])]},
    "save": {"figure": [None, "a", 3, plotting]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name"), [(function, name) for function, names in WRONG.items() for name in names]
)
def test_wrong_arguments_are_named_before_anything_is_drawn(function, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in WRONG[function][name]:
        refused(lambda value=value: getattr(plotting, function)(**{**GIVEN[function], name: value}), name)
    assert not os.listdir(tmp_path)


def test_a_place_is_one_of_its_figures():
    mine, other = plotting.curves(History(**FULL)), plotting.curves(History(**FULL))
    place = mine.add_gridspec(1, 2)[0]
    plotting.curves(History(**FULL), mine, place)
    refused(lambda: plotting.curves(History(**FULL), other, place), "place", kind=ValueError)
    refused(lambda: plotting.curves(History(**FULL), place=place), "place", kind=ValueError)


@pytest.mark.parametrize("log", [False, True])
def test_numbers_that_no_axis_reaches_are_drawn_as_infinite_ones(log):
    odd = [1.0, 1e308, -1e308, math.nan, math.inf, -math.inf, 3.0, 2.0]
    like = [
        v if math.isfinite(v) and abs(v) < 1e100 else math.copysign(math.inf, v) if not math.isnan(v) else v
        for v in odd
    ]
    x = range(len(odd))
    figures = [plotting.compare({"a": (x, v), "b": (x, [v, v])}, "loss", log=log) for v in (odd, like)]
    figures += [plotting.curves(SimpleNamespace(train_loss=v, train_accuracy=v)) for v in (odd, like)]
    figures += [plotting.heatmap(x, "a", np.array(v)[:, None], "x", "y") for v in (odd, like)]
    figures += [plotting.predictions(np.reshape(v, (1, 1, 2, 4)), [0], [0], "a") for v in (odd, like)]
    for a, b in zip(figures[::2], figures[1::2], strict=True):
        np.testing.assert_array_equal(rendered(a), rendered(b))


def test_formulas_and_dollars_in_texts():
    rendered(plotting.compare({"$\\eta$, 5 \\$": LINES["a"], "5$": LINES["a"]}, "$x^2$", title="a $ alone"))


def test_every_verdict_of_a_gradient_check_has_its_colour():
    """The figure finds the colours by the verdicts' numbers."""
    assert list(VERDICT_COLOURS) == list(VERDICTS)
