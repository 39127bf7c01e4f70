"""Fewer training images than there are: a number of each class, or a long tail."""

import numpy as np

from shards.manifest import Manifest
from shards.reading.order import FEWER, Indices, random_stream


def fewer_of(manifest: Manifest, indices: Indices, per_class: int = 0, imbalance: float = 1.0) -> np.ndarray:
    """Which of `indices` are kept, (len(indices),) bool: a function of keys alone.

    imbalance: of class c of C as many as imbalance ** (-c / (C - 1)) of its images, rounded, but one at least: the
    exponential long tail of Cui et al. 2019 (https://arxiv.org/abs/1901.05555, section 5.1), whose imbalance factor
    this is. per_class: of these at most so many of each class (0: all). Fewer of a class are a part of more of it.
    """
    indices = np.asarray(indices, np.int64)
    labels, keys = manifest.entries.label[indices], manifest.entries.keys_of(indices)
    kept = np.zeros(len(indices), bool)
    last = max(1, len(manifest.classes) - 1)
    for label in np.unique(labels).tolist():
        positions = sorted(np.flatnonzero(labels == label).tolist(), key=keys.__getitem__)
        random_stream(0, FEWER, label).shuffle(positions)
        count = max(1, round(len(positions) * imbalance ** (-label / last)))
        kept[positions[: min(count, per_class or count)]] = True
    return kept
