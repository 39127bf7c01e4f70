"""Samples as columns: what goes in comes out, from a file, in another process, and without a copy of it."""

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shards.entries import COLUMNS, Entries, Entry
from shards.manifest import Manifest, read_manifest, write_manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Samples, collate
from shards.reading.transforms import eval_transform


def made(count: int, seed: int = 0) -> list[Entry]:
    """Samples of every kind: no boxes, several, parts in any order, long keys, several origins."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        corners = random.uniform(0, 90, (random.integers(0, 4), 2)).round(3)
        boxes = tuple((float(x), float(y), float(x) + 0.1 + number, float(y) + 7.25) for x, y in corners)
        names = random.permutation(["eye", "left wing", "schnabel \u00fc"])[: random.integers(0, 4)]
        parts = {str(name): (float(number) / 3, -1.5) for name in names}
        key = f"{number}-{'x' * int(random.integers(0, 80))}_"
        numbers = (int(random.integers(2**31)), int(random.integers(2**62)), int(random.integers(2**62)))
        split, origin = str(random.choice(["train", "val", "test"])), str(random.choice(["real", "gan:a b"]))
        found.append(Entry(key, number % 7, split, *numbers, 1 + number, 2**31 - 1, boxes, parts, origin))
    return found


@pytest.fixture
def saved(tmp_path: Path) -> tuple[list[Entry], Entries]:
    """Samples, and their columns mapped from a file."""
    rows = made(3000)
    columns = Entries.of(iter(rows))
    columns.save(tmp_path / "columns")
    return rows, Entries.mapped(tmp_path / "columns", columns.parts, columns.origins)


def test_what_goes_in_comes_out(saved, tmp_path):
    rows, found = saved
    found.check(classes=7)
    assert list(found) == rows
    assert [found[index] for index in (0, 1, 1500, -1, -3000)] == [rows[index] for index in (0, 1, 1500, -1, -3000)]
    assert found[5:20:3] == tuple(rows[5:20:3])
    for index in (3000, -3001):
        with pytest.raises(IndexError):
            found[index]
    assert found == Entries.of(rows)
    assert found != Entries.of([*rows[:-1], replace(rows[-1], length=1)])
    Entries.of(rows).save(tmp_path / "again")  # the same samples, the same bytes
    assert (tmp_path / "again").read_bytes() == found.path.read_bytes()


def test_pieces_of_a_long_iterator_are_put_together(monkeypatch):
    rows = made(100, seed=1)
    monkeypatch.setattr("shards.entries.CHUNK", 7)
    found = Entries.of(iter(rows))
    found.check(classes=7)
    assert list(found) == rows


def test_keys_counts_and_positions(saved):
    rows, found = saved
    keys = [row.key for row in rows]
    assert found.keys_of() == keys
    for places in ([], [7], [2999, 0], list(range(50, 90)), np.array([5, 4, 5])):
        assert found.keys_of(places) == [keys[place] for place in places]
    assert [found.key(place) for place in (0, 2999)] == [keys[0], keys[2999]]
    assert found.position == {key: place for place, key in enumerate(keys)}
    assert found.counts == {split: sum(row.split == split for row in rows) for split in found.counts}
    assert list(found.counts) == list(dict.fromkeys(row.split for row in rows))
    assert found.box_counts.tolist() == [len(row.boxes) for row in rows]


def test_a_worker_gets_the_name_of_the_file(guide: Manifest, saved):
    _, found = saved
    assert len(pickle.dumps(found)) < 1000
    assert pickle.loads(pickle.dumps(found)) == found
    assert len(pickle.dumps(guide)) < 5000
    assert pickle.loads(pickle.dumps(guide)) == guide
    in_memory = Entries.of(made(5))
    assert pickle.loads(pickle.dumps(in_memory)) == in_memory
    with pytest.raises(ValueError, match="read-only"):
        found.label[0] = 1


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_forked_and_spawned_workers_read_the_same(guide: Manifest, method):
    samples = Samples(guide, eval_transform(ImageConfig(), 32))
    batches = [[(-1, index) for index in range(start, start + 8)] for start in (0, 40, 96)]

    def images(**settings) -> list[torch.Tensor]:
        loader = DataLoader(samples, batch_sampler=batches, collate_fn=collate, **settings)
        return [batch.images for batch in loader]

    context = multiprocessing.get_context(method)
    here, there = images(), images(num_workers=1, multiprocessing_context=context)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_a_set_is_rewritten_in_its_own_folder(guide: Manifest, tmp_path: Path):
    """The columns that are mapped are those that are written."""
    write_manifest(replace(guide, folder=tmp_path))
    found = read_manifest(tmp_path)
    write_manifest(replace(found, notes={"again": 1}))
    assert list(read_manifest(tmp_path).entries) == list(guide.entries) == list(found.entries)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "entries.safetensors"}


def test_no_sample_is_no_error_until_it_is_checked(tmp_path: Path):
    empty = Entries.of([])
    assert (len(empty), list(empty), empty.keys_of(), empty.counts) == (0, [], [], {})
    empty.save(tmp_path / "columns")
    assert Entries.mapped(tmp_path / "columns", (), ()) == empty
    assert set(COLUMNS) == {name for name, value in vars(empty).items() if isinstance(value, np.ndarray)}
