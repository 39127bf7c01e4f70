"""What is written in pictures is written as it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgvc.runtime.figures import pyplot, save_figure
from fgvc.runtime.sheet import GAP, HEAD, LINE, Sheet


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """matplotlib raises for a formula that it cannot read."""
    figure, axis = pyplot.subplots()
    axis.set_title(r"$\frac{$ and $x$")
    axis.set_yticks([0], [r"$\nothing$"])
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_sheet_places_pictures_where_their_cell_is(tmp_path: Path) -> None:
    sheet = Sheet(2, 3, 1.0, title="title", above=1, below=2)
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[..., 0] = 255
    wide[:10, :10] = (0, 255, 0)  # the corner at the top left
    sheet.show(1, 2, wide, [((40, 20, 80, 40), "blue", 4.0)])
    sheet.save(tmp_path / "sheet.png", dpi=100)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    left, top = GAP + 2 * (1 + GAP), HEAD + (1 + GAP + 3 * LINE) + GAP + LINE + 0.25  # half as high as the cell
    size = (100 * (HEAD + 2 * (1 + GAP + 3 * LINE) + GAP), 100 * (4 * GAP + 3))
    assert pixels.shape[:2] == pytest.approx(size, abs=1)
    green = (pixels == (0, 255, 0)).all(axis=2).nonzero()
    assert [axis.mean() for axis in green] == pytest.approx([100 * top + 5, 100 * left + 5], abs=1.5)
    red = (pixels == (255, 0, 0)).all(axis=2).nonzero()
    assert [axis.min() for axis in red] == pytest.approx([100 * top, 100 * left], abs=1.5)
    assert [axis.max() for axis in red] == pytest.approx([100 * top + 50, 100 * left + 100], abs=1.5)
    blue = (pixels == (0, 0, 255)).all(axis=2).nonzero()
    assert [axis.mean() for axis in blue] == pytest.approx([100 * top + 30, 100 * left + 60], abs=1.5)
    assert blue[1].max() - blue[1].min() == pytest.approx(40, abs=7)  # and the line's width
