"""The kernels that stand in for mmcv's compiled ones, against plain implementations and hand-made cases."""

import math
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

import fgvc.detection.mmcv_kernels as kernels

from mmcv.ops import batched_nms, nms, roi_align, soft_nms


def overlap(one: list[float], other: list[float], offset: int = 0) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0]) + offset
    high = min(one[3], other[3]) - max(one[1], other[1]) + offset
    shared = max(0.0, wide) * max(0.0, high)
    areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (one, other)]
    return shared / (sum(areas) - shared)


def plain_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def some_boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40], 1)
    return boxes, torch.rand(count, generator=generator)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_is_the_plain_one(threshold: float, offset: int) -> None:
    boxes, scores = some_boxes(120, seed=offset)
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == plain_nms(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], 1))


def test_nms_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 4]])
    scores = torch.tensor([0.8, 0.9, 0.1, 0.7])
    assert nms(boxes, scores, 0.5)[1].tolist() == [1, 3, 2]  # IoU 0.9 with the first, 4/9 with the last
    # an offset of 1 makes it 55 / 110 with the last: still not above the threshold; at 0.49 it goes
    assert nms(boxes, scores, 0.49, offset=1)[1].tolist() == [1, 2]
    empty = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert empty[0].shape == (0, 5)
    classes = torch.tensor([0, 1, 0, 0])
    assert sorted(batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.35})[1].tolist()) == [0, 1, 2]


def test_soft_nms_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    dets, kept = soft_nms(boxes, scores, iou_threshold=0.3, method="linear", min_score=0.01)
    assert kept.tolist() == [0, 2, 1]
    assert dets[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.8 * (1 - 0.5)])
    dets, kept = soft_nms(boxes, scores, method="gaussian", sigma=0.5, min_score=0.01)
    assert dets[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-0.25 / 0.5)])
    dets, kept = soft_nms(boxes, scores, iou_threshold=0.3, method="naive", min_score=0.01)
    assert kept.tolist() == [0, 2]


def sampled(feature: np.ndarray, y: float, x: float) -> float:
    """Bilinear interpolation as RoIAlign defines it: 0 beyond one pixel outside, clamped to the border before."""
    height, width = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = (y - y0 if y0 < height - 1 else 0.0), (x - x0 if x0 < width - 1 else 0.0)
    top = feature[y0, x0] * (1 - dx) + feature[y0, x1] * dx
    return top * (1 - dy) + (feature[y1, x0] * (1 - dx) + feature[y1, x1] * dx) * dy


def plain_roi_align(feature: np.ndarray, roi: list[float], size: int, scale: float, samples: int) -> np.ndarray:
    x0, y0, x1, y1 = (value * scale - 0.5 for value in roi)
    bin_w, bin_h = (x1 - x0) / size, (y1 - y0) / size
    points_h, points_w = (samples or math.ceil(bin_h)), (samples or math.ceil(bin_w))
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            values = [
                sampled(feature, y0 + (i + (u + 0.5) / points_h) * bin_h, x0 + (j + (v + 0.5) / points_w) * bin_w)
                for u in range(points_h)
                for v in range(points_w)
            ]
            out[i, j] = np.mean(values)
    return out


@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_is_the_plain_one(samples: int) -> None:
    features = torch.rand(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 1.0, 2.0, 17.0, 14.0], [1, -6.0, 0.0, 30.0, 9.0], [0, 3.0, 3.0, 5.0, 4.0]]).double()
    out = roi_align(features, rois, (3, 3), 0.5, samples, "avg", True)
    for row, roi in zip(out, rois.tolist(), strict=True):
        for channel in range(3):
            expected = plain_roi_align(features[int(roi[0]), channel].numpy(), roi[1:], 3, 0.5, samples)
            assert row[channel].numpy() == pytest.approx(expected, abs=1e-9)


def test_roi_align_gradient_by_finite_differences() -> None:
    features = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.9, 7.1, 8.2], [0, 2.0, 2.0, 5.0, 11.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda one: roi_align(one, rois, (2, 2), 0.5, 2, "avg", True), (features,))


def test_what_is_not_served_says_its_name() -> None:
    from mmcv.ops import roi_pool

    rois = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]])
    with pytest.raises(NotImplementedError, match="'roi_pool_forward'"):
        roi_pool(torch.rand(1, 1, 4, 4), rois, 2, 1.0)
    with pytest.raises(NotImplementedError, match="max"):
        roi_align(torch.rand(1, 1, 4, 4), rois, (2, 2), 1.0, 0, "max", True)


def test_a_compiled_mmcv_is_left_alone() -> None:
    code = """
import sys, types
compiled = types.ModuleType("mmcv._ext")
sys.modules["mmcv._ext"] = compiled
import fgvc.detection.mmcv_kernels as kernels
assert kernels.install() is False
assert sys.modules["mmcv._ext"] is compiled
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _kernels_in_a_worker(queue: multiprocessing.Queue) -> None:
    boxes, scores = some_boxes(40, seed=3)
    queue.put((type(sys.modules["mmcv._ext"]).__name__, nms(boxes, scores, 0.5)[1].tolist()))


def test_spawned_workers_have_them_too() -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_kernels_in_a_worker, args=(queue,))
    worker.start()
    name, kept = queue.get(timeout=120)
    worker.join()
    assert name == kernels.Kernels.__name__
    assert kept == plain_nms(*some_boxes(40, seed=3), 0.5, 0)
