"""matplotlib as every picture here uses it: without a screen, saved and closed; loaded with the first figure, for it
takes a tenth of a command's start and most processes draw none."""

from functools import cache
from pathlib import Path
from typing import Any


@cache
def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # no screen on a cluster
    from matplotlib import pyplot

    matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$, or what is no formula, such as $\frac{$
    return pyplot


def __getattr__(name: str) -> Any:
    if name == "pyplot":
        return _pyplot()
    raise AttributeError(name)


def subplots(*arguments: Any, **settings: Any) -> Any:
    """A new figure and its axes, as pyplot.subplots."""
    return _pyplot().subplots(*arguments, **settings)


def save_figure(figure: Any, path: Path, dpi: int = 110) -> None:
    """Lay a figure out tightly, write it and free its memory."""
    figure.tight_layout()
    figure.savefig(path, dpi=dpi)
    _pyplot().close(figure)
