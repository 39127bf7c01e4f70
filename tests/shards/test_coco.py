"""COCO out and back loses nothing; SAHI and pycocotools read what we write; bad files are named."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_trees import make_dogs
from sahi.utils.coco import Coco
from tiny_images import make_raw

from jobs.cli import main
from jobs.shards import build_from
from shards.building.build import build
from shards.building.config import BuildOptions
from shards.coco_export import document, to_xywh
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.reading.reader import Reader


def there_and_back(manifest: Manifest, folder: Path) -> Manifest:
    assert main(["shards", "coco", str(manifest.folder), str(folder / "coco")]) == 0
    build_from("coco", folder / "coco", folder / "again")
    return read_manifest(folder / "again")


def records(manifest: Manifest) -> dict:
    reader = Reader(manifest)
    return {
        entry.key: (
            manifest.classes[entry.label], entry.split, entry.width, entry.height, entry.boxes, entry.parts,
            entry.origin, reader.read(index),
        )
        for index, entry in enumerate(manifest.entries)
    }  # fmt: skip


def test_there_and_back_loses_nothing(guide: Manifest, tmp_path: Path) -> None:
    again = there_and_back(guide, tmp_path)
    assert again.classes == guide.classes
    assert records(again) == records(guide)
    assert all(entry.boxes and entry.parts for entry in again.entries)


def test_several_objects_an_image(tmp_path: Path) -> None:
    make_dogs(tmp_path / "raw")
    build_from("stanford_dogs", tmp_path / "raw", tmp_path / "dogs")
    dogs = read_manifest(tmp_path / "dogs")
    assert max(len(entry.boxes) for entry in dogs.entries) == 2
    assert records(there_and_back(dogs, tmp_path)) == records(dogs)


@pytest.mark.parametrize(("x0", "x1"), [(0.1, 0.3), (17.3, 211.7), (1e-9, 499.99999), (1 / 3, 2 / 3), (123.4, 1234.5)])
def test_width_is_exact_to_the_last_bit_where_one_is(x0: float, x1: float) -> None:
    x, y, width, height = to_xywh((x0, x0 / 7, x1, x1 / 7))
    assert (x, y, x + width, y + height) == (x0, x0 / 7, x1, x1 / 7)


side = st.floats(0, 10_000, allow_subnormal=False)


@given(st.tuples(side, side), st.tuples(side, side))
@example((37.67, 223.71), (0.1, 0.3))  # no width leads from the one to the other
@settings(max_examples=500, deadline=200)
def test_width_is_the_nearest_there_is_for_any_corners(xs: tuple[float, float], ys: tuple[float, float]) -> None:
    (x0, x1), (y0, y1) = sorted(xs), sorted(ys)
    x, y, width, height = to_xywh((x0, y0, x1, y1))
    assert (x, y) == (x0, y0)
    for low, span, high in ((x0, width, x1), (y0, height, y1)):
        assert abs(low + span - high) <= math.ulp(high)
        for other in (math.nextafter(span, -1), math.nextafter(span, math.inf)):
            assert abs(low + span - high) <= abs(low + other - high)


def test_corners_that_no_width_gives_come_back_exactly(guide: Manifest, tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", train=16, test=8)
    box = (7.67, 4.1, 53.71, 36.300000000000004)
    samples = tuple(replace(sample, boxes=(box,)) for sample in raw.samples)
    manifest = build(replace(raw, samples=samples), tmp_path / "shards", BuildOptions(workers=1))
    assert records(there_and_back(manifest, tmp_path)) == records(manifest)
    file = tmp_path / "coco/annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 30, 20]  # another program moved it and left our field as it was
    file.write_text(json.dumps(content))
    build_from("coco", tmp_path / "coco", tmp_path / "moved")
    moved = {entry.boxes for entry in read_manifest(tmp_path / "moved").entries}
    assert moved == {((1.0, 2.0, 31.0, 22.0),), manifest.entries[0].boxes}


def test_sahi_reads_the_same_boxes(guide: Manifest) -> None:
    coco = Coco.from_coco_dict_or_path(document(guide, "test"))
    members = [entry for entry in guide.entries if entry.split == "test"]
    assert [image.file_name for image in coco.images] == [f"{entry.key}.jpg" for entry in members]
    for image, entry in zip(coco.images, members, strict=True):
        assert [annotation.category_name for annotation in image.annotations] == [guide.classes[entry.label]]
        x, y, width, height = image.annotations[0].bbox
        assert (x, y, x + width, y + height) == pytest.approx(entry.boxes[0], abs=1e-9)


@pytest.fixture
def written(guide: Manifest, tmp_path: Path) -> Path:
    """The training images of the guide as a COCO tree, to be damaged."""
    assert main(["shards", "coco", str(guide.folder), str(tmp_path / "coco")]) == 0
    return tmp_path / "coco"


def damage(root: Path, change) -> None:
    file = root / "annotations/train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=99), "unknown category: train.json annotations[0]"),
        (lambda c: c["annotations"][1].update(image_id=-1), "annotation of no image: train.json annotations[1]"),
        (lambda c: c["annotations"][2].update(bbox=[5, 5, 0, 9]), "malformed or empty box: train.json annotations[2]"),
        (lambda c: c["annotations"][3].update(bbox=[900, 5, 9, 9]), "box outside its image: train.json annotations[3]"),
        (lambda c: c["images"].append(c["images"][0]), "image id used twice"),
        (lambda c: c.pop("images"), "not a COCO annotation file (no 'images')"),
        (lambda c: c["annotations"][0].update(category_id=c["images"][0]["class_id"] % 4 + 1), "several categories"),
    ],
)  # fmt: skip
def test_bad_files_are_named(written: Path, tmp_path: Path, change, message: str) -> None:
    damage(written, change)
    with pytest.raises(UserError, match=re.escape(message)):
        build_from("coco", written, tmp_path / "out")


def test_another_programs_file(written: Path, tmp_path: Path, guide: Manifest) -> None:
    """Without our additional fields: keys from file names, classes from annotations, several of them as asked."""
    (written / "annotations/test.json").rename(written / "annotations/instances_test2017.json")
    (written / "annotations/train.json").rename(written / "annotations/instances_train2017.json")
    for file in (written / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["images"] = [
            {key: image[key] for key in ("id", "file_name", "width", "height")} for image in content["images"]
        ]
        image = content["images"][0]
        other = {"id": 10**6, "image_id": image["id"], "bbox": [0, 0, 2, 2], "iscrowd": 0}
        first = next(item for item in content["annotations"] if item["image_id"] == image["id"])
        content["annotations"].append(other | {"category_id": first["category_id"] % 4 + 1})
        content["annotations"].append(other | {"category_id": first["category_id"], "iscrowd": 1})
        file.write_text(json.dumps(content))
    build_from("coco", written, tmp_path / "largest", ["several=largest"])
    largest = read_manifest(tmp_path / "largest")
    assert {e.key: (e.label, e.boxes) for e in largest.entries} == {e.key: (e.label, e.boxes) for e in guide.entries}
    assert largest.extra["boxes_of_other_categories"] == 2
    build_from("coco", written, tmp_path / "one", ["several=one_class"])
    merged = read_manifest(tmp_path / "one")
    assert merged.classes == ("object",)
    assert sorted(len(entry.boxes) for entry in merged.entries) == [1] * (len(guide.entries) - 2) + [2, 2]
