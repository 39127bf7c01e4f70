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
FEW = 3  # images: no tolerance is finer
VANISHED = 1e-7  # of the margin's gradient: the cross-entropy has nothing left in float32


@dataclass(frozen=True)
class Check:
    """One check: whether it passed (None: it could not be made), what was found, and what that means."""

    passed: bool | None
    found: str
    meaning: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def monotone(right: Mapping[float, int], images: int) -> Check:
    """right: epsilon -> how many of all `images` are classified rightly under PGD."""
    values = [right[epsilon] for epsilon in sorted(right)]
    rise = max((later - before for before, later in pairwise(values)), default=0)
    return Check(
        _within(rise, images, NOISE) if len(values) > 1 else None,
        f"right with growing epsilon: {' > '.join(map(str, values))} of {images}",
        "A larger ball holds the smaller one: accuracy that rises with epsilon means that the attack gets stuck.",
    )  # fmt: skip


def reaches_zero(right: int, images: int) -> Check:
    """right: of so many images, under PGD with a perturbation that can turn any image into plain grey."""
    return Check(
        right == 0, f"right under a perturbation that can erase the image: {right} of {images}",
        "An attack that may erase the image has to reach zero; if it does not, gradients lead nowhere.",
    )  # fmt: skip


def not_weaker_than_fgsm(pgd: Mapping[float, int], fgsm: Mapping[float, int], images: int) -> Check:
    """Both: epsilon -> how many of all `images` are classified rightly."""
    worst = max(pgd[epsilon] - fgsm[epsilon] for epsilon in fgsm)
    return Check(
        _within(worst, images, NOISE), f"right under PGD less right under FGSM, at most: {worst:+d} of {images}",
        "Many small steps that do worse than one large step mean that gradients change direction at random.",
    )  # fmt: skip


def black_box_not_stronger(square: np.ndarray, pgd: np.ndarray, what: str = "Square, which sees only answers") -> Check:
    """square, pgd: (N,) whether each image was still classified rightly."""
    return Check(
        _within(pgd.sum() - square.sum(), len(pgd), LITTLE),
        f"{what}: {square.sum()} right, PGD: {pgd.sum()}, of {len(pgd)} images",
        "An attack without gradients that does better than one with them means that the gradients are hidden.",
    )  # fmt: skip


def budget_suffices(plain: np.ndarray, longer: np.ndarray, more: str) -> Check:
    """plain, longer: (N,) whether each image was still classified rightly. more: what the longer attack had."""
    return Check(
        _within(plain.sum() - longer.sum(), len(plain), LITTLE),
        f"{more}: {longer.sum()} right instead of {plain.sum()}, of {len(plain)} images",
        "If more steps and starts break many more images, the attack had not converged: give it more.",
    )  # fmt: skip


def adaptive_not_stronger(adaptive: np.ndarray, pgd: np.ndarray) -> Check:
    """adaptive, pgd: (N,) whether each image was still classified rightly."""
    return Check(
        _within(pgd.sum() - adaptive.sum(), len(pgd), LITTLE),
        f"adaptive attack: {adaptive.sum()} right, PGD: {pgd.sum()}, of {len(pgd)} images",
        "An attack on the logits' margin, past steps without gradient, that does much better than PGD on the "
        "cross-entropy means that the model hides its gradients without being robust.",
    )  # fmt: skip


def gradients_alive(vanished: np.ndarray) -> Check:
    """vanished: (N,) bool, as `vanishing` finds."""
    return Check(
        _within(vanished.sum(), len(vanished), LITTLE),
        f"images whose gradient vanishes: {vanished.sum()} of {len(vanished)}",
        "Where the loss's gradient is zero, or lost in rounding, gradient attacks stand still: the model looks robust "
        "and is not.",
    )  # fmt: skip


def finds_planted(found: Mapping[str, np.ndarray]) -> Check:
    """found: what fgvc.robustness.planted finds."""
    possible = found["possible"].astype(bool)
    if not possible.any():
        return Check(None, "no perturbation could be planted", "The model's features do not change within epsilon.")
    count, hits, chance = (int(of.sum()) for of in (possible, found["found"][possible], found["random"][possible]))
    passed = None if chance > count / 2 else _within(count - hits, count, LITTLE)
    return Check(
        passed, f"planted perturbations found: {hits} of {count}; by chance {chance}",
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


def _within(excess: float, images: int, share: float) -> bool | None:
    """Whether so many of `images` are no more than chance may do: red needs more than the share and more than FEW of
    them. None: there are so few images that no number of them would tell."""
    return None if images <= FEW else bool(excess <= max(share * images, FEW))
