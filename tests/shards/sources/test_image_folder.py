"""Image folders: every way to split and to have boxes, and each thing that can be wrong named in one line."""

import json
import logging
import re
from collections import Counter
from pathlib import Path

import pytest
from made_trees import check_valid, make_folder, refused, voc, write_csv

from shards.sources import image_folder

SHARES = (("train", 8), ("test", 2))


def test_folder_seeded_split_is_stratified_and_stable(tmp_path):
    make_folder(tmp_path, classes=3, per_class=10)
    (tmp_path / "Indigo_Bunting/only.txt").write_text("no image")
    (tmp_path / "Indigo_Bunting/._0.jpg").write_bytes(b"what macOS leaves behind")
    (tmp_path / ".cache").mkdir()
    first = image_folder.scan(tmp_path, image_folder.Options())
    check_valid(first)
    assert first.classes == ("Black_footed_Albatross", "Indigo_Bunting", "Scarlet_Tanager")
    assert Counter((s.label, s.split) for s in first.samples) == {(i, s): n for i in range(3) for s, n in SHARES}
    assert image_folder.scan(tmp_path, image_folder.Options()) == first
    other = image_folder.scan(tmp_path, image_folder.Options(seed=1))
    assert [s.split for s in other.samples] != [s.split for s in first.samples]
    none = image_folder.scan(tmp_path, image_folder.Options(test_fraction=0.0))
    assert {s.split for s in none.samples} == {"train"}


def test_folder_duplicates_stay_on_one_side(tmp_path, caplog):
    make_folder(tmp_path, classes=3, per_class=6)
    for i in range(8):
        original = tmp_path / f"Indigo_Bunting/{i % 4}.jpg"
        original.with_name(f"copy{i}.jpg").write_bytes(original.read_bytes())
    (tmp_path / "Scarlet_Tanager/bunting.jpg").write_bytes((tmp_path / "Indigo_Bunting/0.jpg").read_bytes())
    for seed in range(5):
        with caplog.at_level(logging.WARNING):
            dataset = image_folder.scan(tmp_path, image_folder.Options(test_fraction=0.4, seed=seed))
        sides: dict[bytes, set[str]] = {}
        for sample in dataset.samples:
            sides.setdefault(dataset.read(sample), set()).add(sample.split)
        assert all(len(side) == 1 for side in sides.values())
        assert {s.split for s in dataset.samples if s.label == 1} == {"train", "test"}
    assert dataset.extra == {"duplicates": {"superfluous_files": 9, "across_classes": 1, "across_splits": 0}}
    assert "1 image is in different classes at once" in caplog.text
    assert "Scarlet_Tanager/bunting.jpg" in caplog.text


def test_folder_split_by_folders(tmp_path, caplog):
    make_folder(tmp_path, per_class=6, split=True)
    (tmp_path / "val/Indigo_Bunting/deeper/still").mkdir(parents=True)
    image = (tmp_path / "train/Indigo_Bunting/0.jpg").read_bytes()
    (tmp_path / "val/Indigo_Bunting/deeper/still/a.jpg").write_bytes(image)
    dataset = image_folder.scan(tmp_path, image_folder.Options())
    check_valid(dataset)
    assert Counter(sample.split for sample in dataset.samples) == {"train": 12, "test": 6, "val": 1}
    assert "val__Indigo_Bunting__deeper__still__a" in {sample.key for sample in dataset.samples}
    assert "1 image is in different splits at once (training sees what it is tested on)" in caplog.text
    assert dataset.extra["duplicates"]["across_splits"] == 1


def test_folder_split_by_folders_wrong(tmp_path):
    make_folder(tmp_path, split=True)
    image = (tmp_path / "train/Indigo_Bunting/0.jpg").read_bytes()
    for stray in ("loose.jpg", "train/loose.jpg", "extra/Indigo_Bunting/a.jpg", "test/Dodo/a.jpg"):
        (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stray).write_bytes(image)
    (tmp_path / "train/Moa").mkdir()
    said = refused(image_folder.scan, tmp_path, image_folder.Options())
    assert ": 5 problems: image outside a class folder: loose.jpg, train/loose.jpg; " in said
    assert "folder with images beside the split folders: extra/; " in said
    assert "class without training images: Dodo; class without images: Moa. Correct or remove these" in said


def test_folder_layouts_that_make_no_dataset(tmp_path):
    make_folder(tmp_path / "one/wrapped")
    assert f"did you mean {tmp_path / 'one/wrapped'}?" in refused(
        image_folder.scan, tmp_path / "one", image_folder.Options()
    )
    make_folder(tmp_path / "half/train")
    assert "only train/; add test/ or val/" in refused(image_folder.scan, tmp_path / "half", image_folder.Options())
    (tmp_path / "none").mkdir()
    assert "no class folders" in refused(image_folder.scan, tmp_path / "none", image_folder.Options())
    assert "no such folder" in refused(image_folder.scan, tmp_path / "nowhere", image_folder.Options())
    said = refused(image_folder.scan, tmp_path / "half/train", image_folder.Options(test_fraction=1.5))
    assert said == "test_fraction=1.5: must be at least 0 and below 1"
    (tmp_path / "half/train/Empty").mkdir()
    (tmp_path / "half/train/Indigo_Bunting/link.jpg").symlink_to(tmp_path / "gone.jpg")
    said = refused(image_folder.scan, tmp_path / "half/train", image_folder.Options())
    assert "unreadable file: Indigo_Bunting/link.jpg (No such file or directory)" in said
    assert "class without images: Empty" in said


def test_folder_classes_named_train_and_other_scripts(tmp_path):
    make_folder(tmp_path, classes=2, extension="png")
    (tmp_path / "Indigo_Bunting").rename(tmp_path / "train")
    (tmp_path / "Black_footed_Albatross").rename(tmp_path / "альбатрос")
    for name in ("0", "1"):
        (tmp_path / f"альбатрос/{name}.png").rename(tmp_path / f"альбатрос/{'один' if name == '0' else 'пять'}.PNG")
    dataset = image_folder.scan(tmp_path, image_folder.Options())
    assert dataset.classes == ("train", "альбатрос")
    assert len({sample.key for sample in dataset.samples}) == 10
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", sample.key) for sample in dataset.samples)


def test_folder_split_csv(tmp_path):
    root = tmp_path / "birds"
    names = list(make_folder(root))
    rows = [[name, "fold 1", ("val", "test", "train", "train", "train")[i % 5]] for i, name in enumerate(names)]
    table = write_csv(tmp_path / "split.csv", ["file", "remark", "split"], rows)
    dataset = image_folder.scan(root, image_folder.Options(split_csv=str(table)))
    check_valid(dataset)
    assert Counter(sample.split for sample in dataset.samples) == {"train": 9, "test": 3, "val": 3}

    rows[0][2] = "exam"
    write_csv(table, ["file", "remark", "split"], [*rows[:-1], rows[1], ["gone.jpg", "", "train"], ["short"]])
    said = refused(image_folder.scan, root, image_folder.Options(split_csv=str(table)))
    assert ": 5 problems: malformed line: split.csv:18 'short'; " in said
    assert "split that is none of train, val, test: split.csv:2 'Black_footed_Albatross/0.jpg' = 'exam'; " in said
    assert (
        "listed twice: split.csv:16 'Black_footed_Albatross/1.jpg'; missing image file: split.csv:17 'gone.jpg'" in said
    )
    assert "image without a row in split.csv: Scarlet_Tanager/4.jpg" in said

    write_csv(table, ["path", "split"], [])
    said = refused(image_folder.scan, root, image_folder.Options(split_csv=str(table)))
    assert "no column file in 'path,split'; line 1 must name file,split" in said
    said = refused(image_folder.scan, root, image_folder.Options(split_csv=str(tmp_path / "gone.csv")))
    assert "gone.csv: no such file; it must be a CSV with the columns file,split" in said
    make_folder(tmp_path / "split", split=True)
    said = refused(image_folder.scan, tmp_path / "split", image_folder.Options(split_csv=str(table)))
    assert "leave one of them out" in said


def write_boxes(kind: str, root: Path, boxes: dict) -> Path:
    """The same boxes as a VOC folder inside `root`, as COCO or as CSV beside it."""
    if kind == "voc":
        for name, corners in boxes.items():
            file = root / "labels" / Path(name).with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(voc(name, "bird", (99, 99), corners))
        return root / "labels"
    if kind == "coco":
        flat = [(i, c) for i, corners in enumerate(boxes.values()) for c in corners]
        annotations = [
            {"image_id": i, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]} for i, (x0, y0, x1, y1) in flat
        ]
        images = [{"id": i, "file_name": name} for i, name in enumerate(boxes)]
        crowd = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
        document = {"images": images, "categories": [{"id": 1, "name": "bird"}], "annotations": [*annotations, crowd]}
        (root.parent / "boxes.json").write_text(json.dumps(document))
        return root.parent / "boxes.json"
    rows = [[name, *(corners or [""] * 4)] for name, all_corners in boxes.items() for corners in all_corners or [None]]
    return write_csv(root.parent / "boxes.csv", ["file", "x0", "y0", "x1", "y1"], rows)


@pytest.mark.parametrize("kind", ["voc", "coco", "csv"])
def test_folder_boxes(tmp_path, kind):
    root = tmp_path / "birds"
    boxes = make_folder(root)
    boxes["Indigo_Bunting/0.jpg"] = []  # expressly none
    boxes["Indigo_Bunting/1.jpg"] = [(1, 2, 30, 40), (31, 2, 60, 50)]
    source = write_boxes(kind, root, boxes)
    dataset = image_folder.scan(root, image_folder.Options(boxes=str(source)))
    assert len(dataset.classes) == 3  # a folder of annotations inside the root is no class
    got = {sample.path.relative_to(root).as_posix(): list(sample.boxes) for sample in dataset.samples}
    assert got == boxes

    del boxes["Scarlet_Tanager/4.jpg"]
    boxes["Scarlet_Tanager/gone.jpg"] = [(1, 1, 2, 2)]
    boxes["Scarlet_Tanager/3.jpg"] = [(5, 5, 5, 9)]
    if kind == "voc":
        (root / "labels/Scarlet_Tanager/4.xml").unlink()
    source = write_boxes(kind, root, boxes)
    said = refused(image_folder.scan, root, image_folder.Options(boxes=str(source)))
    assert ": 3 problems: " in said
    assert f"image without boxes in {source.name}: Scarlet_Tanager/4.jpg" in said
    assert "annotation of no image: " in said
    assert {
        "voc": "malformed annotation: Scarlet_Tanager/3.xml (object 1: box '5 5 5 9')",
        "coco": "malformed annotation: boxes.json annotations[13] bbox=[5, 5, 0, 4]",
        "csv": "malformed line: boxes.csv:16 'Scarlet_Tanager/3.jpg'",
    }[kind] in said


def test_folder_boxes_by_bare_name_and_of_the_class_only(tmp_path):
    root = tmp_path / "birds"
    for name in make_folder(root, classes=2, per_class=3):
        (root / name).rename((root / name).with_name(name.replace("/", "-")))
    labels = tmp_path / "flat"
    labels.mkdir()
    for image in root.rglob("*.jpg"):
        both = voc("a", "Indigo_Bunting", (99, 99), [(1, 1, 9, 9)]).replace("</annotation>", "")
        other = voc("a", "Black_footed_Albatross", (99, 99), [(2, 2, 9, 9)]).split("\n", 3)[3]
        (labels / f"{image.stem}.xml").write_text(both + other)
    dataset = image_folder.scan(root, image_folder.Options(boxes=str(labels)))
    assert {(sample.label, sample.boxes) for sample in dataset.samples} == {
        (0, ((2.0, 2.0, 9.0, 9.0),)),
        (1, ((1.0, 1.0, 9.0, 9.0),)),
    }


def test_folder_boxes_named_from_another_folder(tmp_path):
    root = tmp_path / "birds"
    boxes = make_folder(root)
    source = write_boxes("coco", root, {f"somewhere/birds/{name}": corners for name, corners in boxes.items()})
    dataset = image_folder.scan(root, image_folder.Options(boxes=str(source)))
    assert [list(sample.boxes) for sample in dataset.samples] == list(boxes.values())
    (root / "Indigo_Bunting/only_here.jpg").write_bytes(b"unique name")
    source = write_boxes("coco", root, boxes | {"Scarlet_Tanager/only_here.jpg": []})
    said = refused(image_folder.scan, root, image_folder.Options(boxes=str(source)))
    assert "annotation of no image: boxes.json Scarlet_Tanager/only_here.jpg" in said


def test_folder_boxes_that_are_no_boxes(tmp_path):
    root = tmp_path / "birds"
    make_folder(root)
    said = refused(image_folder.scan, root, image_folder.Options(boxes=str(tmp_path / "gone.json")))
    assert said == f"boxes={tmp_path / 'gone.json'}: no such file"
    for name, text, message in (
        ("a.txt", "", "neither a folder of VOC .xml files, nor a COCO .json, nor a .csv"),
        ("a.json", "[1, 2]", "not a COCO annotation file"),
        ("b.json", "{", "not a COCO annotation file"),
        ("a.csv", "file,x,y,w,h\n", "no column x0, y0, x1, y1 in 'file,x,y,w,h'"),
    ):
        (tmp_path / name).write_text(text)
        assert message in refused(image_folder.scan, root, image_folder.Options(boxes=str(tmp_path / name)))
