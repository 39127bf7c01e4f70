"""Paths as users write them: ~ and environment variables, addresses; and the file by which a folder of shards is
known."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from shards.errors import UserError

MANIFEST = "manifest.json"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SCHEMES = ("http", "https", "s3")


def expand(path: str, key: str) -> Path:
    """A path with ~ and $VARIABLES put in. Raises UserError naming `key` when a variable is not set."""
    return Path(_expanded(path, key))


def no_shards(folder: Path) -> str:
    """What is said of a folder without a manifest: how to build shards, of the pictures in it where it holds some."""
    if folder.name == MANIFEST and folder.is_file():
        return f"{folder}: name the folder of the shards, {folder.parent}"
    pictures = any(path.suffix.lower() in PICTURES for path in folder.glob("*/*"))
    if pictures:
        build = f"image_folder {folder} data/{folder.name}, then name data/{folder.name}"
    else:
        build = f"SOURCE ROOT {folder}"
    return f"{folder}: no {MANIFEST} there; build shards first: fgvc shards build {build}"


def is_remote(path: str | Path) -> bool:
    """Whether something is an address on a server, not a path."""
    return "://" in os.path.expandvars(str(path))


def address(url: str, key: str) -> str:
    """The address of a folder on a server, without a slash at its end, $VARIABLES put in.

    Raises UserError naming `key` for other servers than those of SCHEMES, and for logins: configs are shown and logged.
    """
    try:
        parts = urlsplit(_expanded(url, key))
    except ValueError:
        raise UserError(f"{key}: not an address that can be read; expected one such as https://HOST/birds") from None
    if parts.scheme not in SCHEMES:  # not shown: a login may stand in it
        raise UserError(
            f"{key}: an address of '{parts.scheme}://'; expected a folder, or an address that begins with http://, "
            "https:// or s3://"
        )
    if "@" in parts.netloc or parts.query or parts.fragment or not parts.netloc:
        raise UserError(
            f"{key}: expected the plain address of a folder, such as https://HOST/birds, without a login, ? or #; a "
            "login belongs in ~/.netrc (https) or in AWS_* variables (s3)"
        )
    return parts.geturl().rstrip("/")


def _expanded(path: str, key: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise UserError(f"{key}={path}: that environment variable is not set; set it, or give the path itself")
    return expanded
