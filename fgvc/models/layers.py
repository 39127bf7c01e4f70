"""The layers of a network: its classifier, freezing, evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from fgvc.models.normalised import Normalised
from shards.errors import UserError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def classifier_names(model: nn.Module) -> list[str]:
    """Module names of the final classifier, as timm records them (two for distilled models)."""
    settings: Any = getattr(model, "pretrained_cfg", {})
    names = settings.get("classifier", ())
    return [names] if isinstance(names, str) else list(names or ())


def classifier_of(model: nn.Module) -> nn.Linear:
    """The final linear layer. Raises UserError for models whose head is not one linear layer."""
    names = classifier_names(model)
    head = model.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(head, nn.Linear):
        raise UserError("a probe needs a model whose classifier is one linear layer; use train.head_start=random")
    return head


def network_of(model: nn.Module) -> Any:
    """The timm network inside a model of uint8 images."""
    return model.model if isinstance(model, Normalised) else model


@contextmanager
def remembered_features(model: nn.Module, wanted: bool = True) -> Iterator[list[torch.Tensor]]:
    """While entered, what the network's `forward_features` gives in each forward pass is added to the list. The pass
    itself stays the model's own, through whatever a strategy wraps it in."""
    found: list[torch.Tensor] = []
    if not wanted:
        yield found
        return
    network = network_of(model)
    own = network.forward_features

    def remembering(*args: Any, **kwargs: Any) -> torch.Tensor:
        found.append(own(*args, **kwargs))
        return found[-1]

    network.forward_features = remembering
    try:
        yield found
    finally:
        del network.forward_features


def freeze_batch_norm(model: nn.Module, mode: str) -> None:
    """Keep BatchNorm's running statistics ("statistics"), and scale and bias too ("all"); call after model.train()."""
    if mode == "none":
        return
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()
            if mode == "all":
                module.requires_grad_(False)


@contextmanager
def still_batch_norm(model: nn.Module) -> Iterator[None]:
    """While entered, forward passes normalise as they would and leave BatchNorm's running statistics as they are."""
    moving = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.training]
    momenta = [module.momentum for module in moving]
    for module in moving:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(moving, momenta, strict=True):
            module.momentum = momentum


def freeze_layers(model: nn.Module, count: int) -> None:
    """Keep the first `count` layers as they are, BatchNorm's statistics too; call after model.train().

    Layers are timm's own coarse groups (`group_matcher`): the stem, then each stage, the classifier last. The frozen
    ones need no backward pass, which saves time as well as overfitting. Raises UserError when too few are left.
    """
    if not count:
        return
    matcher: Any = getattr(model, "group_matcher", None)
    layers = group_parameters(model, matcher(coarse=True), reverse=True) if matcher else {}
    most = max(layers.values(), default=0)
    if count > most:
        raise UserError(f"train.freeze_layers={count}: this model has {most} layers before its classifier")
    frozen = {name for name, layer in layers.items() if layer < count}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and f"{name}.weight" in frozen:
            module.eval()


def checkpoint_gradients(model: nn.Module) -> None:
    """Have a network keep only its blocks' inputs for the backward pass, and compute the rest again (timm's own
    `set_grad_checkpointing`; Chen et al. 2016, https://arxiv.org/abs/1604.06174). Raises UserError where it cannot."""
    switch: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        if switch is not None:
            switch(True)
            return
    except AssertionError:  # timm's way to say that this family has none
        pass
    raise UserError(f"train.grad_checkpointing=true: {type(model).__name__} has none; set it to false")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while entered; afterwards every module is in the mode it was in, frozen BatchNorm too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
