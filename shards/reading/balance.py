"""Balanced sampling: one epoch's draws where rare classes are drawn more often than they have images."""

import numpy as np

AGAIN = 1 << 32  # more than any run has epochs


def balanced_draws(
    indices: np.ndarray, labels: np.ndarray, random: np.random.Generator, balance: float
) -> np.ndarray:  # fmt: skip
    """As many of `indices`, (N,), as there are, some several times, others not. A class that has n of them is drawn in
    proportion to n ** (1 - balance) (https://arxiv.org/abs/1910.09217, section 4.1: their q is 1 - balance).

    labels: (N,), of `indices`. Within a class no image is drawn more than once more often than another. Where an
    expected number of draws is not whole, chance decides: over the epochs every class gets its share.
    """
    _, counts = np.unique(labels, return_counts=True)
    weights = counts.astype(float) ** (1 - balance)
    ends = np.floor(np.cumsum(weights) / weights.sum() * len(indices) + random.random()).astype(int)
    ends[-1] = len(indices)  # a sum of floats may fall short of it
    of_class = np.split(indices[np.argsort(labels, kind="stable")], np.cumsum(counts)[:-1])
    drawn = [np.resize(random.permutation(part), n) for part, n in zip(of_class, np.diff(ends, prepend=0), strict=True)]
    return np.concatenate(drawn)


def numbered(order: np.ndarray, epoch: int) -> np.ndarray:
    """The number of every draw, (N,): the epoch, and for each time that an entry was drawn in it before `AGAIN` more,
    as if it were of an epoch far away, so that it gets transforms of its own."""
    places = np.argsort(order, kind="stable")
    first = np.flatnonzero(np.diff(order[places], prepend=-1))  # where another entry begins
    runs = np.diff(first, append=len(order))
    before = np.empty(len(order), dtype=np.int64)
    before[places] = np.arange(len(order)) - np.repeat(first, runs)
    return epoch + before * AGAIN
