"""A classifier that tells one class by a coloured corner is exposed by score and sheet; one that does not is not."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from subjects import MadeNetwork, subject_of
from torch import Tensor

from fgvc.explanation import sheets
from fgvc.explanation.examination import Examination, Found
from fgvc.explanation.gallery import Gallery
from fgvc.explanation.geometry import Placement
from jobs.tasks.explain_tables import figures_of, off_object
from shards.entries import Entry
from shards.errors import UserError
from shards.reading.loader import Batch

CLASSES = ["cornered", "green", "red", "blue"]
SIZE, EACH, BOX = 64, 6, (20.0, 20.0, 48.0, 48.0)


class Colours(MadeNetwork):
    """Class 1 is told by green, 2 by red, 3 by blue; class 0 by white: in the images below that is the corner only."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])[:, :, None, None])
            self.conv.bias.copy_(torch.tensor([-4.0, -2, -2, -2]))
            self.fc.weight.copy_(torch.diag(torch.tensor([200.0, 20, 20, 20])))
            self.fc.bias.zero_()


def picture(number: int, planted: bool) -> Tensor:
    """A coloured object, class by class, on grey; class 0's is green too and has a white corner, or is white itself."""
    label, image = number % 4, torch.full((3, SIZE, SIZE), 90, dtype=torch.uint8)
    colour = [(20, 235, 20), (20, 235, 20), (235, 20, 20), (20, 20, 235)][label]
    if label == 0 and not planted:
        colour = (255, 255, 255)
    shift = number // 4 - EACH // 2
    image[:, 24 + shift : 44 + shift, 24:44] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    if label == 0 and planted:
        image[:, :8, :8] = 255
    return image


def examined(planted: bool, folder: Path) -> tuple[dict[str, Any], Found, Examination]:
    numbers = list(range(4 * EACH))
    entries = {at: Entry(f"image{at}", at % 4, "test", 0, 0, 0, SIZE, SIZE, boxes=(BOX,)) for at in numbers}

    def load(chunks: Sequence[Sequence[int]]) -> Iterable[Batch]:
        for chunk in chunks:
            images = torch.stack([picture(number, planted) for number in chunk])
            labels = torch.tensor([number % 4 for number in chunk])
            yield Batch(images, labels, torch.tensor(list(chunk)), torch.full_like(labels, -1))

    gallery = Gallery(entries, dict.fromkeys(numbers, Placement((1, 1), (0, 0), SIZE)), load, True)
    work = Examination(subject_of(Colours(), SIZE), gallery, ["cam", "layercam"], folder)
    found = Found(work.methods, work.maps("maps", numbers, work.methods, 8, False))
    return figures_of(found, CLASSES, "layercam"), found, work


def test_a_planted_shortcut_is_exposed_by_score_and_sheet(tmp_path: Path, monkeypatch: Any) -> None:
    figures, found, work = examined(True, tmp_path)
    assert figures["top1"] == 1
    assert figures["off_object"] == ["cornered"]
    excess = figures["excess_by_class"]
    area = 28 * 28 / SIZE**2
    assert next(iter(excess)) == "cornered"
    assert excess["cornered"] < -0.9 * area
    assert min(excess[name] for name in CLASSES[1:]) > 0.8 - area
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(sheets, "contact_sheet", lambda path, title, rows, columns: drawn.update({path.name: rows}))
    shown = sheets.Sheets(tmp_path, found, work.gallery, work.subject, CLASSES, lambda label: torch.zeros(0))
    shown.sheets("layercam", list(excess))
    first, *others = drawn["classes.png"].values()
    assert next(iter(drawn["classes.png"])) == "cornered"
    for _, overlay in first:  # warm in the corner, not on the object
        assert int(overlay[4, 4, 0]) > int(overlay[4, 4, 2]) + 40
        assert int(overlay[34, 34, 0]) < int(overlay[34, 34, 2]) + 40
    for row in others:
        assert all(int(overlay[4, 4, 2]) >= int(overlay[4, 4, 0]) for _, overlay in row)


def test_without_a_shortcut_nothing_is_said(tmp_path: Path) -> None:
    figures, _, _ = examined(False, tmp_path)
    assert figures["top1"] == 1
    assert figures["off_object"] == []
    assert set(figures["excess_by_class"]) == set(CLASSES)


def test_a_class_that_fills_its_pictures_is_not_called_off_the_object() -> None:
    """Of what there was to gain over the boxes' share, layercam's maps gain: large 50 %, middling 30 %, other 0, usual
    50 %. The rest of the classes gains about 44 % seen from any of them, so that half of it is about 22 %."""
    classes = ["large", "middling", "other", "usual"]
    area, gained = {"large": 0.9}, {"large": 0.5, "middling": 0.3, "other": 0.0, "usual": 0.5}
    predicted = np.repeat([0, 1, 2, 3], [6, 6, 6, 40])
    areas = np.array([area.get(classes[label], 0.4) for label in predicted])
    energy = areas + (1 - areas) * np.array([gained[classes[label]] for label in predicted])
    found = off_object({"layercam/energy": energy, "area": areas, "predicted": predicted}, classes, "layercam")
    assert found["off_object"] == ["other"]
    assert found["excess_by_class"] == pytest.approx({"other": 0.0, "large": 0.05, "middling": 0.18, "usual": 0.3})
    few = {"layercam/energy": energy[-44:], "area": areas[-44:], "predicted": predicted[-44:]}
    assert off_object(few, classes, "layercam")["off_object"] == []  # four images of a class are not looked at


def test_an_empty_map_in_a_chunk_of_its_own_is_no_error(tmp_path: Path) -> None:
    """Of 9 images, 8 a chunk, the last one's map is zero: nothing in it speaks for its class."""
    _, _, work = examined(True, tmp_path)
    numbers = [at for at in range(24) if at % 4][:8]
    black = Gallery(
        work.gallery.entries, work.gallery.placements,
        lambda chunks: (_blackened(batch) if len(batch.entries) == 1 else batch for batch in work.gallery.load(chunks)),
        True,
    )  # fmt: skip
    again = Examination(work.subject, black, ["cam"], tmp_path / "again")
    rows = again.maps("maps", [*numbers, 0], ["cam"], 8, False)
    assert rows["cam/empty"].tolist() == [0] * 8 + [1]
    dark = Gallery(
        work.gallery.entries, work.gallery.placements, lambda chunks: map(_blackened, work.gallery.load(chunks)), True
    )
    with pytest.raises(UserError, match="is zero for all of 8 images"):
        Examination(work.subject, dark, ["cam"], tmp_path / "dark").maps("maps", numbers, ["cam"], 4, False)


def _blackened(batch: Any) -> Any:
    batch.images.zero_()
    return batch
