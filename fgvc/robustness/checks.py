"""Whether an attack can be believed: the checks of Carlini et al. 2019 (arXiv:1902.06705), each green or red.

They are about PGD as it was configured. A red one means that accuracy under it says little: the model hides its
gradients, or the attack is too weak for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fgvc.robustness.attacked import Attacked
from fgvc.robustness.attacks import away_from, gradient, margin
from fgvc.robustness.suite import Images

UNBOUNDED = {"linf": 0.5, "l2": 0.5}  # linf: every image can become plain grey; l2: as much a pixel, in the mean
NOISE = 0.01  # of the images: what chance may do
LITTLE = 0.05  # of the images: a change that a stronger attack may make
VANISHED = 1e-7  # of the margin's gradient: the cross-entropy has nothing left in float32


@dataclass(frozen=True)
class Check:
    """One check: whether it passed (None: it could not be made), what was found, and what that means."""

    passed: bool | None
    found: str
    meaning: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def monotone(accuracies: Mapping[float, float]) -> Check:
    """accuracies: epsilon -> accuracy under PGD."""
    values = [accuracies[epsilon] for epsilon in sorted(accuracies)]
    rise = max((later - before for before, later in pairwise(values)), default=0.0)
    shown = " > ".join(f"{value:.1%}" for value in values)
    return Check(
        rise <= NOISE, f"accuracy with growing epsilon: {shown}",
        "A larger ball holds the smaller one: accuracy that rises with epsilon means that the attack gets stuck.",
    )  # fmt: skip


def reaches_zero(accuracy: float) -> Check:
    """accuracy: under PGD with a perturbation that can turn any image into plain grey."""
    return Check(
        accuracy == 0, f"accuracy under a perturbation that can erase the image: {accuracy:.1%}",
        "An attack that may erase the image has to reach zero; if it does not, gradients lead nowhere.",
    )  # fmt: skip


def not_weaker_than_fgsm(pgd: Mapping[float, float], fgsm: Mapping[float, float]) -> Check:
    """Both: epsilon -> accuracy."""
    worst = max(pgd[epsilon] - fgsm[epsilon] for epsilon in fgsm)
    return Check(
        worst <= NOISE, f"accuracy under PGD minus that under FGSM, at most: {worst:+.1%}",
        "Many small steps that do worse than one large step mean that gradients change direction at random.",
    )  # fmt: skip


def black_box_not_stronger(square: np.ndarray, pgd: np.ndarray, what: str = "Square, which sees only answers") -> Check:
    """square, pgd: (N,) whether each image was still classified rightly."""
    difference = float(pgd.mean() - square.mean()) if len(pgd) else 0.0
    return Check(
        difference <= LITTLE, f"{what}: {square.mean():.1%} right, PGD: {pgd.mean():.1%} ({len(pgd)} images)",
        "An attack without gradients that does better than one with them means that the gradients are hidden.",
    )  # fmt: skip


def budget_suffices(plain: np.ndarray, longer: np.ndarray, more: str) -> Check:
    """plain, longer: (N,) whether each image was still classified rightly. more: what the longer attack had."""
    change = float(plain.mean() - longer.mean()) if len(plain) else 0.0
    return Check(
        change <= LITTLE, f"{more}: {longer.mean():.1%} right instead of {plain.mean():.1%} ({len(plain)} images)",
        "If more steps and starts break many more images, the attack had not converged: give it more.",
    )  # fmt: skip


def adaptive_not_stronger(adaptive: np.ndarray, pgd: np.ndarray) -> Check:
    """adaptive, pgd: (N,) whether each image was still classified rightly."""
    difference = float(pgd.mean() - adaptive.mean()) if len(pgd) else 0.0
    return Check(
        difference <= LITTLE, f"adaptive attack: {adaptive.mean():.1%} right, PGD: {pgd.mean():.1%}",
        "An attack on the logits' margin, past steps without gradient, that does much better than PGD on the "
        "cross-entropy means that the model hides its gradients without being robust.",
    )  # fmt: skip


def gradients_alive(vanished: np.ndarray) -> Check:
    """vanished: (N,) bool, as `vanishing` finds."""
    share = float(vanished.mean()) if len(vanished) else 0.0
    return Check(
        share <= LITTLE, f"images whose gradient vanishes: {share:.1%} of {len(vanished)}",
        "Where the loss's gradient is zero, or lost in rounding, gradient attacks stand still: the model looks robust "
        "and is not.",
    )  # fmt: skip


def finds_planted(found: Mapping[str, np.ndarray]) -> Check:
    """found: what fgvc.robustness.planted finds."""
    possible = found["possible"].astype(bool)
    if not possible.any():
        return Check(None, "no perturbation could be planted", "The model's features do not change within epsilon.")
    share, chance = float(found["found"][possible].mean()), float(found["random"][possible].mean())
    passed = None if chance > 0.5 else share >= 1 - LITTLE
    return Check(
        passed, f"planted perturbations found: {share:.1%} of {int(possible.sum())}; by chance {chance:.1%}",
        "For every image a readout of the model's own features was made that a known perturbation misleads. An attack "
        "that misses it would miss real ones too.",
    )  # fmt: skip


def vanishing(model: Attacked, images: Images) -> dict[str, torch.Tensor]:
    """(N,) bool: the cross-entropy's gradient is zero, or below float32's resolution of the margin's."""
    loss = gradient(model, images.pixels, away_from(images.labels)).flatten(1).abs().amax(1)
    lead = gradient(model, images.pixels, lambda logits: margin(logits, images.labels)).flatten(1).abs().amax(1)
    return {"entries": images.entries, "vanished": loss <= VANISHED * lead}


def summary(checks: Mapping[str, Check]) -> str:
    """One line: how many are green, and the names of the red ones."""
    red = failed(checks)
    green = sum(check.passed is True for check in checks.values())
    return f"{green} of {len(checks)} checks green" + (f", RED: {', '.join(red)}" if red else "")


def failed(checks: Mapping[str, Check]) -> Sequence[str]:
    """The names of the red checks."""
    return [name for name, check in checks.items() if check.passed is False]
