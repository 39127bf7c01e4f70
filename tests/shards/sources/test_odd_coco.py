"""COCO as other programs write it: layouts, unused categories, background, missing sizes, paths, images named twice."""

import copy
import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from made_trees import refused
from tiny_images import encoded, picture

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.manifest import Manifest
from shards.sample import RawDataset
from shards.sources import coco
from shards.sources.coco import Options

BOX = [10, 10, 40, 20]
CATEGORIES = [{"id": 1, "name": "robin"}, {"id": 2, "name": "wren"}]


def document(numbers, name=lambda i: f"{i}.jpg", size=(60, 40), box=BOX, categories=CATEGORIES) -> dict:
    """Image i has category 1 + i % 2."""
    sizes = {} if size is None else {"width": size[0], "height": size[1]}
    return {
        "images": [{"id": i, "file_name": name(i), **sizes} for i in numbers],
        "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": box} for i in numbers],
        "categories": copy.deepcopy(categories),
    }


def write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def images(folder: Path, numbers) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / f"{i}.jpg").write_bytes(encoded(picture(i)))


def plain(root: Path, train: dict, test: dict | None = None) -> Path:
    """ROOT/annotations and ROOT/images of pictures 0 to 7."""
    images(root / "images", range(8))
    write(root / "annotations/train.json", train)
    write(root / "annotations/test.json", test or document(range(6, 8)))
    return root


def built(root: Path, **options) -> Manifest:
    return build(coco.scan(root, Options(**options)), root.with_name(root.name + "-out"), BuildOptions(workers=1))


def of(dataset: RawDataset) -> dict[str, tuple]:
    return {s.key: (dataset.classes[s.label], s.split, s.boxes) for s in dataset.samples}


FIXED = (10.0, 10.0, 50.0, 30.0)


def test_as_coco_is_distributed(tmp_path, caplog):
    for split, numbers in (("train2017", range(1, 7)), ("val2017", range(7, 10))):
        images(tmp_path / split, numbers)
        write(tmp_path / f"annotations/instances_{split}.json", document(numbers))
        write(tmp_path / f"annotations/captions_{split}.json", {"images": [], "annotations": [{"caption": "a bird"}]})
    with caplog.at_level(logging.WARNING):
        manifest = built(tmp_path)
    assert manifest.counts == {"train": 6, "val": 3}
    assert {entry.boxes for entry in manifest.entries} == {(FIXED,)}
    assert "instances_*.json are read, not captions_train2017.json, captions_val2017.json" in caplog.text
    assert coco.scan(tmp_path, Options(images=".")).samples == coco.scan(tmp_path, Options()).samples


def test_the_same_file_names_in_train_and_val(tmp_path):
    for split, shift in (("train2017", 0), ("val2017", 50)):
        (tmp_path / split).mkdir()
        for i in range(4):
            (tmp_path / split / f"{i}.jpg").write_bytes(encoded(picture(i + shift)))
        write(tmp_path / f"annotations/instances_{split}.json", document(range(4)))
    dataset = coco.scan(tmp_path, Options())
    assert all(sample.split in sample.path.parent.name for sample in dataset.samples)
    assert len({sample.key for sample in dataset.samples}) == 8


def test_as_roboflow_exports_it(tmp_path, caplog):
    categories = [{"id": 0, "name": "birds-xyz", "supercategory": "none"}, *CATEGORIES]
    for split, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        images(tmp_path / split, numbers)
        write(tmp_path / split / "_annotations.coco.json", document(numbers, categories=categories))
    with caplog.at_level(logging.WARNING):
        dataset = coco.scan(tmp_path, Options())
    assert dataset.classes == ("robin", "wren")
    assert Counter(sample.split for sample in dataset.samples) == {"train": 6, "val": 2, "test": 2}
    assert "1 category is no class, without any image: birds-xyz" in caplog.text


def test_background_images_are_left_out_or_kept(tmp_path, caplog):
    train = document(range(6))
    train["annotations"] = [item for item in train["annotations"] if item["image_id"] not in (2, 3)]
    plain(tmp_path, train)
    with caplog.at_level(logging.WARNING):
        dataset = coco.scan(tmp_path, Options())
    assert sorted(of(dataset)) == ["0", "1", "4", "5", "6", "7"]
    assert dataset.extra["images_without_class"] == 2
    assert "2 images without an annotation are left out: they have no class (several=one_class keeps" in caplog.text
    found = of(coco.scan(tmp_path, Options(several="one_class")))
    assert found["2"] == ("object", "train", ())
    assert found["1"] == ("object", "train", (FIXED,))


@pytest.mark.parametrize("size", [None, (0, 0), ("60", "40"), (None, None)])
def test_sizes_missing_or_as_text(tmp_path, size):
    manifest = built(plain(tmp_path, document(range(6), size=size), document((6, 7), size=size)))
    assert {entry.boxes for entry in manifest.entries} == {(FIXED,)}
    assert {(entry.width, entry.height) for entry in manifest.entries} == {(60, 40)}


def test_images_made_smaller_after_they_were_annotated(tmp_path):
    train, test = (document(n, size=(120, 80), box=[20, 20, 80, 40]) for n in (range(6), (6, 7)))
    manifest = built(plain(tmp_path, train, test))
    assert {entry.boxes for entry in manifest.entries} == {(FIXED,)}
    assert manifest.notes == {"boxes scaled to the image's size": 8}


def test_without_sizes_boxes_far_beyond_their_image_are_refused(tmp_path):
    plain(tmp_path, document(range(6), size=None, box=[20, 20, 80, 40]))
    said = refused(lambda root, options: built(root), tmp_path, None)
    assert "6 of 8 images cannot be used: " in said
    assert "0.jpg (box (20, 20, 100, 60) reaches beyond the image of 60 x 40" in said


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"images\\{i}.jpg", lambda i: f"/home/me/birds/images/{i}.jpg", lambda i: f"C:\\birds\\{i}.jpg",
        lambda i: f"./{i}.jpg", lambda i: f"{i}.JPG", lambda i: f"../images/{i}.jpg",
    ],
)  # fmt: skip
def test_file_names_of_other_machines(tmp_path, name):
    dataset = coco.scan(plain(tmp_path, document(range(6), name)), Options())
    assert of(dataset)["3"] == ("wren", "train", (FIXED,))
    assert len(dataset.samples) == 8


def test_no_file_name_leads_out_of_the_folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(1)))
    for name in ("../../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg"):
        plain(tmp_path / "data", document(range(6), lambda i, name=name: name if i == 0 else f"{i}.jpg"))
        assert "missing image file: train.json" in refused(coco.scan, tmp_path / "data", Options())


def test_an_image_in_two_splits_or_listed_twice_is_said(tmp_path):
    plain(tmp_path, document(range(6)), document((0, 6, 7)))
    assert "1 problem: image in two splits: 0.jpg (test and train). " in refused(coco.scan, tmp_path, Options())
    twice = document(range(6))
    twice["images"].append(twice["images"][1] | {"id": 99})
    plain(tmp_path, twice)
    assert "1 problem: image listed twice: train.json 1.jpg. " in refused(coco.scan, tmp_path, Options())


def test_the_same_picture_under_two_names_is_warned_of(tmp_path, caplog):
    plain(tmp_path, document(range(6)))
    (tmp_path / "images/7.jpg").write_bytes((tmp_path / "images/1.jpg").read_bytes())
    with caplog.at_level(logging.WARNING):
        dataset = coco.scan(tmp_path, Options())
    assert dataset.extra["duplicates"] == {"superfluous_files": 1, "across_classes": 0, "across_splits": 1}
    assert "different splits at once (training sees what it is tested on)" in caplog.text


def test_names_in_two_spellings(tmp_path):
    other = [{"id": 1, "name": "Robin"}, {"id": 2, "name": " wren"}]
    dataset = coco.scan(plain(tmp_path, document(range(6)), document((6, 7), categories=other)), Options())
    assert {row[0].strip().lower() for row in of(dataset).values()} == {"robin", "wren"}
    assert len(dataset.classes) == 2
    three = [*CATEGORIES, {"id": 3, "name": "Wren"}]
    plain(tmp_path, document(range(6), categories=three))
    said = refused(coco.scan, tmp_path, Options())
    assert "categories that differ only by case, blanks or Unicode form: 'wren' and 'Wren'" in said


def test_classes_alone_as_inaturalist_has_them(tmp_path):
    train, test = document(range(6)), document((6, 7))
    for item in (*train["annotations"], *test["annotations"]):
        del item["bbox"]
    found = of(coco.scan(plain(tmp_path, train, test), Options()))
    assert found["3"] == ("wren", "train", ())
    assert len(found) == 8
    train["annotations"][0]["bbox"] = BOX  # boxes are expected then
    plain(tmp_path, train, test)
    assert "5 problems: malformed or empty box: train.json annotations[1] bbox=None" in refused(
        coco.scan, tmp_path, Options()
    )


def test_malformed_boxes_are_named_once(tmp_path):
    plain(tmp_path, document(range(6), box=None))
    said = refused(coco.scan, tmp_path, Options())
    assert ": 6 problems: malformed or empty box: train.json annotations[0] bbox=None, " in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][0].update(id=[1]), "id [1] is neither a number nor a text"),
        (lambda d: d["images"][0].update(file_name="a\n.jpg"), "has control characters"),
        (lambda d: d["categories"][0].update(name="\x1b[2J"), "has control characters"),
        (lambda d: d["images"].append("text"), "'images' is not a list of objects"),
        (lambda d: d["images"][0].update(width="wide"), "could not convert string to float"),
        (lambda d: (d.update(info={"fgvc": 1}), d["images"][0].update(parts={"eye": [1]})), "not enough values"),
        (lambda d: d["categories"][0].update(name=None), "name None is no text"),
        (lambda d: d["categories"][0].update(name=["robin"]), "name ['robin'] is no text"),
        (lambda d: d["images"][0].update(width=10**400), "int too large"),
        (lambda d: d.pop("annotations"), "no 'annotations'"),
    ],
)
def test_files_that_are_not_coco(tmp_path, change, message):
    content = document(range(6))
    change(content)
    said = refused(coco.scan, plain(tmp_path, content), Options())
    assert "train.json: not a COCO annotation file (" in said
    assert message in said
    assert said.isprintable()


def test_with_sizes_too_boxes_far_beyond_their_image_are_refused(tmp_path):
    plain(tmp_path, document(range(6), box=[30, 10, 55, 35]))  # corners where a width and a height belong
    said = refused(lambda root, options: built(root), tmp_path, None)
    assert "0.jpg (box (30, 10, 85, 45) reaches beyond the image of 60 x 40" in said
    manifest = built(plain(tmp_path, document(range(6), box=[10, 10, 53, 20])))  # 3 of 60 pixels: a tool's carelessness
    assert manifest.notes == {"boxes clipped": 6}
    assert manifest.entries[0].boxes[0][2] in (60, 50)
