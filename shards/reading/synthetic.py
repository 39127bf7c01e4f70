"""Synthetic images among real ones in training: which places of each step's batch they take, and which ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import SyntheticConfig
from shards.reading.loader import Samples
from shards.reading.order import random_stream

SYNTHETIC = 100  # stream of random numbers (shards/reading/order.py has the others)
OTHER_SEED = 1 << 40  # added to the seed of their transforms: entry 7 of these is not entry 7 of the real ones


@dataclass(frozen=True)
class Blend:
    """A share of every batch's places goes to synthetic images: a pure function of the step and the seed, so that it is
    the same for any number of ranks and after any kill. The number of steps stays what it is without them.

    offset: number of the first synthetic image; real ones come before. labels: (M,) of the synthetic images, as the
    real ones count them. weights: (classes,) how often a class is taken; None: all images in turns.
    """

    offset: int
    labels: np.ndarray
    share: float
    weights: np.ndarray | None
    seed: int

    def blend(self, batch: Sequence[tuple[int, int]], step: int) -> list[tuple[int, int]]:
        """The batch (epoch, entry) of a step, some of its places taken by synthetic images."""
        before, count = (int(at * len(batch) * self.share) for at in (step, step + 1))
        count -= before
        random = random_stream(self.seed, SYNTHETIC, step)
        places = random.choice(len(batch), count, replace=False)
        mixed = list(batch)
        for place, entry in zip(places.tolist(), self._taken(before, count, random), strict=True):
            mixed[place] = (mixed[place][0], self.offset + entry)
        return mixed

    def _taken(self, before: int, count: int, random: np.random.Generator) -> list[int]:
        if self.weights is not None:
            classes = random.choice(len(self.weights), count, p=self.weights)
            return [int(random.choice(np.flatnonzero(self.labels == label))) for label in classes]
        images = len(self.labels)
        turns = [divmod(number, images) for number in range(before, before + count)]
        orders = {turn: random_stream(self.seed, SYNTHETIC, turn, 1).permutation(images) for turn, _ in turns}
        return [int(orders[turn][place]) for turn, place in turns]


class BlendedSamples(Dataset):
    """Real samples below a blend's offset, synthetic ones from there on."""

    def __init__(self, real: Samples, synthetic: Samples, blend: Blend) -> None:
        self.real, self.synthetic, self.offset, self.labels = real, synthetic, blend.offset, blend.labels

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, int, int, int]:
        epoch, index = place
        if index < self.offset:
            return self.real[place]
        image, _, number, _ = self.synthetic[epoch, index - self.offset]
        return image, int(self.labels[number]), index, epoch


def open_blend(config: SyntheticConfig, synthetic: Manifest, real: Manifest, train: Sequence[int], seed: int) -> Blend:
    """Raises UserError for synthetic images of other classes, or of none of those that need some."""
    if strangers := set(synthetic.classes) - set(real.classes):
        raise UserError(f"synthetic.shards={config.shards}: {real.folder} has no class '{min(strangers)}'")
    numbers = np.array([real.classes.index(name) for name in synthetic.classes])  # not of every class, perhaps
    labels = numbers[synthetic.entries.label]
    weights = None
    if config.classes != "all":
        counts = np.bincount(real.entries.label[np.asarray(train)], minlength=len(real.classes))
        missing = np.maximum(counts.max() - counts, 0).astype(float)
        if config.classes == "rare":
            missing = (counts < counts.mean()).astype(float)
        missing[np.setdiff1d(np.arange(len(counts)), labels)] = 0
        if not missing.any():
            raise UserError(
                f"synthetic.classes={config.classes}: no class of {real.folder} is rarer than others and has synthetic "
                "images; take synthetic.classes=all"
            )
        weights = missing / missing.sum()
    return Blend(len(real.entries), labels, config.ratio / (1 + config.ratio), weights, seed)
