"""Images that a file lists, such as those that a test split shares with the data a network was pre-trained on."""

import logging
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.manifest import Manifest
from shards.sources.common import make_key

log = logging.getLogger(__name__)


def read_listed(path: Path, manifest: Manifest) -> frozenset[int]:
    """The entries that a text file lists, one key or original file name (with or without folders) a line.

    Lines that begin with # and empty ones are passed over; names that these shards lack are counted in a warning.
    Raises UserError when the file is not readable, or none of its names is in these shards.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"exclude={path}: not readable as a list of names ({error})") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    found = {name: _entry_of(name, manifest.entries.position) for name in names}
    entries = frozenset(index for index in found.values() if index is not None)
    if not entries:
        first = f", such as '{names[0]}'" if names else ""
        raise UserError(
            f"exclude={path}: none of its {len(names)} names is in {manifest.folder}{first}; its keys are like "
            f"'{manifest.entries.key(0)}'"
        )
    if missing := [name for name, index in found.items() if index is None]:
        log.warning("exclude=%s: %d of %d names are not in these shards", path, len(missing), len(found))
    return entries


def _entry_of(name: str, place: dict[str, int]) -> int | None:
    """By key, by the key of the path, by the key of the file's name alone: as sources make them."""
    keys = (name, make_key(name), make_key(PurePosixPath(name).name))
    return next((place[key] for key in keys if key in place), None)
