"""Official layouts that somebody changed: labels, boxes and lists that no longer belong to their images."""

from pathlib import Path

import numpy as np
import pytest
from made_trees import make_cub, make_dogs, refused
from PIL import Image
from scipy.io import loadmat, savemat

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.sources import cub200, stanford_dogs


def cub(root: Path, options: cub200.Options) -> None:
    build(cub200.scan(root, options), root.with_name("out"), BuildOptions(workers=1))


def rewrite(file: Path, change) -> None:
    lines = [line.split() for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join(map(str, change(i, *row))) + "\n" for i, row in enumerate(lines)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i, n, x, y, w, h: (n, 2 * float(x), 2 * float(y), 2 * float(w), 2 * float(h)),
            "reaches beyond the image",
        ),
        (lambda i, n, x, y, w, h: (n, 0.1, 0.1, 0.5, 0.5), "box of less than a pixel (a share of its image?)"),
        (lambda i, n, x, y, w, h: (n, 40, 40, 99, 99), "or corners where a width and a height belong?"),
    ],
)
def test_cub_boxes_of_other_pictures(tmp_path, change, message):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3)
    rewrite(root / "bounding_boxes.txt", change)
    assert message in refused(cub, root, cub200.Options())


def test_cub_parts_of_other_pictures(tmp_path):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3, parts=True)
    rewrite(root / "parts/part_locs.txt", lambda i, n, part, x, y, seen: (n, part, 500.0, y, seen))
    assert "point (500, " in refused(cub, root, cub200.Options())


def test_cub_labels_that_contradict_their_folders(tmp_path):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3)
    rewrite(root / "image_class_labels.txt", lambda i, n, label: (n, 3 - int(label)))
    said = refused(cub200.scan, root, cub200.Options())
    assert "6 problems: label that contradicts the class folder: images.txt 001.Black_footed_Albatross/" in said
    assert ".jpg = 002.Indigo_Bunting" in said


def test_cub_lists_that_cannot_be_read(tmp_path):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3)
    expected = cub200.scan(root, cub200.Options()).samples
    text = (root / "images.txt").read_text()
    (root / "images.txt").write_text(text, encoding="utf-16")
    assert cub200.scan(root, cub200.Options()).samples == expected
    (root / "images.txt").unlink()
    (root / "images.txt").mkdir()
    assert "images.txt: Is a directory; it must be a list" in refused(cub200.scan, root, cub200.Options())


def halve(root: Path) -> None:
    for file in (root / "Images").rglob("*.jpg"):
        image = Image.open(file)
        image.resize((image.width // 2 * 2 // 2, image.height // 2 * 2 // 2)).save(file)


def test_dogs_made_smaller_after_they_were_annotated(tmp_path):
    root = make_dogs(tmp_path / "dogs", classes=2, per_class=3)
    before = stanford_dogs.scan(root, stanford_dogs.Options()).samples
    assert {sample.canvas for sample in before} == {None}
    halve(root)
    raw = stanford_dogs.scan(root, stanford_dogs.Options())
    manifest = build(raw, tmp_path / "out", BuildOptions(workers=1))
    assert manifest.notes["boxes scaled to the image's size"] == 6
    boxes = {entry.key: entry.boxes for entry in manifest.entries}
    for sample in before:
        assert np.allclose(np.array(sample.boxes) / 2, boxes[sample.key], atol=1.1)


def change_list(root: Path, **columns) -> None:
    """Replace columns of train_list.mat by functions of what is there."""
    content = {key: value for key, value in loadmat(root / "train_list.mat").items() if not key.startswith("__")}
    savemat(root / "train_list.mat", content | {key: change(content[key]) for key, change in columns.items()})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "annotation_list",
            lambda rows: rows[::-1].copy(),
            "4 problems: annotation of another image: train_list.mat n0",
        ),
        ("labels", lambda rows: rows * np.inf, "not a readable MATLAB list (cannot convert float infinity to integer)"),
        ("labels", lambda rows: rows * np.nan, "not a readable MATLAB list (cannot convert float NaN to integer)"),
        ("labels", lambda rows: rows + 0.5, "not a readable MATLAB list (label 1.5)"),
    ],
)
def test_dogs_lists_that_were_changed(tmp_path, name, change, message):
    root = make_dogs(tmp_path / "dogs", classes=2, per_class=3)
    change_list(root, **{name: change})
    assert message in refused(stanford_dogs.scan, root, stanford_dogs.Options())


def test_dogs_annotations_lead_nowhere_else(tmp_path):
    root = make_dogs(tmp_path / "dogs", classes=2, per_class=3)

    def outside(rows: np.ndarray) -> np.ndarray:
        rows[0, 0] = "../../secret"
        return rows

    change_list(root, annotation_list=outside)
    assert "annotation of another image: train_list.mat n02085620-Chihuahua/n02085620_10.jpg (../../secret)" in refused(
        stanford_dogs.scan, root, stanford_dogs.Options()
    )
