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
from fgvc.models.timm import load_classifier
from fgvc.runtime.distributed import rank
from fgvc.runtime.run_folder import finish
from fgvc.training.strategies.create import create_accelerator
from jobs.checks import check_five_crops
from jobs.evaluate import Config, check
from jobs.hashes import file_hash
from jobs.inputs import check_forward, loader_workers, open_job
from jobs.tasks.measured import Measured, open_measured
from shards.paths import expand
from shards.reading.config import ImageConfig
from shards.reading.views import View


def run(config: Config) -> dict[str, Any]:
    """Evaluate and write the run folder. Raises UserError for unfit weights, other classes, missing splits."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator(config.precision, deterministic=False)
    measured = open_measured(config)
    manifest, temperature, inputs = measured.manifest, measured.about.get("temperature"), measured.inputs
    if config.exclude:
        inputs["exclude"] = file_hash(config.exclude, "exclude")
    image = _image(config, measured)
    check_five_crops(image, measured.data.crop, key="crops")
    with open_job("evaluate", config, inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        listed = read_listed(expand(config.exclude, "exclude"), manifest) if config.exclude else None
        views = measured.views()
        predictions = _predictions(config, measured, image, views, accelerator)
        figures = {config.split: summary(predictions, manifest.classes, temperature, listed)} | measured.marks
        figures |= measured.crops(views, config.split)
        seen = len(views) * image.eval_crops
        figures |= {"views": seen} if seen > 1 else {}
        if rank() == 0:
            save_results(folder.path, "", manifest, predictions, temperature)
            return finish(folder, figures, inputs, time.monotonic() - began)
        return figures


def _image(config: Config, measured: Measured) -> ImageConfig:
    """How images become the model's input: as the weights file says, and as this run asks instead."""
    image = measured.image
    return replace(
        image, eval_crop=config.eval_crop or image.eval_crop,
        eval_flip=image.eval_flip if config.flip is None else config.flip,
        eval_crops=config.crops or image.eval_crops,
    )  # fmt: skip


def _predictions(
    config: Config, measured: Measured, image: ImageConfig, views: Sequence[View], accelerator: Accelerator
) -> Predictions:  # fmt: skip
    """Rebuild the model as the file says and run it over the images."""
    model, about = load_classifier(expand(config.weights, "weights"))
    if config.size:
        check_forward(model.model, about["model"]["name"], config.size, key="size", advice="choose another size")
    return evaluate_split(
        model.to(accelerator.device), measured.manifest, measured.indices, measured.data, image,
        config.size or about["size"], views=views, device=accelerator.device, precision=config.precision,
        workers=loader_workers(measured.data), batch=config.batch,
    )  # fmt: skip
