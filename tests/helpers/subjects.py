"""Small networks to explain, at random but seeded weights."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from fgvc.explanation.subject import Subject
from fgvc.models.normalised import Normalised


def subject_of(network: nn.Module, size: int) -> Subject:
    """A network that takes images of 0 to 255 as -2 to 2."""
    half = torch.full((1, 3, 1, 1), 0.5)
    return Subject(Normalised(network, half, half / 2), size, torch.device("cpu"))


def timm_subject(name: str, size: int, classes: int = 5, **settings: Any) -> Subject:
    """A timm network with random weights whose answers differ between images."""
    torch.manual_seed(0)
    network: Any = timm.create_model(name, num_classes=classes, **settings)
    nn.init.normal_(network.get_classifier().weight, std=0.5)
    return subject_of(network, size)


def noise_images(count: int, size: int, seed: int = 0) -> Tensor:
    """(count, 3, size, size) uint8."""
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def tiny_swin(size: int = 56) -> Subject:
    """Two stages of shifted windows whose side, 5, does not divide the map's, 14."""
    return timm_subject(
        "swin_tiny_patch4_window7_224", size, img_size=size, window_size=5, embed_dim=16, depths=(2, 2),
        num_heads=(2, 4),
    )  # fmt: skip


def registers(size: int = 56) -> Subject:
    """A small DINOv2 with four register tokens."""
    return timm_subject(
        "vit_small_patch14_reg4_dinov2", size, img_size=size, embed_dim=32, depth=3, num_heads=2
    )  # fmt: skip
