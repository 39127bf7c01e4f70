"""Reads one COCO annotation file into checked values: images, categories, annotations."""

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.coco_export import EXACT
from shards.errors import UserError
from shards.sample import Box, is_printable
from shards.sources.common import are_shares, make_box
from shards.sources.problems import printable

Id = int | str
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoImage:
    """size: (width, height) where the file says so. split: as the file says it, "" where it does not. The rest is what
    `fgvc shards coco` adds; fields of these names in other programs' files mean something else."""

    id: Id
    file: str  # with slashes
    size: tuple[float, float] | None
    split: str = ""
    key: str | None = None
    class_id: Id | None = None
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    origin: str = "real"


@dataclass(frozen=True)
class CocoBox:
    """One annotation. box: xyxy, of bbox or else around its polygons (outlined), None where these are malformed or
    empty; `text` is what the file says instead. unboxed: it has neither."""

    image: Id
    category: Id | None
    box: Box | None
    crowd: bool
    text: str
    unboxed: bool
    outlined: bool = False


@dataclass(frozen=True)
class CocoFile:
    """shares: its boxes are shares of their images instead of pixels. unboxed: its annotations are classes alone, as
    iNaturalist's are."""

    path: Path
    images: tuple[CocoImage, ...]
    categories: dict[Id, str]
    annotations: tuple[CocoBox, ...]
    shares: bool
    unboxed: bool


def read_coco(path: Path) -> CocoFile:
    """Raises UserError, one line, when the file cannot be read as COCO. Single malformed boxes are left to the caller.

    Sizes of nothing or 0, numbers as text and backslashes in file names are understood; categories may be missing.
    """
    try:
        document = json.loads(path.read_bytes())
        info = document.get("info") if isinstance(document, dict) else None
        ours = isinstance(info, dict) and "fgvc" in info
        images = tuple(_image(item, ours) for item in _list(document, "images"))
        categories = _categories(_list(document, "categories", []))
        annotations = tuple(_annotation(item, ours) for item in _list(document, "annotations"))
    except OSError as error:
        raise UserError(printable(f"{path}: {error.strerror}")) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise UserError(printable(f"{path}: not a COCO annotation file ({reason})")) from None
    shares = are_shares(item.box for item in annotations if item.box is not None)
    unboxed = all(item.unboxed for item in annotations)
    if outlined := sum(item.outlined for item in annotations):
        logger.warning(
            printable(f"{path}: {outlined} annotations without a bbox: the bounds of their polygons are taken")
        )
    return CocoFile(path, images, categories, annotations, shares, unboxed)


def _list(document: Any, key: str, default: list | None = None) -> list[dict]:
    if not isinstance(document, dict):
        raise TypeError("not an object with images and annotations")
    found = document.get(key, default) if default is not None else document[key]
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise TypeError(f"'{key}' is not a list of objects")
    return found


def _categories(items: list[dict]) -> dict[Id, str]:
    found: dict[Id, str] = {}
    for item in items:
        name = _name(item["name"])
        if found.setdefault(_id(item["id"]), name) != name:
            raise ValueError(f"category {item['id']} has two names, {found[item['id']]} and {name}")
    return found


def _id(value: Any) -> Id:
    if isinstance(value, float) and value.is_integer():  # a table's way to write whole numbers
        return int(value)
    if not isinstance(value, int | str):
        raise TypeError(f"id {value!r} is neither a number nor a text")
    return value


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"name {ascii(value)[:60]} is no text")
    text = str(value)
    if not text.strip() or not is_printable(text):
        raise ValueError(f"name {ascii(text)[:60]} is empty or has control characters")
    return text


def _image(item: dict, ours: bool) -> CocoImage:
    size = _number(item.get("width")), _number(item.get("height"))
    split = item.get("split")
    added = item if ours else {}
    class_id, key = added.get("class_id"), added.get("key")
    return CocoImage(
        id=_id(item["id"]),
        file=_name(item["file_name"]).replace("\\", "/"),
        size=(size[0], size[1]) if size[0] > 0 and size[1] > 0 else None,
        split=split if isinstance(split, str) else "",
        key=None if key is None else _name(key),
        class_id=None if class_id is None else _id(class_id),
        parts={_name(name): _point(point) for name, point in (added.get("parts") or {}).items()},
        origin=_name(added.get("origin", "real")),
    )


def _number(value: Any) -> float:
    number = float(value or 0)
    if not math.isfinite(number):
        raise ValueError(f"size {value!r}")
    return number


def _point(value: Any) -> tuple[float, float]:
    x, y = map(float, value)
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"part at {value!r}")
    return x, y


def _bounds(polygons: Any) -> Box:
    """The box around polygons, lists of x, y, x, y, ... Raises ValueError or TypeError for anything else."""
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise TypeError("no polygons")
    xs = [float(x) for polygon in polygons for x in polygon[::2]]
    ys = [float(y) for polygon in polygons for y in polygon[1::2]]
    return make_box((min(xs), min(ys), max(xs), max(ys)))


def _is_set(flag: Any) -> bool:
    """A flag as JSON, or as a table's text."""
    return flag.strip().casefold() not in ("", "0", "0.0", "false", "no") if isinstance(flag, str) else bool(flag)


def _annotation(item: dict, ours: bool) -> CocoBox:
    category = item.get("category_id")
    box = None
    outlined = not item.get("bbox") and bool(item.get("segmentation"))
    try:
        if outlined:
            box = _bounds(item["segmentation"])
        else:
            if isinstance(item["bbox"], str):  # of which float would take the digits
                raise TypeError("text")
            x, y, width, height = map(float, item["bbox"])
            box = make_box((x, y, x + width, y + height))
        exact = make_box(item[EXACT]) if ours and EXACT in item else box
        if all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6) for a, b in zip(box, exact, strict=True)):
            box = exact  # else another program changed bbox and knew nothing of our field
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    return CocoBox(
        image=_id(item["image_id"]),
        category=None if category is None else _id(category),
        box=box,
        crowd=_is_set(item.get("iscrowd")),
        text=f"bbox={str(item.get('bbox'))[:80]}",
        unboxed="bbox" not in item and not outlined,
        outlined=outlined and box is not None,
    )
