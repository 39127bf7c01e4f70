"""A search as people read it: the table of its trials, best first, and a plot of the metric over each parameter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgvc.study.search import Parameter, Trial


def table(trials: Sequence[Trial], names: dict[int, str], metric: str, sign: float) -> str:
    """A Markdown table of the trials, best first; those without a score last."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    ordered = sorted(trials, key=lambda trial: (trial.score is None, -(trial.score or 0), trial.number))
    rows = [["trial", metric, *keys]]
    for trial in ordered:
        state = f"{sign * trial.score:.4f}" if trial.score is not None else "failed" if trial.failed else "-"
        rows.append([names[trial.number], state, *(shown(trial.values.get(key)) for key in keys)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def shown(value: Any) -> str:
    """A setting's value, floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plot(path: Path, space: Sequence[Parameter], trials: Sequence[Trial], metric: str, sign: float, title: str) -> None:
    """Write a PNG: the metric by trial with the best so far, and a panel for each searched parameter."""
    from fgvc.runtime.figures import pyplot, save_figure

    done = [trial for trial in trials if trial.score is not None]
    searched = [parameter for parameter in space if parameter.distribution != "constant"]
    columns = min(3, 1 + len(searched))
    rows = -(-(1 + len(searched)) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False)
    values = [sign * (trial.score or 0) for trial in done]
    top = max(done, key=lambda trial: trial.score or 0)
    best, bests = None, []
    for value in values:
        best = value if best is None or sign * value > sign * best else best
        bests.append(best)
    first, *others = axes.flat
    numbers = [trial.number for trial in done]
    first.scatter(numbers, values, s=18, color="tab:blue")
    first.step(numbers, bests, where="post", color="tab:orange", label="best so far")
    first.set(xlabel="trial", ylabel=metric)
    first.legend(frameon=False)
    for parameter, axis in zip(searched, others, strict=False):
        _panel(axis, parameter, done, values, top)
        axis.set(xlabel=parameter.key)
    for axis in others[len(searched) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    save_figure(figure, path)


def _panel(axis: Any, parameter: Parameter, done: Sequence[Trial], values: Sequence[float], top: Trial) -> None:
    settings = [trial.values[parameter.key] for trial in done]
    if parameter.distribution == "categorical" or not all(isinstance(setting, int | float) for setting in settings):
        choices = [str(choice) for choice in parameter.choices or []]
        places = [choices.index(str(setting)) for setting in settings]
        axis.set_xticks(range(len(choices)), choices)
    else:
        places = settings
        if parameter.logarithmic and min(places) > 0:
            from matplotlib.ticker import LogFormatter, NullFormatter

            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(LogFormatter())  # the usual one writes formulas
            axis.xaxis.set_minor_formatter(NullFormatter())
    colours = [trial.number for trial in done]
    axis.scatter(places, values, s=18, c=colours, cmap="viridis")
    at = [trial.number for trial in done].index(top.number)
    axis.scatter([places[at]], [values[at]], s=80, facecolors="none", edgecolors="tab:orange")
