"""The picture of a comparison: accuracy with its interval against what it costs, in training time and parameters."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen on a cluster

from matplotlib import pyplot

from fgvc.comparison import RowFigures


def accuracy_against_cost(path: Path, rows: Sequence[RowFigures], title: str) -> None:
    """Two panels that share the top-1 axis; a point a row, its bar the 95 % bootstrap interval over images.

    Rows without a finished run are left out; without any, nothing is drawn.
    """
    shown = [row for row in rows if row.top1 is not None]
    if not shown:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    costs = (
        ("wall time of a run, minutes", [(row.seconds or 0) / 60 for row in shown]),
        ("parameters, millions", [(row.parameters or 0) / 1e6 for row in shown]),
    )
    for axis, (name, values) in zip(axes, costs, strict=True):
        for position, (row, cost) in enumerate(zip(shown, values, strict=True)):
            top1, low, high = (100 * float(value or 0) for value in (row.top1, row.low, row.high))
            bars = [[max(top1 - low, 0)], [max(high - top1, 0)]]
            axis.errorbar(cost, top1, yerr=bars, fmt="o", capsize=3, color=f"C{position % 10}", label=row.label)
        axis.set_xlabel(name)
        axis.margins(x=0.15)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    # Rows of one architecture lie on one vertical line: labels at the points would cover each other.
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
