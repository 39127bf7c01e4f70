"""matplotlib as every picture here uses it: without a screen, saved and closed."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen on a cluster

from matplotlib import pyplot

matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$, or what is no formula, such as $\frac{$

__all__ = ["pyplot", "save_figure"]


def save_figure(figure: pyplot.Figure, path: Path, dpi: int = 110) -> None:
    """Lay a figure out tightly, write it and free its memory."""
    figure.tight_layout()
    figure.savefig(path, dpi=dpi)
    pyplot.close(figure)
