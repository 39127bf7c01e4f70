"""Paths as users write them: ~ and environment variables; and the file by which a folder of shards is known."""

import os
from pathlib import Path

from shards.errors import UserError

MANIFEST = "manifest.json"


def expand(path: str, key: str) -> Path:
    """A path with ~ and $VARIABLES put in. Raises UserError naming `key` when a variable is not set."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise UserError(f"{key}={path}: that environment variable is not set; set it, or give the path itself")
    return Path(expanded)
