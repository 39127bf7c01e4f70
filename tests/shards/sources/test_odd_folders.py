"""Folders as people really have them: spellings, system folders, formats nobody can read, links, long names."""

import logging
import os
import unicodedata
import uuid
from collections import Counter
from pathlib import Path

import pytest
from made_trees import make_folder, refused
from PIL import Image
from tiny_images import encoded, picture

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.manifest import Manifest
from shards.sample import RawDataset
from shards.sources import image_folder
from shards.sources.image_folder import Options
from shards.sources.listing import list_images

NFD, NFC = (unicodedata.normalize(form, "pinson des prés") for form in ("NFD", "NFC"))


def tree(root: Path, folders: dict[str, int], extension: str = "jpg") -> Path:
    """`folders`: path below `root` -> how many pictures."""
    for number, (folder, count) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            kind = "JPEG" if extension == "jpg" else extension.upper()
            (root / folder / f"{i}.{extension}").write_bytes(encoded(picture(1000 * number + i), kind))
    return root


def scan(root: Path, **options) -> RawDataset:
    return image_folder.scan(root, Options(**options))


def built(root: Path) -> Manifest:
    return build(scan(root), root.with_name(f"{root.name}-out"), BuildOptions(workers=1))


def sides(dataset: RawDataset) -> dict[str, int]:
    return dict(Counter(sample.split for sample in dataset.samples))


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [
        ("Train", "Test", "test"), ("TRAIN", "TEST", "test"), ("training", "testing", "test"),
        ("train", "valid", "val"), ("Training", "Validation", "val"), ("training_set", "test_set", "test"),
        ("train2017", "val2017", "val"), ("train_images", "test_images", "test"), ("train ", "dev", "val"),
    ],
)  # fmt: skip
def test_split_folders_in_any_spelling(tmp_path, train, test, split):
    tree(tmp_path, {f"{train}/robin": 3, f"{train}/wren": 3, f"{test}/robin": 2, f"{test}/wren": 2})
    dataset = scan(tmp_path)
    assert dataset.classes == ("robin", "wren")
    assert sides(dataset) == {"train": 6, split: 4}


def test_words_that_only_begin_like_a_split_are_classes(tmp_path):
    tree(tmp_path, {"train": 3, "test pilot": 3, "trainer": 3})
    assert scan(tmp_path).classes == ("test pilot", "train", "trainer")


def test_train_and_val_work_with_a_hint(tmp_path, caplog):
    tree(tmp_path, {"train/robin": 3, "train/wren": 3, "val/robin": 2, "val/wren": 2})
    with caplog.at_level(logging.WARNING):
        manifest = built(tmp_path)
    assert manifest.counts == {"train": 6, "val": 4}
    assert "train and val, no test; runs measure on val with data.test_split=val" in caplog.text


def test_an_unsorted_test_folder_beside_train_is_no_class(tmp_path):
    tree(tmp_path, {"train/robin": 3, "train/wren": 3, "test": 4})
    assert "image outside a class folder: test/0.jpg" in refused(image_folder.scan, tmp_path, Options())


def test_one_spelling_of_a_class_in_train_and_another_in_test(tmp_path):
    tree(tmp_path, {"train/Robin": 3, f"train/{NFD}": 3, "test/robin": 2, f"test/{NFC}": 2})
    dataset = scan(tmp_path)
    assert dataset.classes == ("Robin", NFC)
    assert Counter((dataset.classes[s.label], s.split) for s in dataset.samples) == {
        ("Robin", "train"): 3, ("Robin", "test"): 2, (NFC, "train"): 3, (NFC, "test"): 2,
    }  # fmt: skip


@pytest.mark.parametrize("twin", ["robin", "ROBIN ", " robin"])
def test_two_spellings_side_by_side_are_refused(tmp_path, twin):
    tree(tmp_path, {"Robin": 3, "wren": 3, twin: 2})
    said = refused(image_folder.scan, tmp_path, Options())
    assert "class folders that differ only by case, blanks or Unicode form: " in said
    assert repr(twin) in said


def test_names_from_a_mac_match_a_table_typed_elsewhere(tmp_path):
    root = tree(tmp_path / "photos", {NFD: 4, "wren": 4})
    rows = [f"{NFC}/{i}.jpg,{'test' if i == 3 else 'train'}\n" for i in range(4)]
    rows += [f"WREN/{i}.JPG,{'Test' if i == 3 else 'training'}\n" for i in range(4)]
    (tmp_path / "split.csv").write_text("file,split\n" + "".join(rows), encoding="utf-8")
    dataset = scan(root, split_csv=str(tmp_path / "split.csv"))
    assert dataset.classes == (NFC, "wren")
    assert sides(dataset) == {"train": 6, "test": 2}


def test_system_folders_and_hidden_files_are_left_out_and_counted(tmp_path, caplog):
    tree(tmp_path, {"robin": 4, "wren": 4, "robin/@eaDir/0.jpg": 2, "wren/.thumbnails": 1, "__MACOSX/robin": 3})
    tree(tmp_path, {"#recycle": 1, "wren/Thumbs": 1, "robin/.ipynb_checkpoints": 1})
    (tmp_path / "robin/._0.jpg").write_bytes(b"\0\5\26\7")
    with caplog.at_level(logging.WARNING):
        dataset = scan(tmp_path)
    assert dataset.classes == ("robin", "wren")
    assert len(dataset.samples) == 8
    assert dataset.extra["left_out"] == {
        "pictures in @eaDir": 2, "pictures in .thumbnails": 1, "pictures in __MACOSX": 3, "pictures in #recycle": 1,
        "pictures in Thumbs": 1, "pictures in .ipynb_checkpoints": 1, "hidden files": 1,
    }  # fmt: skip
    assert "left out: " in caplog.text
    assert "2 pictures in @eaDir" in caplog.text


def test_formats_that_cannot_be_read_are_counted_and_named(tmp_path, caplog):
    tree(tmp_path, {"robin": 3, "wren": 3})
    heic = b"\0\0\0\x18ftypheic" + bytes(50)
    for name in ("IMG_1.HEIC", "IMG_2.heic", "noextension"):
        (tmp_path / "robin" / name).write_bytes(heic)
    (tmp_path / "wren/raw.CR2").write_bytes(b"II*\0")
    (tmp_path / "wren/film.mov").write_bytes(b"moov")
    (tmp_path / "wren/notes.txt").write_bytes(b"no picture")
    (tmp_path / "wren/0.jpg~").write_bytes(encoded(picture(5)))
    os.mkfifo(tmp_path / "wren/pipe.jpg")
    with caplog.at_level(logging.WARNING):
        dataset = scan(tmp_path)
    assert dataset.extra["left_out"] == {
        ".heic": 2, "files without an extension": 1, ".cr2": 1, ".mov": 1, ".jpg~": 1, "special files": 1,
    }  # fmt: skip
    assert "2 .heic (robin/IMG_1.HEIC, robin/IMG_2.heic)" in caplog.text
    assert "convert pictures of such formats to JPEG" in caplog.text
    (tmp_path / "robin/phone.jpg").write_bytes(heic)
    said = refused(lambda root, options: built(root), tmp_path, None)
    assert "phone.jpg (a picture or film of type heic, not read here; convert it)" in said


def test_links_in_circles_end_and_other_links_are_followed(tmp_path):
    root = tree(tmp_path / "photos", {"robin": 3, "wren": 3})
    tree(tmp_path, {"disk2/more": 2})
    (root / "robin/elsewhere").symlink_to(tmp_path / "disk2")
    (root / "robin/up").symlink_to(root)
    (root / "robin/self").symlink_to(root / "robin")
    (root / "loop").symlink_to(root)
    (root / "robin/nowhere").symlink_to(root / "robin/nowhere")
    (root / "wren/a").mkdir()
    (root / "wren/a/b").symlink_to(root / "wren")
    (tmp_path / "disk2/more/back").symlink_to(tmp_path / "disk2")
    assert list_images(root / "wren").images == ["0.jpg", "1.jpg", "2.jpg"]
    assert list_images(root / "robin").images[:3] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path for path in list_images(root / "robin").images if "more" in path] == [
        "elsewhere/more/0.jpg", "elsewhere/more/1.jpg",
    ]  # fmt: skip
    (root / "robin/up").unlink()
    dataset = scan(root)
    assert dataset.classes == ("robin", "wren")
    assert len(dataset.samples) == 8


def test_keys_of_twins_and_of_long_names(tmp_path):
    tree(tmp_path, {"robin": 2, "wren": 2})
    tree(tmp_path, {"robin": 2}, "png")
    for name in ("IMG 1.jpg", "IMG_1.jpg"):
        (tmp_path / "wren" / name).write_bytes(encoded(picture(len(name) + ord(name[3]))))
    taxon = "04487_Animalia_Chordata_Aves_Passeriformes_Thraupidae_Sporophila_minuta_and_more_of_its_names"
    (tmp_path / taxon).mkdir()
    for i in range(3):
        (tmp_path / taxon / f"{uuid.UUID(int=i)}.jpg").write_bytes(encoded(picture(50 + i)))
    dataset = scan(tmp_path)
    keys = {sample.path.relative_to(tmp_path).as_posix(): sample.key for sample in dataset.samples}
    assert len(set(keys.values())) == len(keys) == 11
    assert keys["wren/0.jpg"] == "wren__0"  # as ever
    assert keys["robin/0.jpg"].startswith("robin__0-")
    assert f"{uuid.UUID(int=2)}" in keys[f"{taxon}/{uuid.UUID(int=2)}.jpg"]
    manifest = built(tmp_path)
    assert {entry.key for entry in manifest.entries} == set(keys.values())
    assert scan(tmp_path).samples == dataset.samples


def test_a_root_one_level_too_high_is_refused(tmp_path):
    tree(tmp_path, {"garden/robin": 2, "garden/wren": 2, "forest/jay": 2, "forest/owl": 2})
    said = refused(image_folder.scan, tmp_path, Options())
    assert "class folder that holds only folders (take one of these as ROOT, or set deep=true): " in said
    assert f"{tmp_path / 'garden'} (robin, wren)" in said
    dataset = scan(tmp_path, deep=True)
    assert dataset.classes == ("forest", "garden")


def test_an_empty_class_and_a_damaged_picture_are_named_together(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "Moa").mkdir()
    whole = (tmp_path / "Indigo_Bunting/0.jpg").read_bytes()
    (tmp_path / "Indigo_Bunting/half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "Indigo_Bunting/page.jpg").write_text("<html>404</html>")
    said = refused(image_folder.scan, tmp_path, Options())
    assert ": 3 problems: class without images: Moa; image that cannot be used: " in said
    assert "Indigo_Bunting/half.jpg (truncated), Indigo_Bunting/page.jpg (not an image)" in said


def test_control_characters_in_names_are_refused(tmp_path):
    tree(tmp_path, {"robin": 2, "wren": 2, "be\x1b[31mware": 2})
    (tmp_path / "wren/a\nb.jpg").write_bytes(encoded(picture(3)))
    said = refused(image_folder.scan, tmp_path, Options())
    assert "class name with control characters or undecodable bytes: 'be\\x1b[31mware'" in said
    assert "file name with control characters: 'wren/a\\nb.jpg'" in said
    assert said.isprintable()


def test_a_huge_picture_is_refused_with_the_limit(tmp_path):
    tree(tmp_path, {"robin": 3, "wren": 3})
    Image.new("1", (20000, 10000)).save(tmp_path / "robin/huge.png")
    said = refused(lambda root, options: built(root), tmp_path, None)
    assert "huge.png (200 megapixels, the limit is 179; save it smaller)" in said
