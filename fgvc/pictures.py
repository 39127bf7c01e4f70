"""Pictures of a classification result: confused pairs with examples, accuracy by class, the training's course."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen on a cluster

import numpy as np
from matplotlib import pyplot

from fgvc.metrics import Predictions, confusions
from shards.decode import decode
from shards.manifest import Manifest
from shards.reader import Reader


def confused_pairs(path: Path, manifest: Manifest, predictions: Predictions, pairs: int = 5, examples: int = 3) -> None:
    """A row for each of the most confused pairs: wrongly named images of the true class, then the other class's."""
    found = confusions(predictions)[:pairs]
    if not found:
        return
    reader = Reader(manifest)
    figure, axes = pyplot.subplots(
        len(found), 2 * examples, figsize=(2 * examples * 1.9, len(found) * 2.1), squeeze=False
    )
    guesses = predictions.logits.argmax(axis=1)
    for row, (truth, guess, count) in zip(axes, found, strict=True):
        wrong = predictions.entries[(predictions.labels == truth) & (guesses == guess)]
        other = predictions.entries[predictions.labels == guess]
        for axis in row:
            axis.axis("off")
        for axis, entry in zip(row, [*_padded(wrong, examples), *_padded(other, examples)], strict=True):
            if entry is not None:
                axis.imshow(decode(reader.read(entry)).permute(1, 2, 0).numpy())
        row[0].set_title(f"{_short(manifest.classes[truth])}: {count} taken for", loc="left", fontsize=8)
        row[examples].set_title(_short(manifest.classes[guess]), loc="left", fontsize=8)
    _save(figure, path)


def class_accuracy(path: Path, manifest: Manifest, predictions: Predictions) -> None:
    """Top-1 of every class, sorted, with the overall mean."""
    labels = np.unique(predictions.labels)
    accuracy = np.array([predictions.correct[predictions.labels == label].mean() for label in labels])
    order = np.argsort(accuracy)
    figure, axis = pyplot.subplots(figsize=(7, max(2.5, 0.16 * len(labels))))
    axis.barh([_short(manifest.classes[labels[i]]) for i in order], accuracy[order], color="#4878a8")
    axis.axvline(predictions.correct.mean(), color="black", linewidth=1, label="all images")
    axis.set(xlabel="top-1", xlim=(0, 1))
    axis.tick_params(axis="y", labelsize=6)
    axis.legend()
    _save(figure, path)


def training_course(path: Path, metrics: Path) -> None:
    """Loss and top-1 by epoch from metrics.jsonl, smoothed over a tenth of an epoch, with the held-out top-1."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    if len(rows) < 2:
        return
    epochs = np.array([row["epoch"] for row in rows])
    width = max(1, round(len(rows) / max(epochs[-1], 1) / 10))
    kernel = np.ones(width) / width
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3))
    for axis, key in zip(axes, ("loss", "top1"), strict=True):
        smooth = np.convolve([row[key] for row in rows], kernel, mode="valid")
        axis.plot(epochs[width - 1 :], smooth, label="train")
        axis.set(xlabel="epoch", ylabel={"loss": "loss", "top1": "top-1"}[key])
    held = [(row["epoch"], row["val_top1"]) for row in rows if "val_top1" in row]
    if held:
        axes[1].plot(*zip(*held, strict=True), "o-", label="held out")
    axes[1].legend()
    _save(figure, path)


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _padded(entries: np.ndarray, count: int) -> list[int | None]:
    chosen: list[int | None] = [int(entry) for entry in entries[:count]]
    return chosen + [None] * (count - len(chosen))


def _short(name: str) -> str:
    return name.split(".", 1)[-1].replace("_", " ")[:28]
