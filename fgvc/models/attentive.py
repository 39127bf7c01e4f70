"""An attentive probe: a query that attends to a frozen vision transformer's tokens, and the head, are all that learns.

Chen et al. 2022 (https://arxiv.org/abs/2202.03026, section 4.2). The pooling is timm's own (`global_pool=map`), so that
what is exported is a plain network of timm's.
"""

from dataclasses import replace

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgvc.models.config import ModelConfig
from fgvc.models.layers import classifier_names
from shards.errors import UserError

POOL = "attn_pool"  # timm's name of it


def with_attention(config: ModelConfig) -> ModelConfig:
    """The same network, pooled by attention. Raises UserError for networks that timm does not pool so."""
    known = timm.is_model(config.name)  # what timm does not know, create_model says
    if known and timm.model_entrypoint(config.name).__module__ != VisionTransformer.__module__:
        raise UserError("train.method=attentive: for timm's vision transformers (vit_*); take probe")
    return replace(config, kwargs=config.kwargs | {"global_pool": "map"})


def freeze_all_but_pool(network: nn.Module) -> None:
    """Leave only a vision transformer's pooling and its classifier to train."""
    network.requires_grad_(False)
    for name in (POOL, *classifier_names(network)):
        network.get_submodule(name).requires_grad_(True)
