"""What result.json says of an attacked classifier: accuracies with intervals, by attack, class and pair of species."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgvc.classification.metrics import wilson
from fgvc.robustness.autoattack import parts_of
from fgvc.robustness.epsilon import shown_epsilon
from fgvc.robustness.evaluation import Bench, Findings


def share(right: np.ndarray) -> dict[str, Any]:
    """Accuracy, its 95 % Wilson interval and the counts of (N,) bool."""
    count, all_of_them = int(right.sum()), len(right)
    accuracy = count / all_of_them
    return {"accuracy": accuracy, "interval": list(wilson(accuracy, all_of_them)), "right": count, "of": all_of_them}


def survivors(found: Findings, epsilon: float, attacks: Sequence[str]) -> np.ndarray:
    """(N,) bool: classified rightly, under every one of these attacks at epsilon too, and under whatever else was run
    at that epsilon on the image: a check or the targeted attack."""
    kept = found.right
    for name in attacks:
        kept = kept & found.survives(name, epsilon)
    for name in found.besides:
        kept = kept & ~found.broken_besides(name)
    return kept


def robust_under(found: Findings, epsilon: float) -> list[str]:
    """The attacks that were run at epsilon on every image: with what was run besides, the headline is their worst."""
    return [name for name, size in found.attacks if size == epsilon]


def figures(found: Findings, bench: Bench, classes: Sequence[str]) -> dict[str, Any]:
    """The figures of a split, all plain values."""
    norm, epsilon = bench.config.norm, bench.epsilon
    under = robust_under(found, epsilon)
    robust = survivors(found, epsilon, under)
    clean, worst = share(found.right), share(robust)
    told: dict[str, Any] = {
        "count": len(found.entries), "clean": clean["accuracy"], "clean_interval": clean["interval"],
        "robust": worst["accuracy"], "robust_interval": worst["interval"], "robust_under": under,
        "robust_besides": {name: _besides(found, epsilon, under, name) for name in found.besides},
        "norm": norm, "epsilon": epsilon, "epsilon_shown": shown_epsilon(epsilon, norm),
        "attacks": _by_attack(found, norm),
        "per_class": _by_class(found, robust, under, epsilon, classes),
        "flips": [pair.record() for pair in flips(found, classes)],
        "checks": {name: check.record() for name, check in found.checks.items()},
    }  # fmt: skip
    if found.corruptions:
        told["corruptions"] = _by_corruption(found)
    if ("autoattack", epsilon) in found.attacks:
        parts = parts_of(len(classes), bench.victim.model.random)
        by = found.attacks["autoattack", epsilon]["broken_by"]
        told["autoattack_broke"] = {part: int((by == number).sum()) for number, part in enumerate(parts)}
    if bench.target is not None and "targeted" in found.besides:
        reached = found.besides["targeted"]["predicted"] == bench.target
        told["targeted"] = {"class": classes[bench.target], "taken_for_it": share(reached)}
    return told


@dataclass(frozen=True)
class Flip:
    """Images of species `truth` that PGD turned into species `guess`, and the median of their smallest epsilons."""

    truth: int
    guess: int
    count: int
    median_epsilon: float
    names: tuple[str, str]

    def record(self) -> dict[str, Any]:
        return {"from": self.names[0], "to": self.names[1], "count": self.count, "median_epsilon": self.median_epsilon}


def smallest_epsilons(found: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Of every image classified rightly: the smallest perturbation that PGD found (infinite: none), and the class that
    it leads to. (R,) each."""
    count = int(found.right.sum())
    least, guess = np.full(count, np.inf), np.full(count, -1)
    for (name, _), arrays in found.attacks.items():
        if name == "pgd":
            better = arrays["smallest"] < least
            least[better], guess[better] = arrays["smallest"][better], arrays["taken_for"][better]
    return least, guess


def flips(found: Findings, classes: Sequence[str]) -> list[Flip]:
    """Every pair of species that PGD turned one into the other, the most frequent first."""
    least, guess = smallest_epsilons(found)
    labels = found.labels[found.right]
    pairs = sorted({(int(a), int(b)) for a, b, size in zip(labels, guess, least, strict=True) if np.isfinite(size)})
    told = []
    for truth, other in pairs:
        of_pair = (labels == truth) & (guess == other)
        names = (classes[truth], classes[other])
        told.append(Flip(truth, other, int(of_pair.sum()), float(np.median(least[of_pair])), names))
    return sorted(told, key=lambda pair: (-pair.count, pair.median_epsilon))


def _by_attack(found: Findings, norm: Any) -> dict[str, Any]:
    """Attack -> epsilon, as people read it -> figures."""
    told: dict[str, Any] = {}
    for name, epsilon in sorted(found.attacks):
        told.setdefault(name, {})[shown_epsilon(epsilon, norm)] = {"epsilon": epsilon} | share(
            found.survives(name, epsilon)
        )
    return told


def _besides(found: Findings, epsilon: float, under: Sequence[str], name: str) -> dict[str, int]:
    """Of what was run on some images only: how many, how many it misled, and those that no attack on all images did."""
    broken, left = found.broken_besides(name), found.right
    for attack in under:
        left = left & found.survives(attack, epsilon)
    return {"of": len(found.besides[name]["entries"]), "broke": int(broken.sum()), "alone": int((broken & left).sum())}


def _by_class(
    found: Findings, robust: np.ndarray, under: Sequence[str], epsilon: float, classes: Sequence[str]
) -> dict[str, Any]:
    told = {}
    for label in np.unique(found.labels):
        own = found.labels == label
        told[classes[label]] = {
            "count": int(own.sum()), "clean": float(found.right[own].mean()), "robust": float(robust[own].mean()),
        } | {name: float(found.survives(name, epsilon)[own].mean()) for name in under}  # fmt: skip
    return told


def _by_corruption(found: Findings) -> dict[str, Any]:
    """Corruption -> accuracy at strengths 1 to 5; mean: over all."""
    table = {name: (guess == found.labels[:, None]).mean(0) for name, guess in found.corruptions.items()}
    return {name: row.tolist() for name, row in table.items()} | {"mean": float(np.mean(list(table.values())))}
