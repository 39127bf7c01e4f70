"""Pictures of a detection result: the best, the worst and the missed images with boxes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import patches

from fgvc.detection.detector import Detections
from fgvc.detection.metrics import RIGHT, top_ious
from fgvc.runtime.figures import save_figure, subplots
from shards.manifest import Manifest
from shards.reading.decode import decode
from shards.reading.reader import Reader

COLUMNS, ROWS = 6, 2


def save_pictures(folder: Path, manifest: Manifest, found: Mapping[int, Detections]) -> dict[str, Path]:
    """best, worst (of those found) and missed (nothing found, or IoU < 0.5), as name -> PNG in `folder`."""
    ious = top_ious(manifest, {index: detections.boxes for index, detections in found.items()})
    order = sorted(ious, key=lambda index: ious[index])
    hit = [index for index in order if ious[index] >= RIGHT]
    chosen = {"best": hit[::-1], "worst": hit, "missed": [index for index in order if ious[index] < RIGHT]}
    paths = {}
    for name, entries in chosen.items():
        if entries:
            paths[name] = folder / f"{name}.png"
            _grid(paths[name], manifest, found, ious, entries[: COLUMNS * ROWS])
    return paths


def _grid(
    path: Path, manifest: Manifest, found: Mapping[int, Detections], ious: dict[int, float], entries: list[int]
) -> None:
    reader = Reader(manifest)
    figure, axes = subplots(-(-len(entries) // COLUMNS), COLUMNS, figsize=(COLUMNS * 2.2, 5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, entries, strict=False):
        entry, detections = manifest.entries[index], found[index]
        axis.imshow(decode(reader.read(index), entry.key).permute(1, 2, 0).numpy())
        for box in entry.boxes:
            axis.add_patch(_frame(box, "lime"))
        for box in detections.boxes[:1]:
            axis.add_patch(_frame(box, "red"))
        score = f"score {detections.scores[0]:.2f}" if len(detections.boxes) else "nothing found"
        axis.set_title(f"IoU {ious[index]:.2f}, {score}", fontsize=7)
    figure.suptitle("green: truth, red: top box", fontsize=8)
    save_figure(figure, path)


def _frame(box: Sequence[float], colour: str) -> patches.Rectangle:
    x0, y0, x1, y1 = box
    return patches.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5)
