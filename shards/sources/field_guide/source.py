"""The field guide: made-up birds drawn on demand, with boxes, parts and the parts that tell any two species apart."""

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from shards.errors import UserError
from shards.options import option
from shards.sample import RawDataset, RawSample
from shards.sources.field_guide.draw import annotate, encode, paint
from shards.sources.field_guide.scene import SPLITS, Scene, draw_scene
from shards.sources.field_guide.species import PARTS, SPECIES_LIMIT, catalogue, describe, telling_parts


@dataclass
class Options:
    """What to draw. Raising a count adds images or species and leaves the others as they are."""

    species: int = option(12, f"how many kinds of bird, 2 to {SPECIES_LIMIT}")
    train_per_class: int = option(40, "images of each species to train on")
    test_per_class: int = option(15, "images of each species to test on, drawn alike from other seeds")
    size: int = option(160, "pixels of an image's longer side")
    seed: int = option(0, "which pictures are drawn; the species stay the same")


def _check(options: Options) -> None:
    for name, low, high in (
        ("species", 2, SPECIES_LIMIT),
        ("train_per_class", 1, 99_999),
        ("test_per_class", 0, 99_999),
        ("size", 32, 2048),
        ("seed", 0, 2**32 - 1),
    ):
        value = getattr(options, name)
        if not low <= value <= high:
            raise UserError(f"field_guide: {name}={value} is outside {low}..{high}")


def scene_of(seed: int, split: str, label: int, index: int, size: int) -> Scene:
    """The scene of one picture."""
    return draw_scene((seed, SPLITS[split], label, index), size)


def render(sample: RawSample, species: int, size: int, seed: int) -> bytes:
    """A sample's JPEG bytes: a pure function of its key and the arguments."""
    _, label, index = sample.key.rsplit("_", 2)
    scene = scene_of(seed, sample.split, int(label), int(index), size)
    return encode(paint(catalogue(species)[int(label)], scene))


def scan(root: Path, options: Options) -> RawDataset:
    """The dataset that the options describe. `root` is not read: the pictures are drawn, not found.

    `extra` holds every species' traits and, under `telling`, what tells any two labels apart ("0-1": ["crown"]).
    Raises UserError when an option is out of its range.
    """
    _check(options)
    birds = catalogue(options.species)
    samples = []
    for split, count in (("train", options.train_per_class), ("test", options.test_per_class)):
        for label, bird in enumerate(birds):
            for index in range(count):
                box, parts = annotate(bird, scene_of(options.seed, split, label, index, options.size))
                key = f"{split}_{label:03d}_{index:05d}"
                samples.append(RawSample(key, None, label, split, (box,), parts))
    telling = {f"{i}-{j}": telling_parts(birds[i], birds[j]) for i, j in combinations(range(len(birds)), 2)}
    return RawDataset(
        source="field_guide",
        classes=tuple(bird.name for bird in birds),
        samples=tuple(samples),
        licence="CC0-1.0",
        citation="Drawn by shards/sources/field_guide",
        read=partial(render, species=options.species, size=options.size, seed=options.seed),
        extra={"species": [describe(bird) for bird in birds], "parts": list(PARTS), "telling": telling},
    )
