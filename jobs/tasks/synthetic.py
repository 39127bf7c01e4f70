"""Synthetic images for a classifier's run, opened: refused where they give away what the run holds out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgvc.classification.seen import seen_images
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import SyntheticConfig
from shards.reading.loader import Samples
from shards.reading.synthetic import OTHER_SEED, Blend, BlendedSamples, open_blend
from shards.reading.transforms import ByEpoch, Transform
from shards.remote import open_manifest


@dataclass(frozen=True)
class Synthetic:
    """trained_on: which real images made them (fgvc/classification/seen.py)."""

    manifest: Manifest
    blend: Blend
    trained_on: list[Any]

    def samples(self, real: Samples, transform: Transform | ByEpoch, cache: str) -> BlendedSamples:
        """Real and synthetic samples in one, the latter whole: they were cut out before they were learnt from."""
        synthetic = Samples(self.manifest, transform, cache=cache, seed=self.blend.seed + OTHER_SEED)
        return BlendedSamples(real, synthetic, self.blend)


def open_synthetic(
    config: SyntheticConfig, real: Manifest, train: Sequence[int], kept_out: Sequence[int], seed: int, cache: str = ""
) -> Synthetic | None:
    """None without synthetic images. kept_out: real images that nothing may be learnt from.

    Raises UserError for images whose generator, or the classifier that chose them, has seen any of those, or does not
    say what it has seen; and as `open_blend` does.
    """
    if not config.shards:
        return None
    manifest = open_manifest(config.shards, "synthetic.shards", cache, compare=False)
    photos = [code for code, origin in enumerate(manifest.entries.origins) if not origin.startswith("gan:")]
    if real_ones := int(np.isin(manifest.entries.origin, photos).sum()):
        raise UserError(f"synthetic.shards={config.shards}: {real_ones} real images; give what fgvc synthesize made")
    records = manifest.extra.get("trained_on")
    seen = seen_images({"trained_on": records}, real, kept_out)
    if seen is None and kept_out:
        raise UserError(
            f"synthetic.shards={config.shards}: which images of {real.folder} they were made from is unknown "
            "(other shards, or a classifier without a record chose them); make them again from these"
        )
    if seen:
        raise UserError(
            f"synthetic.shards={config.shards}: made from {seen} of the {len(set(kept_out))} images that this run "
            "holds out; train the generator (and the classifier that chooses) with this data.folds and data.fold"
        )
    return Synthetic(manifest, open_blend(config, manifest, real, train, seed), list(records or []))
