"""What a finished run shows: its one figure for `fgvc status`, `compare` and `sweep`, and the files it left."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Headline:
    """`key`: its name in the figures of a split. `title`: as people read it.

    within: the key of result.json that holds the splits (empty: they are at its top). goal: whether larger or
    smaller is better. form: how a value is written. per_image: whether it is the mean of a figure of every image,
    a fraction of 1, which comparisons pair. same: settings that every row of a comparison must share, besides those
    that choose the images; a name with a dot at its end stands for all below it. columns: figures of a split -> more
    columns of a comparison's table, fractions of 1. conditions: figures of a split -> what its heading says of them.
    """

    key: str
    title: str
    within: str = ""
    goal: Literal["maximize", "minimize"] = "maximize"
    form: str = "{:.2%}"
    per_image: bool = True
    same: tuple[str, ...] = ()
    columns: Callable[[dict[str, Any]], dict[str, float]] | None = None
    conditions: Callable[[dict[str, Any]], str] | None = None

    def figures(self, result: dict[str, Any]) -> dict[str, float]:
        """Split -> figure, of every split that was measured."""
        splits = result.get(self.within, {}) if self.within else result
        measured = {name: split for name, split in splits.items() if isinstance(split, dict) and self.key in split}
        return {name: split[self.key] for name, split in measured.items()}

    def line(self, result: dict[str, Any]) -> str:
        """As `fgvc status` shows it: val top-1 81.30%, test top-1 80.78%."""
        return ", ".join(
            f"{split} {self.title} {self.form.format(value)}" for split, value in self.figures(result).items()
        )


def calibration(figures: dict[str, Any]) -> str:
    """A classifier's calibration error on a split, as a report shows it: ECE 0.234, calibrated 0.031."""
    if "ece_calibrated" in figures:
        return f"ECE {figures['ece']:.3f}, calibrated {figures['ece_calibrated']:.3f}"
    return f"ECE {figures['ece']:.3f} (uncalibrated)"


def without_listed(figures: dict[str, Any]) -> str:
    """Top-1 of a split without the images that `exclude` lists, where it lists any."""
    rest = figures.get("without_listed", {})
    return f", top-1 {rest['top1']:.2%} without {rest['left_out']} listed ones" if rest.get("count") else ""


def look_at(folder: Path, *names: str) -> str:
    """The end of a run's report: its folder and those of the named files that it left there."""
    return f"look at {folder}: " + ", ".join(name for name in names if (folder / name).exists())
