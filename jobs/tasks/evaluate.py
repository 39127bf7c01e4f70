"""Measure a trained classifier: the work of `fgvc evaluate`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from fgvc.classification.evaluation import evaluate_split
from fgvc.classification.listed import read_listed
from fgvc.classification.metrics import Predictions, summary
from fgvc.classification.results import save_results
from fgvc.classification.seen import seen_images
from fgvc.models.record import read_classifier
from fgvc.models.timm import load_classifier
from fgvc.runtime.distributed import rank
from fgvc.runtime.run_folder import finish
from fgvc.training.strategies.create import create_accelerator
from jobs.evaluate import Config, check
from jobs.inputs import boxes_hashes, file_hash, loader_workers, open_job, open_shards
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.splits import limited, open_splits
from shards.reading.views import View, eval_policy, open_views, without_box


def run(config: Config) -> dict[str, Any]:
    """Evaluate and write the run folder. Raises UserError for unfit weights, other classes, missing splits."""
    began = time.monotonic()
    check(config)
    inputs = {"weights": file_hash(config.weights, "weights")}
    accelerator = create_accelerator(config.precision, deterministic=False)
    manifest = open_shards(config.data)
    inputs["shards"] = manifest.fingerprint
    about = read_classifier(expand(config.weights, "weights"))
    _check_classes(config, about, manifest)
    data = _data_as_measured(config, about)
    inputs |= boxes_hashes(data)
    if config.exclude:
        inputs["exclude"] = file_hash(config.exclude, "exclude")
    with open_job("evaluate", config, inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        indices = _indices(config, manifest)
        listed = read_listed(expand(config.exclude, "exclude"), manifest) if config.exclude else None
        marks = _seen(config, about, manifest, indices)
        policy = eval_policy(data)
        views = open_views(policy, manifest, indices)
        predictions = _predictions(config, manifest, data, indices, views, accelerator)
        measured = summary(predictions, manifest.classes, about.get("temperature"), listed)
        figures: dict[str, Any] = {config.split: measured} | marks
        if policy.uses_boxes:
            missing = without_box(policy, views, indices)
            figures["crops"] = {config.split: {"images": len(indices), "without_box": missing}}
        if rank() == 0:
            save_results(folder.path, "", manifest, predictions, about.get("temperature"))
            return finish(folder, figures, inputs, time.monotonic() - began)
        return figures


def _check_classes(config: Config, about: dict[str, Any], manifest: Manifest) -> None:
    """Raise UserError for shards of other classes than the weights were trained for."""
    trained, here = about["classes"], manifest.classes
    if tuple(trained) == here:
        return
    pairs = enumerate(zip(trained, here, strict=False), start=1)
    first = next((f": class {i} is {there!a} there, {ours!r} here" for i, (there, ours) in pairs if there != ours), "")
    raise UserError(
        f"weights={config.weights}: trained for {len(trained)} classes, {manifest.folder} has {len(here)}{first}; give "
        "shards of the classes that these weights were trained for"
    )


def _seen(config: Config, about: dict[str, Any], manifest: Manifest, indices: list[int]) -> dict[str, Any]:
    """What result.json says of images that the weights were trained on: whether any, and how many; null: not known.

    Raises UserError when there are any and `seen` does not ask for them.
    """
    count = seen_images(about, manifest, indices)
    if count and not config.seen:
        raise UserError(
            f"split={config.split}: the weights were trained on {count} of these {len(indices)} images; measure others "
            "(split=test, or a fold held out of their training), or set seen=true to measure these all the same"
        )
    return {"seen": None if count is None else count > 0, "seen_images": count}


def _data_as_measured(config: Config, about: dict[str, Any]) -> DataConfig:
    """The data config with the crops that the weights were measured with; the boxes are those of these shards."""
    boxes = config.data.test_boxes or config.data.boxes
    if about["crop"] != "whole" and about.get("boxes") == "layer" and boxes == "truth" and not config.data.test_boxes:
        raise UserError(
            f"weights={config.weights}: measured on crops by a detector's boxes; give data.boxes=FILE, a boxes layer "
            "of these shards (fgvc crop makes one), or data.test_boxes=truth to crop by the truth all the same"
        )
    return replace(
        config.data, crop=about["crop"], margin=about["margin"], boxes=boxes, min_score=about.get("min_score", 0.0),
        test_crop=None, test_margin=None, test_boxes="", test_min_score=None,
    )  # fmt: skip


def _predictions(
    config: Config, manifest: Manifest, data: DataConfig, indices: list[int], views: Sequence[View],
    accelerator: Accelerator,
) -> Predictions:  # fmt: skip
    """Rebuild the model as the file says and run it over the images."""
    model, about = load_classifier(expand(config.weights, "weights"))
    image = ImageConfig(
        eval_fit=about["fit"], crop_fit=about.get("crop_fit"), eval_crop=config.eval_crop or about["eval_crop"],
        eval_flip=about["eval_flip"] if config.flip is None else config.flip, interpolation=about["interpolation"],
    )  # fmt: skip
    return evaluate_split(
        model.to(accelerator.device), manifest, indices, data, image, config.size or about["size"], views=views,
        device=accelerator.device, precision=config.precision, workers=loader_workers(data),
        batch=config.batch,
    )  # fmt: skip


def _indices(config: Config, manifest: Manifest) -> list[int]:
    """Positions in the manifest of what is measured."""
    if config.split != "held_out":
        return limited(manifest.split(config.split), config.data.limit)
    indices = open_splits(manifest, config.data).held_out
    if not indices:
        raise UserError("split=held_out: name the fold too, such as data.folds=5 data.fold=0")
    return indices
