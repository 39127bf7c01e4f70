"""Reads the boxes of one Pascal VOC annotation, the XML format of Stanford Dogs, ImageNet and many labelling tools."""

import xml.etree.ElementTree as ET
from pathlib import Path

from shards.sample import Box
from shards.sources.common import make_box

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(path: Path) -> list[tuple[str, Box]]:
    """Every object's (name, box), in the file's order; corners as written, in pixels of the image.

    Raises ValueError, saying what and where, when the file is no XML, no annotation, or an object lacks a valid box.
    """
    try:
        tree = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    if tree.tag != "annotation":
        raise ValueError(f"not a VOC annotation: it starts with <{tree.tag}>")
    found = []
    for number, item in enumerate(tree.iter("object"), start=1):
        texts = [item.findtext(f"bndbox/{corner}") or "" for corner in CORNERS]
        try:
            found.append(((item.findtext("name") or "").strip(), make_box(texts)))
        except ValueError as error:
            raise ValueError(f"object {number}: box {' '.join(texts)!r}") from error
    return found
