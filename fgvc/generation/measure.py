"""Features of real and of generated images, in chunks: resumable, and the same for any number of ranks."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from fgvc.generation.config import GanImageConfig, GanModelConfig, MeasureConfig
from fgvc.generation.draws import normals
from fgvc.generation.metrics import Described, thumbnails
from fgvc.generation.record import to_bytes
from fgvc.models.layers import eval_mode
from fgvc.runtime.chunks import in_chunks
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Samples, chunk_loader
from shards.reading.transforms import Transform, eval_transform
from shards.reading.views import View

MEASURED = 4  # stream of the latents of measured images
# Along the longer side, where training crops at random: of images whose short side is 0.7 of the long one or more,
# every crop has a known one within 6 % of its side; with three crops, 3 % of copies were missed.
KNOWN_CROPS = (0.5, 0.0, 0.25, 0.75, 1.0)


def real_features(
    folder: Path, features: nn.Module, manifest: Manifest, indices: Sequence[int], view: View, image: GanImageConfig,
    size: int, config: MeasureConfig, *, device: torch.device, workers: int, views: bool = False,
    title: str = "real",
) -> Described:  # fmt: skip
    """(N, ...) of the images as the generator is to make them, `size` pixels wide. views: (K N, ...), as training may
    have shown them (`known_views`), all images' first view, then all their second ones. folder: where they are kept, of
    these very images, crops and features."""
    samples = Samples(manifest, known_views(image, size) if views else eval_image(image, size), [view])

    def work(batch: Any) -> dict[str, np.ndarray]:
        images = batch.images.to(device).contiguous()  # planes: sums keep their order
        of_view = [_described(features, one) for one in (images.unbind(1) if views else [images])]
        return {name: np.stack([found[name] for found in of_view], 1) for name in Described._fields}

    with torch.inference_mode():
        found = in_chunks(
            folder, indices, config.batch, lambda chunks: chunk_loader(chunks, samples, workers=workers), work,
            title=f"features, {title}",
        )  # fmt: skip
    return Described(*(np.concatenate(list(found[name].swapaxes(0, 1))) for name in Described._fields))


def generated_features(
    folder: Path, network: nn.Module, model: GanModelConfig, labels: Sequence[int], features: nn.Module,
    config: MeasureConfig, *, seed: int, device: torch.device, title: str = "generated",
) -> tuple[Described, np.ndarray]:  # fmt: skip
    """(N, ...) of one image for every label, and the images (N, 3, H, W) uint8. folder: this network's."""

    def load(chunks: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        return iter(chunks)

    def work(numbers: Sequence[int]) -> dict[str, np.ndarray]:
        latents = normals(seed, [(MEASURED, number) for number in numbers], model.latent).to(device)
        asked = torch.tensor([labels[number] for number in numbers], device=device)
        images = to_bytes(network(latents, asked), model)
        return _described(features, images) | {"images": images.cpu().numpy()}

    with torch.inference_mode(), eval_mode(network):
        found = in_chunks(folder, range(len(labels)), config.batch, load, work, seed=seed, title=f"images, {title}")
    return Described(found["features"], found["thumbnails"]), found["images"]


def describe(features: nn.Module, images: torch.Tensor) -> Described:
    """Images (N, 3, H, W) uint8 as they are compared."""
    return Described(**_described(features, images))


def _described(features: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    return {"features": features(images).cpu().numpy(), "thumbnails": thumbnails(images).cpu().numpy()}


def real_key(
    manifest: Manifest, indices: Sequence[int], view: View, image: GanImageConfig, size: int, config: MeasureConfig,
    weights: str, views: bool,
) -> str:  # fmt: skip
    """A name for what `real_features` computes: equal names, equal features. weights: hash of the network's."""
    regions = [[index, *region] for index, region in sorted(view.regions.items())]
    said = [
        manifest.fingerprint, [int(index) for index in indices], regions, view.padded, asdict(image), size,
        config.features, config.size, config.batch, weights, KNOWN_CROPS if views else (),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:20]


def eval_image(image: GanImageConfig, size: int) -> Transform:
    """How a real image is cut to be compared with: as `training_image`, without chance."""
    fit: Any = "center_crop" if image.fit == "crop" else image.fit
    return eval_transform(ImageConfig(eval_fit=fit, eval_crop=1.0, interpolation=image.interpolation), size)


def known_views(image: GanImageConfig, size: int) -> Transform:
    """(3, H, W) uint8 -> (K, 3, size, size): what training may have shown of an image, among which copies are looked
    for. Of fit="crop", crops along the longer side, the middle one first; then all their mirror images, since a copy
    of one is no new image."""
    fitted, mode = eval_image(image, size), InterpolationMode(image.interpolation)

    def views(picture: torch.Tensor) -> torch.Tensor:
        if image.fit != "crop":
            found = fitted(picture)[None]
        else:
            whole = functional.resize(picture, [size], interpolation=mode)
            height, width = (side - size for side in whole.shape[-2:])
            corners = [(round(at * height), round(at * width)) for at in KNOWN_CROPS]
            found = torch.stack([whole[:, top : top + size, left : left + size] for top, left in corners])
        return torch.cat([found, found.flip(3)])

    return views


def training_image(image: GanImageConfig) -> ImageConfig:
    """How a training image is cut and turned: in size and shape as those that are measured."""
    fit: Any = "random_crop" if image.fit == "crop" else image.fit
    return ImageConfig(fit=fit, eval_crop=1.0, flip=image.flip, interpolation=image.interpolation)
