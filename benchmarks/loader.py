"""Images a second: our loader against ImageFolder, a plain webdataset pipeline and the bare decode + augment loop.

    .venv/bin/python benchmarks/loader.py                       cub50 of FGVC_REAL_DATA, else the field guide
    .venv/bin/python benchmarks/loader.py --batches 100 --repeats 3

Every way makes batches of 32 uint8 images at 224 px by random resized crop and flip, with one torch thread a process;
ours lie as convolutions take them (channels_last), ImageFolder's as planes. Alone: one process, images per second of
its own CPU time, which other programs on the machine hardly change; the ways take turns batch by batch, in any order,
and what comes before the first batch (of ours half a millisecond) is not counted. Workers: as many as there are cores
(at least 2), images per second of wall time; the ways take turns pass by pass. Medians are printed, of the ratios too:
each is of two batches or passes that were made one after the other, since a machine's speed drifts.
"""

import argparse
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import webdataset as wds
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from jobs.shards import build_from
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.loader import Samples, train_loader
from shards.reading.reader import Reader
from shards.reading.transforms import train_transform

BATCH, SIZE = 32, 224
FILES = 500  # different images
WARM_UP = 5  # batches that are not counted
IMAGE = ImageConfig()
PIL_TRANSFORM = v2.Compose(
    [v2.RandomResizedCrop(SIZE, scale=IMAGE.scale, ratio=IMAGE.ratio), v2.RandomHorizontalFlip(), v2.PILToTensor()]
)

TENSOR_TRANSFORM = v2.Compose(
    [v2.RandomResizedCrop(SIZE, scale=IMAGE.scale, ratio=IMAGE.ratio), v2.RandomHorizontalFlip(IMAGE.flip)]
)


class Ways:
    """The ways to read the same training images. Each gives a pass of `epochs` epochs as an iterable of batches."""

    def __init__(self, manifest: Manifest, files: Path, limit: int) -> None:
        self.manifest, self.files, self.turn = manifest, files, 0
        self.members = [at for at, entry in enumerate(manifest.entries) if entry.split == "train"][:limit]
        reader = Reader(manifest)
        self.bytes = [reader.read(member) for member in self.members]
        self.shards = sorted({manifest.entries[member].shard for member in self.members})
        for member, data in zip(self.members, self.bytes, strict=True):
            entry = manifest.entries[member]
            folder = files / manifest.classes[entry.label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{member}.jpg").write_bytes(data)
        self.folder = ImageFolder(str(files), PIL_TRANSFORM)

    def limit(self, epochs: int, workers: int) -> Iterator[list[torch.Tensor]]:
        """Bytes in memory, decoded and augmented in one loop: nothing read, seeded, stacked or handed over."""
        transform = train_transform(IMAGE, SIZE)
        for data in self.bytes * epochs:
            yield [transform(decode(data))]

    def torchvision(self, epochs: int, workers: int) -> Iterator[list[torch.Tensor]]:
        """The same loop with torchvision's transforms as they are, on what our decoder gives: the same bits."""
        for data in self.bytes * epochs:
            yield [TENSOR_TRANSFORM(decode(data))]

    def ours(self, epochs: int, workers: int) -> Iterator[torch.Tensor]:
        loader = train_loader(
            self.manifest, self.members, Samples(self.manifest, train_transform(IMAGE, SIZE), seed=self.turn),
            seed=self.turn, batch=BATCH, epochs=epochs, workers=workers,
        )  # fmt: skip
        return (batch.images for batch in loader)

    def imagefolder(self, epochs: int, workers: int) -> Iterator[torch.Tensor]:
        order = [int(at) for _ in range(epochs) for at in torch.randperm(len(self.folder))]
        loader: DataLoader = DataLoader(self.folder, BATCH, sampler=order, num_workers=workers, worker_init_fn=_single)
        return (images for images, _ in loader)

    def webdataset(self, epochs: int, workers: int) -> Iterator[torch.Tensor]:
        """Whole shards: a tar stream cannot leave samples out, so it may read a few more images than the others."""
        urls = [str(self.manifest.folder / self.manifest.shards[shard].name) for shard in self.shards]
        stream = wds.WebDataset(urls * epochs, shardshuffle=1000, empty_check=False).shuffle(200).decode("pil")
        samples = stream.to_tuple("jpg").map_tuple(PIL_TRANSFORM)
        loader = wds.WebLoader(samples.batched(BATCH), batch_size=None, num_workers=workers, worker_init_fn=_single)
        return (images for (images,) in loader)


def _single(_: int) -> None:
    torch.set_num_threads(1)


def alone(ways: Ways, names: list[str], turns: int) -> dict[str, list[float]]:
    """Images a second of this process's CPU time, of every way in every turn: of a batch."""
    epochs = math.ceil((turns + WARM_UP) * 2 * BATCH / len(ways.members))  # webdataset's batches are not all full
    passes = {name: iter(getattr(ways, name)(epochs, 0)) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    orders = random.Random(0)  # whose caches a way finds must not be the same one's each time
    for _ in range(turns + WARM_UP):
        for name in orders.sample(names, len(names)):
            began, images = time.process_time(), 0
            while images < BATCH:
                images += len(next(passes[name]))
            rates[name].append(images / (time.process_time() - began))
    return {name: values[WARM_UP:] for name, values in rates.items()}


def with_workers(ways: Ways, names: list[str], turns: int, images: int, workers: int) -> dict[str, list[float]]:
    """Images a second of wall time, of every way in every turn: of a pass, its set-up included."""
    epochs = max(1, round(images / len(ways.members)))
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        ways.turn = turn  # else all turns have the same crops, which may be small or large ones
        for name in names:
            began = time.perf_counter()
            found = sum(len(batch) for batch in getattr(ways, name)(epochs, workers))
            rates[name].append(found / (time.perf_counter() - began))
    return rates


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), load {load:.1f} at the end, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=300, help="of each way, alone")
    parser.add_argument("--repeats", type=int, default=9, help="passes of each way, with workers")
    parser.add_argument("--images", type=int, default=1500, help="of a pass with workers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        real = os.environ.get("FGVC_REAL_DATA")
        if real:
            manifest = build_from("cub200", Path(real) / "cub50", Path(folder) / "shards", ["min_shards=8"])
        else:
            manifest = build_from("field_guide", "-", Path(folder) / "shards", ["min_shards=8"])
        ways = Ways(manifest, Path(folder) / "files", FILES)
        print(f"{len(ways.members)} images of {'cub50' if real else 'the field guide'}, {SIZE} px, batch {BATCH}")
        names = ["ours", "imagefolder", "webdataset"]
        report("alone, img/s of CPU time", alone(ways, ["limit", "torchvision", *names], options.batches))
        workers = max(2, cores)
        report(f"{workers} workers, img/s", with_workers(ways, names, options.repeats, options.images, workers))
    print(f"\nmedians of {options.batches} batches and {options.repeats} passes; {machine()}")


def report(title: str, rates: dict[str, list[float]]) -> None:
    print(f"\n{title:28}{'':>8}  ours is x times that")
    for name, values in rates.items():
        ratio = statistics.median(ours / value for ours, value in zip(rates["ours"], values, strict=True))
        print(f"  {name:26}{statistics.median(values):8.0f}  {ratio:.3f}")


if __name__ == "__main__":
    main()
