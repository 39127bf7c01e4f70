"""The curves of a training run, drawn from its metrics.jsonl."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgvc.runtime.figures import save_figure, subplots


@dataclass(frozen=True)
class Panel:
    """One plot: figures of every step, and figures measured on held-out images now and then (`val_` before the name).

    A name that ends in `*` stands for all that begin so.
    """

    label: str
    steps: Sequence[str] = ()
    held_out: Sequence[str] = ()
    log: bool = False


def plot_training_curves(path: Path, metrics: Path, panels: Sequence[Panel]) -> bool:
    """Draw panels over the epochs, steps smoothed over a tenth of an epoch; False when there is too little to draw."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    if len(rows) < 2:
        return False
    per_epoch = len(rows) / max(rows[-1]["epoch"], 1)
    figure, axes = subplots(1, len(panels), figsize=(4.5 * len(panels), 3), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        keys = dict.fromkeys(key for row in rows for key in row)  # some figures are not in every row
        names = [key for key in keys if any(_matches(key, name) for name in panel.steps)]
        for name in names:
            there = [row for row in rows if name in row]
            width = max(1, min(len(there), round(per_epoch * len(there) / len(rows) / 10)))
            smooth = np.convolve([row[name] for row in there], np.ones(width) / width, mode="valid")
            epochs = [row["epoch"] for row in there][width - 1 :]
            axis.plot(epochs, smooth, label="train" if len(names) == 1 else name)
        for name in panel.held_out:
            held = [(row["epoch"], row[f"val_{name}"]) for row in rows if f"val_{name}" in row]
            if held:
                label = "held out" if len(panel.held_out) == 1 else f"{name}, held out"
                axis.plot(*zip(*held, strict=True), "o-", label=label)
        axis.set(xlabel="epoch", ylabel=panel.label, yscale="log" if panel.log else "linear")
        if axis.has_data():
            axis.legend(fontsize=7)
    save_figure(figure, path)
    return True


def _matches(key: str, name: str) -> bool:
    return key.startswith(name[:-1]) if name.endswith("*") else key == name
