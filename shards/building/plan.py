"""What a build will write: the shards with their samples, and the hashes that distinguish one plan from another."""

import hashlib
import json
import math
import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from shards.building.config import BuildOptions
from shards.building.encode import ImageError, normalise
from shards.sample import RawDataset, RawSample, is_printable

MIN_SAMPLES = 16  # a shard with fewer is all overhead
PROBES = 8  # images a split looked at to guess its size


@dataclass(frozen=True)
class PlannedShard:
    """One shard to write. `plan`: hash of all that decides its bytes, so that it is kept when another one changes."""

    name: str
    split: str
    samples: tuple[RawSample, ...]
    plan: str


@dataclass(frozen=True)
class Plan:
    """asked: what was asked for, by name. hash: of `asked`. bytes: estimated size of the shards together."""

    asked: dict[str, Any]
    hash: str
    shards: tuple[PlannedShard, ...]
    bytes: int


def make_plan(raw: RawDataset, options: BuildOptions) -> Plan:
    """Samples of every split in a seeded order, dealt into shards of about `shard_mb`.

    Paths are outside the hash (a dataset may move), file sizes inside (a repaired file is a different file).
    """
    splits: dict[str, list[RawSample]] = defaultdict(list)
    for sample in sorted(raw.samples, key=lambda sample: sample.key):
        splits[sample.split].append(sample)

    probes, sizes = {}, {}
    for split, samples in splits.items():
        probes[split], sizes[split] = _probe(raw, samples, options)
    rows = {sample.key: _row(sample) for sample in raw.samples}
    asked = {
        "source": raw.source,
        "options": asked_options(options),
        "classes": _hash(raw.classes),
        "count": len(raw.samples),
        "samples": _hash(sorted(rows.values())),
        "pixels": _hash(probes),
        "extra": _hash(raw.extra),
    }
    common = (
        {key: asked[key] for key in ("source", "classes", "pixels")}
        | {
            "shrink": options.shrink,
            "quality": options.quality,
        }
        | ({"broken": True} if options.broken else {})
    )  # a shard that lacks images is of no use where none may be
    shards = []
    for split in sorted(splits):
        order = splits[split]
        random.Random(f"{options.seed} {split}").shuffle(order)
        for number, part in enumerate(_deal(order, sizes[split], options)):
            plan = _hash([common, [rows[sample.key] for sample in part]])
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", split, tuple(part), plan))
    return Plan(asked, _hash(asked), tuple(shards), sum(sizes.values()))


def asked_options(options: BuildOptions) -> dict[str, Any]:
    """The options of a build that are part of its plan."""
    asked = {key: value for key, value in asdict(options).items() if key not in ("workers", "corrections")}
    return asked if options.broken else {key: value for key, value in asked.items() if key != "broken"}  # as before it


def options_difference(there: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """How the options of two plans differ, in words."""
    before = there.get("options")
    if not isinstance(before, dict):  # a manifest from elsewhere may hold anything
        before = {}
    return [
        f"{key}={_shown(before.get(key))} there, {key}={value} asked"
        for key, value in asked["options"].items()
        if before.get(key) != value
    ]


def difference(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """How two plans differ, in words."""
    found = []
    if there.get("source") != asked["source"]:
        found.append(f"source {_shown(there.get('source'))} there, {asked['source']} asked")
    found += options_difference(there, asked)
    if there.get("classes") != asked["classes"]:
        found.append("the classes")
    if there.get("count") != asked["count"]:
        found.append(f"{_shown(there.get('count'))} images there, {asked['count']} asked")
    elif there.get("samples") != asked["samples"]:
        found.append("the sample list (files, labels, splits or boxes)")
    elif there.get("pixels") != asked["pixels"]:
        found.append("the pixels of the rendered images")
    return "; ".join(found) or "what the source says about its samples"


def _shown(value: Any) -> str:
    text = str(value)[:80]
    return text if is_printable(text) else ascii(text)


def _deal(order: list[RawSample], size: int, options: BuildOptions) -> list[list[RawSample]]:
    """Equal parts of a split: enough shards for its size and for shuffling, but none of a handful of samples."""
    target = max(options.min_shards, math.ceil(size / (options.shard_mb * 1e6)))
    shards = max(1, min(target, len(order) // MIN_SAMPLES))
    edges = [len(order) * number // shards for number in range(shards + 1)]
    return [order[start:end] for start, end in pairwise(edges)]


def _probe(raw: RawDataset, samples: list[RawSample], options: BuildOptions) -> tuple[list[str], int]:
    """(hashes of some rendered images, estimated bytes of the split in shards).

    Rendered images have no file whose size would reveal a change of the renderer or its settings; their bytes do.
    """
    step = max(1, len(samples) // PROBES)
    hashes, sizes = [], []
    for sample in samples[::step][:PROBES]:
        try:
            data = raw.read(sample)
            if sample.path is None:
                hashes.append(hashlib.sha256(data).hexdigest())
            sizes.append(len(normalise(data, options.shrink, options.quality).data))
        except (ImageError, OSError):
            continue  # the build itself reads every image and names all that are broken
    overhead = 2560  # three tar headers, two small members, padding
    mean = sum(sizes) / len(sizes) if sizes else 0
    return hashes, int((mean + overhead) * len(samples))


def _row(sample: RawSample) -> str:
    size = sample.path.stat().st_size if sample.path is not None else -1
    canvas = [] if sample.canvas is None else [sample.canvas.size, sample.canvas.exif]
    return json.dumps(
        [sample.key, sample.label, sample.split, sample.boxes, sample.parts, sample.origin, size, *canvas],
        sort_keys=True,
        default=float,
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
