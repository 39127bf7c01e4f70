"""Parameter groups (head multiplier, layer decay, no decay on biases and norms) and learning-rate schedules."""

import math
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from fgvc.config import OptimConfig
from fgvc.models import classifier_names


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Groups with `lr_scale`, `weight_decay` and `names`; every trainable parameter is in exactly one.

    The scale of layer i of n is layer_decay ** (n - i), as in BEiT (https://arxiv.org/abs/2106.08254); the layers are
    timm's `group_matcher`. The classifier's is head_multiplier.
    """
    layers: dict[str, int] = {}
    if config.layer_decay < 1 and hasattr(model, "group_matcher"):
        matcher: Any = model.group_matcher
        layers = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(layers.values(), default=0)
    heads = tuple(f"{name}." for name in classifier_names(model))
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name.startswith(heads) if heads else False
        scale = config.head_multiplier if is_head else config.layer_decay ** (last - layers.get(name, last))
        decay = 0.0 if parameter.ndim <= 1 else config.weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.method == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr)


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


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's rate to lr times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
