"""What a measured split leaves in a run folder: predictions, the same as CSV, the confusion matrix, pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from fgvc.classification.metrics import Predictions, confusion_matrix
from fgvc.classification.pictures import save_pictures
from shards.cells import write_rows
from shards.manifest import Manifest


def save_results(
    folder: Path, suffix: str, manifest: Manifest, predictions: Predictions, temperature: float | None
) -> dict[str, Path]:
    """Write predictions<suffix>.npz and .csv, confusion<suffix>.csv and pictures; the pictures by name."""
    predictions.save(folder / f"predictions{suffix}.npz")
    write_answers(folder / f"predictions{suffix}.csv", manifest, predictions, temperature)
    write_confusion(folder / f"confusion{suffix}.csv", predictions, manifest.classes)
    return save_pictures(folder, manifest, predictions)


def write_answers(path: Path, manifest: Manifest, predictions: Predictions, temperature: float | None) -> None:
    """A line per image: key, origin, shard, label, predicted, correct, confidence, top5 (classes, best first).

    confidence: probability of the predicted class, of calibrated logits where there is a temperature.
    """
    calibrated = predictions if temperature is None else predictions.divided(temperature)
    confidence = calibrated.probabilities.max(axis=1)
    best = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :5]
    classes = manifest.classes
    rows: list[list[Any]] = [["key", "origin", "shard", "label", "predicted", "correct", "confidence", "top5"]]
    for index, label, top, sure in zip(predictions.entries, predictions.labels, best, confidence, strict=True):
        entry = manifest.entries[index]
        names = [classes[place] for place in top]
        rows.append([
            entry.key, entry.origin, manifest.shards[entry.shard].name, classes[label], names[0],
            int(top[0] == label), f"{sure:.6f}", " | ".join(names),
        ])  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as stream:
        write_rows(stream, rows)


def write_confusion(path: Path, predictions: Predictions, classes: tuple[str, ...]) -> None:
    """Counts of images, a row per true class and a column per predicted one."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        write_rows(stream, [["truth / predicted", *classes]])
        for name, counts in zip(classes, confusion_matrix(predictions, len(classes)).tolist(), strict=True):
            write_rows(stream, [[name, *counts]])
