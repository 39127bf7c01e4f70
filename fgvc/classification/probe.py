"""A linear probe: multinomial logistic regression on a frozen backbone's features, by L-BFGS, in seconds."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fgvc.classification.calibration import fit_temperature
from fgvc.classification.inference import predict
from fgvc.models.ensemble import feature_widths
from fgvc.models.layers import classifier_of
from fgvc.runtime.distributed import broadcast_object, rank, world_size
from shards.files import write_bytes

LoaderOf = Callable[[Sequence[int]], DataLoader]  # of these indices, this rank's part
CHUNK = 1024  # images of a rank between two files of features: what a kill costs at most; a multiple of the batch


def stored_features(
    model: nn.Module, network: nn.Module, loader_of: LoaderOf, indices: Sequence[int], device: torch.device,
    precision: str, store: Path, title: str,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """As `features_of`, of these images, chunk by chunk, each written to `store` once it is there and read from there
    by a later start. All ranks call it and get all of it."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    size = CHUNK * world_size()
    for begin in range(0, len(indices), size):
        chunk, file = indices[begin : begin + size], store / f"{title}-{begin}.npz"
        part = broadcast_object(_read(file, len(chunk)) if rank() == 0 else None)
        if part is None:
            found = features_of(
                model, network, loader_of(chunk), device, precision=precision, expected=len(chunk),
                title=f"features {begin + 1} to {begin + len(chunk)} of {len(indices)}",
            )  # fmt: skip
            part = found[0].view(2, len(chunk), -1).numpy(), found[1].view(2, len(chunk)).numpy()
            if rank() == 0:
                store.mkdir(parents=True, exist_ok=True)
                _write(file, *part)
        parts.append(part)
    features, labels = (torch.from_numpy(np.concatenate(column, axis=1)) for column in zip(*parts, strict=True))
    return features.flatten(0, 1), labels.flatten()


def _read(file: Path, images: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The features of a chunk of so many images; None where they are not there, or were kept by another number of
    ranks, whose chunks are of another size."""
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    return (features, labels) if features.shape[1] == images else None


def _write(file: Path, features: np.ndarray, labels: np.ndarray) -> None:
    data = io.BytesIO()
    np.savez(data, features=features, labels=labels)
    write_bytes(file, data.getvalue())


def features_of(
    model: nn.Module,
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    precision: str,
    expected: int,
    title: str = "features",
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the classifier of `network` sees: (2N, D) features (each image, then each mirror image) and (2N,) labels.

    model: the uint8 model around `network`; on return `network` is as it was.
    Raises UserError for features that are not finite.
    """
    head = classifier_of(network)
    kept_weight, kept_bias, kept_outputs = head.weight, head.bias, head.out_features
    # An identity in the head's place makes the model return its features through the path that evaluation takes.
    width = head.in_features
    head.weight = nn.Parameter(torch.eye(width, device=kept_weight.device))
    head.bias = nn.Parameter(torch.zeros(width, device=kept_weight.device))
    head.out_features = width
    try:
        plain = predict(model, loader, device, flip=False, precision=precision, expected=expected, title=title)
        mirror = predict(
            _Mirrored(model),
            loader,
            device,
            flip=False,
            precision=precision,
            expected=expected,
            title=f"{title}, mirror images",
        )
    finally:
        head.weight, head.bias, head.out_features = kept_weight, kept_bias, kept_outputs
    plain.check_finite()
    mirror.check_finite()
    features = torch.from_numpy(np.concatenate([plain.logits, mirror.logits]))
    return features, torch.from_numpy(np.concatenate([plain.labels, mirror.labels]))


def fit_probe(
    features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float,
    weights: torch.Tensor | None = None, iterations: int = 200, widths: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(classes, D) weight and (classes,) bias that minimise cross-entropy + penalty / 2 * |weight|^2.

    weights: (classes,), what an image of each class counts in the (weighted) mean (None: all alike).

    Features are centred and divided by one number, their root mean square (the penalty then means the same for every
    backbone, while strong features keep their weight), and that is folded back into the result. widths: how many come
    from each of several backbones (None: all from one); each one's are divided by a number of their own. Full-batch
    L-BFGS in float64: the result does not depend on ranks or order.
    """
    centred = features.double() - features.double().mean(0)
    parts = centred.square().mean(0).split(list(widths or [centred.shape[1]]))
    scale = torch.cat([part.mean().sqrt().clamp_min(1e-12).expand(len(part)) for part in parts])
    inputs = centred / scale
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    per_class = None if weights is None else weights.double()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight.T + bias, labels, per_class)
        value = value + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        scaled = weight / scale
        return scaled.float(), (bias - scaled @ features.double().mean(0)).float()


def probe_head(
    network: nn.Module, model: nn.Module, loaders: Sequence[LoaderOf], device: torch.device, precision: str,
    indices: Sequence[int], store: Path, classes: int, penalty: float, folds: np.ndarray | None = None,
    flip: bool = False, weights: torch.Tensor | None = None,
) -> float | None:  # fmt: skip
    """Give a network the head that a probe finds on its features of the images at `indices`, one loader per view.

    store: a folder that keeps the features, so that a later start does not compute them again.
    Returns the head's temperature, fitted out of fold on the same features: folds, (images,), says which fold holds
    each one, in the loaders' order; None: no temperature. flip: evaluation averages the mirror image in. weights: as
    `fit_probe` takes them.
    """
    images = len(indices)
    found = [
        stored_features(model, network, loader, indices, device, precision, store, f"view{number}")
        for number, loader in enumerate(loaders)
    ]
    features, labels = (torch.cat(column) for column in zip(*found, strict=True))
    widths = feature_widths(network)
    set_head(network, *fit_probe(features, labels, classes, penalty, weights, widths=widths))
    if folds is None:
        return None
    views = torch.stack([view.view(2, images, -1) for view, _ in found])  # (views, plain and mirror image, images, D)
    labels = found[0][1][:images]
    return probe_temperature(views, labels, torch.from_numpy(folds), classes, penalty, flip, weights, widths)


def probe_temperature(
    views: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor, classes: int, penalty: float, flip: bool,
    weights: torch.Tensor | None = None, widths: Sequence[int] | None = None,
) -> float:  # fmt: skip
    """The temperature of a probe's logits, each image's from a probe that was fitted without its fold.

    views: (views, 2, N, D) features of each image and its mirror image. labels, folds: (N,). Every view and mirror
    image of an image is in its fold; the logits are those of evaluation, means over views (and mirror images).
    """
    measured = (views if flip else views[:, :1]).mean(dim=(0, 1))  # the head is linear: its mean logits
    logits = torch.zeros(len(labels), classes)
    for fold in folds.unique():
        kept, held = folds != fold, folds == fold
        inputs = views[:, :, kept]
        of_all = labels[kept].repeat(len(views) * 2)
        weight, bias = fit_probe(inputs.flatten(0, 2), of_all, classes, penalty, weights, widths=widths)
        logits[held] = measured[held] @ weight.T + bias
    return fit_temperature(logits.numpy(), labels.numpy())


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
