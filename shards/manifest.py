"""The manifest beside a set of shards: what is in them and where, so that any sample can be read by offset."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from shards.errors import UserError
from shards.files import write_atomically
from shards.sample import Box

FORMAT = 1
MANIFEST = "manifest.json"


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
        import hashlib

        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` atomically into the manifest's folder."""
    document = asdict(manifest) | {"format": FORMAT}
    del document["folder"]
    write_atomically(manifest.folder / MANIFEST, json.dumps(document, separators=(",", ":")))


def read_manifest(folder: str | Path) -> Manifest:
    """Read a set of shards' manifest. Raises UserError when it is missing, damaged or of another format."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST} there; build the shards with: fgvc shards build SOURCE ROOT {folder}")
    try:
        document = json.loads(path.read_text())
        if document.pop("format") != FORMAT:
            raise UserError(f"{path}: another format than this version's ({FORMAT}); build the shards again")
        entries = tuple(_entry(values) for values in document.pop("entries"))
        shards = tuple(Shard(**s) for s in document.pop("shards"))
        classes = tuple(document.pop("classes"))
        return Manifest(folder=folder, shards=shards, entries=entries, classes=classes, **document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run fgvc shards verify or build the shards again") from error


def _entry(values: dict) -> Entry:
    """An entry from JSON, which knows lists only."""
    boxes = tuple(tuple(box) for box in values["boxes"])
    parts = {name: tuple(point) for name, point in values["parts"].items()}
    return Entry(**(values | {"boxes": boxes, "parts": parts}))
