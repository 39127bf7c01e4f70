"""Intervals over seeds and images against simulated truth and a reference in plain loops; Holm by hand."""

import numpy as np
import pytest
from scipy import stats

from fgvc.study.statistics import holm, interval_over_images, interval_over_seeds, paired_interval


def test_paired_interval_agrees_with_scipy():
    random = np.random.default_rng(1)
    theirs = random.random(400) < 0.7
    ours = np.where(random.random(400) < 0.8, theirs, random.random(400) < 0.9)
    difference, low, high = paired_interval(ours, theirs)
    reference = stats.bootstrap(
        (ours.astype(float), theirs.astype(float)), lambda a, b, axis: (a - b).mean(axis=axis), paired=True,
        vectorized=True, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert difference == pytest.approx(ours.mean() - theirs.mean())
    assert (low, high) == pytest.approx(reference.confidence_interval, abs=0.003)
    # Against the normal approximation of a paired difference too: the point of pairing is this small an error.
    error = (ours.astype(float) - theirs).std() / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def crossed(random: np.random.Generator, seeds: int, spread: float) -> np.ndarray:
    """(seeds, 150) values of true mean 0: an effect of the image, of the seed, and of both."""
    images = random.normal(0, 0.4, 150)
    return images + random.normal(0, spread, (seeds, 1)) + random.normal(0, 0.3, (seeds, 150))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_interval_over_seeds_covers_the_truth_where_seeds_differ(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    both = images = 0
    for _ in range(150):
        values = crossed(random, seeds, spread=0.06)
        wide, narrow = interval_over_seeds(values, draws=1000), interval_over_images(values.mean(0), draws=1000)
        both += wide.low <= 0 <= wide.high
        images += narrow.low <= 0 <= narrow.high
    assert both / 150 > 0.87  # 95 % is meant; of two seeds nobody can know the spread well
    assert images < both  # which takes the seeds' spread for none


def test_interval_over_seeds_is_that_of_plain_loops() -> None:
    values = crossed(np.random.default_rng(3), 3, spread=0.05)
    found = interval_over_seeds(values)
    of_seed = values.mean(1) - values.mean()
    scaled = values + of_seed[:, None] * ((3 / 2) ** 0.5 - 1)
    random = np.random.default_rng(8)
    together = []
    for _ in range(4000):
        rows, columns = random.integers(3, size=3), random.integers(150, size=150)
        together.append(scaled[rows][:, columns].mean())
    assert found.middle == values.mean()
    assert (found.low, found.high) == pytest.approx(np.quantile(together, [0.025, 0.975]), abs=0.012)


def test_p_value_agrees_with_a_t_test() -> None:
    for shift, seed in ((0.0, 1), (0.05, 2), (0.08, 3)):
        values = np.random.default_rng(seed).normal(shift, 0.5, 400)
        assert interval_over_images(values).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert interval_over_images(np.ones(50)).p == pytest.approx(2 / 10_001)
    assert interval_over_images(np.zeros(50)).p == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
