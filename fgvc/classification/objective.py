"""A classifier's objective for the training loop: soft targets, mixing, cross-entropy, top-1."""

import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.balance import image_weights
from fgvc.classification.config import TrainConfig
from fgvc.classification.mixing import mix, soft_targets
from fgvc.training.learner import Objective
from shards.reading.loader import Batch


def classification(
    classes: int, config: TrainConfig, seed: int, device: torch.device, weights: torch.Tensor | None = None
) -> Objective:
    """(model of uint8 images, Batch) -> (mean loss, {"top1": share of right answers}): an `Objective`.

    weights: (classes,), what an image of each class counts (None: all alike).
    """
    per_class = None if weights is None else weights.to(device)

    def objective(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch.images = batch.images.to(device, non_blocking=True)
        batch.labels = batch.labels.to(device, non_blocking=True)
        targets = soft_targets(batch.labels, classes, config.label_smoothing)
        images, targets = mix(batch, targets, config, seed)
        logits = model(images).float()
        right = logits.detach().argmax(1) == batch.labels
        loss = functional.cross_entropy(logits, targets, reduction="mean" if per_class is None else "none")
        if per_class is not None:
            loss = (loss * image_weights(targets, per_class, config.label_smoothing)).mean()
        return loss, {"top1": right.float().mean()}

    return objective
