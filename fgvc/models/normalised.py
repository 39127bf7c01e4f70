"""A network with its input's normalisation in front, so that it takes uint8 images."""

import torch
from torch import nn


class Normalised(nn.Module):
    """A model that takes uint8 images: (N, 3, H, W) uint8 -> (N, classes) logits. Normalising runs on the device.

    channels_last: lay images and convolutions out channels first or last; the same numbers but for rounding.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor, channels_last: bool = True) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.register_buffer("mean", mean * 255, persistent=False)
        self.register_buffer("std", std * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=self.layout)  # bytes: four times less to move than floats
        return self.model((images.float() - self.mean) / self.std)
