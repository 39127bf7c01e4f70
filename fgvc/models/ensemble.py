"""Several frozen backbones under one linear head: a network that timm knows nothing of, but looks like one of its."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std of the three channels, 0-1


class Ensemble(nn.Module):
    """(N, 3, H, W) images in [0, 1] -> (N, classes) logits, linear in the backbones' features side by side.

    backbones: timm networks without classifiers, each with the side that images are resized to (0: as they come) and
    the statistics that they are normalised with. side: of the first one's own input.
    """

    def __init__(
        self, backbones: Sequence[nn.Module], sizes: Sequence[int], statistics: Sequence[Statistics], classes: int,
        side: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbones, self.sizes = nn.ModuleList(backbones), list(sizes)
        self.widths = [width_of(backbone) for backbone in backbones]
        self.head = nn.Linear(sum(self.widths), classes)
        for number, (mean, std) in enumerate(statistics):
            self.register_buffer(f"mean{number}", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
            self.register_buffer(f"std{number}", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.statistics = [(list(map(float, mean)), list(map(float, std))) for mean, std in statistics]
        # What is asked of timm's networks: which layer classifies, and what the input is like.
        self.pretrained_cfg = {
            "architecture": "ensemble", "classifier": "head", "input_size": (3, side, side), "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = []
        for number, (backbone, size) in enumerate(zip(self.backbones, self.sizes, strict=True)):
            inputs = images
            if size and size != images.shape[-1]:
                inputs = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
            mean, std = getattr(self, f"mean{number}"), getattr(self, f"std{number}")
            found.append(backbone((inputs - mean) / std))
        return self.head(torch.cat(found, dim=1))


def width_of(backbone: nn.Module) -> int:
    """How many features a timm network without a classifier gives."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def feature_widths(network: nn.Module) -> list[int] | None:
    """How many features each backbone of an ensemble gives; None for a single network."""
    return network.widths if isinstance(network, Ensemble) else None
