"""Paired bootstrap intervals over images."""

import numpy as np

from shards.errors import UserError


def paired_interval(
    ours: np.ndarray, theirs: np.ndarray, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high) of mean(ours - theirs) by bootstrap over images.

    ours, theirs: (N,) correctness of the same images in the same order; means over seeds are fine (values in 0-1).
    """
    if ours.shape != theirs.shape:
        raise UserError("paired intervals need the same images on both sides")
    difference = ours.astype(float) - theirs.astype(float)
    random = np.random.default_rng(seed)
    means = np.array([difference[random.integers(len(difference), size=len(difference))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(difference.mean()), float(low), float(high)
