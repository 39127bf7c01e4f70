"""Mixup and CutMix between neighbours of the global order, so that no rank needs another's images.

mixup: https://arxiv.org/abs/1710.09412, CutMix: https://arxiv.org/abs/1905.04899. The partner of a sample is its
neighbour (places 2k and 2k+1 of the global batch), the weight a function of (seed, epoch, sample): the same for any
number of ranks, workers and accumulation steps, as long as every micro-batch is even.
"""

import numpy as np
import torch

from fgvc.classification.config import TrainConfig
from shards.errors import UserError
from shards.reading.loader import Batch
from shards.reading.order import MIX, random_stream


def soft_targets(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """(N,) labels -> (N, classes) targets with `smoothing` spread over all classes."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def mix(batch: Batch, targets: torch.Tensor, config: TrainConfig, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, H, W) uint8 images and (N, classes) targets -> the mixed ones. Raises UserError when N is odd."""
    images = batch.images
    if not config.mixup and not config.cutmix:
        return images, targets
    if len(images) % 2:
        raise UserError(f"mixup and cutmix pair neighbours: a micro-batch of {len(images)} must be even")
    draws = [
        _draw(random_stream(seed, MIX, epoch, entry), config, images.shape[2], images.shape[3])
        for epoch, entry in zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
    ]
    # One copy to the device and a handful of kernels, however many images.
    columns = torch.tensor(np.array(draws, dtype=np.float32), device=images.device).T
    keep, rest, weights, *box = columns[:, :, None, None, None]
    partner = torch.arange(len(images), device=images.device) ^ 1
    other = images[partner]
    mixed = images
    if config.mixup:
        mixed = images.float().mul_(keep).add_(other.float().mul_(rest)).round_().to(torch.uint8)
    if config.cutmix:
        top, bottom, left, right = box
        y = torch.arange(images.shape[2], device=images.device)[:, None]
        x = torch.arange(images.shape[3], device=images.device)
        mixed = torch.where((y >= top) & (y < bottom) & (x >= left) & (x < right), other, mixed)
    share = weights[:, 0, 0]
    return mixed, share * targets + (1 - share) * targets[partner]


def _draw(random: np.random.Generator, config: TrainConfig, height: int, width: int) -> tuple[float, ...]:
    """One sample's (weight of its pixels, of its partner's, of its label; rows and columns of its partner's box)."""
    cut = config.cutmix > 0 and (config.mixup == 0 or random.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    keep = float(random.beta(alpha, alpha))
    if not cut:
        return keep, 1 - keep, keep, 0, 0, 0, 0
    rows, columns, kept = _cut(random, keep, height, width)
    return 1, 0, kept, rows.start, rows.stop, columns.start, columns.stop


def _cut(random: np.random.Generator, keep: float, height: int, width: int) -> tuple[slice, slice, float]:
    """A box of about (1 - keep) of the area, and the share that is really kept after clipping at the border."""
    share = (1 - keep) ** 0.5
    y, x = int(random.integers(height)), int(random.integers(width))
    half_h, half_w = int(height * share / 2), int(width * share / 2)
    rows = slice(max(0, y - half_h), min(height, y + half_h))
    columns = slice(max(0, x - half_w), min(width, x + half_w))
    cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return rows, columns, 1 - cut / (height * width)
