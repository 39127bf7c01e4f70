"""Pictures of an attacked classifier: accuracy against epsilon, which species becomes which, perturbed images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fgvc.robustness.epsilon import shown_epsilon
from fgvc.robustness.figures import Flip
from fgvc.runtime.figures import save_figure, subplots
from fgvc.runtime.sheet import Sheet

MOST = 20  # species in the matrix, those that flip most


@dataclass(frozen=True)
class Example:
    """An image before and after: (H, W, 3) in [0, 1] each; the classes it was and is taken for."""

    before: np.ndarray
    after: np.ndarray
    truth: str
    guess: str
    size: float


def accuracy_curve(path: Path, figures: dict[str, Any]) -> None:
    """Clean and robust accuracy against epsilon, with Wilson intervals; attacks at one epsilon are points."""
    figure, axis = subplots(figsize=(6.4, 4.2))
    norm = figures["norm"]
    scale = 255 if norm == "linf" else 1
    low, high = figures["clean_interval"]
    axis.axhline(figures["clean"], color="black", linewidth=1, label=f"clean {figures['clean']:.1%}")
    axis.axhspan(low, high, color="black", alpha=0.08)
    for name, by_epsilon in figures["attacks"].items():
        rows = sorted(by_epsilon.values(), key=lambda row: row["epsilon"])
        x = np.array([row["epsilon"] for row in rows]) * scale
        y = np.array([row["accuracy"] for row in rows])
        spread = np.abs(np.array([row["interval"] for row in rows]) - y[:, None]).T
        axis.errorbar(x, y, spread, marker="o", markersize=4, capsize=3, linewidth=1.2, label=name)
    axis.set(ylim=(-0.02, 1.02), ylabel="accuracy", xlabel="epsilon in 255ths" if norm == "linf" else "epsilon (l2)")
    axis.legend(fontsize=8)
    save_figure(figure, path)


def flip_matrix(path: Path, pairs: Sequence[Flip], classes: Sequence[str], norm: Any) -> None:
    """Which species (row) becomes which (column): images by colour, the median smallest epsilon as text."""
    counts: dict[int, int] = {}
    for pair in pairs:
        for label in (pair.truth, pair.guess):
            counts[label] = counts.get(label, 0) + pair.count
    shown = sorted(sorted(counts, key=lambda label: -counts[label])[:MOST])
    place = {label: row for row, label in enumerate(shown)}
    table = np.zeros((len(shown), len(shown)))
    side = max(4.0, 0.45 * len(shown) + 2)
    figure, axis = subplots(figsize=(side + 0.8, side))
    inside = [pair for pair in pairs if pair.truth in place and pair.guess in place]
    for pair in inside:
        table[place[pair.truth], place[pair.guess]] = pair.count
    image = axis.imshow(table, cmap="magma_r", vmin=0)
    for pair in inside:
        dark = pair.count > table.max() / 2
        text = shown_epsilon(pair.median_epsilon, norm).removesuffix("/255")
        axis.text(
            place[pair.guess], place[pair.truth], text, ha="center", va="center", fontsize=6,
            color="white" if dark else "black",
        )  # fmt: skip
    names = [short(classes[label]) for label in shown]
    axis.set_xticks(range(len(shown)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(shown)), names, fontsize=7)
    axis.set(xlabel="taken for", ylabel="is")
    figure.colorbar(image, ax=axis, shrink=0.7, label="images")
    save_figure(figure, path)


def perturbed_images(path: Path, examples: Sequence[Example], norm: Any) -> None:
    """A row an image: as it is, perturbed, and the difference magnified until it fills the range."""
    sheet = Sheet(len(examples), 3, 2.1)
    for row, example in enumerate(examples):
        change = example.after - example.before
        times = 0.5 / max(float(np.abs(change).max()), 1e-9)
        titles = (short(example.truth), f"taken for {short(example.guess)}",
                  f"difference x {times:.0f}, epsilon {shown_epsilon(example.size, norm)}")  # fmt: skip
        for column, image in enumerate((example.before, example.after, 0.5 + times * change)):
            sheet.show(row, column, image.clip(0, 1))
            sheet.write_above(row, column, titles[column])
    sheet.save(path)


def short(name: str) -> str:
    """A class name as it fits a picture; matplotlib would read dollar signs as mathematics."""
    return name.split(".", 1)[-1].replace("_", " ").replace("$", r"\$")[:28]
