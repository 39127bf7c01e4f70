"""Writes shards as COCO: one annotation file a split, and the images as files, their bytes as they are."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shards.entries import Entry
from shards.errors import UserError
from shards.files import write_atomically
from shards.manifest import Manifest
from shards.reading.reader import Reader
from shards.sample import Box

EXACT = "corners"  # our field beside bbox: x0, y0, x1, y1 as they are, where x + width would round


def export(manifest: Manifest, out: Path, images: bool = True) -> dict[str, Path]:
    """Write `out`/annotations/SPLIT.json and, unless images=False, `out`/images/KEY.jpg; returns split -> file.

    Boxes are COCO's x, y, width, height. What COCO has no place for (exact corners, and the image's class, key, parts
    and origin, of images without boxes too) is in additional fields, which other readers ignore and
    `fgvc shards build coco` takes back. Files that are there already with the same size are not written again.
    Raises UserError when a shard cannot be read or a file not be written.
    """
    try:
        (out / "annotations").mkdir(parents=True, exist_ok=True)
        (out / "images").mkdir(exist_ok=True)
        if images:
            reader = Reader(manifest)
            for index, entry in enumerate(tqdm(manifest.entries, desc="images", unit="image", disable=None)):
                path = out / "images" / f"{entry.key}.jpg"
                if not (path.is_file() and path.stat().st_size == entry.length):
                    temporary = path.with_suffix(".tmp")
                    temporary.write_bytes(reader.read(index))
                    temporary.replace(path)
        files = {}
        for split in manifest.counts:
            files[split] = out / "annotations" / f"{split}.json"
            write_atomically(files[split], json.dumps(document(manifest, split)))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return files


def document(manifest: Manifest, split: str) -> dict[str, Any]:
    """One split as a COCO document. Image ids are positions in the manifest, counted from 1."""
    entries = [(index, manifest.entries[index]) for index in manifest.members(split).tolist()]
    return {
        "info": {"description": manifest.source, "fgvc": 1, "citation": manifest.citation},
        "licenses": [{"id": 1, "name": manifest.licence, "url": ""}],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(manifest.classes)],
        "images": [
            {
                "id": index + 1, "file_name": f"{entry.key}.jpg", "width": entry.width, "height": entry.height,
                "license": 1, "key": entry.key, "class_id": entry.label + 1, "parts": entry.parts,
                "origin": entry.origin,
            }
            for index, entry in entries
        ],
        "annotations": list(_annotations(entries)),
    }  # fmt: skip


def to_xywh(box: Box) -> list[float]:
    """x0, y0, width, height: x0 + width is x1 to the last bit where any width gives it, else the nearest below or above
    (from 37.67 no width leads to 223.71)."""
    x0, y0, x1, y1 = box
    return [x0, y0, _span(x0, x1), _span(y0, y1)]


def _span(low: float, high: float) -> float:
    span = high - low
    neighbours = (span, math.nextafter(span, 0.0), math.nextafter(span, math.inf))
    return min(neighbours, key=lambda width: abs(low + width - high))


def _annotations(entries: list[tuple[int, Entry]]) -> Iterator[dict[str, Any]]:
    number = 0
    for index, entry in entries:
        for box in entry.boxes:
            number += 1
            x, y, width, height = to_xywh(box)
            yield {
                "id": number, "image_id": index + 1, "category_id": entry.label + 1, "bbox": [x, y, width, height],
                EXACT: box, "area": width * height, "iscrowd": 0, "segmentation": [],
            }  # fmt: skip
