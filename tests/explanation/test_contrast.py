"""Why A and not B: the words under a picture say what its map shows."""

from pathlib import Path

import numpy as np
import pytest

from fgvc.explanation.birds import open_guide
from fgvc.explanation.contrast import BACKGROUND, REST, named_parts, part_strengths
from fgvc.explanation.pictures import Side, contrast_lines, contrast_picture
from shards.manifest import Manifest


def test_the_part_beside_a_spot_is_named() -> None:
    """A small beak at the edge of a large bird, and the spot of a coarse map beside it: by sums over exact pixels
    nearly all of it would lie elsewhere."""
    bird, beak = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    bird[20:80, 20:60] = True
    beak[40:43, 58:68] = bird[40:43, 58:68] = True
    wing = np.zeros((96, 96), bool)
    wing[40:70, 30:45] = True
    y, x = np.mgrid[:96, :96]
    signed = np.exp(-((y - 46) ** 2 + (x - 70) ** 2) / 200) - 0.8 * np.exp(-((y - 55) ** 2 + (x - 37) ** 2) / 300)
    assert signed.clip(0)[beak].sum() < 0.1 * signed.clip(0).sum()
    found = part_strengths(signed, {"beak": beak, "wing": wing}, bird, 8)
    assert set(found) == {"beak", "wing", REST, BACKGROUND}
    assert named_parts(found, 0)[0].startswith("beak")
    assert named_parts(found, 1)[0].startswith("wing")
    assert found["beak"][0] > 5 * found[BACKGROUND][0]
    assert found[BACKGROUND][1] < 0.01


def test_rest_and_background_are_apart() -> None:
    bird = np.zeros((40, 40), bool)
    bird[10:30, 10:30] = True
    head = np.zeros((40, 40), bool)
    head[10:14, 10:14] = True
    on_bird, off_bird = bird.astype(float), np.zeros((40, 40))
    off_bird[:4, :4] = 1
    assert named_parts(part_strengths(on_bird, {"head": head}, bird, 0), 0)[:2] == ["head 100%", f"{REST} 100%"]
    found = part_strengths(-off_bird, {"head": head}, bird, 0)
    assert found[BACKGROUND] == (0, pytest.approx(16 / 1200))
    assert found[REST] == (0, 0)
    assert named_parts(found, 1) == []  # spread thin it is no evidence


def test_a_silhouette_covers_its_parts(guide: Manifest) -> None:
    found = open_guide(guide)
    assert found is not None
    for entry in guide.entries[:10]:
        bird = found.bird(entry)
        whole = found.silhouette(bird)
        assert all((mask & ~whole).sum() <= 0.1 * mask.sum() + 2 for mask in found.part_regions(bird).values())
        assert 0 < whole.mean() < 1


def test_a_contrast_says_what_the_two_differ_in(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    a, b = (Side(name, 0.4, [image], parts) for name, parts in (("Finch", ["beak 46%"]), ("Wren", [])))
    assert contrast_lines(a, b, ["beak", "tail"]) == [
        "A  Finch  40%; speaks most on: beak 46%", "B  Wren  40%", "these two differ in: beak, tail",
    ]  # fmt: skip
    assert len(contrast_lines(a, b, [])) == 2
    contrast_picture(tmp_path / "a.png", "why", image, np.eye(8), a, b, ["beak"])
    assert (tmp_path / "a.png").stat().st_size > 1000
