"""Robust accuracy while a defended classifier trains, and what is done when fast training overfits to its attack.

Catastrophic overfitting (Wong et al. 2020, https://arxiv.org/abs/2001.03994): within an epoch, training on one-step
attacks may come to withstand those alone; against several smaller steps nothing is left. It shows as a gap between
the accuracies under the two attacks on the same training images. Then the weights of the last check without a gap are
taken back, and training goes on from there with attacks of twice as many steps.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.models.layers import eval_mode
from fgvc.robustness.attacks import away_from, pgd, random_start
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.epsilon import read_epsilon
from fgvc.robustness.objectives import AdversarialTraining, epsilon_at, of_pixels, step_length
from fgvc.runtime.distributed import broadcast_object, rank, sum_over_ranks
from fgvc.training.checkpoint import latest_valid, step_of
from fgvc.training.learner import Objective, SupervisedLearner
from shards.reading.order import START

log = logging.getLogger(__name__)
# A healthy model differs by a few points under the two attacks, an overfitted one by most of its accuracy.
GAP = 0.2


class Watch:
    """Measures after an epoch, and steps back.

    training, held_out: this rank's shares of the images to measure on (held_out: None where nothing is). folder: keeps
    the checkpoint of the last check without a gap. normalised: a network as a model of images in [0, 255].
    """

    def __init__(
        self, defence: DefenceConfig, objective: Objective, seed: int, folder: Path, training: DataLoader,
        held_out: DataLoader | None, normalised: Callable[[nn.Module], nn.Module],
    ) -> None:  # fmt: skip
        self.defence, self.objective, self.seed, self.folder = defence, objective, seed, folder
        self.training, self.held_out, self.normalised = training, held_out, normalised

    def after_epoch(self, learner: SupervisedLearner, epoch: int, last: bool) -> dict[str, float]:
        """Figures for the record after `epoch` epochs, of all ranks together; may change the learner's weights."""
        if epoch % self.defence.check_epochs and not last:
            return {}
        figures: dict[str, float] = {}
        objective = self.objective
        if isinstance(objective, AdversarialTraining) and int(objective.steps) < self.defence.check_steps:
            figures |= self._compare(learner, objective, epoch)
        if self.held_out is not None:
            model, whole = self.normalised(learner.eval_network()), read_epsilon(self.defence.epsilon)
            figures["val_robust"] = self._robust(model, self.held_out, whole, self.defence.check_steps)
        return figures

    def _compare(self, learner: SupervisedLearner, objective: AdversarialTraining, epoch: int) -> dict[str, float]:
        """Training images under training's own attack and under PGD: the gap decides.

        The network's own weights are asked, not their average, which lags behind.
        """
        model, epsilon = self.normalised(learner.player.network), epsilon_at(self.defence, epoch - 1)
        steps = int(objective.steps)
        own = self._robust(model, self.training, epsilon, steps, step_length(self.defence, steps, epsilon))
        several = self._robust(model, self.training, epsilon, self.defence.check_steps)
        figures = {"train_own_attack": own, "train_pgd": several, "attack_steps": float(steps)}
        if own - several <= GAP:
            learner.save(self.folder)
            return figures
        found = broadcast_object(latest_valid(self.folder) if rank() == 0 else None)
        if found is not None:
            learner.go_back(found)
        objective.steps.fill_(2 * steps)
        back = 0 if found is None else step_of(found)
        if rank() == 0:
            log.warning(
                "training overfitted to its attack: %.0f %% of training images withstand %d step(s), %.0f %% PGD of %d "
                "steps; %s, and attacks have %d steps from here",
                100 * own, steps, 100 * several, self.defence.check_steps,
                f"back to the weights of step {back}" if back else "there are no earlier weights to go back to",
                2 * steps,
            )  # fmt: skip
        return figures | {"back_to_step": float(back)}

    def _robust(
        self, model: nn.Module, loader: DataLoader, epsilon: float, steps: int, step_size: float | None = None
    ) -> float:
        """The share of a loader's images, over all ranks, that is right under PGD from a random start, in fp32."""
        device = next(model.parameters()).device
        counts = torch.zeros(2, dtype=torch.float64, device=device)  # right, all
        with eval_mode(model):
            for batch in loader:
                images, labels = batch.images.to(device) / 255, batch.labels.to(device)
                start = random_start(
                    images, epsilon, "linf", [(self.seed, START, entry) for entry in batch.entries.tolist()]
                )
                attacked = pgd(
                    of_pixels(model), images, away_from(labels), epsilon, steps=steps, step_size=step_size, start=start
                )
                with torch.no_grad():
                    right = of_pixels(model)(attacked).argmax(1) == labels
                counts += torch.stack([right.sum(), torch.tensor(len(labels), device=device)])
        right, all_ = sum_over_ranks(counts).tolist()
        return right / all_
