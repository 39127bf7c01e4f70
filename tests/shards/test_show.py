"""The table and the contact sheet of a set of shards, against figures counted by hand."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.entries import Entry
from shards.errors import UserError
from shards.manifest import Manifest, Shard, read_manifest, write_manifest
from shards.show import BOX, COLUMNS, ROWS, TILE, contact_sheet, figures, pick, show

CLASSES = ("Common Wren", "Marsh Finch", "A Bird Whose Name Is Much Longer Than Any Picture Is Wide")
COLOURS = ((40, 90, 200), (60, 160, 70), (200, 180, 60))
# (label, split, boxes): 4 wrens, 2 finches, 1 of the long name; 7 images of 100x80, of which 5 have boxes.
ROWS_OF = (
    (0, "train", ((10.0, 20.0, 60.0, 60.0),)),
    (0, "train", ((0.0, 0.0, 100.0, 80.0),)),
    (0, "train", ()),
    (0, "test", ((10.0, 20.0, 30.0, 40.0), (50.0, 20.0, 70.0, 40.0))),
    (1, "train", ((0.0, 0.0, 50.0, 40.0),)),
    (1, "test", ()),
    (2, "train", ((0.0, 0.0, 50.0, 40.0),)),
)


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (100, 80), colour).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Two shards written by tarfile, their members found by tarfile."""
    shards, entries = [], []
    for number, split in enumerate(("train", "test")):
        path = tmp_path / f"{split}-000000.tar"
        members = [(f"{split}_{i}", *row) for i, row in enumerate(ROWS_OF) if row[1] == split]
        with tarfile.open(path, "w") as tar:
            for key, label, _, _ in members:
                info = tarfile.TarInfo(f"{key}.jpg")
                info.size = len(jpeg(COLOURS[label]))
                tar.addfile(info, io.BytesIO(jpeg(COLOURS[label])))
        with tarfile.open(path) as tar:
            offsets = {info.name: (info.offset_data, info.size) for info in tar}
        for key, label, _, boxes in members:
            offset, length = offsets[f"{key}.jpg"]
            parts = {"beak": (15.0, 25.0)} if boxes else {}
            entries.append(Entry(key, label, split, number, offset, length, 100, 80, boxes, parts))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(Shard(path.name, split, path.stat().st_size, digest, len(members)))
    made = Manifest(
        tmp_path, "made_up", "CC0-1.0", "", CLASSES, tuple(shards), tuple(entries), "plan", {"re-encoded: CMYK": 3}
    )
    write_manifest(made)
    return made


def rows_of(text: str) -> dict[str, str]:
    """The table's rows by name; rows without a name continue the one above."""
    rows: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        head, value = line[:18].strip(), line[18:].strip()
        name = head or name
        rows[name] = f"{rows[name]} | {value}" if name in rows else value
    return rows


def test_figures_counted_by_hand(manifest: Manifest) -> None:
    rows = rows_of(figures(read_manifest(manifest.folder)))
    assert rows["source"] == "made_up"
    assert rows["licence"] == "CC0-1.0"
    assert rows["images"] == "7  (train 5, test 2)"
    assert rows["classes"] == "3"
    assert "train: min 1   median 1   max 3   max/min 3.00" in rows["images per class"]
    assert "test: min 0   median 1   max 1   1 classes without any" in rows["images per class"]
    assert rows["smallest classes"].split(None, 1) == ["1", CLASSES[2]]
    assert rows["largest classes"].split(None, 1) == ["4", CLASSES[0]]
    assert rows["width"] == "min 100   5 % 100   median 100   95 % 100   max 100   pixels"
    assert rows["boxes"] == "5 of 7 images have boxes, 1 each: 4, 2 each: 1"
    # 2000, 8000, 400, 400, 2000 and 2000 of 8000 pixels: 5, 5, 25, 25, 25, 100 %.
    assert rows["box area"] == "min 5.0   5 % 5.0   median 25.0   95 % 81.2   max 100.0   % of the image"
    assert rows["parts"] == "beak 5"
    assert rows["note"] == "re-encoded: CMYK: 3"
    size = sum(path.stat().st_size for path in manifest.folder.glob("*.tar")) / 1e6
    assert rows["disk"] == f"{size:.1f} MB in 2 shards (train 1, test 1)"


def test_contact_sheet_shows_pictures_and_boxes(manifest: Manifest) -> None:
    picture = manifest.folder / "sheet.png"
    text = show(manifest.folder, picture)
    assert text.endswith(f"contact sheet  {picture}")
    pixels = np.array(Image.open(picture).convert("RGB")).astype(int)
    assert pick(manifest, 48) == [0, 1, 2, 5, 3, 6, 4]  # by class; in a class as the shards have them
    labels = [0, 0, 0, 0, 1, 1, 2]
    for place, label in enumerate(labels):
        left = 8 + place * (TILE + 8)
        middle = pixels[8 + TILE // 2 + 50, left + TILE // 2 + 70]
        assert abs(middle - COLOURS[label]).max() < 8
    # The first box, 10..60 x 20..60 of a 100x80 picture that fills its tile's width and is centred in its height.
    scale, top = TILE / 100, 8 + (TILE - round(80 * TILE / 100)) // 2
    xs, ys = (round(8 + 10 * scale), round(8 + 60 * scale) - 1), (round(top + 20 * scale), round(top + 60 * scale) - 1)
    red = abs(pixels[8 : 8 + TILE, 8 : 8 + TILE] - BOX).max(2) == 0
    found = np.argwhere(red) + 8
    assert abs(found.min(0) - (ys[0], xs[0])).max() <= 1
    assert abs(found.max(0) - (ys[1], xs[1])).max() <= 1


def test_many_classes_share_the_sheet(manifest: Manifest) -> None:
    entries = tuple(Entry(f"k{i}", i % 100, "train", 0, 0, 1, 10, 10) for i in range(300))
    many = Manifest(manifest.folder, "", "", "", tuple(map(str, range(100))), (), entries, "")
    labels = [entries[i].label for i in pick(many, COLUMNS * ROWS)]
    assert len(set(labels)) == len(labels) == 48
    assert labels[0] == 0
    assert labels[-1] >= 97
    few = Manifest(manifest.folder, "", "", "", ("a", "b"), (), (*entries[:1], *entries[100:103:2]), "")
    assert sorted(pick(few, 48)) == [0, 1, 2]


def test_without_a_picture_nothing_is_written(manifest: Manifest) -> None:
    before = set(manifest.folder.iterdir())
    assert "contact sheet" not in show(manifest.folder)
    assert set(manifest.folder.iterdir()) == before


def test_what_is_wrong_is_said(manifest: Manifest) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        show(manifest.folder, manifest.folder / "sheet.unheard")
    with pytest.raises(UserError, match=r"no manifest\.json there"):
        show(manifest.folder / "elsewhere")
    (manifest.folder / "test-000000.tar").unlink()
    assert "1 shards: test-000000.tar" in rows_of(figures(manifest))["missing"]
    with pytest.raises(UserError, match="fgvc shards verify"):
        contact_sheet(manifest)


def test_boxes_below_a_pixel_of_their_tile_or_far_outside_are_drawn(manifest):
    boxes = ((10.0, 10.0, 10.5, 10.5), (-1e300, 5.0, 1e300, 1e301))
    entries = tuple(replace(entry, boxes=boxes) for entry in manifest.entries)
    assert contact_sheet(replace(manifest, entries=entries)).size[0] > TILE


def test_a_picture_too_large_to_decode_is_named(manifest, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"sample 'train_0' cannot be decoded .*decompression bomb"):
        contact_sheet(manifest)
