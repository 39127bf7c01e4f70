"""Picture of a comparison: how accurate every row is, how surely better than the first, and what it costs."""

from collections.abc import Sequence
from pathlib import Path

from fgvc.runtime.figures import pyplot
from fgvc.study.comparison import RowFigures


def accuracy_and_cost(path: Path, rows: Sequence[RowFigures], name: str, title: str) -> None:
    """A line a row, as in the table: the headline figure `name`, its difference from the first row, and its cost.

    Bars are 95 % bootstrap intervals over images. Cost is wall time, and parameters and operations where rows differ in
    them. Rows without a finished run are left out; without any, nothing is drawn.
    """
    shown = [row for row in rows if row.value is not None]
    if not shown:
        return
    costs = [("wall time of a run, minutes", [(row.seconds or 0) / 60 for row in shown])]
    if len({row.parameters for row in shown}) > 1:
        costs.append(("parameters, millions", [(row.parameters or 0) / 1e6 for row in shown]))
    if len({row.gflops for row in shown if row.gflops}) > 1:
        costs.append(("forward pass, GFLOPs", [row.gflops or 0 for row in shown]))
    figure, axes = pyplot.subplots(
        1, 2 + len(costs), figsize=(7 + 3.5 * len(costs), 1.8 + 0.32 * len(shown)), layout="constrained"
    )
    colors = pyplot.get_cmap("viridis")
    for position, row in enumerate(shown):
        color = colors(0.9 * position / max(len(shown) - 1, 1))
        value, low, high = (100 * float(figure or 0) for figure in (row.value, row.low, row.high))
        axes[0].errorbar(value, position, xerr=_bars(value, low, high), fmt="o", capsize=3, color=color)
        if row.difference is not None:
            middle, below, above = (100 * value for value in row.difference)
            axes[1].errorbar(middle, position, xerr=_bars(middle, below, above), fmt="o", capsize=3, color=color)
        for axis, (_, values) in zip(axes[2:], costs, strict=True):
            axis.plot(values[position], value, "o", color=color)
            axis.annotate(str(position + 1), (values[position], value), xytext=(5, 3), textcoords="offset points")
    names = [f"{row.label}  {position + 1}" for position, row in enumerate(shown)]
    axes[0].set_yticks(range(len(shown)), names)
    axes[1].set_yticks(range(len(shown)), [str(position + 1) for position in range(len(shown))])
    axes[1].axvline(0, color="black", linewidth=1)
    axes[0].set_xlabel(f"{name}, %")
    axes[1].set_xlabel("against 1, points")
    for axis in axes[:2]:
        axis.set_ylim(len(shown) - 0.5, -0.5)
    for axis, (cost, _) in zip(axes[2:], costs, strict=True):
        axis.set_xlabel(cost)
        axis.set_ylabel(f"{name}, %")
        axis.margins(0.15)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(middle: float, low: float, high: float) -> list[list[float]]:
    return [[max(middle - low, 0)], [max(high - middle, 0)]]
