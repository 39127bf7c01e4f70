"""Curves and bars as SVG in a page's own colours, which follow its light or dark scheme."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fgvc.reporting.runs import Run
from fgvc.runtime.figures import pyplot

# matplotlib takes no CSS variables: it draws with these stand-ins, which are replaced in the text it writes.
INK, RULE = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(0x10, 0x18))
VARIABLES = {INK: "currentColor", RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
POINTS = 250  # of a curve: more cannot be told apart
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "fgvc", "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": RULE, "axes.labelcolor": INK,
    "axes.titlecolor": INK, "text.color": INK, "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "grid.color": RULE, "grid.linewidth": 0.6, "legend.frameon": False,
    "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A line of a chart. colour: its place in the page's palette."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    dots: bool = False


def line_chart(
    series: Sequence[Series], x: str, y: str, *, share: bool = False, size: tuple[float, float] = (3.7, 2.5)
) -> str:
    """Lines over one axis. share: y is a fraction of 1 and shown as percent. size: inches."""
    with rc_context(STYLE):
        figure, axis = pyplot.subplots(figsize=size)
        for line in series:
            axis.plot(
                line.x, line.y, color=SERIES[line.colour % len(SERIES)], linestyle="--" if line.dashed else "-",
                linewidth=1.6, marker="o" if line.dots else "", markersize=3.5, label=_label(line.label),
            )  # fmt: skip
        axis.set(xlabel=x, ylabel=y)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=max((max(line.x) for line in series), default=0) > 5))
        if share:
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(True, axis="y")
        if len(series) > 1:
            axis.legend(fontsize=8)
        return _svg(figure)


def curve(run: Run, name: str, label: str, colour: int = 0, dashed: bool = False, dots: bool = False) -> Series | None:
    """A column of metrics.jsonl over the epochs, smoothed unless it has dots; None where it has fewer than two."""
    if name not in run.curves.columns:
        return None
    epochs, values = (np.asarray(column) for column in run.curves.columns[name])
    if len(values) < 2:
        return None
    if not dots:
        width = max(1, len(values) // 50)
        values = np.convolve(values, np.ones(width) / width, mode="valid")
        epochs = epochs[width - 1 :]
    kept = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).astype(int))
    return Series(label, epochs[kept].tolist(), values[kept].tolist(), colour, dashed, dots)


def _label(text: str) -> str:
    return "".join(filter(str.isprintable, text)).lstrip("_") or " "  # matplotlib hides what begins with an underscore


def _svg(figure: pyplot.Figure) -> str:
    """The drawing as an element to stand in a page: no width of its own, no ids that another drawing has too."""
    figure.tight_layout()
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.S)  # the style would hold for the whole page
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(<svg [^>]*?) ?width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) ?height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
