"""From stored JPEG bytes to a uint8 image of the chosen part: decoding, and crops around boxes."""

import math

import simplejpeg
import torch

from shards.errors import DataError
from shards.manifest import Entry
from shards.sample import Box


def decode(data: bytes, where: str = "image") -> torch.Tensor:
    """(3, H, W) uint8 RGB of a JPEG. Raises DataError naming `where` when the bytes are damaged."""
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError as error:
        raise DataError(f"{where}: not a readable JPEG ({error}); run fgvc shards verify") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def crop_region(entry: Entry, policy: str, margin: float) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of the image that a crop policy keeps, or None for the whole image.

    box: the largest box, enlarged on every side by `margin` of its longer side, clipped to the image.
    square: the square of the enlarged box's longer side around its centre, moved inside the image where it sticks
    out and cut only where it is larger than the image. Without a box: the whole image.
    """
    if policy == "whole" or not entry.boxes:
        return None
    x0, y0, x1, y1 = max(entry.boxes, key=_area)
    pad = margin * max(x1 - x0, y1 - y0)
    x0, y0, x1, y1 = x0 - pad, y0 - pad, x1 + pad, y1 + pad
    if policy == "square":
        side = max(x1 - x0, y1 - y0)
        x0, x1 = _fit((x0 + x1) / 2, side, entry.width)
        y0, y1 = _fit((y0 + y1) / 2, side, entry.height)
    left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
    return left, top, max(left + 1, min(entry.width, math.ceil(x1))), max(top + 1, min(entry.height, math.ceil(y1)))


def crop(image: torch.Tensor, region: tuple[int, int, int, int] | None) -> torch.Tensor:
    """The region (x0, y0, x1, y1) of a (3, H, W) image."""
    if region is None:
        return image
    x0, y0, x1, y1 = region
    return image[:, y0:y1, x0:x1]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _fit(centre: float, side: float, limit: int) -> tuple[float, float]:
    """An interval of length `side` around `centre`, moved into [0, limit]; all of it when it is too long."""
    if side >= limit:
        return 0.0, float(limit)
    start = min(max(0.0, centre - side / 2), limit - side)
    return start, start + side
