"""Writing files so that a kill or a full disk leaves either the old file or the new one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import DataError


@contextmanager
def full_disk_is_named(path: Path) -> Iterator[None]:
    """Turn 'no space left' into a DataError that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"{path}: no space left on the disk; free some and start the same command again, it goes on from the last "
            "checkpoint"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write atomically: a temporary file beside it, synced, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with full_disk_is_named(path), temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except DataError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
