"""What weights were trained on, selected again from a file's records; and lists of images to leave out."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fgvc.classification.listed import read_listed
from fgvc.classification.seen import records_of_start, seen_images, trained_data, training_record
from fgvc.models.export import export
from fgvc.models.record import read_classifier
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.splits import open_splits


def test_images_that_a_fold_run_has_seen_are_counted(guide: Manifest) -> None:
    data = DataConfig(folds=4, fold=1)
    splits = open_splits(guide, data)
    about = {"trained_on": json.loads(json.dumps([training_record(guide, data, splits.train)]))}
    assert seen_images(about, guide, splits.train) == 60
    assert seen_images(about, guide, splits.held_out) == 0
    assert seen_images(about, guide, splits.test) == 0
    assert seen_images(about, guide, [*splits.held_out, *splits.train[:7]]) == 7
    other = open_splits(guide, replace(data, fold=2)).held_out
    assert seen_images(about, guide, other) == 20


def test_images_left_out_of_training_were_not_seen(guide: Manifest) -> None:
    data = DataConfig(folds=4, fold=1, imbalance=15.0, per_class=4)
    train = open_splits(guide, data).train
    about = {"trained_on": json.loads(json.dumps([training_record(guide, data, train)]))}
    assert seen_images(about, guide, guide.split("train")) == len(train) == 11
    assert trained_data(DataConfig(crop="box", imbalance=3.0), about["trained_on"][0]) == replace(data, crop="box")
    whole = training_record(guide, DataConfig(), guide.split("train"))
    assert trained_data(DataConfig(imbalance=3.0), whole) == DataConfig()


def test_what_the_records_do_not_say_is_not_known(guide: Manifest) -> None:
    data = DataConfig()
    record = training_record(guide, data, open_splits(guide, data).train)
    test = guide.split("test")
    for records in (None, [], [record | {"shards": "of others"}], [record | {"keys": "0"}], [record, None], [3]):
        assert seen_images({"trained_on": records}, guide, test) is None
    assert seen_images({}, guide, test) is None
    assert (
        seen_images({"trained_on": [record, None]}, guide, guide.split("train")) == 80
    )  # seen, whatever the rest says


def test_weights_to_start_from_pass_their_records_on(guide: Manifest, tmp_path: Path) -> None:
    data = DataConfig(folds=4)
    record = training_record(guide, data, open_splits(guide, data).train)
    tensors = {"a": torch.ones(1)}
    export(tmp_path / "new.safetensors", tensors, {"classes": ["x"], "trained_on": [record]})
    export(tmp_path / "old.safetensors", tensors, {"classes": ["x"]})
    export(tmp_path / "others.safetensors", tensors, {})
    found = {name: records_of_start(str(tmp_path / f"{name}.safetensors")) for name in ("new", "old", "others")}
    assert found == {"new": [record], "old": [None], "others": []}
    assert records_of_start("hub") == records_of_start("none") == []


def test_images_are_listed_by_key_or_file_name(
    guide: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [entry.key for entry in guide.entries]
    listed = tmp_path / "listed.txt"
    listed.write_text(
        f"# shared with another data set\n{keys[3]}\n\n images/{keys[5]}.jpg \n{keys[7]}.JPEG\nnowhere.jpg\n"
    )
    with caplog.at_level(logging.WARNING):
        assert read_listed(listed, guide) == {3, 5, 7}
    assert "1 of 4 names are not in these shards" in caplog.text
    listed.write_text("nowhere.jpg\n")
    with pytest.raises(UserError, match=r"none of its 1 names is in .*, such as 'nowhere.jpg'; its keys are like"):
        read_listed(listed, guide)
    with pytest.raises(UserError, match="not readable as a list of names"):
        read_listed(tmp_path / "missing.txt", guide)


def test_a_file_may_say_that_it_does_not_know_of_a_part(tmp_path: Path) -> None:
    """As `fgvc classify` writes it after a start from an older file of ours."""
    facts = {
        "model": {"name": "test_resnet", "kwargs": {}, "caffe_stride": False}, "classes": ["a", "b"], "size": 32,
        "fit": "squash", "eval_crop": 1.0, "eval_flip": False, "interpolation": "bilinear", "crop": "whole",
        "margin": 0.0, "mean": [0.5] * 3, "std": [0.5] * 3, "trained_on": [{"shards": "0"}, None],
    }  # fmt: skip
    export(tmp_path / "model.safetensors", {"a": torch.ones(1)}, facts)
    assert read_classifier(tmp_path / "model.safetensors")["trained_on"] == facts["trained_on"]
