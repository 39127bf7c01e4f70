"""The manifest beside a set of shards: what is in them and where, so that any sample can be read by offset.

`manifest.json` is the head: classes, shards, source, licence. The samples are columns in `entries.safetensors`.
"""

import hashlib
import json
import re
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shards.entries import Entries
from shards.errors import UserError
from shards.files import sha256_of, write_atomically
from shards.format1 import entries_of_list
from shards.paths import MANIFEST, no_shards
from shards.sample import SPLITS, is_printable, require

FORMAT = 2
COLUMNS = "entries.safetensors"
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
class Manifest:
    """A set of shards in `folder`. `entries` are in shard order; a tuple of `Entry` becomes columns. `plan` is the hash
    of what was asked to be built. `url`: the server that shards come from which are not in `folder` yet."""

    folder: Path
    source: str
    licence: str
    citation: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    entries: Entries
    plan: str
    notes: dict[str, int] = field(default_factory=dict)  # e.g. {"re-encoded: CMYK": 3}
    extra: dict = field(default_factory=dict)
    asked: dict = field(default_factory=dict)  # what was asked to be built, by name, to tell which settings differ
    duplicates: tuple[tuple[int, ...], ...] = ()  # groups of entries with the same bytes; not known of older shards
    url: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.entries, Entries):
            object.__setattr__(self, "entries", Entries.of(self.entries))

    def members(self, split: str) -> np.ndarray:
        """Positions in `entries` of one split, in shard order, int64; none when the split is empty."""
        return np.flatnonzero(self.entries.split == (SPLITS.index(split) if split in SPLITS else len(SPLITS)))

    def split(self, name: str) -> list[int]:
        """As `members`. Raises UserError when the split is empty."""
        chosen = self.members(name).tolist()
        if not chosen:
            raise UserError(f"{self.folder}: no samples in split '{name}'; it has {', '.join(sorted(self.counts))}")
        return chosen

    @property
    def counts(self) -> dict[str, int]:
        """Samples per split."""
        return self.entries.counts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every shard's checksum: two sets with the same one hold the same bytes in the same order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]


def write_manifest(manifest: Manifest) -> None:
    """Write the columns and then `manifest.json`, which makes the set visible, each atomically."""
    columns, entries = manifest.folder / COLUMNS, manifest.entries
    entries.save(columns)
    kept = ("source", "licence", "citation", "classes", "plan", "notes", "extra", "asked")
    document: dict[str, Any] = {"format": FORMAT} | {name: getattr(manifest, name) for name in kept}
    if manifest.duplicates:
        document["duplicates"] = manifest.duplicates
    document["shards"] = [*map(vars, manifest.shards)]
    document["entries"] = {
        "count": len(entries), "counts": manifest.counts, "size": columns.stat().st_size, "sha256": sha256_of(columns),
        "parts": entries.parts, "origins": entries.origins,
    }  # fmt: skip
    write_atomically(manifest.folder / MANIFEST, json.dumps(document, separators=(",", ":")))


def read_manifest(folder: str | Path) -> Manifest:
    """Read a set of shards' manifest. Raises UserError when it is missing, damaged or of another format.

    It may come from anywhere: names in it become file names, so that none may lead out of a folder, and positions
    become reads.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(no_shards(folder))
    try:
        document = json.loads(path.read_bytes())
        if document.pop("format") not in (1, FORMAT):
            raise UserError(f"{path}: another format than this version's ({FORMAT}); build the shards again")
        return _manifest(folder, document)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = ascii(error)[:200]
        raise UserError(f"{path}: damaged ({reason}); run fgvc shards verify or build the shards again") from error


def columns_are_intact(folder: Path) -> bool:
    """Whether the columns are, to the byte, those that `manifest.json` was written for; reading only checks that their
    values are possible. Raises UserError as `read_manifest` does."""
    read_manifest(folder)
    about = json.loads((folder / MANIFEST).read_bytes())["entries"]
    return isinstance(about, list) or sha256_of(folder / COLUMNS) == about["sha256"]


def _manifest(folder: Path, document: dict) -> Manifest:
    """Raises one of many errors for values that no build writes."""
    classes = tuple(document.pop("classes"))
    shards = tuple(_shard(values) for values in document.pop("shards"))
    about = document.pop("entries")
    require("url" not in document, "address", document.get("url"))  # that is the reader's to say, not the file's
    require(bool(classes) and bool(about), "number of classes or entries", 0)
    if isinstance(about, list):  # format 1
        entries = entries_of_list(about, len(classes))
    else:
        entries = _entries(folder / COLUMNS, about, len(classes))
    duplicates = tuple(tuple(group) for group in document.pop("duplicates", ()))
    for text in (*classes, document["source"], document["plan"]):
        require(isinstance(text, str) and is_printable(text), "name", text)
    for key in ("licence", "citation"):  # of several lines, perhaps
        require(isinstance(document[key], str) and is_printable(re.sub(r"[\n\t]", " ", document[key])), key, "")
    for key in ("notes", "extra", "asked"):
        require(isinstance(document.get(key, {}), dict), key, document.get(key))
    for note, count in document.get("notes", {}).items():
        require(is_printable(note) and type(count) is int, "note", note)
    for group in duplicates:
        require(all(type(index) is int and 0 <= index < len(entries) for index in group), "duplicates", group)
    return Manifest(folder=folder, shards=shards, entries=entries, classes=classes, duplicates=duplicates, **document)


def _shard(values: dict) -> Shard:
    shard = Shard(**values)
    require(isinstance(shard.name, str) and SHARD_NAME.fullmatch(shard.name), "shard name", shard.name)
    require(isinstance(shard.sha256, str) and SHA256.fullmatch(shard.sha256), "sha256", shard.sha256)
    require(shard.split in SPLITS, "split", shard.split)
    for number in (shard.size, shard.count):
        require(type(number) is int and 0 <= number < 2**62, "size or count", shard.name)
    return shard


def _entries(path: Path, about: dict, classes: int) -> Entries:
    """The mapped columns, every value checked. Raises OSError or one of many errors."""
    names = tuple(about["parts"]), tuple(about["origins"])
    for name in (*names[0], *names[1]):
        require(isinstance(name, str) and is_printable(name), "part or origin", name)
    require(isinstance(about["sha256"], str) and SHA256.fullmatch(about["sha256"]), "sha256", about["sha256"])
    status = path.stat()
    require(stat.S_ISREG(status.st_mode), "no file", path.name)
    require(status.st_size == about["size"], f"size of {path.name}", status.st_size)
    entries = Entries.mapped(path, *names)
    entries.check(classes)
    require(len(entries) == about["count"] and entries.counts == about["counts"], "counts", about["counts"])
    return entries
