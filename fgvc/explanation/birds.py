"""The field guide as a witness: any of its birds again, with and without parts, and where every part is."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fgvc.explanation.geometry import Placement, whole_placement
from fgvc.explanation.subject import Subject
from shards.entries import Entry
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.reader import Reader
from shards.reading.transforms import eval_transform
from shards.sources.field_guide.draw import encode
from shards.sources.field_guide.parts import BIRD_PARTS, paint_without, regions, silhouette, sufficient_parts, things
from shards.sources.field_guide.scene import Scene
from shards.sources.field_guide.source import scene_of
from shards.sources.field_guide.species import Traits, catalogue

SEEDS = 32  # of the drawing, which the manifest does not record, that are tried
REMEMBERED = 64  # birds, of a megabyte or two each: every map of one asks for the same pictures
SIBLINGS = 2  # species that so many parts or fewer tell apart can be explained rightly or wrongly


@dataclass(frozen=True)
class Bird:
    """One picture: of a sample, or one of those that are drawn only to choose thresholds by (split val)."""

    split: str
    label: int
    index: int


@dataclass(frozen=True)
class Guide:
    """The field guide that shards were drawn from."""

    seed: int
    size: int
    species: tuple[Traits, ...]
    telling: dict[str, list[str]]

    def bird(self, entry: Entry) -> Bird:
        """The picture of a sample."""
        _, label, index = entry.key.rsplit("_", 2)
        return Bird(entry.split, int(label), int(index))

    def scene(self, bird: Bird) -> Scene:
        return scene_of(self.seed, bird.split, bird.label, bird.index, self.size)

    def encoded(self, bird: Bird, without: Collection[str] = ()) -> bytes:
        """A JPEG, as the shards would hold it."""
        return encode(paint_without(self.species[bird.label], self.scene(bird), without))

    def image(self, bird: Bird, without: Collection[str] = ()) -> Tensor:
        """(3, H, W) uint8."""
        return decode(self.encoded(bird, without))

    def part_regions(self, bird: Bird) -> dict[str, np.ndarray]:
        """Visible part -> (H, W) bool."""
        return regions(self.species[bird.label], self.scene(bird))

    def silhouette(self, bird: Bird) -> np.ndarray:
        """(H, W) bool: all of the bird that is seen."""
        return silhouette(self.species[bird.label], self.scene(bird))

    def regions(self, bird: Bird) -> dict[str, np.ndarray]:
        """Visible part or thing around the bird -> (H, W) bool; a thing is where the picture changes without it."""
        traits, scene = self.species[bird.label], self.scene(bird)
        found = self.part_regions(bird)
        whole = paint_without(traits, scene, ())
        for name in things(traits, scene):
            changed = np.abs(paint_without(traits, scene, [name]).astype(int) - whole).max(2) > 8
            if changed.any():
                found[name] = changed
        return found

    def tells(self, a: int, b: int) -> list[str]:
        """The parts that tell two species apart, of those that have a place; none of a species and itself."""
        return [] if a == b else [part for part in self.telling[f"{min(a, b)}-{max(a, b)}"] if part in BIRD_PARTS]

    def sufficient(self, label: int) -> list[frozenset[str]]:
        """As `sufficient_parts`."""
        return sufficient_parts(self.telling, len(self.species), label)


def open_guide(manifest: Manifest) -> Guide | None:
    """The guide that redraws these shards byte for byte, tried on an image of every class; None for any other data set,
    or one that was changed since."""
    if manifest.source != "field_guide" or "telling" not in manifest.extra or not manifest.entries:
        return None
    first = {entry.label: index for index, entry in reversed(list(enumerate(manifest.entries)))}
    reader, size = Reader(manifest), max(manifest.entries[0].width, manifest.entries[0].height)
    species = catalogue(len(manifest.classes))
    for seed in range(SEEDS):
        guide = Guide(seed, size, species, manifest.extra["telling"])
        if all(guide.encoded(guide.bird(manifest.entries[index])) == reader.read(index) for index in first.values()):
            return guide
    return None


@dataclass(frozen=True)
class Scored:
    """One bird in the model's input: what the classifier says of it with and without each part.

    image: (3, S, S) uint8. masks: name -> (S, S) bool. logits: (classes,). without: name -> (classes,) logits.
    """

    bird: Bird
    image: Tensor
    masks: dict[str, np.ndarray]
    logits: Tensor
    without: dict[str, Tensor]

    def falls(self, label: int, against: int | None = None) -> dict[str, float]:
        """name -> how far the logit of a class, or its lead over another's, falls when it is gone."""

        def lead(logits: Tensor) -> float:
            return float(logits[label] - (0 if against is None else logits[against]))

        return {name: lead(self.logits) - lead(logits) for name, logits in self.without.items()}


class Darkroom:
    """Birds of a guide as a classifier of whole images sees them."""

    def __init__(self, guide: Guide, subject: Subject, image: ImageConfig) -> None:
        self.guide, self.subject, self.config = guide, subject, image
        self._transform = eval_transform(image, subject.size)
        self._scored: dict[Bird, Scored] = {}

    def placement(self, bird: Bird) -> Placement:
        scene = self.guide.scene(bird)
        return whole_placement(scene.width, scene.height, self.config, self.subject.size)

    def images(self, bird: Bird, edits: Sequence[Collection[str]]) -> Tensor:
        """(edits, 3, S, S) uint8: the bird without each set of parts."""
        return torch.stack([self._transform(self.guide.image(bird, without)) for without in edits])

    def logits(self, bird: Bird, edits: Sequence[Collection[str]]) -> Tensor:
        """(edits, classes)."""
        return self.subject.logits(self.subject.normalise(self.images(bird, edits)))

    def score(self, bird: Bird) -> Scored:
        """A bird with what the classifier says without each of its parts and of the things around it."""
        if bird not in self._scored:
            if len(self._scored) >= REMEMBERED:
                self._scored.clear()
            self._scored[bird] = self._score(bird)
        return self._scored[bird]

    def _score(self, bird: Bird) -> Scored:
        placed = self.placement(bird)
        masks = {name: placed.mask(mask) for name, mask in self.guide.regions(bird).items()}
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        images = self.images(bird, [(), *([name] for name in masks)])
        logits = self.subject.logits(self.subject.normalise(images))
        return Scored(bird, images[0], masks, logits[0], dict(zip(masks, logits[1:], strict=True)))


def oracle_map(scored: Scored, label: int, against: int | None = None) -> Tensor:
    """(S, S): on every part, evenly, how far the logit of a class, or its lead over another's, falls without it. What
    a map can at best say."""
    found = torch.zeros(scored.image.shape[1:])
    for name, fall in scored.falls(label, against).items():
        mask = torch.from_numpy(scored.masks[name])
        found[mask] += max(fall, 0.0) / int(mask.sum())
    return found


@lru_cache
def validation_birds(species: int, each: int) -> tuple[Bird, ...]:
    """Birds that are in no shards, to choose thresholds by."""
    return tuple(Bird("val", label, index) for index in range(each) for label in range(species))
