"""Opening the finished classifier that a run learns from: for distillation, as a recipe and as a defence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fgvc.classification.seen import seen_images
from fgvc.models.timm import load_classifier
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand


def open_teacher(
    path: str, key: str, manifest: Manifest, device: torch.device, kept_out: Sequence[int] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """The frozen classifier in a weights file that the setting `key` names, and what the file says of itself.

    kept_out: images that this run is measured on. Raises UserError for a teacher of other classes, and for one that was
    trained on some of those: its answers would tell what they are.
    """
    teacher, about = load_classifier(expand(path, key))
    if tuple(about["classes"]) != manifest.classes:
        raise UserError(f"{key}={path}: its classes are not those of {manifest.folder}")
    if seen := seen_images(about, manifest, kept_out):
        raise UserError(
            f"{key}={path}: was trained on {seen} of the {len(kept_out)} images that this run keeps out; give one that "
            "was trained on the same part of the data (the same data.folds and data.fold)"
        )
    return teacher.eval().requires_grad_(False).to(device), about
