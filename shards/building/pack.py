"""Write one shard: read, check and normalise its images, the tar, and a sidecar that says it is finished."""

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.building.canvas import on_upright
from shards.building.config import BuildOptions
from shards.building.encode import Encoded, ImageError, fit_boxes, normalise
from shards.building.plan import PlannedShard
from shards.building.pool import tick
from shards.entries import Entry
from shards.files import sha256_of, write_atomically
from shards.manifest import Shard
from shards.sample import RawSample

WORK = ".build"  # unfinished builds live here, inside the folder they are for


@dataclass(frozen=True)
class ShardWork:
    """What a process needs to write one shard into `folder`/.build."""

    planned: PlannedShard
    folder: Path
    classes: tuple[str, ...]
    read: Callable[[RawSample], bytes]
    options: BuildOptions


def write_shard(work: ShardWork) -> list[str]:
    """Write the shard and its sidecar; return what is wrong with images that cannot be used. With `broken` the shard is
    written without them, else nothing is.

    Raises OSError when the disk is full or fails; nothing half-written stays.
    """
    from webdataset.writer import TarWriter

    folder, planned = work.folder / WORK, work.planned
    temporary = folder / f"{planned.name}.{os.getpid()}.tmp"  # a dying process of an earlier build must not share it
    problems: list[str] = []
    left_out: list[str] = []
    metas: dict[str, Entry] = {}
    digests: dict[str, str] = {}
    notes: Counter[str] = Counter()
    try:
        with temporary.open("wb") as stream:
            # Everything in the tar besides its members is fixed, so that the same images give the same bytes.
            with TarWriter(stream, user="fgvc", group="fgvc", mtime=0, encoder=False) as writer:
                for sample in planned.samples:
                    try:
                        image, meta, found = _prepare(work, sample)
                    except (ImageError, FileNotFoundError, PermissionError) as error:
                        reason = error.strerror if isinstance(error, OSError) else str(error)
                        problems.append(f"{sample.path or sample.key} ({reason})")
                        name = sample.path.name if sample.path else sample.key  # no folder: a data set may move
                        left_out.append(f"{work.classes[sample.label]}/{name} ({reason})")
                    else:
                        if (
                            work.options.broken or not problems
                        ):  # a shard that cannot be finished is only checked to its end
                            writer.write(_members(sample, image, meta, work.classes))
                            metas[sample.key] = meta
                            digests[sample.key] = hashlib.sha256(image.data).hexdigest()[:16]
                            notes.update(found)
                    tick()
            stream.flush()
            os.fsync(stream.fileno())
        if work.options.broken or not problems:
            _finish(work, temporary, metas, digests, notes, left_out)
    finally:
        temporary.unlink(missing_ok=True)
    return problems


def _prepare(work: ShardWork, sample: RawSample) -> tuple[Encoded, Entry, list[str]]:
    """The stored image, its manifest entry and notes. Raises ImageError."""
    image = normalise(work.read(sample), work.options.shrink, work.options.quality)
    notes = list(image.notes)
    (sx, sy), parts = image.scale, {}
    width, height = round(image.width / sx), round(image.height / sy)
    upright, done = on_upright(sample.boxes, sample.canvas, image.orientation, width, height)
    boxes, clipped = fit_boxes(upright, image)
    notes += done + ["boxes clipped"] * clipped
    points, _ = on_upright(
        tuple((x, y, x, y) for x, y in sample.parts.values()), sample.canvas, image.orientation, width, height
    )
    for name, (x, y, *_) in zip(sample.parts, points, strict=True):
        parts[name] = (round(min(max(x * sx, 0), image.width), 3), round(min(max(y * sy, 0), image.height), 3))
    entry = Entry(
        key=sample.key,
        label=sample.label,
        split=sample.split,
        shard=0,  # the manifest numbers the shards
        offset=-1,  # known when the tar is closed
        length=len(image.data),
        width=image.width,
        height=image.height,
        boxes=boxes,
        parts=parts,
        origin=sample.origin,
    )
    return image, entry, notes


def _members(sample: RawSample, image: Encoded, entry: Entry, classes: tuple[str, ...]) -> dict[str, Any]:
    about = {
        "class": classes[sample.label],
        "split": sample.split,
        "boxes": entry.boxes,
        "parts": entry.parts,
        "origin": sample.origin,
    }
    return {
        "__key__": sample.key,
        "jpg": image.data,
        "cls": str(sample.label).encode(),
        "json": json.dumps(about, sort_keys=True, ensure_ascii=False).encode(),
    }


def _finish(
    work: ShardWork, temporary: Path, metas: dict[str, Entry], digests: dict[str, str], notes: Counter[str],
    left_out: list[str],
) -> None:  # fmt: skip
    """Move the tar to its name, then write the sidecar: a sidecar never describes a tar that does not exist."""
    planned, folder = work.planned, work.folder / WORK
    entries = []
    with tarfile.open(temporary) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if extension == "jpg":
                entries.append(vars(metas[key]) | {"offset": member.offset_data})
    shard = Shard(planned.name, planned.split, temporary.stat().st_size, sha256_of(temporary), len(entries))
    temporary.replace(folder / planned.name)
    in_order = [digests[entry["key"]] for entry in entries]
    sidecar = {"plan": planned.plan, "shard": vars(shard), "entries": entries, "notes": notes, "digests": in_order}
    sidecar |= {"left_out": left_out} if left_out else {}
    write_atomically(folder / f"{planned.name}.json", json.dumps(sidecar))


def read_sidecar(folder: Path, planned: PlannedShard) -> dict[str, Any] | None:
    """What an earlier, interrupted build left of this shard; None when it left nothing that can be used."""
    try:
        sidecar = json.loads((folder / WORK / f"{planned.name}.json").read_text())
        where = next(path for path in (folder / WORK / planned.name, folder / planned.name) if path.is_file())
        shard = sidecar["shard"]
        same = sidecar["plan"] == planned.plan and shard["name"] == planned.name and "digests" in sidecar
        return sidecar if same and where.stat().st_size == shard["size"] else None
    except (OSError, ValueError, StopIteration, KeyError, TypeError, RecursionError):
        return None
