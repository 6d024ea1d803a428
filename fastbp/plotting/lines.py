"""Figures of lines: one training's curves, trainings compared, accuracy against the size of the training set."""

from collections.abc import Mapping

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from ..arguments import flag, instance, number, shown
from .style import LINES, STYLES, axes_of, draw_line, in_percent, legend_beside, reported_style, sparse_ticks
from .values import FARTHEST, epochs_of, lines_of, require_place, seeds_of, texts


def curves(history, figure: Figure | None = None, place: SubplotSpec | None = None) -> Figure:
    """Loss, and accuracy where there is one, against the epoch: for training, validation and test, as far as measured.

    history: lists of one number an epoch, `train_loss`, `validation_loss`, `test_loss` and the same of accuracy; an
    empty or missing one is left out. Drawn into the `place` of a `figure`, or as a figure of its own.
    """
    names = {panel: {split: f"{split}_{panel}" for split in STYLES} for panel in ("loss", "accuracy")}
    if not any(hasattr(history, name) for of_panel in names.values() for name in of_panel.values()):
        raise TypeError(f"curves: history must have lists train_loss, validation_loss, …, got {shown(history)}")
    lists = {}
    for panel, of_panel in names.items():
        lists[panel] = {split: epochs_of(history, name) for split, name in of_panel.items()}
    require_place("curves", figure, place)
    panels = ["loss"] + ["accuracy"] * any(values.size for values in lists["accuracy"].values())
    figure = figure or Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    grid = place.subgridspec(len(panels), 1) if place is not None else figure.add_gridspec(1, len(panels))
    for panel, cell in zip(panels, grid, strict=True):
        axes = axes_of(figure, "epoch", panel, place=cell)
        for split, values in lists[panel].items():
            if values.size:
                draw_line(axes, np.arange(1, len(values) + 1), values[None], split, STYLES[split])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel == "accuracy":
            in_percent(axes.yaxis)
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

    lines: label -> (x, values), x (P,), values (P,) of one run or (K, P) of K seeds: then the line is their mean, in a
    band from least to largest.
    reported: label -> a value published for that line, drawn across in its colour, thin and dotted, with a hollow
    marker.
    log: y on a logarithmic scale, for values above 0.
    ValueError: no lines or more than 8, lengths that don't fit, a figure reported for a line that isn't there.
    """
    given = lines_of("compare: lines", lines, ("x", "values"))
    reported = {} if reported is None else instance("compare: reported", reported, Mapping, "dictionary of numbers")
    if unknown := [label if isinstance(label, str) else shown(label) for label in reported if label not in lines]:
        raise ValueError(f"compare: reported figures of {', '.join(unknown)}, but there is no such line")
    log, percent = flag("compare: log", log), flag("compare: percent", percent)
    limits = {"least": -FARTHEST, "most": FARTHEST, "above": 0.0 if log else None}
    published = {str(label): number(f"compare: reported: {label}", v, **limits) for label, v in reported.items()}
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = axes_of(figure, *texts("compare", xlabel=xlabel, ylabel=ylabel, title=title))
    drawn, several = [], False
    for style, (label, (x, values)) in zip(LINES, given.items(), strict=False):
        x, seeds = seeds_of(f"compare: lines: {label}", x, values)
        if log and not (seeds > 0).any():
            raise ValueError(f"compare: lines: {label} has no value above 0 for a logarithmic axis")
        drawn.append(draw_line(axes, x, seeds, label, style))
        several |= len(seeds) > 1
        if label in published:
            axes.axhline(published[label], **reported_style(style["color"], style["marker"]))
    if all(np.array_equal(line.get_xdata(), np.round(line.get_xdata())) for line in drawn):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log")
        sparse_ticks(axes.yaxis)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if percent:
        in_percent(axes.yaxis)
    drawn.sort(key=lambda line: np.nan_to_num(line.get_ydata()[-1], nan=-np.inf), reverse=True)
    if published:
        drawn.append(Line2D([], [], label="reported", **reported_style("black", "o")))
    legend_beside(figure, drawn, several)
    return figure


def learning_curves(
    networks: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    xlabel: str = "training images",
    title: str = "",
    log: bool = False,
) -> Figure:
    """Accuracy on training and test data against the size of the training set, for up to 8 networks.

    networks: label -> (sizes, train, test), sizes (P,), train and test (P,) of one run or (K, P) of K seeds: then the
    line is their mean, in a band from least to largest. Test is solid, training dashed with hollow markers, both in the
    network's colour. log: a logarithmic x. ValueError: no networks or more than 8, lengths that don't fit, sizes of 0
    or below.
    """
    given = lines_of("learning_curves: networks", networks, ("sizes", "train", "test"))
    log = flag("learning_curves: log", log)
    xlabel, title = texts("learning_curves", xlabel=xlabel, title=title)
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = axes_of(figure, xlabel, "accuracy", title)
    drawn, several = [], False
    for style, (label, (sizes, *accuracies)) in zip(LINES, given.items(), strict=False):
        of_split = dict(zip(("train", "test"), accuracies, strict=True))
        for split, dash, face in (("test", "-", style["color"]), ("train", "--", "white")):
            x, seeds = seeds_of(f"learning_curves: networks: {label}, {split}", sizes, of_split[split])
            if not (np.isfinite(x).all() and x.min() > 0):
                raise ValueError(f"learning_curves: networks: {label}: sizes must be above 0, got {x.min():g}")
            name = f"{label}, {split}" if label else split
            drawn.append(draw_line(axes, x, seeds, name, {**style, "linestyle": dash, "markerfacecolor": face}))
            several |= len(seeds) > 1
    if log:
        axes.set_xscale("log")
        sparse_ticks(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: the longer 20,000 collide on a logarithmic axis
    in_percent(axes.yaxis)
    legend_beside(figure, drawn, several)
    return figure
