"""Corruptions: the same for an image in any batch, growing with their strength, and each what it is called."""

import numpy as np
import pytest
import torch

from fgvc.robustness.corruptions import CORRUPTIONS, corrupted, plasma


def pictures(count: int = 3, side: int = 64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 16, 16, generator=draw)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_depends_on_the_sample_and_grows_with_strength(name: str) -> None:
    images = pictures()
    seeds = [(0, entry) for entry in (4, 9, 2)]
    found = [corrupted(name, images, strength, seeds) for strength in range(1, 6)]
    assert torch.equal(found[2][1:2], corrupted(name, images[1:2], 3, seeds[1:2]))
    for one in found:
        assert one.min() >= 0
        assert one.max() <= 1
    distances = [(one - images).abs().mean().item() for one in found]
    if name == "fog":  # its clouds get finer as well as thicker
        assert distances[0] < distances[4]
    else:
        assert distances == sorted(distances)
    assert distances[0] > 0.003
    again = corrupted(name, images, 3, [(1, entry) for _, entry in seeds])
    assert torch.equal(again, found[2]) == (name in ("blur", "jpeg", "brightness"))  # noise and fog draw by seed


def test_each_is_what_it_is_called() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    noisy = corrupted("noise", grey, 1, [(0,)])
    assert (noisy - grey).std().item() == pytest.approx(0.08, rel=0.03)
    colour = torch.tensor([0.2, 0.4, 0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    bright = corrupted("brightness", colour, 2, [(0,)])[0, :, 0, 0]
    assert bright.tolist() == pytest.approx([0.3, 0.6, 0.15], rel=1e-5)  # value 0.4 + 0.2, hue and saturation kept
    dot = torch.zeros(1, 3, 224, 224)
    dot[:, :, 112, 112] = 1
    row = corrupted("blur", dot, 2, [(0,)])[0, 0, 112]
    spread = (row * (torch.arange(224.0) - 112) ** 2).sum() / row.sum()
    assert spread.sqrt().item() == pytest.approx(2.0, rel=0.02)
    foggy = corrupted("fog", pictures(), 5, [(0, entry) for entry in range(3)])
    assert foggy.std() < 0.75 * pictures().std()  # contrast goes


def test_clouds_fill_their_range_and_are_smooth() -> None:
    cloud = plasma(64, 2.0, np.random.default_rng(0))
    assert (cloud.min(), cloud.max()) == (0, 1)
    assert np.abs(np.diff(cloud, axis=0)).mean() < 0.3 * cloud.std()
    rough = plasma(64, 1.4, np.random.default_rng(0))
    assert np.abs(np.diff(rough, axis=0)).mean() / rough.std() > 2 * np.abs(np.diff(cloud, axis=0)).mean() / cloud.std()


@pytest.mark.parametrize(("strength", "reference"), [(1, 0.019), (3, 0.021), (4, 0.028), (5, 0.045)])
def test_fog_is_as_fine_as_the_references(strength: int, reference: float) -> None:
    """The mean step between neighbouring pixels over the standard deviation, at 256 px: ImageNet-C's plasma_fractal."""
    decay = {1: 2.0, 3: 1.7, 4: 1.5, 5: 1.4}[strength]
    clouds = [plasma(256, decay, np.random.default_rng(seed)) for seed in range(12)]
    steps = [
        (np.abs(np.diff(cloud, axis=0)).mean() + np.abs(np.diff(cloud, axis=1)).mean()) / 2 / cloud.std()
        for cloud in clouds
    ]
    assert np.mean(steps) == pytest.approx(reference, rel=0.4)
