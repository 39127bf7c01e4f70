"""BigGAN (Brock et al., 2019, https://arxiv.org/abs/1809.11096), appendix B, tables 4 to 6: residual, self-attention
at 64 px, a part of the latent for every block. At width 96 and 1,000 classes it has the published numbers of
parameters."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.networks.layers import (
    Attention,
    BatchNorm,
    ConditionalBatchNorm,
    Projection,
    spectral,
    without_autocast,
)

SHARED = 128  # of the class embedding that all blocks share
ATTENTION = 64  # side of the features that have self-attention
UP = {32: [4, 4, 4, 4], 64: [16, 16, 8, 4, 2], 128: [16, 16, 8, 4, 2, 1], 256: [16, 16, 8, 8, 4, 2, 1]}
DOWN = {32: [4, 4, 4, 4], 64: [1, 2, 4, 8, 16], 128: [1, 2, 4, 8, 16, 16], 256: [1, 2, 4, 8, 8, 16, 16]}


class Generator(nn.Module):
    """(N, latent) noise and (N,) labels -> (N, 3, size, size) in -1 to 1. latent: a multiple of the blocks and one."""

    def __init__(self, size: int, latent: int, width: int, classes: int) -> None:
        super().__init__()
        channels = [width * share for share in UP[size]]
        self.chunk, rest = divmod(latent, len(channels))
        if rest:
            raise ValueError(f"latent {latent} is no multiple of {len(channels)}")
        self.embedding = nn.Embedding(classes, SHARED) if classes else None
        condition = self.chunk + (SHARED if classes else 0)
        self.start = spectral(nn.Linear(self.chunk, channels[0] * 16))
        blocks: list[nn.Module] = []
        side = 4
        for before, after in pairwise(channels):
            side *= 2
            attention = Attention(after) if side == ATTENTION else None
            blocks.append(UpBlock(before, after, condition, attention))
        self.blocks = nn.ModuleList(blocks)
        self.norm = BatchNorm(channels[-1])
        self.image = spectral(nn.Conv2d(channels[-1], 3, 3, padding=1))
        self.apply(initialize)

    def forward(
        self, noise: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        first, *chunks = noise.split(self.chunk, 1)
        if self.embedding is not None:
            shared = self.embedding(labels)
            shared = shared if class_weight is None else shared * class_weight[:, None]
            chunks = [torch.cat([shared, chunk], 1) for chunk in chunks]
        features = self.start(first).unflatten(1, (-1, 4, 4))
        for block, condition in zip(self.blocks, chunks, strict=True):
            features = block(features, condition)
        return self.image(functional.relu(self.norm(features))).tanh().float()


class UpBlock(nn.Module):
    """Twice the sides: two 3x3 convolutions beside a 1x1 one, then attention where it is given."""

    def __init__(self, channels: int, out: int, condition: int, attention: nn.Module | None) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm(channels, condition)
        self.conv1 = spectral(nn.Conv2d(channels, out, 3, padding=1))
        self.norm2 = ConditionalBatchNorm(out, condition)
        self.conv2 = spectral(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = spectral(nn.Conv2d(channels, out, 1))
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        found = functional.relu(self.norm1(features, condition))
        found = self.conv1(functional.interpolate(found, scale_factor=2))
        found = self.conv2(functional.relu(self.norm2(found, condition)))
        return self.attention(found + self.shortcut(functional.interpolate(features, scale_factor=2)))


class Discriminator(nn.Module):
    """(N, 3, size, size) and (N,) labels -> (N, 1) logits, positive for real."""

    def __init__(self, size: int, width: int, classes: int) -> None:
        super().__init__()
        channels = [width * share for share in DOWN[size]]
        blocks: list[nn.Module] = []
        side = size
        for number, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
            down = side > (8 if size == 32 else 4)
            side = side // 2 if down else side
            attention = Attention(after) if side == ATTENTION else None
            blocks.append(DownBlock(before, after, down, first=number == 0, attention=attention))
        self.blocks = nn.Sequential(*blocks)
        self.logit = spectral(nn.Linear(channels[-1], 1))
        self.projection = Projection(classes, channels[-1])
        self.apply(initialize)

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = self.blocks(images)
        with without_autocast(features):
            pooled = functional.relu(features.float()).sum((2, 3))
            return self.logit(pooled) + self.projection(pooled, labels, class_weight)[:, None]


class DownBlock(nn.Module):
    """Half the sides, or as they are: two 3x3 convolutions beside a 1x1 one where shapes differ."""

    def __init__(self, channels: int, out: int, down: bool, first: bool, attention: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = spectral(nn.Conv2d(channels, out, 3, padding=1))
        self.conv2 = spectral(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = spectral(nn.Conv2d(channels, out, 1)) if down or channels != out else None
        self.down, self.first = down, first
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found = self.conv1(features if self.first else functional.relu(features))
        found = self.conv2(functional.relu(found))
        beside = features
        if self.first:  # pooled before it is widened: the same, and cheaper
            beside = functional.avg_pool2d(beside, 2) if self.down else beside
            beside = self.shortcut(beside) if self.shortcut is not None else beside
        else:
            beside = self.shortcut(beside) if self.shortcut is not None else beside
            beside = functional.avg_pool2d(beside, 2) if self.down else beside
        found = functional.avg_pool2d(found, 2) if self.down else found
        return self.attention(found + beside)


def initialize(module: nn.Module) -> None:
    """BigGAN's start: orthogonal weights."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        parametrizations = getattr(module, "parametrizations", None)
        nn.init.orthogonal_(parametrizations.weight.original if parametrizations is not None else module.weight)
