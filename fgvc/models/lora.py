"""LoRA: every linear layer of a transformer's blocks keeps its weight and learns a low-rank change of it.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685); on all linear layers, as Dettmers et al. 2023 found necessary
(https://arxiv.org/abs/2305.14314). What is exported has the changes added in: plain weights of the plain network.
"""

import math

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from fgvc.models.layers import classifier_names
from shards.errors import UserError

SCALE = 2.0  # alpha / rank


class LoraLinear(nn.Linear):
    """weight + SCALE * lora_b @ lora_a: (out, in), (out, rank), (rank, in). `weight` and `bias` keep their names."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        change = functional.linear(functional.linear(input, self.lora_a), self.lora_b)
        return super().forward(input) + SCALE * change


def add_lora(network: nn.Module, rank: int) -> None:
    """Freeze a vision transformer but for its classifier, and add changes of this rank to its blocks' linear layers.

    The network computes what it did before: lora_b begins at 0. Raises UserError for other networks, whose attention
    may use its weights without calling its layers.
    """
    if not isinstance(network, VisionTransformer):
        raise UserError("train.method=lora: for timm's vision transformers (vit_*, deit_*); take finetune")
    network.requires_grad_(False)
    for name in classifier_names(network):
        network.get_submodule(name).requires_grad_(True)
    for layer in list(network.blocks.modules()):
        if type(layer) is nn.Linear:
            if rank >= min(layer.weight.shape):
                raise UserError(
                    f"train.lora_rank={rank}: a layer of {tuple(layer.weight.shape)} has no smaller rank; lower it"
                )
            layer.__class__ = LoraLinear  # in place: its names and the network's structure stay
            layer.lora_a = nn.Parameter(torch.empty(rank, layer.in_features))
            layer.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))
            nn.init.kaiming_uniform_(layer.lora_a, a=math.sqrt(5))


@torch.no_grad()
def merge_lora(network: nn.Module) -> None:
    """Add the changes to the weights, in place: the plain network again, with the same answers. Does nothing without
    LoRA layers."""
    for layer in list(network.modules()):
        if isinstance(layer, LoraLinear):
            layer.weight = nn.Parameter(layer.weight + SCALE * layer.lora_b @ layer.lora_a)
            del layer.lora_a, layer.lora_b
            layer.__class__ = nn.Linear  # type: ignore[assignment]
