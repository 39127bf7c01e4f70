"""Shards on a server: manifest and columns are fetched into a local folder once per node, a shard when it is first
read, and every checksum is compared. The folder is one of ordinary shards, some of which are not there yet."""

import hashlib
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from shards.errors import UserError
from shards.manifest import COLUMNS, SHA256, Manifest, Shard, read_manifest
from shards.paths import MANIFEST, address, expand, is_remote

log = logging.getLogger(__name__)

FETCHED = ".server.json"  # the server's manifest, until its columns are here too


def open_manifest(shards: str | Path, key: str, cache: str = "", *, compare: bool = True) -> Manifest:
    """The manifest of a folder of shards, or of an address, whose files go into a folder below `cache`.

    compare: whether the server is asked if it still has the same shards as were fetched before; without an answer the
    fetched ones are used. Raises UserError as `read_manifest` and `fetch` do, and for shards that changed there.
    """
    if not is_remote(shards):
        return read_manifest(expand(str(shards), key))
    url = address(str(shards), key)
    folder = folder_of(url, cache)
    manifest = folder / MANIFEST
    fresh = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if fresh := not manifest.is_file():
                _fetch_head(url, folder)
            elif compare:
                _compare(url, folder)
    except OSError as error:
        if not manifest.is_file():  # a cache that was filled elsewhere may be read-only
            raise UserError(f"{folder}: cannot be written ({error.strerror}); set data.cache= or FGVC_CACHE") from None
    try:
        return replace(read_manifest(folder), url=url)
    except UserError as error:
        if fresh:  # not one that shards were fetched by
            manifest.unlink(missing_ok=True)
        raise UserError(f"{error} (fetched from {url}; once it is right there, delete {folder})") from None


def folder_of(url: str, cache: str = "") -> Path:
    """Where the files of an address lie: in `cache`, else in $FGVC_CACHE, else in ~/.cache/fgvc."""
    home = (
        expand(cache, "data.cache") if cache else expand(os.environ.get("FGVC_CACHE") or "~/.cache/fgvc", "FGVC_CACHE")
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", url.rsplit("/", 1)[-1])[:40]
    return home / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def shard_path(manifest: Manifest, shard: Shard) -> Path:
    """The file of a shard; from a server it is fetched first, once per node. Raises UserError as `fetch` does."""
    path = manifest.folder / shard.name
    if manifest.url and not (path.is_file() and path.stat().st_size == shard.size):
        from shards.fetch import fetch  # loads requests: not for shards that are here

        fetch(f"{manifest.url}/{shard.name}", path, shard.size, shard.sha256)
    return path


def _fetch_head(url: str, folder: Path) -> None:
    """Manifest and columns; the manifest takes its name last."""
    from shards.fetch import fetch

    fetched = folder / FETCHED
    for old in (fetched, *folder.glob("*.tar")):  # whose shards these are is not known any more
        old.unlink(missing_ok=True)
    fetch(f"{url}/{MANIFEST}", fetched)
    about = _columns_of(url, fetched)
    if about:
        (folder / COLUMNS).unlink(missing_ok=True)
        fetch(f"{url}/{COLUMNS}", folder / COLUMNS, about["size"], about["sha256"])
    fetched.replace(folder / MANIFEST)


def _columns_of(url: str, fetched: Path) -> dict[str, Any]:
    """Size and sha256 of the columns; none of a manifest that lists its samples itself, as earlier versions did."""
    try:
        about = json.loads(fetched.read_bytes())["entries"]
        if isinstance(about, list):
            return {}
        if type(about["size"]) is int and SHA256.fullmatch(about["sha256"]):
            return {"size": about["size"], "sha256": about["sha256"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    fetched.unlink()
    raise UserError(f"{url}/{MANIFEST}: no manifest of shards; give the address of a folder of shards")


def _compare(url: str, folder: Path) -> None:
    """Raise UserError where the server has other shards by now than those whose manifest is here."""
    from shards.fetch import fetch

    fetched = folder / FETCHED
    fetched.unlink(missing_ok=True)
    try:
        fetch(f"{url}/{MANIFEST}", fetched, retries=1)
    except UserError as error:
        log.warning("%s; using the shards as they were fetched into %s", error, folder)
        return
    same = fetched.read_bytes() == (folder / MANIFEST).read_bytes()
    fetched.unlink()
    if not same:
        raise UserError(f"{url}: other shards than those fetched before; to use the new ones, delete {folder}")
