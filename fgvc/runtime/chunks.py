"""Work on many images that takes long: cut into chunks, each computed by one rank and kept, so that a kill loses one.

Chunks are cut by position, not by rank, and drawn numbers are keyed by chunk: a chunk has the same images and the same
bits for any number of ranks and loader workers, and after any kill.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgvc.runtime.device import seed_generators
from fgvc.runtime.distributed import broadcast_object, patiently, rank, world_size
from fgvc.runtime.progress import with_progress
from shards.errors import UserError
from shards.files import full_disk_is_named, write_bytes

Arrays = dict[str, np.ndarray]


def in_chunks(
    folder: Path, entries: Sequence[int], size: int, load: Callable[[Sequence[Sequence[int]]], Iterable[Any]],
    work: Callable[[Any], Arrays], *, seed: int = 0, title: str = "chunks",
) -> Arrays:  # fmt: skip
    """`work` on `size` entries at a time, over all ranks; its arrays of all entries in order, on every rank.

    folder: where chunks are kept, a file each; those that are there are not computed again, so that it may hold
    only this work's. load: chunks -> their batches, in order (a loader with workers, say). work: a batch -> arrays with
    a row an image; the same names and types every time. Torch's, NumPy's and Python's generators are
    seeded by (seed, chunk) before each.
    Raises UserError when the disk is full, or does not give back what was written.
    """
    chunks = [entries[at : at + size] for at in range(0, len(entries), size)]
    # The bounds are in the name: a chunk of another size that an earlier start left is not this one.
    paths = [
        folder / f"{number:06d}-{number * size}-{number * size + len(chunk)}.npz" for number, chunk in enumerate(chunks)
    ]
    missing = []
    if rank() == 0:
        with full_disk_is_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        missing = [number for number, path in enumerate(paths) if _read(path) is None]
    missing = broadcast_object(missing)
    mine = missing[rank() :: world_size()]
    with patiently():  # a chunk may take longer than a collective's time-out
        batches = load([chunks[number] for number in mine]) if mine else ()
        shown = with_progress(batches, len(mine), title, "batches", show=rank() == 0)
        for number, batch in zip(mine, shown, strict=True):
            seed_generators(seed * 1_000_003 + number)
            _write(paths[number], work(batch))
    found: list[Arrays] = []
    for path in paths:
        if (part := _read(path)) is None:  # without it the rows of all others would be other images'
            raise UserError(f"{path}: was written and cannot be read; look at the disk; the same command resumes")
        found.append(part)
    return {name: np.concatenate([part[name] for part in found]) for name in (found[0] if found else ())}


def _write(path: Path, arrays: Arrays) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def _read(path: Path) -> Arrays | None:
    """A chunk's arrays; None when it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
