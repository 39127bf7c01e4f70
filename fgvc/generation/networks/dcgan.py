"""DCGAN (Radford et al., 2016, https://arxiv.org/abs/1511.06434), class-conditional, with what has made it stable
since: spectral norm and a projection of the class in the discriminator. norm="batch" is the paper's discriminator."""

import torch
from torch import nn

from fgvc.generation.networks.layers import BatchNorm, Condition, Projection, spectral, without_autocast


class Generator(nn.Module):
    """(N, latent) noise and (N,) labels -> (N, 3, size, size) in -1 to 1."""

    def __init__(
        self, size: int, latent: int, width: int, classes: int, bn_eps: float = 1e-5, per_image: bool = False
    ) -> None:
        """per_image: of `BatchNorm`."""
        super().__init__()

        def norm(channels: int) -> BatchNorm:
            return BatchNorm(channels, bn_eps, per_image=per_image)

        self.condition = Condition(classes, latent)
        channels, side = width * size // 8, 4
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent + self.condition.width, channels, 4, bias=False)]
        while side < size // 2:
            layers += [
                norm(channels), nn.ReLU(), nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)
            ]  # fmt: skip
            channels, side = channels // 2, side * 2
        self.layers = nn.Sequential(
            *layers, norm(channels), nn.ReLU(), nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh()
        )
        self.apply(initialize)

    def forward(
        self, noise: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """class_weight: (N,) in 0 to 1, how much of the class is known (None: all)."""
        given = torch.cat([noise, self.condition(labels, class_weight)], 1)
        return self.layers(given[..., None, None]).float()


class Discriminator(nn.Module):
    """(N, 3, size, size) and (N,) labels -> (N, 1) logits, positive for real."""

    def __init__(self, size: int, width: int, classes: int, norm: str = "spectral", bn_eps: float = 1e-5) -> None:
        super().__init__()
        wrap = spectral if norm == "spectral" else lambda layer: layer
        layers: list[nn.Module] = [wrap(nn.Conv2d(3, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        channels, side = width, size // 2
        while side > 4:
            layers.append(wrap(nn.Conv2d(channels, 2 * channels, 4, 2, 1)))
            channels, side = 2 * channels, side // 2
            layers += [BatchNorm(channels, bn_eps), nn.LeakyReLU(0.2)] if norm == "batch" else [nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.logit = wrap(nn.Conv2d(channels, 1, 4))
        self.projection = Projection(classes, channels)
        self.apply(initialize)

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, class_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = self.features(images)
        with without_autocast(features):
            features = features.float()
            logits = self.logit(features).flatten(1)
            return logits + self.projection(features.sum((2, 3)), labels, class_weight)[:, None]


def initialize(module: nn.Module) -> None:
    """DCGAN's start: weights of convolutions from N(0, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        parametrizations = getattr(module, "parametrizations", None)
        weight = parametrizations.weight.original if parametrizations is not None else module.weight
        nn.init.normal_(weight, std=0.02)
