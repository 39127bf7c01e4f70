"""What a finished run shows: its one figure for `fgvc status`, `compare` and `sweep`, and the files it left."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Headline:
    """`key`: its name in the figures of a split, a fraction of 1, larger being better. `title`: as people read it.

    within: the key of result.json that holds the splits (empty: they are at its top).
    """

    key: str
    title: str
    within: str = ""

    def figures(self, result: dict[str, Any]) -> dict[str, float]:
        """Split -> figure, of every split that was measured."""
        splits = result.get(self.within, {}) if self.within else result
        measured = {name: split for name, split in splits.items() if isinstance(split, dict) and self.key in split}
        return {name: split[self.key] for name, split in measured.items()}

    def line(self, result: dict[str, Any]) -> str:
        """As `fgvc status` shows it: val top-1 81.30%, test top-1 80.78%."""
        return ", ".join(f"{split} {self.title} {value:.2%}" for split, value in self.figures(result).items())


def look_at(folder: Path, *names: str) -> str:
    """The end of a run's report: its folder and those of the named files that it left there."""
    return f"look at {folder}: " + ", ".join(name for name in names if (folder / name).exists())
