"""AutoAttack (Croce and Hein 2020, arXiv:2003.01690) by pyautoattack, part by part: it is known which one broke an
image."""

import logging
from collections.abc import Callable

import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack
from torch import nn

from fgvc.robustness.attack_config import AutoAttackConfig
from fgvc.robustness.attacked import Attacked
from fgvc.robustness.attacks import Norm, project

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
RANDOM = ("apgd-ce", "apgd-dlr")  # of a random model, with 20 draws a gradient
Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
logging.getLogger("auto-attack").setLevel(logging.ERROR)  # fgvc.robustness.checks says the same, and once


def parts_of(classes: int, random: bool) -> tuple[str, ...]:
    """The parts that AutoAttack runs. Its DLR loss needs 3 classes, and 4 where it is targeted."""
    if random:
        return RANDOM if classes > 2 else RANDOM[:1]
    return STANDARD if classes > 3 else ("apgd-ce", "fab-t", "square")


def autoattack(
    model: Attacked, images: torch.Tensor, labels: torch.Tensor, epsilon: float, norm: Norm, *, classes: int, seed: int,
    config: AutoAttackConfig, parts: tuple[str, ...] = (), judge: Judge | None = None, draws: int = 8,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(N, 3, H, W) perturbed images, and (N,) which of `parts` (default: `parts_of`) broke each, -1 for none.

    model: with gradients through whatever has none (`Victim.adaptive`): APGD and FAB stand still before a transform
    that gives zeros. judge: the deployed model, (M, 3, H, W) and their rows (M,) -> scores (default: `model`).
    draws: passes that a random model is judged by. images: float32 in [0, 1]. Images that are misclassified as they
    are stay so. seed: of its random draws; the same batch and seed give the same result.
    """
    attacked: nn.Module = _OverDraws(model, draws) if model.random else model
    parts = parts or parts_of(classes, model.random)
    found, broken_by = images.clone(), torch.full_like(labels, -1)
    for number, part in enumerate(parts):
        left = (broken_by < 0).nonzero()[:, 0]
        if len(left) == 0:
            break
        attack = _adversary(attacked, epsilon, norm, classes, seed, config, part, images.device)
        if model.random:
            attack.version, attack.apgd.eot_iter = "rand", 20  # its check for random models is for the other versions
        perturbed, _ = attack.run_standard_evaluation(images[left], labels[left], batch_size=len(left))
        perturbed = project(perturbed, images[left], epsilon, norm)  # where the library rounds outwards
        with torch.no_grad():
            scores = judge(perturbed, left) if judge else model(perturbed)
            fooled = scores.argmax(1) != labels[left]
        found[left[fooled]], broken_by[left[fooled]] = perturbed[fooled], number
    return found, broken_by


class _OverDraws(nn.Module):
    """A random model as AutoAttack is to see it: every gradient is of one draw (APGD averages over 20), every decision
    by the mean softmax over `draws` new ones, much as the attack is judged. By a single draw it would take an image for
    broken that is not, and stop, or leave alone one that it had been unlucky with."""

    def __init__(self, model: Attacked, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return self.model(images)
        return torch.stack([self.model(images).softmax(1) for _ in range(self.draws)]).mean(0)


def _adversary(
    model: nn.Module, epsilon: float, norm: Norm, classes: int, seed: int, config: AutoAttackConfig, part: str,
    device: torch.device,
) -> AutoAttack:  # fmt: skip
    """One part, set as AutoAttack's standard (or rand) version sets it, but for the budget."""
    attack = AutoAttack(
        model, norm="Linf" if norm == "linf" else "L2", eps=epsilon, seed=seed, version="custom", attacks=[part],
        device=device,
    )  # fmt: skip
    attack.verbose = False
    for component in (attack.apgd, attack.apgd_targeted, attack.fab):
        component.n_restarts, component.n_iter = 1, config.steps
    for component in (attack.apgd, attack.apgd_targeted):
        _schedule(component, config.steps)
    for component in (attack.apgd_targeted, attack.fab):
        component.n_target_classes = min(config.targets, classes - 1)
    attack.square.n_queries = config.queries
    return attack


def _schedule(apgd: APGDAttack, steps: int) -> None:
    """When APGD may halve its step size, for so many steps: the library works it out in the constructor alone, which
    AutoAttack calls for 100 steps (APGDAttack.__init__; section 3 of Croce and Hein 2020)."""
    apgd.n_iter_orig = steps
    apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
