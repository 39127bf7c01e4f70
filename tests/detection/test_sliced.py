"""SAHI's slices: boxes land where they belong, and small birds are found that the whole picture hides."""

from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional

from fgvc.detection.config import DetectorConfig
from fgvc.detection.detector import Detector, open_detector
from fgvc.detection.models import create_detector
from fgvc.detection.sliced import SahiDetector, find_in_slices
from jobs.config import load
from jobs.detect import Config
from jobs.tasks.detect import run
from shards.manifest import Manifest
from shards.reading.decode import decode
from shards.reading.detection import letterbox, unletterbox
from shards.reading.reader import Reader

CPU = torch.device("cpu")


def test_one_slice_is_the_plain_detector_and_shifts_are_added() -> None:
    torch.manual_seed(0)
    config = DetectorConfig("rtmdet", "test_efficientnet", "none", channels=16, score=0.0, per_image=5)
    detector = Detector(create_detector(config, 2)).eval()
    model = SahiDetector(detector, ["crow", "gull"], 64, CPU, score=0.0)
    image = torch.randint(0, 256, (3, 96, 160), dtype=torch.uint8)
    square = letterbox(image, (), 64)
    boxes, scores, labels = detector.predict(square.image[None])[0]
    expected = unletterbox(boxes, square.place, 160, 96)
    model.perform_inference(image.permute(1, 2, 0).numpy())
    model.convert_original_predictions(shift_amount=[[30, 20]], full_shape=[[500, 600]])
    found = model.object_prediction_list
    wide = ((expected[:, 2:] - expected[:, :2]) >= 1).all(1)
    assert len(found) == int(wide.sum()) > 0
    for one, box, score, label in zip(found, expected[wide], scores[wide], labels[wide], strict=True):
        moved = one.get_shifted_object_prediction()
        assert moved.bbox.to_xyxy() == pytest.approx((box + torch.tensor([30, 20, 30, 20])).tolist(), abs=1e-3)
        assert moved.score.value == pytest.approx(float(score))
        assert moved.category.name == ["crow", "gull"][int(label)]


def large_picture(manifest: Manifest, birds: int) -> tuple[torch.Tensor, np.ndarray]:
    """(3, 900, 1200) uint8 with small pictures of birds in a smooth landscape, and their boxes (birds, 4)."""
    random, reader = np.random.default_rng(0), Reader(manifest)
    smooth = torch.from_numpy(random.integers(90, 170, (3, 5, 6), np.uint8))
    picture = functional.resize(smooth, [900, 1200], antialias=True)
    places = random.permutation(8 * 6)[:birds]
    boxes = []
    for index, place in zip(manifest.split("test"), places, strict=False):
        x, y = 150 * (place % 8) + int(random.integers(0, 80)), 150 * (place // 8) + int(random.integers(0, 80))
        bird = decode(reader.read(index))
        picture[:, y : y + bird.shape[1], x : x + bird.shape[2]] = bird
        boxes.append(np.array(manifest.entries[index].boxes[0]) + np.array([x, y, x, y]))
    return picture, np.array(boxes)


@pytest.mark.slow
def test_small_birds_in_a_large_picture(guide: Manifest, tmp_path: Path) -> None:
    config = ROOT / "configs/detect/field_guide.yaml"
    words = [
        "name=birds", f"runs_dir={tmp_path}", "data.source=", f"data.shards={guide.folder}", "data.workers=0",
        "image.size=96", "image.scale=[0.4,1.1]", "train.epochs=30", "track.wandb=disabled",
    ]  # fmt: skip
    result = run(load(Config, config, words))
    assert result["test"]["top_right"] > 0.7
    detector, about = open_detector(tmp_path / "detect/birds/model.safetensors")
    model = SahiDetector(detector, about["classes"], about["size"], CPU, score=0.3)
    picture, truth = large_picture(guide, birds=20)

    def share_found(boxes: np.ndarray) -> float:
        return float((box_iou(torch.tensor(truth), torch.tensor(boxes)).numpy().max(1, initial=0) >= 0.5).mean())

    square = letterbox(picture, (), about["size"])
    boxes, scores, _ = detector.predict(square.image[None])[0]
    whole = unletterbox(boxes[scores >= 0.3], square.place, 1200, 900).numpy()
    sliced = find_in_slices(model, picture, side=120, overlap=0.5)
    assert share_found(whole) <= 0.1
    assert share_found(sliced.boxes) >= 0.6
    print(f"found: whole {share_found(whole):.0%}, slices {share_found(sliced.boxes):.0%}, boxes {len(sliced.boxes)}")
