"""Writing files so that a kill or a full disk leaves either the old file or the new one; and their checksums."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import UserError


@contextmanager
def full_disk_is_named(path: Path) -> Iterator[None]:
    """Turn 'no space left' into a UserError that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{path}: no space left on the disk; free some and start the same command again; it resumes from the last "
            "checkpoint"
        ) from None


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary name to write a file to; afterwards it is synced and takes the place of `path`, whole or not at all.
    Raises OSError; leaves no temporary file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file, synced, so that it is there whole or not at all. Raises OSError; leaves no temporary file."""
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_bytes(path: Path, data: bytes) -> None:
    """`write_atomically` for run folders. Raises UserError when the disk is full."""
    with full_disk_is_named(path):
        write_atomically(path, data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. Raises UserError when the disk is full."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
