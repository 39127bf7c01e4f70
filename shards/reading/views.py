"""Crop policies: which part of every image is kept, by the truth's boxes or by a boxes layer's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shards.boxes_layer import BoxesLayer, read_layer
from shards.errors import UserError
from shards.manifest import Entry, Manifest
from shards.paths import expand
from shards.reading.config import DataConfig
from shards.reading.splits import Splits
from shards.sample import Box

TRUTH = "truth"
Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels of the stored image; x1, y1 exclusive


@dataclass(frozen=True)
class View:
    """One way to look at every image.

    regions: position in the manifest -> the part that is kept; an image that is not in it is kept whole.
    padded: lay the part on a black square of the image's longer side, so that it is not enlarged.
    """

    regions: Mapping[int, Region]
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
        canvas = image.new_zeros(3, side, side)
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


WHOLE = View({})


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


def open_views(policy: Policy, manifest: Manifest, indices: Sequence[int]) -> tuple[View, ...]:
    """`views_of` with the boxes layer that the policy names. Raises UserError as it and `read_layer` do."""
    layer = read_layer(expand(policy.layer, "data.boxes"), manifest) if policy.layer else None
    return views_of(policy, manifest, indices, layer)


def without_box(policy: Policy, views: Sequence[View], indices: Sequence[int]) -> int:
    """How many images stay whole although the policy cuts by boxes."""
    return sum(index not in views[-1].regions for index in indices) if policy.uses_boxes else 0


def views_of(
    policy: Policy, manifest: Manifest, indices: Sequence[int], layer: BoxesLayer | None = None
) -> tuple[View, ...]:
    """The views of every image under a policy: one, or two for whole+box and whole+square (the whole image first).

    Of several boxes the one with the highest score counts, of equals the largest. An image without a box is kept whole.
    Raises UserError when the layer does not list an image: no boxes were looked for.
    """
    if not policy.uses_boxes:
        return (WHOLE,)
    if layer is not None:
        _check_listed(policy, manifest, indices, layer)
    regions = {}
    for index in indices:
        entry = manifest.entries[index]
        box = _best_box(entry, policy, layer)
        if box is not None:
            square = policy.crop.endswith("square")
            regions[index] = crop_region(box, entry.width, entry.height, square, policy.margin)
    view = View(regions, padded=policy.crop == "padded")
    return (WHOLE, view) if policy.crop.startswith("whole+") else (view,)


def crop_region(box: Box, width: int, height: int, square: bool, margin: float) -> Region:
    """The part of a width x height image around a box.

    The box is enlarged on every side by `margin` of its longer side and clipped to the image. square: the square of the
    enlarged box's longer side around its centre, moved inside the image where it sticks out and cut only where it is
    larger than the image.
    """
    x0, y0, x1, y1 = box
    pad = margin * max(x1 - x0, y1 - y0)
    x0, y0, x1, y1 = x0 - pad, y0 - pad, x1 + pad, y1 + pad
    if square:
        side = max(x1 - x0, y1 - y0)
        x0, x1 = _fit((x0 + x1) / 2, side, width)
        y0, y1 = _fit((y0 + y1) / 2, side, height)
    left, top = min(max(0, math.floor(x0)), width - 1), min(max(0, math.floor(y0)), height - 1)
    return left, top, max(left + 1, min(width, math.ceil(x1))), max(top + 1, min(height, math.ceil(y1)))


def _check_listed(policy: Policy, manifest: Manifest, indices: Sequence[int], layer: BoxesLayer) -> None:
    unseen = [manifest.entries[index].key for index in indices if manifest.entries[index].key not in layer.boxes]
    if unseen:
        raise UserError(
            f"{policy.boxes}: does not list {len(unseen)} of {len(indices)} images (first '{unseen[0]}'); "
            "make a layer of all samples: fgvc crop"
        )


def _best_box(entry: Entry, policy: Policy, layer: BoxesLayer | None) -> Box | None:
    if layer is None:
        return max(entry.boxes, key=_area, default=None)
    found = [box for box in layer.boxes[entry.key] if box[4] >= policy.min_score]
    best = max(found, key=lambda box: (box[4], _area(box[:4])), default=None)
    return best[:4] if best is not None else None


def _centred(region: Region, side: int) -> tuple[int, int]:
    """(left, top) of a part in the middle of a square."""
    return (side - (region[2] - region[0])) // 2, (side - (region[3] - region[1])) // 2


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _fit(centre: float, side: float, limit: int) -> tuple[float, float]:
    """An interval of length `side` around `centre`, moved into [0, limit]; all of it when it is too long."""
    if side >= limit:
        return 0.0, float(limit)
    start = min(max(0.0, centre - side / 2), limit - side)
    return start, start + side


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
