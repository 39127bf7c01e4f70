"""Explain a trained classifier and score the explanations: the work of `fgvc explain`."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fgvc.explanation.birds import Darkroom, open_guide
from fgvc.explanation.config import ALWAYS, BASELINES, SLOW
from fgvc.explanation.examination import CHUNK, FEW, Examination, Found
from fgvc.explanation.explainers import applicable, explainer
from fgvc.explanation.gallery import Gallery, of_photos, of_shards, photo_files
from fgvc.explanation.subject import Subject
from fgvc.models.record import read_classifier
from fgvc.models.timm import load_classifier
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.training.strategies.create import create_accelerator
from jobs.config import nearest
from jobs.explain import Config, check
from jobs.hashes import file_hash
from jobs.inputs import loader_workers, open_job
from jobs.tasks.explain_outputs import shown_method, write_outputs
from jobs.tasks.explain_tables import figures_of
from jobs.tasks.measured import Measured, drawn, open_measured
from shards.errors import UserError
from shards.paths import expand
from shards.reading.config import ImageConfig


@dataclass(frozen=True)
class Opened:
    """What is explained: numbers are of images in the gallery. measured: None for photos."""

    about: dict[str, Any]
    gallery: Gallery
    numbers: list[int]
    subject: Subject
    inputs: dict[str, str]
    measured: Measured | None = None
    darkroom: Darkroom | None = None

    def everything(self, config: Config) -> Gallery:
        """All images of the shards: what a boxes layer is of."""
        assert self.measured is not None
        return _gallery(self.measured, range(len(self.measured.manifest.entries)), loader_workers(config.data))


def run(config: Config) -> dict[str, Any]:
    """Explain, score, draw; what result.json holds. Raises UserError for unfit weights, classes, methods or images."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator("fp32", deterministic=True)
    opened = _open(config, accelerator.device)
    classes = opened.about["classes"]
    for name in config.pair:
        if name not in classes:
            raise UserError(f"pair: {name!a}: no such class{nearest(name, classes)}")
    methods = _methods(config, opened)
    with open_job("explain", config, opened.inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        found = _examine(config, opened, methods, folder)
        figures: dict[str, Any] = {}
        if rank() == 0:
            split = "photos" if config.photos else config.split
            figures = {split: figures_of(found, classes, shown_method(config, methods))} | (
                opened.measured.marks if opened.measured else {}
            )
            write_outputs(config, opened, found, figures[split], folder)
            figures = finish(folder, figures, opened.inputs, time.monotonic() - began)
            shutil.rmtree(folder.path / "chunks", ignore_errors=True)
        barrier()
        return figures


def _open(config: Config, device: torch.device) -> Opened:
    weights = expand(config.weights, "weights")
    model = read_classifier(weights)["model"]
    if model.get("covariance"):
        raise UserError(
            f"weights={config.weights}: classifies by its channels' covariance, which these measures are not made for; "
            "explain a probe with model.covariance=0, or look at maps: fgvc predict PICTURE --run RUN pictures=FOLDER"
        )
    if networks := model.get("backbones"):
        raise UserError(f"weights={config.weights}: an ensemble of {len(networks)} networks; explain one of them alone")
    if config.photos:
        about, files = read_classifier(weights), photo_files(expand(config.photos, "photos"))
        image = ImageConfig(eval_fit=about["fit"], eval_crop=about["eval_crop"], interpolation=about["interpolation"])
        gallery = of_photos(files, image, about["size"])
        inputs = {"weights": file_hash(config.weights, "weights")}
        inputs |= {f"photos.{file.name}": file_hash(str(file), "photos") for file in files}
        numbers = drawn(list(gallery.entries), config.images, config.seed)
        return Opened(about, gallery, numbers, Subject(load_classifier(weights)[0], about["size"], device), inputs)
    measured = open_measured(config)
    about, numbers = measured.about, drawn(measured.indices, config.images, config.seed)
    gallery = _gallery(measured, numbers, loader_workers(measured.data))
    subject, guide = Subject(load_classifier(weights)[0], about["size"], device), open_guide(measured.manifest)
    darkroom = Darkroom(guide, subject, measured.image) if guide and gallery.whole else None
    return Opened(about, gallery, numbers, subject, measured.inputs, measured, darkroom)


def _gallery(measured: Measured, numbers: Sequence[int], workers: int) -> Gallery:
    """Images of the shards as the classifier sees them; of whole+box the part that was cut out."""
    return of_shards(
        measured.manifest, numbers, measured.views(numbers)[-1], measured.image, measured.about["size"],
        cache=measured.data.cache, workers=workers,
    )  # fmt: skip


def _methods(config: Config, opened: Opened) -> list[str]:
    """Those that are named, or apply; then the baselines. Raises UserError for one that the network has nothing for."""
    for key, names in (("methods", config.methods), ("sheet", [config.sheet])):
        if "oracle" in names and not opened.darkroom:
            raise UserError(f"{key}=oracle: only for whole images of the field guide, which are drawn without a part")
    named = [name for name in (*config.methods, config.boxes_by, config.sheet) if name]
    for name in named:
        if name != "oracle":
            explainer(name, opened.subject)
    apply = applicable(opened.subject) if not config.methods else []
    chosen = [name for name in (*apply, *named) if name not in BASELINES and (config.slow_images or name not in SLOW)]
    return list(dict.fromkeys([*chosen, *ALWAYS, *(["oracle"] if opened.darkroom else [])]))


def _examine(config: Config, opened: Opened, methods: list[str], folder: RunFolder) -> Found:
    """Maps and scores, over all ranks."""
    numbers, seed = opened.numbers, config.seed
    work = Examination(
        opened.subject, opened.gallery, methods, folder.path / "chunks", opened.darkroom, seed, config.box_threshold
    )  # fmt: skip
    found = Found(methods, work.maps("maps", numbers, [name for name in methods if name not in SLOW], CHUNK, False))
    if config.slow_images:
        found.few = work.maps("few", drawn(numbers, config.slow_images, seed + 1), methods, FEW, True)
    if config.sanity_images:
        found.sanity = work.randomised(drawn(numbers, config.sanity_images, seed + 2))
    if config.boxes_by and opened.measured:
        found.boxes = work.boxes(opened.everything(config), config.boxes_by)
    if opened.darkroom and config.birds:
        chosen = drawn(numbers, config.birds, seed + 3)
        found.validation, found.birds, found.pairs = work.redrawn(chosen, numbers)
    return found
