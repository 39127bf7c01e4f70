"""What a GAN makes, compared with the real images of every split."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgvc.generation.config import GanModelConfig
from fgvc.generation.features import feature_title
from fgvc.generation.measure import eval_image, generated_features, real_features, real_key
from fgvc.generation.metrics import Described, compare, floor, memorised, nearest
from fgvc.generation.pictures import draw_pairs
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder
from jobs.gan import Config
from jobs.inputs import file_hash
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.loader import Samples
from shards.reading.splits import limited
from shards.reading.views import View

PAIRS = 16  # generated images beside their nearest training images


@dataclass(frozen=True)
class Compared:
    """The real images of a run. sets: split -> positions in the manifest. features: the network that images are
    compared by, opened where a mistake in it costs no training."""

    config: Config
    model: GanModelConfig
    manifest: Manifest
    sets: dict[str, list[int]]
    features: nn.Module
    view: View
    folder: RunFolder
    device: torch.device
    workers: int

    def measure(
        self, network: nn.Module, step: int, splits: Sequence[str], *, whole: bool = False, keep: bool = False
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """Figures of these splits, of those that there are. whole: the floor, copies of training images and pictures
        of them too. keep: what is made at this step is asked for once more."""
        config, pictures, figures = self.config, dict[str, Path](), dict[str, Any]()
        for split in (name for name in splits if name in self.sets):
            chosen = limited(self.sets[split], config.measure.images)
            real = self._real(chosen, split)
            labels = self.manifest.entries.label[chosen].tolist()
            folder = self.folder.features / f"generated-{split}-{step}"
            made, images = generated_features(
                folder, network, self.model, labels, self.features, config.measure, seed=config.seed,
                device=self.device, title=split,
            )  # fmt: skip
            found: dict[str, Any] = compare(made.features, real.features[: len(chosen)])
            found |= {"count": len(chosen), "features": config.measure.features, "title": feature_title(config.measure)}
            if split == "train" and whole:
                found["floor"] = floor(real.features[: len(chosen)], config.seed)
                found["memorised"] = float(memorised(made, real, len(chosen)).mean())
                own = Described(*(values[: len(chosen)] for values in real))
                found["memorised_floor"] = float(memorised(own, real, len(chosen), leave_out_self=True).mean())
                if rank() == 0:
                    pictures["nearest"] = self._pairs(images, made, real, chosen)
            figures[split] = found
            barrier()  # all have read it
            if rank() == 0 and not keep:
                shutil.rmtree(folder, ignore_errors=True)
        return figures, pictures

    def _real(self, chosen: list[int], split: str) -> Any:
        """Of training images their mirror images' features, too: a copy of one is no new image."""
        mirrored = split == "train"
        config, weights = self.config, file_hash(self.config.measure.weights, "measure.weights")
        key = real_key(
            self.manifest, chosen, self.view, config.image, self.model.size, config.measure, weights, mirrored
        )
        home = expand(config.measure.cache, "measure.cache") if config.measure.cache else self.folder.features
        return real_features(
            home / key, self.features, self.manifest, chosen, self.view, config.image, self.model.size, config.measure,
            device=self.device, workers=self.workers, mirrored=mirrored, title=split,
        )  # fmt: skip

    def _pairs(self, images: Any, made: Any, real: Any, chosen: list[int]) -> Path:
        """The generated images that are nearest to a training image, above it."""
        found = nearest(made.features, real.features, len(chosen))
        closest = found.ratio.argsort()[:PAIRS]
        samples = Samples(self.manifest, eval_image(self.config.image, self.model.size), [self.view])
        theirs = [samples[-1, chosen[found.index[i] % len(chosen)]][0] for i in closest]
        theirs = [one.flip(2) if found.index[i] >= len(chosen) else one for one, i in zip(theirs, closest, strict=True)]
        path = self.folder.path / "nearest.png"
        draw_pairs(path, torch.from_numpy(images[closest]), torch.stack(theirs))
        return path
