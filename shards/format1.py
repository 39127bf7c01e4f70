"""Samples of manifests of format 1, which listed them as JSON objects."""

import math
from typing import Any

from shards.entries import Entries, Entry
from shards.sample import KEY, SPLITS, is_printable, require


def entries_of_list(rows: list[dict[str, Any]], classes: int) -> Entries:
    """The samples. Raises one of many errors for values that no build writes."""
    return Entries.of(_entry(values, classes) for values in rows)


def _entry(values: dict[str, Any], classes: int) -> Entry:
    """An entry from JSON, which knows lists only."""
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in values["boxes"])
    parts = {name: (float(x), float(y)) for name, (x, y) in values["parts"].items()}
    entry = Entry(**(values | {"boxes": boxes, "parts": parts}))
    require(isinstance(entry.key, str) and KEY.fullmatch(entry.key), "key", entry.key)
    require(entry.split in SPLITS, "split", entry.split)
    require(type(entry.label) is int and 0 <= entry.label < classes, "label", entry.label)
    for number, limit in (
        (entry.shard, 2**31), (entry.offset, 2**62), (entry.length, 2**62), (entry.width, 2**31), (entry.height, 2**31)
    ):  # fmt: skip
        require(type(number) is int and 0 <= number < limit, "position or size", entry.key)
    require(entry.width > 0 and entry.height > 0, "image size", entry.key)
    require(isinstance(entry.origin, str) and is_printable(entry.origin), "origin", entry.origin)
    for name in parts:
        require(is_printable(name), "part", name)
    require(all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes), "box without area", entry.key)
    for row in (*boxes, *parts.values()):
        require(all(map(math.isfinite, row)), "box or part", entry.key)
    return entry
