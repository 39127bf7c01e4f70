"""What detections are worth: COCO's AP and AR by pycocotools, and how often the top box is right."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from fgvc.detection.detector import Detections
from shards.manifest import Manifest

RIGHT = 0.5  # IoU from which a top box counts as right


def top_ious(manifest: Manifest, found: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Entry -> IoU of its top box with the nearest true box, 0 where nothing was found. Without truth: left out.

    found: entry -> boxes (K, 4) xyxy, the best first.
    """
    values = {}
    for index, boxes in found.items():
        truth = np.array(manifest.entries[index].boxes, dtype=boxes.dtype).reshape(-1, 4)
        if len(truth):
            top, true = torch.from_numpy(boxes[:1]), torch.from_numpy(truth)
            values[index] = float(box_iou(top, true).max()) if len(boxes) else 0.0
    return values


def summary(
    manifest: Manifest, found: Mapping[int, Detections], classes: Sequence[str], class_agnostic: bool
) -> dict[str, Any]:
    """Figures over the entries that have true boxes, as fractions of 1.

    AP, AP50, AP75, AR as COCO defines them (at most 100 boxes an image; averaged over the classes that occur; AP_small,
    AP_medium, AP_large where there are such boxes); top_right: share of images whose top box has IoU >= 0.5 with a true
    one; top_iou: its mean; nothing: images without any detection; without_truth: images that were left out. Where no
    image has true boxes, there are only the counts.
    """
    ious = top_ious(manifest, {index: detections.boxes for index, detections in found.items()})
    figures: dict[str, Any] = {
        "count": len(ious),
        "without_truth": len(found) - len(ious),
        "nothing": sum(len(found[index].boxes) == 0 for index in ious),
    }
    if not ious:
        return figures
    values = np.array(list(ious.values()))
    figures |= {"top_right": float((values >= RIGHT).mean()), "top_iou": float(values.mean())}
    return figures | coco_figures(manifest, {index: found[index] for index in ious}, classes, class_agnostic)


def coco_figures(
    manifest: Manifest, found: Mapping[int, Detections], classes: Sequence[str], class_agnostic: bool
) -> dict[str, float]:
    """COCO's figures by pycocotools; all 0 when nothing was found anywhere."""
    names = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR": 8}
    # Numbers from 1: pycocotools takes annotation 0 for "no match".
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    for index, detections in found.items():
        entry = manifest.entries[index]
        images.append({"id": index + 1, "width": entry.width, "height": entry.height})
        for x0, y0, x1, y1 in entry.boxes:
            annotations.append({
                "id": len(annotations) + 1, "image_id": index + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                "category_id": 1 if class_agnostic else entry.label + 1, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0,
            })  # fmt: skip
        for (x0, y0, x1, y1), score, label in zip(
            detections.boxes.tolist(), detections.scores, detections.labels, strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": index + 1, "category_id": int(label) + 1, "bbox": box, "score": float(score)})
    if not results or not annotations:
        return dict.fromkeys(("AP", "AP50", "AP75", "AR"), 0.0)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: float(evaluation.stats[place]) for name, place in names.items()}
    return {name: value for name, value in figures.items() if value >= 0}  # -1: no such boxes
