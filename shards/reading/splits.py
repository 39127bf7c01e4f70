"""Which samples a run trains on, chooses by and is measured on."""

from dataclasses import dataclass

import numpy as np

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.fewer import fewer_of
from shards.reading.order import folds_of, held_out_of


@dataclass(frozen=True)
class Splits:
    """Positions in the manifest.

    train: what is trained on. held_out: the part of train that settings are chosen by, measured at the end: a fold, or
    else the held-out share. watched: what is measured after every epoch and may choose one: the held-out share, or else
    the fold. So a fold's figures are of images that chose nothing. test: the test split.
    """

    train: list[int]
    held_out: list[int]
    watched: list[int]
    test: list[int]


def open_splits(manifest: Manifest, config: DataConfig) -> Splits:
    """The splits a config asks for. Raises UserError for a fold that does not exist and a share that is no image."""
    train, held_out, watched = manifest.split(config.train_split), list[int](), list[int]()
    if config.folds:
        if config.fold >= config.folds or config.folds < 2:
            raise UserError(
                f"data.fold={config.fold} of data.folds={config.folds}: folds are counted from 0, at least 2"
            )
        train, held_out = _parted(train, folds_of(manifest, train, config.folds) == config.fold)
    if config.holdout:
        count = len(train)
        train, watched = _parted(train, held_out_of(manifest, train, config.holdout))
        if not watched:
            raise UserError(f"data.holdout={config.holdout:g}: of {count} training images that is none; hold out more")
    if config.per_class or config.imbalance > 1:
        _, train = _parted(train, fewer_of(manifest, train, config.per_class, config.imbalance))
    test = manifest.members(config.test_split).tolist()
    return Splits(*(limited(part, config.limit) for part in (train, held_out or watched, watched or held_out, test)))


def _parted(indices: list[int], chosen: np.ndarray) -> tuple[list[int], list[int]]:
    """(those that are not chosen, those that are)."""
    every = np.array(indices, np.int64)
    return every[~chosen].tolist(), every[chosen].tolist()


def limited(indices: list[int], limit: int) -> list[int]:
    """An even selection of at most `limit` of them (debugging), in their order."""
    if not limit or len(indices) <= limit:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, limit).round().astype(int)]
