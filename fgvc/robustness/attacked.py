"""The model as an attacker sees it: pixels in [0, 1] in, logits out, with everything that is deployed inside."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

Preprocess = Literal["none", "quantize", "jpeg", "noise"]
STRENGTHS = {"none": 0.0, "quantize": 8.0, "jpeg": 50.0, "noise": 16 / 255}  # levels, quality, standard deviation


class Attacked(nn.Module):
    """(N, 3, H, W) float in [0, 1] -> (N, classes) logits.

    classifier: takes pixels from 0 to 255 (fgvc.models.normalised.Normalised). flip: average the logits with the
    mirror image's. preprocess: a transform in front of it that is to defend it: fewer levels a channel | JPEG |
    Gaussian noise; strength: its levels, quality or standard deviation (0: 8, 50, 16/255). size: of the classifier's
    input, where it differs from the images' (a surrogate's). straight_through: the backward pass takes the transform
    for the identity (BPDA, Athalye et al. 2018, arXiv:1802.00420); otherwise one that has no gradient gives zeros, as
    it does to an attacker who has not noticed.
    """

    def __init__(
        self, classifier: nn.Module, *, flip: bool = False, preprocess: Preprocess = "none", strength: float = 0.0,
        size: int = 0, straight_through: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classifier, self.flip, self.size = classifier, flip, size
        self.preprocess, self.strength = preprocess, strength or STRENGTHS[preprocess]
        self.straight_through = straight_through
        self.eval().requires_grad_(False)  # libraries call backward(): parameters would gather gradients

    @property
    def random(self) -> bool:
        """Whether two passes over the same image differ."""
        return self.preprocess == "noise"

    def forward(self, images: torch.Tensor, drawn: torch.Tensor | None = None) -> torch.Tensor:
        """drawn: standard normal numbers of the images' shape for the noise (default: new ones)."""
        images = self._pixels(images, drawn)
        logits = self.classifier(images)
        return (logits + self.classifier(images.flip(3))) / 2 if self.flip else logits

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, D): what the network's classifier reads; with the mirror image's mean where that counts."""
        images = self._pixels(images)
        found = _features(self.classifier, images)
        return (found + _features(self.classifier, images.flip(3))) / 2 if self.flip else found

    def _pixels(self, images: torch.Tensor, drawn: torch.Tensor | None = None) -> torch.Tensor:
        """The classifier's input, 0 to 255."""
        if self.preprocess == "noise":
            images = images + self.strength * (torch.randn_like(images) if drawn is None else drawn)
        elif self.preprocess != "none":
            with torch.no_grad():
                defended = (quantize if self.preprocess == "quantize" else jpeg)(images, self.strength)
            images = defended + (images - images.detach() if self.straight_through else 0 * images)
        if self.size:
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images * 255


@torch.no_grad()
def answers(model: Attacked, images: torch.Tensor, entries: Sequence[int], seed: int, draws: int) -> torch.Tensor:
    """(N, classes): what counts as the model's answer to images (N, 3, H, W) of these entries.

    The logits; of a random model the mean softmax over `draws` passes whose noise is a function of (seed, entry, pass).
    So an image meets the same noise after every attack: with new noise each time, the worst of several attacks would
    lose images to chance alone.
    """
    if not model.random:
        return model(images)
    total = torch.zeros(())
    for number in range(draws):
        drawn = np.stack([
            np.random.default_rng([seed, entry, 6000 + number]).standard_normal(images.shape[1:], dtype=np.float32)
            for entry in entries
        ])  # fmt: skip
        total = total + model(images, torch.from_numpy(drawn).to(images)).softmax(1)
    return total / draws


def quantize(images: torch.Tensor, levels: float) -> torch.Tensor:
    """Pixels in [0, 1] rounded to `levels` equally spaced values."""
    return (images * (levels - 1)).round() / (levels - 1)


def jpeg(images: torch.Tensor, quality: float) -> torch.Tensor:
    """(N, 3, H, W) pixels in [0, 1] through JPEG's compression."""
    found = [
        decode_jpeg(encode_jpeg(image, int(quality)), ImageReadMode.RGB)
        for image in (images * 255).round().clamp(0, 255).byte().cpu()
    ]
    return torch.stack(found).to(images) / 255


def full_precision() -> None:
    """Attacks need gradients to the last bit: no TF32, no choice of kernels by speed."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


def _features(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The input of the network's last linear layer; of one that has none, the logits."""
    linear = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    caught: list[torch.Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])) if linear else None
    try:
        logits = classifier(images)
    finally:
        if handle is not None:
            handle.remove()
    return (caught[0] if caught else logits).flatten(1)
