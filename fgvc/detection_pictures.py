"""Pictures of a detection result: the best, the worst and the missed images with boxes, and the training's course."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen on a cluster

from matplotlib import patches, pyplot

from fgvc.detection_metrics import RIGHT, top_ious
from fgvc.detector import Detections
from shards.decode import decode
from shards.manifest import Manifest
from shards.reader import Reader

COLUMNS, ROWS = 6, 2


def save_pictures(folder: Path, manifest: Manifest, found: Mapping[int, Detections]) -> dict[str, Path]:
    """best, worst (of those found) and missed (nothing found, or IoU < 0.5), as name -> PNG in `folder`."""
    ious = top_ious(manifest, found)
    order = sorted(ious, key=lambda index: ious[index])
    hit = [index for index in order if ious[index] >= RIGHT]
    chosen = {"best": hit[::-1], "worst": hit, "missed": [index for index in order if ious[index] < RIGHT]}
    paths = {}
    for name, entries in chosen.items():
        if entries:
            paths[name] = folder / f"{name}.png"
            _grid(paths[name], manifest, found, ious, entries[: COLUMNS * ROWS])
    return paths


def training_course(path: Path, metrics: Path) -> bool:
    """Loss and its parts by epoch from metrics.jsonl, with the held-out figures; False when there is too little."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    if len(rows) < 2:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3))
    for key in [key for key in rows[0] if key.startswith("loss")]:
        axes[0].plot([row["epoch"] for row in rows if key in row], [row[key] for row in rows if key in row], label=key)
    axes[0].set(xlabel="epoch", ylabel="loss", yscale="log")
    for key in ("val_AP50", "val_top_right"):
        held = [(row["epoch"], row[key]) for row in rows if key in row]
        if held:
            axes[1].plot(*zip(*held, strict=True), "o-", label=key.removeprefix("val_") + ", held out")
    axes[1].set(xlabel="epoch", ylim=(0, 1))
    for axis in axes:
        if axis.has_data():
            axis.legend(fontsize=7)
    _save(figure, path)
    return True


def _grid(
    path: Path, manifest: Manifest, found: Mapping[int, Detections], ious: dict[int, float], entries: list[int]
) -> None:
    reader = Reader(manifest)
    figure, axes = pyplot.subplots(-(-len(entries) // COLUMNS), COLUMNS, figsize=(COLUMNS * 2.2, 5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, entries, strict=False):
        entry, one = manifest.entries[index], found[index]
        axis.imshow(decode(reader.read(index), entry.key).permute(1, 2, 0).numpy())
        for box in entry.boxes:
            axis.add_patch(_frame(box, "lime"))
        for box in one.boxes[:1]:
            axis.add_patch(_frame(box, "red"))
        score = f"score {one.scores[0]:.2f}" if len(one.boxes) else "nothing found"
        axis.set_title(f"IoU {ious[index]:.2f}, {score}", fontsize=7)
    figure.suptitle("green: truth, red: top box", fontsize=8)
    _save(figure, path)


def _frame(box: Sequence[float], colour: str) -> patches.Rectangle:
    x0, y0, x1, y1 = box
    return patches.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5)


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
