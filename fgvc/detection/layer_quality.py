"""How good the boxes of a layer are, against the truth, in figures and in a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgvc.detection.metrics import RIGHT, top_ious
from fgvc.runtime.sheet import Sheet
from shards.boxes_layer import BoxesLayer
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.decode import decode
from shards.reading.reader import Reader
from shards.reading.views import crop_region


def box_quality(
    manifest: Manifest, indices: Sequence[int], layer: BoxesLayer, against_truth: bool = True
) -> dict[str, float]:
    """Figures over these images, as fractions of 1.

    right: share of the images with true boxes whose top box has IoU >= 0.5 with one of them; mean_iou: of the top box
    (0 where nothing was found); without_box: images where nothing was found; per_image: mean number of boxes;
    score: mean score of the top boxes. right and mean_iou only `against_truth` and where there are true boxes; score
    only where something was found.
    """
    found = [layer.boxes[manifest.entries.key(index)] for index in indices]
    figures: dict[str, float] = {
        "images": len(indices),
        "without_box": sum(not boxes for boxes in found),
        "per_image": float(np.mean([len(boxes) for boxes in found])),
    }
    if tops := [boxes[0][4] for boxes in found if boxes]:
        figures["score"] = float(np.mean(tops))
    if against_truth:
        values = list(top_ious(manifest, _found(manifest, indices, layer)).values())
        figures["with_truth"] = len(values)
        if values:
            figures |= {"right": float(np.mean(np.array(values) >= RIGHT)), "mean_iou": float(np.mean(values))}
    return figures


def draw_boxes(path: Path, manifest: Manifest, layer: BoxesLayer, splits: Sequence[str], columns: int = 6) -> None:
    """For every split a row of images drawn evenly over it and a row of its worst: truth in white, boxes in orange."""
    reader = Reader(manifest)
    sheet = Sheet(2 * len(splits), columns, 2)
    for place, split in enumerate(splits):
        indices = [i for i in manifest.split(split) if manifest.entries.key(i) in layer.boxes]
        even = [indices[i * len(indices) // columns] for i in range(min(columns, len(indices)))]
        ious = top_ious(manifest, _found(manifest, indices, layer))
        rows = {"evenly drawn": even, "worst": sorted(ious, key=lambda index: ious[index])[:columns]}
        for row, (title, chosen) in enumerate(rows.items(), 2 * place):
            for column, index in enumerate(chosen):
                entry = manifest.entries[index]
                frames = [(box, "white", 1.2) for box in entry.boxes]
                frames += [(box[:4], "tab:orange", 0.6 + 2 * box[4]) for box in layer.boxes[entry.key][:3]]
                sheet.show(row, column, decode(reader.read(index), entry.key).permute(1, 2, 0).numpy(), frames)
            sheet.write_above(row, 0, f"{split}, {title}")
    sheet.save(path, dpi=90)


def draw_crops(path: Path, manifest: Manifest, layer: BoxesLayer, splits: Sequence[str], columns: int = 8) -> None:
    """Images drawn evenly over these splits with the layer's top box, and below each what data.crop=square keeps."""
    indices = [i for split in splits for i in manifest.split(split) if manifest.entries.key(i) in layer.boxes]
    even = [indices[i * len(indices) // columns] for i in range(min(columns, len(indices)))]
    if not even:
        return
    reader = Reader(manifest)
    sheet = Sheet(2, columns, 1.6)
    for column, index in enumerate(even):
        entry = manifest.entries[index]
        image = decode(reader.read(index), entry.key).permute(1, 2, 0).numpy()
        boxes = layer.boxes[entry.key]
        sheet.show(0, column, image, [(box[:4], "tab:orange", 1.8) for box in boxes[:1]])
        x0, y0, x1, y1 = 0, 0, entry.width, entry.height  # kept whole where nothing was found
        if boxes:
            x0, y0, x1, y1 = crop_region(boxes[0][:4], entry.width, entry.height, True, DataConfig().margin)
        sheet.show(1, column, image[y0:y1, x0:x1])
    sheet.write_above(0, 0, "as they are, with the top box")
    sheet.write_above(1, 0, "what data.crop=square keeps")
    sheet.save(path, dpi=90)


def _found(manifest: Manifest, indices: Sequence[int], layer: BoxesLayer) -> dict[int, np.ndarray]:
    """Index -> the layer's boxes (K, 4), the best first."""
    boxes = {index: layer.boxes[manifest.entries.key(index)] for index in indices}
    return {index: np.array(rows, dtype=float).reshape(-1, 5)[:, :4] for index, rows in boxes.items()}
