"""The light generator of FastGAN (Liu et al., 2021, https://arxiv.org/abs/2101.04775), which projected discriminators
were published with: gated convolutions, and low resolutions that excite the channels of high ones. No noise is
injected, so that an image is a function of its latent alone."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.networks.layers import BatchNorm, Condition, spectral

WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 1, 128: 0.5, 256: 0.25}  # channels by side, in multiples of the width
EXCITES = {4: 64, 8: 128, 16: 256}  # side whose features scale the channels of another


class Generator(nn.Module):
    """(N, latent) noise and (N,) labels -> (N, 3, size, size) in -1 to 1."""

    def __init__(self, size: int, latent: int, width: int, classes: int) -> None:
        super().__init__()
        self.condition = Condition(classes, latent)
        channels = {side: max(8, int(width * share)) for side, share in WIDTHS.items() if side <= size}
        start = spectral(nn.ConvTranspose2d(latent + self.condition.width, 2 * channels[4], 4, bias=False))
        self.start = nn.Sequential(start, BatchNorm(2 * channels[4]), nn.GLU(1))
        sides = list(channels)
        self.up = nn.ModuleDict(
            {
                str(side): nn.Sequential(
                    nn.Upsample(scale_factor=2), _conv(channels[before], 2 * channels[side]),
                    BatchNorm(2 * channels[side]), nn.GLU(1),
                )
                for before, side in pairwise(sides)
            }
        )  # fmt: skip
        self.excite = nn.ModuleDict(
            {
                str(low): nn.Sequential(
                    nn.AvgPool2d(low // 4), spectral(nn.Conv2d(channels[low], channels[high], 4)), nn.SiLU(),
                    spectral(nn.Conv2d(channels[high], channels[high], 1)), nn.Sigmoid(),
                )
                for low, high in EXCITES.items() if high in channels
            }
        )  # fmt: skip
        self.image = nn.Sequential(_conv(channels[size], 3), nn.Tanh())
        self.sides = sides

    def forward(
        self, noise: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """class_weight: (N,) in 0 to 1, how much of the class is known (None: all)."""
        noise = functional.normalize(noise, dim=1) * noise.shape[1] ** 0.5  # as the published generator
        features = self.start(torch.cat([noise, self.condition(labels, class_weight)], 1)[..., None, None])
        of_side = {4: features}
        for side in self.sides[1:]:
            features = self.up[str(side)](features)
            for low, high in EXCITES.items():
                if high == side:
                    features = features * self.excite[str(low)](of_side[low])
            of_side[side] = features
        return self.image(features).float()


def _conv(channels: int, out: int) -> nn.Conv2d:
    return spectral(nn.Conv2d(channels, out, 3, padding=1, bias=False))
