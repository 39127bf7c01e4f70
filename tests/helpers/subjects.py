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


class MadeNetwork(nn.Module):
    """Features of single colours, pooled, and a linear classifier, as timm's networks are called; weights by hand."""

    def __init__(self, colours: int, classes: int) -> None:
        super().__init__()
        self.small = nn.AvgPool2d(4)
        self.conv = nn.Conv2d(3, colours, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(colours, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.small(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class RedNetwork(MadeNetwork):
    """A made classifier that looks at one thing only: how much of the image is red. Of the field guide's first family
    that is the red crest, so class 2; without red it says class 0."""

    def __init__(self, classes: int = 4, least: float = 1.2) -> None:
        super().__init__(1, classes)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -0.5, -0.5]).view(1, 3, 1, 1))
            self.conv.bias.fill_(-least)
            self.fc.weight.zero_()
            self.fc.weight[2] = 400.0
            self.fc.bias.copy_(torch.tensor([2.0, -9.0, 0.0, -9.0])[:classes])
