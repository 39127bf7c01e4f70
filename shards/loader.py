"""Batches: training in the contract's order for any rank, evaluation with every sample exactly once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from shards.crops import WHOLE, View
from shards.data import DataConfig
from shards.decode import decode
from shards.manifest import Manifest
from shards.order import global_batches, rank_batches, transform_seed, view_choice
from shards.reader import Reader
from shards.transforms import Transform, seeded


@dataclass
class Batch:
    """images: (N, 3, H, W) uint8. labels, entries, epochs: (N,) int64. entries index the manifest."""

    images: torch.Tensor
    labels: torch.Tensor
    entries: torch.Tensor
    epochs: torch.Tensor


class Samples(Dataset):
    """(epoch, entry) -> image and label. epoch -1 means evaluation: no chance."""

    def __init__(self, manifest: Manifest, cache: str, views: Sequence[View], transform: Transform, seed: int) -> None:
        self.reader = Reader(manifest, cache)
        self.views, self.transform, self.seed = views, transform, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, int, int, int]:
        epoch, index = place
        entry = self.reader.manifest.entries[index]
        image = decode(self.reader.read(index), entry.key)
        if epoch < 0:
            image = self.transform(self.views[0].cut(image, index))
        else:
            view = self.views[view_choice(self.seed, epoch, index, len(self.views))]
            image = seeded(self.transform, view.cut(image, index), transform_seed(self.seed, epoch, index))
        return image, entry.label, index, epoch


def collate(rows: list[tuple[torch.Tensor, int, int, int]]) -> Batch:
    images, labels, entries, epochs = zip(*rows, strict=True)
    # In a worker, default_collate stacks straight into memory shared with the main process: one copy less.
    return Batch(default_collate(list(images)), torch.tensor(labels), torch.tensor(entries), torch.tensor(epochs))


@dataclass(frozen=True)
class Place:
    """Which rank of how many reads, and how many micro-batches make its part of a global batch."""

    rank: int = 0
    ranks: int = 1
    accumulation: int = 1


def train_loader(
    manifest: Manifest,
    members: Sequence[int],
    config: DataConfig,
    transform: Transform,
    *,
    views: Sequence[View] = (WHOLE,),
    seed: int,
    batch: int,
    epochs: int,
    start_step: int = 0,
    place: Place = Place(),
    workers: int = 0,
) -> Iterator[Batch]:
    """This rank's micro-batches of every step from `start_step` to the end of the last epoch, `place.accumulation` of
    them a step. Of several views of a sample an epoch takes one, drawn by (seed, epoch, entry)."""
    batches = [
        micro
        for whole in global_batches(manifest, members, seed, batch, epochs, config.window, start_step)
        for micro in rank_batches(whole, place.rank, place.ranks, place.accumulation)
    ]
    return iter(_loader(Samples(manifest, config.cache, views, transform, seed), batches, workers))


def eval_loader(
    manifest: Manifest,
    members: Sequence[int],
    config: DataConfig,
    transform: Transform,
    *,
    view: View = WHOLE,
    batch: int,
    place: Place = Place(),
    workers: int = 0,
) -> DataLoader:
    """This rank's share of `members` in one view, each once over all ranks; the last batch may be smaller."""
    mine = np.asarray(members)[place.rank :: place.ranks]
    batches = [[(-1, int(entry)) for entry in mine[at : at + batch]] for at in range(0, len(mine), batch)]
    return _loader(Samples(manifest, config.cache, [view], transform, 0), batches, workers)


def _loader(samples: Samples, batches: list[list[tuple[int, int]]], workers: int) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        # Workers draw a base seed from the global generator otherwise, which training's own draws would feel.
        generator=torch.Generator(),
        worker_init_fn=_single_thread,
    )


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)  # one core a worker; more only fight over the others' cores
