"""fgvc crop: detectors on the other folds, a layer of every sample, the same command again, mistakes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from made_trees import make_dogs
from PIL import Image
from shown import shown
from small_runs import without_boxes

from fgvc.detection.config import DetectorConfig
from fgvc.detection.detector import find_boxes, save_detector
from fgvc.detection.models import create_detector
from fgvc.detection.sliced import find_boxes_in_slices
from jobs.cli import main
from shards.boxes_layer import read_layer
from shards.manifest import Manifest, read_manifest
from shards.reading.order import folds_of
from shards.reading.splits import limited

TINY = {
    "image": {"size": 64, "scale": [0.9, 1.1]},
    "model": {
        "architecture": "rtmdet", "backbone": "test_efficientnet", "weights": "none", "frozen_stages": 0,
        "norm_eval": False, "channels": 32, "class_agnostic": True,
    },
    "optim": {"method": "adamw", "lr": 0.004, "head_multiplier": 1},
    "train": {"batch": 8, "epochs": 1},
}  # fmt: skip


@pytest.fixture
def detect(tmp_path: Path) -> str:
    """A detect config that takes seconds."""
    file = tmp_path / "detect.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return f"detect={file}"


def words_of(shards: Path, tmp_path: Path, *more: str) -> list[str]:
    return [
        "crop", f"data.shards={shards}", f"runs_dir={tmp_path / 'runs'}", "name=found", "folds=2", "data.workers=0",
        "track.wandb=disabled", f"layer={tmp_path / 'boxes.jsonl'}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three detectors of random weights, which find different boxes."""
    config = DetectorConfig(**TINY["model"])
    files = []
    for seed in range(3):
        torch.manual_seed(seed)
        files.append(tmp_path_factory.mktemp("detectors") / f"{seed}.safetensors")
        model = create_detector(config, 1)
        for weight in model.bbox_head.parameters():  # as it comes, it finds the same whatever the image
            weight.data += 0.2 * torch.randn_like(weight)
        save_detector(files[-1], model, config, ("object",), 64)
    return files


def test_every_training_image_is_looked_at_by_the_detector_of_its_fold(
    guide: Manifest, tmp_path: Path, detectors: list[Path], capsys: pytest.CaptureFixture
) -> None:
    given = f"detectors={json.dumps([str(path) for path in detectors])}"
    words = words_of(guide.folder, tmp_path, "min_score=0", given)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "train (out of fold): top box right" in printed
    assert "test: not measured (evaluate_test=true does)" in printed
    assert f"data.boxes={tmp_path / 'boxes.jsonl'}" in printed
    layer = read_layer(tmp_path / "boxes.jsonl", guide)
    assert layer.boxes.keys() == {entry.key for entry in guide.entries}
    members = guide.split("train")
    fold_of = folds_of(guide, members, 2)
    parts = [[member for member, one in zip(members, fold_of, strict=True) if one == fold] for fold in range(2)]
    tops = []
    for file, part in zip(detectors, [*parts, guide.split("test")], strict=True):
        found = find_boxes(file, guide, part, device=torch.device("cpu"), score=0.0)
        assert any(found.values())
        for key, rows in found.items():
            wide = [row for row in rows if row[2] - row[0] > 0.02 and row[3] - row[1] > 0.02]
            assert len(wide) <= len(layer.boxes[key]) <= len(rows)
            assert {box[4] for box in layer.boxes[key]} <= {round(row[4], 5) for row in rows}
        tops.append({tuple(round(value, 4) for value in row) for rows in found.values() for row in rows})
    assert not tops[0] & tops[1]  # else it would not show which detector looked

    folder = tmp_path / "runs/crop/found"
    result = json.loads((folder / "result.json").read_text())
    assert {split: one["images"] for split, one in result["boxes"].items()} == {"train": 80, "test": 28}
    assert (folder / "boxes.png").stat().st_size > 10_000
    assert (folder / "crops.png").stat().st_size > 10_000
    quality = ["run", "split", "detector trained", "images", "top box right", "mean IoU", "nothing found"]
    assert shown(folder)["The boxes layer against the true boxes"][:7] == quality
    stamp = (folder / "result.json").stat().st_mtime_ns
    (tmp_path / "boxes.jsonl").unlink()
    assert main(words) == 0  # done: only the copy comes back
    assert read_layer(tmp_path / "boxes.jsonl", guide) == layer
    assert (folder / "result.json").stat().st_mtime_ns == stamp
    assert "right" not in result["boxes"]["test"]
    capsys.readouterr()
    assert main([*words, "evaluate_test=true"]) == 0  # asked for later: measured now, nothing is looked at again
    assert "test: top box right (IoU >= 0.5) on" in capsys.readouterr().out
    measured = json.loads((folder / "result.json").read_text())
    assert measured["boxes"]["test"]["with_truth"] == 28
    assert measured["finished"] == result["finished"]
    assert main([*words[:-1], given.replace("/1.s", "/0.s").replace("detectors1", "detectors0")]) == 2
    assert "holds a run of another config: inputs.detectors.1" in capsys.readouterr().err
    assert main([*words, "name=other"]) == 2
    assert "holds the boxes of run 'found'; set layer= to another file" in capsys.readouterr().err


def test_in_slices_the_layer_holds_what_sahi_finds(guide: Manifest, tmp_path: Path, detectors: list[Path]) -> None:
    given = f"detectors={json.dumps([str(path) for path in detectors])}"
    words = words_of(guide.folder, tmp_path, "min_score=0", given, "data.limit=4")
    assert main([*words, "slice=32", "slice_overlap=0"]) == 0
    assert main([*words, "name=whole", f"layer={tmp_path / 'whole.jsonl'}"]) == 0
    sliced, whole = (read_layer(tmp_path / f"{name}.jsonl", guide).boxes for name in ("boxes", "whole"))
    test = [index for index in guide.split("test") if guide.entries[index].key in sliced]
    expected = find_boxes_in_slices(detectors[2], guide, test, device=torch.device("cpu"), side=32, overlap=0, score=0)
    assert len(expected) == 4
    assert Image.MAX_IMAGE_PIXELS  # SAHI switches PIL's guard against huge pictures off
    for key, rows in expected.items():
        assert {box[4] for box in sliced[key]} == {round(row[4], 5) for row in rows}
    assert sliced.keys() == whole.keys()
    assert all(sliced[key] != whole[key] for key in expected)


@pytest.mark.slow
def test_detectors_are_trained_on_the_other_folds_and_are_an_input(
    guide: Manifest, tmp_path: Path, detect: str, capsys: pytest.CaptureFixture
) -> None:
    words = words_of(guide.folder, tmp_path, "min_score=0.001", detect)
    assert main(words) == 0
    layer = read_layer(tmp_path / "boxes.jsonl", guide)
    assert layer.made_by["run"] == "found"
    folder = tmp_path / "runs/crop/found"
    # The boxes of a fold are those that its own run found in what it held out.
    members = guide.split("train")
    fold_of = folds_of(guide, members, 2)
    for fold in range(2):
        seen = json.loads((folder / f"detect/fold{fold}/boxes_val.json").read_text())
        own = {guide.entries[member].key for member, one in zip(members, fold_of, strict=True) if one == fold}
        assert seen.keys() == own
        for key in own:
            scores = [row[4] for row in seen[key] if row[4] >= 0.001]
            assert [box[4] for box in layer.boxes[key]] == pytest.approx(scores[: len(layer.boxes[key])], abs=1e-3)
    assert any(layer.boxes.values())
    assert "val" not in json.loads((folder / "detect/all/result.json").read_text())

    capsys.readouterr()
    assert main([*words, "set.train.epochs=3"]) == 2
    assert (
        "holds a run of another config: detect.train.epochs (1 -> 3); choose another name=" in capsys.readouterr().err
    )
    trained = json.dumps([str(folder / f"detect/{name}/model.safetensors") for name in ("fold0", "fold1", "all")])
    again = tmp_path / "again.jsonl"
    assert main([*words[:-1], f"detectors={trained}", "name=given", f"layer={again}"]) == 0
    assert read_layer(again, guide).boxes == layer.boxes

    # A run on all of train that is there already is not trained again, and no other is taken for it.
    for fold in range(2):
        shutil.copytree(folder / f"detect/fold{fold}", tmp_path / f"runs/crop/reused/detect/fold{fold}")
    identity = folder / "detect/all/identity.json"
    identity.write_text(identity.read_text().replace('"evaluate_test": false', '"evaluate_test": true'))  # trains alike
    assert '"evaluate_test": true' in identity.read_text()
    reuse = [*words, f"trained={folder / 'detect/all'}", "name=reused", f"layer={tmp_path / 'reused.jsonl'}"]
    assert main(reuse) == 0
    assert read_layer(tmp_path / "reused.jsonl", guide).boxes == layer.boxes
    assert not (tmp_path / "runs/crop/reused/detect/all").exists()
    for wrong, reason in (
        (["set.train.epochs=3", "name=longer"], "holds a run of another config: train.epochs (1 -> 3); leave trained="),
        ([f"trained={folder / 'detect/fold0'}", "name=fold"], "another config: data.folds (2 -> 0); leave trained="),
    ):
        assert main([*reuse, *wrong]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1500)  # four starts of a detector on a busy machine
def test_killed_while_training_the_same_command_goes_on(
    guide: Manifest, tmp_path: Path, detect: str, fgvc: Callable, capsys: pytest.CaptureFixture
) -> None:
    words = words_of(guide.folder, tmp_path, detect)
    first = fgvc(*words)
    done = tmp_path / "runs/crop/found/detect/fold0/result.json"
    until = time.monotonic() + 240
    while not done.is_file():
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    stamp = done.stat().st_mtime_ns
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert main(words) == 0
    assert "train (out of fold)" in capsys.readouterr().out
    assert done.stat().st_mtime_ns == stamp
    assert len(read_layer(tmp_path / "boxes.jsonl", guide).boxes) == 108


@pytest.mark.slow
def test_dogs_with_two_in_an_image_go_through_coco_detect_crop_and_classify(tmp_path: Path, detect: str) -> None:
    raw = make_dogs(tmp_path / "raw", classes=3, per_class=12)
    assert main(["shards", "build", "stanford_dogs", str(raw), str(tmp_path / "direct")]) == 0
    assert main(["shards", "coco", str(tmp_path / "direct"), str(tmp_path / "coco")]) == 0
    dogs = tmp_path / "dogs"
    assert main(["shards", "build", "coco", str(tmp_path / "coco"), str(dogs)]) == 0
    assert sorted(len(entry.boxes) for entry in read_manifest(dogs).entries)[-3:] == [2, 2, 2]
    assert main(words_of(dogs, tmp_path, detect, "min_score=0.01", "set.train.epochs=8")) == 0
    result = json.loads((tmp_path / "runs/crop/found/result.json").read_text())
    assert result["boxes"]["train"]["images"] + result["boxes"]["test"]["images"] == 36
    assert result["boxes"]["train"]["per_image"] > 1
    layer = f"data.boxes={tmp_path / 'boxes.jsonl'}"
    classify = [
        "classify", "name=dogs", f"runs_dir={tmp_path / 'runs'}", f"data.shards={dogs}", "data.crop=square", layer,
        "model.name=test_resnet", "model.weights=none", "image.size=32", "train.batch=4", "train.epochs=1",
        "track.wandb=disabled", "data.workers=0",
    ]  # fmt: skip
    assert main(classify) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of detect=CONFIG, to train the detectors, detector=FILE"),
        (["detectors=[a,b]"], "detectors: 2 files for folds=2; it takes 3"),
        (["detectors=[a,b,c]"], "detectors=a: No such file or directory"),
        (["detect=none.yaml"], "none.yaml: no such config file"),
        (["DETECT", "set.train.epoch=3"], "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["DETECT", "set.data.fold=1"], "set: 'data.fold' is set by fgvc crop"),
        (["DETECT", "set.data.per_class=1"], "set: 'data.per_class' is set by fgvc crop; data.*, seed,"),
        (["DETECT", "data.imbalance=2"], "data.imbalance: detectors of fgvc crop are trained on whole folds"),
        (["DETECT", "folds=1"], "folds=1: Input should be greater than or equal to 2"),
        (["DETECT", "trained=nowhere"], "trained=nowhere: holds no result.json; name the folder of a finished"),
        (["detector=a", "trained=b"], "trained: goes with detect=CONFIG"),
        (["DETECT", "slice=-1"], "slice=-1: Input should be greater than or equal to 0"),
        (["DETECT", "data.folds=3"], "data.folds: the folds of fgvc crop are set by folds="),
        (["DETECT", "layer=/proc/none/boxes.jsonl"], "/proc/none/boxes.jsonl: cannot be written"),
        (["detectors=[WEIGHTS,WEIGHTS,WEIGHTS]"], "does not describe a detector"),
    ],
)
def test_mistakes_are_one_line(
    guide: Manifest, tmp_path: Path, detect: str, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"weight": zeros(2)}, tmp_path / "weights.safetensors")
    given = [word.replace("DETECT", detect).replace("WEIGHTS", str(tmp_path / "weights.safetensors")) for word in words]
    assert main([*words_of(guide.folder, tmp_path), *given]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert errors[-1].startswith("fgvc crop: ")


def test_one_detector_for_images_without_boxes(
    guide: Manifest, tmp_path: Path, detectors: list[Path], detect: str, capsys: pytest.CaptureFixture
) -> None:
    bare = without_boxes(guide, tmp_path / "bare", 0)
    words = words_of(bare.folder, tmp_path, "min_score=0", "data.limit=6")
    assert main([*words, detect]) == 2
    message = "too few true boxes in split 'train' to train detectors of 2 folds; give detector=FILE"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs/crop").exists()  # nothing was trained, the name is free
    assert main([*words, f"detector={detectors[0]}", "min_score=0.9999"]) == 0
    printed = capsys.readouterr().out
    assert "train: no true boxes: quality unknown; nothing found on" in printed
    assert "0.00 %" not in printed
    assert "warning: train: 6 of 6 images stay whole" in printed
    layer = read_layer(tmp_path / "boxes.jsonl", bare)
    expected = {bare.entries[index].key for split in ("train", "test") for index in limited(bare.split(split), 6)}
    assert layer.boxes.keys() == expected  # data.limit holds for every split
    assert main([*words, f"detector={detectors[0]}", detect, "name=both"]) == 2
    assert "give one of detect=CONFIG" in capsys.readouterr().err
