"""The order of samples: a pure function of (manifest, seed, epoch), the same for any number of ranks and workers."""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.balance import balanced_draws, numbered

# Streams of random numbers, so that no two uses share one.
EPOCH, TRANSFORM, MIX, FOLD, VIEW, BALANCE, NOISE, START = range(8)


def random_stream(seed: int, *path: int) -> np.random.Generator:
    """An independent generator for (seed, path), e.g. (seed, TRANSFORM, epoch, sample)."""
    return np.random.default_rng([seed, *path])


def transform_seed(seed: int, epoch: int, entry: int) -> int:
    """The seed, in [0, 2**63), of a sample's transforms in one epoch."""
    return _sample_hash(seed, TRANSFORM, epoch, entry)


def view_choice(seed: int, epoch: int, entry: int, views: int) -> int:
    """Which of several views of a sample is trained on in one epoch."""
    return _sample_hash(seed, VIEW, epoch, entry) % views


def _sample_hash(*path: int) -> int:
    """A number in [0, 2**63). A hash takes 1 us, a generator of NumPy's 30."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, path)).encode(), digest_size=8).digest(), "little") >> 1


def epoch_order(manifest: Manifest, indices: Sequence[int], seed: int, epoch: int, window: int) -> np.ndarray:
    """The entries of `indices`, in the order of one epoch, (len(indices),) int64.

    Shards are shuffled, then samples within windows of `window` shards: a reader holds at most `window` shards at a
    time, and one that resumes re-reads at most one window.
    """
    random = random_stream(seed, EPOCH, epoch)
    of_shard: dict[int, list[int]] = {}
    for index in indices:
        of_shard.setdefault(manifest.entries[index].shard, []).append(index)
    shards = np.array(sorted(of_shard))
    random.shuffle(shards)
    order = []
    for start in range(0, len(shards), window):
        together = np.array([m for shard in shards[start : start + window] for m in of_shard[int(shard)]])
        random.shuffle(together)
        order.append(together)
    return np.concatenate(order)


def folds_of(manifest: Manifest, indices: Sequence[int], folds: int, seed: int = 0) -> np.ndarray:
    """The fold of every entry of `indices`, (len(indices),) int64: stratified by class, a function of keys and
    `seed` alone. Images with the same bytes are in one fold.

    Raises UserError when a class has fewer different images than there are folds.
    """
    place, different = _dealt(manifest, indices, seed)
    for label, count in different.items():
        if count < folds:
            raise UserError(
                f"{manifest.folder}: class '{manifest.classes[label]}' has {count} different training images, "
                f"too few for data.folds={folds}; use fewer folds"
            )
    return place % folds


def held_out_of(manifest: Manifest, indices: Sequence[int], share: float, seed: int = 0) -> np.ndarray:
    """Which entries of `indices` are held out, (len(indices),) bool: `share` of them (up to a half), stratified by
    class, a function of keys and `seed` alone. Images with the same bytes stay together.

    Of every 1 / share images of a class one is held out, so that a rare class may have none; its only image never is.
    """
    place, different = _dealt(manifest, indices, seed)
    exact = Fraction(str(share))
    chosen = (place + 1) * exact.numerator // exact.denominator > place * exact.numerator // exact.denominator
    alone = {label for label, count in different.items() if count < 2}
    return chosen & np.array([manifest.entries[index].label not in alone for index in indices], dtype=bool)


def _dealt(manifest: Manifest, indices: Sequence[int], seed: int) -> tuple[np.ndarray, dict[int, int]]:
    """Every entry's place, (len(indices),) int64, where the images are dealt out class by class, each class shuffled;
    images with the same bytes share one. And by label the number of places, those of its different images."""
    place = np.zeros(len(indices), dtype=np.int64)
    leader = _leaders(manifest, indices)
    of_class: dict[int, list[int]] = {}
    for position, index in enumerate(indices):
        positions = of_class.setdefault(manifest.entries[index].label, [])
        if index not in leader:
            positions.append(position)
    start = 0
    for label, positions in sorted(of_class.items()):
        positions.sort(key=lambda position: manifest.entries[indices[position]].key)
        random_stream(seed, FOLD, label).shuffle(positions)
        # Every class starts where the one before it ended, so that parts of the whole are of equal size too.
        place[positions] = start + np.arange(len(positions))
        start += len(positions)
    place_of = dict(zip(indices, place.tolist(), strict=True))
    for position, index in enumerate(indices):
        if index in leader:
            place[position] = place_of[leader[index]]
    return place, {label: len(positions) for label, positions in sorted(of_class.items())}


def _leaders(manifest: Manifest, indices: Sequence[int]) -> dict[int, int]:
    """Entry -> the entry with the same bytes whose place it shares, for all but one entry of each group."""
    chosen = set(indices)
    leader: dict[int, int] = {}
    for group in manifest.duplicates:
        same = sorted(chosen.intersection(group), key=lambda index: manifest.entries[index].key)
        leader |= dict.fromkeys(same[1:], same[0]) if same else {}
    return leader


def _epoch_draws(
    manifest: Manifest, indices: Sequence[int], seed: int, epoch: int, window: int, balance: float
) -> list[tuple[int, int]]:
    """(epoch, entry) in the order of one epoch; of an entry that is drawn again, the number that `numbered` gives."""
    if not balance:
        return [(epoch, int(entry)) for entry in epoch_order(manifest, indices, seed, epoch, window)]
    labels = np.array([manifest.entries[index].label for index in indices])
    drawn = balanced_draws(np.asarray(indices), labels, random_stream(seed, BALANCE, epoch), balance)
    order = epoch_order(manifest, drawn.tolist(), seed, epoch, window)
    return list(zip(numbered(order, epoch).tolist(), order.tolist(), strict=True))


def global_batches(
    manifest: Manifest, indices: Sequence[int], seed: int, batch: int, epochs: int, window: int, start_step: int = 0,
    balance: float = 0.0,
) -> Iterator[list[tuple[int, int]]]:  # fmt: skip
    """Every global batch from `start_step` on: lists of `batch` (epoch, entry); an epoch's incomplete last batch is
    left out (the next epoch's order differs, so no sample is left out for good). balance: of `balanced_draws` (0: every
    entry once an epoch)."""
    per_epoch = len(indices) // batch
    for epoch in range(start_step // per_epoch, epochs):
        order = _epoch_draws(manifest, indices, seed, epoch, window, balance)
        first = start_step - epoch * per_epoch if epoch == start_step // per_epoch else 0
        for step in range(first, per_epoch):
            yield order[step * batch : (step + 1) * batch]


def rank_batches(
    global_batch: list[tuple[int, int]], rank: int, ranks: int, accumulation: int
) -> list[list[tuple[int, int]]]:
    """One rank's micro-batches of a global batch: contiguous slices, so that mixing partners (neighbours) stay
    together."""
    micro = len(global_batch) // (ranks * accumulation)
    return [
        global_batch[(turn * ranks + rank) * micro : (turn * ranks + rank + 1) * micro] for turn in range(accumulation)
    ]
