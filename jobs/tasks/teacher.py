"""Opening the finished classifier that a run learns from: for distillation, as a recipe and as a defence."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fgvc.classification.seen import seen_images
from fgvc.classification.teacher import Resized
from fgvc.models.timm import load_classifier
from jobs.classify import Config
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.config import DataConfig
from shards.reading.views import TRUTH, train_policy

log = logging.getLogger(__name__)


def open_teacher(
    path: str, key: str, manifest: Manifest, device: torch.device, kept_out: Sequence[int] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """The frozen classifier in a weights file that the setting `key` names, and what the file says of itself.

    kept_out: images that this run is measured on. Raises UserError for a teacher of other classes, and for one that was
    trained on some of those, or does not say whether it was: its answers would tell what they are.
    """
    teacher, about = load_classifier(expand(path, key))
    if tuple(about["classes"]) != manifest.classes:
        raise UserError(f"{key}={path}: its classes are not those of {manifest.folder}")
    seen = seen_images(about, manifest, kept_out)
    if seen is None and kept_out:
        raise UserError(
            f"{key}={path}: which images of {manifest.folder} it was trained on is unknown (it, or what it learnt "
            "from, was trained on other shards or has no record); give one that was trained on these"
        )
    if seen:
        raise UserError(
            f"{key}={path}: was trained on {seen} of the {len(set(kept_out))} images that this run keeps out; give one "
            "that was trained on the same part of the data (the same data.folds and data.fold)"
        )
    return teacher.eval().requires_grad_(False).to(device), about


def resized_teacher(
    config: Config, manifest: Manifest, device: torch.device, kept_out: Sequence[int]
) -> Resized | None:
    """The classifier that `train.teacher` names, asked about images of its own size; None without one."""
    if not (path := config.train.teacher):
        return None
    teacher, about = open_teacher(path, "train.teacher", manifest, device, kept_out)
    warn_of_other_crops(path, "train.teacher", about, config.data)
    return Resized(teacher, about["size"]).eval()


def warn_of_other_crops(path: str, key: str, about: dict[str, Any], data: DataConfig) -> None:
    """Say so where a teacher, of which its file says `about`, was measured on other crops than it is asked about."""
    policy = train_policy(data)
    ours = (policy.crop, policy.margin, "truth" if policy.boxes == TRUTH else "layer") if policy.uses_boxes else None
    theirs = (about["crop"], about["margin"], about.get("boxes", TRUTH)) if about["crop"] != "whole" else None
    if ours != theirs:
        log.warning(
            "%s=%s: was measured on other crops (%s) than those that this run asks it about (%s)", key, path,
            _crop_words(theirs), _crop_words(ours),
        )  # fmt: skip


def _crop_words(crop: tuple[str, float, str] | None) -> str:
    return f"crop={crop[0]}, margin={crop[1]:g}, boxes={crop[2]}" if crop else "crop=whole"
