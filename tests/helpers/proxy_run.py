"""A rank of a run whose objective has parameters and calls the bare network twice: `python proxy_run.py SHARDS OUT`."""

import os
import sys
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

from fgvc.models.normalised import Normalised
from fgvc.runtime.device import seed_everything
from fgvc.runtime.distributed import rank, world_size
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.learner import SupervisedLearner
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import create_accelerator
from shards.manifest import read_manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Batch, Place, Samples, train_loader
from shards.reading.transforms import train_transform

STEPS = 6
LOOP = LoopConfig(epochs=1, batch=8, ema=0.5, deterministic=True, freeze_bn="statistics")
OPTIM = OptimConfig(lr=0.01, head_multiplier=5, schedule="constant", warmup_epochs=0)


class Proxies(nn.Module):
    """A proxy a class, compared by angle; the images are moved along the loss's gradient first (FGSM)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))

    def forward(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images = batch.images.float().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(model(images), batch.labels), images)
        moved = (images + gradient.sign()).clamp(0, 255).detach()
        return self.loss(model(moved), batch.labels), {"moved": gradient.sign().abs().mean()}

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        angles = functional.normalize(features) @ functional.normalize(self.weight).T
        return functional.cross_entropy(8 * angles, labels)


def make(found: Path | None = None) -> SupervisedLearner:
    accelerator = create_accelerator("fp32", True)
    seed_everything(0, 0, True)
    network = timm.create_model("test_resnet", num_classes=0)
    objective = Proxies(4, network.num_features)
    whole = Normalised(network, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), channels_last=False)
    return SupervisedLearner(network, whole, objective, OPTIM, LOOP, Schedule(STEPS, STEPS), accelerator, found)


def train(learner: SupervisedLearner, shards: Path, until: int = STEPS) -> None:
    manifest = read_manifest(shards)
    samples = Samples(manifest, train_transform(ImageConfig(), 32), seed=0)
    batches = train_loader(
        manifest, manifest.split("train"), samples, seed=0, batch=LOOP.batch, epochs=1, start_step=learner.step,
        place=Place(rank(), world_size()),
    )  # fmt: skip
    while learner.step < until:
        learner.learn([next(batches)])


if __name__ == "__main__":
    learner = make()
    train(learner, Path(sys.argv[1]))
    state = learner.player.state(keep=True)
    if rank() == 0:
        torch.save(state["weights"], sys.argv[2])
    os._exit(0)
