"""Reads the boxes of one Pascal VOC annotation, the XML format of Stanford Dogs, ImageNet and many labelling tools."""

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from shards.sample import Box
from shards.sources.common import make_box

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocFile:
    """objects: every object's (name, box) in the file's order, corners as written. filename: the image's, "" where the
    file does not name it. size: (width, height) where the file says so."""

    objects: tuple[tuple[str, Box], ...]
    filename: str = ""
    size: tuple[float, float] | None = None


def read_voc(path: Path) -> VocFile:
    """Raises ValueError, saying what and where, when the file is not XML, not an annotation, or an object lacks a valid
    box; OSError when it cannot be read."""
    try:
        tree = ET.parse(path).getroot()
    except (ET.ParseError, LookupError, ValueError) as error:  # the latter two: an encoding that Python does not know
        raise ValueError(f"not XML: {' '.join(str(error).split())[:120]}") from error
    if tree.tag != "annotation":
        raise ValueError(f"not a VOC annotation: it starts with <{str(tree.tag)[:60]}>")
    found = []
    for number, item in enumerate(tree.iter("object"), start=1):
        texts = [item.findtext(f"bndbox/{corner}") or "" for corner in CORNERS]
        try:
            found.append(((item.findtext("name") or "").strip(), make_box(texts)))
        except ValueError as error:
            raise ValueError(f"object {number}: box {' '.join(texts)[:80]!r}") from error
    size = _size(tree.findtext("size/width")), _size(tree.findtext("size/height"))
    filename = (tree.findtext("filename") or "").strip()
    return VocFile(tuple(found), filename, (size[0], size[1]) if size[0] > 0 and size[1] > 0 else None)


def _size(text: str | None) -> float:
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
