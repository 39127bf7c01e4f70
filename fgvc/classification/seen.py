"""What a weights file says it was trained on, and which images it has therefore seen."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fgvc.models.export import read_about
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.config import DataConfig
from shards.reading.splits import open_splits

Record = dict[str, Any]
LATER = ("holdout", "per_class", "imbalance")  # settings that a record names where they are not at their default


def training_record(manifest: Manifest, data: DataConfig, indices: Sequence[int]) -> Record:
    """Which images were trained on, as a weights file holds it: enough to select them again, and a hash to check it."""
    chosen = {"split": data.train_split, "folds": data.folds, "fold": data.fold, "limit": data.limit}
    defaults = DataConfig()
    for name in LATER:
        if (value := getattr(data, name)) != getattr(defaults, name):
            chosen[name] = value
    return {"shards": manifest.fingerprint, **chosen, "keys": _hash_of_keys(manifest, indices)}


def trained_data(data: DataConfig, record: Record) -> DataConfig:
    """`data`, choosing the images that a record names. Raises KeyError and TypeError for a damaged record."""
    return replace(
        data, train_split=record["split"], folds=record["folds"], fold=record["fold"], limit=record["limit"],
        **{name: record.get(name, getattr(DataConfig(), name)) for name in LATER},
    )  # fmt: skip


def records_of_start(weights: str) -> list[Record | None]:
    """The records of the weights that training starts from; None stands for an older file of ours, which has none."""
    if weights in ("hub", "none") or not weights.endswith(".safetensors"):
        return []
    about = read_about(Path(expand(weights, "model.weights")))
    found = about.get("trained_on", [None] if "classes" in about else [])
    return found if isinstance(found, list) else [None]


def seen_images(about: dict[str, Any], manifest: Manifest, indices: Sequence[int]) -> int | None:
    """How many of these images the weights were trained on; None where the file's records do not say.

    They do not for files of earlier versions, for training on other shards, and where the same settings no longer
    select the same images.
    """
    records = about.get("trained_on")
    if not isinstance(records, list) or not records:
        return None
    seen: set[int] = set()
    known = True
    for record in records:
        trained = _trained_on(record, manifest)
        known = known and trained is not None
        seen |= trained or set()
    count = len(seen & set(indices))
    return count if known or count else None


def _trained_on(record: Any, manifest: Manifest) -> set[int] | None:
    if not isinstance(record, dict) or record.get("shards") != manifest.fingerprint:
        return None
    try:
        indices = open_splits(manifest, trained_data(DataConfig(), record)).train
    except (KeyError, TypeError, ValueError, OverflowError, UserError):  # a damaged record
        return None
    return set(indices) if _hash_of_keys(manifest, indices) == record.get("keys") else None


def _hash_of_keys(manifest: Manifest, indices: Sequence[int]) -> str:
    keys = "\n".join(manifest.entries.keys_of(sorted(indices)))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]
