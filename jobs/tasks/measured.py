"""A trained classifier and the images it is measured on, opened together: for evaluate, explain, attack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fgvc.classification.evaluation import image_as_measured
from fgvc.classification.seen import seen_images
from fgvc.models.record import read_classifier
from jobs.hashes import file_hash
from jobs.inputs import boxes_hashes, open_shards
from jobs.measured import MeasureConfig
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.splits import limited, open_splits
from shards.reading.views import View, eval_policy, open_views, without_box


@dataclass(frozen=True)
class Measured:
    """What a weights file is measured on.

    about: what the file says of itself. data, image: with the crops and the fit it was measured with. indices: of the
    split, into the manifest. inputs: hashes for the run's identity. marks: whether images were seen in training.
    """

    manifest: Manifest
    about: dict[str, Any]
    data: DataConfig
    image: ImageConfig
    indices: list[int]
    inputs: dict[str, str]
    marks: dict[str, Any]

    def views(self, indices: Sequence[int] | None = None) -> Sequence[View]:
        """How these images (all, by default) are cropped."""
        return open_views(eval_policy(self.data), self.manifest, self.indices if indices is None else indices)

    def crops(self, views: Sequence[View], split: str) -> dict[str, Any]:
        """What result.json says of crops: how many images had no box. Empty where nothing is cropped."""
        policy = eval_policy(self.data)
        if not policy.uses_boxes:
            return {}
        counts = {"images": len(self.indices), "without_box": without_box(policy, views, self.indices)}
        return {"crops": {split: counts}}


def open_measured(config: MeasureConfig) -> Measured:
    """Open the weights' record and the shards. Raises UserError for unfit weights, other classes, a missing split,
    images that the weights were trained on (without `seen=true`), missing boxes."""
    weights = expand(config.weights, "weights")
    inputs = {"weights": file_hash(config.weights, "weights")}
    manifest = open_shards(config.data)
    inputs["shards"] = manifest.fingerprint
    about = read_classifier(weights)
    _check_classes(config, about, manifest)
    data = _data_as_measured(config, about)
    inputs |= boxes_hashes(data)
    indices = _indices(config, manifest)
    seen = _seen(config, about, manifest, indices)
    return Measured(manifest, about, data, image_as_measured(about), indices, inputs, seen)


def drawn(indices: Sequence[int], images: int, seed: int) -> list[int]:
    """`images` of `indices` drawn by seed, in their order; all of them where there are no more, or for 0."""
    if not images or images >= len(indices):
        return list(indices)
    places = np.random.default_rng(seed).choice(len(indices), images, replace=False)
    return [indices[place] for place in np.sort(places)]


def _check_classes(config: MeasureConfig, about: dict[str, Any], manifest: Manifest) -> None:
    """Raise UserError for shards of other classes than the weights were trained for."""
    trained, here = about["classes"], manifest.classes
    if tuple(trained) == here:
        return
    pairs = enumerate(zip(trained, here, strict=False), start=1)
    first = next((f": class {i} is {there!a} there, {ours!r} here" for i, (there, ours) in pairs if there != ours), "")
    raise UserError(
        f"weights={config.weights}: trained for {len(trained)} classes, {manifest.folder} has {len(here)}{first}; give "
        "shards of the classes that these weights were trained for"
    )


def _seen(config: MeasureConfig, about: dict[str, Any], manifest: Manifest, indices: list[int]) -> dict[str, Any]:
    """What result.json says of images that the weights were trained on: whether any, and how many; null: not known.

    Raises UserError when there are any and `seen` does not ask for them.
    """
    count = seen_images(about, manifest, indices)
    if count and not config.seen:
        raise UserError(
            f"split={config.split}: the weights were trained on {count} of these {len(indices)} images; measure others "
            "(split=test, or a fold held out of their training), or set seen=true to measure these all the same"
        )
    return {"seen": None if count is None else count > 0, "seen_images": count}


def _data_as_measured(config: MeasureConfig, about: dict[str, Any]) -> DataConfig:
    """The data config with the crops that the weights were measured with; the boxes are those of these shards."""
    boxes = config.data.test_boxes or config.data.boxes
    if about["crop"] != "whole" and about.get("boxes") == "layer" and boxes == "truth" and not config.data.test_boxes:
        raise UserError(
            f"weights={config.weights}: measured on crops by a detector's boxes; give data.boxes=FILE, a boxes layer "
            "of these shards (fgvc crop makes one), or data.test_boxes=truth to crop by the truth all the same"
        )
    return replace(
        config.data, crop=about["crop"], margin=about["margin"], boxes=boxes, min_score=about.get("min_score", 0.0),
        test_crop=None, test_margin=None, test_boxes="", test_min_score=None,
    )  # fmt: skip


def _indices(config: MeasureConfig, manifest: Manifest) -> list[int]:
    """Positions in the manifest of what is measured."""
    if config.split != "held_out":
        for name in ("per_class", "imbalance"):
            if getattr(config.data, name) != getattr(DataConfig(), name):
                raise UserError(f"data.{name}: chooses what is trained on; split={config.split} is measured whole")
        return limited(manifest.split(config.split), config.data.limit)
    indices = open_splits(manifest, config.data).held_out
    if not indices:
        raise UserError("split=held_out: name the fold too, such as data.folds=5 data.fold=0")
    return indices
