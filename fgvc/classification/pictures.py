"""Pictures of a classification result: confused pairs with examples, accuracy by class, the confusion matrix."""

from pathlib import Path

import numpy as np

from fgvc.classification.metrics import Predictions, confusion_matrix, confusions
from fgvc.runtime.figures import save_figure, subplots
from fgvc.runtime.sheet import Sheet
from shards.manifest import Manifest
from shards.reading.decode import decode
from shards.reading.reader import Reader


def confused_pairs(path: Path, manifest: Manifest, predictions: Predictions, pairs: int = 5, examples: int = 3) -> None:
    """A row for each of the most confused pairs. Left: images of the true class that were misclassified; right:
    examples of the class they were taken for."""
    found = confusions(predictions)[:pairs]
    if not found:
        return
    reader = Reader(manifest)
    sheet = Sheet(len(found), 2 * examples, 1.8)
    guesses = predictions.logits.argmax(axis=1)
    for row, (truth, guess, count) in enumerate(found):
        wrong = predictions.entries[(predictions.labels == truth) & (guesses == guess)]
        other = predictions.entries[predictions.labels == guess]
        for entries, first in ((wrong, 0), (other, examples)):
            for column, entry in enumerate(entries[:examples], first):
                sheet.show(row, column, decode(reader.read(int(entry))).permute(1, 2, 0).numpy())
        sheet.write_above(row, 0, f"{_short(manifest.classes[truth])}: {count} taken for")
        sheet.write_above(row, examples, f"examples: {_short(manifest.classes[guess])}")
    sheet.save(path)


def class_accuracy(path: Path, manifest: Manifest, predictions: Predictions) -> None:
    """Top-1 of every class, sorted, with the overall mean."""
    labels = np.unique(predictions.labels)
    accuracy = np.array([predictions.correct[predictions.labels == label].mean() for label in labels])
    order = np.argsort(accuracy)
    figure, axis = subplots(figsize=(7, max(2.5, 0.16 * len(labels))))
    axis.barh([_short(manifest.classes[labels[i]]) for i in order], accuracy[order], color="#4878a8")
    axis.axvline(predictions.correct.mean(), color="black", linewidth=1, label="all images")
    axis.set(xlabel="top-1", xlim=(0, 1))
    axis.tick_params(axis="y", labelsize=6)
    axis.legend()
    save_figure(figure, path)


def confusion_picture(path: Path, manifest: Manifest, predictions: Predictions) -> None:
    """Share of every true class (row) that was taken for every class (column); names where there is room for them."""
    counts = confusion_matrix(predictions, len(manifest.classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.16 * len(counts) + 2), 16.0)
    figure, axis = subplots(figsize=(side + 0.8, side))
    image = axis.imshow(shares, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    if len(counts) <= 60:
        names = [_short(name) for name in manifest.classes]
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set(xlabel="predicted", ylabel="truth")
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the true class")
    save_figure(figure, path)


def _short(name: str) -> str:
    return name.split(".", 1)[-1].replace("_", " ")[:28]


def save_pictures(folder: Path, manifest: Manifest, predictions: Predictions) -> dict[str, Path]:
    """Pictures of a result, as name -> PNG: the most confused pairs, accuracy by class, the confusion matrix."""
    named = {name: folder / f"{name}.png" for name in ("confused_pairs", "class_accuracy", "confusion_matrix")}
    confused_pairs(named["confused_pairs"], manifest, predictions)
    class_accuracy(named["class_accuracy"], manifest, predictions)
    confusion_picture(named["confusion_matrix"], manifest, predictions)
    return {name: path for name, path in named.items() if path.is_file()}
