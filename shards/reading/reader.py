"""Reading samples by offset, from the shards or from a checked local copy of them."""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from shards.errors import UserError
from shards.files import sha256_of
from shards.manifest import Manifest
from shards.paths import expand
from shards.remote import shard_path

OPEN_FILES = 16  # shards that a process holds open: as many as the order's window reads from at a time


class Reader:
    """Random access to the JPEG bytes of a set of shards. Files are opened when they are read from, in every process;
    the one that was not for longest is closed when there are more than OPEN_FILES."""

    def __init__(self, manifest: Manifest, cache: str = "") -> None:
        self.manifest = manifest
        self.cache = expand(cache, "data.cache") if cache else None
        self._files: dict[int, tuple[int, int]] = {}  # shard -> descriptor, bytes
        self._owner = os.getpid()

    def stored(self, indices: Sequence[int] | np.ndarray) -> list[tuple[int, int, int]]:
        """Where the bytes of these entries lie, for `read_at`: shard, offset, length."""
        entries = self.manifest.entries
        columns = (column[indices].tolist() for column in (entries.shard, entries.offset, entries.length))
        return list(zip(*columns, strict=True))

    def read(self, index: int) -> bytes:
        """The JPEG bytes of entry `index`. Raises UserError when the shard is missing or shorter than recorded."""
        return self.read_at(index, *self.stored([index])[0])

    def read_at(self, index: int, shard: int, offset: int, length: int) -> bytes:
        """As `read`, with what `stored` says of the entry."""
        entries = self.manifest.entries
        if shard >= len(self.manifest.shards):
            raise UserError(
                f"{self.manifest.folder}: sample '{entries.key(index)}' is in shard {shard}, which does not exist; "
                "run fgvc shards verify"
            )
        file, size = self._file(shard)
        inside = offset + length <= size  # else a wrong length would ask for all of the memory
        data = os.pread(file, length, offset) if inside else b""
        if len(data) != length or data[:2] != b"\xff\xd8":
            path = self.manifest.folder / self.manifest.shards[shard].name
            raise UserError(
                f"{path}: sample '{entries.key(index)}' is not where the manifest says; run fgvc shards verify"
            )
        return data

    def _file(self, shard: int) -> tuple[int, int]:
        if self._owner != os.getpid():  # a forked worker opens its own files
            self._files, self._owner = {}, os.getpid()
        if shard in self._files:
            self._files[shard] = self._files.pop(shard)  # now the last to be closed
        else:
            if len(self._files) == OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files)))[0])
            path = self._local(shard)
            try:
                file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    os.close(file)
                    raise UserError(f"{path}: not a regular file; run fgvc shards verify")
                self._files[shard] = file, status.st_size
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); run fgvc shards verify") from None
        return self._files[shard]

    def _local(self, shard: int) -> Path:
        """The shard's path; with a cache, that of a copy whose checksum was compared, made once per node. What comes
        from a server lies in the cache already."""
        record = self.manifest.shards[shard]
        path = shard_path(self.manifest, record)
        if self.cache is None or self.manifest.url:
            return path
        copy = self.cache / f"{record.sha256[:16]}-{record.name}"
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{copy}.lock"):
                if not (copy.is_file() and copy.stat().st_size == record.size):
                    self._copy(path, copy, record.sha256)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be copied to data.cache={self.cache} ({reason})") from None
        return copy

    def _copy(self, path: Path, copy: Path, sha256: str) -> None:
        """Copy a shard, whole or not at all. Raises UserError for one that is damaged."""
        temporary = copy.with_suffix(".partial")
        try:
            shutil.copyfile(path, temporary)
            if sha256_of(temporary) != sha256:
                raise UserError(f"{path}: checksum differs from the manifest's; run fgvc shards verify")
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())  # whoever finds the copy later looks at its size alone
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)
