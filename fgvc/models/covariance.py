"""Second-order pooling: a frozen backbone classified by how its channels vary together, not by their means."""

from typing import Any

import torch
from torch import nn

from shards.errors import UserError

ITERATIONS = 5  # of Newton and Schulz, as Li et al. 2018 take


class SecondOrder(nn.Module):
    """(N, 3, H, W) images -> (N, classes) logits, linear in the square root of a covariance (iSQRT-COV, Li et al. 2018,
    https://arxiv.org/abs/1712.01034): that of the backbone's last feature map, its channels reduced to `width`.

    Where a mean says which patterns a bird has, this says which of them lie together. backbone: a network of timm's
    without classifier. `reduce` has fixed weights (fgvc/classification/directions.py); features are width * (width + 1)
    / 2 numbers.

    Raises UserError for a backbone that timm cannot take feature maps from, and for images so small that a map has one
    place.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        network: Any = backbone
        info = getattr(network, "feature_info", None)
        if not hasattr(network, "forward_intermediates") or not info:
            raise UserError(f"model.covariance: timm takes no feature maps from {type(backbone).__name__}; set it to 0")
        channels = info[-1]["num_chs"]
        if width > channels:
            raise UserError(f"model.covariance={width}: the last feature map has {channels} channels; take fewer")
        self.backbone, self.width = network, width
        self.reduce = nn.Linear(channels, width, bias=False)
        # No name that a network of timm's gives a layer, so that the file of this one loads into that.
        self.covariance_head = nn.Linear(width * (width + 1) // 2, classes)
        # What is asked of timm's networks: which layer classifies, and what the input is like.
        self.pretrained_cfg = dict(network.pretrained_cfg) | {"classifier": "covariance_head"}
        rows, columns = torch.triu_indices(width, width)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (maps,) = self.backbone.forward_intermediates(images, indices=1, intermediates_only=True)
        if maps.shape[-2:].numel() < 2:
            raise UserError(
                f"model.covariance: of images of {images.shape[-1]} px the last feature map has 1 place: nothing "
                "varies together; take larger images"
            )
        with torch.autocast(images.device.type, enabled=False):  # bf16 would leave little of it
            found = self.reduce(maps.float().flatten(2).mT)  # (N, places, width)
            centred = found - found.mean(1, keepdim=True)
            root = square_root(centred.mT @ centred / centred.shape[1])
            features = root[:, self.rows, self.columns]
            # What is off the diagonal stands for two, so that distances are those of the matrices.
            features = torch.where(self.rows == self.columns, features, features * 2**0.5)
        return self.covariance_head(features)


def square_root(matrices: torch.Tensor) -> torch.Tensor:
    """The approximate square roots of symmetric, positive semidefinite (N, D, D) matrices, by Newton-Schulz iterations
    on the matrix over its trace, which need no eigenvectors and have a gradient (Li et al. 2018, as above)."""
    size = matrices.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-12).view(-1, 1, 1)
    unit = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
    root, inverse = matrices / size, unit.expand_as(matrices)
    for _ in range(ITERATIONS):
        step = (3 * unit - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return root * size.sqrt()
