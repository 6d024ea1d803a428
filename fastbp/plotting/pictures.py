"""Figures made of images: the filters of a first layer, and images under their predicted classes."""

import math
from collections.abc import Sequence

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.gridspec import SubplotSpec

from ..arguments import LARGEST, array, shape, whole
from .lines import curves
from .style import RIGHT, WRONG
from .values import MOST, labels_of, length, numbers, require_classes, require_place, texts


def filters(
    weight: np.ndarray, title: str = "", columns: int = 8, image_shape: tuple[int, int, int] | None = None
) -> Figure:
    """The filters of a first layer as images, each divided by its own largest magnitude, so that mid-grey is 0.

    weight: (F, C, KH, KW) of a convolution, or (F, D) of a linear layer with image_shape = (C, H, W), D = C·H·W. C is
    1, drawn in grey, or 3, drawn in colour. ValueError: another shape, no filters, a weight that is not finite.
    """
    weight, columns = numbers("filters: weight", weight), whole("filters: columns", columns, -LARGEST)
    (title,) = texts("filters", title=title)
    if image_shape is not None:
        image_shape = shape("filters: image_shape", image_shape)
        if weight.ndim != 2 or len(image_shape) != 3 or weight.shape[1] != math.prod(image_shape):
            wanted = f"(F, D) with images {image_shape}, an image_shape (C, H, W)"
            raise ValueError(f"filters: a weight {weight.shape} is not {wanted}")
        weight = weight.reshape(-1, *image_shape) if weight.size else weight
    if weight.ndim != 4 or weight.shape[1] not in (1, 3) or not weight.size:
        hint = "; image_shape gives a linear layer's" if weight.ndim == 2 else ""
        wanted = "a weight (F, C, KH, KW) with C 1 or 3, none of them 0"
        raise ValueError(f"filters: expected {wanted}, got {weight.shape}{hint}")
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
    axes.imshow(blocks(tiles.reshape(rows, columns, *tiles.shape[1:])), interpolation="nearest")
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

    predicted (N,) and labels (N,): integers. A wrong class is red and bold, with the right one below. Drawn into the
    `place` of a `figure`, or as a figure of its own. ValueError: lengths that differ.
    """
    classes, columns = labels_of("predictions: classes", classes), whole("predictions: columns", columns, 1, MOST)
    images = numbers("predictions: images", images)
    predicted, labels = array("predictions: predicted", predicted, "biuf"), array("predictions: labels", labels, "biuf")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:] or len(images) > MOST:
        wanted = f"(N, C, H, W) with N at most {MOST}, C 1 or 3"
        raise ValueError(f"predictions: images must be {wanted}, got {images.shape}")
    if predicted.ndim != 1 or labels.ndim != 1 or not len(images) == len(predicted) == len(labels):
        lengths = f"{len(images)} images, {length(predicted)} predicted and {length(labels)} labels"
        raise ValueError(f"predictions: {lengths} differ in length")
    for name, given in (("predicted", predicted), ("labels", labels)):
        if given.size:
            require_classes(f"predictions: {name}", given, len(classes))
    require_place("predictions", figure, place)
    rows = max(1, -(-len(images) // columns))
    figure = figure or Figure(figsize=(1.3 * columns, 1.6 * rows), layout="constrained")
    grid = place.subgridspec(rows, columns) if place is not None else figure.add_gridspec(rows, columns)
    for n, image in enumerate(np.clip(images, 0, 1)):
        axes = figure.add_subplot(grid[n // columns, n % columns])
        pixels, colours = (image[0], "gray") if image.shape[0] == 1 else (image.transpose(1, 2, 0), None)
        axes.imshow(pixels, cmap=colours, vmin=0, vmax=1)
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
    (title,) = texts("training_sheet", title=title)
    figure = Figure(figsize=(12, 6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.add_gridspec(1, 2, width_ratios=(2, 3))
    curves(history, figure, left)
    predictions(images, predicted, labels, classes, figure, right)
    return figure


def blocks(colours: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) from (*shape, 3), with white lines between the blocks of the last two axes."""
    *shape, _ = colours.shape
    shape = [1] * (2 - len(shape)) + shape
    *outer, H, W = shape
    A, B = (outer[0], int(np.prod(outer[1:]))) if outer else (1, 1)
    sheet = np.ones((A, B, H + 1, W + 1, 3))
    sheet[:, :, :H, :W] = colours.reshape(A, B, H, W, 3)
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(A * (H + 1), B * (W + 1), 3)
    return sheet[: A * (H + 1) - 1, : B * (W + 1) - 1]
