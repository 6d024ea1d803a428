"""The figure of a sweep: a row for each setting, a dot for each run."""

from collections.abc import Sequence

import numpy as np

from ..canvas import Figure  # before the rest of matplotlib

# isort: split
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ..arguments import LARGEST, flag, number, whole
from .style import BEST, OTHER, axes_of, in_percent, number_shown, text_beside
from .values import FARTHEST, items, labels_of, numbers, texts


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
    """The runs of one sweep: a row for each setting, a dot for each seed, a tick and a number for their mean.

    settings: S labels, drawn from the top. values: for each setting the values of its seeds, (S, K), (S,) or S lists of
    any lengths; one that is not finite has no dot, and the mean says so. xlabel names what was measured, ylabel what
    was varied.
    reported: S figures published elsewhere, drawn as hollow diamonds, None where there is none. best: the row to
    highlight, False for none; by default that of the highest mean if these are percentages, else none. ValueError:
    nothing to draw, lengths that don't fit, no such row.
    """
    settings = labels_of("sweep: settings", settings)
    rows = [np.atleast_1d(numbers("sweep: values: each", v)) for v in items("sweep: values", values)]
    reported = [None] * len(rows) if reported is None else items("sweep: reported", reported)
    reported = [v if v is None else number("sweep: reported: each", v, -FARTHEST, FARTHEST) for v in reported]
    if not rows or len(settings) != len(rows) or len(reported) != len(rows):
        got = f"got {len(settings)}, {len(rows)} and {len(reported)}"
        raise ValueError(f"sweep: expected as many settings, values and reported figures, at least one of each, {got}")
    for setting, row in zip(settings, rows, strict=True):
        if row.ndim != 1 or not row.size:
            wanted = "expected the values of its seeds, at least one"
            raise ValueError(f"sweep: values: {setting}: {wanted}, got {row.shape}")
    best = best if best is None or best is False else whole("sweep: best", best, -LARGEST)
    if best is not None and best is not False and best not in range(len(rows)):
        raise ValueError(f"sweep: best is the index of a row, 0 to {len(rows) - 1}, got {best}")
    percent = flag("sweep: percent", percent)
    labels = texts("sweep", xlabel=xlabel, ylabel=ylabel, title=title)
    means = [row.mean() if np.isfinite(row).all() else np.nan for row in rows]
    if best is None and percent and np.isfinite(means).any():
        best = int(np.nanargmax(means))
    best = None if best is False else best
    alone = best is None or [f"{mean:.1%}" for mean in means].count(f"{means[best]:.1%}") == 1
    digits = 1 if alone else 2  # so many that the best is seen to be the best
    several, published = any(row.size > 1 for row in rows), any(r is not None for r in reported)

    figure = Figure(figsize=(7, 0.3 * len(rows) + 1.0 + 0.3 * (several or published)), layout="constrained")
    axes = axes_of(figure, *labels)
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
        text_beside(axes, y, 0, number_shown(mean, percent, digits), weight)
        if elsewhere is not None:
            axes.plot(elsewhere, y, zorder=5, **diamond)
            text_beside(axes, y, 1, number_shown(elsewhere, percent), "normal")
    if several or published:
        text_beside(axes, None, 0, "mean" if several else "measured", "normal")
        handles = [Line2D([], [], color=OTHER, label="one seed" if several else "measured", **dot)]
        handles += [Line2D([], [], label="mean", **tick)] * several
        if published:
            text_beside(axes, None, 1, "reported", "normal")
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
        in_percent(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # with more, labels like 90.0% touch where the names are long
    return figure
