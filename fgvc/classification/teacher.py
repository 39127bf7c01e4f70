"""A finished classifier whose answers another one learns."""

import torch
from torch import nn
from torch.nn import functional

from fgvc.runtime.flops import no_backward_follows


def soft_answers(teacher: nn.Module, images: torch.Tensor, temperature: float) -> torch.Tensor:
    """(N, classes) probabilities of a frozen teacher's logits divided by a temperature, for images in [0, 255]."""
    with no_backward_follows(), torch.no_grad():
        return (teacher(images).float() / temperature).softmax(1)


def distilled(logits: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
    """(N,) divergence of softened (N, classes) logits from a teacher's answers at the same temperature, times its
    square, which keeps gradients as large as those of the labels (Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
    section 2)."""
    divergence = functional.kl_div((logits / temperature).log_softmax(1), answers, reduction="none").sum(1)
    return temperature**2 * divergence


class Resized(nn.Module):
    """A model of uint8 images of its own side, in pixels, asked about images of any."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != self.side:
            images = functional.interpolate(images.float(), (self.side, self.side), mode="bilinear", antialias=True)
        return self.model(images)
