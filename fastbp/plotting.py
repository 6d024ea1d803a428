"""Figures. Imported only when used; draws with matplotlib's object interface, so no window, no backend and no global state."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator, PercentFormatter

RIGHT, WRONG = "black", "#c00000"
STYLES = {"train": {"color": "#7f7f7f", "linestyle": "--"}, "validation": {"color": "#1f4e9c", "linestyle": "-"}}
# -- apart in greyscale too, by dash and darkness


def curves(history, figure: Figure | None = None, place: SubplotSpec | None = None) -> Figure:
    """Loss, and accuracy where there is one, against the epoch, for training and validation."""
    panels = ["loss"] + ["accuracy"] * bool(history.train_accuracy or history.validation_accuracy)
    figure = figure or Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    grid = place.subgridspec(len(panels), 1) if place is not None else figure.add_gridspec(1, len(panels))
    for panel, cell in zip(panels, grid, strict=True):
        axes = figure.add_subplot(cell)
        for split, style in STYLES.items():
            values = getattr(history, f"{split}_{panel}")
            if values:
                axes.plot(range(1, len(values) + 1), values, label=split, marker="o", markersize=3, **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel(panel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False)
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
    """A grid of images (N, C, H, W), values in [0, 1], each under its predicted class; a wrong one in red with the right one."""
    rows = max(1, -(-len(images) // columns))
    figure = figure or Figure(figsize=(1.3 * columns, 1.5 * rows), layout="constrained")
    grid = place.subgridspec(rows, columns) if place is not None else figure.add_gridspec(rows, columns)
    for n, image in enumerate(images):
        axes = figure.add_subplot(grid[n // columns, n % columns])
        greyscale = image.shape[0] == 1
        axes.imshow(image[0] if greyscale else image.transpose(1, 2, 0), cmap="gray" if greyscale else None, vmin=0, vmax=1)
        right = predicted[n] == labels[n]
        title = classes[predicted[n]] if right else f"{classes[predicted[n]]}, is {classes[labels[n]]}"
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
    figure = Figure(figsize=(12, 6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.add_gridspec(1, 2, width_ratios=(2, 3))
    curves(history, figure, left)
    predictions(images, predicted, labels, classes, figure, right)
    return figure
