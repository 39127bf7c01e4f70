"""Pictures as people have them: files, bytes, arrays. Decoded as the shards of a build would hold them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from shards.building.encode import ImageError, normalise, to_rgb
from shards.errors import UserError
from shards.reading.decode import decode
from shards.sources.listing import describe_left_out, list_images
from shards.sources.problems import printable

Source = str | Path | bytes | Image.Image | np.ndarray | Tensor
STDIN = "-"
UNSHRUNK = (1.0, 1.0)


@dataclass(frozen=True)
class Listed:
    """Pictures to read, and a line for people about what was left out."""

    files: list[Path]
    remark: str = ""


def list_pictures(words: Sequence[str]) -> Listed:
    """The pictures that paths name: files as they are, folders with all below them. Raises UserError when there are
    none."""
    files: list[Path] = []
    left_out: dict[str, list[str]] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = list_images(path)
            files += [path / name for name in found.images]
            for why, names in found.left_out.items():
                left_out.setdefault(why, []).extend(names)
        elif word == STDIN or path.exists():
            files.append(path)
        else:
            raise UserError(printable(f"{word}: no such file or folder"))
    remark = f"left out: {describe_left_out(left_out)}" if left_out else ""
    if not files:
        raise UserError(
            printable(f"{', '.join(map(str, words))}: no pictures there" + (f"; {remark}" if remark else ""))
        )
    return Listed(files, printable(remark))


def open_picture(source: Source, shrink: int = 0) -> tuple[Tensor, tuple[float, float]]:
    """(3, H, W) uint8 RGB, upright, and the (x, y) factors by which it was shrunk. A file or bytes go the way of a
    build (shrink: as its setting), so that the pixels are those that evaluation sees; an array is taken as it is,
    (H, W, 3) or (H, W).

    Raises ImageError, in a few words, for what is no picture.
    """
    if isinstance(source, Tensor | np.ndarray):
        return _of_array(source), UNSHRUNK
    try:
        if isinstance(source, Image.Image):  # which may still be to be read from its file
            return _channels_first(np.asarray(to_rgb(ImageOps.exif_transpose(source)))), UNSHRUNK
        data = source if isinstance(source, bytes) else _read(source)
        encoded = normalise(data, shrink)
        return decode(encoded.data), encoded.scale
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    except UserError as error:  # what simplejpeg does not take although Pillow did
        raise ImageError(str(error)) from None


def _read(path: str | Path) -> bytes:
    if str(path) == STDIN:
        return sys.stdin.buffer.read()
    if not Path(path).is_file():
        raise ImageError("not a file")  # a pipe would be waited for
    return Path(path).read_bytes()


def _of_array(array: Any) -> Tensor:
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array.copy())
        array = array[..., None].expand(-1, -1, 3) if array.ndim == 2 else array
        array = array.permute(2, 0, 1) if array.ndim == 3 and array.shape[2] == 3 else array
    if array.dtype != torch.uint8 or array.ndim != 3 or array.shape[0] != 3 or not array.numel():
        shape = "x".join(map(str, array.shape))
        raise ImageError(
            f"an array of {array.dtype} and shape {shape}; expected uint8, (H, W, 3) or a (3, H, W) tensor"
        )
    return array


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
