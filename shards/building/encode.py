"""Check one encoded image and, where readers need it, turn it into an upright 8-bit RGB JPEG."""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from shards.sample import Box

EXIF_ORIENTATION = 0x0112
FAINT = 1 << 14  # 16-bit pixels all below this are 8 to 14 bits in a larger type: nearly black if taken as 16


class ImageError(Exception):
    """An image that cannot be read; the text says why in a few words."""


@dataclass(frozen=True)
class Encoded:
    """A JPEG ready for a shard.

    width, height: upright pixels of `data`. scale: (x, y) factors from the upright original to `data`.
    notes: what had to be done, empty when the bytes are as they came. orientation: the original's, as EXIF counts.
    """

    data: bytes
    width: int
    height: int
    scale: tuple[float, float] = (1.0, 1.0)
    notes: tuple[str, ...] = ()
    orientation: int = 1


def normalise(data: bytes, shrink: int = 0, quality: int = 92) -> Encoded:
    """Keep an upright 8-bit RGB or greyscale JPEG as it is; encode anything else again, RGB, upright, 4:4:4.

    shrink: short side at most this many pixels; 0 never shrinks. Transparent pixels are composited on white.
    Raises ImageError when the image is unreadable, truncated or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a big image or odd metadata should not produce a warning in every process
            return _normalise(data, shrink, quality)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(str(error))) from error
    except Exception as error:  # decoders raise nearly anything on damaged files: OSError, SyntaxError, struct.error
        raise ImageError(_reason(data, error)) from error


def _normalise(data: bytes, shrink: int, quality: int) -> Encoded:
    image: Image.Image = Image.open(io.BytesIO(data))
    notes = []
    is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a camera's JPEG with a preview behind it
    if not is_jpeg:
        notes.append(f"re-encoded: {image.format}")
    if image.format == "PNG":
        _check_png(data, image)
    orientation = _orientation(image)
    if orientation != 1:
        notes.append("re-encoded: EXIF rotation")
    if image.mode not in ("RGB", "L"):
        notes.append(f"re-encoded: {image.mode}")
    if is_jpeg and image.mode in ("RGB", "L") and _has_stray_bytes(data):
        notes.append("re-encoded: stray bytes in the JPEG")
    ratio = shrink / min(image.size) if shrink else 1.0
    if not notes and ratio >= 1:
        return Encoded(data, *image.size)

    image.load()  # raises on a truncated file, before anything else looks at the pixels
    image = to_rgb(ImageOps.exif_transpose(image))
    width, height = image.size
    if ratio < 1:
        notes.append("shrunk")
        image = image.resize((max(1, round(width * ratio)), max(1, round(height * ratio))), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0)
    scale = (image.width / width, image.height / height)
    return Encoded(stream.getvalue(), *image.size, scale, tuple(notes), orientation)


def _check_png(data: bytes, image: Image.Image) -> None:
    """Load the pixels and compare the checksums, which loading skips. Raises nearly anything on damage.

    Before anything asks for EXIF: it may stand behind the pixels, and a failed look for it leaves half a picture that
    loads without a complaint. A TIFF has to be asked first: it is turned when it is loaded, and says so no longer.
    """
    Image.open(io.BytesIO(data)).verify()
    image.load()


def _has_stray_bytes(data: bytes) -> bool:
    """Decode with the library that reads the shards later: it is fast and reports damage that PIL paints over.

    True for complete images with bytes between their markers, which strict readers refuse. Raises ImageError on damage.
    """
    try:
        simplejpeg.decode_jpeg(data)
    except ValueError as error:
        message = str(error).lower()
        if "premature end" in message or ("corrupt" in message and "extraneous" not in message):
            raise ImageError("truncated" if "premature" in message else "damaged JPEG data") from error
        return True
    return False


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata around a valid image: readers ignore it too
        return 1
    return found if found in range(1, 9) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparent pixels on white. Raises ImageError for pixels whose range is not known."""
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        image = _from_integers(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """16 bits as 8 (PIL's own conversion clips at 255). Raises ImageError where the values do not fill their type, as
    a camera's 12 bits or a microscope's 32 do: what is white in them is not known."""
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if (image.format != "PNG" and image.mode == "I") or low < 0 or high > 65535 or 0 < high < FAINT:
        bits = 32 if image.mode == "I" and image.format != "PNG" else 16
        raise ImageError(f"integers of {bits} bits from {low} to {high}, whose range is not known; save it with 8 bits")
    return Image.fromarray((pixels.astype(np.uint32) / 257).round().astype(np.uint8))


def _too_large(message: str) -> str:
    """A reason that gives the size and the limit; Pillow's message holds the first."""
    found = re.search(r"\((\d+) pixels\)", message)
    size = f"{int(found[1]) / 1e6:.0f}" if found else "too many"
    return f"{size} megapixels, the limit is {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}; save it smaller"


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty file"
    if data[4:8] == b"ftyp":
        return f"a picture or film of type {data[8:12].decode('ascii', 'replace').strip()}, not read here; convert it"
    if "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return f"unreadable: {error or type(error).__name__}"


def fit_boxes(boxes: tuple[Box, ...], image: Encoded) -> tuple[tuple[Box, ...], int]:
    """Boxes given in the upright original's pixels, in the stored image's; and how many had to be clipped.

    Raises ImageError when a box lies outside the image or holds no pixels.
    """
    (sx, sy), width, height = image.scale, image.width, image.height
    fitted, clipped = [], 0
    for x0, y0, x1, y1 in boxes:
        box = (max(x0 * sx, 0.0), max(y0 * sy, 0.0), min(x1 * sx, width), min(y1 * sy, height))
        box = (round(box[0], 3), round(box[1], 3), round(box[2], 3), round(box[3], 3))
        if box[0] >= box[2] or box[1] >= box[3]:
            size = f"{width / sx:.0f} x {height / sy:.0f}"
            where = "lies outside" if min(x1, y1) <= 0 or x0 * sx >= width or y0 * sy >= height else "has no area in"
            raise ImageError(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) {where} the image of {size}")
        clipped += x0 < 0 or y0 < 0 or x1 * sx > width + 1e-6 or y1 * sy > height + 1e-6
        fitted.append(box)
    return tuple(fitted), clipped
