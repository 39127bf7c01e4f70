"""What a classifier's run starts from: the files it reads, what these were trained on, and whether they fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from fgvc.classification.calibration import held_out_answers
from fgvc.classification.seen import records_of_start, seen_images
from fgvc.models.config import ModelConfig
from jobs.classify import Config
from jobs.hashes import file_hash
from jobs.inputs import boxes_hashes
from shards.errors import UserError
from shards.manifest import Manifest
from shards.remote import open_manifest


def input_hashes(config: Config) -> dict[str, str]:
    """The hash of every file that decides about a run's result, by what it is. Raises UserError for a missing one."""
    inputs = {"weights": file_hash(config.model.weights, "model.weights")} | boxes_hashes(config.data)
    for number, backbone in enumerate(config.model.also):
        inputs[f"also.{number}"] = file_hash(backbone.weights, f"model.also.{number}.weights")
    if config.exclude:
        inputs["exclude"] = file_hash(config.exclude, "exclude")
    if config.defence.teacher:
        inputs["teacher"] = file_hash(config.defence.teacher, "defence.teacher")
    if config.train.teacher:
        inputs["teacher"] = file_hash(config.train.teacher, "train.teacher")
    if config.synthetic.shards:
        inputs["synthetic"] = open_manifest(config.synthetic.shards, "synthetic.shards", config.data.cache).fingerprint
    if run := config.train.temperature_from:
        inputs["temperature_from"] = file_hash(str(held_out_answers(run)), "train.temperature_from")
    return inputs


def records_of_inputs(config: Config) -> list[dict[str, Any] | None]:
    """What the weights that a run begins with or learns from were trained on; None for a file that does not say."""
    files = [config.model.weights, *(backbone.weights for backbone in config.model.also)]
    return [
        record for file in (*files, config.train.teacher, config.defence.teacher) for record in records_of_start(file)
    ]


def check_start(model: ModelConfig, manifest: Manifest, kept_out: Sequence[int]) -> None:
    """Raise UserError for weights that were trained on images which this run is measured on. Those that do not say
    pass: most weights are another program's."""
    named = {"model.weights": model.weights}
    named |= {f"model.also[{number}].weights": backbone.weights for number, backbone in enumerate(model.also)}
    check_unseen(named, manifest, kept_out)


def check_unseen(named: Mapping[str, str], manifest: Manifest, kept_out: Sequence[int]) -> None:
    """As `check_start`, of weights by the setting that names them."""
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
