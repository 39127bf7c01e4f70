"""A small made-up raw dataset for tests; run as a script it builds shards of it slowly, to be killed midway."""

import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.manifest import Manifest
from shards.sample import RawDataset, RawSample, read_file

CLASSES = ("crow", "gull", "wren")


def picture(seed: int, size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    """A smooth random picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_raw(folder: Path, train: int = 96, test: int = 48, read=read_file) -> RawDataset:
    """Images in `folder` (written when missing) as a raw dataset of three classes with a box each."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(train + test):
        path = folder / f"bird {number}.jpg"
        if not path.exists():
            path.write_bytes(encoded(picture(number), quality=85))
        split = "train" if number < train else "test"
        parts = {"eye": (20.0, 10.5)}
        samples.append(RawSample(f"bird_{number}", path, number % 3, split, ((5.0, 4.0, 50.0, 36.0),), parts))
    return RawDataset("tiny", CLASSES, tuple(samples), "CC0-1.0", read=read)


def slow_read(sample: RawSample) -> bytes:
    """As read_file, slow enough to be killed midway."""
    time.sleep(0.01)
    return read_file(sample)


def unlike_classes(manifest: Manifest, counts: tuple[int, ...] = (20, 9, 2, 1)) -> list[int]:
    """Training images of four classes: 20, 9, 2 and 1 of them."""
    of_class: dict[int, list[int]] = {}
    for index in manifest.split("train"):
        of_class.setdefault(manifest.entries[index].label, []).append(index)
    return sorted(index for label, count in enumerate(counts) for index in of_class[label][:count])


if __name__ == "__main__":
    build(make_raw(Path(sys.argv[1]), read=slow_read), Path(sys.argv[2]), BuildOptions(workers=2))
