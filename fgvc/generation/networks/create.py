"""Generator and discriminator as a config asks for them."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data import resolve_model_data_config
from torch import nn

from fgvc.generation.config import GanModelConfig
from fgvc.generation.networks import biggan, biggan_deep, dcgan, light, projected
from fgvc.models.hub import one_try
from fgvc.models.weights import load_weights, one_line
from shards.errors import UserError
from shards.paths import expand


@dataclass(frozen=True)
class Networks:
    """discriminator: what is trained of it. judge: the discriminator as it is called, with all that stays frozen."""

    generator: nn.Module
    discriminator: nn.Module
    judge: nn.Module


def create_networks(config: GanModelConfig, classes: int, seed: int) -> Networks:
    """Both players, their weights a function of the config and `seed`. Raises UserError as `create_generator` and
    for a backbone that timm does not have or whose weights are not there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, known = create_generator(config, classes), classes if config.conditional else 0
        if config.name == "projected":
            judge = _projected(config, known, seed)
            return Networks(generator, judge.heads, judge)
        discriminator: nn.Module
        if config.name == "dcgan":
            discriminator = dcgan.Discriminator(config.size, config.width, known, config.norm, config.bn_eps)
        else:
            module: Any = biggan if config.name == "biggan" else biggan_deep
            discriminator = module.Discriminator(config.size, config.width, known)
        return Networks(generator, discriminator, discriminator)


def create_generator(config: GanModelConfig, classes: int) -> nn.Module:
    """(noise (N, latent), labels (N,)) -> images (N, 3, size, size), -1 to 1. Raises UserError for numbers that do not
    fit the architecture."""
    known = classes if config.conditional else 0
    if config.name == "dcgan":
        return dcgan.Generator(config.size, config.latent, config.width, known, config.bn_eps, config.bn_per_image)
    if config.name == "projected":
        return light.Generator(config.size, config.latent, config.width, known)
    if config.name == "biggan_deep":
        return biggan_deep.Generator(config.size, config.latent, config.width, known)
    blocks = len(biggan.UP[config.size])
    if config.latent % blocks:
        near = max(1, round(config.latent / blocks)) * blocks
        raise UserError(
            f"model.latent={config.latent}: BigGAN gives each of its {blocks} parts at {config.size} px an equal "
            f"share; take a multiple of {blocks}, such as {near}"
        )
    return biggan.Generator(config.size, config.latent, config.width, known)


def _projected(config: GanModelConfig, classes: int, seed: int) -> projected.Discriminator:
    hub = config.backbone_weights == "hub"
    try:
        with one_try() if hub else nullcontext():
            backbone: Any = timm.create_model(config.backbone, pretrained=hub, features_only=True)
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"model.backbone={config.backbone}: its weights are not cached here and the hub does not answer; get them "
            f"where there is a connection (fgvc weights get {config.backbone}), or give model.backbone_weights=FILE"
        ) from error
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError, AttributeError) as error:
        raise UserError(f"model.backbone={config.backbone}: {one_line(error)}") from error
    if config.backbone_weights not in ("hub", "none"):
        _load_features(backbone, config)
    reductions = backbone.feature_info.reduction()
    wanted = [i for i, reduction in enumerate(reductions) if reduction in projected.REDUCTIONS]
    if not wanted:
        raise UserError(
            f"model.backbone={config.backbone}: has features at 1/{', 1/'.join(map(str, reductions))} of the sides "
            "only; take a network with several scales, such as tf_efficientnet_lite0"
        )
    chosen = _Chosen(backbone, wanted)
    own: Any = resolve_model_data_config(backbone)
    heads = projected.Heads([backbone.feature_info.channels()[i] for i in wanted], classes, seed)
    return projected.Discriminator(
        chosen, heads, config.backbone_size, (list(own["mean"]), list(own["std"])), (config.mean, config.std)
    )


class _Chosen(nn.Module):
    """The features of some scales of a timm network."""

    def __init__(self, backbone: nn.Module, scales: list[int]) -> None:
        super().__init__()
        self.backbone, self.scales = backbone, scales

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        found = self.backbone(images)
        return [found[scale] for scale in self.scales]


def _load_features(backbone: nn.Module, config: GanModelConfig) -> None:
    """A file holds the whole network: load it into that, and take over what the features have of it."""
    whole: Any = timm.create_model(config.backbone, num_classes=0)
    load_weights(whole, expand(config.backbone_weights, "model.backbone_weights"))
    state = whole.state_dict()
    own = backbone.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise UserError(
            f"model.backbone={config.backbone}: its features have other names than the network ('{missing[0]}'); take "
            "another backbone, or model.backbone_weights=hub"
        )
    backbone.load_state_dict({key: state[key] for key in own})
