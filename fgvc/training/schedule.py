"""How long a run trains, and its learning rate at every step."""

import math
from dataclasses import dataclass

import torch

from fgvc.runtime.distributed import world_size
from fgvc.training.config import LoopConfig, OptimConfig
from shards.errors import UserError


@dataclass
class Schedule:
    """How long: `steps` in all, `per_epoch` steps an epoch. lr_scale: a factor on every learning rate."""

    per_epoch: int
    steps: int
    lr_scale: float = 1.0

    @staticmethod
    def of(config: LoopConfig, images: int, lr_scale: float = 1.0) -> "Schedule":
        """Raises UserError when the training images do not fill one global batch, or ranks do not divide it."""
        parts = world_size() * config.accumulation
        if config.batch % parts:
            raise UserError(
                f"train.batch={config.batch} is not a multiple of {world_size()} rank(s) x train.accumulation="
                f"{config.accumulation}; choose a multiple of {parts}"
            )
        per_epoch = images // config.batch
        if not per_epoch:
            raise UserError(f"train.batch={config.batch} is more than the {images} training images; lower it")
        steps = per_epoch * config.epochs
        return Schedule(per_epoch, min(steps, config.max_steps) if config.max_steps else steps, lr_scale)


def lr_factor(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The schedule's factor at the step about to be made (from 0), in [0, 1]."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "step":
        return config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1.0, epochs * steps_per_epoch - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def peak_lr(config: OptimConfig, batch: int) -> float:
    """The rate after the warm-up, at a global batch. SGD: in proportion (https://arxiv.org/abs/1706.02677); AdamW: by
    the square root (https://arxiv.org/abs/2205.10287)."""
    if not config.lr_batch:
        return config.lr
    times = batch / config.lr_batch
    return config.lr * (times if config.method == "sgd" else math.sqrt(times))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's rate to lr times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
