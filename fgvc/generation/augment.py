"""DiffAugment (Zhao et al., 2020, https://arxiv.org/abs/2006.10738): real and generated images are changed alike before
the discriminator sees them, by operations that gradients pass through. What is drawn comes from outside, so that it can
be a function of the sample."""

from collections.abc import Sequence

import torch
from torch.nn import functional

DRAWS = 7  # numbers in [0, 1) that an image's changes are made from


def diff_augment(images: torch.Tensor, draws: torch.Tensor, kinds: Sequence[str]) -> torch.Tensor:
    """(N, 3, H, W) centred on 0, and (N, DRAWS) numbers -> images of the same shape."""
    if "color" in kinds:
        images = _color(images, draws[:, :3, None, None, None])
    if "translation" in kinds:
        images = _translate(images, draws[:, 3:5])
    if "cutout" in kinds:
        images = _cut_out(images, draws[:, 5:7])
    return images


def _color(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Brightness by -0.5 to 0.5, saturation by 0 to 2, contrast by 0.5 to 1.5."""
    images = images + (draws[:, 0] - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (draws[:, 1] * 2) + grey
    middle = images.mean((1, 2, 3), keepdim=True)
    return (images - middle) * (draws[:, 2] + 0.5) + middle


def _translate(images: torch.Tensor, draws: torch.Tensor, share: float = 1 / 8) -> torch.Tensor:
    """Moved by whole pixels, up to an eighth of the side; 0 where nothing was."""
    height, width = images.shape[2:]
    most = torch.tensor([round(height * share), round(width * share)], device=images.device)
    moves = (draws * (2 * most + 1)).floor().long() - most
    padded = functional.pad(images, [1, 1, 1, 1])
    rows = (torch.arange(height, device=images.device) + moves[:, :1] + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=images.device) + moves[:, 1:] + 1).clamp(0, width + 1)
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _cut_out(images: torch.Tensor, draws: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """A square of half the sides, its centre anywhere, set to 0."""
    sides = images.shape[2:]
    keep = []
    for axis, side in enumerate(sides):
        cut = round(side * share)
        centre = (draws[:, axis] * (side + (1 - cut % 2))).floor()[:, None]
        place = torch.arange(side, device=images.device)
        keep.append((place >= centre - cut // 2) & (place < centre - cut // 2 + cut))
    hole = keep[0][:, None, :, None] & keep[1][:, None, None, :]
    return images * ~hole
