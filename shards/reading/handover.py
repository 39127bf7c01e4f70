"""Batches on their way from a loader's worker to its process: images through memory that both have from the start, what
is small by value.

By itself a DataLoader opens and maps a file for every tensor of every batch, at both ends: new pages each time, which
the kernel has to clear and map one by one, and a connection for each. Here a worker writes its batches into a few
places in turn, and the process copies a batch out when it arrives, before it asks the worker for the batch that will be
written there next.
"""

import mmap
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

PREFETCH = 4  # batches that a worker is ahead
PLACES = PREFETCH  # of a worker: it is asked for its next batch when the one PREFETCH before has arrived
NORESERVE = 0x4000  # MAP_NORESERVE of Linux, which mmap of Python 3.11 does not name
BY_VALUE = (torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64, torch.bool)  # NumPy has them too
LARGEST = 256 << 20  # bytes of a batch, 409 images of 448 px; larger ones go the DataLoader's way


@dataclass(frozen=True)
class Place:
    """Where in which handover's memory a (N, ..., 3, H, W) uint8 tensor lies, channels last."""

    handover: int
    start: int
    shape: tuple[int, ...]


class Handover:
    """The memory between one iteration of a loader and its workers, for as long as that lasts. Only what was written to
    takes room: PLACES batches a worker."""

    known: ClassVar[WeakValueDictionary[int, "Handover"]] = WeakValueDictionary()
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, workers: int) -> None:
        """Raises OSError where so much address space is not to be had."""
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | NORESERVE
        self.memory = mmap.mmap(-1, workers * PLACES * LARGEST, flags)
        self.number, self.worker, self.turn = next(self.numbers), 0, 0
        self.known[self.number] = self

    def shut(self) -> None:
        """Called once the workers are there: what is forked later has no use for it, and would keep it."""
        self.memory.madvise(mmap.MADV_DONTFORK)

    def next_place(self, shape: tuple[int, ...]) -> Place:
        """Called by a worker for each of its batches."""
        at = self.worker * PLACES + self.turn % PLACES
        self.turn += 1
        return Place(self.number, at * LARGEST, shape)

    def at(self, place: Place) -> torch.Tensor:
        flat = torch.frombuffer(self.memory, dtype=torch.uint8, count=prod(place.shape), offset=place.start)
        return _channels_last(flat, place.shape)


_own: Handover | None = None  # of this process, where it is a worker


def handover_for(workers: int) -> Handover | None:
    """None where workers are not forked, and where address space costs something: it is limited (ulimit -v), or counted
    as if it were used (vm.overcommit_memory = 2)."""
    if not workers or sys.platform != "linux" or multiprocessing.get_start_method() != "fork":
        return None
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY or _overcommit() == "2":
        return None
    try:
        return Handover(workers)
    except OSError:
        return None


def _overcommit() -> str:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    except OSError:
        return ""


def begin_handover(handover: Handover | None, worker: int) -> None:
    """Called by worker number `worker` before its first batch."""
    global _own
    _own = handover
    if _own is not None:
        _own.worker = worker


def gathered(images: list[torch.Tensor]) -> torch.Tensor:
    """(N, ..., 3, H, W) of N (..., 3, H, W) images; in a worker in memory that its process has, too.

    The channels of a pixel lie together, as decoding leaves them and as convolutions want them (channels_last): planes
    would be made here by one transposition, and undone in training by another one, eight times as slow.
    """
    shape = (len(images), *images[0].shape)
    if _own is None and get_worker_info() is None:
        return torch.stack(images, out=_channels_last(torch.empty(prod(shape), dtype=images[0].dtype), shape))
    if _own is None or prod(shape) > LARGEST:
        rows = [image.movedim(-3, -1) for image in images]
        return default_collate(rows).movedim(-1, -3)  # in a worker, into memory that is then shared
    place = _own.next_place(shape)
    together = torch.stack(images, out=_own.at(place))
    together.place = place  # type: ignore[attr-defined]
    return together


def _channels_last(flat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(N, ..., 3, H, W) of a flat tensor, the channels of a pixel together."""
    *outer, channels, height, width = shape
    return flat.view(*outer, height, width, channels).movedim(-1, -3)


class Handed:
    """A batch of tensors, and lists of them, whose images are `gathered`."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _sent(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _received(value) for name, value in state.items()})


def _sent(value: Any) -> Any:
    if isinstance(value, list):
        return [_sent(one) for one in value]
    if isinstance(place := getattr(value, "place", None), Place):
        return place
    small = isinstance(value, torch.Tensor) and not value.is_shared() and value.dtype in BY_VALUE
    return value.numpy() if small and not value.requires_grad and not value.is_cuda else value


def _received(value: Any) -> Any:
    if isinstance(value, list):
        return [_received(one) for one in value]
    if isinstance(value, Place):
        handover = Handover.known.get(value.handover)
        # None: its iteration was abandoned, and nobody waits for this batch.
        return torch.empty(0, dtype=torch.uint8) if handover is None else handover.at(value).clone()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
