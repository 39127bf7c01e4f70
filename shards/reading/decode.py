"""From stored JPEG bytes to a uint8 image."""

import simplejpeg
import torch

from shards.errors import UserError


def decode(data: bytes, where: str = "image") -> torch.Tensor:
    """(3, H, W) uint8 RGB of a JPEG. Raises UserError naming `where` when the bytes are damaged."""
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError as error:
        raise UserError(f"{where}: not a readable JPEG ({error}); run fgvc shards verify") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
