"""One rank of a run of two tiny networks against each other: `python adversarial_run.py SHARDS FOLDER WORKERS [KILL]`.

KILL is phase:step: every rank ends itself by SIGKILL in the middle of that phase of that step.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.device import seed_everything
from fgvc.runtime.distributed import broadcast_object, rank, world_size
from fgvc.runtime.tracking import Tracker
from fgvc.training.adversarial import AdversarialLearner, Phase, PlayerSetup
from fgvc.training.checkpoint import latest_valid, step_of
from fgvc.training.config import LoopConfig, PlayerOptimConfig
from fgvc.training.loop import fit
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import create_accelerator
from shards.manifest import read_manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Batch, Place, Samples, train_loader
from shards.reading.transforms import train_transform

SIZE, NOISE, STEPS = 16, 8, 10
LOOP = LoopConfig(epochs=1, batch=8, accumulation=2, deterministic=True, checkpoint_minutes=0, channels_last=False)
GENERATOR = PlayerOptimConfig(lr=2e-3, beta1=0.0, beta2=0.99, schedule="constant", warmup_epochs=0, head_multiplier=1)
DISCRIMINATOR = PlayerOptimConfig(
    lr=4e-3, beta1=0.5, beta2=0.9, schedule="constant", warmup_epochs=0, head_multiplier=1
)


class Generator(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(NOISE, 16 * 4 * 4), nn.Unflatten(1, (16, 4, 4)), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip


class Discriminator(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 4, 2, 1), nn.Softplus(), nn.Conv2d(8, 16, 4, 2, 1), nn.Softplus(), nn.Flatten(),
            nn.Linear(16 * 4 * 4, 1),
        )  # fmt: skip


def noise_of(batch: Batch) -> torch.Tensor:
    """(N, NOISE): a function of epoch and entry, so that ranks and workers change nothing."""
    rows = zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
    return torch.from_numpy(np.stack([np.random.default_rng([7, *row]).standard_normal(NOISE) for row in rows])).float()


def real_of(batch: Batch) -> torch.Tensor:
    return batch.images.float() / 127.5 - 1


def generator_loss(models: Mapping[str, nn.Module], batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    fake = models["generator"](noise_of(batch))
    return functional.softplus(-models["discriminator"](fake)).mean(), {}


def discriminator_loss(models: Mapping[str, nn.Module], batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.no_grad():
        fake = models["generator"](noise_of(batch))
    false, true = models["discriminator"](fake), models["discriminator"](real_of(batch))
    return (functional.softplus(false) + functional.softplus(-true)).mean(), {"real": (true > 0).float().mean()}


def penalty(models: Mapping[str, nn.Module], batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """R1: the squared gradient at real images, differentiated twice."""
    real = real_of(batch).requires_grad_()
    (gradient,) = torch.autograd.grad(models["discriminator"](real).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean(), {}


PHASES = (
    Phase("generator", "generator", generator_loss),
    Phase("discriminator", "discriminator", discriminator_loss),
    Phase("penalty", "discriminator", penalty, every=3),
)


def deadly(phase: Phase, learner: list[AdversarialLearner], kill: str) -> Phase:
    """The phase, which ends the process after its loss is computed where `kill` says so."""

    def loss(models: Mapping[str, nn.Module], batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = phase.loss(models, batch)
        if learner and kill == f"{phase.name}:{learner[0].step}":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return Phase(phase.name, phase.player, loss, phase.every)


def setups() -> dict[str, PlayerSetup]:
    torch.manual_seed(3)
    generator, discriminator = Generator(), Discriminator()
    return {
        "generator": PlayerSetup(generator, generator, GENERATOR, ema=0.9),
        "discriminator": PlayerSetup(discriminator, discriminator, DISCRIMINATOR, ema=0.8),
    }


def loader(shards: str, start_step: int, workers: int) -> Any:
    manifest = read_manifest(shards)
    samples = Samples(manifest, train_transform(ImageConfig(), SIZE), seed=0)
    return train_loader(
        manifest, manifest.split("train"), samples, seed=0, batch=LOOP.batch, epochs=1, start_step=start_step,
        place=Place(rank(), world_size(), LOOP.accumulation), workers=workers,
    )  # fmt: skip


def main(shards: str, folder: Path, workers: int, kill: str = "") -> None:
    accelerator = create_accelerator("fp32", True)
    seed_everything(0, rank(), True)
    checkpoints = folder / "checkpoints"
    if rank() == 0:
        checkpoints.mkdir(parents=True, exist_ok=True)
    found = broadcast_object(latest_valid(checkpoints) if rank() == 0 else None)
    known: list[AdversarialLearner] = []
    phases = [deadly(phase, known, kill) for phase in PHASES]
    schedule = Schedule(STEPS, STEPS)
    learner = AdversarialLearner(setups(), phases, LOOP, schedule, accelerator, found)
    known.append(learner)
    tracker = Tracker(
        TrackConfig(wandb="disabled"), folder, "gan", "tiny", {}, step=step_of(found) if found else 0, main=rank() == 0
    )
    fit(learner, loader(shards, learner.step, workers), LOOP, schedule, folder, tracker)
    tracker.close()
    networks = {name: learner.eval_network(name).state_dict() for name in learner.players}
    if rank() == 0:
        torch.save(networks, folder / "networks.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    sys.stdout.flush()
    os._exit(0)
