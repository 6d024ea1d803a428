"""Figures. They are drawn with matplotlib's object interface: no window, no backend, no global state.

All have one look: labelled axes, a light grid, and lines that differ in darkness, dash and marker, so that a greyscale
print shows as much as the screen. Shares (`percent=True`) are given as fractions and written as percentages. Labels and
titles may hold formulas between two $. An argument of a wrong kind is a TypeError and a wrong value a ValueError,
before anything is drawn.

- lines: curves, compare, learning_curves
- dots: sweep
- cells: heatmap, confusion_matrix
- pictures: filters, predictions, training_sheet
- verdicts: gradient_errors
- style: the look, and `save`
- values: the checks of what is drawn
"""

from .cells import confusion_matrix, heatmap
from .dots import sweep
from .lines import compare, curves, learning_curves
from .pictures import filters, predictions, training_sheet
from .style import LINES, STYLES, save
from .verdicts import gradient_errors

__all__ = [
    "LINES", "STYLES", "compare", "confusion_matrix", "curves", "filters", "gradient_errors", "heatmap",
    "learning_curves", "predictions", "save", "sweep", "training_sheet",
]  # fmt: skip
