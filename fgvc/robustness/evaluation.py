"""Running attacks over a split, stage by stage, each in chunks that survive a kill."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgvc.robustness import checks
from fgvc.robustness.attack_config import AttackConfig, AutoAttackConfig
from fgvc.robustness.attacks import away_from
from fgvc.robustness.checks import Check
from fgvc.robustness.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from fgvc.robustness.planted import planted
from fgvc.robustness.suite import Images, Victim, as_arrays, outcome, perturb, projected, smallest
from fgvc.runtime.chunks import Arrays, in_chunks
from shards.errors import UserError

CURVE = ("fgsm", "pgd")  # run at every epsilon
NEEDED = ("fgsm", "pgd", "adaptive")  # by the checks
ERASING = "check-erasing"
LONGER, MORE = 4, 2  # times the steps, and so many restarts more


@dataclass(frozen=True)
class Bench:
    """What is attacked, with what. folder: where chunks are kept. load: chunks of entries -> their batches. keys:
    entry -> name of the image, for messages. epsilons: ascending; epsilon, the headline's, is one of them."""

    folder: Path
    victim: Victim
    config: AttackConfig
    budget: AutoAttackConfig
    load: Callable[[Sequence[Sequence[int]]], Iterable[Any]]
    keys: Callable[[int], str]
    device: torch.device
    batch: int
    epsilon: float
    epsilons: tuple[float, ...]
    target: int | None = None

    def stage(self, name: str, entries: Sequence[int], work: Callable[[Images], dict[str, torch.Tensor]]) -> Arrays:
        """`work` on every chunk of these entries; its arrays, a row an entry, in their order.

        Raises UserError naming the first image whose logits are not finite, where `work` tells.
        """

        def of_batch(batch: Any) -> Arrays:
            pixels = batch.images.to(self.device).contiguous().float() / 255  # planes: sums keep their order
            return as_arrays(work(Images(pixels, batch.labels.to(self.device), batch.entries.to(self.device))))

        found = in_chunks(
            self.folder / name, entries, self.batch, self.load, of_batch, seed=self.config.seed, title=name
        )  # fmt: skip
        if not found.get("finite", np.ones(1, bool)).all():
            bad = found["entries"][~found["finite"]]
            raise UserError(
                f"{name}: the model's outputs are not finite for {len(bad)} of {len(entries)} images, first "
                f"'{self.keys(bad[0])}'; look at the weights file"
            )
        return found


@dataclass
class Findings:
    """What was found. entries, labels, predicted: (N,) of all images that were drawn. attacks: (name, epsilon) ->
    arrays of the images that were classified rightly, `right` of them. besides: of whatever else was run at the
    headline's epsilon, on some of these images only: name -> arrays. corruptions: name -> (N, 5) predicted classes.
    """

    entries: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    attacks: dict[tuple[str, float], Arrays] = field(default_factory=dict)
    besides: dict[str, Arrays] = field(default_factory=dict)
    corruptions: dict[str, np.ndarray] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: classified rightly without an attack."""
        return self.predicted == self.labels

    def survives(self, name: str, epsilon: float) -> np.ndarray:
        """(N,) bool: classified rightly without the attack and under it."""
        kept = self.right.copy()
        kept[self.right] = self.attacks[name, epsilon]["predicted"] == self.labels[self.right]
        return kept

    def broken_besides(self, name: str) -> np.ndarray:
        """(N,) bool: misled by what was run besides, `name` of it."""
        broken, arrays = np.zeros(len(self.entries), bool), self.besides[name]
        place = {entry: row for row, entry in enumerate(self.entries.tolist())}
        rows = [place[entry] for entry in arrays["entries"].tolist()]
        broken[rows] = arrays["predicted"] != self.labels[rows]
        return broken


def evaluate(bench: Bench, entries: Sequence[int]) -> Findings:
    """Everything the config asks for, on these images; the same on every rank. Raises UserError where no image is
    classified rightly, and for outputs that are not finite."""
    config, victim = bench.config, bench.victim

    def as_they_are(images: Images) -> dict[str, torch.Tensor]:
        return outcome(victim.model, images, images.pixels, config) | {"labels": images.labels}

    clean = bench.stage("clean", entries, as_they_are)
    found = Findings(clean["entries"], clean["labels"], clean["predicted"])
    right = found.entries[found.right].tolist()
    if not right:
        raise UserError(f"none of these {len(entries)} images is classified rightly: there is nothing to attack")
    names = [*config.attacks, *(NEEDED if config.checks else ())]
    for name in dict.fromkeys(names):
        for epsilon in bench.epsilons if name in CURVE else (bench.epsilon,):
            found.attacks[name, epsilon] = _attacked(bench, found, name, epsilon, right)
    if bench.target is not None:
        others = found.entries[found.right & (found.labels != bench.target)].tolist()
        if others:
            found.besides["targeted"] = _attacked(bench, found, "targeted", bench.epsilon, others)
    if config.checks:
        found.checks = _checks(bench, found, right[: config.check_images])
    if config.corruptions:
        for name in CORRUPTIONS:
            found.corruptions[name] = _corrupted(bench, name, entries)
    return found


def _attacked(bench: Bench, found: Findings, name: str, epsilon: float, entries: list[int]) -> Arrays:
    """One attack at one epsilon. PGD tells the smallest perturbation too, of images it breaks for the first time."""
    config, victim = bench.config, bench.victim
    before = {
        entry
        for (other, size), arrays in found.attacks.items() if name == other == "pgd" and size < epsilon
        for entry in arrays["entries"][np.isfinite(arrays["smallest"])].tolist()
    }  # fmt: skip

    def work(images: Images) -> dict[str, torch.Tensor]:
        changed, more = perturb(name, victim, images, epsilon, config, bench.budget, bench.target)
        told = outcome(victim.model, images, changed, config) | more
        if name == "pgd":
            new = [entry not in before for entry in images.entries.tolist()]
            told |= {"smallest": torch.full(told["size"].shape, float("inf")), "taken_for": told["predicted"].cpu()}
            if any(new):
                rows = torch.tensor(new, device=changed.device)
                few = Images(images.pixels[rows], images.labels[rows], images.entries[rows])
                for key, value in smallest(victim.model, few, changed[rows], config).items():
                    told[key][rows.cpu()] = value.cpu()
        return told

    return bench.stage(_folder(name, epsilon), entries, work)


def _corrupted(bench: Bench, name: str, entries: Sequence[int]) -> np.ndarray:
    """(N, 5) predicted classes."""

    def work(images: Images) -> dict[str, torch.Tensor]:
        seeds = [(bench.config.seed, entry) for entry in images.entries.tolist()]
        told = []
        for strength in range(1, STRENGTHS + 1):
            changed = corrupted(name, images.pixels, strength, seeds)
            told.append(outcome(bench.victim.model, images, changed, bench.config))
        return {
            "entries": images.entries, "predicted": torch.stack([row["predicted"] for row in told], 1),
            "finite": torch.stack([row["finite"] for row in told], 1).all(1),
        }  # fmt: skip

    return bench.stage(f"corruption-{name}", entries, work)["predicted"]


def _checks(bench: Bench, found: Findings, few: list[int]) -> dict[str, Check]:
    """Every check by name; those that need many passes on `few` images. What they run at epsilon is kept besides."""
    config, victim, epsilon = bench.config, bench.victim, bench.epsilon
    model, norm = victim.model, config.norm
    place = {entry: row for row, entry in enumerate(found.entries.tolist())}
    rows = [place[entry] for entry in few]
    pgd = found.survives("pgd", epsilon)

    def still_right(name: str, attack: Callable[[Images], torch.Tensor]) -> np.ndarray:
        arrays = bench.stage(name, few, lambda images: outcome(model, images, attack(images), config))
        if name != ERASING:  # at a larger epsilon
            found.besides[name] = arrays
        return arrays["predicted"] == found.labels[rows]

    shape = next(iter(bench.load([few[:1]]))).images.shape[1:]
    erasing = checks.UNBOUNDED[norm] * (float(np.prod(shape)) ** 0.5 if norm == "l2" else 1.0)
    erased = still_right(ERASING, lambda images: _pgd(bench, images, erasing))
    longer = still_right(
        "check-longer",
        lambda images: _pgd(bench, images, epsilon, LONGER * config.steps, config.restarts + MORE),
    )  # fmt: skip
    queries = replace(bench.budget, queries=config.check_queries)
    square = still_right(
        "check-square", lambda images: perturb("square", victim, images, epsilon, config, queries)[0]
    )  # fmt: skip
    gradients = bench.stage("check-gradients", few, lambda images: checks.vanishing(model, images))
    hidden = bench.stage("check-planted", few, lambda images: planted(model, images, epsilon, config))
    curve, single = (
        {size: int(found.survives(name, size).sum()) for size in bench.epsilons} for name in ("pgd", "fgsm")
    )
    made = {
        "monotone": checks.monotone(curve, len(found.entries)),
        "reaches_zero": checks.reaches_zero(int(erased.sum()), len(erased)),
        "pgd_not_weaker_than_fgsm": checks.not_weaker_than_fgsm(curve, single, len(found.entries)),
        "black_box_not_stronger": checks.black_box_not_stronger(square, pgd[rows]),
        "budget_suffices": checks.budget_suffices(
            pgd[rows], longer, f"{LONGER} times the steps, {MORE} more random starts"
        ),
        "adaptive_not_stronger": checks.adaptive_not_stronger(
            found.survives("adaptive", epsilon)[found.right], pgd[found.right]
        ),
        "gradients_alive": checks.gradients_alive(gradients["vanished"]),
        "finds_planted": checks.finds_planted(hidden),
    }
    if ("transfer", epsilon) in found.attacks:
        made["transfer_not_stronger"] = checks.black_box_not_stronger(
            found.survives("transfer", epsilon)[found.right], pgd[found.right], "transfer from another model"
        )
    return made


def _pgd(bench: Bench, images: Images, epsilon: float, steps: int = 0, restarts: int = 0) -> torch.Tensor:
    loss = away_from(images.labels)
    return projected(bench.victim.model, images, loss, epsilon, bench.config, steps=steps, restarts=restarts)


def _folder(name: str, epsilon: float) -> str:
    return f"{name}-{epsilon:.6g}"
