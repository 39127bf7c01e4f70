"""Detectors are what their configs say, learn the same on several ranks, and come back from their files unchanged."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from same_run import history

from fgvc.detection import mmcv_kernels as kernels
from fgvc.detection.config import DetectorConfig
from fgvc.detection.detector import Detections, Detector, detect, find_boxes, open_detector, save_detector
from fgvc.detection.metrics import summary
from fgvc.detection.models import create_detector
from fgvc.models.config import ModelConfig
from fgvc.models.timm import create_model
from fgvc.runtime.distributed import end_group
from jobs.config import load
from jobs.detect import Config
from jobs.tasks.detect import run
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.reading.config import DataConfig
from shards.reading.detection import BoxedBatch, BoxedSamples, collate_boxed
from shards.reading.detection_config import BoxedImageConfig

CPU = torch.device("cpu")
TINY = DetectorConfig(
    backbone="test_efficientnet", weights="none", channels=16, fc_channels=32, proposals=50, samples=32
)
TINY_RTM = replace(TINY, architecture="rtmdet")


@pytest.mark.parametrize("config", [TINY, TINY_RTM, replace(TINY_RTM, backbone="cspnext_tiny", frozen_stages=2)])
def test_every_part_has_the_classes_and_statistics_asked_for(config: DetectorConfig) -> None:
    model = create_detector(config, 7)  # create_detector checks; here the shapes, once more and by name
    state = model.state_dict()
    if config.architecture == "rtmdet":
        assert [len(state[f"bbox_head.rtm_cls.{level}.weight"]) for level in range(3)] == [7, 7, 7]
    else:
        assert state["roi_head.bbox_head.fc_cls.weight"].shape == (8, 32)
        assert state["roi_head.bbox_head.fc_reg.weight"].shape == (28, 32)
    other = create_detector(replace(config, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]), 7)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    seen = Detector(other)._prepared(image, None, None, training=False)["inputs"]
    expected = (image - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)) / torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    assert torch.allclose(seen, expected)


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_resnet_with_given_weights_is_timms(style: str, tmp_path: Path) -> None:
    """The features of timm's network of the same weights, stride moved for Caffe's, normalised as the weights want."""
    torch.manual_seed(0)
    source = create_model(ModelConfig("resnet50", "none", caffe_stride=style == "caffe"), 3).eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    config = DetectorConfig(weights=str(tmp_path / "weights.safetensors"), style=style, channels=16, fc_channels=16)  # type: ignore
    model = create_detector(config, 1).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    rgb = torch.tensor([[123.68, 116.779, 103.939], [1, 1, 1]] if style == "caffe" else
                       [[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])  # fmt: skip
    normal = (image - rgb[0].view(3, 1, 1)) / rgb[1].view(3, 1, 1)
    with torch.no_grad():
        maps = model.backbone(Detector(model)._prepared(image, None, None, training=False)["inputs"])
        assert torch.allclose(maps[-1], source.forward_features(normal), rtol=1e-3, atol=1e-4)
    assert [one.shape[-1] for one in maps] == [16, 8, 4, 2]
    frozen = {name for name, one in model.backbone.named_parameters() if not one.requires_grad}
    assert frozen == {n for n, _ in model.backbone.named_parameters() if n.startswith(("conv1", "bn1", "layer1"))}


def test_timm_backbone_gets_its_weights_and_stays_frozen_where_told(tmp_path: Path) -> None:
    source = timm.create_model("test_efficientnet", num_classes=0)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    weights = str(tmp_path / "weights.safetensors")
    model = create_detector(replace(TINY, weights=weights, frozen_stages=2), 1)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = model.eval().backbone(image)
        expected = source.eval().forward_intermediates(image, indices=4, intermediates_only=True)
    for mine, other in zip(maps, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    norms = [module for module in model.train().backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    names = {name for name, one in model.backbone.named_parameters() if not one.requires_grad}
    assert any("blocks.1" in name for name in names)  # stride 4
    assert any("blocks.2" in name for name in names)  # stride 8
    assert not any("blocks.3" in name for name in names)
    with pytest.raises(UserError, match=r"do not fit|does not fit"):
        create_detector(replace(TINY, backbone="test_resnet", weights=weights), 1)
    with pytest.raises(UserError, match="neither mmdet's nor timm's"):
        create_detector(replace(TINY, backbone="resnet5000"), 1)
    with pytest.raises(UserError, match=r"style=caffe: only for resnet50 and resnet101"):
        create_detector(replace(TINY, style="caffe"), 1)


def batch_of(manifest: Manifest, entries: list[int], size: int = 64) -> BoxedBatch:
    samples = BoxedSamples(manifest, DataConfig(), BoxedImageConfig(size=size), one_class=True)
    return collate_boxed([samples[(0, entry)] for entry in entries])


def gradients(config: DetectorConfig, manifest: Manifest, entries: list[int], seed: int, ddp: bool) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_detector(config, 1)
    detector = Detector(model).eval()  # BatchNorm sees its rank's part: its statistics are held here
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    whole = torch.nn.parallel.DistributedDataParallel(detector) if ddp else detector
    torch.manual_seed(seed)  # the sampling of proposals draws from torch's generator
    whole(batch_of(manifest, entries))[0].backward()
    return {name: one.grad.contiguous() for name, one in model.named_parameters() if one.grad is not None}


def _rank(rank: int, port: int, folder: str, shards: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    manifest = read_manifest(shards)
    for name, config in (("faster_rcnn", TINY), ("rtmdet", TINY_RTM)):
        mine = gradients(config, manifest, [4 * rank + i for i in range(4)], seed=100 + rank, ddp=True)
        save_file(mine, f"{folder}/{name}-{rank}.safetensors")
    end_group()


def test_two_ranks_gradients(guide: Manifest, tmp_path: Path) -> None:
    """Faster R-CNN: the mean of two one-rank gradients on the same halves with the same generators. RTMDet divides by
    the positives of all ranks: the gradient of the whole batch on one rank."""
    multiprocessing.spawn(_rank, (29871 + os.getpid() % 1000, str(tmp_path), str(guide.folder)), nprocs=2)
    halves = [gradients(TINY, guide, [4 * half + i for i in range(4)], 100 + half, ddp=False) for half in range(2)]
    whole = gradients(TINY_RTM, guide, list(range(8)), 0, ddp=False)
    for rank in range(2):
        both = load_file(tmp_path / f"faster_rcnn-{rank}.safetensors")
        assert both.keys() == halves[0].keys()
        for name, value in both.items():
            assert torch.allclose(value, (halves[0][name] + halves[1][name]) / 2, atol=1e-5), name
        both = load_file(tmp_path / f"rtmdet-{rank}.safetensors")
        assert max(value.abs().max() for value in both.values()) > 1e-3
        for name, value in both.items():
            assert torch.allclose(value, whole[name], atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize("config", [TINY, TINY_RTM])
def test_a_file_gives_the_same_boxes_again(config: DetectorConfig, guide: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = create_detector(replace(config, score=0.0, class_agnostic=True), 1)
    detector = Detector(model)
    for _ in range(2):
        detector(batch_of(guide, [0, 1, 2, 3]))  # BatchNorm has seen something
    save_detector(
        tmp_path / "model.safetensors", model, replace(config, score=0.0, class_agnostic=True), ["object"], 64
    )
    again, about = open_detector(tmp_path / "model.safetensors")
    assert about["classes"] == ["object"]
    members = guide.split("test")[:5]
    image = BoxedImageConfig(size=64)
    first = detect(detector, guide, members, DataConfig(), image, device=CPU, batch=2)
    second = detect(again, guide, members, DataConfig(), image, device=CPU, batch=5)
    assert list(first) == sorted(members)
    for index in members:
        assert len(first[index].boxes) > 0
        assert first[index].boxes == pytest.approx(second[index].boxes, abs=0.05)
        assert first[index].scores == pytest.approx(second[index].scores, abs=1e-4)
        entry = guide.entries[index]
        assert (first[index].boxes.max(0)[2:] <= (entry.width, entry.height)).all()
        assert (np.diff(first[index].scores) <= 0).all()
    found = find_boxes(tmp_path / "model.safetensors", guide, members, device=CPU, score=0.0)
    assert set(found) == {guide.entries[index].key for index in members}
    one = found[guide.entries[members[0]].key]
    assert one[0] == pytest.approx((*first[members[0]].boxes[0], first[members[0]].scores[0]), abs=0.05)
    high = find_boxes(tmp_path / "model.safetensors", guide, members, device=CPU, score=1.1)
    assert all(rows == [] for rows in high.values())


def test_files_of_others_are_refused(guide: Manifest, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="does not describe a detector"):
        open_detector(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="no such weights file"):
        open_detector(tmp_path / "absent.safetensors")
    save_detector(tmp_path / "rcnn.safetensors", create_detector(TINY, 2), TINY_RTM, ["a", "b"], 64)
    with pytest.raises(UserError, match="does not fit this detector: it lacks"):
        open_detector(tmp_path / "rcnn.safetensors")
    save_detector(tmp_path / "two.safetensors", create_detector(TINY, 2), TINY, ["a", "b"], 64)
    started = create_detector(
        replace(TINY, start=str(tmp_path / "two.safetensors")), 3
    )  # heads of other classes stay new
    saved = load_file(tmp_path / "two.safetensors")
    assert torch.equal(started.state_dict()["neck.fpn_convs.0.conv.weight"], saved["neck.fpn_convs.0.conv.weight"])
    with pytest.raises(UserError, match="does not fit this detector"):
        create_detector(replace(TINY_RTM, start=str(tmp_path / "two.safetensors")), 3)


def detections(boxes: list, scores: list, labels: list | None = None) -> Detections:
    labels = labels or [0] * len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def test_figures_by_hand(guide: Manifest) -> None:
    members = guide.split("test")[:4]
    truth = {index: list(guide.entries[index].boxes[0]) for index in members}
    perfect = {index: detections([box], [0.9], [guide.entries[index].label]) for index, box in truth.items()}
    figures = summary(guide, perfect, guide.classes, class_agnostic=False)
    assert [figures[key] for key in ("AP", "AP50", "AR", "top_right", "top_iou")] == pytest.approx([1] * 5)
    far = [0.0, 0.0, 1.0, 1.0]
    one, two, three, four = members
    mixed = perfect | {
        one: detections([far, truth[one]], [0.95, 0.5]),
        two: detections([], []),
        three: detections([far], [0.2]),
    }
    mixed[four] = detections([truth[four]], [0.9])
    figures = summary(guide, mixed, ("object",), class_agnostic=True)
    assert figures["nothing"] == 1
    assert figures["top_right"] == pytest.approx(1 / 4)  # only the fourth: the first's best box is elsewhere
    # by score: wrong .95, right .9, right .5, wrong .2: precision 2/3 up to recall 1/2, COCO's 101 points: 51 of them
    assert figures["AP50"] == pytest.approx(51 / 101 * 2 / 3)
    assert figures["AR"] == pytest.approx(0.5)
    nothing = {index: detections([], []) for index in members}
    figures = summary(guide, nothing, ("object",), class_agnostic=True)
    assert (figures["AP"], figures["top_right"], figures["nothing"]) == (0, 0, 4)


def test_faster_rcnn_trains_in_bf16(guide: Manifest, tmp_path: Path) -> None:
    """RoIAlign, boxes and losses are fp32 islands: the first losses are those of fp32 to bf16's accuracy."""
    losses = {}
    for precision in ("fp32", "bf16"):
        words = [
            f"name={precision}", f"runs_dir={tmp_path}", f"data.shards={guide.folder}", "data.workers=0",
            "data.limit=8", "model.backbone=test_efficientnet", "model.weights=none", "model.channels=16",
            "model.fc_channels=32",
            "model.proposals=50", "model.samples=32", "model.frozen_stages=0", "model.norm_eval=false",
            "model.class_agnostic=true", "image.size=64", "train.batch=4", "train.epochs=1", "train.max_steps=2",
            "optim.lr=0.001", "optim.head_multiplier=1", "track.wandb=disabled", "evaluate_test=false",
            f"train.precision={precision}",
        ]  # fmt: skip
        AcceleratorState._reset_state(reset_partial_state=True)
        run(load(Config, None, words))
        losses[precision] = [row["loss"] for row in history(tmp_path / "detect" / precision)]
    assert len(losses["bf16"]) == 2
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roi_align_of_half_precision_is_that_of_fp32(dtype: torch.dtype) -> None:
    features = torch.randn(1, 4, 16, 16).to(dtype)
    rois = torch.tensor([[0, 1.3, 2.7, 9.1, 12.6]])
    options = {
        "aligned_height": 3,
        "aligned_width": 3,
        "spatial_scale": 1.0,
        "sampling_ratio": 0,
        "pool_mode": 1,
        "aligned": True,
    }
    wide, half = torch.empty(1, 4, 3, 3), torch.empty(1, 4, 3, 3, dtype=dtype)
    empty = torch.empty(0)
    kernels.roi_align_forward(features.float(), rois, wide, empty, empty, **options)
    kernels.roi_align_forward(features, rois, half, empty, empty, **options)
    assert torch.equal(half, wide.to(dtype))
    wide_gradient, half_gradient = torch.empty(1, 4, 16, 16), torch.empty(1, 4, 16, 16, dtype=dtype)
    kernels.roi_align_backward(half.float(), rois, empty, empty, wide_gradient, **options)
    kernels.roi_align_backward(half, rois, empty, empty, half_gradient, **options)
    assert torch.equal(half_gradient, wide_gradient.to(dtype))
