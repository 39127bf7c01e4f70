"""Checkpoints: every rank writes its part, checksums are compared on reading, the newest valid one wins."""

import json
import logging
import os
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from fgvc.runtime.distributed import barrier, gather_objects, rank
from shards.errors import UserError
from shards.files import full_disk_is_named, sha256_of, sync_folder

log = logging.getLogger(__name__)
CHECKSUMS = "checksums.json"


class Writer:
    """Writes checkpoints beside training, at most one at a time: every rank its part, in a thread of its own, and rank
    0 makes the checkpoint valid once all are written. All ranks call every method at the same step.

    A kill at any moment leaves the checkpoints before it as they were.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: Thread | None = None
        self._problem, self._sums = "", dict[str, str]()

    def begin(self, step: int, parts: dict[str, Any]) -> None:
        """Start to write this rank's `parts` (file stem -> state of tensors and plain values, which nobody changes any
        more; the stems of ranks differ) as checkpoint `step`. Raises UserError as `finish` does, of the one before."""
        self.finish()
        self._final = self.folder / f"step-{step:08d}"
        self._temporary = self.folder / f".step-{step:08d}.tmp"
        if rank() == 0:
            for leftover in self.folder.glob(".step-*.tmp"):
                shutil.rmtree(leftover)
            self._temporary.mkdir(parents=True)
        barrier()
        self._problem, self._sums = "", {}
        self._thread = Thread(target=self._write, args=(parts,), daemon=True)
        self._thread.start()

    @property
    def written(self) -> bool:
        """Whether this rank has written its part of a checkpoint that still waits for `finish`."""
        return self._thread is not None and not self._thread.is_alive()

    def finish(self) -> None:
        """Wait for every rank's part and make the checkpoint valid; nothing where none is being written. Raises
        UserError on every rank when the disk of one is full."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        answers = gather_objects((self._problem, self._sums))
        problems = [text for text, _ in answers if text]
        if not problems and rank() == 0:
            try:
                with full_disk_is_named(self.folder):
                    sums = {name: digest for _, one in answers for name, digest in one.items()}
                    _publish(self._temporary, self._final, sums)
            except UserError as error:
                problems = [str(error)]
        problems = gather_objects(problems)[0]
        if problems:
            if rank() == 0:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise UserError(problems[0])
        if rank() == 0:
            # Later ones are damaged, or the run would not be here: kept as the newest, they would cost the valid ones.
            found = sorted(self.folder.glob("step-*"))
            place = found.index(self._final)
            for old in [*found[place + 1 :], *found[: max(0, place + 1 - self.keep)]]:
                shutil.rmtree(old)
        barrier()

    def drop(self, step: int) -> None:
        """Delete checkpoint `step`, if there is one."""
        self.finish()
        if rank() == 0:
            shutil.rmtree(self.folder / f"step-{step:08d}", ignore_errors=True)
        barrier()

    def _write(self, parts: dict[str, Any]) -> None:
        try:
            with full_disk_is_named(self.folder):
                for stem, state in parts.items():
                    self._sums[f"{stem}.pt"] = _write(self._temporary / f"{stem}.pt", state)
        except Exception as error:  # of a thread: said where the run can end for it
            self._problem = str(error) if isinstance(error, UserError) else f"{self.folder}: {error!r}"


def save(folder: Path, step: int, parts: dict[str, Any], keep: int = 2) -> Path:
    """Write one checkpoint and wait for it, as `Writer` does; its folder."""
    writer = Writer(folder, keep)
    writer.begin(step, parts)
    writer.finish()
    return folder / f"step-{step:08d}"


def latest_valid(folder: Path) -> Path | None:
    """The newest checkpoint whose files match their checksums; damaged ones are named in a warning and skipped."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(candidate)
        if problem is None:
            return candidate
        log.warning("checkpoint %s is damaged (%s): using the one before it", candidate, problem)
    return None


def load(checkpoint: Path, stem: str) -> Any:
    """One part of a checkpoint, on the CPU. Holds tensors and plain values only, so nothing is unpickled."""
    return torch.load(checkpoint / f"{stem}.pt", map_location="cpu", weights_only=True)


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("step-"))


def _write(path: Path, state: Any) -> str:
    try:
        with path.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except RuntimeError as error:  # torch's zip writer hides the errno of a full disk
        if shutil.disk_usage(path.parent).free < 1 << 20:
            raise OSError(28, "No space left on device") from error
        raise
    return sha256_of(path)


def _publish(temporary: Path, final: Path, sums: dict[str, str]) -> None:
    with (temporary / CHECKSUMS).open("w") as stream:
        json.dump(sums, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(temporary)
    if final.exists():  # a damaged checkpoint of the same step, passed over on resume
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(final.parent)


def _problem(checkpoint: Path) -> str | None:
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS}: {error}"
    if checkpoint.stat().st_uid != os.getuid():
        return "written by another user"
    for name, digest in sums.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != digest:
            return f"{name} differs from its checksum"
    return None
