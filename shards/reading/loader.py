"""Batches: training in the contract's order for any rank, evaluation with every sample exactly once."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from shards.heap import keep_freed_memory
from shards.manifest import Manifest
from shards.reading.balance import AGAIN
from shards.reading.decode import decode
from shards.reading.handover import PREFETCH, Handed, Handover, begin_handover, gathered, handover_for
from shards.reading.order import global_batches, rank_batches, transform_seed, view_choice
from shards.reading.reader import Reader
from shards.reading.transforms import ByEpoch, Transform, kept_generator, seed_generator
from shards.reading.views import WHOLE, View
from shards.signals import end_with_parent, obey_only_the_parent


@dataclass
class Batch(Handed):
    """images: (N, 3, H, W) uint8, channels_last. labels, entries, epochs: (N,) int64. entries index the manifest."""

    images: torch.Tensor
    labels: torch.Tensor
    entries: torch.Tensor
    epochs: torch.Tensor

    def pin_memory(self) -> "Batch":
        """Called by the loader where there is a GPU, so that copies to it need not wait."""
        self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        return self


Row = tuple[torch.Tensor, int, int, int]  # image, label, entry, epoch


class Samples(Dataset):
    """(epoch, entry) -> image, label, entry, epoch. epoch -1 means evaluation: deterministic, the first view. In
    training an epoch takes one of several views, drawn by (seed, epoch, entry)."""

    def __init__(
        self, manifest: Manifest, transform: Transform | ByEpoch, views: Sequence[View] = (WHOLE,), *, cache: str = "",
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.reader = Reader(manifest, cache)
        self.views, self.transform, self.seed = views, transform, seed

    def __getitem__(self, place: tuple[int, int]) -> Row:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[tuple[int, int]]) -> list[Row]:
        """The samples of a batch. Everything but the images is looked up for the whole batch first: in between, where
        decoding has just emptied the processor's caches, it takes several times as long. torch's generator, which is
        seeded for each image, is put back once."""
        entries, indices = self.reader.manifest.entries, np.array([index for _, index in places], np.int64)
        labels, stored = entries.label[indices].tolist(), self.reader.stored(indices)
        seeds = [transform_seed(self.seed, epoch, index) if epoch >= 0 else None for epoch, index in places]
        rows: list[Row] = []
        with kept_generator():
            for (epoch, index), label, where, seed in zip(places, labels, stored, seeds, strict=True):
                image = decode(self.reader.read_at(index, *where), partial(entries.key, index))
                if seed is not None:
                    seed_generator(seed)
                image = self._transform(epoch)(self._view(epoch, index).cut(image, index))
                rows.append((image, label, index, epoch))
        return rows

    def _view(self, epoch: int, index: int) -> View:
        if epoch < 0 or len(self.views) == 1:
            return self.views[0]
        return self.views[view_choice(self.seed, epoch, index, len(self.views))]

    def _transform(self, epoch: int) -> Transform:
        return self.transform.at(epoch % AGAIN) if isinstance(self.transform, ByEpoch) else self.transform


def collate(rows: list[Row]) -> Batch:
    images, labels, entries, epochs = zip(*rows, strict=True)
    return Batch(gathered(list(images)), torch.tensor(labels), torch.tensor(entries), torch.tensor(epochs))


@dataclass(frozen=True)
class Place:
    """Which rank of how many reads, and how many micro-batches make its part of a global batch."""

    rank: int = 0
    ranks: int = 1
    accumulation: int = 1


def train_loader(
    manifest: Manifest,
    indices: Sequence[int],
    samples: Dataset,
    *,
    seed: int,
    batch: int,
    epochs: int,
    window: int = 16,
    start_step: int = 0,
    place: Place = Place(),
    workers: int = 0,
    balance: float = 0.0,
    blend: Callable[[list[tuple[int, int]], int], list[tuple[int, int]]] | None = None,
    collate: Callable[[list], Any] = collate,
) -> Iterator[Any]:
    """This rank's micro-batches of every step from `start_step` to the end of the last epoch, `place.accumulation` of
    them a step.

    samples: maps (epoch, entry) to a sample, random only by `transform_seed(seed, epoch, entry)`.
    balance: how far rare classes are drawn as often as others (shards/reading/balance.py).
    blend: the global batch of a step, and its number -> what is read instead (shards/reading/synthetic.py).
    collate: a list of such samples -> a batch.
    """

    def micro_batches() -> Iterator[list[tuple[int, int]]]:
        wholes = global_batches(manifest, indices, seed, batch, epochs, window, start_step, balance)
        for step, whole in enumerate(wholes, start=start_step):
            whole = blend(whole, step) if blend is not None else whole
            yield from rank_batches(whole, place.rank, place.ranks, place.accumulation)

    return iter(_loader(samples, _Drawn(micro_batches), workers, collate))


def eval_loader(
    indices: Sequence[int],
    samples: Dataset,
    *,
    batch: int,
    place: Place = Place(),
    workers: int = 0,
    collate: Callable[[list], Any] = collate,
) -> DataLoader:
    """This rank's share of `indices`, each once over all ranks; the last batch may be smaller. Epoch is -1."""
    mine = np.asarray(indices)[place.rank :: place.ranks]
    batches = [[(-1, int(entry)) for entry in mine[at : at + batch]] for at in range(0, len(mine), batch)]
    return _loader(samples, batches, workers, collate)


def chunk_loader(chunks: Sequence[Sequence[int]], samples: Dataset, *, workers: int = 0) -> DataLoader:
    """One batch a chunk of entries, in that order, for evaluation. Epoch is -1."""
    return _loader(samples, [[(-1, int(entry)) for entry in chunk] for chunk in chunks], workers, collate)


class _Drawn:
    """Batches that are drawn as they are needed, an epoch's order at a time: a hundred epochs of a large set as a list
    take minutes to draw and gigabytes to hold."""

    def __init__(self, draw: Callable[[], Iterator[list[tuple[int, int]]]]) -> None:
        self._draw = draw

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._draw()


def _loader(
    samples: Dataset, batches: Iterable[list[tuple[int, int]]], workers: int, collate: Callable[[list], Any]
) -> DataLoader:
    keep_freed_memory()
    return _Loader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=PREFETCH if workers else None,
        # Workers draw a base seed from the global generator otherwise, which training's own draws would feel.
        generator=torch.Generator(),
    )


class _Loader(DataLoader):
    def __iter__(self) -> Any:
        handover = handover_for(self.num_workers)  # of this iteration alone: another one has workers of its own
        self.worker_init_fn = partial(_begin_worker, os.getpid(), handover)
        iteration = super().__iter__()
        self.worker_init_fn = None  # the iteration has it, and gives the memory back when it ends
        if handover is not None:
            handover.shut()
        return iteration


def _begin_worker(parent: int, handover: Handover | None, worker: int) -> None:
    begin_handover(handover, worker)
    keep_freed_memory()
    torch.set_num_threads(1)  # one core a worker; more only fight over the others' cores
    obey_only_the_parent()
    end_with_parent(parent, signal.SIGKILL)  # a worker that outlives its rank keeps the rank's connections open
