"""Crop policies: which part of every image is kept, by the truth's boxes or by a boxes layer's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shards.boxes_layer import BoxesLayer, read_layer
from shards.entries import Entries, Entry
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.config import DataConfig
from shards.reading.order import Indices
from shards.reading.splits import Splits
from shards.sample import Box

TRUTH = "truth"
Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels of the stored image; x1, y1 exclusive


class Regions(Mapping[int, Region]):
    """Which part of which image is kept: of N images four numbers each, so that a million take 16 MB."""

    def __init__(self, images: int = 0, indices: Indices = (), regions: np.ndarray | None = None):
        """regions: (K, 4) of the images at `indices`."""
        self._regions = np.full((images, 4), -1, np.int32)
        if regions is not None:
            self._regions[indices] = regions

    def get(self, index: int, default: Any = None) -> Any:
        """As a dictionary's, at a tenth of the cost of Mapping's own: it is asked for every image that is read."""
        if not 0 <= index < len(self._regions):
            return default
        x0, y0, x1, y1 = self._regions[index].tolist()
        return default if x0 < 0 else (x0, y0, x1, y1)

    def __getitem__(self, index: int) -> Region:
        region = self.get(index)
        if region is None:
            raise KeyError(index)
        return region

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._regions[:, 0] >= 0).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self._regions[:, 0] >= 0))

    def missing(self, indices: Indices) -> int:
        """How many of these images are kept whole."""
        return int(np.count_nonzero(self._regions[np.asarray(indices, np.int64), 0] < 0))


@dataclass(frozen=True)
class View:
    """One way to look at every image.

    regions: position in the manifest -> the part that is kept; an image that is not in it is kept whole.
    padded: lay the part on a black square of the image's longer side, so that it is not enlarged.
    """

    regions: Regions
    padded: bool = False

    def cut(self, image: torch.Tensor, index: int) -> torch.Tensor:
        """This view of a (3, H, W) image."""
        region = self.regions.get(index)
        if region is None:
            return image
        x0, y0, x1, y1 = region
        part = image[:, y0:y1, x0:x1]
        if not self.padded:
            return part
        side = max(image.shape[1:])
        left, top = _centred(region, side)
        canvas = image.new_zeros(side, side, 3).permute(2, 0, 1)  # channels together, as in decoded images
        canvas[:, top : top + y1 - y0, left : left + x1 - x0] = part
        return canvas

    def moved(self, x: float, y: float, entry: Entry, index: int) -> tuple[float, float]:
        """Where a point of the image is in its view, moved to the nearest point of the part that is kept."""
        region = self.regions.get(index)
        if region is None:
            return x, y
        x0, y0, x1, y1 = region
        left, top = _centred(region, max(entry.width, entry.height)) if self.padded else (0, 0)
        return min(max(x, x0), x1) - x0 + left, min(max(y, y0), y1) - y0 + top


WHOLE = View(Regions())


@dataclass(frozen=True)
class Policy:
    """What is kept of an image.

    crop: whole | box | square | padded (the box, not enlarged), or whole+box | whole+square: two views of every image.
    margin: the box is enlarged on every side by this share of its longer side.
    boxes: truth, or the path of a boxes layer. min_score: a layer's boxes below it are not used.
    """

    crop: str
    margin: float
    boxes: str
    min_score: float

    @property
    def uses_boxes(self) -> bool:
        return self.crop != "whole"

    @property
    def layer(self) -> str:
        """The path of the boxes layer that this policy needs; empty when it needs none."""
        return self.boxes if self.uses_boxes and self.boxes != TRUTH else ""


def train_policy(config: DataConfig) -> Policy:
    """The policy of training images."""
    return Policy(config.crop, config.margin, config.boxes, config.min_score)


def eval_policy(config: DataConfig) -> Policy:
    """The policy of everything that is measured: the test split and held-out folds."""
    return Policy(
        config.crop if config.test_crop is None else config.test_crop,
        config.margin if config.test_margin is None else config.test_margin,
        config.test_boxes or config.boxes,
        config.min_score if config.test_min_score is None else config.test_min_score,
    )


def open_views(policy: Policy, manifest: Manifest, indices: Indices) -> tuple[View, ...]:
    """`views_of` with the boxes layer that the policy names. Raises UserError as it and `read_layer` do."""
    layer = read_layer(expand(policy.layer, "data.boxes"), manifest) if policy.layer else None
    return views_of(policy, manifest, indices, layer)


def without_box(policy: Policy, views: Sequence[View], indices: Indices) -> int:
    """How many images stay whole although the policy cuts by boxes."""
    return views[-1].regions.missing(indices) if policy.uses_boxes else 0


def views_of(policy: Policy, manifest: Manifest, indices: Indices, layer: BoxesLayer | None = None) -> tuple[View, ...]:
    """The views of every image under a policy: one, or two for whole+box and whole+square (the whole image first).

    Of several boxes the one with the highest score counts, of equals the largest. An image without a box is kept whole.
    Raises UserError when the layer does not list an image: no boxes were looked for.
    """
    if not policy.uses_boxes:
        return (WHOLE,)
    wanted, entries = np.asarray(indices, np.int64), manifest.entries
    if layer is None:
        cut, boxes = _largest_boxes(entries, wanted)
    else:
        cut, boxes = _best_boxes(policy, manifest, wanted, layer)
    square = policy.crop.endswith("square")
    regions = crop_regions(boxes, entries.width[cut], entries.height[cut], square, policy.margin)
    view = View(Regions(len(entries), cut, regions), padded=policy.crop == "padded")
    return (WHOLE, view) if policy.crop.startswith("whole+") else (view,)


def views_of_one(policy: Policy, box: Box | None, width: int, height: int) -> tuple[View, ...]:
    """The views of one image that is in no shards, its index 0: as `views_of`; without a box it is kept whole."""
    if not policy.uses_boxes:
        return (WHOLE,)
    regions = Regions(1)
    if box is not None:
        region = crop_region(box, width, height, policy.crop.endswith("square"), policy.margin)
        regions = Regions(1, [0], np.array([region]))
    view = View(regions, padded=policy.crop == "padded")
    return (WHOLE, view) if policy.crop.startswith("whole+") else (view,)


def crop_region(box: Box, width: int, height: int, square: bool, margin: float) -> Region:
    """The part of a width x height image around a box.

    The box is enlarged on every side by `margin` of its longer side and clipped to the image. square: the square of the
    enlarged box's longer side around its centre, moved inside the image where it sticks out and cut only where it is
    larger than the image.
    """
    (region,) = crop_regions(np.array([box]), np.array([width]), np.array([height]), square, margin).tolist()
    return tuple(region)


def crop_regions(boxes: np.ndarray, widths: np.ndarray, heights: np.ndarray, square: bool, margin: float) -> np.ndarray:
    """`crop_region` of (K, 4) boxes in images of (K,) widths and heights; (K, 4) int64."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    pad = margin * np.maximum(x1 - x0, y1 - y0)
    x0, y0, x1, y1 = x0 - pad, y0 - pad, x1 + pad, y1 + pad
    if square:
        side = np.maximum(x1 - x0, y1 - y0)
        x0, x1 = _fit((x0 + x1) / 2, side, widths)
        y0, y1 = _fit((y0 + y1) / 2, side, heights)
    corners = []
    for low, high, limit in ((x0, x1, widths), (y0, y1, heights)):
        # Clipped before they become integers, which the boxes of a manifest from elsewhere may not fit into.
        start = np.clip(np.floor(low), 0, limit - 1).astype(np.int64)
        corners.append((start, np.maximum(start + 1, np.clip(np.ceil(high), 0, limit).astype(np.int64))))
    (left, right), (top, bottom) = corners
    return np.stack([left, top, right, bottom], 1)


def _largest_boxes(entries: Entries, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) which of these images have boxes, and (K, 4) the largest of each, of equals the first."""
    counts = entries.box_counts[indices]
    indices, counts = indices[counts > 0], counts[counts > 0]
    if not len(indices):
        return indices, np.zeros((0, 4))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])  # in the boxes of these images, one after another
    rows = np.arange(counts.sum()) + np.repeat(entries.box_starts[indices] - starts, counts)
    boxes = entries.boxes[rows]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    largest = areas == np.repeat(np.maximum.reduceat(areas, starts), counts)
    first = np.minimum.reduceat(np.where(largest, np.arange(len(rows)), len(rows)), starts)
    return indices, boxes[first]


def _best_boxes(
    policy: Policy, manifest: Manifest, indices: np.ndarray, layer: BoxesLayer
) -> tuple[np.ndarray, np.ndarray]:
    """As `_largest_boxes`, of a layer: the highest score, of equals the largest."""
    keys = manifest.entries.keys_of(indices)
    unseen = [key for key in keys if key not in layer.boxes]
    if unseen:
        raise UserError(
            f"{policy.boxes}: does not list {len(unseen)} of {len(indices)} images (first '{unseen[0]}'); "
            "make a layer of all samples: fgvc crop"
        )
    cut, boxes = [], []
    for index, key in zip(indices.tolist(), keys, strict=True):
        found = [box for box in layer.boxes[key] if box[4] >= policy.min_score]
        if found:
            cut.append(index)
            boxes.append(max(found, key=lambda box: (box[4], _area(box[:4])))[:4])
    return np.array(cut, np.int64), np.array(boxes, np.float64).reshape(-1, 4)


def _centred(region: Region, side: int) -> tuple[int, int]:
    """(left, top) of a part in the middle of a square."""
    return (side - (region[2] - region[0])) // 2, (side - (region[3] - region[1])) // 2


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _fit(centres: np.ndarray, sides: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of length `side` around `centre`, moved into [0, limit]; all of it where they are too long."""
    long = sides >= limits
    start = np.where(long, 0.0, np.minimum(np.maximum(0.0, centres - sides / 2), limits - sides))
    return start, np.where(long, limits, start + sides)


@dataclass(frozen=True)
class Crops:
    """How images are looked at in training and where they are measured; `counts`: images that stay whole for lack of a
    box, by split, empty when nothing is cut."""

    train: tuple[View, ...]
    test: tuple[View, ...]
    counts: dict[str, dict[str, int]]


def open_crops(manifest: Manifest, splits: Splits, config: DataConfig) -> Crops:
    """The views a config asks for. Raises UserError for boxes layers that are missing or do not fit."""
    train, test = train_policy(config), eval_policy(config)
    train_views = open_views(train, manifest, splits.train)
    test_views = open_views(test, manifest, sorted({*splits.held_out, *splits.watched, *splits.test}))
    counts = {}
    for split, policy, views, indices in (
        ("train", train, train_views, splits.train),
        ("val", test, test_views, splits.held_out),
        ("test", test, test_views, splits.test),
    ):
        if policy.uses_boxes and indices:
            counts[split] = {"images": len(indices), "without_box": without_box(policy, views, indices)}
    return Crops(train_views, test_views, counts)
