"""How a set of N samples opens, begins and resumes: one JSON line.

    .venv/bin/python benchmarks/scale.py --samples 1000000 --epochs 100
    .venv/bin/python benchmarks/scale.py --samples 10000000 --epochs 100 --settings folds=5 crop=square

Made up in a temporary folder: the manifest's columns say N samples, each with a key, a box and a part, in shards of
1,250; the shards' files are links to one real tar of 80 small JPEGs, so that batches are read and decoded. What it
prints, each measured in a process of its own, with two loader workers:

open_s, open_mb   reading the manifest, every value checked; resident memory that it adds, the shared map included
splits_s          which samples a run trains on and is measured on, as data.folds= and its like ask for, and their crops
epoch_order_s     one epoch's order
first_batch_s     from a manifest that is open to the first batch of all epochs
resume_s          to the first batch of the middle of all steps
rss_mb, own_mb    resident memory at the end; what of it is not shared with the workers
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import load
from jobs.shards import build_from
from shards.entries import Entries
from shards.manifest import Manifest, Shard, read_manifest, write_manifest
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.loader import Samples, train_loader
from shards.reading.order import epoch_order
from shards.reading.splits import open_splits
from shards.reading.transforms import train_transform
from shards.reading.views import open_crops

PER_SHARD, BATCH = 1250, 64


def make(folder: Path, samples: int) -> None:
    """Shards of `samples` made-up samples in `folder`/shards."""
    words = ["train_per_class=16", "test_per_class=2", "species=5", "size=32", "min_shards=1", "workers=1"]
    small = build_from("field_guide", "-", folder / "small", words)
    real = small.entries
    at = small.members("train")
    number = np.arange(samples)
    place, split = at[number % len(at)], np.where(number < samples - samples // 20, 0, 2).astype(np.uint8)
    digits = len(str(samples - 1)) + 1
    keys = np.full((samples, digits), ord("k"), np.uint8)
    for digit in range(1, digits):
        keys[:, digit] = ord("0") + number // 10 ** (digits - 1 - digit) % 10
    once = np.arange(samples + 1)
    columns = {name: getattr(real, name)[place] for name in ("offset", "length", "width", "height", "origin")}
    columns |= {
        "label": (number % 1000).astype(np.int32), "split": split, "shard": (number // PER_SHARD).astype(np.int32),
        "keys": keys.reshape(-1), "key_starts": once * digits,
        "boxes": real.boxes[real.box_starts[place]], "box_starts": once,
        "part_names": real.part_names[real.part_starts[place]], "part_starts": once,
        "part_points": real.part_points[real.part_starts[place]],
    }  # fmt: skip
    (tar,) = (small.folder / shard.name for shard in small.shards if shard.split == "train")
    size = tar.stat().st_size
    (folder / "shards").mkdir()
    shards = []
    for first in range(0, samples, PER_SHARD):
        split_of = ("train", "val", "test")[split[first]]
        shards.append(Shard(f"{split_of}-{first:09d}.tar", split_of, size, "0" * 64, min(PER_SHARD, samples - first)))
        os.link(tar, folder / "shards" / shards[-1].name)
    classes = tuple(f"class {label}" for label in range(1000))
    entries = Entries(columns, real.parts, real.origins)
    write_manifest(Manifest(folder / "shards", "made up", "none", "", classes, tuple(shards), entries, "made up"))


def memory() -> dict[str, float]:
    """Resident memory of this process in MB, by kind."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line]
    return {name[:-1]: int(value) / 1000 for name, value, *_ in lines if name in ("VmRSS:", "RssAnon:")}


def measure(folder: Path, epochs: int, settings: list[str]) -> dict[str, Any]:
    """The figures, in this process."""
    data = load(DataConfig, overrides=settings)
    transform = train_transform(ImageConfig(), 32)
    before, clock = memory(), time.perf_counter()
    manifest = read_manifest(folder)
    open_s, opened = time.perf_counter() - clock, memory()

    clock = time.perf_counter()
    splits = open_splits(manifest, data)
    crops = open_crops(manifest, splits, data)
    splits_s = time.perf_counter() - clock

    clock = time.perf_counter()
    order = epoch_order(manifest, splits.train, 0, 0, data.window)
    epoch_order_s = time.perf_counter() - clock
    assert len(order) == len(splits.train)

    def batch_s(start_step: int) -> float:
        clock = time.perf_counter()
        samples = Samples(manifest, transform, crops.train)
        batches = train_loader(
            manifest, splits.train, samples, seed=0, batch=BATCH, epochs=epochs, window=data.window,
            start_step=start_step, workers=2,
        )  # fmt: skip
        batch = next(batches)
        assert batch.images.shape == (BATCH, 3, 32, 32)
        return time.perf_counter() - clock

    first_batch_s = batch_s(0)
    resume_s = batch_s(epochs * (len(splits.train) // BATCH) // 2)
    after = memory()
    figures = {
        "open_s": open_s, "open_mb": opened["VmRSS"] - before["VmRSS"], "splits_s": splits_s,
        "epoch_order_s": epoch_order_s, "first_batch_s": first_batch_s, "resume_s": resume_s,
        "rss_mb": after["VmRSS"], "own_mb": after["RssAnon"],
    }  # fmt: skip
    rounded = {key: round(value, 3) for key, value in figures.items()}
    return {"samples": len(manifest.entries), "epochs": epochs} | rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--settings", nargs="*", default=[], help="of data, such as folds=5 fold=0 crop=square")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.folder:
        print(json.dumps(measure(Path(words.folder), words.epochs, words.settings)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), words.samples)
        # A process of its own: the one that made the columns holds memory of them.
        subprocess.run([sys.executable, *sys.argv, "--folder", f"{scratch}/shards"], check=True)


if __name__ == "__main__":
    main()
