"""Batches on their way from a loader's worker to its process: images through memory that both have from the start, what
is small by value.

By itself a DataLoader opens and maps a file for every tensor of every batch, at both ends: new pages each time, which
the kernel has to clear and map one by one, and a connection for each. Here a worker writes its batches into a few
places in turn, and the process copies a batch out when it arrives, before it asks the worker for the batch that will be
written there next.
"""

import mmap
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch.utils.data import default_collate

PREFETCH = 4  # batches that a worker is ahead
PLACES = PREFETCH + 1  # of a worker: one more than the batches that it may have been asked for
NORESERVE = 0x4000  # MAP_NORESERVE of Linux, which mmap of Python 3.11 does not name
LARGEST = 256 << 20  # bytes of a batch, 409 images of 448 px; larger ones go the DataLoader's way


@dataclass(frozen=True)
class Place:
    """Where in which handover's memory a (N, 3, H, W) uint8 tensor lies."""

    handover: int
    start: int
    shape: tuple[int, ...]


class Handover:
    """The memory between one iteration of a loader and its workers. None of it is used before it is written to."""

    known: ClassVar[WeakValueDictionary[int, "Handover"]] = WeakValueDictionary()
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, workers: int) -> None:
        """Raises OSError where so much address space is not to be had."""
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | NORESERVE
        self.memory = mmap.mmap(-1, workers * PLACES * LARGEST, flags)
        self.number, self.worker, self.turn = next(self.numbers), 0, 0
        self.known[self.number] = self

    def next_place(self, shape: tuple[int, ...]) -> Place:
        """Called by a worker for each of its batches."""
        at = self.worker * PLACES + self.turn % PLACES
        self.turn += 1
        return Place(self.number, at * LARGEST, shape)

    def at(self, place: Place) -> torch.Tensor:
        flat = torch.frombuffer(self.memory, dtype=torch.uint8, count=prod(place.shape), offset=place.start)
        return flat.view(place.shape)


_own: Handover | None = None  # of this process, where it is a worker


def handover_for(workers: int) -> Handover | None:
    """None where workers are not forked, or where a limit on address space forbids it."""
    if not workers or sys.platform != "linux" or multiprocessing.get_start_method() != "fork":
        return None
    try:
        return Handover(workers)
    except OSError:
        return None


def begin_handover(handover: Handover | None, worker: int) -> None:
    """Called by worker number `worker` before its first batch."""
    global _own
    _own = handover
    if _own is not None:
        _own.worker = worker


def gathered(images: list[torch.Tensor]) -> torch.Tensor:
    """(N, 3, H, W) uint8 of N (3, H, W) images; in a worker in memory that its process has, too."""
    if _own is None or len(images) * images[0].numel() > LARGEST:
        return default_collate(images)  # in a worker, into memory that is then shared
    place = _own.next_place((len(images), *images[0].shape))
    together = torch.stack(images, out=_own.at(place))
    together.place = place  # type: ignore[attr-defined]
    return together


class Handed:
    """A batch of tensors, and lists of them, whose images are `gathered`."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _sent(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _received(value) for name, value in state.items()})


def _sent(value: Any) -> Any:
    if isinstance(value, list):
        return [_sent(one) for one in value]
    place = getattr(value, "place", None)
    if place is not None:
        return place
    return value if value.is_shared() else value.numpy()


def _received(value: Any) -> Any:
    if isinstance(value, list):
        return [_received(one) for one in value]
    if isinstance(value, Place):
        return Handover.known[value.handover].at(value).clone()
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
