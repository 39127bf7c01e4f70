"""Robust accuracy while a defended classifier trains, and what is done when training overfits to its own attack.

Catastrophic overfitting (Wong et al. 2020, https://arxiv.org/abs/2001.03994): within an epoch, training on attacks of
one step may come to withstand those alone; against several smaller steps nothing is left. It shows as a gap between
the accuracies under the two attacks on the same training images. Then training goes back to the last weights that had
no such gap, and on from there with attacks of twice as many steps.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.models.layers import eval_mode
from fgvc.robustness.attacks import away_from, pgd, random_start
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.epsilon import read_epsilon
from fgvc.robustness.objectives import attack_steps, epsilon_at, of_pixels
from fgvc.runtime.distributed import barrier, rank, sum_over_ranks
from fgvc.training.checkpoint import latest_valid, save, step_of
from fgvc.training.learner import SupervisedLearner
from fgvc.training.rewind import Diverged, Rewind
from shards.reading.order import START

OVERFITTED = "training overfitted to its attack"
# A healthy model differs by a few points under the two attacks, an overfitted one by most of its accuracy.
GAP = 0.2


def strengthened(defence: DefenceConfig, rewinds: list[Rewind]) -> DefenceConfig:
    """The defence of a run that went back: its attack has twice the steps for each time that it was overfitted to."""
    times = sum(rewind.reason.startswith(OVERFITTED) for rewind in rewinds)
    if not times:
        return defence
    return replace(defence, method="pgd", steps=attack_steps(defence)[0] * 2**times, step=0.0)


class Watch:
    """Measures after an epoch.

    training, held_out: this rank's shares of the images to measure on (held_out: None where nothing is). checkpoints:
    the run's. normalised: a network as a model of images in [0, 255].
    """

    def __init__(
        self, defence: DefenceConfig, seed: int, checkpoints: Path, training: DataLoader, held_out: DataLoader | None,
        normalised: Callable[[nn.Module], nn.Module],
    ) -> None:  # fmt: skip
        self.defence, self.seed, self.checkpoints = defence, seed, checkpoints
        self.good = checkpoints / "not_overfitted"  # where the last such checkpoint is kept
        self.training, self.held_out, self.normalised = training, held_out, normalised

    def after_epoch(self, learner: SupervisedLearner, epoch: int, last: bool) -> dict[str, float]:
        """Figures of all ranks together after `epoch` epochs, for the record.

        Raises Diverged when training has overfitted to its attack, with the run's newest checkpoint one from before.
        """
        if epoch % self.defence.check_epochs and not last:
            return {}
        figures: dict[str, float] = {}
        if self.defence.method in ("fgsm", "pgd") and attack_steps(self.defence)[0] < self.defence.check_steps:
            figures |= self._compare(learner, epoch)
        if self.held_out is not None:
            model, whole = self.normalised(learner.eval_network()), read_epsilon(self.defence.epsilon)
            figures["val_robust"] = self._robust(model, self.held_out, whole, self.defence.check_steps)
        return figures

    def _compare(self, learner: SupervisedLearner, epoch: int) -> dict[str, float]:
        """Training images under training's own attack and under PGD: the gap decides.

        The network's own weights are asked, not their average, which lags behind.
        """
        model, epsilon = self.normalised(learner.player.network), epsilon_at(self.defence, epoch - 1)
        steps, length = attack_steps(self.defence)
        own = self._robust(model, self.training, epsilon, steps, length * epsilon)
        several = self._robust(model, self.training, epsilon, self.defence.check_steps)
        if own - several > GAP:
            if rank() == 0:
                take_back(self.checkpoints, self.good)
            barrier()
            raise Diverged(
                f"{OVERFITTED}: {own:.0%} of training images withstand its {steps} step(s) and {several:.0%} PGD of "
                f"{self.defence.check_steps}, after epoch {epoch}",
                "set defence.method=pgd or a smaller defence.step",
            )
        save(self.good, learner.step, learner.state(), keep=1)
        return {"train_own_attack": own, "train_pgd": several, "attack_steps": float(steps)}

    def _robust(
        self, model: nn.Module, loader: DataLoader, epsilon: float, steps: int, step_size: float | None = None
    ) -> float:
        """The share of a loader's images, over all ranks, that is right under PGD from a random start, in fp32."""
        device = next(model.parameters()).device
        counts = torch.zeros(2, dtype=torch.float64, device=device)  # right, all
        with eval_mode(model):
            for batch in loader:
                images, labels = batch.images.to(device) / 255, batch.labels.to(device)
                seeds = [(self.seed, START, entry) for entry in batch.entries.tolist()]
                start, loss = random_start(images, epsilon, "linf", seeds), away_from(labels)
                attacked = pgd(of_pixels(model), images, loss, epsilon, steps=steps, step_size=step_size, start=start)
                with torch.no_grad():
                    right = of_pixels(model)(attacked).argmax(1) == labels
                counts += torch.stack([right.sum(), torch.tensor(len(labels), device=device)])
        right, images = sum_over_ranks(counts).tolist()
        return right / images


def take_back(checkpoints: Path, good: Path) -> None:
    """Make the checkpoint in `good` the newest of a run; of a run that has none there, no checkpoint is left.

    Copied first and the others deleted then, so that a run killed in between comes here again or begins from it.
    """
    found = latest_valid(good)
    if found is not None and not (checkpoints / found.name).exists():
        shutil.rmtree(temporary := checkpoints / f".{found.name}.tmp", ignore_errors=True)
        shutil.copytree(found, temporary)
        temporary.rename(checkpoints / found.name)
    for newer in checkpoints.glob("step-*"):
        if found is None or step_of(newer) > step_of(found):
            shutil.rmtree(newer)
