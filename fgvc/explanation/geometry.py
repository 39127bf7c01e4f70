"""Where a stored image's pixels are in the model's input, and back: views (crops) and the evaluation transform."""

from dataclasses import dataclass

import numpy as np

from shards.entries import Entry
from shards.reading.config import ImageConfig
from shards.reading.views import WHOLE, View
from shards.sample import Box


@dataclass(frozen=True)
class Placement:
    """x_input = x * scale[0] + shift[0], y alike; pixels' corners are whole numbers on both sides."""

    scale: tuple[float, float]
    shift: tuple[float, float]
    size: int

    def box(self, box: Box) -> Box | None:
        """A stored box in the input, cut to it; None where nothing of it is left."""
        (sx, sy), (tx, ty) = self.scale, self.shift
        x0, x1 = (min(max(x * sx + tx, 0.0), self.size) for x in (box[0], box[2]))
        y0, y1 = (min(max(y * sy + ty, 0.0), self.size) for y in (box[1], box[3]))
        return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A stored point in the input; it may lie outside."""
        return x * self.scale[0] + self.shift[0], y * self.scale[1] + self.shift[1]

    def back(self, box: Box) -> Box:
        """A box of the input in the stored image; it may stick out where the input was padded."""
        (sx, sy), (tx, ty) = self.scale, self.shift
        return (box[0] - tx) / sx, (box[1] - ty) / sy, (box[2] - tx) / sx, (box[3] - ty) / sy

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A stored image's (H, W) mask in the input, (size, size): the value of the pixel that each place shows."""
        centres = np.arange(self.size) + 0.5
        xs = np.floor((centres - self.shift[0]) / self.scale[0]).astype(int)
        ys = np.floor((centres - self.shift[1]) / self.scale[1]).astype(int)
        height, width = mask.shape
        inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))
        return mask[ys.clip(0, height - 1)[:, None], xs.clip(0, width - 1)] & inside


def placement(entry: Entry, index: int, view: View, image: ImageConfig, size: int) -> Placement:
    """Of an image in a view, under the evaluation transform (shards/reading/transforms.py)."""
    return _placed(entry.width, entry.height, view, index, image, size)


def whole_placement(width: int, height: int, image: ImageConfig, size: int) -> Placement:
    """Of a whole image that is in no shard."""
    return _placed(width, height, WHOLE, 0, image, size)


def _placed(width: int, height: int, view: View, index: int, image: ImageConfig, size: int) -> Placement:
    left, top = 0, 0
    cut = bool(view.regions)
    if region := view.regions.get(index):
        left, top = region[:2]
        wide, high = region[2] - region[0], region[3] - region[1]
        if view.padded:
            side = max(width, height)
            left, top = left - (side - wide) // 2, top - (side - high) // 2
            wide = high = side
        width, height = wide, high
    fit = image.crop_fit if cut and image.crop_fit else image.eval_fit
    (new_width, new_height), (dx, dy) = _fitted(fit, width, height, image.eval_crop, size)
    sx, sy = new_width / width, new_height / height
    return Placement((sx, sy), (dx - left * sx, dy - top * sy), size)


def _fitted(fit: str, width: int, height: int, crop: float, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height that an image is resized to, and where its upper left corner then is in the input."""
    if fit == "squash":
        return (size, size), (0, 0)
    if fit == "pad":
        shrink = min(1.0, size / max(height, width))
        new = round(width * shrink), round(height * shrink)
        return new, ((size - new[0]) // 2, (size - new[1]) // 2)
    short = round(size / crop)
    longer = int(short * max(width, height) / min(width, height))  # as torchvision has it
    new = (short, longer) if width <= height else (longer, short)
    return new, (-round((new[0] - size) / 2.0), -round((new[1] - size) / 2.0))
