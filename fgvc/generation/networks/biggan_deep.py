"""BigGAN-deep (Brock et al., 2019, https://arxiv.org/abs/1809.11096), appendix B, tables 7 to 9: bottleneck blocks in
pairs, shortcuts that drop or add channels, the whole latent in every block. At width 128, latent 128 and 1,000 classes
it has the published numbers of parameters."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.networks.biggan import ATTENTION, SHARED, initialize
from fgvc.generation.networks.layers import (
    Attention,
    BatchNorm,
    ConditionalBatchNorm,
    Projection,
    spectral,
    without_autocast,
)

UP = {32: [4, 4, 4, 4], 64: [16, 16, 8, 4, 2], 128: [16, 16, 8, 4, 2, 1], 256: [16, 16, 8, 8, 4, 2, 1]}
DOWN = {32: [4, 4, 4, 4], 64: [1, 2, 4, 8, 16], 128: [1, 2, 4, 8, 16, 16], 256: [1, 2, 4, 8, 8, 16, 16]}
EPS = 1e-4  # of BatchNorm


class Generator(nn.Module):
    """(N, latent) noise and (N,) labels -> (N, 3, size, size) in -1 to 1."""

    def __init__(self, size: int, latent: int, width: int, classes: int) -> None:
        super().__init__()
        channels = [width * share for share in UP[size]]
        self.embedding = nn.Embedding(classes, SHARED) if classes else None
        condition = latent + (SHARED if classes else 0)
        self.start = spectral(nn.Linear(condition, channels[0] * 16))
        blocks: list[nn.Module] = []
        side = 4
        for before, after in pairwise(channels):
            side *= 2
            blocks += [UpBlock(before, before, condition, False), UpBlock(before, after, condition, True)]
            blocks += [Attention(after)] if side == ATTENTION else []
        self.blocks = nn.ModuleList(blocks)
        self.norm = BatchNorm(channels[-1], EPS)
        self.image = spectral(nn.Conv2d(channels[-1], 3, 3, padding=1))
        self.apply(initialize)

    def forward(
        self, noise: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        condition = noise
        if self.embedding is not None:
            shared = self.embedding(labels)
            shared = shared if class_weight is None else shared * class_weight[:, None]
            condition = torch.cat([noise, shared], 1)
        features = self.start(condition).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            features = block(features) if isinstance(block, Attention) else block(features, condition)
        return self.image(functional.relu(self.norm(features))).tanh().float()


class UpBlock(nn.Module):
    """A bottleneck of a quarter of the channels, beside a shortcut that keeps the first `out` channels."""

    def __init__(self, channels: int, out: int, condition: int, up: bool) -> None:
        super().__init__()
        middle = channels // 4
        self.up, self.out = up, out
        sides = [(channels, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, out, 1)]
        self.norms = nn.ModuleList(ConditionalBatchNorm(before, condition, EPS) for before, _, _ in sides)
        self.convs = nn.ModuleList(
            spectral(nn.Conv2d(before, after, side, padding=side // 2)) for before, after, side in sides
        )

    def forward(self, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        found, beside = features, features[:, : self.out]
        for number, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            found = functional.relu(norm(found, condition))
            found = functional.interpolate(found, scale_factor=2) if self.up and number == 1 else found
            found = conv(found)
        return found + (functional.interpolate(beside, scale_factor=2) if self.up else beside)


class Discriminator(nn.Module):
    """(N, 3, size, size) and (N,) labels -> (N, 1) logits, positive for real."""

    def __init__(self, size: int, width: int, classes: int) -> None:
        super().__init__()
        channels = [width * share for share in DOWN[size]]
        self.start = spectral(nn.Conv2d(3, channels[0], 3, padding=1))
        blocks: list[nn.Module] = [Attention(channels[0])] if size == ATTENTION else []
        side = size
        for before, after in pairwise(channels):
            side //= 2
            blocks += [DownBlock(before, after, True), DownBlock(after, after, False)]
            blocks += [Attention(after)] if side == ATTENTION else []
        self.blocks = nn.Sequential(*blocks)
        self.logit = spectral(nn.Linear(channels[-1], 1))
        self.projection = Projection(classes, channels[-1])
        self.apply(initialize)

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = self.blocks(self.start(images))
        with without_autocast(features):
            pooled = functional.relu(features.float()).sum((2, 3))
            return self.logit(pooled) + self.projection(pooled, labels, class_weight)[:, None]


class DownBlock(nn.Module):
    """A bottleneck of a quarter of the new channels, beside a shortcut that a 1x1 convolution adds channels to."""

    def __init__(self, channels: int, out: int, down: bool) -> None:
        super().__init__()
        middle = out // 4
        self.down = down
        sides = [(channels, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, out, 1)]
        self.convs = nn.ModuleList(
            spectral(nn.Conv2d(before, after, side, padding=side // 2)) for before, after, side in sides
        )
        self.added = spectral(nn.Conv2d(channels, out - channels, 1)) if out > channels else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found, beside = features, features
        for number, conv in enumerate(self.convs):
            found = functional.relu(found)
            found = functional.avg_pool2d(found, 2) if self.down and number == 3 else found
            found = conv(found)
        beside = functional.avg_pool2d(beside, 2) if self.down else beside
        if self.added is not None:
            beside = torch.cat([beside, self.added(beside)], 1)
        return found + beside
