"""How good a layer's boxes are, counted by hand, and what is said of it."""

from pathlib import Path

import pytest

from fgvc.detection.layer_quality import box_quality
from fgvc.detection.layer_report import warnings
from jobs.config import load
from jobs.crop import Config, keep_in, report
from jobs.debug import MARK
from shards.boxes_layer import BoxesLayer
from shards.manifest import Manifest


def test_quality_is_that_counted_by_hand(guide: Manifest) -> None:
    members = guide.split("train")[:4]
    first, second, third, fourth = (guide.entries[member] for member in members)
    x0, y0, x1, y1 = first.boxes[0]
    boxes = {
        first.key: ((x0, y0, x1, y1, 0.9), (0.0, 0.0, 3.0, 3.0, 0.1)),
        second.key: ((*second.boxes[0][:3], (second.boxes[0][1] + second.boxes[0][3]) / 2, 0.5),),  # the upper half
        third.key: (),
        fourth.key: ((0.0, 0.0, 1.0, 1.0, 0.4),),
    }
    figures = box_quality(guide, members, BoxesLayer(boxes, {}))
    assert fourth.boxes[0][0] > 1 or fourth.boxes[0][1] > 1
    assert figures["right"] == 0.5
    assert figures["mean_iou"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert (figures["images"], figures["with_truth"], figures["without_box"]) == (4, 4, 1)
    assert figures["per_image"] == 1.0
    assert figures["score"] == pytest.approx(0.6)


def test_poor_layers_are_called_that() -> None:
    good = {"out_of_fold": False, "images": 50, "without_box": 1, "right": 0.95, "score": 0.9}
    train = good | {"out_of_fold": True}
    assert warnings({"train": train, "test": good}) == []
    assert warnings({"train": train | {"right": 0.84}, "test": good})[0].startswith(
        "out-of-fold boxes are far worse: right on 84% in train, 95% in test"
    )
    unmeasured = {key: value for key, value in good.items() if key != "right"}
    assert "of a mean score of 70% in train" in warnings({"train": train | {"score": 0.7}, "test": unmeasured})[0]
    assert "test: 11 of 50 images stay whole" in warnings({"train": train, "test": good | {"without_box": 11}})[0]


def test_boxes_of_a_debug_run_are_not_judged(tmp_path: Path) -> None:
    poor = {"out_of_fold": False, "images": 50, "without_box": 40}
    result = {"boxes": {"train": poor | {"out_of_fold": True}, "test": poor}, "layer": "boxes.jsonl", "seconds": 9}
    assert report(result, tmp_path).count("warning: ") == 2
    (tmp_path / MARK).touch()
    shown = report(result, tmp_path)
    assert "a debug run" in shown
    assert "warning: " not in shown


def test_debug_leaves_nothing_beside_the_shards() -> None:
    config = load(Config, None, ["detector=a"])
    keep_in(config, Path("runs/crop/x"))
    assert config.layer == "runs/crop/x/boxes.jsonl"
