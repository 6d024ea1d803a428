"""The figure of a gradient check: the verdict on each element of each tensor."""

from typing import Protocol, runtime_checkable

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from ..arguments import instance
from .pictures import blocks
from .style import RIGHT, WRONG

VERDICT_COLOURS = {  # in the order of the verdicts' numbers
    "not checked": "white",
    "ok": "#d7e8d4",
    "kink": "#b9c8dd",
    "below noise": "#e6e6e6",
    "mismatch": WRONG,
    "not finite": "black",
}


@runtime_checkable
class Report(Protocol):
    """A `fastbp.GradientReport`, as far as a figure needs it: the checker stands above this room and imports it."""

    subject: str
    tensors: tuple

    def raise_if_failed(self) -> None: ...


def gradient_errors(report) -> Figure:
    """Where in each tensor of a GradientReport the error sits: a panel for each tensor, a square for each element.

    A square has the colour of the element's verdict; the darker the red, the larger the relative error. A tensor of
    more than two axes is laid out in blocks of its last two, with one row of blocks for each index of its first axis.
    """
    instance("gradient_errors: report", report, Report, "GradientReport")
    tensors = [t for t in report.tensors if t.verdicts is not None] or list(report.tensors)
    figure = Figure(figsize=(4 * max(len(tensors), 1), 3.6), layout="constrained")
    figure.suptitle(report.subject)
    panels = figure.subplots(1, len(tensors), squeeze=False)[0] if tensors else []
    for tensor, axes in zip(tensors, panels, strict=True):
        axes.set_xticks([])
        axes.set_yticks([])
        title = f"{tensor.name} {tensor.shape}: {tensor.problem or tensor.summary}"
        axes.set_title(title, fontsize=9, color=RIGHT if tensor.passed else WRONG)
        if tensor.verdicts is None or not tensor.size:
            axes.set_axis_off()
            continue
        axes.imshow(blocks(_shades(tensor)), interpolation="nearest", aspect="equal")
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
        # from a millionth, the least error that is a mismatch by default, to one
        size = np.clip(1 + np.log10(np.nan_to_num(error, nan=1.0).max(axis=0)) / 6, 0.25, 1)[..., None]
        shades = np.where(wrong[..., None], 1 - size * (1 - shades), shades)
    return shades
