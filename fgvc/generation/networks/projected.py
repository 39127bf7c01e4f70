"""A projected discriminator (Sauer et al., 2021, https://arxiv.org/abs/2111.01007): heads that tell real from generated
by the features of a frozen pretrained network, mixed at random over channels and scales so that none is left unused."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.networks.layers import Projection, spectral, without_autocast

CHANNELS = 64  # of the mixed features at every scale
REDUCTIONS = (4, 8, 16, 32)


class Heads(nn.Module):
    """Features of the backbone at every scale and (N,) labels -> (N, K) logits, positive for real. What is trained."""

    def __init__(self, channels: list[int], classes: int, seed: int = 0) -> None:
        """channels: of the backbone's features, finest first."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.over_channels = nn.ModuleList(_random(nn.Conv2d(count, CHANNELS, 1, bias=False)) for count in channels)
            self.over_scales = nn.ModuleList(
                _random(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)) for _ in channels
            )
        self.heads = nn.ModuleList(_Head(CHANNELS, classes, down) for down in reversed(range(len(channels))))

    def forward(
        self, features: list[torch.Tensor], labels: torch.Tensor, class_weight: torch.Tensor | None
    ) -> torch.Tensor:
        mixed: list[torch.Tensor] = []
        above: torch.Tensor | None = None
        for scale in reversed(range(len(features))):  # coarsest first
            found = self.over_channels[scale](features[scale])
            if above is not None:
                found = found + functional.interpolate(above, found.shape[2:], mode="bilinear", align_corners=False)
            above = self.over_scales[scale](found)
            mixed.insert(0, above)
        return torch.cat([head(one, labels, class_weight) for head, one in zip(self.heads, mixed, strict=True)], 1)


class _Head(nn.Module):
    """One scale's: halves the sides `down` times, then a logit for every position."""

    def __init__(self, channels: int, classes: int, down: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(down):
            layers += [spectral(nn.Conv2d(channels, 2 * CHANNELS, 4, 2, 1)), nn.LeakyReLU(0.2)]
            channels = 2 * CHANNELS
        layers += [spectral(nn.Conv2d(channels, 2 * CHANNELS, 3, padding=1)), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.logit = spectral(nn.Conv2d(2 * CHANNELS, 1, 1))
        self.projection = Projection(classes, 2 * CHANNELS)

    def forward(self, features: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None) -> torch.Tensor:
        found = self.features(features)
        with without_autocast(found):
            found = found.float()
            logits = self.logit(found).flatten(1)
            return logits + self.projection(found.mean((2, 3)), labels, class_weight)[:, None]


class Discriminator(nn.Module):
    """(N, 3, size, size) images and (N,) labels -> (N, K) logits. `heads` is what is trained and saved; the backbone
    never changes."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self, backbone: Any, heads: Heads, size: int, own: tuple[list[float], list[float]],
        given: tuple[list[float], list[float]],
    ) -> None:  # fmt: skip
        """backbone: timm's features_only. size: images are enlarged to it (0: not). own, given: mean and std that the
        backbone expects, and that images come with."""
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.heads, self.size = heads, size
        (mean, std), (given_mean, given_std) = (
            [torch.tensor(row).view(3, 1, 1) for row in pair] for pair in (own, given)
        )
        self.register_buffer("factor", given_std / std, persistent=False)
        self.register_buffer("offset", (given_mean - mean) / std, persistent=False)

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        images = images * self.factor + self.offset
        if self.size and self.size != images.shape[-1]:
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        self.backbone.eval()
        return self.heads(self.backbone(images), labels, class_weight)


def _random(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that stays as it starts; in the checkpoint, so that a resumed run has the very same."""
    nn.init.kaiming_normal_(layer.weight)
    return layer.requires_grad_(False)
