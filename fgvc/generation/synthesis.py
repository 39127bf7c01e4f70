"""Candidates for synthetic images: made, encoded and judged in chunks; and which of them are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import nn

from fgvc.generation.config import GanModelConfig
from fgvc.generation.draws import normals
from fgvc.generation.measure import describe
from fgvc.generation.metrics import Described, memorised
from fgvc.generation.record import to_bytes
from fgvc.runtime.chunks import in_chunks

SYNTHESIS = 5  # stream of the latents
Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images (N, 3, H, W) uint8, labels (N,) -> (N,) in 0 to 1


@dataclass(frozen=True)
class Maker:
    """A generator of the classes `labels`, indices into those of the shards."""

    network: nn.Module
    model: GanModelConfig
    labels: Sequence[int]

    def make(self, seed: int, numbers: Sequence[int], labels: Sequence[int], truncation: float) -> torch.Tensor:
        """Candidates of these numbers and classes: (N, 3, H, W) uint8."""
        device = next(self.network.parameters()).device
        keys = [(SYNTHESIS, label, number) for number, label in zip(numbers, labels, strict=True)]
        latents = normals(seed, keys, self.model.latent, truncation).to(device)
        known = [self.labels.index(label) for label in labels]  # its own number of the class
        return to_bytes(self.network(latents, torch.tensor(known, device=device)), self.model)


@dataclass(frozen=True)
class Candidates:
    """label: (N,) class. jpeg: (N,) encoded. confidence: (N,) the classifier's, 1 without one. copy: (N,) bool."""

    label: np.ndarray
    jpeg: np.ndarray
    confidence: np.ndarray
    copy: np.ndarray


def make_candidates(
    folder: Path, makers: Sequence[Maker], classes: int, per_class: int, chunk: int, *, seed: int, truncation: float,
    quality: int, judge: Judge | None, features: nn.Module, training: Described, rows: int,
) -> Candidates:  # fmt: skip
    """`per_class` candidates of every class that a maker has, class by class. training: features of the
    `rows` images that the makers were trained on, as of `nearest`."""
    maker_of = {label: maker for maker in makers for label in maker.labels}
    places = [(label, number) for label in range(classes) if label in maker_of for number in range(per_class)]

    def work(chosen: Sequence[int]) -> dict[str, np.ndarray]:
        labels = [places[place][0] for place in chosen]
        parts = []
        for label in dict.fromkeys(labels):
            numbers = [places[place][1] for place in chosen if places[place][0] == label]
            parts.append(maker_of[label].make(seed, numbers, [label] * len(numbers), truncation))
        images = torch.cat(parts)
        sure = judge(images, torch.tensor(labels, device=images.device)) if judge else torch.ones(len(images))
        copy = memorised(describe(features, images), training, rows)
        encoded = [_encode(image, quality) for image in images.cpu()]
        return {"jpeg": np.array(encoded), "confidence": sure.cpu().numpy(), "copy": copy}

    with torch.inference_mode():
        found = in_chunks(folder, range(len(places)), chunk, iter, work, seed=seed, title="candidates")
    return Candidates(np.array([label for label, _ in places]), found["jpeg"], found["confidence"], found["copy"])


@dataclass(frozen=True)
class Chosen:
    """places: of the kept candidates, in order. Of those looked at until a class was full: how many were dropped."""

    places: list[int]
    looked_at: int
    unsure: int
    copies: int


def choose(found: Candidates, per_class: int, min_confidence: float, keep_copies: bool) -> Chosen:
    """The first `per_class` of every class that pass."""
    kept: dict[int, int] = {}
    places, looked_at, unsure, copies = [], 0, 0, 0
    for place, label in enumerate(found.label.tolist()):
        if kept.get(label, 0) == per_class:
            continue
        looked_at += 1
        if found.confidence[place] < min_confidence:
            unsure += 1
        elif found.copy[place] and not keep_copies:
            copies += 1
        else:
            kept[label] = kept.get(label, 0) + 1
            places.append(place)
    return Chosen(places, looked_at, unsure, copies)


def _encode(image: torch.Tensor, quality: int) -> bytes:
    """A JPEG ends in a byte other than 0, which NumPy's fixed-width bytes keep."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="444")
