"""Boxes as other programs write them: spellings, shares, sizes, encodings, tables of every kind."""

import json
from pathlib import Path

import pytest
from made_trees import refused, voc
from tiny_images import encoded, picture

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.manifest import Manifest
from shards.sources import image_folder
from shards.sources.image_folder import Options

NAMES = [f"{name}/{i}.jpg" for name in ("Robin", "Wren") for i in range(4)]
BOX = (10, 10, 50, 30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(encoded(picture(number)))
    return tmp_path / "photos"


def built(root: Path, **options) -> Manifest:
    return build(image_folder.scan(root, Options(**options)), root.parent / "out", BuildOptions(workers=1))


def boxes_of(manifest: Manifest) -> set[tuple]:
    return {entry.boxes for entry in manifest.entries}


def write_voc(root: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    file = root.parent / "voc" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return root.parent / "voc"


def of_size(text: str, width: int, height: int) -> str:
    return text.replace("<width>60</width><height>40</height>", f"<width>{width}</width><height>{height}</height>")


def test_voc_of_a_larger_picture_is_scaled(root):
    for name in NAMES:
        text = voc(name, "bird", (120, 80), [tuple(2 * value for value in BOX)])
        folder = write_voc(root, name.replace(".jpg", ".xml"), text)
    manifest = built(root, boxes=str(folder))
    assert boxes_of(manifest) == {(BOX,)}
    assert manifest.notes == {"boxes scaled to the image's size": 8}


def test_voc_of_another_shape_is_refused_by_name(root):
    for name in NAMES:
        folder = write_voc(root, name.replace(".jpg", ".xml"), voc(name, "bird", (80, 80), [BOX]))
    said = refused(lambda root, options: built(root, boxes=str(folder)), root, None)
    assert "Robin/0.jpg (its boxes were declared for 80 x 80 pixels, the image has 60 x 40, another shape)" in said


@pytest.mark.parametrize("spelling", [str.lower, str.upper, lambda name: f" {name} ", lambda name: f"{name}\n"])
def test_voc_names_of_classes_in_another_spelling(root, spelling):
    for i, name in enumerate(NAMES):
        own = name.split("/")[0]
        objects = voc(name, spelling(own) if i % 2 else own, (60, 40), [BOX])
        other = voc(name, "wren" if own == "Robin" else "ROBIN", (60, 40), [(1, 1, 9, 9)])
        text = objects.replace("</annotation>", other[other.index("<object>") :])
        folder = write_voc(root, spelling(name.replace(".jpg", "")).strip() + ".XML", text)
    assert boxes_of(built(root, boxes=str(folder))) == {(BOX,)}


def test_an_image_that_would_lose_all_its_boxes_is_named(root):
    for name in NAMES:
        own = "robbin" if name == "Robin/2.jpg" else name.split("/")[0]
        folder = write_voc(root, name.replace(".jpg", ".xml"), voc(name, own, (60, 40), [BOX]))
    said = refused(image_folder.scan, root, Options(boxes=str(folder)))
    assert "1 problem: image whose boxes all have other names than its class: Robin/2.jpg (robbin)" in said


def test_voc_beside_two_images_of_one_stem(root):
    (root / "Robin/0.png").write_bytes(encoded(picture(77), "PNG"))
    for name in [*NAMES, "Robin/0.png"]:
        file = "png/Robin/0.xml" if name.endswith("png") else name.replace(".jpg", ".xml")
        box = (1, 1, 9, 9) if name.endswith("png") else BOX
        folder = write_voc(root, file, voc(name.split("/")[1], "bird", (60, 40), [box]))
    dataset = image_folder.scan(root, Options(boxes=str(folder)))
    found = {sample.path.relative_to(root).as_posix(): sample.boxes for sample in dataset.samples}
    assert found == dict.fromkeys(NAMES, (BOX,)) | {"Robin/0.png": ((1, 1, 9, 9),)}
    write_voc(root, "Robin/0.xml", voc("neither", "bird", (60, 40), [BOX]))
    said = refused(image_folder.scan, root, Options(boxes=str(folder)))
    assert "annotation of several images: Robin/0.xml (Robin/0.jpg and Robin/0.png)" in said


def test_xml_in_unknown_encodings_and_apple_double(root):
    for name in NAMES:
        folder = write_voc(root, name.replace(".jpg", ".xml"), voc(name, "bird", (60, 40), [BOX]))
    write_voc(root, "Robin/._0.xml", "\0\5\26\7 Mac OS X")
    write_voc(root, "@eaDir/0.xml", "<x/>")
    assert boxes_of(built(root, boxes=str(folder))) == {(BOX,)}
    body = voc("a", "bird", (60, 40), [BOX])
    write_voc(root, "Robin/0.xml", f'<?xml version="1.0" encoding="klingon"?>{body}')
    write_voc(root, "Robin/1.xml", f'<?xml version="1.0" encoding="UTF-32"?>{body}')
    write_voc(root, "Robin/2.xml", f'<?xml version="1.0" encoding="utf-16"?>{body}', "utf-16")  # a known one
    write_voc(root, "Robin/3.xml", f'<?xml version="1.0" encoding="utf-8"?><!-- \xe9 -->{body}', "latin-1")
    said = refused(image_folder.scan, root, Options(boxes=str(folder)))
    assert "3 problems: malformed annotation: Robin/0.xml (not XML: unknown encoding" in said
    assert "Robin/2.xml" not in said


SHARES = (0.25, 0.25, 0.75, 0.5)  # (15, 10, 45, 20) of 60 x 40


def test_shares_of_the_image(root):
    table = root.parent / "boxes.csv"
    rows = "".join(f"{name},{','.join(map(str, SHARES))}\n" for name in NAMES)
    table.write_text("file,x0,y0,x1,y1\n" + rows)
    manifest = built(root, boxes=str(table))
    assert boxes_of(manifest) == {((15, 10, 45, 20),)}
    assert manifest.notes == {"boxes as shares of the image": 8}
    table.write_text("file,x0,y0,x1,y1\n" + rows.replace("0.75,0.5", "45,20", 1))
    said = refused(image_folder.scan, root, Options(boxes=str(table)))
    assert "7 problems: box of less than a pixel (a share of the image among pixels?): Robin/1.jpg" in said


def test_shares_in_voc_and_coco(root):
    for name in NAMES:
        folder = write_voc(root, name.replace(".jpg", ".xml"), voc(name, "bird", (600, 400), [SHARES]))
    assert boxes_of(built(root, boxes=str(folder))) == {((15, 10, 45, 20),)}
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"image_id": i, "bbox": [0.25, 0.25, 0.5, 0.25]} for i in range(8)],
    }
    (root.parent / "boxes.json").write_text(json.dumps(document))
    dataset = image_folder.scan(root, Options(boxes=str(root.parent / "boxes.json")))
    again = build(dataset, root.parent / "coco", BuildOptions(workers=1))
    assert boxes_of(again) == {((15, 10, 45, 20),)}


def test_a_csv_of_another_size_is_refused_by_name(root):
    table = root.parent / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1\n" + "".join(f"{name},20,20,100,60\n" for name in NAMES))
    said = refused(lambda root, options: built(root, boxes=str(table)), root, None)
    assert "8 of 8 images cannot be used: " in said
    assert "0.jpg (box (20, 20, 100, 60) reaches beyond the image of 60 x 40; drawn on another size, or" in said


@pytest.mark.parametrize(
    ("change", "encoding"),
    [
        (lambda text, root: text, "utf-8-sig"),
        (lambda text, root: text.replace(",", ";").replace("\n", "\r\n"), "utf-8"),
        (lambda text, root: text.replace(",", "\t"), "utf-16"),
        (lambda text, root: text.replace(",", "|"), "utf-8"),
        (lambda text, root: text.replace("Robin", f"{root}/Robin"), "utf-8"),
        (lambda text, root: text.replace("Robin/", "C:\\photos\\Robin\\"), "utf-8"),
        (lambda text, root: text.replace("train", "TRAIN").replace("test", "Testing"), "utf-8"),
        (lambda text, root: text.replace("file,split", "Split ,x, FILE").replace("Robin", "robin"), "utf-8"),
        (lambda text, root: text.replace("\n", ",\n"), "utf-8"),  # a separator at the end of every line
    ],
)
def test_tables_of_every_kind(root, change, encoding):
    rows = [f'"{name}",{"test" if name[-5] == "3" else "train"}' for name in NAMES]
    text = change("file,split\n" + "".join(f"{row}\n" for row in rows), root)
    if text.startswith("Split"):
        text = text.splitlines()[0] + "\n" + "".join(f"{row.split(',')[1]},,{row.split(',')[0]}\n" for row in rows)
    (root.parent / "split.csv").write_bytes(text.encode(encoding))
    dataset = image_folder.scan(root, Options(split_csv=str(root.parent / "split.csv")))
    assert [sample.split for sample in dataset.samples] == ["train", "train", "train", "test"] * 2


def test_a_table_that_says_two_things_or_too_much(root):
    rows = "".join(f"{name},train\n" for name in NAMES)
    (root.parent / "split.csv").write_text(f"file,split\n{rows}Robin/0.jpg,test\nRobin, the small/1.jpg,train\n")
    said = refused(image_folder.scan, root, Options(split_csv=str(root.parent / "split.csv")))
    assert "listed twice: split.csv:10 'Robin/0.jpg' (train and test)" in said
    assert "malformed line: split.csv:11 'Robin'" in said
    (root / "Robin/0.JPG").write_bytes(encoded(picture(99)))
    (root.parent / "split.csv").write_text(f"file,split\n{rows.replace('0.jpg', '0.Jpg')}")
    said = refused(image_folder.scan, root, Options(split_csv=str(root.parent / "split.csv")))
    assert "name that fits several images: split.csv:2 'Robin/0.Jpg' (Robin/0.JPG and Robin/0.jpg)" in said


def test_voc_boxes_far_beyond_the_declared_size_are_refused(root):
    for name in NAMES:
        folder = write_voc(root, name.replace(".jpg", ".xml"), voc(name, "bird", (60, 40), [(10, 10, 300, 200)]))
    said = refused(lambda root, options: built(root, boxes=str(folder)), root, None)
    assert "Robin/0.jpg (box (10, 10, 300, 200) reaches beyond the image of 60 x 40" in said


def test_an_image_of_a_folder_that_is_there_is_not_sought_elsewhere(root):
    (root / "Robin/Wren").mkdir()
    (root / "Wren/3.jpg").rename(root / "Robin/3b.jpg")
    table = root.parent / "boxes.csv"
    rows = [f"{name},10,10,50,30\n" for name in [*NAMES, "Robin/3b.jpg"]]
    table.write_text("file,x0,y0,x1,y1\n" + "".join(rows))
    said = refused(image_folder.scan, root, Options(boxes=str(table)))
    assert "1 problem: annotation of no image: boxes.csv:9 'Wren/3.jpg'" in said
