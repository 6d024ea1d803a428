"""matplotlib's Figure, whatever MPLBACKEND says.

matplotlib looks at MPLBACKEND as it is imported, and a name that it does not know is an error then: a notebook's
"module://matplotlib_inline.backend_inline", say, which commands started from the notebook inherit, where that is not
installed. A figure that is drawn into a file needs no such backend: Agg draws it. Import from here before any other
part of matplotlib.
"""

import contextlib
import os
import sys

if "matplotlib" not in sys.modules:
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # a good name is pyplot's, if the user imports that

from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

__all__ = ["Figure", "can_set"]


def can_set(text: str) -> bool:
    """Whether matplotlib can set the text: what stands between two $ is a formula, and no character is a half one."""
    try:
        text.encode()
        for line in filter(is_math_text, text.split("\n")):
            from matplotlib.mathtext import MathTextParser

            MathTextParser("path").parse(line)
    except ValueError:
        return False
    return True
