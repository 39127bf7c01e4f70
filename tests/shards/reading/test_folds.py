"""Folds and held-out shares: stratified, exact duplicates together, the same whatever reads them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_images import make_raw, unlike_classes

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.reading.config import DataConfig
from shards.reading.fewer import fewer_of
from shards.reading.order import folds_of, held_out_of
from shards.reading.splits import open_splits


def test_the_held_out_share_is_stratified(guide: Manifest) -> None:
    indices = guide.split("train")
    labels = np.array([guide.entries[index].label for index in indices])
    chosen = held_out_of(guide, indices, 0.1)
    assert np.bincount(labels[chosen]).tolist() == [2, 2, 2, 2]
    assert held_out_of(guide, indices[::-1], 0.1)[::-1].tolist() == chosen.tolist()  # a function of keys
    for share, count in ((0.25, 20), (0.29, 23), (0.3, 24), (1 / 3, 26), (0.5, 40)):
        assert held_out_of(guide, indices, share).sum() == count
    few = unlike_classes(guide)
    few_labels = np.array([guide.entries[index].label for index in few])
    chosen = held_out_of(guide, few, 0.5)
    assert np.bincount(few_labels[chosen], minlength=4).tolist() in ([10, 4, 1, 0], [10, 5, 1, 0])
    assert not held_out_of(guide, few, 0.02).any()


def test_splits_hold_out_a_fold_a_share_or_both(guide: Manifest) -> None:
    def keys(**settings: float) -> list[set[int]]:
        splits = open_splits(guide, DataConfig(**settings))
        return [set(part) for part in (splits.train, splits.held_out, splits.watched)]

    everything = set(guide.split("train"))
    assert keys() == [everything, set(), set()]
    train, held, watched = keys(holdout=0.2)
    assert held == watched == everything - train
    assert len(held) == 16
    of_fold, fold, same = keys(folds=4, fold=2)
    assert fold == same == everything - of_fold
    train, held, watched = keys(folds=4, fold=2, holdout=0.2)
    assert held == fold
    assert len(watched) == 12
    assert train == everything - held - watched


def test_folds_are_stratified_and_cover_train(guide: Manifest) -> None:
    indices = guide.split("train")
    fold = folds_of(guide, indices, 5)
    assert np.bincount(fold).tolist() == [16] * 5
    for label in range(4):
        mine = [number for number, index in zip(fold, indices, strict=True) if guide.entries[index].label == label]
        assert np.bincount(mine).tolist() == [4] * 5
    with pytest.raises(UserError, match=r"too few for data\.folds=21"):
        folds_of(guide, indices, 21)


def test_folds_of_data_without_duplicates_are_the_published_ones(guide: Manifest) -> None:
    """Runs are identified by folds and figures were measured on them: they may not move."""
    assert guide.duplicates == ()
    indices = guide.split("train")
    assert folds_of(guide, indices, 5)[:12].tolist() == [1, 2, 1, 0, 4, 1, 4, 0, 4, 1, 3, 0]
    folds = [folds_of(guide, indices, count, seed).tolist() for count, seed in ((2, 0), (5, 0), (3, 1))]
    assert hashlib.sha256(str(folds).encode()).hexdigest()[:16] == "86644f64e682b3a1"


def test_exact_duplicates_are_in_one_fold(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", train=96, test=48)
    for number in range(36):  # pairs in one class, in two classes, and a triple
        other = number + 48 if number % 3 else number + 49
        (tmp_path / f"raw/bird {other}.jpg").write_bytes((tmp_path / f"raw/bird {number}.jpg").read_bytes())
    (tmp_path / "raw/bird 95.jpg").write_bytes((tmp_path / "raw/bird 1.jpg").read_bytes())
    manifest = build(raw, tmp_path / "out", BuildOptions(workers=2))
    assert read_manifest(tmp_path / "out").duplicates == manifest.duplicates
    assert sorted(len(group) for group in manifest.duplicates).count(3) >= 1
    indices = manifest.split("train")
    for seed in range(3):
        fold = dict(zip(indices, folds_of(manifest, indices, 4, seed).tolist(), strict=True))
        for group in manifest.duplicates:
            assert len({fold[index] for index in group}) == 1
        counts = np.bincount(list(fold.values()))
        assert max(counts) - min(counts) <= 8
        assert {fold[index] for index in indices if manifest.entries[index].label == 0} == {0, 1, 2, 3}
        held = dict(zip(indices, held_out_of(manifest, indices, 0.25, seed).tolist(), strict=True))
        assert all(len({held[index] for index in group}) == 1 for group in manifest.duplicates)
        assert 0.15 < np.mean(list(held.values())) < 0.35
    older = replace(manifest, duplicates=())
    split = dict(zip(indices, folds_of(older, indices, 4).tolist(), strict=True))
    assert any(len({split[index] for index in group}) > 1 for group in manifest.duplicates)


def test_fewer_of_each_class_are_trained_on_and_the_rest_stays(guide: Manifest) -> None:
    """20 images of 4 classes; fewer are a part of more, whatever the order they are given in."""

    def train(**settings: float) -> list[int]:
        return open_splits(guide, DataConfig(folds=4, fold=1, **settings)).train

    def counts(indices: list[int]) -> list[int]:
        return np.bincount(guide.entries.label[indices], minlength=4).tolist()

    whole, ten, three = train(), train(per_class=10), train(per_class=3)
    assert (counts(whole), counts(ten), counts(three)) == ([15] * 4, [10] * 4, [3] * 4)
    assert set(three) < set(ten) < set(whole)
    tail = train(imbalance=15)
    assert counts(tail) == [15, 6, 2, 1]  # 15 * 15 ** (0, -1/3, -2/3, -1) = 15, 6.08, 2.47, 1
    assert counts(train(imbalance=1e6)) == [15, 1, 1, 1]
    assert counts(train(imbalance=15, per_class=4)) == [4, 4, 2, 1]
    assert set(train(imbalance=15, per_class=4)) < set(tail) < set(whole)
    assert tail == sorted(tail, key=whole.index)
    mine = np.array(guide.split("train"))
    chosen = fewer_of(guide, mine, 3)
    assert (fewer_of(guide, mine[::-1], 3)[::-1] == chosen).all()
    splits = open_splits(guide, DataConfig(folds=4, fold=1, per_class=3, holdout=0.2))
    assert (counts(splits.train), counts(splits.held_out), counts(splits.watched)) == ([3] * 4, [5] * 4, [3] * 4)
    assert len(splits.test) == len(guide.split("test"))
