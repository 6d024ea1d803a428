"""Figures of a grid with a number in each cell: two settings varied together, and what each class was taken for."""

from collections.abc import Sequence

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from ..arguments import array, flag
from .style import WRONG, axes_of, number_shown
from .values import labels_of, numbers, require_classes, texts

# black numbers are legible on all of it
PALE_TO_GREY = LinearSegmentedColormap.from_list("pale to grey", ["#f2f2f2", "#808080"])
WHITE_TO_WRONG = LinearSegmentedColormap.from_list("white to wrong", ["white", WRONG])


def heatmap(
    rows: Sequence,
    columns: Sequence,
    values: ArrayLike,
    xlabel: str,
    ylabel: str,
    title: str = "",
    percent: bool = True,
) -> Figure:
    """A small grid over two settings with the number in each cell: the darker the higher, the highest framed.

    rows (R,) and columns (C,): the settings, as they are to be written. values (R, C): a cell with NaN, which was not
    run, stays empty. xlabel says what the columns vary, ylabel what the rows vary. ValueError: a shape that doesn't
    fit, or no number at all.
    """
    rows, columns = labels_of("heatmap: rows", rows), labels_of("heatmap: columns", columns)
    values, percent = numbers("heatmap: values", values), flag("heatmap: percent", percent)
    if values.shape != (len(rows), len(columns)) or not np.isfinite(values).any():
        wanted = f"values ({len(rows)}, {len(columns)}) with a number among them"
        got = f"got {np.isfinite(values).sum()} in {values.shape}"
        raise ValueError(f"heatmap: expected {wanted}, a row for each of rows and columns, {got}")
    xlabel, ylabel, title = texts("heatmap", xlabel=xlabel, ylabel=ylabel, title=title)
    finite = np.ma.masked_invalid(values)
    figure = Figure(figsize=(1.3 + 0.75 * len(columns), 1.0 + 0.45 * len(rows)), layout="constrained")
    axes = _cells(figure, finite, rows, columns, xlabel, ylabel, title)
    axes.collections[0].set(cmap=PALE_TO_GREY, clim=(finite.min(), finite.max()))
    best = np.unravel_index(finite.argmax(), finite.shape)
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            style = {"ha": "center", "va": "center", "fontweight": "bold" if (r, c) == best else "normal"}
            axes.text(c + 0.5, r + 0.5, number_shown(value, percent), fontsize=9, **style)
    axes.add_patch(Rectangle(best[::-1], 1, 1, fill=False, edgecolor="black", linewidth=2.5, clip_on=False, zorder=3))
    return figure


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """What each class was taken for: the share of row r, the true class, that was predicted as column c, in percent.

    predicted (N,) and labels (N,): integers from 0 to C - 1, classes: C names. A mistake is the redder the more
    frequent it is, up to the most frequent one; the right ones, on the diagonal, are outlined on grey. A share of 0 is
    left out.
    ValueError: no samples, lengths that differ, a label outside of the classes.
    """
    classes, (title,) = labels_of("confusion_matrix: classes", classes), texts("confusion_matrix", title=title)
    predicted = array("confusion_matrix: predicted", predicted, "biuf")
    labels = array("confusion_matrix: labels", labels, "biuf")
    if labels.ndim != 1 or predicted.shape != labels.shape or not labels.size:
        got = f"got {predicted.shape}, {labels.shape}"
        raise ValueError(f"confusion_matrix: predicted and labels must be (N,), not empty, {got}")
    C = len(classes)
    for name, given in (("predicted", predicted), ("labels", labels)):
        require_classes(f"confusion_matrix: {name}", given, C)
    counts = np.zeros((C, C))
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = np.ma.array(shares, mask=np.eye(C, dtype=bool))
    most = max(mistakes.max(), 1e-9) if C > 1 else 1.0

    side = 1.3 + 0.46 * C
    figure = Figure(figsize=(side + 0.4, side), layout="constrained")
    axes = _cells(figure, mistakes, classes, classes, "predicted class", "true class", title)
    axes.collections[0].set(cmap=WHITE_TO_WRONG, clim=(0, most))
    if max(map(len, classes)) > 3:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    for (r, c), share in np.ndenumerate(shares):
        if r == c:
            outline = {"facecolor": "#dddddd", "edgecolor": "black", "linewidth": 1.2, "clip_on": False}
            axes.add_patch(Rectangle((c, r), 1, 1, **outline))
        if share:
            color = "white" if r != c and share > 0.75 * most else "black"
            axes.text(c + 0.5, r + 0.5, f"{100 * share:.1f}", ha="center", va="center", fontsize=8, color=color)
    return figure


def _cells(
    figure: Figure, values: np.ma.MaskedArray, rows: Sequence, columns: Sequence, xlabel: str, ylabel: str, title: str
) -> Axes:
    """Axes with a square for each value, the first row at the top, and no colours yet."""
    axes = axes_of(figure, xlabel, ylabel, title)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.pcolormesh(values, edgecolors="white", linewidth=1.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [str(c) for c in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [str(r) for r in rows])
    axes.tick_params(length=0)
    axes.invert_yaxis()
    return axes
