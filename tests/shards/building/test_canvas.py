"""Boxes of another size or of the picture before EXIF turned it end where their object is, or are refused by name."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded, make_raw

from shards.building.build import build
from shards.building.canvas import SCALED, SHARES, TURNED, on_upright
from shards.building.config import BuildOptions
from shards.building.encode import ImageError, normalise
from shards.errors import UserError
from shards.sample import Canvas

BOX = (10.0, 6.0, 30.0, 16.0)


def stored_picture(orientation: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A picture whose pixels are white inside BOX as stored, before EXIF turns it."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[6:16, 10:30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels), exif=exif, quality=98)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_picture_are_turned_with_its_pixels(orientation):
    image = normalise(stored_picture(orientation))
    assert image.orientation == orientation
    (box,), notes = on_upright((BOX,), Canvas((60, 40), "ignored"), image.orientation, image.width, image.height)
    upright = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
    rows, columns = (upright[..., 0] > 127).nonzero()
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert notes == ([TURNED] if orientation > 1 else [])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_declared_size_tells_whether_exif_was_applied(orientation):
    turned, notes = on_upright((BOX,), Canvas((60, 40)), orientation, 40, 60)
    assert turned != (BOX,)
    assert notes == [TURNED]
    assert on_upright((BOX,), Canvas((40, 60)), orientation, 40, 60) == ((BOX,), [])
    half, notes = on_upright((BOX,), Canvas((120, 80)), orientation, 40, 60)
    assert half == on_upright((tuple(v / 2 for v in BOX),), Canvas((60, 40)), orientation, 40, 60)[0]
    assert notes == [SCALED, TURNED]


@pytest.mark.parametrize(("orientation", "size"), [(2, (60, 40)), (3, (60, 40)), (4, (120, 80)), (6, (50, 50))])
def test_a_size_that_cannot_tell_is_refused_until_the_user_says(orientation, size):
    width, height = (60, 40) if size != (50, 50) else size
    for unknown in (size, None, (1.0, 1.0)):
        with pytest.raises(ImageError, match="set exif=applied or exif=ignored"):
            on_upright(((0.1, 0.1, 0.5, 0.5),), Canvas(unknown), orientation, width, height)
    with pytest.raises(ImageError, match="set exif=applied or exif=ignored"):
        on_upright((BOX,), Canvas(size), orientation, width, height)
    assert TURNED in on_upright((BOX,), Canvas(size, "ignored"), orientation, width, height)[1]
    assert TURNED not in on_upright((BOX,), Canvas(size, "applied"), orientation, width, height)[1]


def test_scaled_shares_and_as_they_are():
    assert on_upright((BOX,), None, 6, 40, 60) == ((BOX,), [])
    assert on_upright((BOX,), Canvas((60, 40)), 1, 60, 40) == ((BOX,), [])
    assert on_upright((BOX,), Canvas((180, 120)), 1, 60, 40) == ((tuple(v / 3 for v in BOX),), [SCALED])
    assert on_upright(((0.25, 0.5, 0.75, 1.0),), Canvas((1, 1)), 1, 60, 40) == (((15, 20, 45, 40),), [SHARES])
    rounded, _ = on_upright((BOX,), Canvas((1000, 667)), 1, 60, 40)  # 667 * 0.06 is 40.02
    assert rounded[0] == pytest.approx((0.6, 0.36, 1.8, 0.96), abs=0.01)
    with pytest.raises(ImageError, match="declared for 100 x 40 pixels, the image has 60 x 40, another shape"):
        on_upright((BOX,), Canvas((100, 40)), 1, 60, 40)


def test_without_a_size_a_box_far_beyond_the_image_is_refused():
    assert on_upright(((10.0, 6.0, 62.0, 41.0),), Canvas(), 1, 60, 40)[1] == []  # a sloppy hand: clipped later
    with pytest.raises(ImageError, match=r"\(10, 6, 120, 40\) reaches beyond the image of 60 x 40; drawn on another"):
        on_upright(((10.0, 6.0, 120.0, 40.0),), Canvas(), 1, 60, 40)


def test_a_build_names_the_file_and_counts_what_it_did(tmp_path: Path):
    raw = make_raw(tmp_path / "raw", train=32, test=16)
    samples = tuple(dataclasses.replace(sample, canvas=Canvas((120, 80))) for sample in raw.samples)
    manifest = build(dataclasses.replace(raw, samples=samples), tmp_path / "out", BuildOptions(workers=1))
    assert manifest.notes == {SCALED: 48}
    assert {entry.boxes for entry in manifest.entries} == {((2.5, 2.0, 25.0, 18.0),)}
    assert manifest.entries[0].parts == {"eye": (10.0, 5.25)}
    wrong = (dataclasses.replace(raw.samples[0], canvas=Canvas((99, 80))), *raw.samples[1:])
    with pytest.raises(UserError, match=r"bird 0\.jpg \(its boxes were declared for 99 x 80 pixels"):
        build(dataclasses.replace(raw, samples=wrong), tmp_path / "other", BuildOptions(workers=1))
