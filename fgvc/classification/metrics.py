"""What predictions are worth: top-1, top-5, per class, calibration, confusions, paired bootstrap intervals."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from shards.errors import UserError


def wilson(share: float, images: float) -> tuple[float, float]:
    """The 95 % interval of a share of so many images (Wilson 1927)."""
    # In closed form, as scipy.stats has it: that takes a second to import.
    z2 = 1.959963984540054**2
    middle = share + z2 / (2 * images)
    spread = math.sqrt(z2 * (share * (1 - share) / images + z2 / (4 * images * images)))
    scale = 1 + z2 / images
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


class NotFinite(UserError):
    """A network's answers are no numbers."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; its weights diverged (lower optim.lr, set optim.clip=1) or need train.precision=fp32"
        )
        self.reason = reason


@dataclass(frozen=True)
class Predictions:
    """logits: (N, classes) float32. labels, entries: (N,) int64, sorted by entry (index into the manifest)."""

    logits: np.ndarray
    labels: np.ndarray
    entries: np.ndarray

    def save(self, path: Path) -> None:
        np.savez_compressed(path, logits=self.logits, labels=self.labels, entries=self.entries)

    @staticmethod
    def load(path: Path) -> "Predictions":
        try:
            with np.load(path, allow_pickle=False) as file:
                return Predictions(file["logits"], file["labels"], file["entries"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not readable as predictions ({error}); evaluate the run again") from None

    def check_finite(self, key_of: Callable[[int], str] | None = None) -> None:
        """Raise NotFinite naming the first image whose logits are not finite. key_of: entry -> its key."""
        bad = np.flatnonzero(~np.isfinite(self.logits).all(axis=1))
        if len(bad):
            entry = int(self.entries[bad[0]])
            first = f"'{key_of(entry)}'" if key_of else f"entry {entry}"
            raise NotFinite(
                f"the network's outputs are not finite for {len(bad)} of {len(self.labels)} images, first {first}"
            )

    def without(self, entries: Collection[int]) -> "Predictions":
        """The predictions of all other images."""
        kept = ~np.isin(self.entries, sorted(entries))
        return Predictions(self.logits[kept], self.labels[kept], self.entries[kept])

    def divided(self, temperature: float) -> "Predictions":
        """With the logits divided by a temperature: the same answers, calibrated confidence."""
        return replace(self, logits=self.logits / temperature)

    @property
    def probabilities(self) -> np.ndarray:
        """(N, classes) softmax of the logits."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: the highest logit is the label's."""
        return self.logits.argmax(axis=1) == self.labels


def summary(
    predictions: Predictions, classes: tuple[str, ...], temperature: float | None = None,
    listed: Collection[int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures as fractions of 1: top1, top5, mean over classes, nll (nats), ece, per class, most confused pairs.

    temperature: of calibration, None where there is none. nll and ece are of the logits as they are, with
    nll_calibrated and ece_calibrated, of the logits divided by it, beside them. listed: entries to leave out;
    without_listed holds the figures of all others.
    Raises UserError for logits that are not finite and when there are no images: neither has figures.
    """
    labels = predictions.labels
    if not len(labels):
        raise UserError("no images to measure: there are no figures of an empty split")
    predictions.check_finite()
    probabilities = predictions.probabilities
    # Of equal logits, which bf16 makes often, the first class is the answer and the others follow it, in top-5 as in
    # top-1: a network that says the same of every class has 5 of them right, not all.
    logits, own = predictions.logits, predictions.logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    of_class = {
        name: float(predictions.correct[labels == label].mean())
        for label, name in enumerate(classes)
        if (labels == label).any()
    }
    return {
        "count": len(labels),
        "top1": float(predictions.correct.mean()),
        "top5": float((rank < 5).mean()),
        "class_mean": float(np.mean(list(of_class.values()))),
        "nll": nll(predictions),
        "ece": expected_calibration_error(probabilities, labels),
        **_calibrated(predictions, temperature),
        "per_class": of_class,
        "confused": [
            {"truth": classes[truth], "predicted": classes[predicted], "count": count}
            for truth, predicted, count in confusions(predictions)[:10]
        ],
        **({} if listed is None else {"without_listed": _without(predictions, listed, classes)}),
    }


def _without(predictions: Predictions, listed: Collection[int], classes: tuple[str, ...]) -> dict[str, Any]:
    """The main figures of the images that are not listed, beside how many were left out; none if all were."""
    rest = predictions.without(listed)
    figures = summary(rest, classes) if len(rest.labels) else {"count": 0}
    kept = {key: figures[key] for key in ("count", "top1", "top5", "class_mean", "nll", "ece") if key in figures}
    return {"left_out": len(predictions.labels) - len(rest.labels)} | kept


def nll(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the labels in nats, by log-softmax in float64: finite for finite logits."""
    own = log_softmax(predictions.logits.astype(float), axis=1)[np.arange(len(predictions.labels)), predictions.labels]
    return float(-own.mean())


def _calibrated(predictions: Predictions, temperature: float | None) -> dict[str, Any]:
    if temperature is None:
        return {"temperature": None}
    found = predictions.divided(temperature)
    return {
        "temperature": temperature, "nll_calibrated": nll(found),
        "ece_calibrated": expected_calibration_error(found.probabilities, found.labels),
    }  # fmt: skip


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The mean gap between confidence and accuracy over equal-width bins (https://arxiv.org/abs/1706.04599)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (bin_of == number).mean() * abs(correct[bin_of == number].mean() - confidence[bin_of == number].mean())
        for number in np.unique(bin_of)
    ]
    return float(sum(gaps))


def confusions(predictions: Predictions) -> list[tuple[int, int, int]]:
    """(truth, predicted, count) of the wrong answers, most frequent first."""
    wrong = ~predictions.correct
    pairs = np.stack([predictions.labels[wrong], predictions.logits[wrong].argmax(axis=1)], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.lexsort((unique[:, 1], unique[:, 0], -counts))
    return [(int(unique[i, 0]), int(unique[i, 1]), int(counts[i])) for i in order]


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """(classes, classes) counts of images: a row per true class, a column per predicted one."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (predictions.labels, predictions.logits.argmax(axis=1)), 1)
    return counts
