"""Check finished shards against their manifest: files, checksums, tars, members, images, counts."""

import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from shards.building.encode import ImageError, normalise
from shards.building.pool import run, tick
from shards.entries import Entry
from shards.errors import UserError
from shards.files import sha256_of
from shards.manifest import COLUMNS, Manifest, Shard, columns_are_intact, read_manifest
from shards.remote import shard_path
from shards.sample import is_printable

MAX_PROBLEMS = 5  # of one kind and shard: a torn file would name thousands of images
JPEG_START = b"\xff\xd8\xff"


@dataclass(frozen=True)
class _ShardCheck:
    """One shard of a manifest, whose columns every process maps for itself, and which entries it holds."""

    manifest: Manifest
    number: int
    indices: np.ndarray

    @property
    def shard(self) -> Shard:
        return self.manifest.shards[self.number]

    @property
    def entries(self) -> list[Entry]:
        return [self.manifest.entries[index] for index in self.indices.tolist()]


def verify(shards: str | Path | Manifest, workers: int = 0) -> list[str]:
    """What is wrong with a set of shards, one line a problem; an empty list when all is well.

    Every byte is read and every image decoded. Raises UserError when there is no readable manifest.
    """
    manifest = shards if isinstance(shards, Manifest) else read_manifest(shards)
    entries, count = manifest.entries, len(manifest.shards)
    problems = [] if columns_are_intact(manifest.folder) else [f"{COLUMNS}: wrong sha256, its bytes were changed"]
    for index in np.flatnonzero(entries.shard >= count).tolist():
        place = f"shard {entries.shard[index]}, which it does not have"
        problems.append(f"{entries.key(index)}: the manifest puts it into {place}")
    twice = [key for key, count in Counter(entries.keys_of()).items() if count > 1]
    problems += [f"{key}: twice in the manifest" for key in twice[:MAX_PROBLEMS]]
    order = np.argsort(entries.shard, kind="stable")  # of every shard its entries, in their order
    edges = np.searchsorted(entries.shard[order], np.arange(count + 1))
    checks = [_ShardCheck(manifest, number, order[begin:end]) for number, (begin, end) in enumerate(pairwise(edges))]
    for found in run(_verify_shard, checks, workers, len(entries), "verify"):
        problems += found
    return problems


def _verify_shard(check: _ShardCheck) -> list[str]:
    """Problems of one shard, the root cause first; its consequences are left out."""
    shard, count = check.shard, len(check.indices)
    problems = []
    try:
        path = shard_path(check.manifest, shard)
    except UserError as error:  # of a server
        tick(count)
        return [f"{shard.name}: {error}"]
    if not path.is_file():
        problems.append(f"{shard.name}: missing")
    elif (size := path.stat().st_size) != shard.size:
        problems.append(f"{shard.name}: {size} bytes, the manifest says {shard.size}")
    elif sha256_of(path) != shard.sha256:
        problems.append(f"{shard.name}: wrong sha256, its bytes were changed")
    if shard.count != count:
        problems.append(f"{shard.name}: the manifest counts {shard.count} samples and lists {count}")
    if path.is_file():
        problems += _verify_members(path, check)
    else:
        tick(count)
    return problems


def _verify_members(path: Path, check: _ShardCheck) -> list[str]:
    problems, entries, classes = [], check.entries, check.manifest.classes
    try:
        with tarfile.open(path) as tar:
            held = {member.name: member for member in tar}
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        tick(len(entries))
        return [f"{path.name}: not a whole tar file ({error})"]
    strangers = {name.partition(".")[0] for name in held} - {entry.key for entry in entries}
    problems += [f"{path.name}: {_shown(key)} is not in the manifest" for key in sorted(strangers)]
    with path.open("rb") as stream:
        for entry in entries:
            missing = [kind for kind in ("jpg", "cls", "json") if f"{entry.key}.{kind}" not in held]
            if missing:
                problems.append(f"{path.name}: {entry.key} has no {', '.join(missing)}")
            elif (text := _verify_sample(stream, held, entry, classes)) is not None:
                problems.append(f"{path.name}: {entry.key}: {text}")
            tick()
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"{path.name}: and {len(problems) - MAX_PROBLEMS} more"]
    return problems


def _shown(text: str) -> str:
    """A name out of a tar, which may come from anywhere, as a terminal can print it."""
    return text if is_printable(text) else ascii(text)


def _verify_sample(stream, held: dict[str, tarfile.TarInfo], entry: Entry, classes: tuple[str, ...]) -> str | None:
    """What is wrong with one sample, or None."""

    def member(kind: str) -> bytes:
        info = held[f"{entry.key}.{kind}"]
        stream.seek(info.offset_data)
        return stream.read(info.size)

    jpg = held[f"{entry.key}.jpg"]
    if (jpg.offset_data, jpg.size) != (entry.offset, entry.length):
        return f"its JPEG is at {jpg.offset_data}+{jpg.size}, the manifest says {entry.offset}+{entry.length}"
    data = member("jpg")
    if not data.startswith(JPEG_START):
        return "not a JPEG"
    try:
        image = normalise(data)
        about = json.loads(member("json"))
        told = {name: about.get(name) for name in ("class", "split")}
        told |= {name: about[name] for name in ("boxes", "parts", "origin") if name in about}
    except ImageError as error:
        return f"image {error}"
    except (ValueError, AttributeError, RecursionError):
        return "its json member is damaged"
    if image.notes:
        return f"not an upright RGB or greyscale JPEG ({image.notes[0]})"
    if (image.width, image.height) != (entry.width, entry.height):
        return f"{image.width} x {image.height} pixels, the manifest says {entry.width} x {entry.height}"
    if not 0 <= entry.label < len(classes) or member("cls") != str(entry.label).encode():
        return f"its cls member says {_shown(member('cls')[:20].decode(errors='replace'))}, the manifest {entry.label}"
    known = {
        "class": classes[entry.label], "split": entry.split, "boxes": [list(box) for box in entry.boxes],
        "parts": {name: list(point) for name, point in entry.parts.items()}, "origin": entry.origin,
    }  # fmt: skip
    if differing := [name for name, value in told.items() if value != known[name]]:
        return f"its json member differs from the manifest in {' and '.join(differing)}"
    return None
