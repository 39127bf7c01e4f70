"""A line an image, and its box by a method in the stored image's pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fgvc.explanation.examination import Found
from fgvc.explanation.gallery import Gallery
from fgvc.runtime.chunks import Arrays

SCORES = ("pointing", "energy", "telling")
ScoredBoxes = list[tuple[float, float, float, float, float]]


def lines(found: Found, gallery: Gallery, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Every image's key and classes and, by method, its scores and the box that is cut from its map."""
    rows, written = found.rows, []
    for place, number in enumerate(rows["entries"]):
        entry, by_method = gallery.entries[int(number)], {}
        for name in found.methods:
            if f"{name}/box" in rows:
                scores = {key: float(rows[f"{name}/{key}"][place]) for key in SCORES}
                known = {key: round(value, 5) for key, value in scores.items() if not np.isnan(value)}
                boxes = stored_boxes(gallery, int(number), rows[f"{name}/box"][place])
                by_method[name] = known | {"box": list(boxes[0][:4]) if boxes else None}
        written.append({
            "key": entry.key, "label": classes[entry.label] if entry.label >= 0 else None,
            "predicted": classes[int(rows["predicted"][place])],
            "probability": round(float(rows["probability"][place]), 6),
            "runner_up": classes[int(rows["runner_up"][place])], "methods": by_method,
        })  # fmt: skip
    return written


def layer_of(boxes: Arrays, gallery: Gallery) -> dict[str, ScoredBoxes]:
    """Key -> the box of an image's map, for a boxes layer; empty where the map says nothing."""
    pairs = zip(boxes["entries"], boxes["box"], strict=True)
    return {gallery.entries[int(number)].key: stored_boxes(gallery, int(number), box) for number, box in pairs}


def stored_boxes(gallery: Gallery, number: int, box: np.ndarray) -> ScoredBoxes:
    """A box of the input, (x0, y0, x1, y1, score), in the stored image and cut to it; none where nothing is left."""
    entry, placed = gallery.entries[number], gallery.placements[number]
    if box[2] <= box[0] or box[3] <= box[1]:
        return []
    x0, y0, x1, y1 = placed.back((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    left, right = np.clip([x0, x1], 0, entry.width).round(2).tolist()
    top, bottom = np.clip([y0, y1], 0, entry.height).round(2).tolist()
    return [(left, top, right, bottom, float(box[4]))] if right > left and bottom > top else []
