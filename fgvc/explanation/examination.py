"""All that is asked of a classifier's explanations, chunk by chunk: over all ranks, kept, resumed after a kill."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgvc.explanation.birds import Bird, Darkroom, Scored, oracle_map, validation_birds
from fgvc.explanation.config import SLOW
from fgvc.explanation.explainers import check_empty, check_finite, explainer
from fgvc.explanation.funnybirds import candidate_pairs, protocol_rows
from fgvc.explanation.gallery import Gallery
from fgvc.explanation.measure import Examiner
from fgvc.explanation.sanity import SHARES, randomised, sanity
from fgvc.explanation.scores import scored_box
from fgvc.explanation.subject import Subject
from fgvc.runtime.chunks import Arrays, in_chunks
from shards.errors import UserError

CHUNK, FEW = 8, 4  # images of a chunk, and of one of slow work: what a kill costs, and whose graph is in memory
SETTLED = 32  # images at most that randomised networks take their statistics from: they go through in one batch
EACH = 3  # birds of a species that thresholds are chosen by
ASIDE = 10**9  # their numbers begin here


@dataclass
class Found:
    """Rows of images: of all and the fast methods; of few and all methods; of randomised weights; boxes of all images
    of the shards; of redrawn birds, and of more birds that only contrastivity is asked of."""

    methods: list[str]
    rows: Arrays
    few: Arrays = field(default_factory=dict)
    sanity: Arrays = field(default_factory=dict)
    boxes: Arrays = field(default_factory=dict)
    validation: Arrays = field(default_factory=dict)
    birds: Arrays = field(default_factory=dict)
    pairs: Arrays = field(default_factory=dict)

    def of(self, method: str) -> Arrays:
        """The rows that a method is in: all images, or few."""
        return self.rows if f"{method}/map" in self.rows else self.few


@dataclass(frozen=True)
class Examination:
    """A classifier, images and methods. folder: where chunks are kept. darkroom: where the images are field guide birds
    that are seen whole, which can be drawn again without a part."""

    subject: Subject
    gallery: Gallery
    methods: list[str]
    folder: Path
    darkroom: Darkroom | None = None
    seed: int = 0
    threshold: float = 0.2

    def maps(self, title: str, numbers: Sequence[int], methods: Sequence[str], size: int, perturbs: bool) -> Arrays:
        """Maps and scores of images, `size` a chunk. Raises UserError naming an image whose logits are not finite."""
        gallery = self.gallery
        examiner = Examiner(
            self.subject, methods, gallery.entries, gallery.placements, self.seed, self.threshold, perturbs,
            self.darkroom.guide if self.darkroom else None, self._oracle if self.darkroom else None,
            self._oracle_versus if self.darkroom else None,
        )  # fmt: skip
        rows = in_chunks(
            self.folder / title, numbers, size, gallery.load, examiner, seed=self.seed, title=f"{title} of images"
        )  # fmt: skip
        if not rows["finite"].all():
            key = gallery.entries[int(rows["entries"][~rows["finite"]][0])].key
            raise UserError(f"the classifier's outputs are not finite, first for '{key}'; look at the weights file")
        for name in methods:
            check_empty(name, self.subject, rows[f"{name}/empty"] > 0)
        return rows

    def boxes(self, gallery: Gallery, method: str) -> Arrays:
        """Boxes cut from the maps of all images of a gallery: entries (N,), box (N, 5), the last its score."""
        explain = explainer(method, self.subject, self.seed)

        def work(batch: Any) -> Arrays:
            inputs, entries = self.subject.normalise(batch.images), batch.entries.tolist()
            maps = explain(inputs, self.subject.logits(inputs).argmax(1), entries)
            check_finite(method, self.subject, maps)
            boxes = [scored_box(map_, self.threshold) for map_ in maps.numpy()]
            return {"entries": np.array(entries), "box": np.stack(boxes)}

        numbers = list(gallery.entries)
        found = in_chunks(
            self.folder / "boxes", numbers, CHUNK, gallery.load, work, seed=self.seed, title=f"boxes by {method}"
        )  # fmt: skip
        check_empty(method, self.subject, found["box"][:, 2] <= found["box"][:, 0])
        return found

    def randomised(self, numbers: Sequence[int]) -> Arrays:
        """As `sanity`, of all methods but slow ones."""
        images = self.gallery.images(numbers[:SETTLED])
        subjects = [self.subject, *(randomised(self.subject, share, self.seed, images) for share in SHARES)]
        names = [name for name in self.methods if name not in (*SLOW, "oracle")]

        def work(batch: Any) -> Arrays:
            inputs = self.subject.normalise(batch.images)
            classes, entries = self.subject.logits(inputs).argmax(1), batch.entries.tolist()
            found: Arrays = {}
            for name in names:
                found |= sanity(name, subjects, inputs, classes, entries)
            return found

        return in_chunks(
            self.folder / "sanity", numbers, FEW, self.gallery.load, work, seed=self.seed, title="randomised weights"
        )  # fmt: skip

    def redrawn(self, numbers: Sequence[int], more: Sequence[int]) -> tuple[Arrays, Arrays, Arrays]:
        """FunnyBirds' protocol: on birds that thresholds are chosen by, on these images, and contrastivity on those of
        more images that have a pair of classes for it, which few have."""
        darkroom = self.darkroom
        assert darkroom is not None
        methods = {
            name: explainer(name, self.subject, self.seed) for name in self.methods if name not in (*SLOW, "oracle")
        }
        aside = validation_birds(len(darkroom.guide.species), EACH)[: len(numbers)]
        chosen = {ASIDE + place: bird for place, bird in enumerate(aside)}
        measured = {number: darkroom.guide.bird(self.gallery.entries[number]) for number in numbers}

        guide, others = darkroom.guide, sorted(set(more) - set(numbers))
        birds = {number: guide.bird(self.gallery.entries[number]) for number in others}
        paired = {
            number: bird
            for number, bird in birds.items()
            if candidate_pairs(guide, bird.label, guide.part_regions(bird))
        }

        def rows(title: str, birds: dict[int, Bird], pairs: bool = False) -> Arrays:
            return in_chunks(
                self.folder / title, list(birds), FEW, iter, seed=self.seed, title=title,
                work=lambda part: protocol_rows(darkroom, methods, [birds[number] for number in part], part, pairs),
            )  # fmt: skip

        return rows("validation birds", chosen), rows("birds", measured), rows("pairs", paired, True)

    def _oracle(self, inputs: Tensor, classes: Tensor, numbers: list[int]) -> Tensor:
        """The oracle as a method."""
        labels = classes.tolist()
        return torch.stack([oracle_map(self._shot(at), label) for at, label in zip(numbers, labels, strict=True)])

    def _oracle_versus(self, inputs: Tensor, classes: Tensor, others: Tensor, numbers: list[int]) -> Tensor:
        """The oracle of a class against another."""
        pairs = zip(numbers, classes.tolist(), others.tolist(), strict=True)
        return torch.stack([oracle_map(self._shot(at), label, other) for at, label, other in pairs])

    def _shot(self, number: int) -> Scored:
        assert self.darkroom is not None
        return self.darkroom.score(self.darkroom.guide.bird(self.gallery.entries[number]))
