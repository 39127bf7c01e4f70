"""One step of a GAN's training as phases of an AdversarialLearner: what each player sees and minimises."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.augment import DRAWS, diff_augment
from fgvc.generation.config import GanModelConfig, GanTrainConfig
from fgvc.generation.draws import normals, uniforms
from fgvc.generation.losses import DISCRIMINATOR, GENERATOR, squared_gradient
from fgvc.training.adversarial import Phase
from shards.reading.loader import Batch

LATENT, AUGMENT = 1, 2  # streams of random numbers
FOR_GENERATOR, FOR_DISCRIMINATOR = 0, 1  # each phase has draws of its own
Found = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Game:
    """The losses of both players. All that is drawn is a function of (seed, epoch, entry)."""

    def __init__(self, model: GanModelConfig, train: GanTrainConfig, seed: int, device: torch.device) -> None:
        self.model, self.train, self.seed, self.device = model, train, seed, device
        self.mean, self.std = (torch.tensor(row, device=device).view(3, 1, 1) for row in (model.mean, model.std))

    def phases(self) -> list[Phase]:
        """In the order in which they move."""
        penalised = bool(self.train.r1 or self.train.r2)
        apart = penalised and self.train.penalty_every > 1
        found = [
            Phase("discriminator", "discriminator", self.discriminator),
            Phase("generator", "generator", self.generator),
        ]
        return [*found, Phase("penalty", "discriminator", self.penalty, self.train.penalty_every)] if apart else found

    def discriminator(self, models: Mapping[str, nn.Module], batch: Batch) -> Found:
        """`real`, `generated`: the share of each that is told rightly; for relativistic losses, of pairs."""
        with torch.no_grad():
            generated = self._generated(models, batch, FOR_DISCRIMINATOR)
        real = self._real(batch)
        scores = [self._logits(models, one, batch, FOR_DISCRIMINATOR) for one in (real, generated)]
        loss = DISCRIMINATOR[self.train.loss](*scores)
        if (self.train.r1 or self.train.r2) and self.train.penalty_every == 1:
            loss = loss + self._penalty(models, real, generated, batch)
        between = (scores[0] > scores[1]).float().mean()
        right = [(scores[0] > 0).float().mean(), (scores[1] < 0).float().mean()]
        right = [between, between] if self.train.loss == "relativistic" else right
        return loss, {"real": right[0], "generated": right[1]}

    def generator(self, models: Mapping[str, nn.Module], batch: Batch) -> Found:
        """`diversity`: how much images of a class differ within a batch, as a share of what real ones do."""
        generated = self._generated(models, batch, FOR_GENERATOR)
        scores = self._logits(models, generated, batch, FOR_GENERATOR)
        against = scores
        if self.train.loss == "relativistic":
            with torch.no_grad():
                against = self._logits(models, self._real(batch), batch, FOR_GENERATOR)
        loss = GENERATOR[self.train.loss](against, scores)
        return loss, {"diversity": _diversity(generated.detach(), self._real(batch), self._labels(batch))}

    def penalty(self, models: Mapping[str, nn.Module], batch: Batch) -> Found:
        with torch.no_grad():
            generated = self._generated(models, batch, FOR_DISCRIMINATOR) if self.train.r2 else None
        return self.train.penalty_every * self._penalty(models, self._real(batch), generated, batch), {}

    def _penalty(self, models: Any, real: torch.Tensor, generated: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """Differentiated twice, which is done in fp32."""
        total = torch.zeros((), device=self.device)
        network = models["discriminator"]
        plain = type(network).forward  # without the autocast that the strategy puts around it
        for weight, images in ((self.train.r1, real), (self.train.r2, generated)):
            if weight and images is not None:
                seen = self._augmented(images, batch, FOR_DISCRIMINATOR)
                judge = partial(plain, network, labels=self._labels(batch), class_weight=self._known(batch))
                total = total + weight * squared_gradient(judge, seen)
        return total

    def _real(self, batch: Batch) -> torch.Tensor:
        """(N, 3, H, W) as the discriminator sees it: planes, as generated images are."""
        pixels = batch.images.to(self.device, non_blocking=True).contiguous().float() / 255
        return (pixels - self.mean) / self.std

    def _generated(self, models: Mapping[str, nn.Module], batch: Batch, phase: int) -> torch.Tensor:
        latents = normals(self.seed, _keys(batch, LATENT, phase), self.model.latent).to(self.device)
        return models["generator"](latents, self._labels(batch), self._known(batch))

    def _logits(self, models: Any, images: torch.Tensor, batch: Batch, phase: int) -> torch.Tensor:
        return models["discriminator"](
            self._augmented(images, batch, phase), self._labels(batch), self._known(batch)
        ).float()

    def _augmented(self, images: torch.Tensor, batch: Batch, phase: int) -> torch.Tensor:
        if not self.train.augment:
            return images
        draws = uniforms(self.seed, _keys(batch, AUGMENT, phase), DRAWS).float().to(self.device)
        return diff_augment(images, draws, self.train.augment)

    def _labels(self, batch: Batch) -> torch.Tensor:
        return batch.labels.to(self.device, non_blocking=True)

    def _known(self, batch: Batch) -> torch.Tensor | None:
        """(N,) how much of the class both know: nothing at first, then more every epoch (transitional training,
        Shahbazi et al., 2022, https://arxiv.org/abs/2201.06578). None: all."""
        start, ramp = self.train.unconditional_epochs, self.train.ramp_epochs
        if not start and not ramp:
            return None
        past = batch.epochs.to(self.device).float() + 1 - start
        return (past / (ramp + 1)).clamp(0, 1)


def _keys(batch: Batch, stream: int, phase: int) -> list[tuple[int, ...]]:
    rows = zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
    return [(stream, phase, epoch, entry) for epoch, entry in rows]


def _diversity(generated: torch.Tensor, real: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The standard deviation between images of a class at 8 x 8 pixels (a copy with noise on it is no other image), by
    that of real ones; 1 where those do not differ. Classes differ from one another even where a generator knows but one
    image of each, so that only classes with two images and more count; where there are none, all images are one.

    generated, real: (N, 3, H, W). labels: (N,).
    """
    same = (labels[:, None] == labels).float()
    several = same.sum(1) > 1
    same, several = torch.where(several.any(), same, 1.0), several | ~several.any()  # chosen without waiting for a GPU

    def spread(images: torch.Tensor) -> torch.Tensor:
        small = functional.adaptive_avg_pool2d(images.float(), 8).flatten(1)
        apart = small - (same @ small) / same.sum(1, keepdim=True)
        return ((apart.square() * several[:, None]).sum(0) / several.sum()).sqrt().mean()

    ours, theirs = spread(generated), spread(real)
    return torch.where(theirs > 1e-6, ours / theirs.clamp_min(1e-6), torch.ones_like(ours))
