"""The manifest beside a set of shards: what is in them and where, so that any sample can be read by offset."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from shards.errors import UserError
from shards.files import write_atomically
from shards.sample import KEY, SPLITS, Box, is_printable

FORMAT = 1
MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}\.tar")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One tar file. `size` in bytes; `sha256` of the whole file; `split` of every sample in it."""

    name: str
    split: str
    size: int
    sha256: str
    count: int


@dataclass(frozen=True)
class Entry:
    """One sample in a shard. `offset`/`length`: the bytes of its JPEG in the tar. `width`, `height`: upright pixels."""

    key: str
    label: int
    split: str
    shard: int
    offset: int
    length: int
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    origin: str = "real"


@dataclass(frozen=True)
class Manifest:
    """A set of shards in `folder`. `entries` are in shard order; `plan` is the hash of what was asked to be built."""

    folder: Path
    source: str
    licence: str
    citation: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    entries: tuple[Entry, ...]
    plan: str
    notes: dict[str, int] = field(default_factory=dict)  # e.g. {"re-encoded: CMYK": 3}
    extra: dict = field(default_factory=dict)
    asked: dict = field(default_factory=dict)  # what was asked to be built, by name, to tell which settings differ
    duplicates: tuple[tuple[int, ...], ...] = ()  # groups of entries with the same bytes; not known of older shards

    def split(self, name: str) -> list[int]:
        """Positions in `entries` of one split, in shard order. Raises UserError when the split is empty."""
        chosen = [i for i, entry in enumerate(self.entries) if entry.split == name]
        if not chosen:
            raise UserError(f"{self.folder}: no samples in split '{name}'; it has {', '.join(sorted(self.counts))}")
        return chosen

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples per split."""
        return dict(Counter(entry.split for entry in self.entries))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every shard's checksum: two sets with the same one hold the same bytes in the same order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` atomically into the manifest's folder."""
    # vars, not asdict: that copies every value of every entry, a tenth of the time of a build.
    document: dict = {item.name: getattr(manifest, item.name) for item in fields(manifest) if item.name != "folder"}
    document |= {"shards": [*map(vars, manifest.shards)], "entries": [*map(vars, manifest.entries)], "format": FORMAT}
    if not manifest.duplicates:  # so that earlier versions read it
        del document["duplicates"]
    write_atomically(manifest.folder / MANIFEST, json.dumps(document, separators=(",", ":")))


def read_manifest(folder: str | Path) -> Manifest:
    """Read a set of shards' manifest. Raises UserError when it is missing, damaged or of another format.

    It may come from anywhere: names in it become file names, so that none may lead out of a folder, and positions
    become reads.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST} there; build the shards with: fgvc shards build SOURCE ROOT {folder}")
    try:
        document = json.loads(path.read_bytes())
        if document.pop("format") != FORMAT:
            raise UserError(f"{path}: another format than this version's ({FORMAT}); build the shards again")
        return _manifest(folder, document)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = ascii(error)[:200]
        raise UserError(f"{path}: damaged ({reason}); run fgvc shards verify or build the shards again") from error


def _manifest(folder: Path, document: dict) -> Manifest:
    """Raises one of many errors for values that no build writes."""
    classes = tuple(document.pop("classes"))
    shards = tuple(_shard(values) for values in document.pop("shards"))
    entries = tuple(_entry(values, len(classes)) for values in document.pop("entries"))
    _check(bool(classes) and bool(entries), "number of classes or entries", 0)
    duplicates = tuple(tuple(group) for group in document.pop("duplicates", ()))
    for text in (*classes, document["source"], document["plan"]):
        _check(isinstance(text, str) and is_printable(text), "name", text)
    for key in ("licence", "citation"):  # of several lines, perhaps
        _check(isinstance(document[key], str) and is_printable(re.sub(r"[\n\t]", " ", document[key])), key, "")
    for key in ("notes", "extra", "asked"):
        _check(isinstance(document.get(key, {}), dict), key, document.get(key))
    for note, count in document.get("notes", {}).items():
        _check(is_printable(note) and type(count) is int, "note", note)
    for group in duplicates:
        _check(all(type(index) is int and 0 <= index < len(entries) for index in group), "duplicates", group)
    return Manifest(folder=folder, shards=shards, entries=entries, classes=classes, duplicates=duplicates, **document)


def _shard(values: dict) -> Shard:
    shard = Shard(**values)
    _check(isinstance(shard.name, str) and SHARD_NAME.fullmatch(shard.name), "shard name", shard.name)
    _check(isinstance(shard.sha256, str) and SHA256.fullmatch(shard.sha256), "sha256", shard.sha256)
    _check(shard.split in SPLITS, "split", shard.split)
    for number in (shard.size, shard.count):
        _check(type(number) is int and 0 <= number < 2**62, "size or count", shard.name)
    return shard


def _entry(values: dict, classes: int) -> Entry:
    """An entry from JSON, which knows lists only."""
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in values["boxes"])
    parts = {name: (float(x), float(y)) for name, (x, y) in values["parts"].items()}
    entry = Entry(**(values | {"boxes": boxes, "parts": parts}))
    _check(isinstance(entry.key, str) and KEY.fullmatch(entry.key), "key", entry.key)
    _check(entry.split in SPLITS, "split", entry.split)
    _check(type(entry.label) is int and 0 <= entry.label < classes, "label", entry.label)
    for number in (entry.shard, entry.offset, entry.length, entry.width, entry.height):
        _check(type(number) is int and 0 <= number < 2**62, "position or size", entry.key)
    _check(entry.width > 0 and entry.height > 0, "image size", entry.key)
    _check(isinstance(entry.origin, str) and is_printable(entry.origin), "origin", entry.origin)
    for name in parts:
        _check(is_printable(name), "part", name)
    _check(all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes), "box without area", entry.key)
    for row in (*boxes, *parts.values()):
        _check(all(map(math.isfinite, row)), "box or part", entry.key)
    return entry


def _check(valid: object, what: str, value: object) -> None:
    if not valid:
        raise ValueError(f"{what} {ascii(value)[:80]}")
