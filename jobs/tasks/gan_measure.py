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
from fgvc.generation.measure import generated_features, known_views, real_features, real_key
from fgvc.generation.metrics import Described, compare, halves, memorised, nearest
from fgvc.generation.pictures import draw_pairs
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder
from jobs.gan import Config
from jobs.hashes import file_hash
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
            real = self._real(chosen, split).features
            labels = self.manifest.entries.label[chosen].tolist()
            folder = self.folder.features / f"generated-{split}-{step}"
            made, images = generated_features(
                folder, network, self.model, labels, self.features, config.measure, seed=config.seed,
                device=self.device, title=split,
            )  # fmt: skip
            found: dict[str, Any] = compare(made.features, real)
            found |= {"count": len(chosen), "features": config.measure.features, "title": feature_title(config.measure)}
            if split == "train" and whole:
                found |= halves(made.features, real, config.seed)
                known = self._real(self.sets[split], "views of training images", views=True)
                found |= self._copies(made, known)
                if rank() == 0:
                    pictures["nearest"] = self._pairs(images, made, known)
            figures[split] = found
            barrier()  # all have read it
            if rank() == 0 and not keep:
                shutil.rmtree(folder, ignore_errors=True)
        return figures, pictures

    def _copies(self, made: Described, known: Described) -> dict[str, float]:
        """known: of all training images, as many as they are: those that are not measured were learnt from as well."""
        rows = len(self.sets["train"])
        own = Described(*(values[:rows] for values in known))
        among = memorised(own, known, rows, leave_out_self=True)
        return {"memorised": float(memorised(made, known, rows).mean()), "memorised_floor": float(among.mean())}

    def _real(self, chosen: list[int], title: str, *, views: bool = False) -> Described:
        config, weights = self.config, file_hash(self.config.measure.weights, "measure.weights")
        key = real_key(self.manifest, chosen, self.view, config.image, self.model.size, config.measure, weights, views)
        home = expand(config.measure.cache, "measure.cache") if config.measure.cache else self.folder.features
        return real_features(
            home / key, self.features, self.manifest, chosen, self.view, config.image, self.model.size, config.measure,
            device=self.device, workers=self.workers, views=views, title=title,
        )  # fmt: skip

    def _pairs(self, images: Any, made: Described, known: Described) -> Path:
        """The generated images that are nearest to a view of a training image, above it."""
        train = self.sets["train"]
        found = nearest(made.features, known.features, len(train))
        closest = found.ratio.argsort()[:PAIRS]
        samples = Samples(self.manifest, known_views(self.config.image, self.model.size), [self.view])
        places = [divmod(int(found.index[i]), len(train)) for i in closest]  # view, image
        theirs = [samples[-1, train[image]][0][view] for view, image in places]
        path = self.folder.path / "nearest.png"
        draw_pairs(path, torch.from_numpy(images[closest]), torch.stack(theirs))
        return path
