"""Figures. Imported only when used; draws with matplotlib's object interface, so no window, no backend and no global state.

One look throughout: labelled axes, a light grid, and lines apart by darkness, dash and marker, so that a greyscale print shows as
much as the screen. Shares (`percent=True`) are given as fractions and written as percentages. Labels and titles may hold formulas
between two $. An argument of a wrong kind is a TypeError, a wrong value a ValueError, before anything is drawn.
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .canvas import Figure, can_set  # before the rest of matplotlib

# isort: split
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import FigureBase
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike

from .arguments import LARGEST, array, flag, instance, number, shape, shown, text, whole
from .files import written_atomically
from .gradcheck.report import GradientReport

RIGHT, WRONG, BEST, OTHER = "black", "#c00000", "#1f4e9c", "#8c8c8c"
STYLES = {
    "train": {"color": OTHER, "linestyle": "--", "marker": "o"},
    "validation": {"color": BEST, "linestyle": "-", "marker": "s"},
    "test": {"color": "black", "linestyle": "-.", "marker": "^"},
}
LINES = (  # the first few are the furthest apart
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "#ec9010", "linestyle": "--", "marker": "s"},
    {"color": "#153a80", "linestyle": "-.", "marker": "^"},
    {"color": "#d03a5e", "linestyle": (0, (2, 1)), "marker": "D"},
    {"color": "#86c5e0", "linestyle": (0, (8, 2)), "marker": "v"},
    {"color": "#1f6b45", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "P"},
    {"color": "#986ac0", "linestyle": (0, (8, 2, 2, 2)), "marker": "X"},
    {"color": "#400a2b", "linestyle": (0, (4, 3)), "marker": "*"},
)
DPI = 110
FARTHEST = 1e100  # from 0 that can be drawn: matplotlib's axes overflow before floats do
MOST = 1000  # rows, columns, classes or images that a figure can have
PALE_TO_GREY = LinearSegmentedColormap.from_list(
    "pale to grey", ["#f2f2f2", "#808080"]
)  # black numbers are legible on all of it
WHITE_TO_WRONG = LinearSegmentedColormap.from_list("white to wrong", ["white", WRONG])


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the figure as a PNG, which takes its name when it is whole. One drawn again from the same data has the same bytes."""
    instance("save: figure", figure, Figure)
    with written_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})


# -- lines ---------------------------------------------------------------------------------------------------------------


def curves(history, figure: Figure | None = None, place: SubplotSpec | None = None) -> Figure:
    """Loss, and accuracy where there is one, against the epoch, for training and validation, and test where it was measured.

    history: lists of one number an epoch, `train_loss`, `validation_loss`, `test_loss` and the same of accuracy; an empty or
    missing one is left out. Drawn into the `place` of a `figure`, or as a figure of its own.
    """
    names = {panel: {split: f"{split}_{panel}" for split in STYLES} for panel in ("loss", "accuracy")}
    if not any(hasattr(history, name) for of_panel in names.values() for name in of_panel.values()):
        raise TypeError(f"curves: history must have lists train_loss, validation_loss, …, got {shown(history)}")
    lists = {
        panel: {split: _epochs(history, name) for split, name in of_panel.items()} for panel, of_panel in names.items()
    }
    _require_place("curves", figure, place)
    panels = ["loss"] + ["accuracy"] * any(values.size for values in lists["accuracy"].values())
    figure = figure or Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    grid = place.subgridspec(len(panels), 1) if place is not None else figure.add_gridspec(1, len(panels))
    for panel, cell in zip(panels, grid, strict=True):
        axes = _axes(figure, "epoch", panel, place=cell)
        for split, values in lists[panel].items():
            if values.size:
                _line(axes, np.arange(1, len(values) + 1), values[None], split, STYLES[split])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel == "accuracy":
            _percent(axes.yaxis)
        if axes.lines:
            axes.legend(frameon=False)
    return figure


def compare(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    ylabel: str,
    xlabel: str = "epoch",
    title: str = "",
    percent: bool = False,
    log: bool = False,
    reported: Mapping[str, float] | None = None,
) -> Figure:
    """Up to 8 lines in one panel, the legend beside it in the order in which the lines end, from the top.

    lines: label -> (x, values), x (P,), values (P,) of one run or (K, P) of K seeds: their mean, and a band from least to largest.
    reported: label -> a value published for that line, drawn across in its colour, thin and dotted, with a hollow marker.
    log: y on a logarithmic scale, for values above 0.
    ValueError: no lines or more than 8, lengths that don't fit, a figure reported for a line that isn't there.
    """
    given = _lines("compare: lines", lines, ("x", "values"))
    reported = {} if reported is None else instance("compare: reported", reported, Mapping, "dictionary of numbers")
    if unknown := [label if isinstance(label, str) else shown(label) for label in reported if label not in lines]:
        raise ValueError(f"compare: reported figures of {', '.join(unknown)}, but there is no such line")
    log, percent = flag("compare: log", log), flag("compare: percent", percent)
    limits = {"least": -FARTHEST, "most": FARTHEST, "above": 0.0 if log else None}
    published = {
        str(label): number(f"compare: reported: {label}", value, **limits) for label, value in reported.items()
    }
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = _axes(figure, *_texts("compare", xlabel=xlabel, ylabel=ylabel, title=title))
    drawn, several = [], False
    for style, (label, (x, values)) in zip(LINES, given.items(), strict=False):
        x, seeds = _seeds(f"compare: lines: {label}", x, values)
        if log and not (seeds > 0).any():
            raise ValueError(f"compare: lines: {label} has no value above 0 for a logarithmic axis")
        drawn.append(_line(axes, x, seeds, label, style))
        several |= len(seeds) > 1
        if label in published:
            axes.axhline(published[label], **_reported_style(style["color"], style["marker"]))
    if all(np.array_equal(line.get_xdata(), np.round(line.get_xdata())) for line in drawn):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log")
        _sparse_ticks(axes.yaxis)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if percent:
        _percent(axes.yaxis)
    drawn.sort(key=lambda line: np.nan_to_num(line.get_ydata()[-1], nan=-np.inf), reverse=True)
    if published:
        drawn.append(Line2D([], [], label="reported", **_reported_style("black", "o")))
    _legend_beside(figure, drawn, several)
    return figure


def learning_curves(
    networks: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    xlabel: str = "training images",
    title: str = "",
    log: bool = False,
) -> Figure:
    """Accuracy on training and test data against the size of the training set, for up to 8 networks.

    networks: label -> (sizes, train, test), sizes (P,), train and test (P,) of one run or (K, P) of K seeds: the mean, and a
    band from least to largest. Test is solid, training dashed with hollow markers, in the network's shade. log: a logarithmic x.
    ValueError: no networks or more than 8, lengths that don't fit, sizes of 0 or below.
    """
    given, log = (
        _lines("learning_curves: networks", networks, ("sizes", "train", "test")),
        flag("learning_curves: log", log),
    )
    xlabel, title = _texts("learning_curves", xlabel=xlabel, title=title)
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = _axes(figure, xlabel, "accuracy", title)
    drawn, several = [], False
    for style, (label, (sizes, *accuracies)) in zip(LINES, given.items(), strict=False):
        of_split = dict(zip(("train", "test"), accuracies, strict=True))
        for split, dash, face in (("test", "-", style["color"]), ("train", "--", "white")):
            x, seeds = _seeds(f"learning_curves: networks: {label}, {split}", sizes, of_split[split])
            if not (np.isfinite(x).all() and x.min() > 0):
                raise ValueError(f"learning_curves: networks: {label}: sizes must be above 0, got {x.min():g}")
            name = f"{label}, {split}" if label else split
            drawn.append(_line(axes, x, seeds, name, {**style, "linestyle": dash, "markerfacecolor": face}))
            several |= len(seeds) > 1
    if log:
        axes.set_xscale("log")
        _sparse_ticks(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: the longer 20,000 collide on a logarithmic axis
    _percent(axes.yaxis)
    _legend_beside(figure, drawn, several)
    return figure


# -- one figure for each setting -----------------------------------------------------------------------------------------


def sweep(
    settings: Sequence[str],
    values: Sequence[ArrayLike],
    xlabel: str,
    ylabel: str = "",
    title: str = "",
    reported: Sequence[float | None] | None = None,
    best: int | bool | None = None,
    percent: bool = True,
) -> Figure:
    """The runs of one sweep: a row for each setting, a dot for each seed, a tick at their mean, the mean in numbers at the right.

    settings: S labels, drawn from the top. values: for each the values of its seeds, (S, K), (S,) or S lists of any lengths; one
    that is not finite has no dot, and the mean says so. xlabel names what was measured, ylabel what was varied. reported: S
    figures published elsewhere, hollow diamonds, None where there is none. best: the row to highlight, False for none; by default
    that of the highest mean if these are percentages, else none. ValueError: nothing to draw, lengths that don't fit, no such row.
    """
    settings = _labels("sweep: settings", settings)
    rows = [np.atleast_1d(_numbers("sweep: values: each", v)) for v in _items("sweep: values", values)]
    reported = [None] * len(rows) if reported is None else _items("sweep: reported", reported)
    reported = [
        None if value is None else number("sweep: reported: each", value, -FARTHEST, FARTHEST) for value in reported
    ]
    if not rows or len(settings) != len(rows) or len(reported) != len(rows):
        got = f"got {len(settings)}, {len(rows)} and {len(reported)}"
        raise ValueError(f"sweep: expected as many settings, values and reported figures, at least one of each, {got}")
    for setting, row in zip(settings, rows, strict=True):
        if row.ndim != 1 or not row.size:
            raise ValueError(
                f"sweep: values: {setting}: expected the values of its seeds, at least one, got {row.shape}"
            )
    best = best if best is None or best is False else whole("sweep: best", best, -LARGEST)
    if best is not None and best is not False and best not in range(len(rows)):
        raise ValueError(f"sweep: best is the index of a row, 0 to {len(rows) - 1}, got {best}")
    percent = flag("sweep: percent", percent)
    labels = _texts("sweep", xlabel=xlabel, ylabel=ylabel, title=title)
    means = [row.mean() if np.isfinite(row).all() else np.nan for row in rows]
    if best is None and percent and np.isfinite(means).any():
        best = int(np.nanargmax(means))
    best = None if best is False else best
    digits = (
        1 if best is None or [f"{mean:.1%}" for mean in means].count(f"{means[best]:.1%}") == 1 else 2
    )  # which show that it is
    several, published = any(row.size > 1 for row in rows), any(r is not None for r in reported)

    figure = Figure(figsize=(7, 0.3 * len(rows) + 1.0 + 0.3 * (several or published)), layout="constrained")
    axes = _axes(figure, *labels)
    axes.grid(False, axis="y")
    dot = {"marker": "o", "markersize": 5, "alpha": 0.7, "linestyle": "none", "markeredgewidth": 0}
    tick = {"marker": "|", "markersize": 13, "markeredgewidth": 2.2, "linestyle": "none", "color": "black"}
    diamond = {"marker": "D", "markersize": 6, "markerfacecolor": "none", "linestyle": "none", "color": "black"}
    for y, (row, mean, elsewhere) in enumerate(zip(rows, means, reported, strict=True)):
        finite = row[np.isfinite(row)]
        color, weight = (BEST, "bold") if y == best else (OTHER, "normal")
        if row.size > 1 and finite.size:
            axes.plot([finite.min(), finite.max()], [y, y], color=color, linewidth=1, zorder=2)
            axes.plot(mean, y, zorder=3, **tick)
        axes.plot(finite, np.full(finite.size, y), color=color, zorder=4, **dot)
        _beside(axes, y, 0, _number(mean, percent, digits), weight)
        if elsewhere is not None:
            axes.plot(elsewhere, y, zorder=5, **diamond)
            _beside(axes, y, 1, _number(elsewhere, percent), "normal")
    if several or published:
        _beside(axes, None, 0, "mean" if several else "measured", "normal")
        handles = [Line2D([], [], color=OTHER, label="one seed" if several else "measured", **dot)]
        handles += [Line2D([], [], label="mean", **tick)] * several
        if published:
            _beside(axes, None, 1, "reported", "normal")
            handles.append(Line2D([], [], label="reported", **diamond))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    axes.set_yticks(range(len(rows)), settings)
    if best is not None:
        axes.axhspan(best - 0.5, best + 0.5, color="#e8e8e8", linewidth=0, zorder=0)
        axes.get_yticklabels()[best].set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    if percent:
        _percent(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # with more, labels like 90.0% touch where the names are long
    return figure


def heatmap(
    rows: Sequence,
    columns: Sequence,
    values: ArrayLike,
    xlabel: str,
    ylabel: str,
    title: str = "",
    percent: bool = True,
) -> Figure:
    """A small grid over two settings, the number in each cell, the darker the higher, the highest framed; NaN, not run, is empty.

    rows (R,) and columns (C,): the settings, as they are to be written. values (R, C). xlabel says what the columns vary, ylabel
    what the rows. ValueError: a shape that doesn't fit, or no number at all.
    """
    rows, columns = _labels("heatmap: rows", rows), _labels("heatmap: columns", columns)
    values, percent = _numbers("heatmap: values", values), flag("heatmap: percent", percent)
    if values.shape != (len(rows), len(columns)) or not np.isfinite(values).any():
        wanted = f"values ({len(rows)}, {len(columns)})"
        got = f"got {np.isfinite(values).sum()} in {values.shape}"
        raise ValueError(
            f"heatmap: expected {wanted} with a number among them, a row for each of rows and columns, {got}"
        )
    xlabel, ylabel, title = _texts("heatmap", xlabel=xlabel, ylabel=ylabel, title=title)
    finite = np.ma.masked_invalid(values)
    figure = Figure(figsize=(1.3 + 0.75 * len(columns), 1.0 + 0.45 * len(rows)), layout="constrained")
    axes = _cells(figure, finite, rows, columns, xlabel, ylabel, title)
    axes.collections[0].set(cmap=PALE_TO_GREY, clim=(finite.min(), finite.max()))
    best = np.unravel_index(finite.argmax(), finite.shape)
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            weight = "bold" if (r, c) == best else "normal"
            axes.text(
                c + 0.5, r + 0.5, _number(value, percent), ha="center", va="center", fontsize=9, fontweight=weight
            )
    axes.add_patch(Rectangle(best[::-1], 1, 1, fill=False, edgecolor="black", linewidth=2.5, clip_on=False, zorder=3))
    return figure


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """What each class was taken for: the share of row r, the true class, that was predicted as column c, in percent.

    predicted (N,) and labels (N,): integers from 0 to C - 1, classes: C names. Mistakes are the redder the more frequent, up to
    the most frequent one; the right ones on the diagonal are outlined, on grey. A share of 0 is left out.
    ValueError: no samples, lengths that differ, a label outside of the classes.
    """
    classes, (title,) = _labels("confusion_matrix: classes", classes), _texts("confusion_matrix", title=title)
    predicted, labels = (
        array("confusion_matrix: predicted", predicted, "biuf"),
        array("confusion_matrix: labels", labels, "biuf"),
    )
    if labels.ndim != 1 or predicted.shape != labels.shape or not labels.size:
        raise ValueError(
            f"confusion_matrix: predicted and labels must be (N,), not empty, got {predicted.shape}, {labels.shape}"
        )
    C = len(classes)
    for name, given in (("predicted", predicted), ("labels", labels)):
        _require_classes(f"confusion_matrix: {name}", given, C)
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
            axes.add_patch(
                Rectangle((c, r), 1, 1, facecolor="#dddddd", edgecolor="black", linewidth=1.2, clip_on=False)
            )
        if share:
            color = "white" if r != c and share > 0.75 * most else "black"
            axes.text(c + 0.5, r + 0.5, f"{100 * share:.1f}", ha="center", va="center", fontsize=8, color=color)
    return figure


# -- pictures ------------------------------------------------------------------------------------------------------------


def filters(
    weight: np.ndarray, title: str = "", columns: int = 8, image_shape: tuple[int, int, int] | None = None
) -> Figure:
    """The filters of a first layer as images, each divided by its own largest magnitude, so that mid-grey is 0.

    weight: (F, C, KH, KW) of a convolution, or (F, D) of a linear layer with image_shape = (C, H, W), D = C·H·W. C is 1, drawn in
    grey, or 3, drawn in colour. ValueError: another shape, no filters, a weight that is not finite.
    """
    weight, columns = _numbers("filters: weight", weight), whole("filters: columns", columns, -LARGEST)
    (title,) = _texts("filters", title=title)
    if image_shape is not None:
        image_shape = shape("filters: image_shape", image_shape)
        if weight.ndim != 2 or len(image_shape) != 3 or weight.shape[1] != math.prod(image_shape):
            raise ValueError(
                f"filters: a weight {weight.shape} is not (F, D) with images {image_shape}, an image_shape (C, H, W)"
            )
        weight = weight.reshape(-1, *image_shape) if weight.size else weight
    if weight.ndim != 4 or weight.shape[1] not in (1, 3) or not weight.size:
        hint = "; image_shape gives a linear layer's" if weight.ndim == 2 else ""
        raise ValueError(
            f"filters: expected a weight (F, C, KH, KW) with C 1 or 3, none of them 0, got {weight.shape}{hint}"
        )
    if not np.isfinite(weight).all():
        raise ValueError("filters: a weight is not finite")
    if columns < 1:
        raise ValueError(f"filters: columns must be at least 1, got {columns}")
    F, C, KH, KW = weight.shape
    if F > MOST:
        raise ValueError(f"filters: a weight of at most {MOST} filters can be drawn, got {weight.shape}")
    columns = min(columns, F)
    rows = -(-F // columns)
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    tiles = np.ones((rows * columns, KH, KW, 3))
    tiles[:F] = (0.5 + 0.5 * weight / np.where(largest > 0, largest, 1)).transpose(0, 2, 3, 1)
    scale = -(-16 // max(KH, KW))  # so that the line of one pixel between filters is thin whatever their size
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    figure = Figure(figsize=(0.3 + 0.7 * columns, 0.2 + 0.7 * rows * KH / KW + 0.3 * bool(title)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(_blocks(tiles.reshape(rows, columns, *tiles.shape[1:])), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def predictions(
    images: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    figure: Figure | None = None,
    place: SubplotSpec | None = None,
    columns: int = 6,
) -> Figure:
    """A grid of images (N, C, H, W), values in [0, 1], each under its predicted class.

    predicted (N,) and labels (N,): integers. A wrong one is red and bold, with the right one below. Drawn into the `place` of a
    `figure`, or as a figure of its own. ValueError: lengths that differ.
    """
    classes, columns = _labels("predictions: classes", classes), whole("predictions: columns", columns, 1, MOST)
    images = _numbers("predictions: images", images)
    predicted, labels = array("predictions: predicted", predicted, "biuf"), array("predictions: labels", labels, "biuf")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:] or len(images) > MOST:
        raise ValueError(
            f"predictions: images must be (N, C, H, W) with N at most {MOST}, C 1 or 3, got {images.shape}"
        )
    if predicted.ndim != 1 or labels.ndim != 1 or not len(images) == len(predicted) == len(labels):
        lengths = f"{len(images)} images, {_length(predicted)} predicted and {_length(labels)} labels"
        raise ValueError(f"predictions: {lengths} differ in length")
    for name, given in (("predicted", predicted), ("labels", labels)):
        if given.size:
            _require_classes(f"predictions: {name}", given, len(classes))
    _require_place("predictions", figure, place)
    rows = max(1, -(-len(images) // columns))
    figure = figure or Figure(figsize=(1.3 * columns, 1.6 * rows), layout="constrained")
    grid = place.subgridspec(rows, columns) if place is not None else figure.add_gridspec(rows, columns)
    for n, image in enumerate(np.clip(images, 0, 1)):
        axes = figure.add_subplot(grid[n // columns, n % columns])
        greyscale = image.shape[0] == 1
        axes.imshow(
            image[0] if greyscale else image.transpose(1, 2, 0), cmap="gray" if greyscale else None, vmin=0, vmax=1
        )
        right = predicted[n] == labels[n]
        title = classes[predicted[n]] if right else f"{classes[predicted[n]]}\nis {classes[labels[n]]}"
        axes.set_title(title, fontsize=9, color=RIGHT if right else WRONG, fontweight="normal" if right else "bold")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(not right)
            spine.set_color(WRONG)
            spine.set_linewidth(2)
    return figure


def training_sheet(history, images, predicted, labels, classes, title: str) -> Figure:
    """Curves on the left, some predictions on the right: what `fastbp train` leaves behind."""
    (title,) = _texts("training_sheet", title=title)
    figure = Figure(figsize=(12, 6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.add_gridspec(1, 2, width_ratios=(2, 3))
    curves(history, figure, left)
    predictions(images, predicted, labels, classes, figure, right)
    return figure


VERDICT_COLOURS = {
    "not checked": "white", "ok": "#d7e8d4", "kink": "#b9c8dd", "below noise": "#e6e6e6", "mismatch": WRONG, "not finite": "black",
}  # fmt: skip


def gradient_errors(report) -> Figure:
    """Where in each tensor of a GradientReport the error sits: one panel a tensor, one square an element, coloured by verdict.

    The darker the red, the larger the relative error. A tensor of more than two axes is laid out in blocks of its last two, one
    row of blocks for each index of its first axis.
    """
    instance("gradient_errors: report", report, GradientReport)
    tensors = [t for t in report.tensors if t.verdicts is not None] or list(report.tensors)
    figure = Figure(figsize=(4 * max(len(tensors), 1), 3.6), layout="constrained")
    figure.suptitle(report.subject)
    for tensor, axes in zip(
        tensors, figure.subplots(1, len(tensors), squeeze=False)[0] if tensors else [], strict=True
    ):
        axes.set_xticks([])
        axes.set_yticks([])
        title = f"{tensor.name} {tensor.shape}: {tensor.problem or tensor.summary}"
        axes.set_title(title, fontsize=9, color=RIGHT if tensor.passed else WRONG)
        if tensor.verdicts is None or not tensor.size:
            axes.set_axis_off()
            continue
        axes.imshow(_blocks(_shades(tensor)), interpolation="nearest", aspect="equal")
        axes.spines[:].set_color("#999999")
    names = [v for v in VERDICT_COLOURS if any(t.counts.get(v) for t in tensors)]
    handles = [Patch(facecolor=VERDICT_COLOURS[v], edgecolor="#999999", label=v) for v in names]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _shades(tensor) -> np.ndarray:
    """The colour (*shape, 3) of each element: its verdict's, a mismatch the darker the larger its error."""
    palette = np.array([to_rgb(VERDICT_COLOURS[v]) for v in VERDICT_COLOURS])
    shades = palette[tensor.verdicts]
    wrong = tensor.verdicts == list(VERDICT_COLOURS).index("mismatch")
    if wrong.any():
        with np.errstate(all="ignore"):
            error = np.abs(tensor.given - tensor.measured) / np.maximum(np.abs(tensor.given), np.abs(tensor.measured))
        size = np.clip(1 + np.log10(np.nan_to_num(error, nan=1.0).max(axis=0)) / 6, 0.25, 1)[..., None]
        # -- from a millionth, the least that is a mismatch by default, to one
        shades = np.where(wrong[..., None], 1 - size * (1 - shades), shades)
    return shades


def _blocks(colours: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) from (*shape, 3), with white lines between the blocks of the last two axes."""
    *shape, _ = colours.shape
    shape = [1] * (2 - len(shape)) + shape
    *outer, H, W = shape
    A, B = (outer[0], int(np.prod(outer[1:]))) if outer else (1, 1)
    sheet = np.ones((A, B, H + 1, W + 1, 3))
    sheet[:, :, :H, :W] = colours.reshape(A, B, H, W, 3)
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(A * (H + 1), B * (W + 1), 3)
    return sheet[: A * (H + 1) - 1, : B * (W + 1) - 1]


# -- what they share -----------------------------------------------------------------------------------------------------


def _axes(figure: Figure, xlabel: str, ylabel: str, title: str = "", place: SubplotSpec | int = 111) -> Axes:
    """Axes as all figures have them."""
    axes = figure.add_subplot(place)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return axes


def _cells(
    figure: Figure, values: np.ma.MaskedArray, rows: Sequence, columns: Sequence, xlabel: str, ylabel: str, title: str
) -> Axes:
    """Axes with a square for each value, the first row at the top, and no colours yet."""
    axes = _axes(figure, xlabel, ylabel, title)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.pcolormesh(values, edgecolors="white", linewidth=1.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [str(c) for c in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [str(r) for r in rows])
    axes.tick_params(length=0)
    axes.invert_yaxis()
    return axes


def _percent(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _number(value: float, percent: bool, digits: int = 1) -> str:
    return "not finite" if not np.isfinite(value) else f"{value:.{digits}%}" if percent else f"{value:.3g}"


def _sparse_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade of a logarithmic axis, at 1 alone where it covers many."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_minor_formatter(NullFormatter())


def _beside(axes: Axes, y: float | None, column: int, text: str, weight: str) -> None:
    """Text in a column at the right of the axes, at y, or above the axes for the column's heading."""
    xy, coordinates = ((1, 1), "axes fraction") if y is None else ((1, y), axes.get_yaxis_transform())
    style = {"fontsize": 8 if y is None else 9, "fontweight": weight, "va": "bottom" if y is None else "center"}
    axes.annotate(
        text, xy, (52 + 56 * column, 0), coordinates, "offset points", ha="right", annotation_clip=False, **style
    )


def _lines(what: str, lines: Mapping, parts: tuple[str, ...]) -> dict[str, Sequence]:
    """What is to be drawn, by the label as it is written: `parts` for each."""
    instance(what, lines, Mapping, f"dictionary of ({', '.join(parts)})")
    if not 1 <= len(lines) <= len(LINES):
        raise ValueError(f"{what}: 1 to {len(LINES)} lines can be told apart, got {len(lines)}")
    for label, given in lines.items():
        if not isinstance(given, (tuple, list, np.ndarray)) or _length(given) != len(parts):
            raise TypeError(f"{what}: {shown(label)} must have ({', '.join(parts)}), got {shown(given)}")
    return dict(zip(_labels(f"{what}: labels", list(lines)), lines.values(), strict=True))


def _length(values: Sequence) -> int:
    return 0 if isinstance(values, np.ndarray) and not values.ndim else len(values)


def _items(what: str, values: Iterable) -> list:
    """The items of a list, or of anything that has some in an order, as many as can be drawn."""
    try:
        if isinstance(values, (bytes, dict)) or not isinstance(values, Iterable):
            raise TypeError
        items = list(itertools.islice(values, MOST + 1))
    except Exception:  # of an __iter__
        raise TypeError(f"{what} must be a list, got {shown(values)}") from None
    if len(items) > MOST:
        raise ValueError(f"{what}: at most {MOST} can be drawn, got {shown(values)}")
    return items


def _labels(what: str, values: Iterable) -> list[str]:
    """Each of some settings or names, as it is written."""
    labels = []
    for value in _items(what, values):
        try:
            labels.append(str(value))
        except Exception:
            raise TypeError(f"{what}: each must be a str, got {shown(value)}") from None
        _require_settable(f"{what}: each", labels[-1])
    return labels


def _texts(who: str, **given: str) -> list[str]:
    """The texts after a check, each under its argument's name."""
    for name, value in given.items():
        _require_settable(f"{who}: {name}", text(f"{who}: {name}", value))
    return list(given.values())


def _require_settable(what: str, value: str) -> None:
    if not can_set(value):
        raise ValueError(f"{what} can't be set as text: write \\$ for a $ that begins no formula; got {shown(value)}")


def _require_place(who: str, figure: Figure | None, place: SubplotSpec | None) -> None:
    if figure is not None:
        instance(f"{who}: figure", figure, FigureBase, "matplotlib Figure")
    if place is not None:
        instance(f"{who}: place", place, SubplotSpec)
        if figure is None or getattr(place.get_gridspec(), "figure", None) is not figure:
            raise ValueError(f"{who}: place must be one of the figure's, which has to be given too")


def _require_classes(what: str, given: np.ndarray, C: int) -> None:
    if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= C:
        got = f"{given.dtype} from {given.min()} to {given.max()}"
        raise ValueError(f"{what} must be integers from 0 to {C - 1}, got {got}: there are {C} classes")


def _numbers(what: str, values: ArrayLike) -> np.ndarray:
    """An array of real numbers, as float64, with those that no axis reaches made infinite."""
    given = array(what, values, "biuf")
    try:
        with np.errstate(over="ignore"):
            given = given.astype(np.float64, copy=False)
            return np.where(np.abs(given) > FARTHEST, np.copysign(np.inf, given), given)
    except MemoryError:
        raise MemoryError(f"{what}: {shown(given)} needs more memory than there is") from None


def _epochs(history, name: str) -> np.ndarray:
    """One of the lists of a history, empty if it has none."""
    values = getattr(history, name, None)
    values = _numbers(f"curves: history: {name}", [] if values is None else values)
    if values.ndim != 1:
        raise ValueError(f"curves: history: {name} must be a list of numbers, got {values.shape}")
    return values


def _seeds(name: str, x: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """x (P,) and values (K, P), where (P,) is a single seed."""
    x, values = _numbers(f"{name}: x", x), _numbers(f"{name}: values", values)
    seeds = np.atleast_2d(values)
    if x.ndim != 1 or seeds.ndim != 2 or seeds.shape[1] != len(x) or not seeds.size:
        raise ValueError(
            f"{name}: expected x (P,) and values (P,) or (K, P), not empty, got {x.shape} and {values.shape}"
        )
    return x, seeds


def _line(axes: Axes, x: np.ndarray, seeds: np.ndarray, label: str, style: dict) -> Line2D:
    """The mean of the seeds (K, P) and, if there are several, a band from least to largest. A long line has some ten markers, at
    steps that what is measured six times an epoch does not have."""
    if len(seeds) > 1:
        axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
    with np.errstate(invalid="ignore"):  # of infinite losses
        mean = seeds.mean(axis=0)
    step = max(1, len(x) // 10)
    return axes.plot(x, mean, label=label, markersize=4.5, markevery=step + (step > 1), **style)[0]


def _reported_style(color: str, marker: str) -> dict:
    """A thin dotted line whose right end has a hollow marker."""
    dotted = {"color": color, "linestyle": ":", "linewidth": 1.2}
    return {
        **dotted,
        "marker": marker,
        "markersize": 5,
        "markerfacecolor": "white",
        "markevery": [-1],
        "clip_on": False,
    }


def _legend_beside(figure: Figure, lines: list[Line2D], several: bool) -> None:
    title = "mean and range\nof the seeds" if several else None
    legend = figure.legend(
        handles=lines, loc="outside right upper", frameon=False, handlelength=4, title=title, alignment="left"
    )
    legend.get_title().set_fontsize(8)
