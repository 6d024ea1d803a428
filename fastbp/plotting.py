"""Figures. Imported only when used; draws with matplotlib's object interface, so no window, no backend and no global state."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Patch
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


VERDICT_COLOURS = {
    "not checked": "white", "ok": "#d7e8d4", "kink": "#b9c8dd", "below noise": "#e6e6e6", "mismatch": WRONG, "not finite": "black",
}  # fmt: skip


def gradient_errors(report) -> Figure:
    """Where in each tensor of a GradientReport the error sits: one panel a tensor, one square an element, coloured by verdict.

    The darker the red, the larger the relative error. A tensor of more than two axes is laid out in blocks of its last two, one
    row of blocks for each index of its first axis.
    """
    tensors = [t for t in report.tensors if t.verdicts is not None] or list(report.tensors)
    figure = Figure(figsize=(4 * max(len(tensors), 1), 3.6), layout="constrained")
    figure.suptitle(report.subject)
    for tensor, axes in zip(tensors, figure.subplots(1, len(tensors), squeeze=False)[0] if tensors else [], strict=True):
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
