"""Manifests as earlier versions wrote them, and manifests with damaged columns."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shards.files import sha256_of
from shards.manifest import COLUMNS, MANIFEST, Manifest, write_manifest


def format_1(manifest: Manifest) -> dict[str, Any]:
    """The document of format 1: samples as JSON objects."""
    names = ("source", "licence", "citation", "classes", "plan", "notes", "extra", "asked")
    document = {name: getattr(manifest, name) for name in names} | {"format": 1}
    document |= {"shards": [*map(vars, manifest.shards)], "entries": [*map(vars, manifest.entries)]}
    return json.loads(json.dumps(document | ({"duplicates": manifest.duplicates} if manifest.duplicates else {})))


def damaged_columns(manifest: Manifest, folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Write the manifest into `folder` with other columns, of which the head says size and checksum as they are."""
    write_manifest(manifest_in(manifest, folder))
    columns = load_file(folder / COLUMNS)
    change(columns)
    save_file(columns, folder / COLUMNS)
    head = json.loads((folder / MANIFEST).read_text())
    head["entries"] |= {"size": (folder / COLUMNS).stat().st_size, "sha256": sha256_of(folder / COLUMNS)}
    (folder / MANIFEST).write_text(json.dumps(head))


def manifest_in(manifest: Manifest, folder: Path) -> Manifest:
    """The same manifest for another folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace(manifest, folder=folder)
