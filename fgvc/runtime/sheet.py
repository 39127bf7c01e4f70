"""A sheet of pictures in rows and columns, with words and frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgvc.runtime import figures

GAP, LINE, HEAD = 0.06, 0.17, 0.3  # inches: between pictures, of a line of small print, of the sheet's title


class Sheet:
    """Pictures of one size in rows and columns, all on one pair of axes whose unit is the inch: a pair for each
    picture, as pyplot.subplots makes, takes four times as long in all (docs/log.md).

    side: inches of a picture's longer side. title: above all. above, below: lines of words that each row has room for.
    """

    def __init__(self, rows: int, columns: int, side: float, title: str = "", above: int = 1, below: int = 0) -> None:
        self.side, self.above = side, above * LINE
        self.height = side + GAP + (above + below) * LINE
        self.top = HEAD if title else 0.0
        width, height = columns * (side + GAP) + GAP, self.top + rows * self.height + GAP
        self.figure = figures.pyplot.figure(figsize=(width, height))
        self.axis: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set(xlim=(0, width), ylim=(height, 0))
        self.axis.set_autoscale_on(False)
        self.axis.axis("off")
        if title:
            self.axis.text(width / 2, HEAD / 2, title, ha="center", va="center", fontsize=9)

    def show(
        self, row: int, column: int, picture: np.ndarray, frames: Sequence[tuple[Sequence[float], str, float]] = ()
    ) -> None:
        """Place an (H, W, 3) picture, uint8 or 0-1, in a cell, as large as it fits, in the middle. frames: (x0, y0,
        x1, y1) in its pixels, colour, width in points."""
        high, wide = picture.shape[:2]
        scale = self.side / max(high, wide)
        left, top = self._corner(row, column)
        left, top = left + (self.side - wide * scale) / 2, top + (self.side - high * scale) / 2
        edges = (left, left + wide * scale, top + high * scale, top)
        self.axis.imshow(picture, extent=edges, aspect="auto")
        for (x0, y0, x1, y1), colour, width in frames:
            place = (left + x0 * scale, top + y0 * scale)
            self.axis.add_patch(
                figures.pyplot.Rectangle(place, (x1 - x0) * scale, (y1 - y0) * scale, fill=False, ec=colour, lw=width)
            )

    def write_above(self, row: int, column: int, words: str) -> None:
        """Words above a cell, from its left edge on."""
        left, top = self._corner(row, column)
        self.axis.text(left, top - 0.03, words, ha="left", va="bottom", fontsize=8)

    def write_below(self, row: int, column: int, words: str) -> None:
        """Small print under the middle of a cell."""
        left, top = self._corner(row, column)
        middle, under = left + self.side / 2, top + self.side + 0.03
        self.axis.text(middle, under, words, ha="center", va="top", fontsize=6)

    def save(self, path: Path, dpi: int = 110) -> None:
        """Write it and free its memory."""
        self.figure.savefig(path, dpi=dpi)
        figures.pyplot.close(self.figure)

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        return GAP + column * (self.side + GAP), self.top + row * self.height + GAP + self.above
