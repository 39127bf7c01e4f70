"""Crop policies: regions by hand, which box counts, two views, and what falls back to the whole image."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.boxes_layer import BoxesLayer, read_layer, write_layer
from shards.entries import Entry
from shards.errors import UserError
from shards.manifest import Manifest, Shard
from shards.reading.config import DataConfig
from shards.reading.loader import Samples, eval_loader, train_loader
from shards.reading.order import view_choice
from shards.reading.views import WHOLE, Policy, View, crop_region, eval_policy, train_policy, views_of, without_box

BOX = (40.0, 30.0, 60.0, 70.0)  # 20 x 40 in an image of 100 x 80


@pytest.mark.parametrize(
    ("square", "margin", "expected"),
    [
        (False, 0.0, (40, 30, 60, 70)),
        (False, 0.25, (30, 20, 70, 80)),
        (True, 0.0, (30, 30, 70, 70)),
        (True, 0.25, (20, 20, 80, 80)),  # 60 x 60 around (50, 50)
        (True, 0.5, (10, 0, 90, 80)),  # 80 x 80: as high as the image
        (True, 1.0, (0, 0, 100, 80)),  # 120 x 120: larger than the image
    ],
)
def test_crop_regions(square: bool, margin: float, expected: tuple) -> None:
    assert crop_region(BOX, 100, 80, square, margin) == expected


def test_square_moves_inside_at_the_border() -> None:
    assert crop_region((0.0, 10.0, 10.0, 50.0), 100, 80, True, 0.0) == (0, 10, 40, 50)


def test_regions_hold_a_pixel_and_stay_inside_whatever_the_box() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(side) for side in random.integers(1, 60, 2))
        xs, ys = sorted(random.random(2) * width), sorted(random.random(2) * height)
        box = (xs[0], ys[0], xs[1] + 1e-9, ys[1] + 1e-9)
        x0, y0, x1, y1 = crop_region(box, width, height, bool(random.integers(2)), float(random.choice([0, 0.1, 2])))
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def region_of_one(box: tuple, width: int, height: int, square: bool, margin: float) -> tuple:
    """`crop_region` in plain floats, one image at a time."""

    def fit(centre: float, side: float, limit: int) -> tuple[float, float]:
        if side >= limit:
            return 0.0, float(limit)
        start = min(max(0.0, centre - side / 2), limit - side)
        return start, start + side

    x0, y0, x1, y1 = box
    pad = margin * max(x1 - x0, y1 - y0)
    x0, y0, x1, y1 = x0 - pad, y0 - pad, x1 + pad, y1 + pad
    if square:
        side = max(x1 - x0, y1 - y0)
        x0, x1 = fit((x0 + x1) / 2, side, width)
        y0, y1 = fit((y0 + y1) / 2, side, height)
    left, top = min(max(0, math.floor(x0)), width - 1), min(max(0, math.floor(y0)), height - 1)
    return left, top, max(left + 1, min(width, math.ceil(x1))), max(top + 1, min(height, math.ceil(y1)))


@pytest.mark.parametrize(("crop", "margin"), [("box", 0.1), ("box", 0.0), ("square", 0.25), ("padded", 1.7)])
def test_regions_of_many_images_are_those_of_each_alone(crop: str, margin: float) -> None:
    """To the last bit: what was trained on crops is identified by policy and boxes, not by their pixels."""
    random = np.random.default_rng(1)
    rows = []
    for _ in range(400):
        corners = random.uniform(-10, 110, (random.integers(0, 4), 2, 2)).round(3)
        found = [(*low, *(low + np.abs(far) + 0.01)) for low, far in corners]
        rows.append(tuple(tuple(map(float, box)) for box in found + found[:1] * int(random.integers(2))))
    manifest = made(*rows)
    indices = sorted(random.choice(400, 300, replace=False).tolist())
    (view,) = views_of(Policy(crop, margin, "truth", 0.0), manifest, indices)
    largest = {index: max(rows[index], key=lambda b: (b[2] - b[0]) * (b[3] - b[1])) for index in indices if rows[index]}
    expected = {index: region_of_one(box, 100, 80, crop == "square", margin) for index, box in largest.items()}
    assert dict(view.regions) == expected
    assert without_box(Policy(crop, margin, "truth", 0.0), (view,), indices) == 300 - len(expected) > 0


def made(*boxes: tuple[tuple[float, float, float, float], ...]) -> Manifest:
    """A manifest of images of 100 x 80 with these truth boxes."""
    entries = tuple(Entry(f"k{i}", 0, "train", 0, 0, 0, 100, 80, found) for i, found in enumerate(boxes))
    return Manifest(Path("made"), "made", "", "", ("a",), (Shard("a", "train", 0, "", 0),), entries, "")


def test_the_largest_truth_box_and_the_best_of_a_layer_above_the_minimum_score() -> None:
    manifest = made(((0, 0, 10, 10), BOX), (), ((0, 0, 50, 50),), (BOX,))
    policy = Policy("box", 0.0, "truth", 0.5)
    (truth,) = views_of(policy, manifest, range(4))
    assert truth.regions == {0: (40, 30, 60, 70), 2: (0, 0, 50, 50), 3: (40, 30, 60, 70)}  # truth has no score
    assert without_box(policy, [truth], range(4)) == 1
    layer = BoxesLayer(
        {
            "k0": ((1.0, 1.0, 5.0, 5.0, 0.9), (0.0, 0.0, 90.0, 70.0, 0.8)),
            "k1": ((1.0, 1.0, 5.0, 5.0, 0.7), (2.0, 2.0, 50.0, 50.0, 0.7)),
            "k2": ((1.0, 1.0, 5.0, 5.0, 0.49),),
            "k3": (),
        },
        {},
    )
    (found,) = views_of(policy, manifest, range(4), layer)
    assert found.regions == {0: (1, 1, 5, 5), 1: (2, 2, 50, 50)}
    assert without_box(policy, [found], range(4)) == 2
    assert views_of(Policy("whole", 0.0, "truth", 0.5), manifest, range(4), layer) == (WHOLE,)
    both = views_of(Policy("whole+square", 0.0, "x", 0.0), manifest, range(4), layer)
    assert both[0] == WHOLE
    assert both[1].regions[2] == (1, 1, 5, 5)
    del layer.boxes["k2"]
    with pytest.raises(UserError, match=r"boxes.jsonl: does not list 1 of 4 images \(first 'k2'\)"):
        views_of(Policy("box", 0.0, "boxes.jsonl", 0.0), manifest, range(4), layer)


def test_padded_crops_are_not_enlarged() -> None:
    image = torch.arange(3 * 80 * 100).view(3, 80, 100)
    part = View({7: (40, 30, 60, 71)}, padded=True).cut(image, 7)
    assert part.shape == (3, 100, 100)
    assert torch.equal(part[:, 29:70, 40:60], image[:, 30:71, 40:60])
    assert int((part != 0).sum()) == 3 * 41 * 20
    assert View({7: (40, 30, 60, 71)}, padded=True).cut(image, 8) is image
    assert torch.equal(View({7: (40, 30, 60, 71)}).cut(image, 7), image[:, 30:71, 40:60])


def test_what_is_measured_has_a_policy_of_its_own() -> None:
    config = DataConfig(crop="box", margin=0.0, boxes="truth", min_score=0.1)
    assert eval_policy(config) == train_policy(config) == Policy("box", 0.0, "truth", 0.1)
    config = DataConfig(crop="box", test_crop="whole+square", test_margin=0.2, test_boxes="file", test_min_score=0.0)
    assert train_policy(config) == Policy("box", 0.1, "truth", 0.0)
    assert eval_policy(config) == Policy("whole+square", 0.2, "file", 0.0)
    assert (train_policy(config).layer, eval_policy(config).layer) == ("", "file")
    assert Policy("whole", 0.1, "file", 0.0).layer == ""


def test_loaders_cut_and_training_draws_one_view_an_epoch_by_the_seed(guide: Manifest, tmp_path: Path) -> None:
    found = {entry.key: [(4, 6, 24, 40, 0.9)] for entry in guide.entries[:-1]} | {guide.entries[-1].key: []}
    write_layer(tmp_path / "boxes.jsonl", guide, found, {})
    layer = read_layer(tmp_path / "boxes.jsonl", guide)
    indices = guide.split("train")
    views = views_of(Policy("whole+box", 0.0, "x", 0.0), guide, indices, layer)

    def shape(image: torch.Tensor) -> torch.Tensor:
        return torch.tensor(image.shape)[:, None, None]  # as an image of one pixel

    sizes = torch.cat([batch.images for batch in eval_loader(indices, Samples(guide, shape, views[1:]), batch=9)])
    cut = [guide.entries[index].key != guide.entries[-1].key for index in indices]
    assert (sizes.flatten(1) == torch.tensor([3, 34, 20])).all(1).tolist() == cut

    loader = train_loader(guide, indices[:40], Samples(guide, shape, views, seed=3), seed=3, batch=8, epochs=6)
    drawn = [
        (int(epoch), int(entry), int(size[1] == 34))
        for batch in loader
        for epoch, entry, size in zip(batch.epochs, batch.entries, batch.images.flatten(1), strict=True)
    ]
    assert all(view == view_choice(3, epoch, entry, 2) for epoch, entry, view in drawn)
    assert 0.4 < np.mean([view for *_, view in drawn]) < 0.6
    assert {view for _, entry, view in drawn if entry == indices[0]} == {0, 1}
