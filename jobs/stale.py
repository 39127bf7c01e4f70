"""Whether a run folder's shards are still those that its run began with. Imports nothing heavy."""

from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import IDENTITY
from jobs.states import read_json
from shards.errors import UserError
from shards.manifest import MANIFEST, read_manifest
from shards.paths import expand, is_remote


def on_other_shards(folder: Path, config: Any, known: dict[Path, str]) -> bool:
    """Whether a folder holds a run, finished or not, on other shards than those that are where its config names them.
    Not known of shards that are not there, or on a server. known: fingerprints of those that were read before."""
    shards = getattr(getattr(config, "data", None), "shards", "")
    before = (read_json(folder / IDENTITY) or {}).get("inputs.shards")
    if before is None or not shards or is_remote(shards):
        return False
    place = expand(shards, "data.shards")
    if place not in known and (place / MANIFEST).is_file():
        known[place] = read_manifest(place).fingerprint
    return known.get(place, before) != before


def refuse_other_shards(folder: Path, config: Any, known: dict[Path, str]) -> None:
    """Raise UserError where `on_other_shards`: the run counts as done, or would be refused when it resumes."""
    if on_other_shards(folder, config, known):
        raise UserError(
            f"{folder}: holds a run on another version of {config.data.shards}; delete that folder, or choose another "
            "name="
        )
