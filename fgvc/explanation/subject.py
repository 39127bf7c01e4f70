"""The classifier that is explained, in fp32: its normalised input, its logits, its layers."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from fgvc.explanation.layers import TargetLayer, target_layers
from fgvc.models.normalised import Normalised


@dataclass
class Subject:
    """A classifier of uint8 images at one size. Everything here and in the methods is fp32: CAMs fail in bf16."""

    model: Normalised
    size: int
    device: torch.device

    def __post_init__(self) -> None:
        self.model = self.model.float().to(self.device).eval()

    @property
    def network(self) -> nn.Module:
        """(N, 3, size, size) normalised floats -> (N, classes) logits."""
        return self.model.model

    @cached_property
    def layers(self) -> list[TargetLayer]:
        """As `target_layers`."""
        return target_layers(self.network, self.size)

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images of 0 to 255 as the network takes them."""
        images = images.to(self.device).float().contiguous(memory_format=self.model.layout)
        return (images - self.model.mean) / self.model.std

    @torch.no_grad()
    def logits(self, inputs: Tensor, batch: int = 32) -> Tensor:
        """(N, classes) on the CPU, of normalised inputs."""
        return torch.cat([self.network(part.to(self.device)).float().cpu() for part in inputs.split(batch)])


def enlarge(maps: Tensor, size: int) -> Tensor:
    """(N, h, w) maps resized to (N, size, size), bilinear."""
    return functional.interpolate(maps[:, None].float(), (size, size), mode="bilinear", align_corners=False)[:, 0]
