"""A linear probe: multinomial logistic regression on a frozen backbone's features, by L-BFGS, in seconds."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fgvc.classification.inference import predict
from fgvc.models.layers import classifier_of


def features_of(
    model: nn.Module, network: nn.Module, loader: DataLoader, device: torch.device, *, precision: str, expected: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the classifier of `network` sees: (2N, D) features (each image, then each mirror image) and (2N,) labels.

    model: the uint8 model around `network`; on return `network` is as it was.
    """
    head = classifier_of(network)
    kept_weight, kept_bias, kept_outputs = head.weight, head.bias, head.out_features
    # An identity in the head's place makes the model return its features through the path that evaluation takes.
    width = head.in_features
    head.weight = nn.Parameter(torch.eye(width, device=kept_weight.device))
    head.bias = nn.Parameter(torch.zeros(width, device=kept_weight.device))
    head.out_features = width
    try:
        plain = predict(model, loader, device, flip=False, precision=precision, expected=expected, title="features")
        mirror = predict(
            _Mirrored(model),
            loader,
            device,
            flip=False,
            precision=precision,
            expected=expected,
            title="features of mirror images",
        )
    finally:
        head.weight, head.bias, head.out_features = kept_weight, kept_bias, kept_outputs
    features = torch.from_numpy(np.concatenate([plain.logits, mirror.logits]))
    return features, torch.from_numpy(np.concatenate([plain.labels, mirror.labels]))


def fit_probe(
    features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float, iterations: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """(classes, D) weight and (classes,) bias that minimise cross-entropy + penalty / 2 * |weight|^2.

    Features are centred and divided by one number, their root mean square (the penalty then means the same for every
    backbone, while strong features keep their weight), and that is folded back into the result. Full-batch L-BFGS in
    float64: the result does not depend on ranks or order.
    """
    centred = features.double() - features.double().mean(0)
    scale = centred.square().mean().sqrt().clamp_min(1e-12)
    inputs = centred / scale
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        scaled = weight / scale
        return scaled.float(), (bias - scaled @ features.double().mean(0)).float()


def probe_head(
    network: nn.Module, model: nn.Module, loaders: Sequence[DataLoader], device: torch.device, precision: str,
    images: int, classes: int, penalty: float,
) -> None:  # fmt: skip
    """Give a network the head that a probe finds on its features of `images` images, one loader per view."""
    found = [features_of(model, network, loader, device, precision=precision, expected=images) for loader in loaders]
    features, labels = (torch.cat(column) for column in zip(*found, strict=True))
    set_head(network, *fit_probe(features, labels, classes, penalty))


def set_head(network: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Put a probe's solution into the network's classifier."""
    head = classifier_of(network)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)


class _Mirrored(nn.Module):
    """A model of mirror images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.flip(3))
