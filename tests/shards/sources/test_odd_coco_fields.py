"""Fields of COCO files as other programs fill them, and images that are not where the file says."""

import json
import logging
from pathlib import Path

import pytest
from made_trees import refused
from tiny_images import encoded, picture

from shards.sample import RawDataset
from shards.sources import coco, image_folder
from shards.sources.coco import Options

FIXED = (10.0, 10.0, 50.0, 30.0)
POLYGON = [10, 10, 50, 10, 50, 30, 10, 30]


def data(root: Path, image=None, annotation=None, files=("train", "test"), size=(60, 40), name=None) -> Path:
    """8 images, of robins and wrens by turns; `image` and `annotation` change every object of their kind."""
    for file, numbers in zip(files, ((0, 1, 2, 3, 4, 5), (6, 7)), strict=False):
        images = [{"id": i, "file_name": name(i) if name else f"{i}.jpg"} for i in numbers]
        annotations = [{"id": i, "image_id": i, "category_id": i % 2, "bbox": [10, 10, 40, 20]} for i in numbers]
        for change, items in ((image, images), (annotation, annotations)):
            for item in items if change else []:
                change(item)
        document = {"images": images, "annotations": annotations}
        document["categories"] = [{"id": 0, "name": "robin"}, {"id": 1, "name": "wren"}]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/{file}.json").write_text(json.dumps(document))
    (root / "images").mkdir(exist_ok=True)
    for i in range(8):
        (root / f"images/{i}.jpg").write_bytes(encoded(picture(i, size)))
    return root


def scan(root: Path, **options) -> RawDataset:
    return coco.scan(root, Options(**options))


def boxes(dataset: RawDataset) -> set[tuple]:
    return {sample.boxes for sample in dataset.samples}


@pytest.mark.parametrize("flag", ["0", "false", "", 0, None, 0.0])
def test_no_crowd_however_it_is_written(tmp_path, flag):
    assert boxes(scan(data(tmp_path, annotation=lambda a: a.update(iscrowd=flag)))) == {(FIXED,)}


@pytest.mark.parametrize("flag", ["1", "True", 1])
def test_a_crowd_however_it_is_written(tmp_path, flag):
    root = data(tmp_path, annotation=lambda a: a["id"] == 2 and a.update(iscrowd=flag))
    assert len(scan(root).samples) == 7


def outlined(annotation: dict) -> None:
    del annotation["bbox"]
    annotation["segmentation"] = [POLYGON[:4], POLYGON[4:]]


def test_polygons_without_bbox_give_their_bounds(tmp_path, caplog):
    root = data(tmp_path, annotation=outlined)
    with caplog.at_level(logging.WARNING):
        assert boxes(scan(root)) == {(FIXED,)}
    assert "train.json: 6 annotations without a bbox: the bounds of their polygons are taken" in caplog.text
    for i in range(8):
        folder = tmp_path / f"photos/{'robin' if i % 2 == 0 else 'wren'}"
        folder.mkdir(parents=True, exist_ok=True)
        (root / f"images/{i}.jpg").rename(folder / f"{i}.jpg")
    document = json.loads((root / "annotations/train.json").read_text())
    rest = json.loads((root / "annotations/test.json").read_text())
    for key in ("images", "annotations"):
        document[key] += rest[key]
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    options = image_folder.Options(boxes=str(tmp_path / "boxes.json"))
    assert boxes(image_folder.scan(tmp_path / "photos", options)) == {(FIXED,)}


@pytest.mark.parametrize("outline", [{"counts": [1, 2], "size": [40, 60]}, [[1, 2]], ["text"], [[1, "x", 3, 4]]])
def test_outlines_without_bbox_that_are_no_polygons_are_named(tmp_path, outline):
    root = data(tmp_path, annotation=lambda a: (a.pop("bbox"), a.update(segmentation=outline)))
    assert "8 problems: malformed or empty box: test.json annotations[0]" in refused(coco.scan, root, Options())


@pytest.mark.parametrize("text", ["1299", "[10, 10, 40, 20]"])
def test_a_bbox_as_text_is_named(tmp_path, text):
    root = data(tmp_path, annotation=lambda a: a.update(bbox=text))
    assert f"malformed or empty box: test.json annotations[0] bbox={text}" in refused(coco.scan, root, Options())


def test_fields_of_ours_mean_nothing_in_other_files(tmp_path):
    expected = [(s.key, s.label, s.boxes, s.parts, s.origin) for s in scan(data(tmp_path / "a")).samples]
    foreign = {"origin": None, "parts": ["x"], "key": "bucket/a b.jpg", "class_id": 1}
    root = data(tmp_path / "b", lambda i: i.update(foreign), lambda a: a.update(corners=[0, 0, 1, 1]))
    assert [(s.key, s.label, s.boxes, s.parts, s.origin) for s in scan(root).samples] == expected


def test_two_categories_of_one_name_are_said(tmp_path, caplog):
    root = data(tmp_path)
    for file in ("train", "test"):
        path = root / f"annotations/{file}.json"
        document = json.loads(path.read_text())
        document["categories"].append({"id": 2, "name": "robin"})
        path.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        assert scan(root).classes == ("robin", "wren")
    assert "categories 0 and 2 have one name, robin: one class" in caplog.text


def test_split_fields_of_images(tmp_path, caplog):
    def halves(image: dict) -> None:
        image["split"] = "Validation" if image["id"] > 3 else "train"

    dataset = scan(data(tmp_path / "one", halves, files=("annotations",)))
    assert {s.key: s.split for s in dataset.samples} == {str(i): "val" if i > 3 else "train" for i in range(6)}
    said = refused(coco.scan, data(tmp_path / "two", halves), Options())
    assert "image whose split field contradicts its file's name: test.json 6.jpg (split='Validation')" in said
    root = data(tmp_path / "three", lambda i: i["id"] and i.update(split="train"), files=("annotations",))
    assert "1 problem: image whose split field names no split: annotations.json 0.jpg" in refused(
        coco.scan, root, Options()
    )
    with caplog.at_level(logging.WARNING):
        scan(data(tmp_path / "four", lambda i: i.update(split="restval")))
    assert "split fields of 6 images name no split (restval); all are train" in caplog.text


def test_another_picture_is_not_taken_for_a_missing_one(tmp_path):
    root = data(tmp_path, name=lambda i: f"{'wren' if i % 2 else 'robin'}/{i}.jpg")
    assert len(scan(root).samples) == 8  # the folders of another machine
    for i in range(8):
        folder = root / f"images/{'wren' if i % 2 else 'robin'}"
        folder.mkdir(exist_ok=True)
        (root / f"images/{i}.jpg").rename(folder / f"{i}.jpg")
    assert len(scan(root).samples) == 8
    (root / "images/wren/3.jpg").rename(root / "images/3.jpg")
    assert "1 problem: missing image file: train.json wren/3.jpg. " in refused(coco.scan, root, Options())
    root = data(tmp_path / "whole", name=lambda i: f"/home/wren/birds/images/{i}.jpg")
    (root / "images/wren").mkdir()
    (root / "images/wren/9.jpg").write_bytes(encoded(picture(9)))
    assert len(scan(root).samples) == 8


def test_another_split_has_no_image_of_ours(tmp_path):
    root = data(tmp_path)
    for split, numbers in (("train", range(5)), ("test", (5, 6, 7))):
        (root / split).mkdir()
        for i in numbers:
            (root / f"images/{i}.jpg").rename(root / f"{split}/{i}.jpg")
        (root / f"annotations/{split}.json").rename(root / f"{split}/_annotations.coco.json")
    for folder in ("images", "annotations"):
        (root / folder).rmdir()
    assert "1 problem: missing image file: _annotations.coco.json 5.jpg. " in refused(coco.scan, root, Options())


def test_a_share_that_reaches_over_its_image_among_pixels(tmp_path):
    root = data(tmp_path, annotation=lambda a: a["id"] == 0 and a.update(bbox=[0.1, 0.1, 0.95, 0.95]))
    said = refused(coco.scan, root, Options())
    assert "box of less than a pixel (a share of the image among pixels?): train.json annotations[0]" in said
    shares = scan(data(tmp_path / "all", annotation=lambda a: a.update(bbox=[0.1, 0.1, 0.95, 0.5])))
    assert {sample.canvas.size for sample in shares.samples} == {(1.0, 1.0)}


def test_boxes_that_may_be_per_cent_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        scan(data(tmp_path / "small"))
        assert "per cent" not in caplog.text
        scan(data(tmp_path / "large", size=(640, 480)))
    assert "every box lies within 0 to 100, on images of at least 480 pixels a side: are these per cent?" in caplog.text
