"""Boxes layers: a small file beside shards with scored boxes for their samples, whether a detector or a CAM found them.

JSON lines: first who made it, for which shards and how many samples, then a line a sample:

    {"format": "fgvc-boxes 1", "shards": "<fingerprint>", "samples": 2, "made_by": {"job": "crop", ...}}
    {"key": "bird_1", "boxes": [[12.5, 8.0, 90.25, 77.0, 0.98], [0.0, 3.0, 20.0, 31.5, 0.12]]}
    {"key": "bird_2", "boxes": []}

A sample without boxes was looked at and nothing was found; a sample that is not listed was never looked at.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.files import write_atomically
from shards.manifest import Manifest

FORMAT = "fgvc-boxes 1"
ScoredBox = tuple[float, float, float, float, float]  # x0, y0, x1, y1 in pixels of the stored image, score in [0, 1]


@dataclass(frozen=True)
class BoxesLayer:
    """boxes: sample key -> its boxes, the best first. made_by: who found them, e.g. {"job": "crop", "run": NAME}."""

    boxes: dict[str, tuple[ScoredBox, ...]]
    made_by: dict[str, Any]


def write_layer(
    path: Path, manifest: Manifest, found: Mapping[str, Sequence[Sequence[float]]], made_by: Mapping[str, Any]
) -> BoxesLayer:
    """Write boxes of samples of `manifest` atomically; returns what was written.

    found: sample key -> rows of (x0, y0, x1, y1, score). Boxes are clipped to their image, those that keep no pixel are
    left out, the rest sorted by score. Raises UserError for unknown keys, values that are no numbers, scores outside
    [0, 1], and when the disk does not take it.
    """
    place, boxes = manifest.entries.position, {}
    for key in sorted(found):
        if key not in place:
            raise UserError(f"{path}: boxes for '{key}', which is no sample of {manifest.folder}")
        width, height = _size(manifest, place[key])
        rows = [_clipped(_checked(row, f"{path}: sample '{key}'"), width, height) for row in found[key]]
        kept = [row for row in rows if row[0] < row[2] and row[1] < row[3]]
        boxes[key] = tuple(sorted(kept, key=lambda row: -row[4]))
    header: dict[str, Any] = {
        "format": FORMAT,
        "shards": manifest.fingerprint,
        "samples": len(boxes),
        "made_by": dict(made_by),
    }
    lines = [header, *({"key": key, "boxes": rows} for key, rows in boxes.items())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return BoxesLayer(boxes, header["made_by"])


def read_layer(path: Path, manifest: Manifest) -> BoxesLayer:
    """Read and check a boxes layer of these shards.

    Raises UserError when it is missing, damaged or cut off, made for other shards, or holds a box that is empty or
    outside its image.
    """
    shards, layer = _parsed(path)
    if shards != manifest.fingerprint:
        raise UserError(f"{path}: made for other shards than {manifest.folder}; make it again: fgvc crop --help")
    place = manifest.entries.position
    for key, found in layer.boxes.items():
        if key not in place:
            raise UserError(f"{path}: boxes for {ascii(key)[:100]}, which is no sample of {manifest.folder}")
        width, height = _size(manifest, place[key])
        for box in found:
            x0, y0, x1, y1, _ = _checked(box, f"{path}: sample '{key}'")
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                size = f"{width} x {height}"
                raise UserError(f"{path}: sample '{key}': box {box[:4]} is empty or outside its image of {size}")
    return layer


def read_any_layer(path: Path) -> BoxesLayer:
    """As `read_layer`, for pictures that are in no shards: whether a box lies in its image is not known here."""
    layer = _parsed(path)[1]
    for key, found in layer.boxes.items():
        for box in found:
            x0, y0, x1, y1, _ = _checked(box, f"{path}: sample {ascii(key)[:100]}")
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise UserError(f"{path}: sample {ascii(key)[:100]}: box {box[:4]} is empty")
    return layer


def _parsed(path: Path) -> tuple[str, BoxesLayer]:
    """The fingerprint of the shards that a layer was made for, and the layer, its boxes unchecked."""
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        about = json.loads(header)
        if about["format"] != FORMAT:
            raise UserError(
                f"{path}: format {ascii(about['format'])[:40]}, this version reads '{FORMAT}'; make it again"
            )
        rows = [json.loads(line) for line in lines]
        boxes = {row["key"]: tuple(tuple(box) for box in row["boxes"]) for row in rows}
        if not len(rows) == len(boxes) == about["samples"]:
            raise UserError(f"{path}: {len(boxes)} samples of {about['samples']} are in it: cut off; make it again")
        shards, made_by = about["shards"], dict(about["made_by"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; fgvc crop makes a boxes layer") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as a boxes layer ({ascii(str(error))[:120]})") from None
    return shards, BoxesLayer(boxes, made_by)


def layer_hash(path: Path) -> str:
    """Sixteen hex digits over the boxes alone: the same boxes made by another run are the same input."""
    with path.open("rb") as stream:
        stream.readline()
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _checked(row: Sequence[float], where: str) -> ScoredBox:
    values = tuple(row)
    # Compared rather than math.isfinite, which cannot convert a huge integer.
    if len(values) != 5 or not all(isinstance(value, int | float) and abs(value) < 1e9 for value in values):
        raise UserError(f"{where}: a box is five numbers (x0, y0, x1, y1, score), this is {ascii(values)[:100]}")
    if not 0 <= values[4] <= 1:
        raise UserError(f"{where}: score {values[4]} is outside 0 to 1")
    return values


def _size(manifest: Manifest, index: int) -> tuple[int, int]:
    return int(manifest.entries.width[index]), int(manifest.entries.height[index])


def _clipped(row: ScoredBox, width: int, height: int) -> ScoredBox:
    x0, y0, x1, y1, score = row
    corners = (min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height))
    left, top, right, bottom = (round(float(corner), 2) for corner in corners)
    return left, top, right, bottom, round(float(score), 5)
