"""Paired bootstrap intervals over images."""

import numpy as np
from scipy.stats import bootstrap

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
    middle = float(difference.mean())
    if len(difference) < 2:
        return middle, middle, middle
    found = bootstrap(
        (difference,), np.mean, n_resamples=draws, batch=500, confidence_level=level, method="percentile",
        vectorized=True, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return middle, float(found.confidence_interval.low), float(found.confidence_interval.high)
