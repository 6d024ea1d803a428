"""The look of all figures: colours and dashes, axes, bands, legends, and how a figure is written to a file."""

import os

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from ..arguments import instance
from ..files import written_atomically

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


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the figure as a PNG, which takes its name when it is whole. The same data give the same bytes."""
    instance("save: figure", figure, Figure)
    with written_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})


def axes_of(figure: Figure, xlabel: str, ylabel: str, title: str = "", place: SubplotSpec | int = 111) -> Axes:
    """Axes as all figures have them."""
    axes = figure.add_subplot(place)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return axes


def in_percent(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def number_shown(value: float, percent: bool, digits: int = 1) -> str:
    return "not finite" if not np.isfinite(value) else f"{value:.{digits}%}" if percent else f"{value:.3g}"


def sparse_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade of a logarithmic axis, at 1 alone where it covers many."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_minor_formatter(NullFormatter())


def text_beside(axes: Axes, y: float | None, column: int, text: str, weight: str) -> None:
    """Text in a column at the right of the axes, at y, or above the axes for the column's heading."""
    xy, coordinates = ((1, 1), "axes fraction") if y is None else ((1, y), axes.get_yaxis_transform())
    style = {"fontsize": 8 if y is None else 9, "fontweight": weight, "va": "bottom" if y is None else "center"}
    style |= {"ha": "right", "annotation_clip": False}
    axes.annotate(text, xy, (52 + 56 * column, 0), coordinates, "offset points", **style)


def draw_line(axes: Axes, x: np.ndarray, seeds: np.ndarray, label: str, style: dict) -> Line2D:
    """The mean of the seeds (K, P) and, if there are several, a band from least to largest.

    A long line has about ten markers, which lie one point more than a tenth of the line apart: at exactly a tenth, a
    line with several points an epoch might have all its markers at the same place of an epoch.
    """
    if len(seeds) > 1:
        axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
    with np.errstate(invalid="ignore"):  # of infinite losses
        mean = seeds.mean(axis=0)
    step = max(1, len(x) // 10)
    return axes.plot(x, mean, label=label, markersize=4.5, markevery=step + (step > 1), **style)[0]


def reported_style(color: str, marker: str) -> dict:
    """A thin dotted line whose right end has a hollow marker."""
    dotted = {"color": color, "linestyle": ":", "linewidth": 1.2, "clip_on": False}
    return dotted | {"marker": marker, "markersize": 5, "markerfacecolor": "white", "markevery": [-1]}


def legend_beside(figure: Figure, lines: list[Line2D], several: bool) -> None:
    title = "mean and range\nof the seeds" if several else None
    look = {"frameon": False, "handlelength": 4, "alignment": "left"}
    legend = figure.legend(handles=lines, loc="outside right upper", title=title, **look)
    legend.get_title().set_fontsize(8)
