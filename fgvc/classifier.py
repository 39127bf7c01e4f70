"""A trained classifier around its data: opening splits, evaluating one, figures and pictures of the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.distributed import rank, world_size
from fgvc.metrics import Predictions
from fgvc.predict import predict
from shards.crops import TRUTH, View, eval_policy, open_views, train_policy, without_box
from shards.data import DataConfig, ImageConfig
from shards.errors import DataError
from shards.loader import Place, Samples, eval_loader
from shards.manifest import Manifest
from shards.order import folds_of
from shards.transforms import eval_transform


@dataclass(frozen=True)
class Splits:
    """Positions in the manifest: what is trained on, what is held out to choose by, and the test split."""

    train: list[int]
    held_out: list[int]
    test: list[int]


def open_splits(manifest: Manifest, config: DataConfig) -> Splits:
    """The splits a config asks for. Raises DataError for a fold that is not there."""
    train, held_out = manifest.split(config.train_split), []
    if config.folds:
        if config.fold >= config.folds or config.folds < 2:
            raise DataError(
                f"data.fold={config.fold} of data.folds={config.folds}: folds are counted from 0, at least 2"
            )
        fold = folds_of(manifest, train, config.folds)
        held_out = [member for member, one in zip(train, fold, strict=True) if one == config.fold]
        train = [member for member, one in zip(train, fold, strict=True) if one != config.fold]
    test = [i for i, entry in enumerate(manifest.entries) if entry.split == config.test_split]
    return Splits(*(limited(members, config.limit) for members in (train, held_out, test)))


@dataclass(frozen=True)
class Crops:
    """How images are looked at in training and where they are measured; `counts`: images that stay whole for want of a
    box, by split, empty when nothing is cut."""

    train: tuple[View, ...]
    test: tuple[View, ...]
    counts: dict[str, dict[str, int]]


def open_crops(manifest: Manifest, splits: Splits, config: DataConfig) -> Crops:
    """The views a config asks for. Raises DataError for boxes layers that are missing or do not fit."""
    train, test = train_policy(config), eval_policy(config)
    train_views = open_views(train, manifest, splits.train)
    test_views = open_views(test, manifest, [*splits.held_out, *splits.test])
    counts = {}
    for split, policy, views, members in (
        ("train", train, train_views, splits.train),
        ("val", test, test_views, splits.held_out),
        ("test", test, test_views, splits.test),
    ):
        if policy.uses_boxes and members:
            counts[split] = {"images": len(members), "without_box": without_box(policy, views, members)}
    return Crops(train_views, test_views, counts)


def image_sizes(config: ImageConfig, own: int) -> tuple[int, int]:
    """(training, evaluation) side in pixels; `own` is the model's."""
    size = config.size or own
    return size, config.eval_size or size


def split_loader(
    manifest: Manifest,
    members: Sequence[int],
    data: DataConfig,
    image: ImageConfig,
    size: int,
    view: View,
    batch: int,
    workers: int,
) -> DataLoader:
    """This rank's part of `members` in one view with the evaluation transform at `size` pixels."""
    samples = Samples(manifest, eval_transform(image, size, cut=bool(view.regions)), [view], cache=data.cache)
    return eval_loader(members, samples, batch=batch, place=Place(rank(), world_size()), workers=workers)


def evaluate_split(
    model: nn.Module, manifest: Manifest, members: Sequence[int], data: DataConfig, image: ImageConfig, size: int, *,
    views: Sequence[View], device: torch.device, precision: str, workers: int, batch: int = 64, title: str = "evaluate",
) -> Predictions:  # fmt: skip
    """Predictions of a uint8 model on `members`, each counted once over all ranks; of several views the mean logits."""
    found = []
    for view in views:
        loader = split_loader(manifest, members, data, image, size, view, batch, workers)
        found.append(
            predict(
                model, loader, device, flip=image.eval_flip, precision=precision, expected=len(members), title=title
            )
        )
    return replace(found[0], logits=np.mean([one.logits for one in found], axis=0))


def about(
    manifest: Manifest, model: Any, image: ImageConfig, data: DataConfig, mean: torch.Tensor, std: torch.Tensor,
    size: int,
) -> dict[str, Any]:  # fmt: skip
    """What a weights file says of itself, so that `fgvc evaluate` needs nothing but the file and shards (and a boxes
    layer of theirs where one was cropped by)."""
    policy = eval_policy(data)
    return {
        "model": model, "classes": list(manifest.classes), "size": size, "fit": image.eval_fit,
        "crop_fit": image.crop_fit, "eval_crop": image.eval_crop, "eval_flip": image.eval_flip,
        "interpolation": image.interpolation,
        "crop": policy.crop, "margin": policy.margin, "boxes": TRUTH if policy.boxes == TRUTH else "layer",
        "min_score": policy.min_score, "mean": mean.flatten().tolist(), "std": std.flatten().tolist(),
    }  # fmt: skip


def save_pictures(folder: Path, manifest: Manifest, predictions: Predictions) -> dict[str, Path]:
    """Pictures of a result, as name -> PNG: the most confused pairs with examples, and accuracy by class."""
    from fgvc.pictures import class_accuracy, confused_pairs

    named = {"confused_pairs": folder / "confused_pairs.png", "class_accuracy": folder / "class_accuracy.png"}
    confused_pairs(named["confused_pairs"], manifest, predictions)
    class_accuracy(named["class_accuracy"], manifest, predictions)
    return {name: path for name, path in named.items() if path.is_file()}


def limited(members: list[int], limit: int) -> list[int]:
    """An even selection of at most `limit` members (debugging), in their order."""
    if not limit or len(members) <= limit:
        return members
    return [members[i] for i in np.linspace(0, len(members) - 1, limit).round().astype(int)]
