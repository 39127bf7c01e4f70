"""The order contract: the same samples, transforms and counts for any ranks and workers, and after a resume."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_images import make_raw, unlike_classes

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.balance import AGAIN, balanced_draws, numbered
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.loader import Place, Samples, eval_loader, train_loader
from shards.reading.order import EPOCH, FOLD, epoch_order, folds_of, global_batches, random_stream
from shards.reading.reader import Reader
from shards.reading.transforms import eval_transform, train_transform

IMAGE = ImageConfig(color_jitter=0.2, policy="trivialaugment")


def sequence(
    manifest: Manifest, ranks: int, workers: int, accumulation: int = 1, start: int = 0, balance: float = 0.0
) -> list[list[tuple]]:
    """Per step the (entry, hash of the transformed image) that the ranks see together, in global order."""
    indices = manifest.split("train") if not balance else unlike_classes(manifest)
    parts = [
        list(
            train_loader(
                manifest, indices, Samples(manifest, train_transform(IMAGE, 32), seed=3), seed=3, batch=16, epochs=2,
                window=2, start_step=start, place=Place(rank, ranks, accumulation), workers=workers, balance=balance,
            )
        )
        for rank in range(ranks)
    ]  # fmt: skip
    steps = []
    for step in range(len(parts[0]) // accumulation):
        seen = []
        for turn, rank in itertools.product(range(accumulation), range(ranks)):
            batch = parts[rank][step * accumulation + turn]
            for image, entry in zip(batch.images, batch.entries.tolist(), strict=True):
                seen.append((entry, hashlib.md5(image.numpy().tobytes()).hexdigest()))
        steps.append(seen)
    return steps


@pytest.fixture(scope="module")
def reference(guide: Manifest) -> list[list[tuple]]:
    return sequence(guide, 1, 0)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (2, 0), (2, 1), (2, 3), (4, 0), (4, 1), (4, 3)])
def test_ranks_and_workers_change_nothing(guide: Manifest, reference: list, ranks: int, workers: int) -> None:
    assert sequence(guide, ranks, workers) == reference


def test_accumulation_and_resume_change_nothing(guide: Manifest, reference: list) -> None:
    assert sequence(guide, 2, 0, accumulation=4) == reference
    assert sequence(guide, 1, 0, start=7) == reference[7:]  # in the second epoch: 80 images make 5 steps


def test_balanced_sampling_draws_classes_as_asked(guide: Manifest) -> None:
    indices = unlike_classes(guide)
    labels = np.array([entry.label for entry in guide.entries])

    def draws(balance: float, seed: int, epoch: int, chosen: list[int]) -> list[int]:
        random = random_stream(seed, epoch)
        return balanced_draws(np.array(chosen), labels[chosen], random, balance).tolist()

    def counts(balance: float, epoch: int, chosen: list[int] = indices) -> list[int]:
        drawn = draws(balance, 3, epoch, chosen)
        assert len(drawn) == len(chosen)
        assert set(drawn) <= set(chosen)
        times = Counter(drawn)
        for label in range(4):
            of_class = [times[index] for index in chosen if labels[index] == label]
            assert max(of_class) - min(of_class) <= 1  # no image twice before all others of its class once
        return np.bincount(labels[drawn], minlength=4).tolist()

    assert counts(1, 0) == counts(1, 7) == [8, 8, 8, 8]  # 32 images, 4 classes
    # By the square root: 4.472, 3, 1.414 and 1 of 9.886 parts, so 14.475, 9.710, 4.578 and 3.237 of 32 draws.
    halves = np.array([counts(0.5, epoch) for epoch in range(400)])
    assert set(map(tuple, np.abs(halves - [14.475, 9.710, 4.578, 3.237]) < 1)) == {(True,) * 4}
    assert halves.mean(axis=0) == pytest.approx([14.475, 9.710, 4.578, 3.237], abs=0.1)
    plain = unlike_classes(guide, (16, 8, 4, 4))
    assert counts(1e-12, 0, plain) == [16, 8, 4, 4]  # no balance: every image once
    assert draws(1, 3, 0, indices) == draws(1, 3, 0, indices) != draws(1, 3, 1, indices)
    order = np.array([7, 3, 7, 9, 3, 7, 1])
    assert numbered(order, 5).tolist() == [5, 5, 5 + AGAIN, 5, 5 + AGAIN, 5 + 2 * AGAIN, 5]


def test_ranks_workers_and_resume_change_nothing_about_balanced_sampling(guide: Manifest) -> None:
    reference = sequence(guide, 1, 0, balance=1)
    assert len(reference) == 4  # 32 images, batches of 16, 2 epochs
    assert sequence(guide, 2, 3, balance=1) == reference
    assert sequence(guide, 4, 1, accumulation=2, balance=1) == reference
    assert sequence(guide, 1, 2, start=3, balance=1) == reference[3:]
    epochs = [list(itertools.chain(*reference[at : at + 2])) for at in (0, 2)]
    assert [max(Counter(entry for entry, _ in epoch).values()) for epoch in epochs] == [8, 8]  # the lone image
    # Every one of these draws has transforms of its own.
    assert len(set(itertools.chain(*epochs))) == 64


def test_every_epoch_is_another_permutation(guide: Manifest, reference: list) -> None:
    first, second = ([entry for step in reference[at : at + 5] for entry, _ in step] for at in (0, 5))
    assert sorted(first) == sorted(second) == guide.split("train")
    assert first != second
    hashes = [dict(itertools.chain(*reference[at : at + 5])) for at in (0, 5)]
    assert all(hashes[0][entry] != hashes[1][entry] for entry in guide.split("train"))  # new transforms too


def test_an_incomplete_batch_is_left_out_but_not_always_the_same(guide: Manifest) -> None:
    indices = guide.split("train")[:-7]  # 73 images: 4 batches of 16, 9 images left out
    seen = [Counter(e for _, e in itertools.chain(*list(global_batches(guide, indices, s, 16, 1, 2)))) for s in (0, 1)]
    assert all(len(counts) == 64 and max(counts.values()) == 1 for counts in seen)
    assert seen[0].keys() != seen[1].keys()


def test_a_window_bounds_the_shards_in_use(guide: Manifest) -> None:
    order = epoch_order(guide, guide.split("train"), 0, 0, window=1)
    shards = [guide.entries[entry].shard for entry in order]
    assert [len(list(group)) for _, group in itertools.groupby(shards)] == list(Counter(shards).values())


def order_one_by_one(manifest: Manifest, indices: list[int], seed: int, epoch: int, window: int) -> list[int]:
    """`epoch_order` without columns."""
    random = random_stream(seed, EPOCH, epoch)
    of_shard: dict[int, list[int]] = {}
    for index in indices:
        of_shard.setdefault(manifest.entries[index].shard, []).append(index)
    shards = np.array(sorted(of_shard))
    random.shuffle(shards)
    order: list[int] = []
    for start in range(0, len(shards), window):
        together = np.array([m for shard in shards[start : start + window] for m in of_shard[int(shard)]])
        random.shuffle(together)
        order += together.tolist()
    return order


def folds_one_by_one(manifest: Manifest, indices: list[int], folds: int, seed: int) -> list[int]:
    """`folds_of` without columns."""
    leader: dict[int, int] = {}
    for group in manifest.duplicates:
        same = sorted(set(indices) & set(group), key=lambda index: manifest.entries[index].key)
        leader |= dict.fromkeys(same[1:], same[0]) if same else {}
    start, fold = 0, dict.fromkeys(indices, 0)
    for label in range(len(manifest.classes)):
        own = [i for i in indices if manifest.entries[i].label == label and i not in leader]
        own.sort(key=lambda index: manifest.entries[index].key)
        random_stream(seed, FOLD, label).shuffle(own)
        for place, index in enumerate(own):
            fold[index] = (start + place) % folds
        start += len(own)
    return [fold[leader.get(index, index)] for index in indices]


def test_columns_change_neither_order_nor_folds(guide: Manifest) -> None:
    """Of shards in any order, of a part of them, with duplicates, and of labels that some of them lack."""
    random = np.random.default_rng(0)
    entries = [replace(guide.entries[i % 108], key=f"k{random.integers(10**9)}-{i}") for i in range(700)]
    entries = [replace(entry, shard=int(random.integers(40)), label=int(random.integers(4))) for entry in entries]
    groups = tuple(tuple(map(int, random.choice(700, size, replace=False))) for size in (2, 2, 3, 5))
    manifest = replace(guide, entries=tuple(entries), duplicates=groups)
    for part in (list(range(700)), sorted(random.choice(700, 300, replace=False).tolist()), [5, 3, 699, 0]):
        for seed, epoch, window in ((0, 0, 16), (3, 7, 2), (1, 2, 100)):
            expected = order_one_by_one(manifest, part, seed, epoch, window)
            assert epoch_order(manifest, part, seed, epoch, window).tolist() == expected
    for part in (list(range(700)), sorted(random.choice(700, 300, replace=False).tolist())):
        for folds, seed in ((2, 0), (5, 0), (7, 3)):
            assert folds_of(manifest, part, folds, seed).tolist() == folds_one_by_one(manifest, part, folds, seed)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_evaluation_counts_every_sample_once(guide: Manifest, ranks: int, workers: int) -> None:
    indices = guide.split("test")
    transform = eval_transform(ImageConfig(), 32)
    seen = [
        entry
        for rank in range(ranks)
        for batch in eval_loader(indices, Samples(guide, transform), batch=5, place=Place(rank, ranks), workers=workers)
        for entry in batch.entries.tolist()
    ]
    assert sorted(seen) == indices


def test_real_test_split_counts_1389(birds: Manifest) -> None:
    transform = eval_transform(ImageConfig(), 32)
    for ranks in (1, 4):
        parts = [
            eval_loader(birds.split("test"), Samples(birds, transform), batch=64, place=Place(rank, ranks), workers=1)
            for rank in range(ranks)
        ]
        entries = [entry for part in parts for batch in part for entry in batch.entries.tolist()]
        assert len(entries) == len(set(entries)) == 1389


def test_training_does_not_touch_the_global_generator(guide: Manifest) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sequence(guide, 1, 0)
    assert torch.equal(torch.rand(3), expected)


def test_pad_only_ever_shrinks() -> None:
    transform = eval_transform(ImageConfig(eval_fit="pad"), 64)
    small = transform(torch.full((3, 20, 30), 255, dtype=torch.uint8))
    assert small.shape == (3, 64, 64)
    assert int((small[0] == 255).sum()) == 20 * 30
    large = transform(torch.full((3, 64, 128), 255, dtype=torch.uint8))
    assert int((large[0] == 255).sum()) == 32 * 64


def test_cache_copies_once_and_refuses_damage(guide: Manifest, tmp_path) -> None:
    plain, cached = Reader(guide), Reader(guide, str(tmp_path / "cache"))
    assert [cached.read(i) for i in range(80)] == [plain.read(i) for i in range(80)]
    assert decode(cached.read(0)).dtype == torch.uint8
    wrong = replace(guide, shards=tuple(replace(shard, sha256="0" * 64) for shard in guide.shards))
    with pytest.raises(UserError, match="checksum differs"):
        Reader(wrong, str(tmp_path / "other")).read(0)
    assert not list((tmp_path / "other").glob("*.partial"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be copied to data.cache=.*file/below \(Not a directory\)"):
        Reader(guide, str(tmp_path / "file/below")).read(0)


def test_a_copy_is_on_the_disk_before_it_has_its_name(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later reader looks at its size alone."""
    synced, sync = [], os.fsync

    def noting(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        sync(file)

    monkeypatch.setattr(os, "fsync", noting)
    Reader(guide, str(tmp_path)).read(0)
    (copy,) = tmp_path.glob("*.tar")
    assert synced == [copy.with_suffix(".partial").name]


def test_few_files_are_open_however_many_shards_there_are(tmp_path: Path) -> None:
    """More shards than the limit of 40 open files allows; and a file is opened again after it was closed."""
    manifest = build(make_raw(tmp_path / "raw", train=800, test=20), tmp_path / "many", BuildOptions(min_shards=80))
    assert len(manifest.shards) > 40
    code = (
        "import resource, sys\n"
        "from shards.manifest import read_manifest\n"
        "from shards.reading.reader import Reader\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "manifest = read_manifest(sys.argv[1]); reader = Reader(manifest)\n"
        "order = [*range(len(manifest.entries)), *range(len(manifest.entries))]\n"
        "assert all(len(reader.read(i)) == manifest.entries[i].length for i in order)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "many")], check=True)


def test_batches_are_drawn_as_they_are_needed(guide: Manifest) -> None:
    """The first batch of a million epochs comes at once."""
    samples = Samples(guide, eval_transform(ImageConfig(), 32))
    began = time.monotonic()
    batches = train_loader(guide, guide.split("train"), samples, seed=0, batch=8, epochs=1_000_000)
    assert len(next(batches).entries) == 8
    assert time.monotonic() - began < 5
