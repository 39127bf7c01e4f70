"""fgvc detect as a user runs it: killed and gone on, on several ranks, on a cluster, with bad input."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster_commands import command, rows, wait_until
from interruptions import kill_when, steps_done
from made_trees import make_dogs
from places import ROOT
from ranks import finish_all
from safetensors.torch import load_file
from same_run import history
from shown import shown
from slurm_helpers import skip_without_cluster
from small_runs import without_boxes

from fgvc.detection.detector import Detections, open_detector
from fgvc.detection.metrics import summary
from jobs.cli import main
from jobs.config import load
from jobs.detect import Config, report
from jobs.shards import build_from
from jobs.tasks.detect import run
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.reading.config import DataConfig
from shards.reading.detection import BoxedSamples, collate_boxed
from shards.reading.detection_config import BoxedImageConfig
from slurm.testbed.cluster import client, down, up

Start = Callable[..., subprocess.Popen]


def words(manifest: Manifest, runs: Path, name: str, *more: str) -> list[str]:
    """A detection run that takes seconds: a tiny Faster R-CNN, whose proposals are sampled at random, 2 x 6 steps."""
    return [
        "detect", f"name={name}", f"runs_dir={runs}", f"data.shards={manifest.folder}", "data.workers=0",
        "model.backbone=test_efficientnet", "model.weights=none", "model.channels=16", "model.fc_channels=32",
        "model.proposals=50", "model.samples=32", "model.frozen_stages=0", "model.norm_eval=false",
        "model.class_agnostic=true", "image.size=64", "data.limit=24", "train.batch=4", "train.epochs=2",
        "train.ema=0.9", "optim.lr=0.02", "optim.head_multiplier=1", "track.wandb=disabled", *more,
    ]  # fmt: skip


def test_sigkill_changes_no_bit(
    guide: Manifest, fgvc: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every_step = ["train.deterministic=true", "train.checkpoint_minutes=0"]
    runs = tmp_path / "runs"
    assert main(words(guide, runs, "calm", *every_step)) == 0
    killed = words(guide, runs, "killed", *every_step)
    process = fgvc(*killed)
    kill_when(process, lambda: steps_done(runs / "detect/killed") >= 5)
    assert main(killed) == 0
    assert "top box right (IoU >= 0.5)" in capsys.readouterr().out
    calm, other = runs / "detect/calm", runs / "detect/killed"
    left, right = load_file(calm / "model.safetensors"), load_file(other / "model.safetensors")
    assert [key for key in left if not left[key].equal(right[key])] == []
    assert [row["step"] for row in history(other)] == list(range(1, 13))
    assert history(calm) == history(other)
    assert {"loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "lr"} <= history(calm)[0].keys()
    results = [json.loads((one / "result.json").read_text())["test"] for one in (calm, other)]
    assert results[0] == results[1]
    assert (calm / "boxes_test.json").read_bytes() == (other / "boxes_test.json").read_bytes()
    assert (calm / "missed.png").is_file()


def config(manifest: Manifest, runs: Path, name: str, *more: str) -> Config:
    return load(Config, None, words(manifest, runs, name, *more)[1:])


def test_debug_and_folds(guide: Manifest, tmp_path: Path) -> None:
    one = config(guide, tmp_path, "fold", "data.folds=2", "data.fold=1", "evaluate_test=false", "train.max_steps=3")
    result = run(one)
    assert "test" not in result
    assert result["val"]["count"] == 24  # limited
    assert result["steps"] == 3
    assert "AP50" in report(result, tmp_path)
    assert run(one) == result  # done already
    assert shown(tmp_path / "detect/fold")["Detection"] == [
        "run", "split", "images", "top box right", "mean IoU", "AP", "AP50", "AP75", "AR", "nothing found",
        "parameters",
    ]  # fmt: skip


def test_zero_detections_everywhere(guide: Manifest, tmp_path: Path) -> None:
    result = run(config(guide, tmp_path, "none", "train.max_steps=1", "model.score=0.99"))
    assert result["test"]["nothing"] == result["test"]["count"] == 24
    assert result["test"]["AP"] == result["test"]["top_right"] == 0


def test_images_without_annotation(guide: Manifest, tmp_path: Path) -> None:
    some = without_boxes(guide, tmp_path / "some", 2)
    result = run(config(some, tmp_path, "some", "train.max_steps=1", "data.limit=0"))
    assert result["train_without_boxes"] == 40
    assert result["train_count"] == 40
    assert result["test"]["without_truth"] == 14
    assert result["test"]["count"] == 14
    assert "40 training images without boxes were left out" in report(result, tmp_path)
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int))
    unseen = summary(without_boxes(guide, tmp_path / "bare", 0), {0: nothing}, (), True)
    assert unseen == {"count": 0, "without_truth": 1, "nothing": 0}  # no metric of no image
    said = report(result | {"test": unseen}, tmp_path)
    assert "test: no true boxes on 1 images: quality unknown" in said
    with pytest.raises(UserError, match="no boxes in split 'train'"):
        run(config(without_boxes(guide, tmp_path / "none", 0), tmp_path, "none"))


def test_two_dogs_an_image_per_class(tmp_path: Path) -> None:
    """Stanford Dogs' layout, to COCO and back, then one class a breed: both dogs of an image are learnt and counted."""
    make_dogs(tmp_path / "raw")
    build_from("stanford_dogs", tmp_path / "raw", tmp_path / "dogs")
    assert main(["shards", "coco", str(tmp_path / "dogs"), str(tmp_path / "coco")]) == 0
    build_from("coco", tmp_path / "coco", tmp_path / "again")
    dogs = read_manifest(tmp_path / "again")
    result = run(config(dogs, tmp_path, "dogs", "model.class_agnostic=false", "train.max_steps=3", "model.score=0"))
    assert result["test"]["count"] == 8
    _, about = open_detector(tmp_path / "detect/dogs/model.safetensors")
    assert tuple(about["classes"]) == dogs.classes
    two = next(index for index, entry in enumerate(dogs.entries) if len(entry.boxes) == 2)
    batch = collate_boxed([BoxedSamples(dogs, DataConfig(), BoxedImageConfig(size=64))[(0, two)]])
    assert batch.labels[0].tolist() == [dogs.entries[two].label] * 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("image.size=100", "image.size=100: not a multiple of 32"),
        ("model.weights=absent.safetensors", "absent.safetensors"),
        ("model.backbone=cspnext_tinny", "neither mmdet's nor timm's"),
        ("model.architecture=yolo", "model.architecture='yolo'"),
        ("data.test_split=nowhere", "no split 'nowhere'"),
        ("train.freeze_layers=1", "a detector has model.frozen_stages"),
        ("train.strategy=zero3", "zero3: not for detectors; take zero2 or fsdp"),
        ("train.batch=100", "train.batch=100 is more than the 24 training images"),
    ],
)
def test_mistakes_are_one_line(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, word: str, message: str
) -> None:
    assert main([*words(guide, tmp_path, "bad"), word]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "detect/bad/identity.json").exists()  # the name is free for the config that is right


RTMDET = ["model.architecture=rtmdet", "model.norm_eval=true", "train.freeze_bn=statistics", "train.max_steps=8"]


@pytest.mark.slow
def test_two_ranks_see_what_one_sees(guide: Manifest, tmp_path: Path) -> None:
    """RTMDet with frozen BatchNorm divides by all ranks' positives: two ranks learn what one learns."""
    assert main(words(guide, tmp_path, "one", *RTMDET)) == 0
    ways = ("ddp", "fsdp", "zero2")
    finish_all(tmp_path, [words(guide, tmp_path, way, *RTMDET, f"train.strategy={way}") for way in ways])
    one, *others = (history(tmp_path / "detect" / name) for name in ("one", *ways))
    for two in others:
        assert len(one) == len(two) == 8
        for left, right in zip(one, two, strict=True):
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-3)
    results = [json.loads((tmp_path / "detect" / name / "result.json").read_text()) for name in ("one", *ways)]
    assert [result["test"]["count"] for result in results] == [24] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cub200_r101", "cub200_rtmdet"])
def test_the_full_configs_train(name: str, guide: Manifest, tmp_path: Path) -> None:
    """The config as it is, but on the birds drawn here, without the hub and at a size that a CPU can bear."""
    more = [
        "data.source=", f"data.shards={guide.folder}", f"name={name}", f"runs_dir={tmp_path}", "model.weights=none",
        "data.workers=0", "data.limit=4", "image.size=64", "train.batch=2", "train.max_steps=3", "train.epochs=2",
        "train.precision=fp32", "track.wandb=disabled", "optim.lr=0.001",
    ]  # fmt: skip
    result = run(load(Config, ROOT / f"configs/detect/{name}.yaml", more))
    assert result["steps"] == 3
    assert result["test"]["count"] == 4
    assert result["parameters"] > (55e6 if name == "cub200_r101" else 25e6)


@pytest.mark.slow
def test_cluster(guide: Manifest, tmp_path: Path) -> None:
    """Two ranks on two nodes, stopped by a signal on the way."""
    skip_without_cluster()
    testbed = up(tmp_path / "s")
    try:
        more = ["train.epochs=4", "evaluate_test=false"]
        one = words(guide, tmp_path / "runs", "cluster", *more)
        shown = command(testbed, tmp_path, *one, "--on", "testbed", "nodes=2", "tasks_per_node=1")
        job, run = shown.split(":")[0].removeprefix("job "), tmp_path / "runs/detect/cluster"
        metrics = run / "metrics.jsonl"
        wait_until(lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= 3)
        client(testbed, "scancel", "--signal=USR2", job)
        wait_until((run / "result.json").is_file)
        assert [row["step"] for row in rows(metrics)] == list(range(1, 25))
    finally:
        down(testbed.folder)
