"""One chunk of images, explained and scored: a row an image, an array a figure."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fgvc.explanation.birds import SIBLINGS, Guide
from fgvc.explanation.explainers import Explainer, Versus, check_finite, explainer, runners_up
from fgvc.explanation.geometry import Placement
from fgvc.explanation.perturbation import insertion_deletion, road
from fgvc.explanation.scores import THRESHOLDS, energy_in, ious_of, mask_of, points_at, scored_box, whole_image_iou
from fgvc.explanation.subject import Subject
from fgvc.runtime.chunks import Arrays
from shards.entries import Entry
from shards.sample import Box

KEPT = 56  # side of the maps that are kept, for pictures
POINT_SHARE = 0.04  # of the side: how near to a part counts as on it (the pointing game's 15 pixels would be 0.07)


@dataclass
class Examiner:
    """Explains images by several methods and scores the maps against what is known of the images.

    entries, placements: of every image that may come, by its place in the manifest. guide: where parts are known.
    threshold: of a map's range, for the box that is cut from it. perturbs: insertion, deletion and ROAD too.
    oracle: of a class. oracle_versus: of a class against the runner-up, which is what `telling` asks of it.
    """

    subject: Subject
    methods: Sequence[str]
    entries: dict[int, Entry]
    placements: dict[int, Placement]
    seed: int = 0
    threshold: float = 0.2
    perturbs: bool = False
    guide: Guide | None = None
    oracle: Explainer | None = None
    oracle_versus: Versus | None = None
    _explainers: dict[str, Explainer] = field(init=False)

    def __post_init__(self) -> None:
        made = {name: explainer(name, self.subject, self.seed) for name in self.methods if name != "oracle"}
        self._explainers = made | ({"oracle": self.oracle} if self.oracle and "oracle" in self.methods else {})

    def __call__(self, batch: Any) -> Arrays:
        """batch: images (N, 3, S, S) uint8, labels and entries (N,). The class that is explained is the predicted."""
        entries = [int(entry) for entry in batch.entries]
        inputs = self.subject.normalise(batch.images)
        logits = self.subject.logits(inputs)
        classes = logits.argmax(1)
        others, chances = runners_up(logits, classes), torch.softmax(logits, 1)
        rows: Arrays = {
            "entries": np.array(entries), "labels": np.array(batch.labels), "predicted": classes.numpy(),
            "runner_up": others.numpy(), "probability": chances.amax(1).numpy(),
            "runner_up_probability": chances.gather(1, others[:, None])[:, 0].numpy(),
            "finite": logits.isfinite().all(1).numpy(),
        }  # fmt: skip
        truths = [self._truth(entry, int(a), int(b)) for entry, a, b in zip(entries, classes, others, strict=True)]
        rows["area"] = np.array([truth.mask.mean() if truth.boxes else np.nan for truth in truths])
        rows["whole"] = np.array([
            whole_image_iou(truth.boxes, self.subject.size) if truth.boxes else np.nan for truth in truths
        ])  # fmt: skip
        for name, method in self._explainers.items():
            began = time.perf_counter()
            maps = method(inputs, classes, entries)
            seconds = (time.perf_counter() - began) / len(entries)
            if rows["finite"].all():
                check_finite(name, self.subject, maps)
            maps = maps.nan_to_num()  # of images whose logits are not finite, which end the run when all are done
            against = maps
            if name == "oracle" and self.oracle_versus:
                against = self.oracle_versus(inputs, classes, others, entries)
            scored = [self._scored(*row) for row in zip(maps.numpy(), against.numpy(), truths, strict=True)]
            found = {key: np.array([row[key] for row in scored]) for key in scored[0]}
            found |= {"seconds": np.full(len(entries), seconds), "map": _kept(maps)}
            if self.perturbs:
                found |= self._perturbed(inputs, maps, classes)
            rows |= {f"{name}/{key}": values for key, values in found.items()}
        return rows

    def _truth(self, index: int, predicted: int, other: int) -> "_Truth":
        entry, placed = self.entries[index], self.placements[index]
        boxes = [box for box in map(placed.box, entry.boxes) if box is not None]
        telling = None
        if self.guide is not None and predicted == entry.label:
            parts = self.guide.tells(predicted, other)
            regions = self.guide.part_regions(self.guide.bird(entry))
            masks = [placed.mask(regions[part]) for part in parts if part in regions]
            if len(parts) <= SIBLINGS and masks and np.any(masks):
                telling = _around(np.any(masks, axis=0))
        return _Truth(boxes, mask_of(boxes, placed.size), telling)

    def _scored(self, map_: np.ndarray, against: np.ndarray, truth: "_Truth") -> dict[str, Any]:
        """against: the map that is asked for the part which tells the class from the runner-up."""
        known, telling = bool(truth.boxes), truth.telling
        return {
            "pointing": float(points_at(map_, truth.mask)) if known else np.nan,
            "energy": energy_in(map_, truth.mask) if known else np.nan,
            "ious": ious_of(map_, truth.boxes) if known else np.full((2, len(THRESHOLDS)), np.nan),
            "telling": np.nan if telling is None else float(points_at(against, telling)),
            "box": scored_box(map_, self.threshold),
            "empty": float(map_.max() <= 0),
        }

    def _perturbed(self, inputs: Tensor, maps: Tensor, classes: Tensor) -> Arrays:
        found = [
            (*insertion_deletion(self.subject, image, map_, int(label)), road(self.subject, image, map_, int(label)))
            for image, map_, label in zip(inputs, maps, classes, strict=True)
        ]
        insertion, deletion, roads = (np.array(column) for column in zip(*found, strict=True))
        return {"insertion": insertion, "deletion": deletion, "road": roads}


@dataclass(frozen=True)
class _Truth:
    boxes: list[Box]
    mask: np.ndarray
    telling: np.ndarray | None  # None: the two most probable classes differ in more than one or two parts, or are wrong


def _around(mask: np.ndarray) -> np.ndarray:
    """A mask with what is near to it."""
    size = 2 * round(POINT_SHARE * len(mask)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def _kept(maps: Tensor) -> np.ndarray:
    """(N, KEPT, KEPT) uint8: small maps, each from 0 to its own maximum."""
    small = functional.adaptive_avg_pool2d(maps[:, None], min(KEPT, maps.shape[-1]))[:, 0]
    return (255 * small / small.amax((1, 2), keepdim=True).clamp_min(1e-12)).round().to(torch.uint8).numpy()
