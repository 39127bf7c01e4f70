"""Optimizers over parameter groups: head multiplier, layer decay, no decay on biases, norms, positions and tokens."""

from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from fgvc.models.layers import classifier_names
from fgvc.training.config import OptimConfig, PlayerOptimConfig
from shards.errors import UserError


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Groups with `lr_scale`, `weight_decay` and `names`; every trainable parameter is in exactly one.

    The scale of layer i of n is layer_decay ** (n - i), as in BEiT (https://arxiv.org/abs/2106.08254); the layers are
    timm's `group_matcher`. The classifier, layer n, has head_multiplier instead. Weight decay spares what is
    one-dimensional and what the network itself names (timm's `no_weight_decay`: positions, class and register tokens,
    relative position biases).

    Raises UserError for layer_decay where timm has no such groups.
    """
    layers: dict[str, int] = {}
    if config.layer_decay < 1:
        matcher: Any = getattr(model, "group_matcher", None)
        if matcher is None:
            raise UserError(
                f"optim.layer_decay={config.layer_decay:g}: timm does not say which layers {type(model).__name__} has; "
                "set it to 1"
            )
        layers = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(layers.values(), default=0)
    spared: Any = getattr(model, "no_weight_decay", set)
    undecayed = set(spared())
    heads = tuple(f"{name}." for name in classifier_names(model))
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name.startswith(heads) if heads else False
        scale = config.head_multiplier if is_head else config.layer_decay ** (last - layers.get(name, last))
        decay = 0.0 if parameter.ndim <= 1 or name in undecayed else config.weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config)
    # One kernel for all weights, where there is one; on the CPU the plain loop, whose bits runs hang on.
    fused = all(parameter.is_cuda for parameter in model.parameters()) or None
    if config.method == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
        )
    betas = (config.beta1, config.beta2) if isinstance(config, PlayerOptimConfig) else (0.9, 0.999)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=fused)
