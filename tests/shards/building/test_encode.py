"""Images are kept when every reader can use them, made upright 8-bit RGB when not, and refused when damaged."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded, picture

from shards.building.encode import Encoded, ImageError, fit_boxes, normalise


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def close(data: bytes, expected: Image.Image, tolerance: float = 3.0) -> bool:
    return abs(pixels(data) - np.asarray(expected.convert("RGB")).astype(int)).mean() < tolerance


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 40, "subsampling": 2}])
def test_sound_jpegs_keep_their_bytes(mode, options):
    data = encoded(picture(1, mode=mode), **options)
    assert normalise(data) == Encoded(data, 60, 40)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_other_formats_become_jpeg(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    result = normalise(encoded(picture(2), kind, **options))
    image = Image.open(io.BytesIO(result.data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (60, 40))
    assert f"re-encoded: {kind}" in result.notes
    assert close(result.data, picture(2), 8.0 if kind == "GIF" else 3.0)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_rotated_jpegs_become_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = normalise(encoded(picture(3), exif=exif, quality=95))
    assert result.notes == ("re-encoded: EXIF rotation",)
    assert (result.width, result.height) == ((40, 60) if orientation >= 5 else (60, 40))
    turns = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}
    if orientation in turns:
        assert close(result.data, picture(3).transpose(turns[orientation]), 5.0)
    assert normalise(result.data).notes == ()  # upright now, nothing more to do


def test_orientation_one_and_damaged_metadata_are_no_reason_to_encode():
    exif = Image.Exif()
    exif[0x0112] = 1
    assert normalise(encoded(picture(3), exif=exif)).notes == ()
    data = encoded(picture(3), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert normalise(data).data == data


def test_cmyk_palette_and_alpha():
    cmyk = normalise(encoded(picture(4, mode="CMYK")))
    assert cmyk.notes == ("re-encoded: CMYK",)
    assert close(cmyk.data, picture(4), 4.0)

    palette = normalise(encoded(picture(4).quantize(64), "PNG"))
    assert "re-encoded: P" in palette.notes

    half = picture(4).convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    white = Image.alpha_composite(Image.new("RGBA", half.size, "white"), half)
    assert close(normalise(encoded(half, "PNG")).data, white)


def test_16_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    result = normalise(encoded(Image.fromarray(ramp), "PNG"))
    assert abs(pixels(result.data)[..., 0] - ramp / 257).mean() < 2


def test_shrinking_scales_the_short_side_and_the_boxes():
    result = normalise(encoded(picture(5, (600, 400))), shrink=100)
    assert (result.width, result.height, result.notes) == (150, 100, ("shrunk",))
    assert fit_boxes(((60.0, 40.0, 600.0, 400.0),), result) == (((15.0, 10.0, 150.0, 100.0),), 0)
    small = encoded(picture(5))
    assert normalise(small, shrink=100).data == small


def test_boxes_partly_outside_are_clipped_and_those_outside_refused():
    image = Encoded(b"", 60, 40)
    assert fit_boxes(((-5.0, 3.0, 70.0, 30.0), (1.0, 1.0, 2.0, 2.0)), image) == (
        ((0.0, 3.0, 60.0, 30.0), (1.0, 1.0, 2.0, 2.0)),
        1,
    )
    with pytest.raises(ImageError, match=r"box \(60, 0, 70, 10\) lies outside the image of 60 x 40"):
        fit_boxes(((60.0, 0.0, 70.0, 10.0),), image)
    with pytest.raises(ImageError, match="has no area in the image of 60 x 40"):
        fit_boxes(((5.0, 5.0, 5.0001, 9.0),), image)  # as rounded


def whole() -> bytes:
    return encoded(picture(6, (200, 150)), quality=90)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (whole()[:-2], "truncated"),
        (whole()[: len(whole()) // 2], "truncated"),
        (whole()[: len(whole()) // 2] + b"\xff\xd9", "truncated"),  # PIL alone would paint the rest grey
        (encoded(picture(6), "PNG")[:-200], "truncated|unreadable"),
        (encoded(picture(6, mode="CMYK"))[:-300], "truncated"),
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff\xe0", "unreadable|truncated|not an image"),
    ],
)
def test_damage_is_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        normalise(data)


def test_stray_bytes_in_a_whole_jpeg_are_removed():
    data = whole()
    result = normalise(data[:-2] + b"\x12" * 30 + data[-2:])
    assert result.notes == ("re-encoded: stray bytes in the JPEG",)
    assert close(result.data, picture(6, (200, 150)))


def test_every_flipped_byte_in_the_pixels_of_a_png_is_refused():
    data = encoded(picture(5, (96, 64)), "PNG")
    start = data.index(b"IDAT") + 4
    for at in range(start, len(data) - 20, 200):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        with pytest.raises(ImageError):
            normalise(bytes(damaged))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_and_says_how_it_was(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = normalise(encoded(picture(3), kind, exif=exif))
    size = (40, 60) if orientation >= 5 else (60, 40)
    assert (result.width, result.height, result.orientation) == (*size, orientation)


@pytest.mark.parametrize(("low", "high", "kind"), [(0, 4095, np.uint16), (-100, 400, np.int32), (0, 65535, np.int32)])
def test_integers_of_an_unknown_range_are_refused(low, high, kind):
    ramp = np.linspace(low, high, 60 * 40).reshape(40, 60).astype(kind)
    with pytest.raises(ImageError, match=f"from {low} to {high}, whose range is not known"):
        normalise(encoded(Image.fromarray(ramp), "TIFF"))
