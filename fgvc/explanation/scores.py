"""How well a map points at what is there: pointing game, energy, boxes; all on (size, size) maps, 0 or larger."""

from collections.abc import Sequence

import cv2
import numpy as np

from shards.sample import Box

THRESHOLDS = np.arange(20) / 20  # of a map's range, from which boxes are cut
IOUS = (0.3, 0.5, 0.7)


def points_at(map_: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game (Zhang et al. 2018, https://arxiv.org/abs/1608.00507): whether the maximum lies in a mask."""
    return bool(map_.max() > 0 and mask.flat[map_.argmax()])


def energy_in(map_: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map in a mask (Wang et al. 2020, https://arxiv.org/abs/1910.01279); 0 of an empty map."""
    total = float(map_.sum())
    return float(map_[mask].sum()) / total if total > 0 else 0.0


def mask_of(boxes: Sequence[Box], size: int) -> np.ndarray:
    """(size, size) bool: pixels whose centres lie in a box."""
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in boxes:
        mask[round(y0) : round(y1), round(x0) : round(x1)] = True
    return mask


def boxes_of(map_: np.ndarray, threshold: float) -> list[Box]:
    """The boxes around the connected parts of what lies above a share of the map's range, the largest part first; none
    of a flat map. Strictly above: at threshold 0 the whole image would always be among them."""
    low, high = float(map_.min()), float(map_.max())
    above = (map_ > low + threshold * (high - low)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")
    corners = [stats[part, :4].astype(float).tolist() for part in largest]
    return [(x, y, x + width, y + height) for x, y, width, height in corners]


def box_of(map_: np.ndarray, threshold: float) -> Box | None:
    """The box of the largest part, as `boxes_of`."""
    return next(iter(boxes_of(map_, threshold)), None)


def scored_box(map_: np.ndarray, threshold: float) -> np.ndarray:
    """(5,): `box_of`, and as its score the map's mean in it as a share of its maximum; zeros where there is none."""
    box = box_of(map_, threshold)
    if box is None:
        return np.zeros(5)
    x0, y0, x1, y1 = (round(corner) for corner in box)
    return np.array([*box, min(max(float(map_[y0:y1, x0:x1].mean() / map_.max()), 0.0), 1.0)])


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both)


def ious_of(map_: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """(2, thresholds): the best IoU with a true box at each threshold, of the largest part's box and of any part's."""
    found = [[_best([box], boxes) for box in boxes_of(map_, threshold)] for threshold in THRESHOLDS]
    return np.array([[next(iter(parts), 0.0) for parts in found], [max(parts, default=0.0) for parts in found]])


def whole_image_iou(boxes: Sequence[Box], size: int) -> float:
    """The best IoU of the whole image with a true box: what a box says that no map was looked at for."""
    return _best([(0.0, 0.0, float(size), float(size))], boxes)


def _best(boxes: Sequence[Box], truths: Sequence[Box]) -> float:
    return max((iou(box, true) for box in boxes for true in truths), default=0.0)


def max_box_accuracy(ious: np.ndarray) -> dict[str, float]:
    """MaxBoxAcc (Choe et al. 2020, https://arxiv.org/abs/2001.07437) of (N, 2, thresholds) IoUs: images for which the
    largest part's box is right at the best threshold, at IoU 0.5; and its second version, in which any part's box may
    be right, the mean over IoU 0.3, 0.5 and 0.7. Unlike there the maps are of the predicted class, not the true one."""
    right = [float((ious[:, 1] >= level).mean(0).max()) for level in IOUS]
    largest = (ious[:, 0] >= 0.5).mean(0)
    return {
        "max_box_acc": float(largest.max()),
        "max_box_acc_v2": float(np.mean(right)),
        "box_threshold": float(THRESHOLDS[largest.argmax()]),
    }
