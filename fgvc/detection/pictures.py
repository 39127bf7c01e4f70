"""Pictures of a detection result: the best, the worst and the missed images with boxes."""

from collections.abc import Mapping
from pathlib import Path

from fgvc.detection.detector import Detections
from fgvc.detection.metrics import RIGHT, top_ious
from fgvc.runtime.sheet import Sheet
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
    sheet = Sheet(-(-len(entries) // COLUMNS), COLUMNS, 2.2, "green: truth, red: top box")
    for place, index in enumerate(entries):
        (row, column), entry, detections = divmod(place, COLUMNS), manifest.entries[index], found[index]
        frames = [(box, "lime", 1.5) for box in entry.boxes] + [(box, "red", 1.5) for box in detections.boxes[:1]]
        sheet.show(row, column, decode(reader.read(index), entry.key).permute(1, 2, 0).numpy(), frames)
        score = f"score {detections.scores[0]:.2f}" if len(detections.boxes) else "nothing found"
        sheet.write_above(row, column, f"IoU {ious[index]:.2f}, {score}")
    sheet.save(path)
