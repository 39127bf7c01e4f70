"""Checkpoints: every rank writes its part, checksums are compared on reading, the newest valid one wins."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from fgvc.runtime.distributed import barrier, gather_objects, rank
from shards.errors import UserError
from shards.files import full_disk_is_named, sha256_of, sync_folder

log = logging.getLogger(__name__)
CHECKSUMS = "checksums.json"


def save(folder: Path, step: int, parts: dict[str, Any], keep: int = 2) -> Path:
    """Write `parts` (file stem -> state of tensors and plain values) of this rank as checkpoint `step`.

    All ranks call it, with different stems. A kill at any moment leaves the checkpoints before it as they were.
    Raises UserError on every rank when the disk of one is full.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".step-{step:08d}.tmp"
    if rank() == 0:
        for leftover in folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
    barrier()
    problem, sums = "", {}
    try:
        with full_disk_is_named(folder):
            for stem, state in parts.items():
                sums[f"{stem}.pt"] = _write(temporary / f"{stem}.pt", state)
    except UserError as error:
        problem = str(error)
    answers = gather_objects((problem, sums))
    problems = [text for text, _ in answers if text]
    if not problems and rank() == 0:
        try:
            with full_disk_is_named(folder):
                _publish(temporary, final, {name: digest for _, one in answers for name, digest in one.items()})
        except UserError as error:
            problems = [str(error)]
    problems = gather_objects(problems)[0]
    if problems:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(problems[0])
    if rank() == 0:
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    barrier()
    return final


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
