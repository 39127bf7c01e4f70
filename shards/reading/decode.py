"""From stored JPEG bytes to a uint8 image."""

from collections.abc import Callable

import simplejpeg
import torch

from shards.errors import UserError


def decode(data: bytes, where: str | Callable[[], str] = "image") -> torch.Tensor:
    """(3, H, W) uint8 RGB of a JPEG. Raises UserError naming `where`, text or what makes it, when they are damaged."""
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError as error:
        name = where if isinstance(where, str) else where()
        raise UserError(f"{name}: not a readable JPEG ({error}); run fgvc shards verify") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
