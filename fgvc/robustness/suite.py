"""Attacks by name: one batch in, the perturbed images and what became of them out."""

from dataclasses import dataclass

import numpy as np
import torch

from fgvc.robustness.attack_config import AttackConfig, AutoAttackConfig
from fgvc.robustness.attacked import Attacked, answers
from fgvc.robustness.attacks import Loss, away_from, fgsm, margin, pgd, random_start, strongest, towards
from fgvc.robustness.autoattack import autoattack
from fgvc.runtime.chunks import Arrays

HALVINGS = 8  # of the way from an image to its perturbed version, in search of the smallest perturbation


@dataclass(frozen=True)
class Victim:
    """The model under attack. model: as deployed. adaptive: the same with gradients through what has none. surrogate:
    another one to make perturbations on."""

    model: Attacked
    adaptive: Attacked
    surrogate: Attacked | None
    classes: int


@dataclass(frozen=True)
class Images:
    """pixels: (N, 3, H, W) float32 in [0, 1]; labels, entries: (N,) int64."""

    pixels: torch.Tensor
    labels: torch.Tensor
    entries: torch.Tensor


def perturb(
    name: str, victim: Victim, images: Images, epsilon: float, config: AttackConfig, budget: AutoAttackConfig,
    target: int | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # fmt: skip
    """The perturbed images of one attack, and what else it tells. name: of attack_config.ATTACKS, or targeted."""
    x, labels, norm, model = images.pixels, images.labels, config.norm, victim.model
    if name == "fgsm":
        return fgsm(model, x, away_from(labels), epsilon, norm=norm), {}
    if name == "pgd":
        return projected(model, images, away_from(labels), epsilon, config), {}
    if name == "adaptive":
        draws = config.draws if model.random else 1
        score: Loss = lambda logits: margin(logits, labels)  # noqa: E731
        return projected(victim.adaptive, images, score, epsilon, config, draws=draws), {}
    if name == "targeted":
        aims = torch.full_like(labels, -1 if target is None else target)
        return projected(model, images, towards(aims), epsilon, config, labels=aims), {}
    if name in ("mi_fgsm", "transfer"):
        source = victim.surrogate if name == "transfer" and victim.surrogate is not None else model
        size = epsilon / config.steps
        return pgd(source, x, away_from(labels), epsilon, norm=norm, steps=config.steps, step_size=size, momentum=1), {}
    parts = ("square",) if name == "square" else ()
    seed = int(torch.randint(2**31, ()))  # the generator is seeded by chunk
    found, by = autoattack(
        victim.adaptive, x, labels, epsilon, norm, classes=victim.classes, seed=seed, config=budget, parts=parts,
        judge=lambda pixels, rows: says(model, pixels, images.entries[rows], config), draws=config.draws,
    )  # fmt: skip
    return found, {"broken_by": by}


def projected(
    model: Attacked, images: Images, loss: Loss, epsilon: float, config: AttackConfig, *, steps: int = 0,
    restarts: int = 0, draws: int = 1, labels: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """PGD from random starts keyed by (seed, entry, restart), of several the strongest. steps, restarts: the config's
    unless given. labels: the classes aimed at, where the attack is targeted."""
    steps = steps or config.steps
    size = config.step_size * epsilon if config.step_size else None
    entries = images.entries.tolist()

    def runs(restart: int) -> torch.Tensor:
        seeds = [(config.seed, entry, restart) for entry in entries]
        start = random_start(images.pixels, epsilon, config.norm, seeds)
        return pgd(
            model, images.pixels, loss, epsilon, norm=config.norm, steps=steps, step_size=size, start=start, draws=draws
        )  # fmt: skip

    def judged(pixels: torch.Tensor) -> torch.Tensor:
        return says(model, pixels, images.entries, config)

    count = restarts or config.restarts
    if count == 1:
        return runs(0)
    if labels is not None:
        return strongest(judged, map(runs, range(count)), lambda logits: -margin(logits, labels))
    return strongest(judged, map(runs, range(count)), lambda logits: margin(logits, images.labels))


def says(model: Attacked, pixels: torch.Tensor, entries: torch.Tensor, config: AttackConfig) -> torch.Tensor:
    """(N, classes): the model's answer by which every attack is judged (`attacked.answers`)."""
    return answers(model, pixels, entries.tolist(), config.seed, config.draws)


def outcome(model: Attacked, images: Images, found: torch.Tensor, config: AttackConfig) -> dict[str, torch.Tensor]:
    """What became of every image: predicted class, whether the outputs are finite, size of the perturbation."""
    scores = says(model, found, images.entries, config)
    return {
        "entries": images.entries, "predicted": scores.argmax(1), "finite": scores.isfinite().all(1),
        "size": _size(found - images.pixels, config.norm),
    }  # fmt: skip


@torch.no_grad()
def smallest(model: Attacked, images: Images, found: torch.Tensor, config: AttackConfig) -> dict[str, torch.Tensor]:
    """The smallest perturbation that misleads on the way to a perturbed image, by halving, and the class it leads to.

    An upper bound of the least there is; infinite where the perturbed image is classified rightly. (N,) each.
    """
    low, high = torch.zeros_like(found[:, 0, 0, 0]), torch.ones_like(found[:, 0, 0, 0])
    change = found - images.pixels
    answer = says(model, found, images.entries, config).argmax(1)
    broken = answer != images.labels
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        between = images.pixels + middle.view(-1, 1, 1, 1) * change
        predicted = says(model, between, images.entries, config).argmax(1)
        fooled = predicted != images.labels
        answer = torch.where(fooled & broken, predicted, answer)
        high, low = torch.where(fooled, middle, high), torch.where(fooled, low, middle)
    size = _size(change * high.view(-1, 1, 1, 1), config.norm)
    return {"smallest": torch.where(broken, size, float("inf")), "taken_for": answer}


def as_arrays(found: dict[str, torch.Tensor]) -> Arrays:
    """Tensors of a batch as `in_chunks` keeps them."""
    return {name: np.asarray(value.cpu()) for name, value in found.items()}


def _size(change: torch.Tensor, norm: str) -> torch.Tensor:
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)
