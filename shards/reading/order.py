"""The order of samples: a pure function of (manifest, seed, epoch), the same for any number of ranks and workers."""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.balance import balanced_draws, numbered

Indices = Sequence[int] | np.ndarray
# Streams of random numbers, so that no two uses share one.
EPOCH, TRANSFORM, MIX, FOLD, VIEW, BALANCE, NOISE, START, ATTENTION, FEWER = range(10)


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


def epoch_order(manifest: Manifest, indices: Indices, seed: int, epoch: int, window: int) -> np.ndarray:
    """The entries of `indices`, in the order of one epoch, (len(indices),) int64.

    Shards are shuffled, then samples within windows of `window` shards: a reader holds at most `window` shards at a
    time, and one that resumes re-reads at most one window.
    """
    random = random_stream(seed, EPOCH, epoch)
    indices = np.asarray(indices, np.int64)
    parts = _grouped(manifest.entries.shard[indices])
    shards = np.arange(len(parts))
    random.shuffle(shards)
    order = []
    for start in range(0, len(shards), window):
        together = indices[np.concatenate([parts[shard] for shard in shards[start : start + window]])]
        random.shuffle(together)
        order.append(together)
    return np.concatenate(order)


def _grouped(values: np.ndarray) -> list[np.ndarray]:
    """The positions of every different value, ascending, in the order of the values."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)


def folds_of(manifest: Manifest, indices: Indices, folds: int, seed: int = 0) -> np.ndarray:
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


def held_out_of(manifest: Manifest, indices: Indices, share: float, seed: int = 0) -> np.ndarray:
    """Which entries of `indices` are held out, (len(indices),) bool: `share` of them (up to a half), stratified by
    class, a function of keys and `seed` alone. Images with the same bytes stay together.

    Of every 1 / share images of a class one is held out, so that a rare class may have none; its only image never is.
    """
    place, different = _dealt(manifest, indices, seed)
    exact = Fraction(str(share))
    chosen = (place + 1) * exact.numerator // exact.denominator > place * exact.numerator // exact.denominator
    alone = [label for label, count in different.items() if count < 2]
    return chosen & ~np.isin(manifest.entries.label[np.asarray(indices, np.int64)], alone)


def _dealt(manifest: Manifest, indices: Indices, seed: int) -> tuple[np.ndarray, dict[int, int]]:
    """Every entry's place, (len(indices),) int64, where the images are dealt out class by class, each class shuffled;
    images with the same bytes share one. And by label the number of places, those of its different images."""
    indices = np.asarray(indices, np.int64)
    place, different = np.zeros(len(indices), dtype=np.int64), dict[int, int]()
    leader = _leaders(manifest, indices)
    follows = np.isin(indices, list(leader))
    labels, keys = manifest.entries.label[indices], manifest.entries.keys_of(indices)
    start = 0
    for of_class in _grouped(labels):
        label = int(labels[of_class[0]])
        positions = of_class[~follows[of_class]].tolist()
        different[label] = len(positions)
        positions.sort(key=keys.__getitem__)
        random_stream(seed, FOLD, label).shuffle(positions)
        # Every class starts where the one before it ended, so that parts of the whole are of equal size too.
        place[positions] = start + np.arange(len(positions))
        start += len(positions)
    place_of = dict(zip(indices.tolist(), place.tolist(), strict=True)) if leader else {}
    for position in np.flatnonzero(follows).tolist():
        place[position] = place_of[leader[int(indices[position])]]
    return place, different


def _leaders(manifest: Manifest, indices: np.ndarray) -> dict[int, int]:
    """Entry -> the entry with the same bytes whose place it shares, for all but one entry of each group."""
    if not manifest.duplicates:
        return {}
    chosen = set(indices.tolist())
    leader: dict[int, int] = {}
    for group in manifest.duplicates:
        same = sorted(chosen.intersection(group), key=manifest.entries.key)
        leader |= dict.fromkeys(same[1:], same[0]) if same else {}
    return leader


def _epoch_draws(
    manifest: Manifest, indices: Indices, seed: int, epoch: int, window: int, balance: float
) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, entries) in the order of one epoch. The number is the epoch, or of an entry that is drawn again what
    `numbered` gives."""
    indices = np.asarray(indices, np.int64)
    if not balance:
        return np.full(len(indices), epoch), epoch_order(manifest, indices, seed, epoch, window)
    labels = manifest.entries.label[indices]
    drawn = balanced_draws(indices, labels, random_stream(seed, BALANCE, epoch), balance)
    order = epoch_order(manifest, drawn, seed, epoch, window)
    return numbered(order, epoch), order


def global_batches(
    manifest: Manifest, indices: Indices, seed: int, batch: int, epochs: int, window: int, start_step: int = 0,
    balance: float = 0.0,
) -> Iterator[list[tuple[int, int]]]:  # fmt: skip
    """Every global batch from `start_step` on: lists of `batch` (epoch, entry); an epoch's incomplete last batch is
    left out (the next epoch's order differs, so no sample is left out for good). balance: of `balanced_draws` (0: every
    entry once an epoch)."""
    per_epoch = len(indices) // batch
    for epoch in range(start_step // per_epoch, epochs):
        draws = _epoch_draws(manifest, indices, seed, epoch, window, balance)
        first = start_step - epoch * per_epoch if epoch == start_step // per_epoch else 0
        for step in range(first, per_epoch):
            numbers, entries = (column[step * batch : (step + 1) * batch].tolist() for column in draws)
            yield list(zip(numbers, entries, strict=True))


def rank_batches(
    global_batch: list[tuple[int, int]], rank: int, ranks: int, accumulation: int
) -> list[list[tuple[int, int]]]:
    """One rank's micro-batches of a global batch: contiguous slices, so that mixing partners (neighbours) stay
    together."""
    micro = len(global_batch) // (ranks * accumulation)
    return [
        global_batch[(turn * ranks + rank) * micro : (turn * ranks + rank + 1) * micro] for turn in range(accumulation)
    ]
