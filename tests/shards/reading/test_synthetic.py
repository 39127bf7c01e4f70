"""Synthetic images among real ones: shares, turns and classes, as functions of the step, on any ranks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from shards.entries import Entries
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import ImageConfig, SyntheticConfig
from shards.reading.loader import Place, Samples, train_loader
from shards.reading.synthetic import OTHER_SEED, Blend, BlendedSamples, open_blend
from shards.reading.transforms import train_transform


def blends(ratio: float, weights: np.ndarray | None = None, steps: int = 60, batch: int = 10) -> list[list[int]]:
    """The synthetic entries of every step; 100 real images, 12 synthetic ones of three classes."""
    blend = Blend(100, np.arange(12) % 3, ratio / (1 + ratio), weights, 0)
    real = [[(0, (step * batch + place) % 100) for place in range(batch)] for step in range(steps)]
    found = [blend.blend(row, step) for step, row in enumerate(real)]
    for before, after in zip(real, found, strict=True):
        assert all(ours == theirs or ours[1] >= 100 for theirs, ours in zip(before, after, strict=True))
    return [[entry - 100 for _, entry in row if entry >= 100] for row in found]


@pytest.mark.parametrize(("ratio", "share"), [(1.0, 0.5), (2.0, 2 / 3), (0.25, 0.2), (0.05, 1 / 21)])
def test_the_share_is_kept_over_steps_and_images_take_turns(ratio: float, share: float) -> None:
    found = blends(ratio)
    counts = np.cumsum([len(row) for row in found])
    assert np.abs(counts - share * 10 * np.arange(1, 61)).max() < 1
    times = Counter(entry for row in found for entry in row)
    assert set(times) == set(range(12)) or counts[-1] < 12 * 3
    assert max(times.values()) - min(times.values()) <= 1


def test_weights_decide_how_often_a_class_is_taken() -> None:
    found = blends(1.0, np.array([0.0, 0.25, 0.75]), steps=200)
    of_class = Counter(entry % 3 for row in found for entry in row)
    assert of_class[0] == 0
    assert of_class[2] / sum(of_class.values()) == pytest.approx(0.75, abs=0.05)


def test_a_step_is_the_same_whatever_was_before_it() -> None:
    blend = Blend(100, np.zeros(12, np.int64), 0.5, None, 3)
    row = [(4, place) for place in range(10)]
    assert blend.blend(row, 17) == blend.blend(row, 17)
    assert blend.blend(row, 17) != blend.blend(row, 18)
    assert blend.blend(row, 17) != replace(blend, seed=4).blend(row, 17)


def test_ranks_and_a_resumed_run_read_the_same_batches(guide: Manifest) -> None:
    """Shards that play both parts: entry 108 + i is synthetic image i, with a transform of its own."""
    transform, train, offset = train_transform(ImageConfig(), 32), guide.split("train"), len(guide.entries)
    real, made = Samples(guide, transform, seed=0), Samples(guide, transform, seed=OTHER_SEED)
    blend = open_blend(SyntheticConfig(), guide, guide, train, 0)

    def batches(start: int = 0, place: Place | None = None, workers: int = 0) -> list:
        loader = train_loader(
            guide, train, BlendedSamples(real, made, blend), seed=0, batch=16, epochs=2, start_step=start,
            place=place or Place(),
            workers=workers, blend=blend.blend,
        )  # fmt: skip
        return list(loader)

    whole = batches()
    assert len(whole) == 10
    entries = torch.cat([batch.entries for batch in whole])
    assert (entries >= offset).sum() == 80
    labels = torch.tensor([guide.entries[entry % offset].label for entry in entries.tolist()])
    assert torch.cat([batch.labels for batch in whole]).equal(labels)
    halves = [batches(start=3, place=Place(rank, 2), workers=1) for rank in (0, 1)]
    for step, pair in enumerate(zip(*halves, strict=True), start=3):
        assert torch.cat([batch.entries for batch in pair]).equal(whole[step].entries)
        assert torch.cat([batch.images for batch in pair]).equal(whole[step].images)


def test_rare_classes_are_those_below_the_mean(guide: Manifest) -> None:
    train = guide.split("train")
    rare = [index for index in train if guide.entries[index].label != 2 or index % 5 == 0]
    blend = open_blend(SyntheticConfig(classes="rare"), guide, guide, rare, 0)
    assert blend.weights is not None
    assert blend.weights.tolist() == [0, 0, 1, 0]
    counts = np.bincount([guide.entries[index].label for index in rare])
    balanced = open_blend(SyntheticConfig(classes="balance"), guide, guide, rare, 0)
    assert balanced.weights is not None
    lacking = counts.max() - counts
    assert np.allclose(balanced.weights, lacking / lacking.sum())
    with pytest.raises(UserError, match=r"no class of .* is rarer than others"):
        open_blend(SyntheticConfig(classes="balance"), guide, guide, train, 0)
    with pytest.raises(UserError, match="has no class"):
        open_blend(SyntheticConfig("x"), replace(guide, classes=("other",)), guide, train, 0)


def test_images_of_some_classes_only_keep_their_class(guide: Manifest) -> None:
    """Synthetic shards need not have every class: labels are matched by name."""
    entries = [replace(entry, label=entry.label - 2) for entry in guide.entries if entry.label >= 2]
    some = replace(guide, classes=guide.classes[2:], entries=Entries.of(entries))
    blend = open_blend(SyntheticConfig(), some, guide, guide.split("train"), 0)
    assert set(blend.labels.tolist()) == {2, 3}
    transform = train_transform(ImageConfig(), 32)
    samples = BlendedSamples(Samples(guide, transform), Samples(some, transform), blend)
    first = len(guide.entries)
    assert [samples[0, first + i][1] for i in (0, len(entries) - 1)] == [entries[0].label + 2, entries[-1].label + 2]
