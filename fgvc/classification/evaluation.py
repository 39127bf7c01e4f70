"""Evaluating a classifier on a split, and what its weights file says of it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.classification.inference import predict
from fgvc.classification.metrics import Predictions
from fgvc.runtime.distributed import rank, world_size
from shards.manifest import Manifest
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.loader import Place, Samples, eval_loader
from shards.reading.transforms import eval_transform
from shards.reading.views import TRUTH, View, eval_policy


def image_sizes(config: ImageConfig, own: int) -> tuple[int, int]:
    """(training, evaluation) side in pixels; `own` is the model's."""
    size = config.size or own
    return size, config.eval_size or size


def image_as_measured(about: dict[str, Any]) -> ImageConfig:
    """How images became the model's input where a weights file (`about` below) was measured."""
    return ImageConfig(
        eval_fit=about["fit"], crop_fit=about.get("crop_fit"), eval_crop=about["eval_crop"],
        eval_flip=about["eval_flip"], eval_crops=about.get("eval_crops", 1), interpolation=about["interpolation"],
    )  # fmt: skip


def split_loader(
    manifest: Manifest,
    indices: Sequence[int],
    data: DataConfig,
    image: ImageConfig,
    size: int,
    view: View,
    batch: int,
    workers: int,
    crop: int = 0,
) -> DataLoader:
    """This rank's part of `indices` in one view with the evaluation transform at `size` pixels; crop: as it says."""
    transform = eval_transform(image, size, cut=bool(view.regions), crop=crop)
    samples = Samples(manifest, transform, [view], cache=data.cache)
    return eval_loader(indices, samples, batch=batch, place=Place(rank(), world_size()), workers=workers)


def evaluate_split(
    model: nn.Module, manifest: Manifest, indices: Sequence[int], data: DataConfig, image: ImageConfig, size: int, *,
    views: Sequence[View], device: torch.device, precision: str, workers: int, batch: int = 64, title: str = "evaluate",
) -> Predictions:  # fmt: skip
    """Predictions of a uint8 model on `indices`, each counted once over all ranks; the mean logits of several views and
    of several crops.

    Raises UserError naming the first image whose logits are not finite.
    """
    found = []
    for view, crop in product(views, range(image.eval_crops)):
        loader = split_loader(manifest, indices, data, image, size, view, batch, workers, crop)
        predictions = predict(
            model, loader, device, flip=image.eval_flip, precision=precision, expected=len(indices), title=title
        )
        predictions.check_finite(manifest.entries.key)
        found.append(predictions)
    return replace(found[0], logits=np.mean([view.logits for view in found], axis=0))


def about(
    manifest: Manifest, model: Any, image: ImageConfig, data: DataConfig, mean: torch.Tensor, std: torch.Tensor,
    size: int, temperature: float | None, trained_on: Sequence[Any],
) -> dict[str, Any]:  # fmt: skip
    """What a weights file says of itself, so that `fgvc evaluate` needs nothing but the file and shards (and a boxes
    layer of theirs where one was cropped by). temperature: None for an uncalibrated model. trained_on: which images
    (fgvc/classification/seen.py)."""
    policy = eval_policy(data)
    return {
        "model": model, "classes": list(manifest.classes), "size": size, "fit": image.eval_fit,
        "crop_fit": image.crop_fit, "eval_crop": image.eval_crop, "eval_flip": image.eval_flip,
        "eval_crops": image.eval_crops, "interpolation": image.interpolation,
        "crop": policy.crop, "margin": policy.margin, "boxes": TRUTH if policy.boxes == TRUTH else "layer",
        "min_score": policy.min_score, "mean": mean.flatten().tolist(), "std": std.flatten().tolist(),
        "temperature": temperature, "trained_on": list(trained_on),
    }  # fmt: skip
