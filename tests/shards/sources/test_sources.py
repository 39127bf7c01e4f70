"""CUB-200-2011 and Stanford Dogs: official layouts read whole, and each thing that can be wrong named in one line."""

import os
from collections import Counter
from pathlib import Path

import pytest
from made_trees import check_valid, make_cub, make_dogs, refused, voc, write_dogs_list

from shards.sources import cub200, stanford_dogs

REAL = os.environ.get("FGVC_REAL_DATA")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# --- CUB-200-2011 ---------------------------------------------------------------------------------------------------


def test_cub_whole(tmp_path):
    dataset = cub200.scan(make_cub(tmp_path / "cub", parts=True), cub200.Options())
    check_valid(dataset)
    assert dataset.classes == ("Black footed Albatross", "Indigo Bunting", "Scarlet Tanager", "Green Jay")
    assert Counter(sample.split for sample in dataset.samples) == {"train": 16, "test": 8}
    first, second = dataset.samples[:2]
    assert first.key == "Black_footed_Albatross_0000_1001"
    assert set(first.parts) == {"beak", "left eye"}  # its tail is out of sight
    assert set(second.parts) == {"beak", "left eye", "tail"}
    assert "CNS-TR-2011-001" in dataset.citation
    assert "research" in dataset.licence


def test_cub_without_parts(tmp_path):
    dataset = cub200.scan(make_cub(tmp_path / "cub", classes=2), cub200.Options())
    check_valid(dataset)
    assert dataset.samples[0].parts == {}


def test_cub_same_stem_in_two_classes_takes_the_class_into_the_key(tmp_path):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3)
    edit(root / "images.txt", "Indigo_Bunting_0000_1004", "Black_footed_Albatross_0000_1001")
    folder = root / "images/002.Indigo_Bunting"
    (folder / "Indigo_Bunting_0000_1004.jpg").rename(folder / "Black_footed_Albatross_0000_1001.jpg")
    keys = [sample.key for sample in cub200.scan(root, cub200.Options()).samples]
    assert keys[0] == "001_Black_footed_Albatross__Black_footed_Albatross_0000_1001"
    assert keys[3] == "002_Indigo_Bunting__Black_footed_Albatross_0000_1001"
    assert keys[1] == "Black_footed_Albatross_0001_1002"


BIRD = "001.Black_footed_Albatross/Black_footed_Albatross_0001_1002.jpg"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("images.txt", f"2 {BIRD}\n", "", "no usable line in images.txt for image: 2"),
        ("images.txt", f"2 {BIRD}\n", "", f"image not listed in images.txt: images/{BIRD}"),
        ("image_class_labels.txt", "\n2 1\n", "\n", "no usable line in image_class_labels.txt for image: 2"),
        ("train_test_split.txt", "\n2 1\n", "\n", "no usable line in train_test_split.txt for image: 2"),
        ("train_test_split.txt", "\n2 1\n", "\n2 7\n", "malformed line: train_test_split.txt:2 '2 7'"),
        ("image_class_labels.txt", "\n2 1\n", "\n2 99\n", "malformed line: image_class_labels.txt:2 '2 99'"),
        ("images.txt", f"2 {BIRD}\n", "2\n", "malformed line: images.txt:2 '2'"),
        ("images.txt", f"2 {BIRD}\n", f"2 {BIRD}\n2 {BIRD}\n", f"listed twice: images.txt:3 '2 {BIRD[:58]}'"),
        ("images.txt", "_0000_1001", "_0001_1002", f"listed twice: images.txt {BIRD}"),
        ("images.txt", "_0001_1002", "_0001_9999", f"missing image file: images/{BIRD.replace('1002', '9999')}"),
        ("classes.txt", "4 004.Green_Jay\n", "4 004.Green_Jay\n5 005.Dodo\n", "class without images: 005.Dodo"),
        ("parts/part_locs.txt", "\n1 2 ", "\n1 9 ", "malformed line: part_locs.txt:2 '1 9 "),
    ],
)
def test_cub_wrong_lists(tmp_path, name, old, new, message):
    root = make_cub(tmp_path / "cub", parts=True)
    edit(root / name, old, new)
    said = refused(cub200.scan, root, cub200.Options())
    assert message in said
    assert said.startswith(f"{root}: ")
    assert said.endswith("Unpack the official archive again, or correct these lists and files.")


@pytest.mark.parametrize("values", ["4.0 5.0 0.0 9.0", "4.0 nan 5.0 9.0", "4.0 x 5.0 9.0", "4.0 5.0 9.0"])
def test_cub_wrong_box(tmp_path, values):
    root = make_cub(tmp_path / "cub", per_class=3)
    lines = (root / "bounding_boxes.txt").read_text().splitlines()
    lines[1] = f"2 {values}"
    (root / "bounding_boxes.txt").write_text("\n".join(lines))
    said = refused(cub200.scan, root, cub200.Options())
    assert f"malformed line: bounding_boxes.txt:2 '2 {values}'" in said
    assert "no usable line in bounding_boxes.txt for image: 2" in said


def test_cub_every_problem_at_once_but_few_names(tmp_path):
    root = make_cub(tmp_path / "cub")
    for image in sorted((root / "images/003.Scarlet_Tanager").iterdir())[:5]:
        image.unlink()
    edit(root / "train_test_split.txt", "\n19 1\n", "\n")
    said = refused(cub200.scan, root, cub200.Options())
    assert ": 6 problems: no usable line in train_test_split.txt for image: 19; missing image file: images/" in said
    assert said.count("Scarlet_Tanager_") == 3
    assert " and 2 more. " in said


def test_cub_class_without_training_images(tmp_path):
    root = make_cub(tmp_path / "cub", classes=2, per_class=3)
    (root / "train_test_split.txt").write_text("1 1\n2 1\n3 0\n4 0\n5 0\n6 0\n")
    assert "1 problem: class without training images: 002.Indigo_Bunting" in refused(
        cub200.scan, root, cub200.Options()
    )


def test_cub_wrong_root(tmp_path):
    root = make_cub(tmp_path / "archive/CUB_200_2011", classes=2, per_class=3)
    assert f"did you mean {root}?" in refused(cub200.scan, root.parent, cub200.Options())
    assert "no such folder" in refused(cub200.scan, root / "nowhere", cub200.Options())
    (root / "bounding_boxes.txt").unlink()
    assert "bounding_boxes.txt missing; ROOT must be" in refused(cub200.scan, root, cub200.Options())


@pytest.mark.skipif(REAL is None, reason="FGVC_REAL_DATA is not set: the folder that holds cub50")
def test_cub_real():
    dataset = cub200.scan(Path(str(REAL)) / "cub50", cub200.Options())
    check_valid(dataset)
    assert len(dataset.classes) == 50
    assert Counter(sample.split for sample in dataset.samples) == {"train": 1500, "test": 1389}


# --- Stanford Dogs --------------------------------------------------------------------------------------------------

DOG = "n02085620-Chihuahua/n02085620_10"


@pytest.mark.parametrize("lists", [".", "lists"])
def test_dogs_whole(tmp_path, lists):
    dataset = stanford_dogs.scan(make_dogs(tmp_path, lists=lists), stanford_dogs.Options())
    check_valid(dataset)
    assert dataset.classes == ("Chihuahua", "Shetland sheepdog", "curly-coated retriever", "Irish setter")
    assert Counter(sample.split for sample in dataset.samples) == {"train": 16, "test": 8}
    assert Counter(len(sample.boxes) for sample in dataset.samples) == {2: 4, 1: 20}
    assert dataset.samples[0].key == "n02085620_10"
    assert "Khosla" in dataset.citation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "malformed annotation: Annotation/" + DOG + " (not XML: no element found: line 1"),
        ("<html/>", "not a VOC annotation: it starts with <html>"),
        (voc("a", "Chihuahua", (9, 9), []), f"annotation without a dog: Annotation/{DOG}"),
        (voc("a", "Chihuahua", (9, 9), [(1, 1, 5, 5), (5, 1, 3, 4)]), "(object 2: box '5 1 3 4')"),
        (None, f"missing annotation: Annotation/{DOG}"),
    ],
)
def test_dogs_wrong_annotation(tmp_path, text, message):
    root = make_dogs(tmp_path, classes=2, per_class=3)
    (root / "Annotation" / DOG).unlink()
    if text is not None:
        (root / "Annotation" / DOG).write_text(text)
    said = refused(stanford_dogs.scan, root, stanford_dogs.Options())
    assert "1 problem: " in said
    assert message in said


def test_dogs_wrong_lists(tmp_path):
    root = make_dogs(tmp_path, classes=2, per_class=3)
    setter = "n02085720-Shetland_sheepdog/n02085720_10"
    gone = "n02085620-Chihuahua/n02085620_99"
    write_dogs_list(root / "test_list.mat", [(DOG, 1), (setter.replace("_10", "_17"), 1), (gone, 1), ("stray", 2)])
    said = refused(stanford_dogs.scan, root, stanford_dogs.Options())
    assert f"listed twice: test_list.mat {DOG}.jpg" in said
    assert (
        "label that contradicts the class folder: test_list.mat n02085720-Shetland_sheepdog/n02085720_17.jpg = 1"
        in said
    )
    assert f"missing image file: Images/{gone}.jpg" in said
    assert f"missing annotation: Annotation/{gone}" in said
    assert "malformed line: test_list.mat 'stray.jpg' (no class folder)" in said
    assert "image in neither list: Images/n02085620-Chihuahua/n02085620_24.jpg" in said


def test_dogs_class_that_is_only_tested_and_folder_without_rows(tmp_path):
    root = make_dogs(tmp_path, classes=2, per_class=3)
    rows = [(f"n02085720-Shetland_sheepdog/n02085720_{i}", 2) for i in (10, 17, 24)]
    write_dogs_list(root / "train_list.mat", [(f"n02085620-Chihuahua/n02085620_{i}", 1) for i in (10, 17, 24)])
    write_dogs_list(root / "test_list.mat", rows)
    (root / "Images/n02085721-empty").mkdir()
    said = refused(stanford_dogs.scan, root, stanford_dogs.Options())
    assert "class without training images: n02085720-Shetland_sheepdog" in said
    assert "class folder that no list names: Images/n02085721-empty" in said


def test_dogs_unreadable_or_missing_list(tmp_path):
    root = make_dogs(tmp_path, classes=2, per_class=3)
    whole = (root / "test_list.mat").read_bytes()
    for broken in (
        b"",
        b"not a matrix, but long enough to be taken for the header of one" * 4,
        whole[: len(whole) // 2],
    ):
        (root / "test_list.mat").write_bytes(broken)
        said = refused(stanford_dogs.scan, root, stanford_dogs.Options())
        assert "test_list.mat: not a readable MATLAB list" in said
        assert "unpack the official lists.tar again" in said
    (root / "test_list.mat").unlink()
    assert "test_list.mat: no such file; ROOT must be" in refused(stanford_dogs.scan, root, stanford_dogs.Options())
    assert "Images, Annotation missing" in refused(stanford_dogs.scan, root / "Images", stanford_dogs.Options())


def test_dogs_names_that_differ_in_a_blank_have_keys_of_their_own(tmp_path):
    root = make_dogs(tmp_path, classes=2, per_class=3)
    rows = [(f"n02085720-Shetland_sheepdog/n02085720_{i}", 2) for i in (10, 17)]
    for name in ("a b", "a_b"):
        for folder, extension in (("Images", ".jpg"), ("Annotation", "")):
            source = root / folder / f"{DOG}{extension}"
            source.with_name(name + extension).write_bytes(source.read_bytes())
        rows.append((f"n02085620-Chihuahua/{name}", 1))
    write_dogs_list(root / "train_list.mat", [(DOG, 1), ("n02085620-Chihuahua/n02085620_17", 1), *rows])
    keys = [sample.key for sample in stanford_dogs.scan(root, stanford_dogs.Options()).samples]
    assert len(set(keys)) == len(keys) == 8
    assert sorted(key[:4] for key in keys if key.startswith("a")) == ["a_b-", "a_b-"]
