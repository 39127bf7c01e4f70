"""Folders that are no classes, and names in which something cannot be seen."""

import os
from collections import Counter
from pathlib import Path

import pytest
from made_trees import refused
from tiny_images import encoded, picture

from jobs.shards import main
from shards.sample import RawDataset
from shards.sources import image_folder
from shards.sources.image_folder import Options
from shards.sources.listing import list_images


def tree(root: Path, folders: dict[str, int]) -> Path:
    """`folders`: path below `root` -> how many pictures."""
    for number, (folder, count) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i}.jpg").write_bytes(encoded(picture(1000 * number + i)))
    return root


def scan(root: Path, **options) -> RawDataset:
    return image_folder.scan(root, Options(**options))


def sides(dataset: RawDataset) -> dict[str, int]:
    return dict(Counter(sample.split for sample in dataset.samples))


def refusal(root, **options) -> str:
    return refused(image_folder.scan, root, Options(**options))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("folders", [("val", "test"), ("validation", "holdout"), ("eval", "test")])
def test_splits_without_train_are_no_classes(tmp_path, folders, deep):
    tree(tmp_path, {f"{folder}/{name}": 3 for folder in folders for name in ("robin", "wren")})
    assert "splits by their names, but no train/ with class folders is beside them" in refusal(tmp_path, deep=deep)


def test_splits_without_class_folders_are_no_classes(tmp_path):
    tree(tmp_path / "kaggle", {"train": 8, "test": 4})
    assert "test/, train/: splits by their names, but hold no class folders" in refusal(tmp_path / "kaggle")
    tree(tmp_path / "beside", {"robin": 4, "wren": 4, "test": 4})
    assert "test/: splits by their names, but hold no class folders" in refusal(tmp_path / "beside")
    tree(tmp_path / "vehicles", {"train": 4, "car": 4})
    assert scan(tmp_path / "vehicles").classes == ("car", "train")


@pytest.mark.parametrize(("name", "split"), [("eval", "val"), ("Evaluation", "val"), ("holdout", "test")])
def test_more_names_of_splits(tmp_path, name, split):
    tree(tmp_path, {f"{folder}/{bird}": 3 for folder in ("train", name) for bird in ("robin", "wren")})
    assert sides(scan(tmp_path)) == {"train": 6, split: 6}


def test_a_link_to_the_root_or_above_it_is_not_followed(tmp_path, caplog):
    root = tree(tmp_path / "photos", {"robin": 3, "wren": 3, "wren/young": 1})
    (root / "robin/up").symlink_to("..")
    (root / "wren/young/top").symlink_to(tmp_path)
    dataset = scan(root)
    assert len(dataset.samples) == 7
    assert list_images(root / "robin").images == ["0.jpg", "1.jpg", "2.jpg"]
    assert "different classes" not in caplog.text


def test_names_that_differ_only_by_what_cannot_be_seen(tmp_path):
    tree(tmp_path / "one", {"robin": 3, "ro\u200bbin": 3, "wren": 3})
    said = refusal(tmp_path / "one")
    assert "class folders that differ only by case, blanks or Unicode form: 'robin' and 'ro\\u200bbin'" in said
    root = tree(tmp_path / "two", {"train/robin": 3, "train/wren": 3, "test/ro\u200bbin": 2, "test/wr\u00aden": 2})
    dataset = scan(root)
    assert dataset.classes == ("robin", "wren")
    assert sides(dataset) == {"train": 6, "test": 4}


@pytest.mark.parametrize("name", ["\u202egnp", "a\u2066b", "x\u202d"])
def test_names_that_turn_the_direction_of_the_text_are_refused(tmp_path, name):
    tree(tmp_path, {name: 3, "wren": 3})
    assert f"class name with control characters or undecodable bytes: {name!a}" in refusal(tmp_path)


def test_formats_that_only_look_readable_are_left_out_and_counted(tmp_path):
    tree(tmp_path, {"robin": 3, "wren": 3})
    for name in ("feats.h5", "sky.fits", "logo.eps", "film.mpg", "old.wmf"):
        (tmp_path / "wren" / name).write_bytes(b"data")
    dataset = scan(tmp_path)
    assert len(dataset.samples) == 6
    assert dataset.extra["left_out"] == {".h5": 1, ".fits": 1, ".eps": 1, ".mpg": 1, ".wmf": 1}


def test_shards_beside_the_classes(tmp_path, capsys):
    root = tree(tmp_path / "photos", {"robin": 3, "wren": 3})
    words = ["build", "image_folder", str(root), str(root / "shards"), "workers=1"]
    assert main(words) == 0
    assert main(words) == 0
    assert "already built (6 images" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "tool"), [("txt", "YOLO"), ("json", "labelme")])
def test_a_folder_of_other_annotations_is_named(tmp_path, kind, tool):
    root = tree(tmp_path / "photos", {"robin": 2, "wren": 2})
    (tmp_path / "labels").mkdir()
    (tmp_path / f"labels/0.{kind}").write_text("0 .5 .5 .2 .2")
    assert f"1 .{kind} files as {tool} writes them (0.{kind}), no VOC .xml" in refusal(
        root, boxes=str(tmp_path / "labels")
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_forbidden_file_is_named_beside_another_problem(tmp_path):
    tree(tmp_path, {"robin": 3, "wren": 3})
    (tmp_path / "loose.jpg").write_bytes(encoded(picture(1)))
    (tmp_path / "robin/0.jpg").chmod(0)
    assert "image that cannot be used: robin/0.jpg (Permission denied)" in refusal(tmp_path)
