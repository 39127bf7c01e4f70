"""Which samples a run trains on, chooses by and is measured on."""

from dataclasses import dataclass

import numpy as np

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.order import folds_of


@dataclass(frozen=True)
class Splits:
    """Positions in the manifest: what is trained on, what is held out to choose by, and the test split."""

    train: list[int]
    held_out: list[int]
    test: list[int]


def open_splits(manifest: Manifest, config: DataConfig) -> Splits:
    """The splits a config asks for. Raises UserError for a fold that does not exist."""
    train, held_out = manifest.split(config.train_split), []
    if config.folds:
        if config.fold >= config.folds or config.folds < 2:
            raise UserError(
                f"data.fold={config.fold} of data.folds={config.folds}: folds are counted from 0, at least 2"
            )
        fold = folds_of(manifest, train, config.folds)
        whole = np.array(train)
        held_out, train = whole[fold == config.fold].tolist(), whole[fold != config.fold].tolist()
    test = manifest.members(config.test_split).tolist()
    return Splits(*(limited(indices, config.limit) for indices in (train, held_out, test)))


def limited(indices: list[int], limit: int) -> list[int]:
    """An even selection of at most `limit` of them (debugging), in their order."""
    if not limit or len(indices) <= limit:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, limit).round().astype(int)]
