"""Paired bootstrap intervals over images, and over seeds where there are several; p-values, corrected for many."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from shards.errors import UserError

DRAWS = 10_000
BATCH = 500  # draws at a time: bounds the memory


class Interval(NamedTuple):
    """A mean with its confidence interval, and the two-sided p-value of its being 0."""

    middle: float
    low: float
    high: float
    p: float


def paired_interval(
    ours: np.ndarray, theirs: np.ndarray, draws: int = DRAWS, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high) of mean(ours - theirs) by bootstrap over images.

    ours, theirs: (N,) correctness of the same images in the same order; means over seeds are fine (values in 0-1).
    """
    if ours.shape != theirs.shape:
        raise UserError("paired intervals need the same images on both sides")
    return interval_over_images(ours.astype(float) - theirs.astype(float), draws, level, seed)[:3]


def interval_over_images(values: np.ndarray, draws: int = DRAWS, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of (N,) values by percentile bootstrap over images."""
    middle = float(values.mean())
    if len(values) < 2:
        return Interval(middle, middle, middle, 1.0)
    found = bootstrap(
        (values,), np.mean, n_resamples=draws, batch=BATCH, confidence_level=level, method="percentile",
        vectorized=True, rng=np.random.default_rng(seed),
    )  # fmt: skip
    interval = found.confidence_interval
    return Interval(middle, float(interval.low), float(interval.high), _p_value(found.bootstrap_distribution))


def interval_over_seeds(values: np.ndarray, draws: int = DRAWS, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of (S, N) values, S >= 2 seeds of the same N images, by percentile bootstrap over both.

    Every draw takes S seeds and N images with replacement (the "pigeonhole" bootstrap of crossed factors,
    https://arxiv.org/abs/0712.1111). Deviations of seeds from their mean are scaled by sqrt(S / (S - 1)), or the
    spread of few seeds would come out too small: a draw of 2 seeds from 2 has half the variance of 2 new ones.
    """
    seeds, images = values.shape
    mean = values.mean(axis=0, keepdims=True)
    shift = (values - mean).mean(axis=1, keepdims=True)
    scaled = values + shift * ((seeds / (seeds - 1)) ** 0.5 - 1)
    random = np.random.default_rng(seed)
    means = []
    for begin in range(0, draws, BATCH):
        count = min(BATCH, draws - begin)
        of_images = scaled[:, random.integers(images, size=(count, images))].mean(axis=2)  # (S, draws)
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds  # (draws, S)
        means.append((of_images.T * of_seeds).sum(axis=1))
    drawn = np.concatenate(means)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), _p_value(drawn))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): all at or below 0.05 hold together with 95 % confidence."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[int(place)] = largest
    return corrected


def _p_value(drawn: np.ndarray) -> float:
    """Two-sided: twice the smaller share of bootstrap means on either side of 0; never 0, which no sample can show."""
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))
