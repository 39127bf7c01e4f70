"""What a classifier's run starts from, checked: weights that know the answers, networks that see enlarged images."""

from collections.abc import Sequence

from fgvc.classification.seen import records_of_start, seen_images
from fgvc.models.config import ModelConfig
from shards.errors import UserError
from shards.manifest import Manifest


def check_start(model: ModelConfig, manifest: Manifest, kept_out: Sequence[int]) -> None:
    """Raise UserError for weights that were trained on images which this run is measured on. Those that do not say
    pass: most weights are another program's."""
    named = {"model.weights": model.weights}
    named |= {f"model.also[{number}].weights": backbone.weights for number, backbone in enumerate(model.also)}
    for key, weights in named.items():
        if seen := seen_images({"trained_on": records_of_start(weights)}, manifest, kept_out):
            raise UserError(
                f"{key}={weights}: was trained on {seen} of the {len(set(kept_out))} images that this run keeps out; "
                "give weights that were trained on the same part of the data (the same data.folds and data.fold)"
            )


def check_enlarged(model: ModelConfig, size: int) -> None:
    """Raise UserError for a network beside others whose images would be enlarged from `size` pixels."""
    for number, backbone in enumerate(model.also):
        if backbone.size > size:
            raise UserError(
                f"model.also[{number}].size={backbone.size}: {backbone.name} would see images of {size} px, enlarged"
                f"; set image.size={backbone.size}"
            )
