"""Training transforms: torchvision's, bit for bit, whatever way the channels lie in memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.reader import Reader
from shards.reading.transforms import seeded, train_transform


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [24, 64, 97])
def test_a_random_crop_is_torchvisions(guide: Manifest, interpolation: str, size: int) -> None:
    config = replace(ImageConfig(), scale=[0.05, 1.0], ratio=[0.5, 2.0], interpolation=interpolation)
    mode = InterpolationMode(interpolation)
    theirs = v2.Compose([
        v2.RandomResizedCrop(size, scale=config.scale, ratio=config.ratio, interpolation=mode),
        v2.RandomHorizontalFlip(config.flip),
    ])  # fmt: skip
    ours, reader = train_transform(config, size), Reader(guide)
    for index in guide.split("train")[:20]:
        image = decode(reader.read(index))
        planes, part = image.contiguous(), image[:, 5:40, 3:31]  # decoded: channels together
        for seed, one in enumerate((image, planes, part)):
            assert torch.equal(seeded(ours, one, seed), seeded(theirs, one, seed))


def test_policies_see_what_torchvisions_crop_gives_them(guide: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ImageConfig(), policy="randaugment", color_jitter=0.4, grayscale=0.5)
    ours = train_transform(config, 48)
    monkeypatch.setattr("shards.reading.transforms._RandomResizedCrop", v2.RandomResizedCrop)
    theirs, reader = train_transform(config, 48), Reader(guide)
    for index in guide.split("train")[:20]:
        image = decode(reader.read(index))
        found, expected = (seeded(one, image, index) for one in (ours, theirs))
        assert torch.equal(found, expected)
        assert np.ptp(found.numpy()) > 0
