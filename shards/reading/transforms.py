"""Training and evaluation transforms: torchvision v2 on uint8, seeded by the sample and not by the process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from shards.errors import UserError
from shards.reading.config import ImageConfig

Transform = Callable[[torch.Tensor], torch.Tensor]


def train_transform(config: ImageConfig, size: int) -> Transform:
    """(3, H, W) uint8 -> (3, size, size) uint8, drawing from torch's global generator (see `seeded`)."""
    mode = InterpolationMode(config.interpolation)
    steps: list[Transform] = []
    if config.fit == "random_resized_crop":
        steps.append(_RandomResizedCrop(size, scale=config.scale, ratio=config.ratio, interpolation=mode))
    elif config.fit == "random_crop":
        steps += [v2.Resize(round(size / config.eval_crop), interpolation=mode), v2.RandomCrop(size)]
    else:
        steps.append(_fitted(config.fit, size, mode, 1.0))
    if config.flip:
        steps.append(_RandomHorizontalFlip(config.flip))
    if config.policy == "randaugment":
        steps.append(v2.RandAugment(interpolation=mode))
    elif config.policy == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=mode))
    if config.color_jitter:
        steps.append(v2.ColorJitter(config.color_jitter, config.color_jitter, config.color_jitter))
    if config.grayscale:
        steps.append(v2.RandomGrayscale(config.grayscale))
    return v2.Compose(steps)


class _RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's, bit for bit, in two thirds of the time: a part of a decoded image, whose channels lie together, is
    copied before it is resized, for torch resizes only whole tensors of that layout as fast as it can."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        at = self.make_params([image])
        part = image[..., at["top"] : at["top"] + at["height"], at["left"] : at["left"] + at["width"]]
        part = part[None].contiguous(memory_format=torch.channels_last)[0]
        return functional.resize(part, self.size, interpolation=self.interpolation, antialias=self.antialias)


class _RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """torchvision's for (3, H, W), bit for bit, in two thirds of the time where the channels lie together."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if torch.rand(1) >= self.p:
            return image
        rows = image.permute(1, 2, 0)
        if not rows.is_contiguous():
            return functional.horizontal_flip(image)
        return torch.from_numpy(cv2.flip(rows.numpy(), 1)).permute(2, 0, 1)


@dataclass(frozen=True)
class ByEpoch:
    """Training transforms of a run whose images grow (Tan and Le 2021, https://arxiv.org/abs/2104.00298, section 4):
    one after another, each for an equal part of the epochs. Which one an epoch has depends on nothing else."""

    transforms: Sequence[Transform]
    epochs: int

    def at(self, epoch: int) -> Transform:
        """The transform of an epoch, from 0; of the last one for epochs beyond the end."""
        return self.transforms[min(epoch, self.epochs - 1) * len(self.transforms) // self.epochs]


def train_transforms(config: ImageConfig, size: int, epochs: int) -> Transform | ByEpoch:
    """What training does to images: `train_transform` at `size`, or at each of the config's sizes in turn."""
    if not config.sizes:
        return train_transform(config, size)
    return ByEpoch([train_transform(config, side) for side in config.sizes], epochs)


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # bottom?, right?


def eval_transform(config: ImageConfig, size: int, cut: bool = False, crop: int = 0) -> Transform:
    """(3, H, W) uint8 -> (3, size, size) uint8, deterministic. cut: for a view that a box cut out. crop: 0 for the
    image as it is fitted, 1 to 4 for a corner of it enlarged by 1 / eval_crop (with it the five crops of
    Krizhevsky et al. 2012, section 4.1).

    Raises UserError for corners of an image that is fitted on black.
    """
    fit = config.crop_fit if cut and config.crop_fit else config.eval_fit
    if crop:
        return _corner(fit, size, InterpolationMode(config.interpolation), config.eval_crop, *CORNERS[crop - 1])
    return _fitted(fit, size, InterpolationMode(config.interpolation), config.eval_crop)


def seeded(transform: Transform, image: torch.Tensor, seed: int) -> torch.Tensor:
    """`transform(image)` with torch's generator seeded, and restored afterwards (training draws from it too)."""
    with kept_generator():
        seed_generator(seed)
        return transform(image)


def seed_generator(seed: int) -> None:
    """torch.manual_seed, which would seed absent GPUs too, and formats a stack trace for them: as slow as decoding."""
    torch.default_generator.manual_seed(seed)


@contextmanager
def kept_generator() -> Iterator[None]:
    """Put torch's generator back to where it was."""
    before = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _corner(fit: str, size: int, mode: InterpolationMode, crop_share: float, bottom: int, right: int) -> Transform:
    """A corner of the image, resized to `size` / `crop_share` with (center_crop) or without (squash) its shape."""
    if fit == "pad":
        raise UserError("image.eval_crops=5: an image that is padded has black corners; take center_crop or squash")
    side = round(size / crop_share)

    def corner(image: torch.Tensor) -> torch.Tensor:
        image = functional.resize(image, [side, side] if fit == "squash" else [side], interpolation=mode)
        height, width = image.shape[-2:]
        top, left = bottom * (height - size), right * (width - size)
        return image[:, top : top + size, left : left + size]

    return corner


def _fitted(fit: str, size: int, mode: InterpolationMode, crop_share: float) -> Transform:
    if fit == "center_crop":
        return v2.Compose([v2.Resize(round(size / crop_share), interpolation=mode), v2.CenterCrop(size)])
    if fit == "squash":
        return v2.Resize((size, size), interpolation=mode)

    def pad(image: torch.Tensor) -> torch.Tensor:
        # The origin project's: images only ever shrink, the rest of the square is black.
        height, width = image.shape[-2:]
        shrink = min(1.0, size / max(height, width))
        height, width = round(height * shrink), round(width * shrink)
        if shrink < 1.0:
            image = functional.resize(image, [height, width], interpolation=mode)
        left, top = (size - width) // 2, (size - height) // 2
        return functional.pad(image, [left, top, size - width - left, size - height - top])

    return pad
