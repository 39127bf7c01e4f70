"""Checks of a raw dataset that need no pixels, done before anything is written."""

import math
from collections import Counter
from dataclasses import replace

from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.sample import KEY, SPLITS, RawDataset, RawSample, is_printable


def checked(raw: RawDataset, options: BuildOptions) -> RawDataset:
    """The part of `raw` to build (`options.classes`), once it has been validated.

    Raises UserError on duplicate or unusable keys, unknown labels or splits, missing files, broken boxes or parts, and
    classes without training images: one line with the count and the first few of them.
    """
    known = len(raw.classes)
    if options.classes > known:
        raise UserError(f"classes={options.classes}: {raw.source} has only {known} classes")
    _check_classes(raw)
    _refuse(raw, "unknown label", [f"{s.key} ({s.label})" for s in raw.samples if not 0 <= s.label < known])
    if options.classes:
        kept = tuple(sample for sample in raw.samples if sample.label < options.classes)
        raw = replace(raw, classes=raw.classes[: options.classes], samples=kept)
    if not raw.samples:
        raise UserError(f"{raw.source}: no images")
    _check_keys(raw)
    _refuse(raw, "unknown split", [f"{s.key} ({s.split})" for s in raw.samples if s.split not in SPLITS])
    trained = {sample.label for sample in raw.samples if sample.split == "train"}
    untrained = [name for label, name in enumerate(raw.classes) if label not in trained]
    _refuse(raw, "class without training images", untrained)
    _refuse(raw, "missing file", [str(s.path) for s in raw.samples if s.path is not None and not s.path.is_file()])
    _refuse(raw, "empty or endless box", [f"{s.key} {box}" for s in raw.samples for box in s.boxes if _broken(box)])
    _refuse(raw, "part without a position", [s.key for s in raw.samples if not _finite_parts(s)])
    return raw


def _check_classes(raw: RawDataset) -> None:
    twice = [name for name, count in Counter(raw.classes).items() if count > 1]
    _refuse(raw, "class name used twice", twice)
    names = [*raw.classes, *{name for sample in raw.samples for name in (sample.origin, *sample.parts)}]
    unsafe = [ascii(name) for name in names if not name or not is_printable(name)]
    _refuse(raw, "name that is empty or has control characters or undecodable bytes", unsafe)


def _check_keys(raw: RawDataset) -> None:
    counts = Counter(sample.key for sample in raw.samples)
    _refuse(raw, "duplicate key", [f"{key} ({count} times)" for key, count in counts.items() if count > 1])
    bad = [repr(key) for key in counts if not KEY.fullmatch(key)]
    _refuse(raw, "key that is not 1 to 90 of A-Z a-z 0-9 _ -", bad)


def _broken(box: tuple[float, float, float, float]) -> bool:
    x0, y0, x1, y1 = box
    return not all(map(math.isfinite, box)) or x1 <= x0 or y1 <= y0


def _finite_parts(sample: RawSample) -> bool:
    return all(math.isfinite(value) for point in sample.parts.values() for value in point)


def _refuse(raw: RawDataset, what: str, found: list[str]) -> None:
    if found:
        raise UserError(f"{raw.source}: {what}: {first_few(found)}")


def first_few(found: list[str], limit: int = 3) -> str:
    """`a, b, c and 7 more`."""
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
