"""Where `fgvc crop` puts its boxes layer: never over somebody else's."""

import json
import os
from pathlib import Path

from jobs.crop import Config
from shards.errors import UserError
from shards.files import write_bytes
from shards.manifest import Manifest
from shards.paths import expand


def target_of(config: Config, manifest: Manifest) -> Path:
    """The boxes layer to write. Raises UserError where shards are on a server, and no file is named."""
    if manifest.url and not config.layer:
        raise UserError("layer is not set: the shards are on a server, beside which nothing is written; set layer=FILE")
    return expand(config.layer, "layer") if config.layer else manifest.folder / f"boxes-{config.name}.jsonl"


def refuse_anothers(target: Path, config: Config) -> None:
    """Raise UserError before hours of work when the file to write is another run's, or cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); set layer= to another file") from None
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"{target}: cannot be written (permission denied); set layer= to another file")
    if not target.is_file():
        return
    with target.open() as stream:
        line = stream.readline()
    try:
        owner = json.loads(line)["made_by"].get("run")
    except (ValueError, KeyError, AttributeError):
        owner = None
    if owner != config.name:
        whose = f"the boxes of run '{owner}'" if owner else "something else"
        raise UserError(f"{target}: holds {whose}; set layer= to another file")


def publish(layer: Path, target: Path) -> None:
    """Copy the layer to where it is read from, unless the same bytes are there."""
    data = layer.read_bytes()
    if not target.is_file() or target.read_bytes() != data:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, data)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror}); the layer is {layer}") from None
