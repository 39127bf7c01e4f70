"""Layers of GANs: BatchNorm over all ranks, its class-conditional form, spectral norm, self-attention."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from fgvc.runtime.distributed import sum_over_ranks, world_size

M = TypeVar("M", bound=nn.Module)
SMALL = 0.1  # standard deviation of a class's embedding at the start


def without_autocast(tensor: torch.Tensor) -> torch.autocast:
    """An fp32 island in a bf16 forward pass."""
    return torch.autocast(tensor.device.type, enabled=False)


class _SumOverRanks(torch.autograd.Function):
    """The sum of every rank's tensor. Each rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(values.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        return _SumOverRanks.apply(gradient)


class BatchNorm(nn.Module):
    """BatchNorm over the micro-batches of all ranks together (torch's SyncBatchNorm needs a GPU): several ranks compute
    what one does with the same batch. Ranks have equal shares. Statistics are fp32.

    affine=False leaves scale and shift to the caller. per_image: statistics of every image alone, in evaluation too:
    what BatchNorm is at a batch size of 1.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, per_image: bool = False
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.per_image = eps, momentum, per_image
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same, per channel of mean 0 and variance 1 before scale and shift."""
        with without_autocast(features):
            if self.per_image:
                return functional.instance_norm(features.float(), weight=self.weight, bias=self.bias, eps=self.eps)
            if self.training and world_size() > 1:
                return self._over_ranks(features.float())
            return functional.batch_norm(
                features.float(), self.running_mean, self.running_var, self.weight, self.bias, self.training,
                self.momentum, self.eps,
            )  # fmt: skip

    def _over_ranks(self, features: torch.Tensor) -> torch.Tensor:
        count = features[:, 0].numel() * dist.get_world_size()
        mean = _SumOverRanks.apply(features.sum((0, 2, 3))) / count
        centred = features - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        out = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.weight is not None and self.bias is not None:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose scale and shift are linear in a condition (N, D) (de Vries et al., 2017, as BigGAN has it)."""

    def __init__(self, channels: int, condition: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, eps, affine=False)
        self.gain = spectral(nn.Linear(condition, channels, bias=False))
        self.bias = spectral(nn.Linear(condition, channels, bias=False))

    def forward(self, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        return self.norm(features) * gain[..., None, None] + bias[..., None, None]


class _Spectral(nn.Module):
    """A weight by its largest singular value, found by one step of power iteration a forward pass.

    Unlike torch's, evaluation takes the kept vector at any length: a moving average's is not 1.
    """

    left: torch.Tensor

    def __init__(self, weight: torch.Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("left", functional.normalize(torch.randn(weight.shape[0]), dim=0))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with without_autocast(weight):
            matrix = weight.flatten(1)
            with torch.no_grad():
                right = functional.normalize(matrix.T @ self.left, dim=0, eps=self.eps)
                left = functional.normalize(matrix @ right, dim=0, eps=self.eps)
                if self.training:
                    self.left.copy_(left)
            return weight / (left @ (matrix @ right)).clamp_min(self.eps)


def spectral(layer: M) -> M:
    """The layer with spectral norm on its weight (Miyato et al., 2018, https://arxiv.org/abs/1802.05957)."""
    parametrize.register_parametrization(layer, "weight", _Spectral(layer.weight))  # type: ignore[arg-type]
    return layer


class Attention(nn.Module):
    """Self-attention over positions, added to its input (SAGAN, https://arxiv.org/abs/1805.08318); nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = spectral(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.key = spectral(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.value = spectral(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out = spectral(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same. Keys and values are pooled to half the sides."""
        query = self.query(features).flatten(2)
        key = functional.max_pool2d(self.key(features), 2).flatten(2)
        value = functional.max_pool2d(self.value(features), 2).flatten(2)
        weights = (query.transpose(1, 2) @ key).float().softmax(-1).to(value.dtype)  # (N, HW, HW / 4)
        found = (value @ weights.transpose(1, 2)).unflatten(2, features.shape[2:])
        return features + self.gamma * self.out(found)


class Condition(nn.Module):
    """What a generator is told of the class: an embedding, by `weight` from 0, unknown, to 1; nothing for 0 classes.

    It begins small beside a latent's numbers of size 1: with as much power as the latent's, all images of a class were
    one image within a hundred steps, and stayed so.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.width = width if classes else 0
        self.embedding = nn.Embedding(classes, width) if classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=SMALL)

    def forward(self, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """labels, weight: (N,) -> (N, width)."""
        if self.embedding is None:
            return torch.zeros(len(labels), 0, device=labels.device)
        found = self.embedding(labels)
        return found if weight is None else found * weight[:, None]


class Projection(nn.Module):
    """What a discriminator adds for the class: its embedding times the features (Miyato & Koyama, 2018,
    https://arxiv.org/abs/1802.05637); 0 for 0 classes."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = spectral(nn.Embedding(classes, width)) if classes else None

    def forward(self, features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """features: (N, width) -> (N,)."""
        if self.embedding is None:
            return features.new_zeros(len(features))
        found = (self.embedding(labels) * features).sum(1)
        return found if weight is None else found * weight
