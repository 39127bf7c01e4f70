"""What a raw dataset is before it becomes shards: classes, samples with boxes and parts, and how to read one."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the upright image; x1, y1 exclusive
SPLITS = ("train", "val", "test")
# A WebDataset key ends at the first dot.
KEY_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
KEY_LENGTH = 90  # a tar name has 100 characters
KEY = re.compile(f"[{KEY_CHARACTERS}]{{1,{KEY_LENGTH}}}")
Exif = Literal["auto", "applied", "ignored"]


def is_printable(text: str) -> bool:
    """Whether a name is safe to print and to store: no control characters, also none that turn the direction of the
    text around them, no line separators or undecodable bytes."""
    return (text.isascii() and text.isprintable()) or not any(
        unicodedata.category(c) in _UNSAFE or c in _DIRECTIONS for c in text
    )


def require(valid: object, what: str, value: object) -> None:
    """Raise ValueError, naming what is not valid and its value, for what comes from elsewhere."""
    if not valid:
        raise ValueError(f"{what} {ascii(value)[:80]}")


_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Canvas:
    """What an annotation says about the picture its boxes were drawn on.

    size: (width, height) in pixels, (1, 1) where boxes are shares of the image, None where it does not say.
    exif: whether that picture had been turned as its EXIF orientation says; auto: the size tells, or the image is
    refused.
    """

    size: tuple[float, float] | None = None
    exif: Exif = "auto"


@dataclass(frozen=True)
class RawSample:
    """One image of a raw dataset.

    key: unique in the dataset, of the characters A-Z a-z 0-9 _ - only (a WebDataset key ends at the first dot).
    path: the image file; None where the source renders it.
    label: index into the dataset's classes. split: "train" or "test" (or "val" where a dataset has one).
    boxes: every object of the label's class, xyxy pixels. parts: name -> (x, y) of the visible ones.
    origin: "real", or "gan:<run>" for a synthetic image.
    canvas: what a user's annotation says about the picture of its boxes; None: they are of the upright image.
    """

    key: str
    path: Path | None
    label: int
    split: str
    boxes: tuple[Box, ...] = ()
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    origin: str = "real"
    canvas: Canvas | None = None


def read_file(sample: RawSample) -> bytes:
    """The encoded bytes of a sample that lives in a file."""
    assert sample.path is not None
    return sample.path.read_bytes()


@dataclass(frozen=True)
class RawDataset:
    """A checked raw dataset. `read` returns the encoded image of a sample and must pickle (builds run in processes)."""

    source: str
    classes: tuple[str, ...]
    samples: tuple[RawSample, ...]
    licence: str = "unknown"
    citation: str = ""
    read: Callable[[RawSample], bytes] = read_file
    extra: dict = field(default_factory=dict)  # what only this source knows, e.g. the field guide's telling parts
