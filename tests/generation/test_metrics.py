"""Metrics of generated images: by hand, against torch-fidelity, on halves of one set, and with planted copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from places import weights_file
from torch.nn import functional
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
from torchvision.io import decode_image, encode_jpeg

from fgvc.generation.config import GanImageConfig, MeasureConfig
from fgvc.generation.features import create_features
from fgvc.generation.measure import describe, known_views, training_image
from fgvc.generation.metrics import Described, Gaussian, compare, frechet_distance, halves, memorised, nearest
from fgvc.generation.pictures import draw_pairs
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.loader import Samples
from shards.reading.transforms import train_transform


def cloud(seed: int, count: int, width: int = 16, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((width, width)) / width**0.5
    return (random.standard_normal((count, width)) @ mixing + shift).astype(np.float32)


def test_frechet_distance_by_hand() -> None:
    """Of axis-parallel Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2; and of one turned by 45 degrees."""
    one = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    other = Gaussian(np.array([0.0, 4.0]), np.diag([1.0, 16.0]))
    assert frechet_distance(one, other) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    turn = np.array([[1, -1], [1, 1]]) / 2**0.5
    turned = [Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(7)


@pytest.mark.parametrize("count", [400, 12])
def test_metrics_equal_the_reference_library_on_the_same_features(count: int) -> None:
    """With fewer images than features (12 of 16 dimensions) too."""
    generated, real = cloud(1, count, shift=0.3), cloud(2, count + 10)
    ours = compare(generated, real)
    left, right = torch.from_numpy(generated), torch.from_numpy(real)
    statistics = [fid_features_to_statistics(one.double()) for one in (left, right)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert ours["frechet"] == pytest.approx(fid, rel=1e-3)
    kid = kid_features_to_metric(left, right, kid_subsets=1, kid_subset_size=count, rng_seed=2020, verbose=False)
    assert ours["kid"] == pytest.approx(kid[KEY_METRIC_KID_MEAN], rel=1e-3)
    prc = prc_features_to_metric(left, right, prc_neighborhood=3, verbose=False)
    assert (ours["precision"], ours["recall"]) == (prc[KEY_METRIC_PRECISION], prc[KEY_METRIC_RECALL])


def test_kid_is_the_unbiased_polynomial_estimate() -> None:
    generated, real = cloud(1, 60, shift=0.5), cloud(2, 60)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(float) @ b.T.astype(float) / 16 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (60 * 59) for x in (generated, real)]
    expected = sum(within) - 2 * kernel(generated, real).mean()
    assert compare(generated, real)["kid"] == pytest.approx(expected, rel=1e-3)


def test_two_halves_of_real_images_are_nearly_the_same_and_others_are_not() -> None:
    real = cloud(0, 1600)
    apart = compare(real[::2], real[1::2])
    assert apart["frechet"] < 0.2
    assert abs(apart["kid"]) < 0.02
    assert apart["precision"] > 0.8
    assert apart["recall"] > 0.8
    assert compare(cloud(1, 800, shift=1.0), real)["frechet"] > 10
    mode = compare(np.repeat(real[:20], 40, axis=0) + 1e-3, real)
    assert mode["precision"] > 0.9
    assert mode["recall"] < 0.2, "copies of few images are precise, but leave most out"


@pytest.mark.parametrize("count", [60, 800])
def test_a_perfect_generator_reaches_the_floor_with_as_many_images(count: int) -> None:
    """With fewer images than features, too, where a distance depends on the number of images most: that of all of them
    is far below the floor."""
    made, real = cloud(1, count, width=64), cloud(2, count, width=64)
    found = halves(made, real)
    assert found["frechet_half"] == pytest.approx(found["floor"], rel=0.1)
    assert compare(made, real)["frechet"] < 0.8 * found["floor"]
    assert halves(cloud(1, count, width=64, shift=1.0), real)["frechet_half"] > 2 * found["floor"]


def test_every_generated_image_is_drawn_above_its_neighbour(tmp_path: Path) -> None:
    """Where the last row is not full, too: 10 images, in rows of 8 with a line of one pixel between."""
    generated, nearest_ones = (torch.full((10, 3, 4, 4), value, dtype=torch.uint8) for value in (255, 100))
    draw_pairs(tmp_path / "pairs.png", generated, nearest_ones)
    found = decode_image(str(tmp_path / "pairs.png"))[0, 2::5, 2::5].tolist()
    assert found == [[255] * 8, [100] * 8, [255] * 2 + [0] * 6, [100] * 2 + [0] * 6]


def test_too_few_images_are_named() -> None:
    with pytest.raises(UserError, match=r"3 image\(s\) to compare with: precision and recall need more than 3"):
        compare(cloud(1, 3), cloud(2, 40))
    with pytest.raises(UserError, match=r"1 image\(s\): a Frechet distance needs at least 2"):
        Gaussian.of(cloud(1, 1))


def test_nearest_training_images_and_copies_in_either_direction() -> None:
    training = cloud(0, 500)
    mirrored = cloud(7, 500)
    both = np.concatenate([training, mirrored])
    found = nearest(np.stack([training[3], mirrored[8]]) + 1e-4, both, 500)
    assert found.index.tolist() == [3, 508]
    assert (found.ratio < 0.01).all()
    apart = np.linalg.norm(training[7] - both, axis=1).reshape(2, 500).min(0)
    apart[7] = np.inf
    found = nearest(training, both, 500, leave_out_self=True)
    assert found.index[7] % 500 == apart.argmin()
    assert found.ratio[7] == pytest.approx(apart.min() / np.sort(apart)[:50].mean(), rel=1e-3)


@pytest.mark.parametrize("size", [64, 128])
def test_planted_copies_of_real_images_are_found_and_new_images_are_none(guide: Manifest, size: int) -> None:
    """Copies of what training saw, crops at random, that were mirrored, shrunk and encoded again; the test split's
    birds are of the same species."""
    lite0 = str(weights_file("tf_efficientnet_lite0.safetensors"))
    features = create_features(MeasureConfig(weights=lite0, size=size))
    image, chosen = GanImageConfig(), guide.split("train")
    seen = Samples(guide, train_transform(training_image(image), 64), seed=3)
    views = Samples(guide, known_views(image, 64))

    def of(images: torch.Tensor) -> Described:
        with torch.inference_mode():
            return describe(features, images)

    known = of(torch.cat(torch.stack([views[-1, i][0] for i in chosen]).unbind(1)))
    training = torch.stack([seen[epoch, i][0] for epoch in (0, 1) for i in chosen])
    assert memorised(of(training), known, len(chosen)).mean() >= 0.99
    training = training[: len(chosen)]
    new = torch.stack([views[-1, i][0][0] for i in guide.split("test")])
    copies = functional.interpolate(training.flip(3).float(), (56, 56), mode="area").round().to(torch.uint8)
    planted = torch.stack([decode_image(encode_jpeg(image, quality=85)) for image in copies])
    rows = len(chosen)
    assert memorised(of(planted), known, rows).mean() >= 0.99
    assert memorised(of((training.float() * 0.8 + 20).to(torch.uint8)), known, rows).mean() >= 0.99, "in other light"
    assert memorised(of(new), known, rows).mean() <= 0.04
    own = Described(*(values[:rows] for values in known))
    assert memorised(own, known, rows, leave_out_self=True).mean() <= 0.04
    grey = torch.randint(118, 122, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    blurred = functional.avg_pool2d(new.float(), 33, 1, 16, count_include_pad=False).to(torch.uint8)
    assert not memorised(of(grey), known, rows).any(), "near to all is no copy of one"
    assert memorised(of(blurred), known, rows).mean() <= 0.08, "2 of 28 where little is left of a bird"
