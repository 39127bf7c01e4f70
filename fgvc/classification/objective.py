"""A classifier's objective for the training loop: soft targets, mixing, cross-entropy, a teacher, attention, top-1."""

import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.attention import attended, class_maps
from fgvc.classification.balance import image_weights
from fgvc.classification.config import TrainConfig
from fgvc.classification.mixing import mix, soft_targets
from fgvc.classification.teacher import distilled, soft_answers
from fgvc.models.layers import remembered_features, still_batch_norm
from fgvc.training.learner import Objective
from shards.reading.loader import Batch


def classification(
    classes: int, config: TrainConfig, seed: int, device: torch.device, weights: torch.Tensor | None = None,
    teacher: nn.Module | None = None,
) -> Objective:  # fmt: skip
    """(model of uint8 images, Batch) -> (mean loss, {"top1": share of right answers}): an `Objective`.

    weights: (classes,), what an image of each class counts (None: all alike). teacher: a frozen model of uint8 images,
    which is shown what the network is shown, mixed and cut alike (Beyer et al. 2022, https://arxiv.org/abs/2106.05237).
    """
    per_class = None if weights is None else weights.to(device)

    def loss_of(images: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        plain = per_class is None and teacher is None
        loss = functional.cross_entropy(logits, targets, reduction="mean" if plain else "none")
        if teacher is not None:
            answers = soft_answers(teacher, images, config.teacher_temperature)
            apart = distilled(logits, answers, config.teacher_temperature)
            loss = (1 - config.teacher_weight) * loss + config.teacher_weight * apart
        if per_class is not None:
            loss = loss * image_weights(targets, per_class, config.label_smoothing)
        return loss.mean()

    def objective(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch.images = batch.images.to(device, non_blocking=True)
        batch.labels = batch.labels.to(device, non_blocking=True)
        targets = soft_targets(batch.labels, classes, config.label_smoothing)
        images, targets = mix(batch, targets, config, seed)
        with remembered_features(model, config.attention_crops) as features:
            logits = model(images).float()
        right = logits.detach().argmax(1) == batch.labels
        loss = loss_of(images, logits, targets)
        if config.attention_crops:
            parts = attended(images, class_maps(model, features[0], batch.labels), batch, seed)
            # What is measured is whole images: the statistics are theirs.
            with still_batch_norm(model):
                for part in parts:
                    loss = loss + loss_of(part, model(part).float(), targets)
            loss = loss / 3
        return loss, {"top1": right.float().mean()}

    return objective
