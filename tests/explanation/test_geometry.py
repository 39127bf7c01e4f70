"""Where an image's pixels are in the input, against the transform itself."""

import numpy as np
import pytest
import torch

from fgvc.explanation.geometry import placement
from shards.entries import Entry
from shards.reading.config import ImageConfig
from shards.reading.transforms import eval_transform
from shards.reading.views import WHOLE, View


@pytest.mark.parametrize("fit", ["center_crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(150, 100), (97, 160), (40, 61)])
@pytest.mark.parametrize("view", [WHOLE, View({0: (10, 5, 38, 35)}), View({0: (10, 5, 38, 35)}, padded=True)])
def test_against_the_transform(fit: str, size: tuple[int, int], view: View) -> None:
    """An image whose red is its column and green its row tells where every pixel of the input came from."""
    width, height = size
    image = torch.full((3, height, width), 255, dtype=torch.uint8)
    image[0], image[1] = torch.arange(width), torch.arange(height)[:, None]
    config = ImageConfig(eval_fit=fit, eval_crop=0.8)
    side = 56
    seen = eval_transform(config, side, cut=bool(view.regions))(view.cut(image, 0)).numpy().astype(float)
    placed = placement(Entry("a", 0, "test", 0, 0, 0, width, height), 0, view, config, side)
    inside = seen[2] > 250  # not padding, nor blended with it
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    xs = (columns - placed.shift[0]) / placed.scale[0]
    ys = (rows - placed.shift[1]) / placed.scale[1]
    assert inside.sum() > 50
    near = inside & (xs > 1) & (xs < width - 1) & (ys > 1) & (ys < height - 1)
    # A pixel holds its number at its centre; resizing blends, rounding and the edges of a cut add half a pixel.
    assert np.abs(xs - 0.5 - seen[0])[near].mean() < 0.5
    assert np.abs(ys - 0.5 - seen[1])[near].mean() < 0.5
    x0, y0, x1, y1 = placed.back((10.0, 12.0, 30.0, 40.0))
    assert placed.box((x0, y0, x1, y1)) == pytest.approx((10, 12, 30, 40))
    mask = np.zeros((height, width), bool)
    mask[int(max(y0, 0)) : int(y1), int(max(x0, 0)) : int(x1)] = True
    found = placed.mask(mask)
    expected = np.zeros((side, side), bool)
    expected[12:40, 10:30] = True
    clear = np.zeros_like(expected)
    clear[15:37, 13:27] = True
    valid = (xs > 0) & (xs < width) & (ys > 0) & (ys < height)
    assert found[clear & valid].all()
    assert not found[~expected & (np.abs(columns - 20) > 14) | (np.abs(rows - 26) > 18)].any()


def test_a_box_outside_the_input_is_none() -> None:
    config = ImageConfig(eval_fit="center_crop", eval_crop=0.5)
    placed = placement(Entry("a", 0, "test", 0, 0, 0, 100, 100), 0, WHOLE, config, 50)
    assert placed.box((0, 0, 20, 20)) is None
    assert placed.box((0, 0, 50, 50)) == pytest.approx((0, 0, 25, 25))
    assert placed.point(25, 75) == pytest.approx((0, 50))
